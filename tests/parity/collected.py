"""Which tests there are, by pytest's own collection: `python -m tests.parity.collected FILE...` prints them as JSON.

In a process of its own, since a run that collects keeps what it collected in the modules of its process.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterable

import pytest

from tests.parity.table import ROOT

_LEAVES_OUT = re.compile(r"\b(?:skip|xfail|importorskip|optional|needed|as_root)\(")
"""How a test leaves itself out where it stands, by itself or through tests/deploy/tools.py."""


class Collector:
    """A plugin that gathers each test's id and whether it may be left out where it stands."""

    def __init__(self) -> None:
        self.found: dict[str, bool] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            marked = any(item.get_closest_marker(name) for name in ("skip", "skipif", "xfail"))
            source = inspect.getsource(item.function) if isinstance(item, pytest.Function) else ""
            self.found[item.nodeid] = marked or _LEAVES_OUT.search(source) is not None


def collect(files: Iterable[str]) -> dict[str, bool]:
    """The ids of these files' tests, and whether each may be left out; a file that cannot be imported has none."""
    argv = [sys.executable, "-m", "tests.parity.collected", *sorted(set(files))]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    found: dict[str, bool] = json.loads(done.stdout.splitlines()[-1])
    if not found:
        raise AssertionError(f"pytest collects nothing:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return found


def main() -> int:
    """Print the ids as one line of JSON; exit code of pytest."""
    collector = Collector()
    flags = ["--collect-only", "--continue-on-collection-errors", "-qq", "-p", "no:cacheprovider"]
    code = pytest.main([*flags, *sys.argv[1:]], plugins=[collector])
    print(f"\n{json.dumps(collector.found)}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
