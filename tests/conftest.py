"""What holds for every test: no network, no inherited settings, nothing left running, no chance in CI."""

import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import isolation
from tests.tally import TALLY

# database=None: nothing is written into the checkout. Of time nothing is held against a test: a busy machine is no bug.
settings.register_profile("local", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

pytest.register_assert_rewrite(
    "tests.unit.machine", "tests.unit.read_page", "tests.unit.reference"
)  # whom other folders import, too

GUARD = isolation.NetworkGuard()
LEFT: list[str] = []
HOME = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    home = Path(tempfile.mkdtemp(prefix="exollama-home-"))
    config.stash[HOME] = home
    isolation.isolate(os.environ, home)
    GUARD.install()


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[HOME], ignore_errors=True)


@pytest.fixture(autouse=True)
def network() -> Iterator[isolation.NetworkGuard]:
    """The guard; a test that was refused something fails, even where it swallowed the refusal."""
    GUARD.refused.clear()
    yield GUARD
    assert not GUARD.refused, f"reached for the network: {GUARD.refused}"


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """What ends a process does so as before once a test is over: a verb that ran in this one installs its own."""
    kept = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in kept]
    yield
    for number, handler in zip(kept, before, strict=True):
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Fail the run where something is left running, here or in a worker, once the workers have ended."""
    yield
    LEFT.extend(isolation.leftovers())
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:  # this is a worker: what it found goes to whoever started it
        output.update(left=LEFT, tally=TALLY.plain())
    elif LEFT:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("")
            reporter.write_line("left running after the tests:\n  " + "\n  ".join(LEFT), red=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was gone through; with -s, which faults and kills, in a table."""
    for heading, lines in TALLY.sections():
        terminalreporter.section(heading)
        for line in lines:
            terminalreporter.write_line(line)
    for line in TALLY.summary():
        terminalreporter.write_line(line)
    if terminalreporter.config.option.capture == "no":
        for line in TALLY.table():
            terminalreporter.write_line(line)


# -- workers (pytest -n): each isolates itself, looks for what it left running, and counts


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """A worker is a Python of its own, and does not inherit `-X dev`."""
    if sys.flags.dev_mode:
        for spec in specs:
            spec.python = f"{shlex.quote(sys.executable)} -X dev"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Gather from a worker that has ended; one that crashed says nothing, and has failed its test."""
    output: dict[str, Any] = getattr(node, "workeroutput", None) or {}
    LEFT.extend(output.get("left", []))
    if "tally" in output:
        TALLY.add(output["tally"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a worker, the files that may take longest begin first, so that none of them is what all others wait for."""
    if not hasattr(config, "workerinput"):
        return
    limits_s: dict[Path, float] = {}
    for item in items:
        mark = item.get_closest_marker("timeout")
        limits_s[item.path] = max(limits_s.get(item.path, 0.0), mark.args[0] if mark else 0.0)
    items.sort(key=lambda item: -limits_s[item.path])
