"""What the verbs of the command line print of their results, where, and which exit codes these have."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from client.settings import Secret
from tests.fakes import KEY
from tests.unit.commands import raising, verb_that, words

pytestmark = pytest.mark.usefixtures("credentials")

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
    return whole | {"zones": ["ch-gva-2"], "instances": items, "foreign": [], "failed": failed or []}


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
