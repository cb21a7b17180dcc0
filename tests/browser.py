"""A headless Chromium of this machine's, driven by Playwright, whose own download is not used."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")


def chromium() -> str:
    """Where it is: EXOLLAMA_CHROMIUM, else the first of NAMES on PATH. Raises RuntimeError, saying how to install it."""
    named = os.environ.get("EXOLLAMA_CHROMIUM")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        what = f"EXOLLAMA_CHROMIUM is {named!r}, and no program" if named else f"none of {', '.join(NAMES)} is on PATH"
        raise RuntimeError(
            f"No Chromium to test the page in: {what}. On Debian: apt-get install chromium-headless-shell; elsewhere "
            "set EXOLLAMA_CHROMIUM to the path of a Chromium or Chrome."
        )
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """One that runs for as long as the block takes. Meanwhile this thread has a running loop."""
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # root has none to offer
    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=chromium(), args=sandbox)
        try:
            yield one
        finally:
            one.close()
