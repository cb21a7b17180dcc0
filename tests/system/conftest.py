"""Simulated clouds for the system tests: one per module, swept clean between its tests."""

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from client.settings import Secret
from tests.machine import hold_port
from tests.simulator import Options, Simulator
from tests.simulator.driver import launch, ready
from tests.simulator.lodging import Lodging

pytest.register_assert_rewrite(
    "tests.system.verbs", "tests.system.situations", "tests.system.instance", "tests.system.jobs"
)
pytest.register_assert_rewrite("tests.system.programs_ollama", "tests.system.programs_openai", "tests.system.questions")

from tests.system.instance import KEY, Instance, running  # noqa: E402 - after its asserts were registered
from tests.system.verbs import Clerk, User  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture
def port() -> Iterator[int]:
    """One of this machine's loopback, for what a test has listen."""
    with hold_port() as held:
        yield held.getsockname()[1]


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A run in the background of a shell ignores Ctrl-C, and would pass that on to every verb."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """A headless Chromium; while it is there this thread runs no loop of its own."""
    from tests.browser import browser

    with browser() as one:
        yield one


@pytest.fixture
def instance() -> Iterator[Instance]:
    """One instance without a zone around it."""
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def module_cloud() -> Iterator[Simulator]:
    with Simulator(operation_s=0.01, start_s=0.02) as simulator:
        yield simulator


@pytest.fixture
def cloud(module_cloud: Simulator) -> Iterator[Simulator]:
    """A cloud whose instances are real; those of earlier tests are still there, its calls start anew."""
    _clear(module_cloud, Options(operation_s=0.01, start_s=0.02))
    yield module_cloud
    assert module_cloud.violations == []


@pytest.fixture
def empty(cloud: Simulator) -> Simulator:
    """The same without any instance."""
    for seen in cloud.instances():
        cloud.remove(seen.id)
    return cloud


@pytest.fixture
def user(cloud: Simulator) -> User:
    return User(cloud)


@pytest.fixture
def here(cloud: Simulator, monkeypatch: pytest.MonkeyPatch) -> Clerk:
    """The user of the same cloud, inside this process."""
    return Clerk(cloud, monkeypatch, nap_s=0.03)


@pytest.fixture(scope="session")
def session_lodging() -> Iterator[Lodging]:
    with Simulator(operation_s=0.01, start_s=0.02) as simulator:
        lodging = Lodging(simulator, ready(simulator, launch(simulator, key=Secret(KEY), idle_s=10**8, deadline=None)))
        yield lodging
        lodging.close()


@pytest.fixture
def lodging(session_lodging: Lodging) -> Iterator[Lodging]:
    """A cloud, always empty at first, whose instances are ready as soon as they have started, if their key is KEY."""
    simulator = session_lodging.simulator
    _clear(simulator, Options(operation_s=0.01, start_s=0.02))
    for seen in simulator.instances():
        simulator.remove(seen.id)
    yield session_lodging
    assert simulator.violations == []


@pytest.fixture(scope="module")
def module_records() -> Iterator[Simulator]:
    with Simulator(operation_s=0.01, start_s=0.0, machines=False) as simulator:
        yield simulator


@pytest.fixture
def records(module_records: Simulator) -> Iterator[Simulator]:
    """A cloud, always empty at first, whose instances are records only: quick, and nothing answers at an address."""
    _clear(module_records, Options(operation_s=0.01, start_s=0.0, machines=False))
    for zone in module_records.zones.values():
        for seen in module_records.instances(zone.name):
            module_records.remove(seen.id)
        zone.groups = dict(list(zone.groups.items())[:1])
        zone.operations.clear()
    yield module_records
    assert module_records.violations == []


@pytest.fixture
def clerk(records: Simulator, monkeypatch: pytest.MonkeyPatch) -> Clerk:
    """The user of the cloud of records."""
    return Clerk(records, monkeypatch, nap_s=0.002)


def _clear(simulator: Simulator, options: Options) -> None:
    simulator.clear_faults()
    simulator.skew(0)
    simulator.boot()
    for name in Options.__dataclass_fields__:
        setattr(simulator.options, name, getattr(options, name))
    simulator._machines.controls.clear()
    simulator.ollama()
    simulator.api.calls.clear()
