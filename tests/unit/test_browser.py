"""The browser that the page is tested in: found, or told how to install it, and never done without."""

import sys
from pathlib import Path

import pytest

from tests import browser
from tests.browser import NAMES, chromium


def program(path: Path) -> str:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_the_one_that_is_named_wins_over_those_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {name: program(tmp_path / name) for name in reversed(NAMES)}
    monkeypatch.delenv("EXOLLAMA_CHROMIUM", raising=False)
    assert chromium() == found["chromium-headless-shell"]
    monkeypatch.setenv("EXOLLAMA_CHROMIUM", program(tmp_path / "another"))
    assert chromium() == str(tmp_path / "another")


@pytest.mark.parametrize("named", [None, "no-such-browser"])
def test_where_there_is_none_it_is_told_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("EXOLLAMA_CHROMIUM", raising=False)
    monkeypatch.setattr(browser, "DOWNLOAD", [sys.executable, "-c", "raise SystemExit('no way there')"])
    if named:
        monkeypatch.setenv("EXOLLAMA_CHROMIUM", named)
    with pytest.raises(RuntimeError, match="apt-get install chromium-headless-shell") as told:
        chromium()
    what = "none of chromium-headless-shell, chromium, google-chrome is on PATH, and Playwright's own cannot be had (no"
    assert (named or what) in str(told.value)


def test_where_this_machine_has_none_playwright_fetches_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("EXOLLAMA_CHROMIUM", raising=False)
    fetched = tmp_path / "fetched"
    monkeypatch.setattr(browser, "DOWNLOAD", [sys.executable, "-c", f"open({str(fetched)!r}, 'w').close()"])
    assert chromium() is None
    assert fetched.exists()
