"""The end of a program with an adapter, however it comes: the instance is gone once, the status is its own."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.simulator import Simulator
from tests.simulator.lodging import Lodging
from tests.system.instance import KEY
from tests.system.verbs import Running, User, changes

IDLE_S = 40 * 60


@contextmanager
def program(user: User, *what: str) -> Iterator[Running]:
    with user.running(*what, module="tests.system.adapting") as run:
        run.until(lambda: "waits\n" in run.out, "it waits")
        yield run


@pytest.fixture
def cloud(lodging: Lodging) -> Simulator:
    """Quick: its instances are ready at once."""
    return lodging.simulator


@pytest.fixture
def user(cloud: Simulator) -> User:
    return User(cloud, EXOSCALE_OLLAMA_KEY=KEY)


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
    cloud: Simulator, user: User, what: str, number: signal.Signals | None, code: int
) -> None:
    with user.running(*what.split(), module="tests.system.adapting") as run:
        if number:
            run.until(lambda: "waits\n" in run.out, "it waits")
            run.process.send_signal(number)
        done = run.end(30)
    assert done.code == code, done.said
    assert cloud.instances() == []
    assert changes(cloud).count("delete-instance") == 1
    assert ("Traceback" in done.err) is (number == signal.SIGINT), done.said


def test_the_second_hang_up_of_a_terminal_that_closes_cuts_no_shutdown(cloud: Simulator, user: User) -> None:
    with program(user, "waits") as run:
        calls = len(cloud.calls)
        run.process.send_signal(signal.SIGHUP)
        cloud.wait(lambda: len(cloud.calls) > calls, "it ends the instance")
        run.process.send_signal(signal.SIGHUP)
        done = run.end(20)
    assert done.code == -signal.SIGHUP, done.said
    assert cloud.instances() == []


def test_what_kill_9_leaves_goes_by_the_reaper(cloud: Simulator, user: User) -> None:
    with program(user, "waits") as run:
        run.process.kill()
        assert run.end(10).code == -signal.SIGKILL
    assert len(cloud.instances()) == 1
    cloud.advance(IDLE_S)
    assert "destroyed" in user.run("reap").ended(0).out
    assert cloud.instances() == []


def test_a_forked_child_uses_the_adapter_and_ends_nothing_of_its_parents(cloud: Simulator, user: User) -> None:
    with program(user, "waits", "forks") as run:
        assert f"children 5 {-signal.SIGTERM}\n" in run.out
        assert changes(cloud).count("delete-instance") == 0
        run.process.send_signal(signal.SIGTERM)
        done = run.end(20)
    assert done.code == -signal.SIGTERM, done.said
    assert (cloud.instances(), changes(cloud).count("delete-instance")) == ([], 1)


def test_a_child_that_a_signal_hits_within_the_fork_ends_nothing_of_its_parents(cloud: Simulator, user: User) -> None:
    with program(user, "waits", "hits") as run:
        assert f"child {-signal.SIGTERM}\n" in run.out
        assert len(cloud.instances()) == 1
        run.process.send_signal(signal.SIGTERM)
        run.end(20)
    assert (cloud.instances(), changes(cloud).count("delete-instance")) == ([], 1)
