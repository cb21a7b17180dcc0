"""The bridge from `responses` to urllib3 behaves as a server would, retries and pools included."""

import json
from collections.abc import Iterator

import pytest
import urllib3
from responses import matchers
from responses.registries import OrderedRegistry

from tests.bridge import UnmatchedRequestError, Urllib3Mock

URL = "https://api.example/v2/instance/a:start"


@pytest.fixture
def mock() -> Iterator[Urllib3Mock]:
    with Urllib3Mock() as active:
        yield active


def test_a_registered_answer_arrives_with_status_headers_and_body(mock: Urllib3Mock) -> None:
    mock.put(URL, json={"state": "pending"}, status=202, headers={"Date": "Mon, 23 Nov 2026 18:15:00 GMT"})
    response = urllib3.PoolManager().request("PUT", URL, body=b"{}")
    assert (response.status, response.json()) == (202, {"state": "pending"})
    assert response.headers["Date"] == "Mon, 23 Nov 2026 18:15:00 GMT"


def test_a_call_is_recorded_exactly_as_it_was_about_to_be_sent(mock: Urllib3Mock) -> None:
    mock.put(URL, match=[matchers.query_param_matcher({"q": "a b"}), matchers.json_params_matcher({"k": 1})])
    headers = {"Content-Type": "application/json", "Authorization": "x"}
    urllib3.PoolManager().request("PUT", f"{URL}?q=a%20b", body=b'{"k": 1}', headers=headers)
    request = mock.calls[0].request
    assert (request.method, request.url, request.body) == ("PUT", f"{URL}?q=a%20b", b'{"k": 1}')
    assert request.headers["authorization"] == "x"


def test_ports_are_part_of_the_url_unless_they_are_the_default(mock: Urllib3Mock) -> None:
    mock.get("http://127.0.0.1:8080/zone", body="a")
    mock.get("https://127.0.0.1/zone", body="b")
    http = urllib3.PoolManager()
    assert http.request("GET", "http://127.0.0.1:8080/zone").data == b"a"
    assert http.request("GET", "https://127.0.0.1:443/zone").data == b"b"


def test_an_unmatched_call_names_itself_and_is_not_retried() -> None:
    with Urllib3Mock(assert_all_requests_are_fired=False) as mock:
        mock.get(URL)
        with pytest.raises(UnmatchedRequestError, match=r"DELETE https://api\.example/other") as failure:
            urllib3.PoolManager().request("DELETE", "https://api.example/other", retries=5)
        assert not isinstance(failure.value, Exception)
        assert len(mock.calls) == 0


def test_an_exception_as_body_is_a_connection_error_and_each_retry_is_one_call(mock: Urllib3Mock) -> None:
    mock.get(URL, body=ConnectionResetError("reset by peer"))
    with pytest.raises(urllib3.exceptions.MaxRetryError, match="reset by peer"):
        urllib3.PoolManager().request("GET", URL, retries=urllib3.Retry(2, backoff_factor=0))
    assert len(mock.calls) == 3


def test_without_retries_a_connection_error_surfaces_once(mock: Urllib3Mock) -> None:
    mock.get(URL, body=ConnectionResetError("reset by peer"))
    with pytest.raises(urllib3.exceptions.ProtocolError, match="reset by peer"):
        urllib3.PoolManager().request("GET", URL, retries=False)
    assert len(mock.calls) == 1


def test_urllib3_itself_retries_a_status_it_was_told_to_retry() -> None:
    with Urllib3Mock(registry=OrderedRegistry) as mock:
        mock.get(URL, status=503, headers={"Retry-After": "0"})
        mock.get(URL, body="ok")
        retries = urllib3.Retry(1, status_forcelist=[503], backoff_factor=0)
        assert urllib3.PoolManager().request("GET", URL, retries=retries).data == b"ok"
        assert len(mock.calls) == 2


@pytest.mark.parametrize("preload", [True, False])
def test_a_blocking_pool_of_one_connection_does_not_starve(mock: Urllib3Mock, preload: bool) -> None:
    mock.get("https://api.example/zone", json={"zones": []})
    pool = urllib3.HTTPSConnectionPool("api.example", maxsize=1, block=True)
    for _ in range(3):
        response = pool.request("GET", "/zone", preload_content=preload, pool_timeout=0.1)
        assert json.loads(response.read() if not preload else response.data) == {"zones": []}
        response.release_conn()
    pool.close()


def test_after_an_error_a_blocking_pool_has_its_connection_back(mock: Urllib3Mock) -> None:
    mock.get("https://api.example/zone", body=TimeoutError("slow"))
    pool = urllib3.HTTPSConnectionPool("api.example", maxsize=1, block=True)
    for _ in range(3):
        with pytest.raises(urllib3.exceptions.ProtocolError, match="slow"):
            pool.request("GET", "/zone", retries=False, pool_timeout=0.1)
    pool.close()


def test_a_registered_answer_that_nobody_asked_for_fails_the_test() -> None:
    mock = Urllib3Mock()
    mock.start()
    mock.get(URL)
    with pytest.raises(AssertionError, match="Not all requests have been executed"):
        mock.stop()
