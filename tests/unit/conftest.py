"""An agent that runs, for the tests of it as a process; and what fuzzing covered, for the end of the run."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.unit.machine", "tests.unit.reference")

from tests.unit.machine import Machine  # noqa: E402 - after its asserts were registered

_FUZZED = pytest.StashKey[Counter[str]]()


@pytest.fixture(scope="session")
def fuzzed(pytestconfig: pytest.Config) -> Counter[str]:
    """Counts cases by how they ended."""
    return pytestconfig.stash.setdefault(_FUZZED, Counter())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash.get(_FUZZED, Counter[str]())
    if counts:
        cases = sum(count for how, count in counts.items() if not how.startswith(("refused", "written again: a key")))
        terminalreporter.section(f"fuzzed: {cases:,} cases")
        for how in sorted(counts):
            terminalreporter.write_line(f"{counts[how]:>9,} {how}")


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
