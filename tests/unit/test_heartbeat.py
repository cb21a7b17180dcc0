"""What a session records of its use: before, each quarter of the idle timeout during, and after, within the budget."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest

from client import activity, labels
from client.errors import (
    Conflict,
    Denied,
)
from tests.fakes import NOW, World, label_map
from tests.sessions import Use, machine


def test_activity_is_recorded_before_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(machine())
    seen: list[str] = []

    def first() -> dict[str, Any]:
        seen.append(world.machines["a"].labels[labels.ACTIVITY])
        return {"done": True}

    Use(monkeypatch, world, [first]).generate()
    assert seen == [labels.time(NOW)]


def test_a_short_use_costs_one_label_write(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(machine())
    Use(monkeypatch, world).generate()
    assert len(world.named("put_labels")) == 1


def test_a_use_soon_after_another_asks_the_api_for_nothing_but_the_instance_and_its_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(machine(labels=label_map()))
    Use(monkeypatch, world).generate()
    assert [call[0] for call in world.calls] == ["list_instances", "get_instance", "status"]


def test_activity_is_recorded_again_after_a_long_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(machine())

    def last() -> dict[str, Any]:
        world.sleep(900)
        return {"done": True}

    Use(monkeypatch, world, [last]).generate()
    assert world.machines["a"].labels[labels.ACTIVITY] == labels.time(NOW + timedelta(seconds=900))


def test_the_heartbeat_goes_on_each_quarter_of_the_idle_timeout_and_ends_with_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beats: list[float] = []
    monkeypatch.setattr(activity, "record", lambda *_, **__: beats.append(time.monotonic()))
    world = World(machine(labels=label_map(idle="s1", activity=labels.time(NOW - timedelta(hours=1)))))

    def slow() -> dict[str, Any]:
        patience = time.monotonic() + 10
        while len(beats) < 4 and time.monotonic() < patience:
            time.sleep(0.01)
        return {"done": True}

    Use(monkeypatch, world, [slow]).generate()
    quarters = int((beats[-1] - beats[0]) / 0.25)
    assert 5 <= len(beats) <= quarters + 2  # before, at each quarter of a second, and after
    count = len(beats)
    time.sleep(0.4)
    assert len(beats) == count


@pytest.mark.parametrize(
    "error",
    [Conflict("PUT", "/instance/a", 409, "busy"), Denied("PUT", "/instance/a", 403, "Forbidden by role policy")],
    ids=["busy", "denied"],
)
def test_a_label_that_cannot_be_written_fails_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    use = Use(monkeypatch, World(machine()))
    use.world.fail("put_labels", *[error] * 20)
    assert use.generate()["response"] == "Hello"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_stream_ends_the_heartbeat_and_records_its_use(
    monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    world = World(machine())

    def interrupted() -> None:
        world.sleep(900)
        raise interruption

    use = Use(monkeypatch, world, [{"response": "Hel"}, cast("Callable[[], object]", interrupted)])
    with pytest.raises(interruption):
        use.generate()
    assert use.text == "Hel"
    assert world.machines["a"].labels[labels.ACTIVITY] == labels.time(NOW + timedelta(seconds=900))
    assert not world.named("delete_instance")
