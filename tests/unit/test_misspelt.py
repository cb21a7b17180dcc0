"""Misspelt settings: near names are told, all others are left alone, and no value is looked at."""

import re
from pathlib import Path

import pytest

from client import misspelt, verbs
from client.cli import main
from tests.fakes import API_KEY, API_SECRET

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("EXOSCALE_MAX_HOURLY_COSTS", "EXOSCALE_MAX_HOURLY_COST"),
        ("EXOSCALE_MAX_HOURLYCOST", "EXOSCALE_MAX_HOURLY_COST"),
        ("EXOSCALE_MAX_COST", "EXOSCALE_MAX_HOURLY_COST"),
        ("EXOLLAMA_MAX_HOURLY_COST", "EXOSCALE_MAX_HOURLY_COST"),
        ("EXOSCALE_max_hourly_cost", "EXOSCALE_MAX_HOURLY_COST"),
        ("EXOSCALE_IDLE_TIMOUT", "EXOSCALE_IDLE_TIMEOUT"),
        ("EXOSCALE_ALLOWED_CIDR", "EXOSCALE_ALLOWED_CIDRS"),
        ("EXOSCALE_SERVE_TOKEN", "EXOLLAMA_SERVE_TOKEN"),
        ("EXOSCALE_API_KEY", None),
        ("EXOSCALE_API_KEY_STAGING", None),
        ("EXOSCALE_API_ENVIRONMENT", None),
        ("EXOSCALE_API_TIMEOUT", None),
        ("EXOSCALE_SECRET_KEY", None),
        ("EXOSCALE_STORAGE_API_ENDPOINT", None),
        ("EXOSCALE_CONFIG", None),
        ("EXOLLAMA_SERVICE_HOST", None),
        ("EXOLLAMA_SERVICE_PORT", None),
        ("EXOLLAMA_PORT_11434_TCP_ADDR", None),
        ("EXOLLAMA_SOMETHING_ELSE", None),
        ("EXOSCALE_ZONES\x1b[2J", None),
        ("MY_EXOSCALE_IDLE_TIMOUT", None),
    ],
)
def test_a_name_near_a_setting_is_told_with_the_setting_and_no_other(name: str, meant: str | None) -> None:
    told = [f"Warning: nothing reads {name}. Is {meant} meant?"] if meant else []
    assert list(misspelt.warnings([name, "PATH"])) == told


def test_what_is_known_is_what_the_table_of_the_settings_has() -> None:
    table = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`((?:EXOSCALE|EXOLLAMA)_[A-Z_]+)`", table)) == misspelt.KNOWN


def test_of_no_variable_that_the_project_itself_uses_anywhere_it_is_said_that_nothing_reads_it() -> None:
    files = [path for folder in ("client", "functions", "deploy", "docs") for path in (ROOT / folder).rglob("*")]
    binary = {".pyc", ".png"}
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file() and path.suffix not in binary]
    names = {name for text in texts for name in re.findall(r"\b(?:EXOSCALE|EXOLLAMA)_[A-Z_]*[A-Z]\b", text)}
    assert len(names) > len(misspelt.KNOWN)
    assert list(misspelt.warnings(names)) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["status"], True),
        (["reap"], True),
        (["doctor"], True),
        (["reap", "--quiet"], False),
        (["status", "--check"], False),
    ],
)
def test_each_verb_tells_it_on_stderr_but_those_whose_every_word_cron_mails(
    words: list[str], told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verbs, "_VERBS", {words[0]: lambda *_: 0})
    for name, value in (("EXOSCALE_API_KEY", API_KEY), ("EXOSCALE_API_SECRET", API_SECRET)):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EXOSCALE_MAX_HOURLY_COTS", "hush")
    assert main(words) == 0
    out, err = capsys.readouterr()
    said = "exollama: Warning: nothing reads EXOSCALE_MAX_HOURLY_COTS. Is EXOSCALE_MAX_HOURLY_COST meant?\n"
    assert (out, err) == ("", said if told else "")
