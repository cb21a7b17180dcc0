"""However a live run ends, nothing of it is left: errors, signals, its time, lost answers, kill -9 and a second run."""

from __future__ import annotations

import base64
import functools
import gzip
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.errors import ExollamaError
from client.model import Instance
from client.settings import Secret
from functions import provision
from functions.cloud import Cloud
from functions.protocol import vouched
from functions.transport import urllib3_send
from tests.live import __main__ as live
from tests.live import checks
from tests.live import guest as machine
from tests.live.account import Account
from tests.live.ending import Ended, Ending
from tests.live.findings import Finding
from tests.simulator import Simulator
from tests.system.looking import BUDGET, Look
from tests.system.verbs import Clerk, Running, User, owned_labels

LIFETIME_S = 1800 + 2700


@pytest.fixture
def look(clerk: Clerk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    clerk.simulator.options.at_once = True
    return Look(clerk, tmp_path, monkeypatch)


# -- what goes wrong on the way


@pytest.mark.parametrize("after", ["create", "protection"])
def test_a_check_that_breaks_ends_no_other_and_leaves_nothing(
    look: Look, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    whole = list(checks.CHECKS)
    broken = next(number for number, (ids, _) in enumerate(whole) if after in ids)
    ids, check = whole[broken]

    def breaks(run: checks.Run) -> Iterator[Finding]:
        yield next(check(run))
        raise ZeroDivisionError(f"in the middle, with {look.simulator.secret}")

    whole[broken] = (ids, breaks)
    monkeypatch.setattr(checks, "CHECKS", whole)
    look.power_off_the_second()
    done = look.run(*BUDGET)
    assert done.code == 1
    assert "the check is broken: ZeroDivisionError: in the middle, with ***" in done.err
    assert look.simulator.secret not in done.err + look.output.read_text()
    assert {id_ for ids, _ in whole for id_ in ids} == set(look.found)
    assert look.left() == []


FAULTS: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "creates that are lost": [("create-instance", "lost", {"times": 2}), ("create-security-group", "lost", {})],
    "creates that fail": [("create-instance", "503", {"times": 9}), ("create-security-group", "500", {})],
    "creates that fail late": [("create-instance", "garbage", {}), ("create-instance", "op-failure", {"leaves": True})],
    "operations": [("start-instance", "op-never", {}), ("get-operation", "503", {"times": 12, "skip": 3})],
    "deletes that are lost": [("delete-instance", "lost", {"times": 3}), ("delete-security-group", "lost", {})],
    "deletes that fail": [
        ("delete-instance", "500", {"times": 4}),
        ("delete-instance", "op-failure", {"times": 2}),
        ("remove-instance-protection", "500", {"times": 2}),
        ("delete-security-group", "412", {"times": 3}),
    ],
    "all of it for a while": [("*", "503", {"times": 30, "skip": 40})],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_whatever_the_api_does_nothing_is_left(look: Look, faults: list[tuple[str, str, dict[str, Any]]]) -> None:
    look.power_off_the_second()
    for operation, kind, options in faults:
        look.simulator.fault(operation, kind, **options)
    done = look.run(*BUDGET)
    assert look.left() == [], done.said
    assert done.code == 0, done.said
    assert "LEFT BEHIND" not in done.err


def test_an_instance_whose_create_answer_was_lost_and_that_is_listed_late_is_found(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = look.simulator
    records.options.list_lag_s = 1000

    def shows() -> None:
        next(iter(records.zones["ch-gva-2"].instances.values())).visible_at = 0

    monkeypatch.setattr(checks, "CHECKS", [one for one in checks.CHECKS if {"rules-twice", "create"} & {*one[0]}])
    records.fault("create-instance", "lost")

    def unpriced(_: Cloud) -> dict[str, str]:
        raise ExollamaError("no types")

    monkeypatch.setattr(Cloud, "type_names", unpriced)
    # One list before all checks, six for the lost answer, and in the fourth of those at the end it shows.
    records.fault("list-instances", "slow", skip=1 + 6 + 3, seconds=0, then=shows)
    done = look.run(*BUDGET)
    assert "nothing of it is listed" in look.found["create"]["seen"]
    assert look.left() == [], done.said


def test_what_cannot_be_removed_is_told_and_the_exit_code_says_so(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.live.account._ROUNDS", 4)
    look.simulator.fault("delete-instance", "409", times=10_000)
    done = look.run(*BUDGET)
    ids = [one.id for one in look.simulator.instances()]
    assert done.code == 1
    assert len(ids) == 2
    for id_ in ids:
        assert f"LEFT BEHIND: instance {id_} (DELETE /instance/" in done.err


def test_a_boot_that_failed_is_looked_for_as_often_as_a_lost_answer(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ExollamaError("cut short in the create call")

    monkeypatch.setattr(checks, "CHECKS", [one for one in checks.CHECKS if "boot" in one[0]])
    monkeypatch.setattr(provision, "run", fails)
    done = look.run("--budget", "0.60", "--boot")
    assert len(look.simulator.called("list-instances")) == 1 + 6, "before all checks, and at the end"
    assert "nothing of it is listed. Look later with --clean." in done.err


@pytest.mark.parametrize("fails", ["list", "answer"])
def test_what_it_knows_of_is_removed_even_where_a_look_fails(
    look: Look, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A zone that lists nothing any more, and an answer of a shape that nobody thought of."""
    monkeypatch.setattr("tests.live.account._ROUNDS", 3)
    monkeypatch.setattr(checks, "CHECKS", [one for one in checks.CHECKS if {"rules-twice", "create"} & {*one[0]}])
    tidied = live._tidied

    def failing(account: Account, ending: Ending) -> list[str]:
        def broken(_: Cloud) -> list[Instance]:
            raise KeyError("id") if fails == "answer" else ExollamaError("no list")

        monkeypatch.setattr(Cloud, "list_instances", broken)
        return tidied(account, ending)

    monkeypatch.setattr(live, "_tidied", failing)
    done = look.run(*BUDGET)
    assert look.simulator.instances() == []
    assert done.code == 1
    assert "LEFT BEHIND" in done.err, "it cannot be known that nothing is"


def test_a_role_that_may_not_delete_is_told_at_once(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECKS", [one for one in checks.CHECKS if "rules-twice" in one[0]])
    look.simulator.fault("delete-security-group", "403-iam", times=10_000)
    done = look.run(*BUDGET)
    assert done.code == 1
    assert "LEFT BEHIND: security group exollama-live-" in done.err
    assert len(look.simulator.called("delete-security-group")) == 1


def test_its_time_ends_it_even_in_the_middle_of_a_call(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECKS", [one for one in checks.CHECKS if {"rules-twice", "create"} & {*one[0]}])
    # Its time, a minute, is over as soon as that call is under way.
    shorter = functools.partial(signal.setitimer, signal.ITIMER_REAL, 0.1)
    look.simulator.fault("create-instance", "slow", seconds=15, then=shorter)
    done = look.run(*BUDGET, limit_s=60.0)
    assert done.code == 1
    assert "It ends here: its time is over." in done.err
    assert "rules-twice" in look.found
    assert len(look.simulator.called("delete-instance")) == 1
    assert look.left() == []


# -- signals, in processes of their own


@pytest.fixture
def outside(records: Simulator, tmp_path: Path) -> Iterator[User]:
    yield User(records)
    records.clear_faults()


def begins(user: User, folder: Path) -> Any:
    return user.running(*BUDGET, "--output", str(folder / "found.json"), module="tests.live")


def reaches(run: Running, records: Simulator, operation: str, kind: str = "hang") -> None:
    run.until(lambda: any(call.fault == kind for call in records.called(operation)), operation)


def test_a_signal_ends_it_and_a_second_one_does_not_keep_it_from_tidying(
    records: Simulator, outside: User, tmp_path: Path
) -> None:
    records.fault("stop-instance", "hang", seconds=10)
    sent = threading.Event()
    records.fault("delete-instance", "slow", seconds=0, then=lambda: sent.wait(20))
    with begins(outside, tmp_path) as run:
        reaches(run, records, "stop-instance")
        assert len(records.instances()) == 2
        run.process.send_signal(signal.SIGTERM)
        reaches(run, records, "delete-instance", "slow")
        run.process.send_signal(signal.SIGINT)
        sent.set()
        done = run.end(20)
    assert done.code == 143, done.said
    assert "what was made is being removed all the same" in done.err
    assert "Traceback" not in done.err
    assert records.instances() == []
    assert "Spent so far: about" in done.err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGALRM, 1)]
)
def test_each_signal_is_raised_once_and_told_from_then_on(number: signal.Signals, code: int) -> None:
    said: list[str] = []
    before = signal.getsignal(number)
    with Ending(said.append) as ending:
        ending.arm(60.0, by_signals=True)
        with pytest.raises(Ended) as end:
            signal.raise_signal(number)
        assert end.value.code == code
        signal.raise_signal(number)
        ending.arm(60.0, by_signals=False)
        if number != signal.SIGALRM:
            signal.raise_signal(number)
        ending.disarm()
        signal.raise_signal(number)
    assert len(said) == (2 if number == signal.SIGALRM else 3)
    assert signal.getsignal(number) == before


def test_what_a_killed_run_left_is_removed_by_the_next_one_after_its_deadline(
    records: Simulator, outside: User, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.fault("stop-instance", "hang", seconds=10)
    with begins(outside, tmp_path) as run:
        reaches(run, records, "stop-instance")
        run.process.kill()
        run.end()
    left = {one.id for one in records.instances()}
    assert len(left) == 2
    records.clear_faults()
    monkeypatch.setattr(checks, "CHECKS", [])
    done = look.run(*BUDGET)
    assert "may be a run of somebody else's" in done.err
    assert {one.id for one in records.instances()} == left
    records.advance(LIFETIME_S)
    done = look.run(*BUDGET)
    assert "Of an earlier run, exollama-live-" in done.err
    assert look.left() == [], done.said


def test_clean_removes_at_once_what_a_killed_run_left_even_protected(look: Look) -> None:
    made = abandoned(look.simulator)
    look.simulator.protect(made.id)
    done = look.run("--clean")
    assert done.code == 0, done.said
    assert look.left() == []
    assert not look.output.exists()


def test_what_clean_could_not_remove_is_told_by_its_exit_code(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.live.account._ROUNDS", 2)
    made = abandoned(look.simulator)
    look.simulator.fault("delete-instance", "500", times=10_000)
    done = look.run("--clean")
    assert done.code == 1
    assert f"LEFT BEHIND: instance {made.id} (" in done.err


def test_a_protected_one_goes_however_its_delete_was_refused(look: Look) -> None:
    made = abandoned(look.simulator)
    look.simulator.protect(made.id)
    look.simulator.fault("delete-instance", "op-failure")
    assert look.run("--clean").code == 0
    assert look.left() == []
    assert len(look.simulator.called("delete-instance")) == 2, "the second one, with no protection any more, was done"


def test_by_a_clock_that_is_ahead_no_other_run_is_over(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    made = abandoned(look.simulator)
    monkeypatch.setattr(checks, "CHECKS", [])
    ahead = functools.partial(Cloud, clock=lambda: time.time() + 86400)
    monkeypatch.setattr("tests.live.account.Cloud", ahead)
    assert "may be a run of somebody else's" in look.run(*BUDGET).err
    assert [one.id for one in look.simulator.instances()] == [made.id]


def test_neither_a_closed_terminal_nor_a_signal_within_a_print_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> None:
            raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", Closed())
        live._say("nobody reads this")

    def within(_: str) -> None:
        raise RuntimeError("reentrant call")

    with Ending(within):
        signal.raise_signal(signal.SIGHUP)


# -- the net under it


def abandoned(records: Simulator) -> Instance:
    """The instance of a run that died right after its create call."""
    records.options.at_once = True
    settings = User(records).settings(EXOSCALE_INSTANCE_TYPE="standard.small")
    account = Account(settings, urllib3_send(), note=lambda _: None, lifetime_s=LIFETIME_S)
    account.create_group()
    id_, operation = account.create(account.groups(account.name)[0], 2700)
    assert account.follow(operation, id_, checks.RUNNING, 10.0).reached
    return account.cloud.get_instance(id_)


@pytest.mark.parametrize("off", [False, True], ids=["running on", "switched off by itself"])
def test_an_ordinary_reaper_leaves_a_run_alone_and_ends_what_is_left_of_it(
    records: Simulator, clerk: Clerk, off: bool
) -> None:
    made = abandoned(records)
    assert vouched(made)
    if off:
        records.poweroff(made.id)
    records.advance(1500)
    clerk.run("reap").ended(0)
    assert [one.id for one in records.instances()] == [made.id], "the run may still be under way"
    records.advance(LIFETIME_S - 1500)
    for _ in range(2):  # one that runs on is stopped first, since that is what its label says
        clerk.run("reap").ended(0)
    assert records.instances() == []


def test_the_machine_switches_itself_off_at_every_boot_and_its_program_is_whole() -> None:
    packed = machine.user_data("5" * 32, Secret("k" * 16 + "0123456789abcdef"), 60)
    text = gzip.decompress(base64.b64decode(packed)).decode()
    config = yaml.safe_load(text)
    assert config["bootcmd"] == ["setsid sh -c 'sleep 60; systemctl poweroff' </dev/null >/dev/null 2>&1 &"]
    [look] = config["write_files"]
    compile(look["content"], look["path"], "exec")
    assert config["runcmd"][0] == ["shutdown", "-P", "+1"]
    assert look["path"] in config["runcmd"][1]
    seen = Instance.from_api("ch-gva-2", {"id": "1", "labels": owned_labels("5" * 32), "user-data": packed})
    assert vouched(seen)
