"""The zones that answer the contract tests."""

import re
from collections.abc import Iterator

import pytest

from client.endpoint import Endpoint
from functions.transport import urllib3_send
from tests.bridge import Urllib3Mock
from tests.zones import Zones


@pytest.fixture
def zones(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zones]:
    served = Zones("ch-gva-2", "de-fra-1")
    monkeypatch.setattr(Endpoint, "of", served.endpoint)
    # What goes over http.client in a pass is answered as well.
    monkeypatch.setattr("functions.transport.http_client_send", urllib3_send())
    with Urllib3Mock(assert_all_requests_are_fired=False) as mock:
        for method in ("GET", "POST", "PUT", "DELETE"):
            mock.add_callback(method, re.compile(r"https://api-.*"), callback=served.answer)
        yield served
