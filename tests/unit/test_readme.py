"""README.md says what the code does: help texts, settings with their defaults, exit codes."""

from __future__ import annotations

import re

import pytest

from client import cli
from client.settings import Settings
from tests.fakes import settings_read
from tests.readme import README, generated

TEXT = README.read_text()
ROWS = dict(re.findall(r"^\| `(EXOSCALE_[A-Z_]+)`[^|]*\| ([^|]+) \|", TEXT, re.MULTILINE))
REQUIRED = {"EXOSCALE_API_KEY": "EXOexample", "EXOSCALE_API_SECRET": "example-secret"}


def test_the_help_texts_in_the_readme_are_those_of_the_code() -> None:
    assert generated(TEXT).split() == TEXT.split(), "run: python -m tests.readme"


def test_every_setting_that_is_read_stands_in_the_readme_and_no_other() -> None:
    asked = settings_read()
    documented = set(re.findall(r"`((?:EXOSCALE|GARUDA)_[A-Z_]+)`", TEXT))
    assert asked - documented == {"EXOLLAMA_KEY_MARK"}, "no setting: provision hands it out"
    assert documented <= asked
    assert "`EXOLLAMA_KEY_MARK`" in TEXT


@pytest.mark.parametrize("variable", sorted(ROWS))
def test_a_default_in_the_readme_is_the_default(variable: str) -> None:
    default = ROWS[variable].strip("`")
    if default in ("required", "every zone", "smallest that fits", "generated", "none"):
        return
    assert Settings.from_env({**REQUIRED, variable: default}) == Settings.from_env(REQUIRED)


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "130, 143"])
def test_the_exit_codes_of_help_and_readme_are_the_same(code: str) -> None:
    assert re.search(rf"^  {code}  ", cli.EXIT_CODES, re.MULTILINE)
    assert f"| {code} | " in TEXT
