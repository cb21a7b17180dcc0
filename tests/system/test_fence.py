"""The real fence: the rendered nginx and agent between clients at every stage of a request and several reapers.

EXOLLAMA_FENCE_REQUESTS is how many requests are made at least (2,000), across a tenth as many attempts to reap, of
which one in twenty succeeds beneath the clients.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.system.clients import Client, Ledger
from tests.system.instance import Instance, running, until
from tests.system.reapers import Mishaps, Reaper, Zone, hasty, wished
from tests.tally import TALLY

REQUESTS = int(os.environ.get("EXOLLAMA_FENCE_REQUESTS", "2000"))
ATTEMPTS, REAPS = REQUESTS // 10, REQUESTS // 200
ROUNDS = 3
CLIENTS = 48
JUDGES = [hasty, hasty, hasty, wished, wished, None, None]
PATIENCE_S = 120 + REQUESTS / 5
"""What a machine gets that is several times slower than a small one."""


class Round:
    """Clients, reapers and mishaps at once until there were enough of them, then the end of all."""

    def __init__(self, zone: Zone, number: int) -> None:
        self.zone, self.ledger = zone, zone.ledger
        self.storm, self.over = threading.Event(), threading.Event()
        seed = number * 1000
        self.threads = [
            *(Client(self.ledger, seed + n, self.storm, self.over) for n in range(CLIENTS)),
            *(Reaper(zone, judge, self.over, seed=seed + n) for n, judge in enumerate(JUDGES)),
            Mishaps(zone, self.over, seed=seed),
        ]

    def run(self, share: float, until_s: float) -> None:
        for thread in self.threads:
            thread.start()
        try:
            while (
                len(self.ledger.requests) < REQUESTS * share
                or self.zone.counts["attempts"] < ATTEMPTS * share
                or self.zone.counts["reaped"] < REAPS * share
            ):
                assert not self.ledger.troubles, self.ledger.troubles[0]
                assert time.monotonic() < until_s, (self.ledger.counts(), self.zone.counts)
                self.wave()
        finally:
            self.over.set()
            for thread in self.threads:
                thread.join()

    def wave(self) -> None:
        """Requests of all kinds, then a lull in which the machine may go."""
        asked = len(self.ledger.requests)
        self.storm.set()
        wait(lambda: len(self.ledger.requests) >= asked + 80, 20)
        self.storm.clear()
        life, passes = self.zone.life, self.zone.counts["passes"]
        wait(lambda: self.zone.life > life or self.zone.counts["passes"] >= passes + 15, 20)


def wait(true: Callable[[], bool], seconds: float) -> None:
    """Until something is so, but no longer than that."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)


def passes_once_requests_ended(instance: Instance, zone: Zone) -> list[str]:
    """What two passes of reap_idle's kind come to, once the agent has seen the last request end and time went by."""
    zone.powered_off()
    until(instance.answers, "the instance")
    until(lambda: instance.status()["in_flight"] == 0, "the end of all requests")
    until(lambda: instance.status()["requests"] == instance.requests(), "the agent's look at them")
    instance.advance(5)
    reaper = Reaper(zone, None, threading.Event())
    outcomes = [reaper.once(), reaper.once()]
    return [f"{outcome.outcome}: {outcome.reason}" if outcome else "no answer" for outcome in outcomes]


# Python 3.11's wrap_socket leaves a socket open where the other side has reset the connection already.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
@pytest.mark.timeout(60 + 2 * PATIENCE_S)
def test_no_accepted_request_is_cut_and_once_they_end_the_reaper_succeeds_within_two_passes() -> None:
    began = time.monotonic()
    with running(idle_s=1) as instance:
        ledger = Ledger(instance)
        zone = Zone(ledger)
        passes = []
        for number in range(1, ROUNDS + 1):
            Round(zone, number).run(number / ROUNDS, began + PATIENCE_S)
            passes.append(passes_once_requests_ended(instance, zone))
    counts, kinds = ledger.counts(), Counter(r.kind for r in ledger.requests if ledger.accepted(r))
    TALLY.raced += [f"requests: {dict(counts)}", f"accepted, by kind: {dict(kinds)}", f"reapers: {dict(zone.counts)}"]
    TALLY.raced += [f"after each round: {passes}", f"all of it in {time.monotonic() - began:.0f} s"]
    assert ledger.cut_by_reaper() == []
    assert ledger.refused_but_seen() == []
    assert zone.wrongs == []
    assert ledger.troubles == []
    assert not counts["odd"], [r for r in ledger.requests if r.ended == "odd"]
    assert all(r.ended for r in ledger.requests)
    for outcomes in passes:
        assert any(outcome.startswith("destroyed: idle") for outcome in outcomes), passes
    # All of that would also hold where little happened.
    assert len(kinds) == 10, "every kind of client that has the key was accepted"
    assert counts["refused"]
    assert counts["denied"]
    for what in ("another's fence", "commits refused", "workers killed", "agent restarts"):
        assert zone.counts[what], what
