"""One bundle, one simulated cloud, and each runtime started once, when the first test wants it.

One real machine, booted once, stands in for those of all instances (tests/simulator/lodging.py): nine boots would take
most of the time, and tests/system boots enough of them.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.settings import Secret
from tests.simulator import Simulator
from tests.simulator.driver import launch, ready
from tests.simulator.lodging import Lodging

pytest.register_assert_rewrite("tests.runtimes.drivers", "tests.lambda_api")

from tests.runtimes.drivers import KEY, Runtime  # noqa: E402 - after its asserts were registered

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `nox -s bundle` makes."""
    path = tmp_path_factory.mktemp("bundle") / "exollama-faas.zip"
    subprocess.run([sys.executable, ROOT / "deploy/faas/bundle.py", path], check=True, stdout=subprocess.DEVNULL)
    return path


@pytest.fixture(scope="session")
def session_cloud() -> Iterator[Simulator]:
    with Simulator(operation_s=0.01, start_s=0.02) as simulator:
        lodging = Lodging(simulator, ready(simulator, launch(simulator, key=Secret(KEY), idle_s=10**8, deadline=None)))
        yield simulator
        lodging.close()


@pytest.fixture
def cloud(session_cloud: Simulator) -> Iterator[Simulator]:
    """An empty cloud; its instances are ready as soon as they have started."""
    session_cloud.clear_faults()
    session_cloud.options.operation_s, session_cloud.options.start_s = 0.01, 0.02
    for seen in session_cloud.instances():
        session_cloud.remove(seen.id)
    session_cloud.api.calls.clear()
    yield session_cloud
    assert session_cloud.violations == []


@pytest.fixture(scope="session")
def started(
    bundle: Path, session_cloud: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[type[Runtime]], Runtime]]:
    """Gives a runtime, the same one each time; all are ended with the run."""
    running: dict[type[Runtime], Runtime] = {}

    def give(kind: type[Runtime]) -> Runtime:
        if kind not in running:
            running[kind] = kind(bundle, tmp_path_factory.mktemp(kind.package), session_cloud)
        return running[kind]

    yield give
    for runtime in running.values():
        runtime.close()


@pytest.fixture
def runtime(request: pytest.FixtureRequest, started: Callable[[type[Runtime]], Runtime]) -> Runtime:
    """The one that the test's parameter names."""
    return started(request.param)
