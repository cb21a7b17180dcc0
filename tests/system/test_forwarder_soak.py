"""The forwarder between programs of every kind and instances that are reaped, restarted, fenced and deleted beneath.

EXOLLAMA_SOAK_REQUESTS is how many requests are made at least (3,000), through one forwarder in this process and one
that is a process of its own, while `reap_idle` runs every second.
"""

import itertools
import json
import os
import random
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from client import boot
from client.running import forward
from functions import provision
from tests.simulator import Simulator
from tests.system.crowd import Ledger, Program
from tests.system.hurried import LOOK_S
from tests.system.mishaps import Book, Mishaps, Reaper, upstream_sockets
from tests.system.verbs import Clerk, Running
from tests.tally import TALLY

REQUESTS = int(os.environ.get("EXOLLAMA_SOAK_REQUESTS", "3000"))
REAPS = REQUESTS // 1500
PROGRAMS = 40
WAVE, STRIKES = 500, 2
PATIENCE_S = 120 + REQUESTS / 5
"""What a machine gets that is several times slower than a small one."""


class Soak:
    """Programs, a reaper and mishaps over one zone, in waves: requests of all kinds, then a lull."""

    def __init__(self, simulator: Simulator, clerk: Clerk, urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.simulator, self.urls = simulator, urls
        self.random = random.Random(1)
        self.ledger = Ledger()
        self.book = Book(simulator)
        self.book.keep(monkeypatch)
        self.mishaps = Mishaps(simulator, self.ledger, self.book)
        self.storm, self.over = threading.Event(), threading.Event()
        self.reaper = Reaper(settings := clerk.settings(), self.over, monkeypatch)
        self.programs = [
            Program(self.ledger, number, partial(self.url, number), settings.model, self.storm, self.over)
            for number in range(PROGRAMS)
        ]

    def url(self, number: int) -> str:
        return self.urls[number % len(self.urls)]

    def run(self) -> None:
        """Waves until there was enough of everything."""
        threads = [self.reaper, *self.programs]
        until_s = time.monotonic() + PATIENCE_S
        for thread in threads:
            thread.start()
        try:
            for lull in itertools.cycle([self.until_reaped, self.until_fenced, self.forsaken]):
                self.wave()
                if self.enough():
                    return
                assert time.monotonic() < until_s, self.summary()
                assert not self.troubles, self.troubles[0]
                lull()
        finally:
            self.over.set()
            for thread in threads:
                thread.join()

    @property
    def troubles(self) -> list[str]:
        return self.book.wrongs + self.ledger.troubles + self.reaper.troubles

    def enough(self) -> bool:
        met = {mishap.kind for mishap in self.mishaps.done}
        met_all = met >= {*self.mishaps.kinds, "forsaken"}
        given_up = self.reaper.counts["fences"] > self.reaper.counts["commits"]
        return len(self.ledger.requests) >= REQUESTS and met_all and given_up and self.book.ends()["reaped"] >= REAPS

    def wave(self) -> None:
        """Requests, with mishaps among them, and until the last of them has its answer."""
        asked = len(self.ledger.requests)
        self.storm.set()
        for _ in range(STRIKES):
            time.sleep(self.random.uniform(0.1, 0.5))
            self.mishaps.strike()
        wait(lambda: len(self.ledger.requests) >= asked + WAVE, 30)
        self.storm.clear()
        wait(lambda: all(r.end for r in self.ledger.requests[asked:]), 90)

    # -- lulls

    def until_reaped(self) -> None:
        """Nobody asks for anything, and the instance goes; so does one that was forsaken before."""
        self.simulator.advance(610)
        for _ in range(15):  # the forwarders write their last use down once more, which counts from then
            wait(lambda: not self.book.open, 0.7)
            self.simulator.advance(2)

    def until_fenced(self) -> None:
        """The next wave begins just when the reaper has put up its fence."""
        self.reaper.fenced.clear()
        self.simulator.advance(5)
        wait(lambda: self.reaper.fenced.is_set() or not self.book.open, 10)

    def forsaken(self) -> None:
        """A reaper dies behind its commit; another ends that machine once it has switched itself off."""
        for life in self.book.open:
            seen = self.simulator.instance(life.id)
            until_s = time.monotonic() + 5
            while not self.mishaps.befall("forsaken", seen, False, self.mishaps.fence_and_commit):
                if life.shut or time.monotonic() > until_s:
                    return  # reaped after all
                time.sleep(0.2)

    # -- what came of it

    def breaks(self) -> Iterator[tuple[str, str]]:
        """Of each answer that broke, or that Ollama never gave, its kind and what is to blame."""
        for request in self.ledger.of("broken") + self.ledger.of("silent"):
            blamed = self.mishaps.blame(request)
            yield request.kind, blamed.kind if blamed else f"nobody knows: {request}"

    def summary(self) -> str:
        broken = Counter(by for _, by in self.breaks())
        lines = ["", *self.ledger.table(), "", f"{'':<16}{'times':>8}{'live':>8}{'broken':>8}"]
        for kind in dict.fromkeys(mishap.kind for mishap in self.mishaps.done):
            met = [mishap for mishap in self.mishaps.done if mishap.kind == kind]
            lines.append(f"{kind:<16}{len(met):>8}{sum(m.live for m in met):>8}{broken.pop(kind, 0):>8}")
        lines += [f"broken by {by}" for by in broken]
        for words, times in Counter(f"{r.how}: {r.words[:300]}" for r in self.ledger.lost).most_common(12):
            lines.append(f"lost {times} times, {words}")
        return "\n".join([*lines, f"reaper: {dict(self.reaper.counts)}", f"lives: {dict(self.book.ends())}"])


def wait(true: Callable[[], object], seconds: float) -> None:
    """Until something is so, but no longer than that."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)


def ask(url: str, path: str, said: object = None) -> Any:
    body = None if said is None else json.dumps(said).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, body), timeout=60) as answer:
        return json.load(answer)


@contextmanager
def served(clerk: Clerk) -> Iterator[tuple[str, Running]]:
    """`exollama serve` in a process of its own, and its URL."""
    with clerk.running("serve", "--listen", "127.0.0.1:0", "--json", module="tests.system.hurried") as run:
        run.until(lambda: run.out.endswith("\n"), "its address")
        yield json.loads(run.out)["url"], run
        run.process.send_signal(signal.SIGTERM)
        run.end().ended(0)


@pytest.mark.timeout(120 + PATIENCE_S)
def test_of_thousands_of_requests_none_is_lost_and_each_break_is_somebody_elses_than_the_reapers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    began = time.monotonic()
    monkeypatch.setattr(boot, "LOOK_S", LOOK_S)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # where the forwarders of one machine wait for each other
    with Simulator(["ch-gva-2"], operation_s=0.01, start_s=0.02) as simulator, ExitStack() as stack:
        simulator.ollama(token_s=0.004)
        clerk = Clerk(simulator, monkeypatch, nap_s=0.05)
        clerk.env = {**clerk.env, "EXOSCALE_IDLE_TIMEOUT": "1"}
        settings = clerk.settings()
        library = stack.enter_context(forward(settings, wake=partial(provision.run, settings)))
        process, serving = stack.enter_context(served(clerk))
        soak = Soak(simulator, clerk, [library, process], monkeypatch)
        try:
            soak.run()
            statuses = [ask(url, "/.exollama/status") for url in soak.urls]
        finally:
            TALLY.raced += soak.summary().splitlines()
        # The last one goes as well, once nobody uses it any more.
        for url in soak.urls:
            ask(url, "/api/generate", {"model": settings.model, "prompt": "the last", "stream": False})
        time.sleep(3)  # a forwarder writes a use down within a second, and would later take it for a young one
        simulator.advance(700)
        wait(lambda: len(simulator.instances()) == 1, 10)
        passes = [soak.reaper.once(), soak.reaper.once()]
        wait(lambda: not upstream_sockets() + upstream_sockets(serving.process.pid), 15)
        left = upstream_sockets(), upstream_sockets(serving.process.pid)
        violations = simulator.violations
        creates = len(simulator.called("create-instance"))
        gone = simulator.instances()
    TALLY.raced += [f"forwarder: {status['requests']}, woken {status['wakes']} times" for status in statuses]
    TALLY.raced.append(f"passes at the end: {passes}; all of it in {time.monotonic() - began:.0f} s")
    assert soak.ledger.lost == []
    assert [by for _, by in soak.breaks() if by.startswith("nobody")] == []
    assert soak.troubles == []
    assert violations == []
    for status in statuses:
        assert (status["held"], status["in_flight"]) == (0, 0)
        assert status["requests"]["repeated"]
    assert sum(status["requests"]["refused"] for status in statuses) == len(soak.ledger.of("refused"))
    assert creates == len(soak.book.lives), "one after the other, as the book says"
    assert left == (0, 0)
    assert gone == []
