"""The time that a call has: what is not begun any more near its end, and what is left wherever it runs out."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from client.errors import AgentDown, BootFailed, OutOfTime, Unreachable
from client.transport import Request, Response
from functions.budget import Budget
from functions.protocol import MOST_ASKS, reap_one
from tests.fakes import NOW, Machine, Run, World, a_day_old, label_map
from tests.reaping import IDLE, idle


def a_clock() -> tuple[Budget, list[float]]:
    now = [0.0]
    return Budget(9.0, sleep=lambda s: now.__setitem__(0, now[0] + s), monotonic=lambda: now[0]), now


def test_nothing_is_begun_in_the_last_third() -> None:
    budget, now = a_clock()
    budget.sleep(2.0)
    budget.check()
    with pytest.raises(OutOfTime, match=r"The 9 s that this call was given are nearly over\. The next one goes on"):
        budget.sleep(4.0)
    assert now == [2.0], "a sleep that would be too long is not begun"
    now[0] = 6.0
    with pytest.raises(OutOfTime):
        budget.check()


@pytest.mark.parametrize(
    ("method", "url", "late"),
    [
        ("GET", "https://api/v2/instance", False),
        ("POST", "https://api/v2/instance", False),
        ("PUT", "https://api/v2/instance/a", False),
        ("PUT", "https://api/v2/instance/a:start", False),
        ("DELETE", "https://api/v2/instance/a", True),
        ("PUT", "https://api/v2/instance/a:stop", True),
    ],
)
def test_only_what_an_instance_has_committed_to_is_still_asked_for_late(method: str, url: str, late: bool) -> None:
    sent: list[Request] = []

    def send(request: Request) -> Response:
        sent.append(request)
        return Response(200, {}, b"{}")

    budget, now = a_clock()
    asked = Request(method, url, {}, b"", 20.0)
    hurried: Any = budget.send(send)
    hurried(asked)
    assert sent.pop().timeout_s == 9.0
    now[0] = 8.5
    if late:
        hurried(asked)
        assert sent.pop().timeout_s == 1.0
    else:
        with pytest.raises(OutOfTime):
            hurried(asked)
    assert sent == []


def test_what_only_streams_is_ended_by_its_progress() -> None:
    budget, now = a_clock()
    said: list[str] = []
    going_on = budget.progress(lambda phase, _percent, _elapsed_s: said.append(phase))
    going_on("model", 1.0, 0.0)
    now[0] = 7.0
    with pytest.raises(OutOfTime):
        going_on("model", 2.0, 7.0)
    assert said == ["model", "model"]


# -- wherever the time runs out

ENDPOINT = {"status", "touch", "fence", "commit", "unfence"}
COMMITTED = {"delete_instance", "stop_instance"}


class Cut(World):
    """A world whose n-th call of the API, or sleep, finds the time over; what a budget lets through passes."""

    def __init__(self, *machines: Machine, after: int) -> None:
        super().__init__(*machines)
        self.after: int | None = after
        free = self.sleep

        def sleep(seconds: float) -> None:
            self._count()
            free(seconds)

        self.sleep = sleep

    def _enter(self, call: str, instance_id: str | None) -> None:
        if call not in ENDPOINT | COMMITTED:
            self._count()
        super()._enter(call, instance_id)

    def _count(self) -> None:
        if self.after is not None:
            self.after -= 1
            if self.after <= 0:
                raise OutOfTime("over")

    def go_on(self) -> None:
        self.after = None


BEGINNINGS: dict[str, Callable[[], list[Machine]]] = {
    "nothing": list,
    "booting": lambda: [a_day_old(created=NOW, ready_at=12.0)],
    "ready": lambda: [a_day_old()],
    "stopped": lambda: [a_day_old(state="stopped", labels=label_map(activity=NOW - timedelta(hours=1), action="stop"))],
    "failed": lambda: [a_day_old(failed="docker")],
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_wherever_a_provision_runs_out_of_time_the_next_one_ends_with_one_instance(beginning: str) -> None:
    cuts, finished = 0, False
    for after in range(1, 60):
        world = Cut(*BEGINNINGS[beginning](), after=after)
        world.new = {"ready_at": 6.0}
        finished = False
        for _ in range(3):
            try:
                Run(world, patience_s=1e9)()
            except OutOfTime:
                cuts += 1
            except BootFailed:
                continue
            else:
                finished = world.after is not None
            break
        world.go_on()
        with suppress(BootFailed):  # told by whichever run ended it
            Run(world, patience_s=1e9)()
        assert Run(world, patience_s=1e9)().instance.id in world.machines
        assert len(world.machines) == 1, after
        assert len(world.named("create_instance")) == (beginning in ("nothing", "failed")), after
        if finished:
            break
    assert cuts >= 3
    assert finished, "no run was long enough to end by itself"


@pytest.mark.parametrize("action", ["destroy", "stop"])
def test_wherever_a_reap_runs_out_of_time_the_next_one_ends_it(action: str) -> None:
    cut_in: set[str] = set()
    for after in range(1, 20):
        world = Cut(idle(labels=label_map(activity=IDLE, action=action)), after=after)
        outcome = reap_one(world, world.connect, world._seen(world.machines["a"], whole=False))
        world.go_on()
        if outcome.outcome in ("destroyed", "stopped"):
            break
        asked_for = bool(world.named("delete_instance", "stop_instance"))
        assert outcome.outcome == ("begun" if asked_for else "unfinished")
        cut_in |= {name for name, _ in world.calls[-2:]}
        if not asked_for:
            assert world.machines["a"].fence is None, "it takes requests meanwhile"
        for listed in world.list_instances():
            reap_one(world, world.connect, listed)
        assert [machine.state for machine in world.machines.values()] == ([] if action == "destroy" else ["stopped"])
        assert len(world.named("delete_instance", "stop_instance")) == 1
    assert {"unfence", "wait", f"{'delete' if action == 'destroy' else 'stop'}_instance"} <= cut_in


@pytest.mark.parametrize(
    ("total_s", "asks", "outcome"), [(54.0, 12, "destroyed"), (29.0, 10, "destroyed"), (6.0, 2, "unfinished")]
)
def test_an_agent_that_stays_down_is_judged_in_the_time_there_is(total_s: float, asks: int, outcome: str) -> None:
    world = World(idle())
    world.fail("status", *[AgentDown("nginx is up.")] * MOST_ASKS)
    world.sleep = Budget(total_s, sleep=world.sleep, monotonic=lambda: world.elapsed_s).sleep
    assert reap_one(world, world.connect, world._seen(world.machines["a"], whole=False)).outcome == outcome
    assert len(world.named("status")) == asks


def test_a_fence_is_lifted_a_second_time_at_once_where_there_is_no_time_to_wait() -> None:
    world = World(idle())

    def touched() -> None:
        world.machines["a"].touches += 1  # so that it does not commit

    def over(_seconds: float) -> None:
        raise OutOfTime("over")

    world.before["commit"] = touched
    world.sleep = over
    world.fail("unfence", Unreachable("one packet was lost"))
    outcome = reap_one(world, world.connect, world._seen(world.machines["a"], whole=False))
    assert (outcome.outcome, world.machines["a"].fence) == ("kept", None)
