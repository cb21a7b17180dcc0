"""The browser that the page is tested in: found, or told how to install it, and never done without."""

from pathlib import Path

import pytest

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
    if named:
        monkeypatch.setenv("EXOLLAMA_CHROMIUM", named)
    with pytest.raises(RuntimeError, match="apt-get install chromium-headless-shell") as told:
        chromium()
    assert (named or "none of chromium-headless-shell, chromium, google-chrome is on PATH") in str(told.value)
