"""One simulated cloud with a real model, one forwarder before it, and what the engine itself counts."""

from __future__ import annotations

import os
import re
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests import real_model
from tests.simulator import Simulator
from tests.simulator.driver import status
from tests.system.serving import Served, serving
from tests.system.verbs import User

FIGURES: list[str] = []


@pytest.fixture(scope="session")
def cloud() -> Iterator[Simulator]:
    try:
        controls = real_model.controls()
    except real_model.Missing as missing:
        pytest.exit(str(missing), returncode=1)
    with Simulator(operation_s=0.01, start_s=0.02) as simulator:
        simulator.ollama(**controls)
        yield simulator
        assert simulator.violations == []


@pytest.fixture(scope="session")
def user(cloud: Simulator) -> User:
    return User(cloud, EXOSCALE_OLLAMA_MODEL=real_model.MODEL)


@pytest.fixture(scope="session")
def forwarder(user: User) -> Iterator[Served]:
    with serving(user) as served:
        yield served
        served.end()


@pytest.fixture
def served(forwarder: Served) -> Served:
    """A forwarder behind which an instance is ready and the model loaded: waking was another's concern."""
    answer = forwarder.ask("POST", "/api/generate", {"model": real_model.MODEL}, timeout_s=60)
    assert answer.json["done_reason"] == "load", answer
    return forwarder


@dataclass(frozen=True)
class Engine:
    """llama.cpp itself, beside whatever the stand-in makes of it."""

    cloud: Simulator

    @property
    def url(self) -> str:
        """Where it listens, by its own log's last word on that."""
        root = self.cloud.instance().root
        assert root is not None
        log = (root.parent / "ollama.log").read_text(errors="replace")
        return str(re.findall(r"listening on (http://127\.0\.0\.1:\d+)", log)[-1])

    def counts(self) -> dict[str, float]:
        """Its metrics by name: prompt_tokens_total, tokens_predicted_total, requests_processing and the like."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:  # it tells between two batches
            lines = [line.split() for line in answer.read().decode().splitlines() if line[:1] != "#"]
        return {words[0].removeprefix("llamacpp:"): float(words[1]) for words in lines if len(words) == 2}

    def rests(self, within_s: float) -> dict[str, float]:
        """Its metrics once neither it nor the instance has a request any more."""
        seen = self.cloud.instance()
        began = time.monotonic()
        self.cloud.wait(lambda: status(seen)["in_flight"] == 0, "nothing is in flight", within_s)
        self.cloud.wait(lambda: self.counts()["requests_processing"] == 0, "the engine rests", within_s)
        assert time.monotonic() - began < within_s
        return self.counts()


@pytest.fixture
def engine(cloud: Simulator) -> Engine:
    return Engine(cloud)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured and not asserted."""
    for line in FIGURES:
        terminalreporter.write_line(f"{line}; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
