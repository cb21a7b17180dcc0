"""`responses` for urllib3: tests answer the functions' HTTP calls through it, without a socket.

`responses` patches requests. Here the same registry serves `HTTPConnectionPool._make_request`, below
urllib3's own retries, redirects and pool, so that these run for real. Pinned to responses 0.26: it uses
`_find_match` and `get_response`, since `_on_request` would retry a second time.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import responses
from requests import PreparedRequest
from requests.structures import CaseInsensitiveDict
from urllib3.connectionpool import HTTPConnectionPool


class UnmatchedRequestError(BaseException):
    """A call that no test foresaw: no OSError, which urllib3 would retry, and no Exception at all."""


class Urllib3Mock(responses.RequestsMock):
    """A RequestsMock whose answers urllib3's pools receive.

    Used like `responses`: `mock.get(url, json=…)`, `mock.add_callback(…)`, an exception as `body` fails so.
    `mock.calls[i].request` has method, url, headers and body exactly as they were about to be sent.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(target="urllib3.connectionpool.HTTPConnectionPool._make_request", **kwargs)

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def unbound_on_send(self) -> Callable[..., Any]:  # what `start` puts in the target's place
        def make_request(
            pool: HTTPConnectionPool,
            conn: object,
            method: str,
            url: str,
            *,
            body: Any = None,
            headers: Mapping[str, str] | None = None,
            retries: Any = None,
            response_conn: Any = None,
            decode_content: bool = True,
            **_: object,
        ) -> Any:
            response: Any = self._answer(_prepared(pool, method, url, headers, body))
            # What the real one sets: without a pool and a connection a released response returns nothing to
            # the pool, and a blocking pool starves.
            response._pool, response._connection, response.retries = pool, response_conn, retries
            response.decode_content = decode_content
            return response

        return make_request

    def _answer(self, request: PreparedRequest) -> Any:
        match, reasons = self._find_match(request)
        if match is None:
            known = [f"\n- {m.method} {m.url} {why}" for m, why in zip(self.registered(), reasons, strict=True)]
            raise UnmatchedRequestError(f"no answer for {request.method} {request.url}; known:{''.join(known)}")
        try:
            response: Any = match.get_response(request)
        except Exception as failure:  # noqa: BLE001  # recorded, then raised below
            response = failure
        call = responses.Call(request, response)
        self._calls.add_call(call)
        match.calls.add_call(call)
        if isinstance(response, Exception):
            raise response
        return response


def _prepared(
    pool: HTTPConnectionPool, method: str, url: str, headers: Mapping[str, str] | None, body: Any
) -> PreparedRequest:
    """What `responses` matches against, nothing normalised: the signature covers path and body as sent."""
    request = PreparedRequest()
    request.method, request.body, request.headers = method, body, CaseInsensitiveDict(headers or {})
    port = "" if pool.port in {None, {"http": 80, "https": 443}[pool.scheme]} else f":{pool.port}"
    request.url = f"{pool.scheme}://{pool.host}{port}{url}"
    request.params = responses._default_mock._parse_request_params(request.path_url)  # type: ignore[attr-defined]
    request.req_kwargs = {}  # type: ignore[attr-defined]
    return request
