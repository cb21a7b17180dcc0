"""Reaping on the way: beside other work, only what is due, never what that work uses, and silent about refusals."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from client.endpoint import Endpoint
from client.errors import ApiError, ClockError, CredentialsRejected
from client.model import Instance
from functions import reap_idle
from functions.zones import side_by_side
from tests.fakes import NOW, OTHER_NONCE, Machine, World, label_map, settings
from tests.reaping import DENIED, IDLE, LOST, idle
from tests.scripted import Script, reply

Finish = Callable[[], None]


class Tidying:
    """`tidy` over a world; `notes` is what a person was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
        monkeypatch.setattr(reap_idle, "Cloud", lambda *_, **__: world)
        monkeypatch.setattr(Endpoint, "of", world.connect)
        self.world = world
        self.notes: list[str] = []

    def begin(self, spare: str = "mine") -> Finish:
        listed = self.world.list_instances()
        self.world.calls.clear()
        return reap_idle.tidy(settings(), listed, spare, note=self.notes.append, send=Script(reply()))

    def __call__(self, spare: str = "mine") -> None:
        self.begin(spare)()


@pytest.fixture
def tidying(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tidying]:
    return lambda *machines: Tidying(monkeypatch, World(*machines))


def mine(**changes: Any) -> Machine:
    return idle(**({"id": "mine"} | changes))


def test_what_is_overdue_beside_the_work_is_reaped_through_its_fence_and_told_once(tidying: Any) -> None:
    run = tidying(mine(), idle(id="old"))
    finish = run.begin()
    finish()
    assert set(run.world.machines) == {"mine"}
    assert [name for name, _ in run.world.named("fence", "commit", "delete_instance")] == [
        "fence",
        "commit",
        "delete_instance",
    ]
    note = "Instance old (exollama) was destroyed on the way: idle for 2 h 46 min."
    assert run.notes == [note]
    finish()
    assert run.notes == [note]


@pytest.mark.parametrize("state", ["running", "stopped", "error"])
def test_the_spared_one_is_never_touched_nor_even_asked_however_overdue_it_is(tidying: Any, state: str) -> None:
    run = tidying(mine(state=state, labels=label_map(activity=IDLE, deadline=IDLE)))
    run()
    assert run.world.calls == []
    assert set(run.world.machines) == {"mine"}


NOT_DUE: dict[str, dict[str, Any]] = {
    "used by its label": {"labels": label_map()},
    "stopping": {"state": "stopping"},
    "stopped, in retention": {"state": "stopped", "labels": label_map(activity=IDLE, action="stop")},
    "going": {"state": "destroying"},
    "not ours": {"labels": {}},
    "another version's": {"labels": label_map(activity=IDLE, owner="v2")},
    "a pool's": {"managed": True},
}


@pytest.mark.parametrize("changes", NOT_DUE.values(), ids=NOT_DUE)
def test_what_is_not_due_is_not_even_asked(tidying: Any, changes: dict[str, Any]) -> None:
    run = tidying(mine(), idle(id="other", **changes))
    run()
    assert run.world.calls == []
    assert run.notes == []


def test_where_nothing_is_due_no_request_is_made_and_no_thread_started(monkeypatch: pytest.MonkeyPatch) -> None:
    send = Script(reply())
    listed = [Instance(id="fresh", zone="ch-gva-2", state="running", created=NOW, labels=label_map())]
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread was started"))
    finish = reap_idle.tidy(settings(), listed, "mine", note=pytest.fail, send=send, clock=NOW.timestamp)
    finish()
    assert send.requests == []


@pytest.mark.parametrize(
    "changes",
    [
        {"in_flight": 1},
        {"idle_s": 5.0},
        {"request": OTHER_NONCE},
        {"labels": label_map(activity=IDLE, reach="limited")},
    ],
    ids=["in flight", "used", "another nonce", "silent"],
)
def test_what_is_kept_after_all_is_no_matter_for_somebody_who_wants_something_else(
    tidying: Any, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    run = tidying(idle(reachable="labels" not in changes, **changes))
    with caplog.at_level(logging.WARNING):
        run()
    assert run.world.deeds() == []
    assert run.notes == []
    assert caplog.records == []


@pytest.mark.parametrize(
    "error",
    [
        DENIED,
        CredentialsRejected("DELETE", "/instance/a", 403, "Invalid request signature."),
        ApiError("DELETE", "/instance/a", 500, "broken"),
        ClockError("the clock is 1:00:00 behind"),
        LOST,
        ZeroDivisionError("odd"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("call", ["get_instance", "delete_instance"])
def test_what_the_credentials_or_the_api_refuse_fails_nothing_and_is_not_told(
    tidying: Any, caplog: pytest.LogCaptureFixture, call: str, error: Exception
) -> None:
    run = tidying(idle())
    run.world.fail(call, *[error] * 9)
    with caplog.at_level(logging.WARNING):
        run()
    assert set(run.world.machines) == {"a"}
    assert run.notes == []
    assert isinstance(error, ZeroDivisionError) or caplog.records == []  # that one is a bug, and says so


def test_one_that_fails_stops_no_other(tidying: Any) -> None:
    run = tidying(*[idle(id=f"old-{n}") for n in range(12)])
    run.world.fail("delete_instance", DENIED)
    run()
    assert len(run.world.machines) == 1
    assert len(run.notes) == 11


def test_it_returns_at_once_and_its_end_is_waited_for_only_so_long(
    monkeypatch: pytest.MonkeyPatch, tidying: Any
) -> None:
    monkeypatch.setattr(reap_idle, "FINISH_S", 0.01)
    run = tidying(idle())
    go, done = threading.Event(), threading.Event()
    run.world.before["get_instance"] = lambda: go.wait(30)
    monkeypatch.setattr(reap_idle, "side_by_side", noting_the_end(done, side_by_side))
    finish = run.begin()
    finish()
    assert run.notes == []
    go.set()
    assert done.wait(30)
    finish()
    assert len(run.notes) == 1


def noting_the_end(done: threading.Event, do: Callable[..., Any]) -> Callable[..., None]:
    def noted(*given: Any, **more: Any) -> None:
        do(*given, **more)
        done.set()

    return noted
