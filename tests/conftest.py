"""What holds for every test: no network, no inherited settings, nothing left running, no chance in CI."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import isolation

# database=None: nothing is written into the checkout. deadline=None: a busy machine is no bug.
settings.register_profile("local", deadline=None, database=None)
settings.register_profile(
    "ci", settings.get_profile("local"), derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") else "local")

GUARD = isolation.NetworkGuard()
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


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    left = isolation.leftovers()
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("")
            reporter.write_line("left running after the tests:\n  " + "\n  ".join(left), red=True)
