"""What the searches covered stands at the end of the run."""

from collections.abc import Callable

import pytest

from tests.tally import TALLY


@pytest.fixture
def told() -> Callable[[str], None]:
    """Keeps a line for the end of the run."""
    return TALLY.searched.append
