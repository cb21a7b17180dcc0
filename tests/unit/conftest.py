"""An agent that runs, for the tests of it as a process; and the count of what fuzzing covered."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import API_KEY, API_SECRET, KEY
from tests.tally import TALLY
from tests.unit.machine import Machine


@pytest.fixture(scope="session")
def fuzzed() -> Counter[str]:
    """Counts cases by how they ended; they stand at the end of the run."""
    return TALLY.fuzzed


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    root = Path(tempfile.mkdtemp(prefix="exo-"))
    found = Machine(root, **getattr(request.function, "policy", {}))
    try:
        found.start()
        yield found
    finally:
        found.stop()
        found.listener.close()
        shutil.rmtree(root)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a verb that runs in this process finds in its environment."""
    monkeypatch.setenv("EXOSCALE_API_KEY", API_KEY)
    monkeypatch.setenv("EXOSCALE_API_SECRET", API_SECRET)
    monkeypatch.setenv("EXOSCALE_OLLAMA_KEY", KEY)
