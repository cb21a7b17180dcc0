"""The disk, built once, and a cloud of virtual machines for each file."""

from collections.abc import Iterator

import pytest

from tests.boot import cloud as clouds
from tests.boot import image as images


@pytest.fixture(scope="session")
def image() -> images.Image:
    """The disk that every machine starts from."""
    return images.build()


@pytest.fixture(scope="module")
def cloud(image: images.Image) -> Iterator[clouds.Cloud]:
    with clouds.running(image) as one:
        yield one
        assert one.simulator.violations == []
