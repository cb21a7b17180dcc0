"""An agent that runs, for the tests of it as a process; and the count of what fuzzing covered."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.unit.machine", "tests.unit.reference")

from tests.tally import TALLY  # noqa: E402
from tests.unit.machine import Machine  # noqa: E402 - after its asserts were registered


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
