"""A headless Chromium, driven by Playwright: this machine's, or where there is none one that Playwright downloads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, expect, sync_playwright

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
PATIENCE_MS = 20_000
"""How long a page may take to show what is expected of it: some of that is a boot's, or the next look's."""
DOWNLOAD = [sys.executable, "-m", "playwright", "install", "--only-shell", "chromium"]


def chromium() -> str | None:
    """Where it is: EXOLLAMA_CHROMIUM, else the first of NAMES on PATH; None for Playwright's own, downloaded once.

    Raises RuntimeError, saying what to do.
    """
    named = os.environ.get("EXOLLAMA_CHROMIUM")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if found:
        return found
    what = f"EXOLLAMA_CHROMIUM is {named!r}, and no program"
    if not named:
        download = subprocess.run(DOWNLOAD, capture_output=True, text=True, timeout=100, check=False)
        if download.returncode == 0:
            return None
        said = (download.stderr or download.stdout).strip().splitlines() or ["it does not say why"]
        why = next((line for line in said if "Error:" in line), said[-1]).strip()
        what = f"none of {', '.join(NAMES)} is on PATH, and Playwright's own cannot be had ({why})"
    raise RuntimeError(
        f"No Chromium to test the page in: {what}. On Debian: apt-get install chromium-headless-shell; elsewhere set "
        "EXOLLAMA_CHROMIUM to the path of a Chromium or Chrome."
    )


@contextmanager
def browser() -> Iterator[Browser]:
    """One that runs for as long as the block takes. Meanwhile this thread has a running loop."""
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # root has none to offer
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=chromium(), args=sandbox)
        try:
            yield one
        finally:
            one.close()


class Sheet:
    """A page of a browser's, with what it asked for and what it complained about."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self._context = browser.new_context(**options)
        self._context.set_default_timeout(PATIENCE_MS)
        self.page = self._context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))

    def close(self) -> None:
        """End it."""
        self._context.close()


@contextmanager
def sheet(browser: Browser, **options: Any) -> Iterator[Sheet]:
    """One with `options` as for Playwright's new_context, for as long as the block takes."""
    one = Sheet(browser, **options)
    try:
        yield one
    finally:
        one.close()
