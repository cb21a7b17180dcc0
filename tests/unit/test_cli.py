"""The command line: arguments, help, what goes where, and the exit code of everything that can happen."""

import json
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import client
from client import cli, verbs
from client.errors import BootFailed, ExollamaError, NoInstance, SettingsError, Untrusted
from client.settings import Secret
from tests.fakes import API_KEY, API_SECRET, KEY

ROOT = Path(__file__).parents[2]
VERBS = ["provision", "status", "stop", "logs", "reap", "generate", "chat", "serve", "env", "doctor"]
SIBLINGS = {"provision": "provision", "status": "status", "stop": "stop", "reap_idle": "reap", "doctor": "doctor"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("EXOSCALE_API_KEY", API_KEY)
    monkeypatch.setenv("EXOSCALE_API_SECRET", API_SECRET)
    monkeypatch.setenv("EXOSCALE_OLLAMA_KEY", KEY)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def verb_that(monkeypatch: pytest.MonkeyPatch, does: Callable[[], int], name: str = "status") -> None:
    monkeypatch.setattr(verbs, "_VERBS", {name: lambda *_: does()})


def raising(error: BaseException) -> Callable[[], int]:
    def does() -> int:
        raise error

    return does


def words(*arguments: str, prog: str = "exollama", verb: str | None = None) -> int:
    """The exit code of one call in this process."""
    try:
        return cli.main(list(arguments), prog=prog, verb=verb)
    except SystemExit as leaving:  # argparse
        return int(leaving.code or 0)


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


# -- results


PROVISIONED = {"id": "i", "zone": "ch-gva-2", "url": "https://198.51.100.7:11435", "model": "m", "phase": "ready"}


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
def test_provision_prints_its_result_with_the_key_masked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    import functions.provision

    monkeypatch.setattr(functions.provision, "run", lambda *_, **__: PROVISIONED | {"key": Secret(KEY)})
    assert words("provision", *flags) == 0
    out, err = capsys.readouterr()
    assert "https://198.51.100.7:11435" in out
    assert KEY not in out + err
    if flags:
        assert json.loads(out)["key"] == "***"


def reaped(*outcomes: str, failed: list[str] | None = None) -> dict[str, Any]:
    items = [
        {"id": o, "name": "exollama", "zone": "ch-gva-2", "outcome": o, "reason": f"because {o}"} for o in outcomes
    ]
    return {"dry_run": False, "zones": ["ch-gva-2"], "instances": items, "failed": failed or []}


@pytest.mark.parametrize(
    ("result", "code", "loud"),
    [
        (reaped("kept", "destroyed"), 0, []),
        (reaped("kept", "failed"), 1, ["because failed"]),
        (reaped("kept", failed=["de-fra-1 was not looked at"]), 1, ["de-fra-1 was not looked at"]),
        (
            reaped(failed=[f"{zone} was not looked at: {why}" for zone, why in zip("abc", "xyx", strict=True)]),
            1,
            ["a was not looked at, nor c: x\n", "b was not looked at: y\n"],
        ),
        (reaped(), 0, []),
    ],
    ids=["done", "one failed", "a zone failed", "zones failed alike", "nothing"],
)
@pytest.mark.parametrize("quiet", [False, True])
def test_reap_fails_where_anything_failed_and_quiet_prints_failures_only(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    result: dict[str, Any],
    code: int,
    loud: list[str],
    quiet: bool,
) -> None:
    import functions.reap_idle

    monkeypatch.setattr(functions.reap_idle, "run", lambda *_, **__: result)
    assert words("reap", *["--quiet"] * quiet) == code
    out, err = capsys.readouterr()
    assert bool(out) is not quiet
    assert [line for line in loud if line in err] == loud
    assert not [line for line in loud if line in out], "told twice"
    assert bool(err) is bool(loud)


def answering(result: dict[str, Any], given: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """A function of the project that notes its keyword arguments in `given`."""

    def run(*_: object, **kwargs: Any) -> dict[str, Any]:
        given.update(kwargs)
        return result

    return run


def surveyed(*late: str | None, failed: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    """What `status` found: one instance for each reason to be overdue, healthy where that is None."""
    plain = {
        "name": "exollama",
        "zone": "ch-gva-2",
        "state": "running",
        "type": "standard.large",
        "disk_gib": 50,
        "model": "m",
        "goes_in_s": 60,
        "hourly_cost": 0.1,
        "cost": 0.1,
        "stops": False,
        "deadline": "2026-11-30T12:00:00+00:00",
        "deadline_s": 500_000,
        "age_s": 60,
        "idle_s": 60,
        "reap": {"decision": "keep", "reason": "used 60 s ago"},
        "said": None,
    }
    items = [plain | {"id": f"id-{n}", "overdue": reason} | changes for n, reason in enumerate(late)]
    whole = {"time": "2026-11-24T12:00:00+00:00", "prices_as_of": "2026-10", "notes": [], "unseen": []}
    return whole | {"zones": ["ch-gva-2"], "instances": items, "failed": failed or []}


@pytest.mark.parametrize(
    ("result", "code", "shown", "loud"),
    [
        (surveyed(None, None), 0, [], []),
        (surveyed(), 0, [], []),
        (
            surveyed(None, "idle for 5 h"),
            1,
            ["id-1"],
            ["id-1 (exollama) should be gone: idle for 5 h", "exollama reap"],
        ),
        (surveyed("x", "y"), 1, ["id-0", "id-1"], ["id-0", "id-1"]),
        (surveyed(None, failed=["de-fra-1 was not looked at"]), 1, [], ["de-fra-1 was not looked at"]),
        (surveyed(None, deadline_s=60), 0, [], []),
    ],
    ids=["all well", "nothing there", "one overdue", "two overdue", "a zone failed", "a deadline near"],
)
def test_a_check_is_silent_and_0_where_all_is_well_and_else_1_with_only_what_is_overdue(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    result: dict[str, Any],
    code: int,
    shown: list[str],
    loud: list[str],
) -> None:
    import functions.status

    given: dict[str, Any] = {}
    monkeypatch.setattr(functions.status, "run", answering(result, given))
    assert words("status", "--check") == code
    assert given == {"probe": False, "check": True}
    out, err = capsys.readouterr()
    assert re.findall(r"id-[0-9]", out) == shown
    assert [line for line in loud if line in err] == loud
    assert bool(err) is bool(loud)


def test_a_check_as_json_is_the_whole_result_with_the_same_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import functions.status

    monkeypatch.setattr(functions.status, "run", lambda *_, **__: surveyed(None, "idle for 5 h"))
    assert words("status", "--check", "--json") == 1
    assert [one["overdue"] for one in json.loads(capsys.readouterr().out)["instances"]] == [None, "idle for 5 h"]


def test_without_a_check_status_shows_all_warns_of_a_deadline_and_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import functions.status

    monkeypatch.setattr(functions.status, "run", lambda *_, **__: surveyed(None, None, deadline_s=60))
    assert words("status") == 0
    out, err = capsys.readouterr()
    assert re.findall(r"id-[0-9]", out) == ["id-0", "id-1"]
    assert err.count("reaches its deadline at 2026-11-30T12:00:00+00:00") == 2


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (["--watch", "0"], ["--watch is '0': a whole number of seconds from 1 to 3600 is expected."]),
        (["--watch", "3601"], ["--watch is '3601': a whole number of seconds from 1 to 3600 is expected."]),
        (["--watch", "2.5"], ["--watch is '2.5': a whole number of seconds from 1 to 3600 is expected."]),
        (["--watch="], ["--watch is '': a whole number of seconds from 1 to 3600 is expected."]),
        (["--watch", "--check"], ["--watch goes on until it is interrupted, and --check ends with an exit code."]),
        (["--watch", "--format", "prometheus"], ["--watch goes on until it is interrupted, and Prometheus looks"]),
        (["--json", "--format", "prometheus"], ["--json and --format prometheus contradict each other."]),
        (
            ["--watch", "x", "--check", "--json", "--format", "prometheus"],
            ["--watch is 'x'", "--json and --format", "and --check", "and Prometheus"],
        ),
    ],
    ids=str,
)
def test_what_cannot_be_meant_of_status_is_named_at_once_and_nothing_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], problems: list[str]
) -> None:
    verb_that(monkeypatch, raising(AssertionError("it ran")))
    assert words("status", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    told = err.splitlines()
    assert [problem in line for problem, line in zip(problems, told, strict=True)] == [True] * len(problems)


def test_metrics_are_checked_and_what_is_overdue_stands_in_them_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import functions.status

    given: dict[str, Any] = {}
    monkeypatch.setattr(functions.status, "run", answering(surveyed("idle for 5 h", idle_timeout_s=1800), given))
    assert words("status", "--format", "prometheus") == 0
    assert given == {"probe": False, "check": True}
    out, err = capsys.readouterr()
    labels = '{id="id-0",name="exollama",zone="ch-gva-2",state="running"}'
    assert f"exollama_instance_overdue{labels} 1\n" in out
    assert err == ""
    assert words("status", "--format", "prometheus", "--check") == 1
    out, err = capsys.readouterr()
    assert f"exollama_instance_overdue{labels} 1\n" in out
    assert "should be gone" in err


@pytest.mark.parametrize(
    ("result", "code", "loud"),
    [
        (reaped("destroyed", "stopped"), 0, []),
        (reaped("kept"), 1, ["What was kept goes once nobody uses it; --force ends it all the same."]),
        (reaped("destroyed", "failed"), 1, ["failed (exollama): because failed"]),
    ],
    ids=["done", "in use", "failed"],
)
@pytest.mark.parametrize(
    ("flags", "given"),
    [
        ([], {"force": False, "keep_disk": False}),
        (["--force"], {"force": True, "keep_disk": False}),
        (["--keep-disk", "--json"], {"force": False, "keep_disk": True}),
    ],
    ids=["plain", "force", "keep disk, json"],
)
def test_stop_ends_with_0_only_where_everything_was_stopped_and_says_what_else_to_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    result: dict[str, Any],
    code: int,
    loud: list[str],
    flags: list[str],
    given: dict[str, bool],
) -> None:
    import functions.stop

    seen: dict[str, Any] = {}
    monkeypatch.setattr(functions.stop, "run", answering(result, seen))
    assert words("stop", *flags) == code
    assert seen == given
    out, err = capsys.readouterr()
    assert [line for line in loud if line in err] == loud
    assert bool(err) is bool(loud)
    if "--json" in flags:
        assert json.loads(out) == result
    else:
        assert [line.split()[0] for line in out.splitlines()] == [one["outcome"] for one in result["instances"]]
        assert not [line for line in loud if line in out], "told twice"
