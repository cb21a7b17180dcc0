"""A signal whose exception Python drops, since an object was being taken apart, ends the verb all the same."""

import io
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from client import interrupts
from tests.unit.commands import verb_that, words

pytestmark = pytest.mark.usefixtures("credentials")


class Answer(io.RawIOBase):
    """As an answer of urllib3's: whether it is closed is asked when it is taken apart, and what that raises dropped."""

    def __init__(self, sent: signal.Signals) -> None:
        self.sent: signal.Signals | None = sent

    @property
    def closed(self) -> bool:
        sent, self.sent = self.sent, None
        if sent:
            signal.raise_signal(sent)
        return True


class Finalized:
    def __init__(self, sent: signal.Signals) -> None:
        self.sent = sent

    def __del__(self) -> None:
        signal.raise_signal(self.sent)


class Watched:
    pass


def taken_apart(sent: signal.Signals) -> None:
    Answer(sent)


def finalized(sent: signal.Signals) -> None:
    Finalized(sent)


def called_back(sent: signal.Signals) -> None:
    watched = Watched()
    kept = weakref.ref(watched, lambda _: signal.raise_signal(sent))
    del watched
    assert kept() is None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(interrupts, "AGAIN_S", 0.02)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in a shell's background ignores it
    yield
    signal.signal(signal.SIGINT, before)


def waits() -> int:
    time.sleep(5)
    return 0


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("loses", [taken_apart, finalized, called_back])
@pytest.mark.parametrize("times", [1, 3])
def test_a_signal_that_is_lost_is_raised_until_it_arrives(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sent: signal.Signals,
    code: int,
    loses: Callable[[signal.Signals], None],
    times: int,
) -> None:
    def verb() -> int:
        for _ in range(times):
            loses(sent)
        return waits()

    verb_that(monkeypatch, verb)
    assert words("status") == code
    assert capsys.readouterr().err == "\nexollama: interrupted.\n"


def test_what_is_put_in_order_at_the_end_is_not_interrupted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def verb() -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            steps.append("a fence is lifted")
            time.sleep(0.3)
            steps.append("it is lifted")
        return 0

    verb_that(monkeypatch, verb)
    assert words("status") == 143
    assert steps == ["a fence is lifted", "it is lifted"]


@pytest.mark.timeout(20)
def test_what_is_stuck_at_the_end_is_interrupted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "STUCK_S", 0.3)
    lock = threading.Lock()

    def verb() -> int:
        lock.acquire()  # as one of urllib3's pool whose holder was interrupted just before it let go
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            lock.acquire()
        return 0

    verb_that(monkeypatch, verb)
    assert words("status") == 143


def test_a_lost_signal_does_not_end_a_verb_that_is_done_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "AGAIN_S", 5.0)

    def verb() -> int:
        taken_apart(signal.SIGTERM)
        return 0

    verb_that(monkeypatch, verb)
    assert words("status") == 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)  # nothing comes afterwards


def test_ctrl_c_is_a_chats_own_and_sigterm_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def verb() -> int:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):  # it stops an answer
                signal.raise_signal(signal.SIGINT)
            time.sleep(0.1)
        finalized(signal.SIGTERM)
        return waits()

    verb_that(monkeypatch, verb, "chat")
    assert words("chat") == 143


def test_an_ignored_ctrl_c_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    def verb() -> int:
        signal.raise_signal(signal.SIGINT)
        return 0

    verb_that(monkeypatch, verb)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    assert words("status") == 0


def test_afterwards_every_signal_is_handled_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]

    def verb() -> int:
        assert [signal.getsignal(number) for number in numbers] != before
        return 0

    verb_that(monkeypatch, verb)
    assert words("status") == 0
    assert [signal.getsignal(number) for number in numbers] == before
