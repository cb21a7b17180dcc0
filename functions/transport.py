"""`Send` over urllib3's connection pool. The only module that imports urllib3, and only when it is used.

Neighbours: fills the seam that `client.transport` defines. Retrying is `client.api`'s matter, hence `retries=False`.
"""

from importlib.util import find_spec

from client.transport import (
    MAX_BODY,
    Disconnected,
    Request,
    Response,
    Send,
    http_client_send,
    once,
    settled,
    tls_context,
)

CONNECT_TIMEOUT_S = 10.0


def urllib3_send() -> Send:
    """A Send over a pool of its own: thread-safe, keep-alive, no redirects, no retries. It raises Disconnected only."""
    import urllib3
    from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

    plain = urllib3.PoolManager(num_pools=16, maxsize=8)
    # Left to itself, urllib3 reads whom the system trusts once per connection, which is most of a pass.
    secure = once(lambda: urllib3.PoolManager(num_pools=16, maxsize=8, ssl_context=tls_context()))

    def outcome(request: Request) -> Response | Disconnected:
        pool = secure() if request.url.startswith("https:") else plain
        try:
            answer = pool.request(
                request.method,
                request.url,
                body=request.body or None,
                headers=dict(request.headers),
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=request.timeout_s),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            body = answer.read(MAX_BODY + 1)
            answer.release_conn()
        except (ConnectTimeoutError, NewConnectionError) as error:
            return Disconnected(f"cannot connect: {error}", sent=False)
        except (HTTPError, OSError) as error:
            return Disconnected(f"no answer: {type(error).__name__}: {error}", sent=True)
        if len(body) > MAX_BODY:
            return Disconnected(f"the answer is over {MAX_BODY >> 20} MiB", sent=True)
        return Response(answer.status, {k.lower(): v for k, v in answer.headers.items()}, body)

    return lambda request: settled(outcome(request))


def sparing_send() -> Send:
    """The same for passes over all zones, most of which find nothing to do: the pool is there from the first deed on.

    Until then each zone is asked for its lists, on a host of its own, where a pool has nothing to keep alive; and to
    import urllib3 takes longer than all of that. Raises ModuleNotFoundError at once where it is missing.
    """
    if find_spec("urllib3") is None:
        raise ModuleNotFoundError("urllib3 is not installed; run: python -m pip install 'urllib3>=2.6.3,<3'")
    pooled = once(urllib3_send)

    def send(request: Request) -> Response:
        begins = request.method == "GET" and request.url.endswith(("/zone", "/instance", "/instance-type"))
        return (http_client_send if begins else pooled())(request)

    return send
