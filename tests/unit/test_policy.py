"""The decisions: one row per sentence of the reaping contract, and what holds for all labels and answers."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import labels
from client.model import Instance
from functions.policy import Decision, Verb, by_labels, by_probe, by_silence, overdue
from tests.fakes import DAY, NOW, instance, label_map, status
from tests.unit.instances import ago, seen

KEEP, ASK, DESTROY, STOP = Verb.KEEP, Verb.ASK, Verb.DESTROY, Verb.STOP
PAST = NOW - timedelta(minutes=1)
LONG_PAST = NOW - timedelta(minutes=61)


BY_LABELS = {
    "used just now": (seen(), KEEP, "by its label used 0 s ago"),
    "used within the timeout": (seen(activity=ago(minutes=29)), KEEP, "by its label used 29 min ago"),
    "within the quarter for skipped writes": (
        seen(activity=ago(seconds=2249)),
        KEEP,
        "by its label, which may be late, used 37 min ago: kept until 37 min",
    ),
    "a quarter past the timeout": (seen(activity=ago(seconds=2250)), ASK, "by its label unused for"),
    "long idle": (seen(activity=ago(hours=5)), ASK, "by its label unused for 5 h 0 min: to be asked"),
    "its own shorter timeout": (
        seen(activity=ago(seconds=75), idle="s60"),
        ASK,
        "by its label unused for 75 s: to be asked",
    ),
    "its own longer timeout": (seen(activity=ago(hours=5), idle="s86400"), KEEP, "used"),
    "a timeout edited by hand is the default": (seen(activity=ago(minutes=29), idle="s0"), KEEP, "used"),
    "activity unreadable": (seen(activity="rubbish"), ASK, "cannot be used"),
    "activity missing": (seen(activity=""), ASK, "cannot be used"),
    "activity in the future": (seen(activity=NOW + timedelta(hours=1)), ASK, "cannot be used"),
    "activity a minute ahead": (seen(activity=NOW + timedelta(minutes=1)), KEEP, "used"),
    "starting and fresh": (seen(state="starting", activity=PAST), KEEP, "used"),
    "starting and idle": (seen(state="starting", activity=ago(hours=5)), ASK, "by its label unused for"),
    "deadline past though used": (seen(deadline=PAST), ASK, "past its deadline"),
    "deadline this second": (seen(deadline=NOW), ASK, "past its deadline"),
    "no deadline in words": (seen(deadline="none"), KEEP, "used"),
    "deadline missing, a week old": (seen(deadline="", created=ago(days=7)), ASK, "past its deadline"),
    "deadline missing, younger": (seen(deadline="", created=ago(days=6.9)), KEEP, "used"),
    "deadline at the end of time": (seen(deadline="t99991231T235959Z"), KEEP, "used"),
    "error": (seen(state="error"), DESTROY, "in state error"),
    "stopping": (seen(state="stopping", activity=ago(days=3)), KEEP, "stopping"),
    "stopping for ever": (
        seen(state="stopping", activity=ago(days=3), deadline=LONG_PAST),
        DESTROY,
        "stopping, and past its deadline and the grace",
    ),
    "migrating": (seen(state="migrating", activity=ago(days=3)), KEEP, "migrating"),
    "a state that nobody knows": (seen(state="dreaming", activity=ago(days=3)), KEEP, "dreaming"),
    "destroying": (seen(state="destroying", activity=ago(days=3)), KEEP, "already destroying"),
    "expunging": (seen(state="expunging", activity=ago(days=3)), KEEP, "already expunging"),
    "stopped, powered itself off": (seen(state="stopped", activity=PAST), DESTROY, "powered itself off"),
    "stopped, action edited by hand": (seen(state="stopped", activity=PAST, action="!"), DESTROY, "powered itself off"),
    "stopped, in retention": (
        seen(state="stopped", action="stop", activity=ago(seconds=86400 + 1800 - 1)),
        KEEP,
        "disk kept until 2026-11-24 12:00 UTC",
    ),
    "stopped, past retention": (
        seen(state="stopped", action="stop", activity=ago(seconds=86400 + 1800)),
        DESTROY,
        "longer than its retention of 86400 s",
    ),
    "stopped, its own retention": (
        seen(state="stopped", action="stop", retention="s60", activity=ago(seconds=1860)),
        DESTROY,
        "retention of 60 s",
    ),
    "stopped, past its deadline": (
        seen(state="stopped", action="stop", activity=PAST, deadline=PAST),
        DESTROY,
        "past its deadline",
    ),
    "stopped, activity unreadable": (seen(state="stopped", action="stop", activity="x"), KEEP, "until its deadline"),
    "stopped, activity unreadable, past deadline": (
        seen(state="stopped", action="stop", activity="x", deadline=PAST),
        DESTROY,
        "past its deadline",
    ),
}


@pytest.mark.parametrize(("given_instance", "verb", "words"), BY_LABELS.values(), ids=BY_LABELS)
def test_what_the_labels_and_the_state_decide(given_instance: Instance, verb: Verb, words: str) -> None:
    decision = by_labels(given_instance, NOW)
    assert decision.verb is verb
    assert words in decision.reason
    assert not decision.trouble


IDLE = ago(hours=5)
BY_PROBE: dict[str, tuple[Instance, dict[str, Any], Verb, str]] = {
    "idle": (seen(activity=IDLE), status(idle_s=1800), DESTROY, "idle for 30 min"),
    "idle, action stop": (seen(activity=IDLE, action="stop"), status(idle_s=1800), STOP, "idle for 30 min"),
    "used by its own word": (seen(activity=IDLE), status(idle_s=1799.5), KEEP, "as it says itself"),
    "its own timeout counts": (seen(activity=IDLE, idle="s60"), status(idle_s=60), DESTROY, "idle for 60 s"),
    "in flight": (seen(activity=IDLE), status(idle_s=9999, in_flight=2), KEEP, "2 request(s) in flight"),
    "booting": (
        seen(activity=IDLE, created=ago(minutes=29)),
        status(idle_s=9999, phase="model"),
        KEEP,
        "booting (phase model)",
    ),
    "boot timed out": (seen(activity=IDLE), status(phase="image"), DESTROY, "boot timeout of 1800 s (phase image)"),
    "booting again, counted from activity": (
        seen(activity=ago(minutes=20)),
        status(phase="model"),
        KEEP,
        "booting",
    ),
    "boot timed out, past its deadline with its own pull in flight": (
        seen(activity=IDLE, deadline=ago(minutes=10)),
        status(phase="model", in_flight=1),
        DESTROY,
        "boot timeout of 1800 s (phase model)",
    ),
    "its own boot timeout": (seen(activity=IDLE, boot="s100000"), status(phase="model"), KEEP, "booting"),
    "failed boot": (
        seen(activity=IDLE, created=PAST),
        status(failed="docker"),
        DESTROY,
        "its boot failed in phase docker",
    ),
    "failed boot, kept": (
        seen(activity=ago(hours=2)),
        status(failed="docker", keep_failed=True),
        KEEP,
        "kept to be looked at until 2026-11-25 10:00 UTC",
    ),
    "failed boot, kept, past retention": (
        seen(activity=ago(days=1)),
        status(failed="docker", keep_failed=True),
        DESTROY,
        "its boot failed",
    ),
    "failed boot, kept, past deadline": (
        seen(activity=ago(hours=2), deadline=PAST),
        status(failed="docker", keep_failed=True),
        DESTROY,
        "",
    ),
    "committed, and gone soon": (
        seen(activity=IDLE),
        status(idle_s=9999, fence={"committed": True, "committed_s": 1799}),
        KEEP,
        "fenced",
    ),
    "committed, and nobody carried it out": (
        seen(activity=IDLE),
        status(idle_s=1, fence={"committed": True, "committed_s": 1800}),
        DESTROY,
        "shut for good 30 min ago, and still there",
    ),
    "committed, by an agent of the first version, that tells no age": (
        seen(activity=IDLE),
        status(idle_s=99999, fence={"committed": True}),
        KEEP,
        "fenced",
    ),
    "fenced by another": (seen(activity=IDLE), status(idle_s=9999, fence={"committed": False}), KEEP, "fenced"),
    "past deadline, quiet": (seen(deadline=PAST), status(idle_s=5), DESTROY, "past its deadline"),
    "past deadline, quiet, action stop": (seen(deadline=PAST, action="stop"), status(), DESTROY, "past its deadline"),
    "past deadline, in flight, in the grace": (seen(deadline=PAST), status(in_flight=1), KEEP, "hour of grace"),
    "past deadline and grace, in flight": (seen(deadline=LONG_PAST), status(in_flight=1), DESTROY, "past its deadline"),
    "at the end of the grace, in flight": (seen(deadline=ago(hours=1)), status(in_flight=1), DESTROY, "deadline"),
    "past deadline, booting": (seen(deadline=PAST), status(phase="model"), DESTROY, "past its deadline"),
    "activity unreadable, idle": (seen(activity="x"), status(idle_s=1800), DESTROY, "idle"),
    "activity unreadable, used": (seen(activity="x"), status(idle_s=60), KEEP, "as it says itself"),
    "no deadline, idle": (seen(activity=IDLE, deadline="none"), status(idle_s=1800), DESTROY, "idle"),
}


@pytest.mark.parametrize(("given_instance", "said", "verb", "words"), BY_PROBE.values(), ids=BY_PROBE)
def test_what_the_instances_own_word_decides(
    given_instance: Instance, said: dict[str, Any], verb: Verb, words: str
) -> None:
    decision = by_probe(given_instance, NOW, said)
    assert decision.verb is verb
    assert words in decision.reason
    assert not decision.trouble


# Idle by label is 37.5 minutes after the activity, with the default timeout; silence is waited for 20 minutes longer.
BY_SILENCE = {
    "booting": (seen(created=ago(minutes=29), activity=ago(minutes=29)), KEEP, "booting", False),
    "booting again": (seen(activity=ago(minutes=29)), KEEP, "booting", False),
    "reach any, idle for less than 20 minutes": (
        seen(activity=ago(minutes=57)),
        KEEP,
        "cannot be asked: refused. Kept until 2026-11-24 12:00 UTC",
        True,
    ),
    "reach any, idle for 20 minutes": (seen(activity=ago(minutes=57.5)), DESTROY, "not reachable", False),
    "reach any, action stop": (seen(activity=ago(minutes=58), action="stop"), STOP, "not reachable", False),
    "reach limited, idle": (
        seen(activity=ago(days=3), reach="limited"),
        KEEP,
        "Kept until 2026-11-30 13:00 UTC",
        True,
    ),
    "reach limited, past deadline": (seen(activity=ago(days=3), reach="limited", deadline=PAST), KEEP, "asked", True),
    "reach limited, past deadline and grace": (
        seen(activity=ago(days=3), reach="limited", deadline=LONG_PAST),
        DESTROY,
        "past its deadline and the grace",
        False,
    ),
    "reach unreadable counts as limited": (seen(activity=ago(days=3), reach="x"), KEEP, "asked", True),
    "reach limited, no deadline": (
        seen(activity=ago(days=3), reach="limited", deadline="none"),
        KEEP,
        "as long as it has no deadline",
        True,
    ),
    "activity unreadable": (seen(activity="x"), KEEP, "Kept until 2026-11-30 13:00 UTC", True),
    "activity unreadable, past deadline and grace": (
        seen(activity="x", deadline=LONG_PAST),
        DESTROY,
        "deadline",
        False,
    ),
    "past deadline and grace, though its label is kept fresh": (seen(deadline=LONG_PAST), DESTROY, "deadline", False),
    "deadline at the end of time": (
        seen(activity=ago(days=3), reach="limited", deadline="t99991231T235959Z"),
        KEEP,
        "cannot be asked",
        True,
    ),
}


@pytest.mark.parametrize(("given_instance", "verb", "words", "trouble"), BY_SILENCE.values(), ids=BY_SILENCE)
def test_what_its_silence_decides(given_instance: Instance, verb: Verb, words: str, trouble: bool) -> None:
    decision = by_silence(given_instance, NOW, "refused.")
    assert decision.verb is verb
    assert words in decision.reason
    assert decision.trouble is trouble


# -- what holds for everything

KEYS = [v for k, v in vars(labels).items() if k.isupper() and isinstance(v, str) and v.startswith("exollama")]
moments = st.integers(-14 * 86400, 14 * 86400).map(lambda s: labels.time(NOW + timedelta(seconds=s)))
values = st.one_of(
    moments,
    st.integers(0, 200_000).map(lambda s: f"s{s}"),
    st.sampled_from("v1 none stop destroy any limited t99991231T235959Z t00010101T000000Z s0 s9999999999".split()),
    st.text(max_size=20),
)
states = st.sampled_from("starting running stopping stopped migrating error destroying destroyed expunging odd".split())
instances = st.builds(
    lambda state, age_s, given: instance(
        state=state, created=None if age_s is None else NOW - timedelta(seconds=age_s), labels=given
    ),
    states,
    st.none() | st.integers(0, 14 * 86400),
    st.dictionaries(st.sampled_from(KEYS), values).map(lambda odd: label_map() | odd),
)
statuses = st.builds(
    status,
    idle_s=st.floats(0, 1e7),
    in_flight=st.integers(0, 5),
    phase=st.sampled_from("starting nginx docker image container model warmup ready".split()),
    failed=st.none() | st.just("docker"),
    fence=st.none() | st.just({"lease_s": 1.0, "committed": False}),
    keep_failed=st.booleans(),
)


def whole(given_instance: Instance, said: dict[str, Any] | None) -> Decision:
    """The decision of a whole pass, the instance answering `said` or nothing."""
    decision = by_labels(given_instance, NOW)
    if decision.verb is not ASK:
        return decision
    return by_silence(given_instance, NOW, "silent.") if said is None else by_probe(given_instance, NOW, said)


@given(instances, st.none() | statuses)
def test_a_decision_never_raises_and_always_has_a_reason(given_instance: Instance, said: dict[str, Any] | None) -> None:
    decision = whole(given_instance, said)
    assert decision.verb in (KEEP, DESTROY, STOP)
    assert decision.reason


@given(instances, statuses)
def test_nothing_that_is_ready_and_in_use_goes_before_the_end_of_its_grace(
    given_instance: Instance, said: dict[str, Any]
) -> None:
    said |= {"in_flight": max(said["in_flight"], 1), "boot": {"phase": "ready", "error": None}}
    deadline = given_instance.policy.deadline
    if given_instance.state not in ("running", "starting") or (deadline and NOW - deadline >= timedelta(hours=1)):
        return
    assert whole(given_instance, said).verb is KEEP


@given(instances, statuses)
def test_nothing_that_was_used_within_its_timeout_by_its_own_word_goes_before_its_deadline(
    given_instance: Instance, said: dict[str, Any]
) -> None:
    policy = given_instance.policy
    said |= {"idle_s": min(said["idle_s"], policy.idle_s - 1), "boot": {"phase": "ready", "error": None}}
    if given_instance.state not in ("running", "starting") or (policy.deadline and policy.deadline <= NOW):
        return
    assert whole(given_instance, said).verb is KEEP


@given(instances)
def test_an_unusable_activity_label_never_condemns_what_cannot_be_asked_before_its_deadline(
    given_instance: Instance,
) -> None:
    forged = {**given_instance.labels, labels.ACTIVITY: labels.time(NOW + DAY)}
    odd = instance(state="running", created=given_instance.created, labels=forged)
    if odd.policy.deadline is None or odd.policy.deadline > NOW:
        assert whole(odd, None).verb is KEEP


@given(instances, st.none() | statuses)
def test_what_is_a_trouble_is_always_kept(given_instance: Instance, said: dict[str, Any] | None) -> None:
    decision = whole(given_instance, said)
    assert not decision.trouble or decision.verb is KEEP


@given(instances.filter(lambda i: i.state in ("running", "starting")), st.none() | statuses)
def test_past_deadline_and_grace_everything_goes_reachable_or_not_in_use_or_not(
    given_instance: Instance, said: dict[str, Any] | None
) -> None:
    late = {**given_instance.labels, labels.DEADLINE: labels.time(NOW - timedelta(hours=1))}
    decision = whole(instance(state=given_instance.state, created=given_instance.created, labels=late), said)
    assert decision.verb is DESTROY


@given(instances, st.none() | statuses)
def test_only_what_a_pass_would_act_upon_is_overdue(given_instance: Instance, said: dict[str, Any] | None) -> None:
    said = said and said | {"fence": None}
    if overdue(given_instance, NOW, said):
        assert whole(given_instance, said).verb is not KEEP
