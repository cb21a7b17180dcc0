"""Provisioning in many short runs, as a function that is asked until it is ready: each goes on where one ended."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from client.errors import ApiError, BootFailed, NotFound, OutOfTime, Unreachable
from client.transport import Request, Response
from functions.budget import Budget
from functions.protocol import reap_one
from tests.fakes import NOW, Machine, Run, World, a_day_old, label_map
from tests.reaping import IDLE, idle

TOTAL_S = 9.0


class Asked:
    """A world that is asked again and again; each run has nine seconds, and its outcome is kept."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._sleep = world.sleep

    def once(self) -> str | None:
        """The id that is ready, or None where the time was over before."""
        budget = Budget(TOTAL_S, sleep=self._sleep, monotonic=self.world.monotonic)
        self.world.sleep = budget.sleep
        run = Run(self.world, resumes=True, reach_s=TOTAL_S / 3)
        try:
            return run().instance.id
        except OutOfTime:
            return None
        finally:
            self.world.sleep = self._sleep

    def until_ready(self, most: int = 99) -> str:
        for _ in range(most):
            if ready := self.once():
                return ready
            self.world.sleep(5.0)
        raise AssertionError(f"not ready after {most} runs")


def test_however_often_it_is_asked_one_instance_is_made_and_handed_out_once_ready() -> None:
    world = World()
    world.new = {"ready_at": 200.0}
    assert Asked(world).until_ready() == "new-1"
    assert len(world.named("create_instance")) == 1
    assert 200 <= world.elapsed_s < 215
    assert world.machines["new-1"].touches == 1, "asking during the boot is no use of it"


def test_a_run_takes_no_longer_than_it_was_given() -> None:
    world = World(a_day_old(created=NOW, ready_at=600.0))
    assert Asked(world).once() is None
    assert world.elapsed_s <= TOTAL_S


def test_a_failed_boot_is_told_once_and_ended_and_the_next_run_makes_another() -> None:
    world = World()
    world.new = {"failed": "docker", "ready_at": 20.0}
    asked = Asked(world)
    with pytest.raises(BootFailed, match=r"(?s)phase docker: it broke.*was destroyed\. Asking again makes another"):
        asked.until_ready()
    assert world.machines == {}
    world.new = {}
    assert asked.until_ready() == "new-2"


def test_a_boot_that_never_ends_is_told_and_ended_once_its_time_is_over() -> None:
    world = World(a_day_old(created=NOW, ready_at=1e9, labels=label_map(boot="s60")))
    with pytest.raises(BootFailed, match=r"(?s)last seen in phase model.*was destroyed"):
        Asked(world).until_ready()
    assert 60 <= world.elapsed_s < 90
    assert world.machines == {}


def test_one_that_is_kept_to_be_looked_at_stays_and_another_is_made() -> None:
    world = World(a_day_old(failed="docker", keep_failed=True))
    assert Asked(world).until_ready() == "new-1"
    assert "a" in world.machines


@pytest.mark.parametrize(
    "fault",
    [("fence", NotFound("GET", "/instance/a", 404, "gone")), ("get_instance", NotFound("GET", "/i/a", 404, "gone"))],
    ids=["while it is fenced", "when it is read again"],
)
def test_a_failed_boot_that_somebody_else_ends_meanwhile_is_no_error(fault: tuple[str, ApiError]) -> None:
    world = World(a_day_old(failed="docker"))
    name, error = fault

    def gone() -> None:
        world.machines.pop("a", None)
        raise error

    looks = 0

    def second() -> None:
        nonlocal looks
        looks += 1
        if name != "get_instance" or looks == 2:
            gone()

    world.before[name] = second
    assert Asked(world).until_ready() == "new-1"


def test_one_that_cannot_be_reached_is_told_within_one_run_and_left_alone() -> None:
    world = World(a_day_old(reachable=False))
    with pytest.raises(Unreachable, match="port 11435 cannot be reached from here"):
        Asked(world).once()
    assert world.elapsed_s <= TOTAL_S
    assert world.deeds() == []


def test_without_resuming_the_same_failed_boot_is_left_to_the_reaper() -> None:
    world = World(a_day_old(failed="docker"))
    assert Run(world)().instance.id == "new-1"
    assert "a" in world.machines


def prepared_stopped(world: World) -> None:
    world.machines["a"].state, world.machines["a"].ready_at = "stopped", 30.0
    world.machines["a"].labels = label_map(activity=NOW - timedelta(hours=1), action="stop")


def prepared_fenced(world: World) -> None:
    world.machines["a"].fence = {"lease_s": 60.0, "committed": False}
    world.at(60, lambda: setattr(world.machines["a"], "fence", None))


@pytest.mark.parametrize(
    ("prepare", "deeds"),
    [(prepared_stopped, {"put_labels", "start_instance"}), (prepared_fenced, {"put_labels"})],
    ids=["stopped", "fenced"],
)
def test_what_takes_longer_than_a_run_is_gone_on_with(prepare: Callable[[World], None], deeds: set[str]) -> None:
    world = World(a_day_old())
    prepare(world)
    assert Asked(world).until_ready() == "a"
    assert {name for name, _ in world.deeds()} == deeds


# -- the time itself


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
                Run(world, resumes=True)()
            except OutOfTime:
                cuts += 1
            except BootFailed:
                continue
            else:
                finished = world.after is not None
            break
        world.go_on()
        with suppress(BootFailed):  # told by whichever run ended it
            Run(world, resumes=True)()
        assert Run(world, resumes=True)().instance.id in world.machines
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
        if outcome.outcome != "unfinished":
            assert outcome.outcome in ("destroyed", "stopped")
            break
        cut_in |= {name for name, _ in world.calls[-2:]}
        if "a" in world.machines and not world.named("delete_instance", "stop_instance"):
            assert world.machines["a"].fence is None, "it takes requests meanwhile"
        for listed in world.list_instances():
            reap_one(world, world.connect, listed)
        assert [machine.state for machine in world.machines.values()] == ([] if action == "destroy" else ["stopped"])
        assert len(world.named("delete_instance", "stop_instance")) == 1
    assert {"unfence", "wait", f"{'delete' if action == 'destroy' else 'stop'}_instance"} <= cut_in
