"""One simulated cloud for what is deployed, swept clean between tests."""

from collections.abc import Iterator

import pytest

from tests.simulator import Simulator

pytest.register_assert_rewrite("tests.system.verbs", "tests.deploy.tools")

from tests.system.verbs import User  # noqa: E402 - after its asserts were registered


@pytest.fixture(scope="module")
def module_cloud() -> Iterator[Simulator]:
    with Simulator(operation_s=0.01, start_s=0.02) as simulator:
        yield simulator


@pytest.fixture
def cloud(module_cloud: Simulator) -> Iterator[Simulator]:
    """A cloud without any instance; those that there are later are real."""
    for seen in module_cloud.instances():
        module_cloud.remove(seen.id)
    module_cloud.api.calls.clear()
    yield module_cloud
    assert module_cloud.violations == []


@pytest.fixture
def user(cloud: Simulator) -> User:
    return User(cloud)
