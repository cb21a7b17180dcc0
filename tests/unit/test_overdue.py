"""What is overdue, and what somebody's wish decides: tables like those of test_policy.py."""

from datetime import timedelta
from typing import Any

import pytest

from client.model import Instance
from functions.policy import Gate, Verb, by_wish, overdue
from tests.fakes import NOW, status
from tests.unit.instances import ago, seen

KEEP, ASK, DESTROY, STOP = Verb.KEEP, Verb.ASK, Verb.DESTROY, Verb.STOP
PAST = NOW - timedelta(minutes=1)

BY_WISH: dict[str, tuple[dict[str, Any], Verb, str]] = {
    "used just now": (status(idle_s=3), DESTROY, "as asked, 3 s after its last use"),
    "idle": (status(idle_s=9000), DESTROY, "as asked, 2 h 30 min after its last use"),
    "in flight": (status(in_flight=2), KEEP, "in use: 2 request(s) in flight"),
    "booting": (status(phase="image"), KEEP, "booting (phase image): somebody may be waiting"),
    "failed boot": (status(failed="docker"), DESTROY, "as asked"),
    "failed boot, kept": (status(failed="docker", keep_failed=True), DESTROY, "as asked"),
}


@pytest.mark.parametrize(("said", "verb", "words"), BY_WISH.values(), ids=BY_WISH)
def test_what_somebodys_wish_decides(said: dict[str, Any], verb: Verb, words: str) -> None:
    decision = by_wish(said, DESTROY)
    assert (decision.verb, decision.gate is Gate.COMMIT) == (verb, verb is DESTROY)
    assert words in decision.reason
    assert by_wish(said, STOP).verb is (KEEP if verb is KEEP else STOP)


# A reaper that runs every few minutes would have acted by now, with 20 minutes to spare.
LABEL_IDLE = 37.5
OLD = ago(hours=5)
OVERDUE: dict[str, tuple[Instance, dict[str, Any] | None, str | None]] = {
    "healthy": (seen(), status(), None),
    "healthy, not asked": (seen(), None, None),
    "idle for 19 minutes more": (seen(activity=ago(minutes=LABEL_IDLE + 19)), status(idle_s=3390), None),
    "idle for 21 minutes more": (seen(activity=ago(minutes=LABEL_IDLE + 21)), status(idle_s=3510), "idle for 38 min"),
    "its own shorter timeout": (seen(activity=ago(minutes=22), idle="s60"), status(idle_s=1320), "idle for 2 min"),
    "its own longer timeout": (seen(activity=OLD, idle="s86400"), status(idle_s=9999), None),
    "used without labels": (seen(activity=OLD), status(idle_s=60), None),
    "used without labels, 49 minutes ago": (seen(activity=OLD), status(idle_s=49 * 60), None),
    "used without labels, 51 minutes ago": (seen(activity=OLD), status(idle_s=51 * 60), "idle for 31 min"),
    "in flight without labels": (seen(activity=OLD), status(idle_s=9999, in_flight=1), None),
    "fenced": (seen(activity=OLD), status(idle_s=9999, fence={"committed": True}), "idle for"),
    "activity unreadable, used": (seen(activity="x"), status(idle_s=60), None),
    "activity unreadable, idle": (seen(activity="x"), status(idle_s=9999), "idle for"),
    "stopping": (seen(state="stopping", activity=OLD), None, None),
    "gone": (seen(state="destroying", activity=OLD), None, None),
    "powered itself off": (seen(state="stopped", activity=OLD), None, "it powered itself off"),
    "stopped by hand just now": (seen(state="stopped", activity=ago(minutes=19)), None, None),
    "stopped, in retention": (seen(state="stopped", action="stop", activity=OLD), None, None),
    "stopped, 19 minutes past retention": (
        seen(state="stopped", action="stop", activity=ago(minutes=24.5 * 60 + 19)),
        None,
        None,
    ),
    "stopped, 21 minutes past retention": (
        seen(state="stopped", action="stop", activity=ago(minutes=24.5 * 60 + 21)),
        None,
        "longer than its retention",
    ),
    "error, young": (seen(state="error", created=ago(minutes=19), activity=ago(minutes=19)), None, None),
    "error, old": (seen(state="error", created=ago(minutes=21), activity=ago(minutes=21)), None, "in state error"),
    "booting": (seen(created=ago(minutes=25), activity=ago(minutes=25)), status(phase="model"), None),
    "boot without an end": (seen(activity=OLD), status(phase="model"), "not ready within its boot timeout"),
    "failed boot": (seen(activity=OLD), status(failed="docker"), "its boot failed in phase docker"),
    "failed boot, young": (seen(activity=ago(minutes=56)), status(failed="docker"), None),
    "failed boot, kept to be looked at": (seen(activity=OLD), status(failed="docker", keep_failed=True), None),
    "deadline, 19 minutes ago": (
        seen(activity=ago(minutes=30), deadline=ago(minutes=19)),
        status(idle_s=1800),
        None,
    ),
    "deadline, 21 minutes ago": (
        seen(activity=ago(minutes=30), deadline=ago(minutes=21)),
        status(idle_s=1800),
        "past its deadline",
    ),
    "deadline, in flight": (seen(activity=ago(minutes=30), deadline=ago(minutes=61)), status(in_flight=1), None),
    "deadline and grace, in flight": (
        seen(activity=ago(minutes=30), deadline=ago(minutes=81)),
        status(in_flight=1),
        "past its deadline",
    ),
    "deadline and grace, in use all the time": (
        seen(deadline=ago(minutes=81)),
        status(in_flight=1),
        "past its deadline",
    ),
    "within the grace, in use all the time": (seen(deadline=ago(minutes=79)), status(in_flight=1), None),
    "within the grace, used just now": (seen(deadline=ago(minutes=79)), status(idle_s=60), None),
    "silent, 39 minutes idle": (seen(activity=ago(minutes=LABEL_IDLE + 39)), None, None),
    "silent, 41 minutes idle": (seen(activity=ago(minutes=LABEL_IDLE + 41)), None, "not reachable"),
    "silent, limited": (seen(activity=OLD, reach="limited"), None, None),
    "silent, limited, past deadline": (seen(activity=OLD, reach="limited", deadline=ago(minutes=79)), None, None),
    "silent, limited, past deadline and grace": (
        seen(activity=OLD, reach="limited", deadline=ago(minutes=81)),
        None,
        "past its deadline and the grace",
    ),
    "silent, activity unreadable": (seen(activity="x"), None, None),
}


@pytest.mark.parametrize(("given_instance", "said", "words"), OVERDUE.values(), ids=OVERDUE)
def test_what_a_reaper_should_have_removed_by_now(
    given_instance: Instance, said: dict[str, Any] | None, words: str | None
) -> None:
    late = overdue(given_instance, NOW, said)
    assert (late is None) is (words is None)
    assert (words or "") in (late or "")
