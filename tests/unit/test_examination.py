"""What is said of a running instance, from what it answered."""

from datetime import timedelta
from typing import Any

import pytest

from client.errors import AgentDown, EndpointError, Garbled, KeyRejected, OllamaError, Unreachable, Untrusted
from functions.examination import ASKED, by_answer, deadline
from functions.findings import FAILED, OK, UNCHECKED, WARNING
from tests.fakes import NOW
from tests.unit.instances import ago, seen

READY: dict[str, Any] = {"boot": {"phase": "ready"}, "in_flight": 0, "idle_s": 60, "fence": None}
BOOTING = READY | {"boot": {"phase": "docker"}}
BROKEN = READY | {"boot": {"phase": "pull", "log": ["no space left"], "error": {"phase": "pull", "message": "full"}}}
FENCED = READY | {"fence": {"owner": "f" * 32, "committed": False}}
YOUNG: dict[str, Any] = {"created": ago(minutes=2), "activity": ago(minutes=2)}
OLD: dict[str, Any] = {"created": ago(days=2), "activity": ago(hours=5)}


@pytest.mark.parametrize(
    ("answer", "age", "trouble", "state", "words"),
    [
        (READY, OLD, "", OK, "used 60 s ago"),
        (BOOTING, YOUNG, "boot", WARNING, "in phase docker"),
        (BOOTING, OLD, "boot", FAILED, "not ready within its boot timeout"),
        (BROKEN, OLD, "boot", FAILED, "failed in phase pull: full"),
        (FENCED, OLD, "fence", WARNING, "shut"),
        (Unreachable("refused."), OLD, "reachable", FAILED, "refused"),
        (Unreachable("refused."), YOUNG, "reachable", WARNING, "refused"),
        (AgentDown("nginx is up."), OLD, "reachable", FAILED, "nginx is up"),
        (AgentDown("nginx is up."), YOUNG, "reachable", WARNING, "nginx is up"),
        (Garbled("nonsense."), YOUNG, "reachable", FAILED, "nonsense"),
        (Untrusted("not vouched for."), OLD, "certificate", FAILED, "not vouched for"),
        (KeyRejected("401."), OLD, "key", FAILED, "401"),
        (OllamaError("500 it says.", status=500), OLD, "boot", FAILED, "500 it says"),
    ],
    ids=str,
)
def test_each_check_is_told_and_what_builds_on_one_that_failed_is_not_checked(
    answer: dict[str, Any] | EndpointError, age: dict[str, Any], trouble: str, state: str, words: str
) -> None:
    found = by_answer(answer, seen(**age), NOW, "ab" * 32)
    assert tuple(one.check for one in found) == ASKED
    by_check = {one.check: one for one in found}
    assert by_check[trouble or "boot"].state == state
    assert words in by_check[trouble or "boot"].says
    after = ASKED[ASKED.index(trouble) + 1 :] if isinstance(answer, EndpointError) else ()
    others = {one.check: one.state for one in found if one.check != trouble}
    assert others == {check: UNCHECKED if check in after else OK for check in others}
    assert all(bool(one.do) is (one.state != OK) for one in found)


def test_where_nginx_answers_for_its_agent_nobody_is_sent_to_look_at_a_firewall() -> None:
    reachable, *_ = by_answer(AgentDown("nginx is up."), seen(**OLD), NOW, "")
    assert "network" not in reachable.do
    assert "exollama stop --force" in reachable.do


def test_who_is_let_in_is_said_where_nobody_answers() -> None:
    (limited, *_), (open_, *_) = (
        by_answer(Unreachable("refused."), seen(reach=reach, **OLD), NOW, "") for reach in ("limited", "any")
    )
    assert "EXOSCALE_ALLOWED_CIDRS" in limited.do
    assert "whole internet" in open_.do


@pytest.mark.parametrize(
    ("left", "state"), [(timedelta(days=3), OK), (timedelta(hours=3), WARNING), (timedelta(hours=-1), WARNING)]
)
def test_a_deadline_within_a_day_is_a_warning(left: timedelta, state: str) -> None:
    assert deadline(seen(deadline=NOW + left), NOW).state == state


def test_no_deadline_is_said_to_be_none() -> None:
    assert deadline(seen(deadline="none"), NOW).says == "none was set."
