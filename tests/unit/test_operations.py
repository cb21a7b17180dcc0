"""Asynchronous operations: polled until they end, and every way of not ending well is told."""

from typing import Any

import pytest

from client.api import Api, poll_s
from client.errors import ApiError, OperationFailed
from tests.fakes import NOW, ZONE, settings
from tests.scripted import Answer, Script, reply

PENDING = {"id": "op-1", "state": "pending"}


class Rig:
    """An Api over a script; `slept` are the seconds that it slept in all."""

    def __init__(self, *answers: Answer) -> None:
        self.script = Script(*answers or (reply(),))
        self.slept = 0.0
        self.api = Api(settings(), ZONE, self.script, clock=NOW.timestamp, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds


def test_an_operation_that_is_final_at_once_is_not_polled() -> None:
    rig = Rig()
    done = {"id": "op-1", "state": "success", "reference": {"id": "i"}}
    assert rig.api.wait(done, "creating", 60) == done
    assert (rig.script.requests, rig.slept) == ([], 0)


def test_an_operation_is_polled_until_it_ends_and_its_last_state_returned() -> None:
    rig = Rig(reply(PENDING), reply(PENDING), reply({"id": "op-1", "state": "success", "reference": {"id": "i"}}))
    assert rig.api.wait(PENDING, "creating", 60)["reference"] == {"id": "i"}
    assert [request.url.rpartition("/v2")[2] for request in rig.script.requests] == ["/operation/op-1"] * 3
    assert rig.slept == 3 * poll_s(0)


def test_a_success_without_a_reference_is_one() -> None:
    assert Rig().api.wait({"id": "op-1", "state": "success"}, "creating", 60) == {"id": "op-1", "state": "success"}


@pytest.mark.parametrize("state", ["failure", "timeout"])
@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "no reason given"),
        ({"reason": "busy"}, "busy"),
        ({"message": "out of hosts"}, "out of hosts"),
        ({"reason": "fault", "message": "out of hosts"}, "fault, out of hosts"),
        ({"reason": None, "message": None}, "no reason given"),
    ],
    ids=["nothing", "reason", "message", "both", "nulls"],
)
@pytest.mark.parametrize("polls", [0, 2])
def test_a_failed_operation_says_what_failed_and_why(state: str, told: dict[str, Any], words: str, polls: int) -> None:
    ended = {"id": "op-1", "state": state} | told
    rig = Rig(*[reply(PENDING)] * (polls - 1), reply(ended))
    with pytest.raises(OperationFailed, match=rf"^(?i:creating) .*{state} \({words}\)\.$") as failure:
        rig.api.wait(ended if polls == 0 else PENDING, "creating", 60)
    assert (failure.value.state, failure.value.reason) == (state, told.get("reason"))
    assert len(rig.script.requests) == polls


@pytest.mark.parametrize("state", ["done", "", None, 1, ["pending"]], ids=repr)
def test_a_state_that_nobody_knows_is_a_failure_and_is_shown(state: object) -> None:
    with pytest.raises(OperationFailed, match="a state that nobody knows"):
        Rig().api.wait({"id": "op-1", "state": state}, "creating", 60)


def test_a_pending_operation_without_an_id_is_a_failure() -> None:
    with pytest.raises(OperationFailed, match=r"(?i:creating)"):
        Rig().api.wait({"state": "pending"}, "creating", 60)


@pytest.mark.parametrize("patience_s", [0.0, 60.0, 900.0])
def test_an_operation_that_never_ends_is_given_up_after_the_patience(patience_s: float) -> None:
    rig = Rig(reply(PENDING | {"message": "working"}))
    with pytest.raises(OperationFailed, match=r"pending.*no end after \d+ s"):
        rig.api.wait(PENDING, "creating", patience_s)
    assert patience_s <= rig.slept <= patience_s + 60


def test_an_operation_that_cannot_be_asked_for_raises_what_the_api_raises() -> None:
    with pytest.raises(ApiError, match="GET /operation/op-1: gone"):
        Rig(reply({"message": "gone"}, 404)).api.wait(PENDING, "creating", 60)


@pytest.mark.parametrize(
    ("elapsed_s", "wait_s"),
    [(0, 0.5), (1.9, 0.5), (2, 1), (4.9, 1), (5, 3), (30, 3), (900, 60), (5000, 60)],
    ids=lambda value: f"{value}s",
)
def test_the_polls_are_quick_first_and_then_as_far_apart_as_the_official_clients(
    elapsed_s: float, wait_s: float
) -> None:
    assert poll_s(elapsed_s) == wait_s


def test_labels_are_written_as_a_whole_map_and_waited_for() -> None:
    rig = Rig(reply(PENDING), reply({"id": "op-1", "state": "success"}))
    rig.api.put_labels("i", {"a": "b"})
    put, poll = rig.script.requests
    assert (put.method, put.url.rpartition("/v2")[2], put.body) == ("PUT", "/instance/i", b'{"labels": {"a": "b"}}')
    assert poll.method == "GET"
