"""The end of a program with an adapter, however it comes: the instance is gone once, the status is the program's own."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.simulator import Simulator
from tests.simulator.driver import boot_report
from tests.system.verbs import Clerk, Running, User, changes, let_pass

IDLE_S = 40 * 60


@contextmanager
def program(user: User, *what: str) -> Iterator[Running]:
    with user.running(*what, module="tests.system.adapting") as run:
        run.until(lambda: "waits\n" in run.out, "it waits")
        yield run


@pytest.fixture
def up(empty: Simulator, here: Clerk) -> Simulator:
    """One instance, ready: to boot one in each of these takes longer than all else."""
    here.run("provision").ended(0)
    empty.api.calls.clear()
    return empty


@pytest.mark.parametrize(
    ("what", "number", "code"),
    [
        ("waits", signal.SIGTERM, -signal.SIGTERM),
        ("waits", signal.SIGINT, -signal.SIGINT),
        ("waits", signal.SIGHUP, -signal.SIGHUP),
        ("waits handles", signal.SIGTERM, 7),
        ("returns", None, 0),
    ],
)
def test_the_instance_is_gone_once_and_the_status_is_as_ever(
    up: Simulator, user: User, what: str, number: signal.Signals | None, code: int
) -> None:
    with user.running(*what.split(), module="tests.system.adapting") as run:
        if number:
            run.until(lambda: "waits\n" in run.out, "it waits")
            run.process.send_signal(number)
        done = run.end(30)
    assert done.code == code, done.said
    assert up.instances() == []
    assert changes(up).count("delete-instance") == 1
    assert ("Traceback" in done.err) is (number == signal.SIGINT), done.said


def test_what_kill_9_leaves_goes_by_the_reaper(up: Simulator, user: User, here: Clerk) -> None:
    with program(user, "waits") as run:
        run.process.kill()
        assert run.end(10).code == -signal.SIGKILL
    assert len(up.instances()) == 1
    let_pass(up, IDLE_S)
    assert "destroyed" in here.run("reap").ended(0).out
    assert up.instances() == []


def test_what_boots_still_when_the_program_is_ended_is_owned_and_left_to_the_reaper(
    empty: Simulator, user: User
) -> None:
    empty.ollama(pull_hold_percent=40)
    with program(user, "waits", "boots") as run:
        run.until(lambda: empty.instances() and boot_report(empty.instance()).get("phase") == "model", "it boots")
        run.process.send_signal(signal.SIGTERM)
        done = run.end(20)
    empty.ollama(pull_hold_percent=None)
    assert done.code == -signal.SIGTERM, done.said
    assert "booting (phase model)" in done.err
    assert "exollama reap" in done.err
    assert empty.instance().labels["exollama"] == "v1"


def test_a_forked_child_uses_the_adapter_and_ends_nothing_of_its_parents(up: Simulator, user: User) -> None:
    with program(user, "waits", "forks") as run:
        assert f"children 5 {-signal.SIGTERM}\n" in run.out
        assert changes(up).count("delete-instance") == 0
        run.process.send_signal(signal.SIGTERM)
        done = run.end(20)
    assert done.code == -signal.SIGTERM, done.said
    assert (up.instances(), changes(up).count("delete-instance")) == ([], 1)
