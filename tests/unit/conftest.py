"""An agent that runs, for the tests of it as a process."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.unit.machine")

from tests.unit.machine import Machine  # noqa: E402 - after its asserts were registered


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
