"""The command line: arguments, help, what goes where, and the exit code of everything that can happen."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import client
from client import cli
from client.errors import BootFailed, ExollamaError, NoInstance, SettingsError, Untrusted
from tests.fakes import KEY
from tests.unit.commands import raising, verb_that, words

pytestmark = pytest.mark.usefixtures("credentials")

ROOT = Path(__file__).parents[2]
VERBS = ["provision", "status", "stop", "logs", "reap", "generate", "chat", "serve", "env", "doctor"]
SIBLINGS = {"provision": "provision", "status": "status", "stop": "stop", "reap_idle": "reap", "doctor": "doctor"}


# -- credentials


@pytest.mark.parametrize("verb", ["status", "stop", "logs", "env", "doctor", "reap"])
def test_where_there_is_only_a_function_a_verb_for_credentials_says_what_that_offers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    for variable in ("EXOSCALE_API_KEY", "EXOSCALE_API_SECRET"):
        monkeypatch.delenv(variable)
    assert words(verb) == 2
    assert "generate, chat, serve and provision" not in capsys.readouterr().err
    monkeypatch.setenv("EXOLLAMA_PROVISION_URL", "https://functions.example.org/provision")
    assert words(verb) == 2
    err = capsys.readouterr().err
    assert "EXOSCALE_API_KEY is not set" in err
    assert "generate, chat, serve and provision" in err


def test_a_wrong_setting_beside_a_function_asks_for_no_function(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("EXOSCALE_API_KEY", "EXOSCALE_API_SECRET"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("EXOLLAMA_PROVISION_URL", "https://functions.example.org/provision")
    monkeypatch.setenv("EXOSCALE_IDLE_TIMEOUT", "soon")
    assert words("generate", "why?") == 2
    err = capsys.readouterr().err
    assert "EXOSCALE_IDLE_TIMEOUT" in err
    assert "EXOLLAMA_PROVISION_URL" not in err


# -- usage


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "usage"),
        (["no-such-verb"], "no-such-verb"),
        (["provisio"], "provisio"),
        (["status", "--no-such-flag"], "--no-such-flag"),
        (["status", "--js"], "--js"),
        (["status", "surplus"], "surplus"),
        (["generate"], "prompt"),
        (["generate", "a", "b"], "b"),
        (["generate", "a", "--option"], "--option"),
        (["reap", "--dry"], "--dry"),
    ],
    ids=[
        "nothing",
        "unknown verb",
        "short verb",
        "unknown flag",
        "short flag",
        "surplus",
        "missing",
        "two",
        "bare",
        "dry",
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_on_stderr(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert words(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err


def test_the_help_names_every_verb_an_example_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert words("--help") == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {verb}\b", out, re.MULTILINE) for verb in VERBS)
    assert "example:\n  exollama generate" in out
    assert "130, 143  interrupted" in out


def test_under_the_originals_name_the_help_shows_the_originals_four_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert words("--help", prog=cli.GARUDA) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^  (\w+) {2,}", out.partition("verbs:")[2].partition("example:")[0], re.MULTILINE) == [
        *("start", "status", "stop", "logs")
    ]
    assert "  Every other verb of `exollama --help` works here, too.\n" in out
    assert "example:\n  garuda-exoscale start\n" in out


@pytest.mark.parametrize("verb", ["start", *VERBS])
def test_under_the_originals_name_every_verb_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    verb_that(monkeypatch, lambda: 0, "provision" if verb == "start" else verb)
    monkeypatch.setattr(sys, "argv", ["garuda-exoscale", verb, *["why?"] * (verb == "generate")])
    assert cli.garuda() == 0
    with pytest.raises(SystemExit):
        cli.garuda([verb, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: garuda-exoscale {verb} ")


def test_the_scripts_of_the_package_are_there_and_run() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {"exollama", cli.GARUDA}
    for name, entry in scripts.items():
        module, _, function = entry.partition(":")
        code = f"import sys; from {module} import {function} as run; sys.exit(run())"
        shown = subprocess.run(
            [sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
        )
        assert shown.stdout.startswith(f"usage: {name} VERB")


def example(text: str) -> str:
    """The arguments of the example in a help text, its comment left away."""
    line = re.search(r"^example:\n  (?:.*?)((?:python -m|exollama|garuda-exoscale).*)$", text, re.MULTILINE)
    assert line, text
    return re.split(r"\s{2,}[(#]", line[1])[0]


@pytest.mark.parametrize("prog", ["exollama", "garuda-exoscale"])
@pytest.mark.parametrize("verb", VERBS)
def test_the_example_in_each_verbs_help_can_be_run_as_it_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str, prog: str
) -> None:
    assert words(verb, "--help", prog=prog) == 0
    name, *arguments = shlex.split(example(capsys.readouterr().out))
    assert (name, arguments[0]) == (prog, verb)
    verb_that(monkeypatch, lambda: 0, verb)
    assert words(*arguments) == 0


@pytest.mark.parametrize("module", SIBLINGS)
def test_each_function_is_one_verb_whose_help_and_example_fit_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    command = [sys.executable, "-m", f"functions.{module}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.startswith(f"usage: python -m functions.{module} [")
    python, dash, name, *arguments = shlex.split(example(done.stdout))
    assert (python, dash, name) == ("python", "-m", f"functions.{module}")
    verb_that(monkeypatch, lambda: 0, SIBLINGS[module])
    assert words(*arguments, verb=SIBLINGS[module]) == 0


def test_start_is_another_name_of_provision(monkeypatch: pytest.MonkeyPatch) -> None:
    verb_that(monkeypatch, lambda: 0, "provision")
    assert words("start", "--no-wait") == 0


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert words("--version") == 0
    assert capsys.readouterr().out == f"exollama {client.__version__}\n"


# -- exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ExollamaError("it failed"), 1),
        (Untrusted("it failed"), 1),
        (BootFailed("it failed", phase="docker"), 1),
        (SettingsError("it failed"), 2),
        (NoInstance("it failed"), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_has_its_exit_code_and_is_one_message_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    verb_that(monkeypatch, raising(error))
    assert words("status") == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", "exollama: it failed\n")


@pytest.mark.parametrize(
    ("end", "code"), [(KeyboardInterrupt(), 130), (cli.Terminated(), 143)], ids=["Ctrl-C", "SIGTERM"]
)
@pytest.mark.parametrize(
    ("verb", "more"),
    [(verb, "") for verb in ("status", "stop", "logs", "reap", "env", "doctor")]
    + [(verb, " Whatever was created stays owned, and goes once nobody uses it.") for verb in ("start", "chat")],
)
def test_an_interruption_has_its_exit_code_and_speaks_of_what_was_created_only_where_something_may_have_been(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: BaseException,
    code: int,
    verb: str,
    more: str,
) -> None:
    verb_that(monkeypatch, raising(end), cli.ALIASES.get(verb, verb))
    assert words(verb) == code
    assert capsys.readouterr() == ("", f"\nexollama: interrupted.{more}\n")


def test_settings_that_are_wrong_are_all_named_one_per_line_and_nothing_else_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb_that(monkeypatch, raising(AssertionError("it ran")))
    monkeypatch.setenv("EXOSCALE_ZONE", "nowhere")
    monkeypatch.setenv("EXOSCALE_IDLE_TIMEOUT", "0")
    monkeypatch.setenv("EXOSCALE_API_SECRET", "")
    assert words("status") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sorted(line.split()[1] for line in err.splitlines()) == [
        "EXOSCALE_API_SECRET",
        "EXOSCALE_IDLE_TIMEOUT",
        "EXOSCALE_ZONE",
    ]
    assert KEY not in err
