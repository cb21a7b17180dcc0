"""Waiting for a boot: noticed within a second, told as it goes, and every way of failing with phase and log."""

from collections.abc import Callable
from typing import Any

import pytest

from client.boot import MISTRUST_S, POLL_S, UNREACHABLE, Board, failure, first, wait_ready
from client.errors import BootFailed, KeyRejected, OllamaError, Unreachable, Untrusted
from tests.fakes import status

PHASES = "nginx docker image container model warmup".split()


class Booting:
    """An endpoint whose status depends on the seconds slept; `answer` may raise."""

    def __init__(self, answer: Callable[[float], dict[str, Any]]) -> None:
        self.answer = answer
        self.elapsed_s = 0.0
        self.asked_at: list[float] = []
        self.looks: list[float] = []
        self.told: list[tuple[str, float | None]] = []

    def status(self) -> dict[str, Any]:
        self.asked_at.append(self.elapsed_s)
        return self.answer(self.elapsed_s)

    def wait(self, *, budget_s: float = 60.0, look: Callable[[], None] = lambda: None) -> dict[str, Any]:
        def sleep(seconds: float) -> None:
            self.elapsed_s += seconds

        def looked() -> None:
            self.looks.append(self.elapsed_s)
            look()

        return wait_ready(
            self,
            budget_s=budget_s,
            look=looked,
            progress=lambda phase, percent, _: self.told.append((phase, percent)),
            monotonic=lambda: self.elapsed_s,
            sleep=sleep,
        )


def unreachable() -> dict[str, Any]:
    raise Unreachable("it cannot be reached: refused.")


@pytest.mark.parametrize("ready_at", [0.0, 0.1, 1.0, 7.3, 59.9])
def test_ready_is_noticed_within_a_second(ready_at: float) -> None:
    booting = Booting(lambda s: status() if s >= ready_at else status(phase="model"))
    assert booting.wait()["boot"]["phase"] == "ready"
    assert booting.elapsed_s - ready_at < 1
    assert POLL_S < 1


def test_silence_is_waited_out_and_phases_and_percent_are_told() -> None:
    def answer(elapsed_s: float) -> dict[str, Any]:
        if elapsed_s < 1:
            return unreachable()
        said = status(phase="ready" if elapsed_s >= 2 else "model")
        said["boot"]["percent"] = 41.5
        return said

    booting = Booting(answer)
    booting.wait()
    assert booting.told == [("starting", None)] * 2 + [("model", 41.5)] * 2


@pytest.mark.parametrize("percent", ["41", float("nan"), -1, 101, [41]], ids=str)
def test_what_is_no_percentage_is_not_told_as_one(percent: Any) -> None:
    def answer(elapsed_s: float) -> dict[str, Any]:
        said = status(phase="ready" if elapsed_s >= POLL_S else "model")
        said["boot"]["percent"] = percent
        return said

    booting = Booting(answer)
    booting.wait()
    assert booting.told == [("model", None)]


@pytest.mark.parametrize("phase", PHASES)
def test_a_boot_that_fails_in_a_phase_is_told_at_once_with_phase_and_log(phase: str) -> None:
    booting = Booting(lambda s: status(phase=phase) if s < 2 else status(failed=phase))
    with pytest.raises(
        BootFailed, match=f"failed in phase {phase}: it broke[.]\n  [|] first line\n  [|] last line"
    ) as end:
        booting.wait()
    assert (end.value.phase, end.value.log) == (phase, ("first line", "last line"))
    assert booting.elapsed_s == 2


@pytest.mark.parametrize("phase", PHASES)
def test_a_boot_that_never_ends_fails_after_its_budget_with_the_phase_last_seen(phase: str) -> None:
    booting = Booting(lambda _: status(phase=phase))
    with pytest.raises(BootFailed, match=f"Not ready after 60 s; last seen in phase {phase}.*BOOT_TIMEOUT") as end:
        booting.wait()
    assert end.value.phase == phase
    assert booting.elapsed_s == 60


def test_an_endpoint_that_stays_silent_is_said_to_be_unreachable_and_why() -> None:
    booting = Booting(lambda _: unreachable())
    with pytest.raises(BootFailed, match="cannot be reached: refused") as end:
        booting.wait(budget_s=5)
    assert end.value.phase == UNREACHABLE


def test_one_that_answers_again_at_the_end_is_not_called_unreachable() -> None:
    booting = Booting(lambda s: unreachable() if s < 4.9 else status(phase="image"))
    with pytest.raises(BootFailed, match="last seen in phase image") as end:
        booting.wait(budget_s=5)
    assert end.value.phase == "image"


def refused(error: Exception) -> dict[str, Any]:
    raise error


def test_a_wrong_key_is_not_waited_for() -> None:
    booting = Booting(lambda _: refused(KeyRejected("401")))
    with pytest.raises(KeyRejected):
        booting.wait()
    assert booting.asked_at == [0.0]


def test_an_agent_that_fails_for_a_while_is_asked_again_and_one_that_fails_for_good_is_told_in_its_words() -> None:
    broken = OllamaError("it answered 500: the agent failed", status=500)
    booting = Booting(lambda s: refused(broken) if s < 3 else status())
    assert booting.wait()["boot"]["phase"] == "ready"
    with pytest.raises(BootFailed, match="the agent failed"):
        Booting(lambda _: refused(broken)).wait()


def test_a_certificate_that_stays_unproved_is_waited_for_no_longer_than_a_restart_of_nginx_takes() -> None:
    booting = Booting(lambda _: refused(Untrusted("not vouched for")))
    with pytest.raises(Untrusted):
        booting.wait()
    assert booting.elapsed_s == MISTRUST_S


def test_a_certificate_that_is_made_again_during_a_boot_is_no_failure() -> None:
    booting = Booting(
        lambda s: refused(Untrusted("not vouched for")) if 2 <= s < 4 else status(phase="ready" if s > 6 else "model")
    )
    assert booting.wait()["boot"]["phase"] == "ready"


def test_the_instance_itself_is_looked_at_every_ten_seconds_and_its_end_ends_the_wait() -> None:
    def look() -> None:
        if len(booting.looks) == 3:
            raise LookupError("deleted by hand")

    booting = Booting(lambda _: status(phase="model"))
    with pytest.raises(LookupError, match="deleted by hand"):
        booting.wait(look=look)
    assert booting.looks == [10.0, 20.0, 30.0]


def test_a_budget_of_nothing_still_asks_once() -> None:
    assert Booting(lambda _: status()).wait(budget_s=0)["boot"]["phase"] == "ready"


def test_a_sound_status_tells_of_no_failure_and_a_long_log_is_cut() -> None:
    assert failure(status(phase="model")) is None
    broken = status(failed="docker")
    broken["boot"]["log"] = [f"line {number}" for number in range(30)]
    told = failure(broken)
    assert told
    assert told.log == tuple(f"line {number}" for number in range(10, 30))


@pytest.mark.parametrize(
    "boot", [{}, {"log": None}, {"error": {"message": None}, "log": [1]}], ids=["no log", "null", "odd"]
)
def test_a_failure_that_is_told_incompletely_is_still_told(boot: dict[str, Any]) -> None:
    broken = status(failed="docker")
    del broken["boot"]["log"]
    told = failure(broken | {"boot": broken["boot"] | boot})
    assert told
    assert "The boot failed in phase" in str(told)


@pytest.mark.parametrize(
    ("message", "end"), [("it broke", "it broke."), ("it broke.", "it broke."), ("is it there?", "is it there?")]
)
def test_what_a_failure_says_ends_as_a_sentence_since_another_may_follow(message: str, end: str) -> None:
    broken = status(failed="docker")
    broken["boot"]["error"]["message"] = message
    told = failure(broken)
    assert told
    assert told.summary == f"The boot failed in phase docker: {end}"


def test_nothing_in_a_failure_is_obeyed_by_a_terminal() -> None:
    broken = status(failed="docker")
    broken["boot"]["error"]["phase"] = "do\x1b[2J"
    told = failure(broken)
    assert told
    assert (told.phase, str(told).replace("\n", "").isprintable()) == ("do [2J", True)


@pytest.mark.parametrize(("until_s", "told"), [(0, []), (1, []), (2, ["model"]), (9, ["model"])])
def test_that_something_takes_long_is_told_once_and_only_then(until_s: int, told: list[str]) -> None:
    heard: list[str] = []
    shown: list[tuple[str, float | None, float]] = []
    progress = first(heard.append, lambda *said: shown.append(said))
    for second in range(until_s + 1):
        progress("model", 41.0, float(second))
    assert heard == told
    assert shown == [("model", 41.0, float(second)) for second in range(until_s + 1)]


def test_a_board_that_is_cleared_says_that_nothing_is_under_way() -> None:
    over: list[str] = []
    board = Board(over=lambda: over.append(board.phase))
    board("model", 41.0, 3.0)
    board.clear()
    assert over == [""]
