"""One instance reaped: asked before it is judged, read again before the deed, one deed, done when the API says so."""

from typing import Any

import pytest

from client.errors import AgentDown, ApiError, ClockError, Garbled, Unreachable, Untrusted
from client.settings import Secret
from functions.protocol import ASKS, MOST_ASKS, ask, reap_one, vouched
from tests.fakes import KEY, NOW, OTHER_NONCE, Machine, World, label_map
from tests.reaping import BUSY, DENIED, IDLE, LOST, idle, reap

# -- observe, decide, ask, act


def test_an_idle_instance_is_asked_read_again_and_destroyed_once() -> None:
    world = World(idle())
    outcome = reap(world)
    assert (outcome.outcome, outcome.reason) == ("destroyed", "idle for 2 h 46 min")
    assert world.machines == {}
    names = [name for name, _ in world.calls if name != "wait"]
    asked = ["get_instance", "status", "fence", "status", "get_instance", "commit"]
    assert names == [*asked, "delete_instance", "get_instance"]


def test_with_action_stop_it_is_stopped_and_kept() -> None:
    world = World(idle(labels=label_map(activity=IDLE, action="stop")))
    assert reap(world).outcome == "stopped"
    assert world.machines["a"].state == "stopped"
    assert world.deeds() == [("stop_instance", "a")]


def test_one_that_was_used_just_now_is_not_even_asked() -> None:
    world = World(Machine(id="a"))
    assert reap(world).outcome == "kept"
    assert world.calls == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_flight": 1}, "1 request(s) in flight"),
        ({"idle_s": 60.0}, "as it says itself"),
        ({"created": NOW, "ready_at": 99.0}, "booting (phase model)"),
        ({"fence": {"committed": False, "lease_s": 60}}, "fenced"),
    ],
    ids=["in flight", "used", "booting", "fenced"],
)
def test_one_that_is_in_use_by_its_own_word_is_kept(changes: dict[str, Any], words: str) -> None:
    world = World(idle(**changes))
    outcome = reap(world)
    assert outcome.outcome == "kept"
    assert words in outcome.reason
    assert world.deeds() == []


@pytest.mark.parametrize("state", ["error", "stopped"])
def test_what_cannot_be_asked_is_read_again_and_destroyed(state: str) -> None:
    world = World(idle(state=state))
    assert reap(world).outcome == "destroyed"
    names = [name for name, _ in world.calls if name != "wait"]
    assert names == ["get_instance", "delete_instance", "get_instance"]


def test_silence_counts_only_after_three_questions() -> None:
    world = World(idle(reachable=False))
    outcome = reap(world)
    assert (outcome.outcome, world.machines) == ("destroyed", {})
    assert len(world.named("status")) == ASKS == 3


def test_one_answer_in_three_questions_is_an_answer() -> None:
    world = World(idle(reachable=False, in_flight=1))
    world.at(3, lambda: setattr(world.machines["a"], "reachable", True))
    assert "in flight" in reap(world).reason
    assert world.deeds() == []


@pytest.mark.parametrize("at", range(ASKS))
def test_nonsense_once_in_three_questions_is_no_silence(at: int) -> None:
    world = World(idle())
    answers: list[Exception] = [Unreachable("it cannot be reached: refused.")] * ASKS
    answers[at] = Garbled("it answers, but not with JSON: '<html>'.")
    world.fail("status", *answers)
    outcome = reap(world)
    assert outcome.outcome == "failed"
    assert "cannot be asked" in outcome.reason
    assert world.deeds() == []


DOWN = AgentDown("the port answers, but the agent behind it does not (yet).")


@pytest.mark.parametrize("times", [ASKS, MOST_ASKS - 1])
def test_an_agent_that_is_down_behind_a_living_nginx_gets_the_time_to_come_back(times: int) -> None:
    world = World(idle(in_flight=1))
    world.fail("status", *[DOWN] * times)
    assert "in flight" in reap(world).reason
    assert world.deeds() == []


def test_an_agent_that_stays_down_is_silence_all_the_same() -> None:
    world = World(idle())
    world.fail("status", *[DOWN] * MOST_ASKS)
    assert reap(world).outcome == "destroyed"
    assert len(world.named("status")) == MOST_ASKS


def test_a_mere_look_does_not_wait_for_an_agent_that_is_down() -> None:
    world = World(idle())
    world.fail("status", DOWN)
    status, trouble, silent = ask(world, world.connect(world.list_instances()[0], Secret(KEY)), tries=1)
    assert (status, silent) == (None, True)
    assert "the port answers, but" in trouble


def test_silence_of_limited_reach_is_reported_as_a_failure_and_kept() -> None:
    world = World(idle(reachable=False, labels=label_map(activity=IDLE, reach="limited")))
    outcome = reap(world)
    assert outcome.outcome == "failed"
    assert "cannot be asked" in outcome.reason
    assert world.deeds() == []


def test_a_certificate_that_is_not_vouched_for_is_no_answer() -> None:
    world = World(idle(labels=label_map(activity=IDLE, reach="limited")))
    world.fail("status", *[Untrusted("not vouched for by our key.")] * 3)
    outcome = reap(world)
    assert outcome.outcome == "failed"
    assert "not vouched for" in outcome.reason


def test_one_without_an_address_cannot_be_asked() -> None:
    world = World(idle(address=None, labels=label_map(activity=IDLE, reach="limited")))
    assert "its key or its address is not known" in reap(world).reason
    assert world.named("status") == []


def test_where_the_user_data_may_not_be_read_the_configured_key_serves_for_asking_but_not_for_the_deed() -> None:
    world = World(idle(in_flight=1))
    world.fail("get_instance", DENIED)
    assert "in flight" in reap(world, key=Secret(KEY)).reason
    world.machines["a"].in_flight = 0
    world.fail("get_instance", DENIED, DENIED)
    outcome = reap(world, key=Secret(KEY))
    assert outcome.outcome == "failed"
    assert world.deeds() == []


def test_a_dry_run_does_everything_but_the_deed() -> None:
    world = World(idle())
    outcome = reap(world, dry_run=True)
    assert (outcome.outcome, outcome.reason) == ("planned", "would destroy it: idle for 2 h 46 min")
    assert world.named("status")
    assert world.deeds() == []


@pytest.mark.parametrize("request_seen", [None, OTHER_NONCE], ids=["somebody else's", "another nonce"])
def test_a_dry_run_plans_nothing_that_the_real_one_would_leave_alone(request_seen: str | None) -> None:
    world = World(idle(request=request_seen))
    outcome = reap(world, dry_run=True)
    assert outcome.outcome == "failed"
    assert "does not carry the nonce" in outcome.reason


# -- whose it is


@pytest.mark.parametrize("request_seen", [None, OTHER_NONCE], ids=["somebody else's", "another nonce"])
@pytest.mark.parametrize("state", ["running", "stopped", "error"])
def test_a_label_alone_never_condemns_a_machine(state: str, request_seen: str | None) -> None:
    world = World(idle(state=state, request=request_seen))
    outcome = reap(world, key=Secret(KEY))
    assert outcome.outcome == "failed"
    assert "remove its exollama labels" in outcome.reason
    assert world.deeds() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {}},
        {"labels": label_map(activity=IDLE, owner="v2")},
        {"managed": True},
        {"labels": label_map(activity=IDLE, request="")},
    ],
    ids=["no labels", "another version", "a pool's", "no nonce"],
)
@pytest.mark.parametrize("state", ["running", "stopped", "error"])
def test_what_is_not_ours_is_never_touched(state: str, changes: dict[str, Any]) -> None:
    world = World(idle(state=state, **changes))
    assert reap(world).outcome in ("kept", "failed")
    assert world.deeds() == []


@pytest.mark.parametrize(
    "event",
    [
        lambda m: m.labels.update(label_map(activity=NOW)),
        lambda m: m.labels.update(team="seven"),
        lambda m: m.labels.clear(),
        lambda m: setattr(m, "state", "stopping"),
        lambda m: setattr(m, "state", "stopped"),
    ],
    ids=["activity", "a foreign label", "no labels", "stopping", "stopped"],
)
def test_what_changed_between_the_list_and_the_deed_is_kept(event: Any) -> None:
    world = World(idle())
    before = world.list_instances()[0]
    world.before["status"] = lambda: event(world.machines["a"])
    outcome = reap_one(world, world.connect, before)
    assert outcome.outcome == "kept"
    assert world.deeds() == []


def test_what_is_gone_meanwhile_is_no_failure() -> None:
    world = World(idle())
    before = world.list_instances()[0]
    world.machines.clear()
    assert reap_one(world, world.connect, before).reason == "gone meanwhile"


def test_what_goes_between_the_question_and_the_deed_is_no_failure() -> None:
    world = World(idle())
    world.before["status"] = lambda: setattr(world.machines["a"], "state", "destroying")
    assert reap(world).outcome == "kept"
    assert world.deeds() == []


# -- nothing escapes


@pytest.mark.parametrize(
    "error",
    [LOST, BUSY, DENIED, ApiError("GET", "/instance/a", 500, "broken"), ClockError("clock is 1:00:00 behind")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("call", ["get_instance", "delete_instance"])
def test_no_failure_of_the_api_escapes_and_each_is_told(call: str, error: Exception) -> None:
    world = World(idle())
    world.fail(call, *[error] * 9)
    outcome = reap(world)
    if call == "get_instance" and error is DENIED:
        assert outcome.outcome in ("failed", "kept")
    else:
        assert outcome.outcome == "failed"
        assert str(error).rstrip(".") in outcome.reason
    assert "a" in world.machines


def test_what_nobody_thought_of_does_not_escape_either() -> None:
    world = World(idle())
    world.fail("status", ZeroDivisionError("odd"))
    outcome = reap(world)
    assert outcome.outcome == "failed"
    assert "odd" in outcome.reason
    assert world.deeds() == []


@pytest.mark.parametrize("label", ["t99991231T235959Z", "t00010101T000000Z"], ids=["end of time", "beginning of time"])
@pytest.mark.parametrize("key", ["activity", "deadline"])
@pytest.mark.parametrize("reachable", [True, False])
def test_no_time_label_makes_it_escape(key: str, label: str, reachable: bool) -> None:
    world = World(idle(reachable=reachable, labels=label_map(**{"activity": IDLE, key: label})))  # type: ignore[arg-type]
    assert reap(world).outcome in ("kept", "destroyed", "failed")


# -- the whole


def test_one_that_is_deleted_by_hand_while_it_stops_is_no_failure() -> None:
    world = World(idle(labels=label_map(activity=IDLE, action="stop")))
    world.operations["stop_instance"] = {"id": "op", "state": "pending"}
    world.at(4, world.machines.clear)
    assert reap(world).outcome in ("stopped", "kept")


def test_only_labels_and_user_data_that_agree_vouch_for_an_instance() -> None:
    assert vouched(World(idle()).get_instance("a"))
    assert not vouched(World(idle()).list_instances()[0])
    assert not vouched(World(idle(request=OTHER_NONCE)).get_instance("a"))
    assert not vouched(World(idle(managed=True)).get_instance("a"))
