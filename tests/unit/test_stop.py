"""`stop`: everything of one name ends now, unless somebody uses it, cannot be asked, or it is not ours."""

from types import SimpleNamespace
from typing import Any

import pytest

from client.errors import ApiError, ClockError, NoInstance, Unreachable
from client.settings import Secret
from functions import stop
from tests.fakes import DAY, KEY, NOW, OTHER_NONCE, Machine, World, label_map, settings
from tests.reaping import BUSY, DENIED, LOST

FENCE = {"owner": "f" * 32, "committed": False, "lease_s": 120.0}
KEPT_DISK = label_map(action="stop")


def used(**changes: Any) -> Machine:
    """A machine that was used just now, and of which nobody wants anything at the moment."""
    given: dict[str, Any] = {"id": "a", "created": NOW - DAY, "idle_s": 5.0}
    return Machine(**(given | changes))


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `stop` over a world, and gives its instances as (id, outcome, reason)."""

    def run(world: World, *, key: str | None = None, **given: Any) -> list[tuple[str, str, str]]:
        monkeypatch.setattr(stop, "Cloud", lambda *_, **__: world)
        monkeypatch.setattr(stop, "Endpoint", SimpleNamespace(of=world.connect))
        configured = settings(key=Secret(key)) if key else settings()
        result = stop.run(configured, send=lambda _: pytest.fail("sent"), **given)
        return [(one["id"], one["outcome"], one["reason"]) for one in result["instances"]]

    return run


def deeds(world: World) -> list[str]:
    return [name for name, _ in world.deeds()]


# -- asked, through the fence


def test_one_that_was_used_a_moment_ago_is_destroyed_through_its_fence(stopped: Any) -> None:
    world = World(used())
    assert stopped(world) == [("a", "destroyed", "as asked, 5 s after its last use")]
    names = [name for name, _ in world.named("fence", "status", "commit", "delete_instance", "unfence")]
    assert names == ["fence", "status", "commit", "delete_instance"]
    assert world.machines == {}


IN_THE_WAY: dict[str, tuple[dict[str, Any], str, str]] = {
    "in use": ({"in_flight": 2}, "kept", "in use: 2 request(s) in flight"),
    "booting": ({"ready_at": 99.0}, "kept", "booting (phase model): somebody may be waiting for it"),
    "starting": (
        {"state": "starting", "running_at": 99.0},
        "kept",
        "starting: cannot be asked yet. Wait, or use --for",
    ),
    "stopping": ({"state": "stopping"}, "kept", "stopping: cannot be asked yet"),
    "fenced by another": ({"fence": FENCE}, "kept", "fenced: another reaper, or its own watchdog, is at it"),
    "unreachable": ({"reachable": False}, "failed", "cannot be reached: refused. --force ends it all the same"),
    "without an address": ({"address": None}, "failed", "has no public address (yet). --force ends it all the same"),
    "without our user-data": ({"request": None}, "failed", "left alone: its labels say it is ours, but its user-data"),
    "another nonce": ({"request": OTHER_NONCE}, "failed", "left alone: its labels say it is ours, but its user-data"),
}


@pytest.mark.parametrize(("changes", "outcome", "words"), IN_THE_WAY.values(), ids=IN_THE_WAY)
@pytest.mark.parametrize("keep_disk", [False, True], ids=["destroy", "keep the disk"])
def test_what_is_in_its_way_keeps_it_takes_requests_again_and_is_said(
    monkeypatch: pytest.MonkeyPatch,
    stopped: Any,
    changes: dict[str, Any],
    outcome: str,
    words: str,
    keep_disk: bool,
) -> None:
    machine = used(labels=KEPT_DISK, **changes)
    world = World(machine)
    if machine.address is None:

        def no_address(*_: object) -> None:
            raise Unreachable("Instance a has no public address (yet).")

        monkeypatch.setattr(world, "connect", no_address)
    ((_, came, reason),) = stopped(world, keep_disk=keep_disk)
    assert came == outcome
    assert words in reason
    assert deeds(world) == []
    assert machine.fence == changes.get("fence")


def test_a_request_that_began_before_the_commit_keeps_it(stopped: Any) -> None:
    world = World(used())
    world.before["commit"] = lambda: setattr(world.machines["a"], "in_flight", 1)
    assert stopped(world) == [("a", "kept", "not committed: 1 in flight, or touched")]
    assert world.machines["a"].fence is None
    assert deeds(world) == []


def test_one_whose_boot_failed_serves_nobody_and_goes(stopped: Any) -> None:
    world = World(used(failed="docker"))
    ((_, outcome, _),) = stopped(world)
    assert (outcome, world.machines) == ("destroyed", {})


def test_a_refusal_of_the_api_is_told_and_the_instance_serves_again(stopped: Any) -> None:
    world = World(used())
    world.fail("delete_instance", BUSY)
    ((_, outcome, reason),) = stopped(world)
    assert outcome == "failed"
    assert str(BUSY) in reason
    assert world.machines["a"].fence is None


def test_where_the_outcome_is_not_known_it_stays_shut_and_that_is_told(stopped: Any) -> None:
    world = World(used())
    world.fail("delete_instance", LOST, LOST)
    ((_, outcome, reason),) = stopped(world)
    assert (outcome, "was not answered" in reason) == ("failed", True)
    assert world.machines["a"].fence
    assert world.named("unfence") == []


# -- its key


def test_where_its_user_data_is_not_ours_a_configured_key_does_not_help(stopped: Any) -> None:
    world = World(used(request=None))
    ((_, outcome, reason),) = stopped(world, key=KEY)
    assert outcome == "failed"
    assert "left alone" in reason
    assert (deeds(world), world.named("fence")) == ([], [])


def test_where_it_may_not_be_read_nothing_is_done_and_that_is_told(stopped: Any) -> None:
    world = World(used())
    world.fail("get_instance", DENIED)
    assert stopped(world, key=KEY) == [("a", "failed", str(DENIED))]
    assert (deeds(world), world.named("fence")) == ([], [])


# -- by force


@pytest.mark.parametrize(
    "changes",
    [{"in_flight": 2}, {"ready_at": 99.0}, {"reachable": False}, {"fence": FENCE}, {"state": "starting"}, {}],
    ids=["in use", "booting", "unreachable", "fenced by another", "starting", "quiet"],
)
@pytest.mark.parametrize(("keep_disk", "outcome"), [(False, "destroyed"), (True, "stopped")])
def test_force_asks_nobody(stopped: Any, changes: dict[str, Any], keep_disk: bool, outcome: str) -> None:
    world = World(used(labels=KEPT_DISK, **changes))
    assert stopped(world, force=True, keep_disk=keep_disk) == [("a", outcome, "as asked")]
    assert world.named("status", "fence", "commit", "unfence") == []
    assert deeds(world) == ["stop_instance" if keep_disk else "delete_instance"]


@pytest.mark.parametrize("request_seen", [None, OTHER_NONCE], ids=["somebody else's", "another nonce"])
@pytest.mark.parametrize("state", ["running", "stopped", "error"])
def test_not_even_force_touches_what_only_a_label_says_is_ours(
    stopped: Any, state: str, request_seen: str | None
) -> None:
    world = World(used(state=state, request=request_seen))
    ((_, outcome, reason),) = stopped(world, force=True, key=KEY)
    assert outcome == "failed"
    assert "left alone" in reason
    assert deeds(world) == []


# -- what cannot be asked


@pytest.mark.parametrize("state", ["stopped", "error"])
def test_what_runs_for_nobody_is_destroyed_without_a_question(stopped: Any, state: str) -> None:
    world = World(used(state=state))
    assert stopped(world) == [("a", "destroyed", "as asked")]
    assert world.named("status", "fence") == []


# -- its disk


def test_with_its_disk_kept_it_is_stopped(stopped: Any) -> None:
    world = World(used(labels=KEPT_DISK))
    assert stopped(world, keep_disk=True) == [("a", "stopped", "as asked, 5 s after its last use")]
    assert world.machines["a"].state == "stopped"


def test_one_that_was_made_to_be_stopped_is_destroyed_where_nobody_asks_for_its_disk(stopped: Any) -> None:
    world = World(used(labels=KEPT_DISK))
    assert stopped(world) == [("a", "destroyed", "as asked, 5 s after its last use")]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("state", ["running", "stopped"])
def test_the_disk_of_one_that_a_reaper_would_destroy_next_is_not_promised(
    stopped: Any, state: str, force: bool
) -> None:
    world = World(used(state=state))
    ((_, outcome, reason),) = stopped(world, keep_disk=True, force=force)
    assert outcome == "failed"
    assert "made with EXOSCALE_REAP_ACTION=destroy" in reason
    assert "Leave --keep-disk out" in reason
    assert (deeds(world), world.named("fence")) == ([], [])


@pytest.mark.parametrize("force", [False, True])
def test_one_that_is_stopped_already_keeps_its_disk(stopped: Any, force: bool) -> None:
    world = World(used(state="stopped", labels=KEPT_DISK))
    assert stopped(world, keep_disk=True, force=force) == [("a", "stopped", "it was already")]
    assert deeds(world) == []


# -- which


def test_of_two_of_one_name_each_is_asked_and_neither_stops_the_other(stopped: Any) -> None:
    busy = used(id="busy", in_flight=1, created=NOW - 2 * DAY)
    world = World(busy, used(id="free"), used(id="another", labels=label_map(name="nother")))
    assert stopped(world) == [
        ("busy", "kept", "in use: 1 request(s) in flight"),
        ("free", "destroyed", "as asked, 5 s after its last use"),
    ]
    assert set(world.machines) == {"busy", "another"}


def test_one_that_fails_stops_no_other(stopped: Any) -> None:
    world = World(used(id="silent", reachable=False, created=NOW - 2 * DAY), used(id="free"))
    assert [outcome for _, outcome, _ in stopped(world)] == ["failed", "destroyed"]


@pytest.mark.parametrize(
    "machines",
    [
        [],
        [used(labels=label_map(name="nother"))],
        [used(labels={})],
        [used(managed=True)],
        [used(state="destroying")],
    ],
    ids=["none", "another name", "not ours", "a pool's", "going"],
)
@pytest.mark.parametrize("force", [False, True])
def test_where_there_is_none_of_that_name_it_says_so_and_ends_with_3(
    stopped: Any, machines: list[Machine], force: bool
) -> None:
    world = World(*machines)
    with pytest.raises(NoInstance, match="no instance named exollama in ch-gva-2: nothing to stop") as none:
        stopped(world, force=force)
    assert none.value.exit_code == 3
    assert [name for name, _ in world.calls] == ["list_instances"]


@pytest.mark.parametrize(
    ("names", "more"),
    [
        ([], ""),
        (["pr-7", "other", "pr-7"], " Others of yours in this zone: other, pr-7."),
        (list("hgfedcb"), " Others of yours in this zone: b, c, d, e, f and 2 more."),
    ],
)
def test_where_there_is_none_of_that_name_the_others_of_the_zone_are_named(
    stopped: Any, names: list[str], more: str
) -> None:
    machines = [used(id=f"id-{n}", labels=label_map(name=f"n{name}")) for n, name in enumerate(names)]
    world = World(*machines, used(id="going", labels=label_map(name="na"), state="destroying"))
    with pytest.raises(NoInstance) as none:
        stopped(world)
    assert str(none.value).endswith(f": nothing to stop.{more} `exollama status` shows all zones.")


@pytest.mark.parametrize("call", ["get_instance", "fence"])
def test_one_that_is_deleted_by_hand_meanwhile_is_gone_as_asked(stopped: Any, call: str) -> None:
    world = World(used())
    world.before[call] = world.machines.clear
    ((_, outcome, reason),) = stopped(world)
    if call == "get_instance":
        assert (outcome, reason) == ("destroyed", "gone meanwhile")
    else:
        assert outcome == "failed"  # it cannot be asked any more: the next run says that there is none
    assert deeds(world) == []


# -- the API


def test_with_a_wrong_clock_nothing_is_done(stopped: Any) -> None:
    world = World(used())
    world.fail("check_clock", ClockError("the clock is 1:00:00 behind"))
    with pytest.raises(ClockError):
        stopped(world, force=True)
    assert deeds(world) == []


def test_a_zone_that_cannot_be_listed_is_an_error_of_the_whole(stopped: Any) -> None:
    world = World(used())
    world.fail("list_instances", ApiError("GET", "/instance", 500, "broken"))
    with pytest.raises(ApiError, match="broken"):
        stopped(world)
