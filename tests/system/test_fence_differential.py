"""The agent's Fence class against a real nginx with the real agent process: every answer agrees, restarts included.

EXOLLAMA_FENCE_EXAMPLES is how many sequences are drawn (12); each step of one costs real time.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.client import HTTPException, HTTPResponse
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.agent import load
from tests.simulator.userdata import place
from tests.system.instance import Instance, running, until

EXAMPLES = int(os.environ.get("EXOLLAMA_FENCE_EXAMPLES", "12"))
A, B, C = (letter * 32 for letter in "abc")
Step = tuple[str, Any]

PART_S = 47.0  # of a lease of 120 s: no sum of these is near its end
LONG_S = 1000.0

STEP = st.one_of(
    st.tuples(st.sampled_from(["put", "put", "commit", "commit", "delete"]), st.sampled_from([A, A, B, C])),
    st.tuples(st.sampled_from(["ask", "begin"]), st.sampled_from(["POST", "GET"])),
    st.tuples(st.sampled_from(["touch", "keyless", "end", "leave", "restart agent", "restart nginx"]), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([PART_S, PART_S, LONG_S])),
)


class Stream:
    """A request whose answer has begun and ends when the test says so."""

    def __init__(self, instance: Instance, method: str, number: int) -> None:
        self.upstream, self.method, self.id = instance.upstream, method, f"stream-{number}"
        self.upstream.gates[self.id] = threading.Semaphore(0)
        path = "/api/generate" if method == "POST" else "/api/tags"
        self._asking: AbstractContextManager[HTTPResponse] = instance.asking(method, f"{path}?chunks=1&id={self.id}")
        self.answer = self._asking.__enter__()

    def leave(self) -> None:
        self._asking.__exit__(None, None, None)
        self.upstream.gates[self.id].release()

    def end(self) -> bytes:
        self.upstream.gates[self.id].release()
        try:
            return self.answer.read()
        finally:
            self.leave()


class Pair:
    """The model, which is the agent's own pure class, and the instance that it is compared with."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.agent = load()
        self.fence = self.agent.Fence()
        self.requests, self.touches = instance.requests(), 0
        self.streams: list[Stream] = []
        self.begun = 0

    # -- the model

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) + float(self.instance.offset.read_text())

    def mark(self) -> tuple[int, int]:
        return self.requests, self.touches

    @property
    def shut(self) -> bool:
        self.fence = self.fence.expire(self.now())
        return self.fence.owner is not None

    def used(self, method: str) -> None:
        self.requests += method == "POST"

    # -- steps, each on both sides

    def take(self, step: Step) -> None:
        name, value = step
        if name in ("put", "commit", "delete"):
            self.operate(name, value)
        else:
            getattr(self, name.replace(" ", "_"))(*([] if value is None else [value]))
        self.agree(step)

    def operate(self, name: str, owner: str) -> None:
        path, now = f"/.exollama/fence/{owner}", self.now()
        if name == "put":
            real = self.instance.ask("PUT", path)
            self.fence, expected = self.fence.put(owner, now, self.mark())
        elif name == "commit":
            real = self.instance.ask("POST", f"{path}/commit")
            self.fence, expected = self.fence.commit(owner, now, self.mark(), len(self.streams))
        else:
            real = self.instance.ask("DELETE", path)
            self.fence, expected = self.fence.delete(owner, now)
        status, body = expected
        assert real.status == status, (name, owner, real.body, expected)
        if body:
            said = real.json()
            assert said.get("error") == body.get("error")
            assert said.get("committed") == body.get("committed")

    def ask(self, method: str) -> None:
        path = "/api/generate" if method == "POST" else "/api/tags"
        seen, shut = len(self.instance.upstream.seen), self.shut
        answer = self.instance.ask(method, path)
        assert (answer.status, answer.headers["X-Exollama"]) == ((503, "draining") if shut else (200, None))
        assert len(self.instance.upstream.seen) == seen + (not shut)
        self.used(method)

    def keyless(self) -> None:
        assert self.instance.ask("POST", "/api/generate", key=None).status == 401

    def touch(self) -> None:
        assert self.instance.ask("POST", "/.exollama/touch").status == (503 if self.shut else 204)
        self.touches += 1

    def begin(self, method: str) -> None:
        if self.shut or len(self.streams) == 3:
            return
        self.begun += 1
        stream = Stream(self.instance, method, self.begun)
        assert stream.answer.status == 200
        self.streams.append(stream)

    def end(self) -> None:
        for stream in self.streams[:1]:
            assert stream.end() == b'{"number": 0}\n', "it was accepted, so it ends well"
            self.used(stream.method)
        del self.streams[:1]

    def leave(self) -> None:
        for stream in self.streams[:1]:
            stream.leave()
            self.used(stream.method)
        del self.streams[:1]

    def wait(self, seconds: float) -> None:
        self.instance.advance(seconds)

    def restart_agent(self) -> None:
        self.instance.stop_agent()
        assert self.instance.ask("GET", "/.exollama/status").status == 502
        self.instance.start_agent()

    def restart_nginx(self) -> None:
        """What it was passing on is cut, and never logged."""
        self.instance.stop_nginx()
        self.instance.start_nginx()
        until(self.instance.answers, "nginx")
        for stream in self.streams:
            with pytest.raises((OSError, HTTPException)):
                stream.end()
        self.streams.clear()

    # -- what both sides show

    def agree(self, step: Step) -> None:
        """Each side's view of the fence, once nginx has put down what it has just ended."""
        until(lambda: self.instance.requests() == self.requests, f"nginx's line after {step}")
        until(lambda: self.instance.status()["in_flight"] == len(self.streams), f"the kernel's count after {step}")
        status, shut = self.instance.status(), self.shut
        assert status["requests"] == self.requests
        file = self.instance.run / "fence"
        if shut:
            view = self.fence.view(self.now())
            assert status["fence"]["committed"] == view["committed"], step
            assert abs(status["fence"]["lease_s"] - view["lease_s"]) < 15, step
            kept = json.loads(file.read_text())
            assert (kept["owner"], tuple(kept["mark"])) == (self.fence.owner, self.fence.mark), step
            assert (kept["committed"] is None) == (self.fence.committed is None), step
        else:
            assert status["fence"] is None, step
            assert not file.exists(), step
        assert self.instance.ask("GET", "/api/version").status == (503 if shut else 200), step

    def clear(self) -> None:
        """Ready for the next sequence."""
        while self.streams:
            self.leave()
        if self.shut:
            self.take(("delete", self.fence.owner))
        self.agree(("clear", None))


def leave_commits_alone(instance: Instance) -> None:
    """Its watchdog would carry out itself what nobody did, within a second: what is compared here is the fence."""
    program = place("/opt/exollama/rules.py", instance.root)
    text, line = program.read_text(), "COMMIT_MARGIN_S = 600.0"
    assert text.count(line) == 1
    program.write_text(text.replace(line, "COMMIT_MARGIN_S = 1e9"))
    instance.stop_agent()
    instance.start_agent()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with running(idle_s=10**8) as instance:
        leave_commits_alone(instance)
        pair = Pair(instance)
        try:
            yield pair
        finally:
            for stream in pair.streams:
                stream.leave()


@pytest.mark.timeout(300 + 20 * EXAMPLES)
@settings(
    max_examples=EXAMPLES,
    phases=[Phase.explicit, Phase.generate],  # a failing sequence is short enough, and its steps take their time
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@example([("put", A), ("restart agent", None), ("put", B), ("restart nginx", None), ("commit", A), ("delete", A)])
@example([("put", A), ("commit", A), ("restart agent", None), ("wait", LONG_S), ("commit", A), ("delete", B)])
@example([("begin", "GET"), ("put", A), ("commit", A), ("end", None), ("commit", A), ("ask", "POST"), ("commit", A)])
@example([("begin", "POST"), ("put", A), ("end", None), ("commit", A), ("put", A), ("commit", A), ("delete", A)])
@example([("put", A), ("wait", PART_S), ("put", A), ("wait", PART_S), ("restart agent", None), ("wait", PART_S)])
@example([("put", A), ("touch", None), ("restart agent", None), ("commit", A), ("delete", A), ("touch", None)])
@example([("put", A), ("ask", "POST"), ("commit", A), ("delete", A), ("put", B), ("keyless", None), ("commit", B)])
@given(st.lists(STEP, min_size=6, max_size=14))
def test_the_real_fence_answers_as_its_pure_class_does(pair: Pair, steps: list[Step]) -> None:
    for step in steps:
        pair.take(step)
    pair.clear()
