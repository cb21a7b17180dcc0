"""How long an instance has: a table, and that a reaper keeps it until then and acts right after."""

import math
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from client import labels
from client.model import Instance
from functions.policy import Decision, Verb, by_labels, by_probe, by_silence, goes_at
from tests.fakes import DAY, NOW, instance, label_map, status
from tests.unit.instances import ago, seen

MIN = 60
LABEL_S = 2250
"""Idle by label: 30 minutes and a quarter of that."""
# Instance, its own word, whether it was silent (None: not asked), seconds that it has (None: nobody can say).
ROWS: dict[str, tuple[Instance, dict[str, Any] | None, bool | None, float | None]] = {
    "by label alone, used just now": (seen(), None, None, LABEL_S),
    "by label alone, used for the last time 30 min ago": (seen(activity=ago(minutes=30)), None, None, LABEL_S - 1800),
    "by label alone, idle": (seen(activity=ago(hours=5)), None, None, 0),
    "its own timeout": (seen(idle="s60"), None, None, 75),
    "the deadline is sooner": (seen(deadline=NOW + timedelta(seconds=90)), None, None, 90),
    "past its deadline": (seen(deadline=ago(seconds=1)), None, None, 0),
    "by label alone, never used, so its boot may have failed": (seen(created=NOW, activity=NOW), None, None, None),
    "by label alone, never used, idle": (seen(created=ago(hours=5), activity=ago(hours=5)), None, None, None),
    "by label alone, never used, past its deadline": (
        seen(created=ago(hours=5), activity=ago(hours=5), deadline=NOW),
        None,
        None,
        0,
    ),
    "label unusable, not asked": (seen(activity="x"), None, None, None),
    "label unusable, past its deadline": (seen(activity="x", deadline=ago(seconds=1)), None, None, 0),
    "label unusable, asked": (seen(activity="x"), status(idle_s=100), None, 1700),
    "used by its own word, for less than a clock can tell": (
        seen(activity=ago(hours=5)),
        status(idle_s=1799.9999997),
        None,
        0,
    ),
    "idle by label, used by its own word": (seen(activity=ago(hours=5)), status(idle_s=100), None, 1700),
    "used by its own word, the deadline is sooner": (
        seen(activity=ago(hours=5), deadline=NOW + timedelta(seconds=90)),
        status(idle_s=100),
        None,
        90,
    ),
    "idle by its own word, but no reaper asks before its label says so": (
        seen(activity=ago(minutes=35)),
        status(idle_s=2100),
        None,
        150,
    ),
    "idle by label and its own word": (seen(activity=ago(hours=5)), status(idle_s=1800), None, 0),
    "fenced, since a reaper is at it": (
        seen(activity=ago(hours=5)),
        status(idle_s=1800, fence={"committed": False}),
        None,
        0,
    ),
    "in flight": (seen(), status(in_flight=1), None, None),
    "in flight, idle by label": (seen(activity=ago(hours=5)), status(in_flight=1), None, None),
    "in flight, past deadline and grace": (seen(deadline=ago(minutes=61)), status(in_flight=1), None, 0),
    "booting": (seen(), status(phase="model"), None, None),
    "booting, says the list": (seen(state="starting"), None, None, None),
    "booting, not reachable yet": (seen(activity=ago(minutes=1)), None, True, None),
    "boot without an end": (seen(activity=ago(hours=5)), status(phase="model"), None, 0),
    "failed boot": (seen(activity=ago(hours=5)), status(failed="docker"), None, 0),
    "failed boot, kept": (
        seen(activity=ago(hours=5)),
        status(failed="docker", keep_failed=True),
        None,
        19 * 60 * MIN,
    ),
    "failed boot, kept, since nobody knows when": (
        seen(created=None, activity="x"),
        status(failed="docker", keep_failed=True),
        None,
        None,
    ),
    "silent": (seen(activity=ago(minutes=40)), None, True, 17.5 * MIN),
    "silent for long": (seen(activity=ago(hours=5)), None, True, 0),
    "answers with nonsense": (seen(activity=ago(hours=5), deadline=NOW + DAY), None, False, 25 * 60 * MIN),
    "silent, limited": (seen(activity=ago(hours=5), reach="limited", deadline=NOW), None, True, 60 * MIN),
    "silent, limited, no deadline": (seen(activity=ago(hours=5), reach="limited", deadline="none"), None, True, None),
    "stopped, in retention": (seen(state="stopped", action="stop"), None, None, 86400 + 1800),
    "stopped, in retention, nobody asks it": (seen(state="stopped", action="stop"), None, True, 86400 + 1800),
    "stopped, the deadline is sooner": (
        seen(state="stopped", action="stop", deadline=NOW + timedelta(hours=1)),
        None,
        None,
        60 * MIN,
    ),
    "powered itself off": (seen(state="stopped"), None, None, 0),
    "error": (seen(state="error"), None, None, 0),
    "stopping": (seen(state="stopping"), None, None, None),
    "gone": (seen(state="destroying"), None, None, None),
}


@pytest.mark.parametrize(("given_instance", "said", "silent", "seconds"), ROWS.values(), ids=ROWS)
def test_how_long_an_instance_has(
    given_instance: Instance, said: dict[str, Any] | None, silent: bool | None, seconds: float | None
) -> None:
    at = goes_at(given_instance, NOW, said, silent=silent)
    assert (at and (at - NOW).total_seconds()) == (None if seconds is None else pytest.approx(seconds, abs=1e-4))


# -- what holds for everything: the rules of policy.py, put together here as the reaper does it

near = st.integers(-90 * MIN, 3 * 60 * MIN)
far = st.integers(-14 * 86400, 14 * 86400)
labelled = st.fixed_dictionaries(
    {},
    optional={
        "activity": (near | far).map(lambda s: labels.time(NOW + timedelta(seconds=s))) | st.just("x"),
        "deadline": (near | far).map(lambda s: labels.time(NOW + timedelta(seconds=s))) | st.sampled_from(["none", ""]),
        "idle": st.integers(1, 20_000).map(lambda s: f"s{s}"),
        "boot": st.integers(1, 20_000).map(lambda s: f"s{s}"),
        "retention": st.integers(1, 200_000).map(lambda s: f"s{s}"),
        "action": st.sampled_from(["stop", "destroy"]),
        "reach": st.sampled_from(["any", "limited"]),
    },
)
instances = st.builds(
    lambda state, age_s, given: instance(
        state=state, created=None if age_s is None else NOW - timedelta(seconds=age_s), labels=label_map(**given)
    ),
    st.sampled_from("running running starting stopped stopping error destroying".split()),
    st.none() | st.floats(0, 14 * 86400),
    labelled,
)
statuses = st.builds(
    status,
    idle_s=st.floats(0, 20_000) | st.floats(0, 1e9),
    in_flight=st.sampled_from([0, 0, 0, 2]),
    phase=st.sampled_from(["ready", "ready", "model"]),
    failed=st.sampled_from([None, None, "docker"]),
    keep_failed=st.booleans(),
)


def reaper(one: Instance, at: datetime, said: dict[str, Any] | None, silent: bool | None) -> Decision:
    """What a reaper decides then, after a time in which nobody used it. Not asked, it is as idle as its label says."""
    decision = by_labels(one, at)
    if decision.verb is not Verb.ASK or (said is None and silent is None):
        return decision
    if said is None:
        return by_silence(one, at, "silent.", silent=bool(silent))
    return by_probe(one, at, said | {"idle_s": said["idle_s"] + (at - NOW).total_seconds()})


@given(instances, st.none() | statuses, st.sampled_from([None, True, False]))
def test_a_reaper_keeps_it_until_a_second_before_and_acts_a_second_after(
    one: Instance, said: dict[str, Any] | None, silent: bool | None
) -> None:
    written = labels.read_time(one.labels.get(labels.ACTIVITY))
    assume(written is None or one.activity(NOW))  # one in the future counts for nothing now, and for something then
    at = goes_at(one, NOW, said, silent=silent)
    if at is None:
        assert reaper(one, NOW, said, silent).verb in (Verb.KEEP, Verb.ASK)
        return
    left_s = (at - NOW).total_seconds()
    seconds = math.ceil(left_s)
    assert seconds >= 0
    if seconds > 0:
        for before in (0, left_s / 2, max(0, left_s - 1)):
            assert reaper(one, NOW + timedelta(seconds=before), said, silent).verb is Verb.KEEP
    assert reaper(one, NOW + timedelta(seconds=seconds + 1), said, silent).verb is not Verb.KEEP
    assert seconds or reaper(one, NOW, said, silent).verb is not Verb.KEEP
