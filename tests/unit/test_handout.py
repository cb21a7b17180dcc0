"""`provision --format`: what each format hands on and to whom, and what is refused before anything is created."""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import functions.provision
from client import cli
from client.endpoint import Endpoint
from client.errors import Unreachable
from client.settings import Secret, key_mark
from tests.fakes import API_KEY, API_SECRET, KEY

ID = "0e7bb6d5-4ac9-4c51-8b5c-b19f1a8b5b5e"
RESULT = {
    "id": ID,
    "name": "ci-7",
    "zone": "ch-gva-2",
    "state": "running",
    "phase": "ready",
    "url": "https://198.51.100.7:11435",
    "model": "granite3.1-dense:8b",
    "created": None,
    "deadline": None,
    "key": Secret(KEY),
}
WORDS = f"{RESULT['url']}  {RESULT['model']}  {RESULT['id']} in ch-gva-2, ready\n"
MARK = key_mark(Secret(KEY))


class Runner:
    """A runner's step: its files, how often provision was asked, and how many connections are still to be lost."""

    def __init__(self, folder: Path) -> None:
        self.files = {name: folder / name.lower() for name in ("GITHUB_ENV", "GITHUB_OUTPUT")}
        for path in self.files.values():
            path.write_text("BEFORE=1\n")
        self.cache = folder / "cache"
        self.asked = self.lost = 0

    def written(self, name: str) -> dict[str, str]:
        """What was appended to a file."""
        first, *lines = self.files[name].read_text().splitlines()
        assert first == "BEFORE=1"
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    runner = Runner(tmp_path)
    monkeypatch.setenv("EXOSCALE_API_KEY", API_KEY)
    monkeypatch.setenv("EXOSCALE_API_SECRET", API_SECRET)
    monkeypatch.setenv("XDG_CACHE_HOME", str(runner.cache))
    for name, path in runner.files.items():
        monkeypatch.setenv(name, str(path))

    def run(*_: object, **__: object) -> dict[str, Any]:
        runner.asked += 1
        return RESULT

    def status(endpoint: Endpoint) -> dict[str, Any]:
        assert (endpoint.url, endpoint._key) == (RESULT["url"], Secret(KEY))
        if runner.lost:
            runner.lost -= 1
            raise Unreachable("a connection is lost")
        endpoint.certificate = b"a certificate"
        return {"boot": {"phase": "ready"}}

    monkeypatch.setattr(functions.provision, "run", run)
    monkeypatch.setattr(Endpoint, "status", status)
    return runner


def provision(*words: str) -> int:
    try:
        return cli.main(["provision", *words])
    except SystemExit as leaving:  # argparse
        return int(leaving.code or 0)


# -- what is handed on


def certificate(runner: Runner) -> str:
    path = runner.cache / "exollama" / f"{RESULT['id']}.pem"
    assert path.read_text().startswith("-----BEGIN CERTIFICATE-----\n")
    assert path.stat().st_mode & 0o077 == 0
    return str(path)


def test_for_a_shell_there_are_lines_to_be_evaluated(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    assert provision("--format", "env") == 0
    out, err = capsys.readouterr()
    shown = subprocess.run(
        ["/bin/sh", "-c", 'eval "$1"; env', "sh", out], env={}, capture_output=True, text=True, check=True
    ).stdout
    assert dict(line.split("=", 1) for line in shown.splitlines() if not line.startswith("PWD=")) == {
        "EXOLLAMA_URL": RESULT["url"],
        "EXOLLAMA_CACERT": certificate(runner),
        "EXOSCALE_OLLAMA_KEY": KEY,
        "EXOLLAMA_INSTANCE_ID": RESULT["id"],
        "EXOLLAMA_KEY_MARK": MARK,
    }
    assert KEY not in err
    assert "Then: curl --cacert" in err


def test_a_shell_gets_a_path_with_odd_characters_as_it_is(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    odd = tmp_path / "a folder's $name"
    monkeypatch.setenv("XDG_CACHE_HOME", str(odd))
    assert provision("--format", "env") == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert ["export", f"EXOLLAMA_CACERT={odd}/exollama/{RESULT['id']}.pem"] in lines


def test_for_github_the_key_is_masked_first_and_then_stands_in_the_environment_only(
    runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert provision("--format", "github") == 0
    out, err = capsys.readouterr()
    assert out == f"::add-mask::{KEY}\n{WORDS}"
    assert KEY not in err
    assert runner.written("GITHUB_ENV") == {
        "EXOLLAMA_URL": RESULT["url"],
        "EXOLLAMA_CACERT": certificate(runner),
        "EXOSCALE_OLLAMA_KEY": KEY,
        "EXOLLAMA_INSTANCE_ID": RESULT["id"],
        "EXOLLAMA_KEY_MARK": MARK,
    }
    assert runner.written("GITHUB_OUTPUT") == {"url": RESULT["url"], "id": RESULT["id"], "model": RESULT["model"]}


@pytest.mark.parametrize("flags", [[], ["--with-key"]], ids=["as it is", "with the key"])
def test_for_gitlab_there_is_what_a_later_job_needs_and_the_key_only_where_it_was_asked_for(
    runner: Runner, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert provision("--format", "gitlab", *flags) == 0
    out, err = capsys.readouterr()
    expected = {
        "EXOLLAMA_URL": RESULT["url"],
        "EXOLLAMA_INSTANCE_ID": RESULT["id"],
        "EXOSCALE_ZONE": "ch-gva-2",
        "EXOSCALE_INSTANCE_NAME": "ci-7",
        "EXOSCALE_OLLAMA_MODEL": RESULT["model"],
    }
    assert dict(line.split("=", 1) for line in out.splitlines()) == expected | (
        {"EXOSCALE_OLLAMA_KEY": KEY, "EXOLLAMA_KEY_MARK": MARK} if flags else {}
    )
    assert KEY not in err
    assert ("The key is left out" in err) is not bool(flags)


@pytest.mark.parametrize("flags", [["--format", "json"], ["--json"], ["--json", "--format", "json"]], ids=" ".join)
def test_json_is_the_result_with_the_key_masked_however_it_is_asked_for(
    runner: Runner, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert provision(*flags) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == RESULT | {"key": "***"}
    assert err == ""


def test_text_is_what_there_is_without_a_format(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    assert provision() == provision("--format", "text") == 0
    assert capsys.readouterr().out == WORDS * 2


def test_a_connection_that_is_lost_after_the_boot_costs_no_pipeline_its_instance(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("client.boot.POLL_S", 0.0)
    runner.lost = 1
    assert provision("--format", "github") == 0
    assert capsys.readouterr().out == f"::add-mask::{KEY}\n{WORDS}"


# -- what is refused before anything is created


NEITHER = {"GITHUB_ENV": "", "GITHUB_OUTPUT": None}


@pytest.mark.parametrize(
    ("flags", "env", "told"),
    [
        (["--format", "yaml"], {}, ["invalid choice: 'yaml'"]),
        (["--format", "env", "--json"], {}, ["--json and --format env contradict each other"]),
        (["--format", "text", "--json"], {}, ["--json and --format text contradict each other"]),
        (["--format", "env", "--no-wait"], {}, ["--format env hands on an instance that is ready"]),
        (["--format", "github", "--no-wait"], {}, ["--format github hands on an instance that is ready"]),
        (["--format", "gitlab", "--no-wait"], {}, ["--format gitlab hands on an instance that is ready"]),
        (["--with-key"], {}, ["--with-key is for --format gitlab"]),
        (["--format", "github", "--with-key"], {}, ["--with-key is for --format gitlab"]),
        (["--format", "github"], NEITHER, ["GITHUB_ENV and GITHUB_OUTPUT, which", "--format gitlab", "--format json"]),
        (["--format", "github"], {"GITHUB_OUTPUT": None}, ["and GITHUB_OUTPUT, which its runner sets, is not set"]),
        (["--format", "github"], {"GITHUB_ENV": "/nowhere/at/all"}, ["GITHUB_ENV names a file that cannot be written"]),
        (["--format", "env"], {"XDG_CACHE_HOME": "/dev/null"}, ["The certificate cannot be written", "XDG_CACHE_HOME"]),
        (
            ["--format", "github", "--json", "--no-wait"],
            NEITHER | {"EXOSCALE_ZONE": "nowhere", "XDG_CACHE_HOME": "/dev/null"},
            ["contradict", "--no-wait", "GITHUB_ENV and", "The certificate", "EXOSCALE_ZONE"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_handed_on_is_exit_2_with_every_problem_named_and_nothing_created(
    runner: Runner,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    env: dict[str, str | None],
    told: list[str],
) -> None:
    for name, value in env.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    assert provision(*flags) == 2
    out, err = capsys.readouterr()
    assert (out, runner.asked) == ("", 0)
    assert [words for words in told if words not in err] == []
    if "invalid choice" not in err:
        assert len(err.splitlines()) == (5 if len(told) == 5 else 1)


def test_a_line_that_would_end_early_is_not_written_and_names_its_variable(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two\nEVIL=1"))
    assert provision("--format", "github") == 1
    out, err = capsys.readouterr()
    assert out == f"::add-mask::{KEY}\n"
    assert "EXOLLAMA_CACERT cannot be handed on in one line" in err
    assert runner.written("GITHUB_ENV") == runner.written("GITHUB_OUTPUT") == {}
    assert KEY not in err


def test_a_file_that_vanishes_meanwhile_is_told_with_the_instance_that_is_there(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object, **__: object) -> dict[str, Any]:
        runner.files["GITHUB_OUTPUT"].unlink()
        runner.files["GITHUB_OUTPUT"].mkdir()
        return RESULT

    monkeypatch.setattr(functions.provision, "run", run)
    assert provision("--format", "github") == 1
    err = capsys.readouterr().err
    assert "GITHUB_OUTPUT cannot be written any more" in err
    assert ID in err
    assert KEY not in err


def test_a_key_of_the_users_own_gets_no_mark_and_one_that_was_handed_out_keeps_it(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXOSCALE_OLLAMA_KEY", KEY)
    assert provision("--format", "env") == 0
    assert "EXOLLAMA_KEY_MARK" not in capsys.readouterr().out
    monkeypatch.setenv("EXOLLAMA_KEY_MARK", MARK)
    assert provision("--format", "env") == 0
    assert f"EXOLLAMA_KEY_MARK={MARK}" in capsys.readouterr().out
    assert KEY[:4] not in MARK
