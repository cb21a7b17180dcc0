"""The functions behind a FaaS: one core, `handle`, and a thin adapter for each way in which a platform calls it.

`invoke` is for AWS Lambda, Scaleway and what is shaped like them; `wsgi` and `asgi` for any container and Knative;
`google` for functions-framework; `openfaas`; `azure` and `azure_timer` for Azure Functions. What comes over HTTP has
to show EXOLLAMA_FUNCTION_TOKEN; schedules and plain events are let in by the platform itself. Neighbours:
`functions.calls` reads what is asked, `functions.answers` writes what goes back, `functions.budget` keeps to the
platform's time. No platform's own package is imported; deploy/faas/ has the few lines that some want beside this.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from client.errors import ApiError, ExollamaError, OutOfTime, SettingsError
from client.settings import Reader, Settings, whole
from client.transport import Send
from functions.budget import Budget
from functions.calls import (
    MAX_BODY,
    BadCall,
    Call,
    Request,
    checked,
    format_of,
    from_event,
    from_request,
    is_http,
    query_of,
    request_of,
)
from functions.transport import sparing_send

if TYPE_CHECKING:
    from functions.answers import Answer

log = logging.getLogger("exollama.faas")

DEFAULT_S: Final = 55
"""How long a call may take where neither the platform nor EXOLLAMA_FUNCTION_TIMEOUT says so."""
LEAST_S: Final = 10
"""With less than this nothing would ever be done, call after call."""
HTTP_S: Final = 25.0
"""How long somebody who waits for an answer over HTTP is kept waiting: gateways give up after half a minute. Not for
reap: who asks for that is a schedule, and an instance that does not answer takes half a minute to be sure of."""
PATIENCE_S: Final = 2.0
"""After how long a call waits for nothing any more; it is asked again until the instance is ready."""
SPARE_S: Final = 1.0
"""What is left of the time for the answer itself."""
RETRY_AFTER_S: Final = 5
READ: Final = 16 * MAX_BODY
"""Bytes of a body that are read though they are too many, so that who sends them sees the answer, and no reset."""


class CallFailed(ExollamaError):
    """A call that nobody waits for over HTTP has failed; raised so that the platform counts it as failed."""


def handle(
    action: str,
    params: Mapping[str, Any],
    env: Mapping[str, str],
    *,
    over_http: bool = False,
    reveal: bool = False,
    remaining_s: float | None = None,
    send: Send | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> tuple[int, dict[str, Any]]:
    """Provision, look (`status`) or reap for somebody who may, and return an HTTP status and an object for JSON.

    200 comes with what the verb's `run` returns, its key masked unless `reveal`. 202 says that the instance is not
    ready yet (`{"phase", "percent", "retry_after_s"}`), or not all is reaped; asking again goes on from there.
    Everything else has `"error"`: 400 for a call that is wrong, 502 where the API fails, 504 where the time was over
    before anything was done, 500 for the rest, such as settings, what could not be reaped, or with `check` what should
    have been.

    `params`, all true or false: `probe` and `check` of status, `dry_run` of reap. `remaining_s`: what the platform
    leaves; `over_http`: whether somebody waits on a connection, so that it has to be soon. Raises nothing of its own.
    """
    began = monotonic()
    try:
        action, params = checked(action, params)
        settings = Settings.from_env(env)
        budget = Budget(_limit_s(action, env, remaining_s, over_http=over_http), sleep=sleep, monotonic=monotonic)
        seams = {"send": budget.send(send or sparing_send()), "sleep": budget.sleep, "clock": clock}
        if action == "provision":
            # Somebody who holds a connection is told at once how far it is; a plain event waits as long as it may.
            patience_s = PATIENCE_S if over_http else budget.total_s
            status, said = _provision(settings, budget, patience_s, reveal=reveal, monotonic=monotonic, **seams)
        else:
            status, said = (_reap if action == "reap" else _look)(settings, **params, **seams)
    except ExollamaError as error:
        status, said = _status(error), {"error": str(error)}
    why = f": {said['error']}" if "error" in said else ""
    level = logging.INFO if status < 400 else logging.WARNING
    log.log(level, "%s: %d after %.1f s%s", action, status, monotonic() - began, why)
    return status, said


def _limit_s(action: str, env: Mapping[str, str], remaining_s: float | None, *, over_http: bool) -> float:
    reader = Reader(env)
    set_s = reader.get("EXOLLAMA_FUNCTION_TIMEOUT", whole("seconds", LEAST_S, 86400), DEFAULT_S)
    if remaining_s is not None and remaining_s < LEAST_S:
        reader.problems.append(
            f"The platform leaves this call {remaining_s:.1f} s, and it takes {LEAST_S}: raise its time limit, to 60 s."
        )
    if reader.problems:
        raise SettingsError(*reader.problems)
    limit_s = (set_s if remaining_s is None else remaining_s) - SPARE_S
    return min(limit_s, HTTP_S) if over_http and action != "reap" else limit_s


def _provision(
    settings: Settings,
    budget: Budget,
    patience_s: float,
    *,
    reveal: bool,
    monotonic: Callable[[], float],
    **seams: Any,
) -> tuple[int, dict[str, Any]]:
    from client.boot import Board
    from functions import provision

    board = Board()
    try:
        result = provision.run(
            settings,
            patience_s=patience_s,
            progress=budget.progress(board),
            monotonic=monotonic,
            **seams,
        )
    except OutOfTime:
        phase = board.phase or "provisioning"
        return 202, {"phase": phase, "percent": board.percent, "retry_after_s": RETRY_AFTER_S}
    return 200, {**result, "key": result["key"].reveal() if reveal else "***"}


def _reap(settings: Settings, **how: Any) -> tuple[int, dict[str, Any]]:
    from functions import reap_idle
    from functions.zones import failures

    result = reap_idle.run(settings, **how)
    if failed := failures(result):
        return 500, {**result, "error": " ".join(failed)}
    outcomes = [one["outcome"] for one in result["instances"]]
    if "unfinished" in outcomes and not {"begun", "destroyed", "stopped"} & set(outcomes):
        stuck = [one for one in result["instances"] if one["outcome"] == "unfinished"]
        return 504, {**result, "error": f"Nothing came of {len(stuck)} instance(s): {stuck[0]['reason']} {_MORE}"}
    if {"begun", "unfinished"} & set(outcomes):
        return 202, {**result, "retry_after_s": RETRY_AFTER_S}
    return 200, result


_MORE: Final = "If that goes on, raise the function's time limit (and EXOLLAMA_FUNCTION_TIMEOUT)."


def _look(settings: Settings, **how: Any) -> tuple[int, dict[str, Any]]:
    from functions import status
    from functions.zones import failures

    result = status.run(settings, **how)
    failed = [*failures(result), *(status.overdue(result) if how.get("check") else ())]
    return (500, {**result, "error": " ".join(failed)}) if failed else (200, result)


def _status(error: ExollamaError) -> int:
    if isinstance(error, BadCall):
        return error.status
    if isinstance(error, OutOfTime):
        return 504
    return 502 if isinstance(error, ApiError) else 500


# -- HTTP, in whatever shape


def answer(request: Callable[[], Request], remaining_s: float | None = None) -> "Answer":
    """Answer an HTTP request; `request` reads it. Raises nothing."""
    from functions.answers import Answer  # which a schedule needs not

    form, head = "json", False  # of an error, which no metric tells
    try:
        asked = request()
        form, head = ("html" if format_of(asked) == "html" else "json"), asked.method == "HEAD"
        call = from_request(asked, os.environ)
        if call.format == "prometheus":  # it tells itself what is overdue, or not seen: that is no failed scrape
            call = call._replace(params={**call.params, "check": True})
        status, said = _do(call, remaining_s, over_http=True)
        form = call.format
        if form == "prometheus":
            status, form = (200, form) if "instances" in said else (status, "json")
        return Answer(status, said, form=form, head=head)
    except BadCall as error:
        log.warning("refused with %d: %s", error.status, error)
        return Answer(error.status, {"error": str(error)}, form=form, allow=error.allow, head=head)
    except Exception:
        log.exception("unexpected")  # a traceback shows code, and no secret
        said = {"error": "Something unexpected happened; the function's log has more. Please report it."}
        return Answer(500, said, form=form, head=head)


def _do(call: Call, remaining_s: float | None, *, over_http: bool) -> tuple[int, dict[str, Any]]:
    return handle(
        call.action,
        call.params,
        os.environ,
        over_http=over_http,
        reveal=call.with_token,
        remaining_s=remaining_s,
    )


def invoke(event: Any, context: Any = None) -> dict[str, Any]:
    """AWS Lambda, Scaleway and what is shaped like them: `functions.faas.invoke` is the handler.

    An HTTP request (function URL, API gateway, load balancer, Scaleway) is answered with `{"statusCode", …}`. A
    schedule reaps, and a plain `{"action": …}` does that; both return what `handle` does, or raise CallFailed.
    """
    tells = getattr(context, "get_remaining_time_in_millis", None)
    remaining_ms = tells() if callable(tells) else None
    remaining_s = remaining_ms / 1000 if isinstance(remaining_ms, int | float) else None
    if is_http(event):
        said = answer(lambda: request_of(event), remaining_s)
        reply = {"statusCode": said.status, "body": said.body.decode(), "isBase64Encoded": False}
        if "headers" in event or "multiValueHeaders" not in event:
            return {**reply, "headers": said.headers}
        # A load balancer that asks with several values to a name reads them so only.
        return {**reply, "multiValueHeaders": {name: [value] for name, value in said.headers.items()}}
    try:
        call = from_event(event, os.environ)
    except BadCall as error:
        log.warning("refused: %s", error)
        raise
    return _unasked(call, remaining_s)


def _unasked(call: Call, remaining_s: float | None = None) -> dict[str, Any]:
    """Do what nobody waits for over HTTP. Raises CallFailed, which `handle` has logged."""
    status, said = _do(call, remaining_s, over_http=False)
    if status >= 400:
        raise CallFailed(str(said["error"]))
    return said


Environ = dict[str, Any]
Headers = list[tuple[str, str]]


def wsgi(environ: Environ, start_response: Callable[[str, Headers], object]) -> Iterable[bytes]:
    """The WSGI application (PEP 3333): `functions.faas:wsgi`."""
    from http import HTTPStatus

    def request() -> Request:
        length = str(environ.get("CONTENT_LENGTH") or "0")
        size = min(int(length[:18]), READ) if length.isdecimal() else 0
        if environ.get("wsgi.input_terminated"):  # the server's word that the body ends by itself, if it is in chunks
            size = READ
        body = environ["wsgi.input"].read(size)
        headers = {name[5:].replace("_", "-"): str(value) for name, value in environ.items() if name[:5] == "HTTP_"}
        return Request(
            method=environ["REQUEST_METHOD"],
            path=environ.get("PATH_INFO", ""),
            query=query_of(environ.get("QUERY_STRING", "")),
            headers=headers,
            body=body,
        )

    said = answer(request)
    start_response(f"{said.status} {HTTPStatus(said.status).phrase}", _sized(said))
    return [said.body]


Message = MutableMapping[str, Any]


async def asgi(
    scope: Mapping[str, Any],
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """The ASGI application (3.0): `functions.faas:asgi`. Each request runs in a thread of its own."""
    import asyncio

    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"].removeprefix("lifespan.")
            await send({"type": f"lifespan.{event}.complete"})
            if event == "shutdown":
                return
    if scope["type"] != "http":
        raise BadCall(400, f"This application speaks HTTP, not {scope['type']}.")
    body = bytearray()
    while len(body) < READ:
        part = await receive()
        if part["type"] == "http.disconnect":
            return
        body += part.get("body", b"")
        if not part.get("more_body"):
            break
    request = Request(
        method=scope["method"],
        path=scope["path"],
        query=query_of(scope["query_string"].decode("latin-1")),
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
        body=bytes(body),
    )
    said = await asyncio.to_thread(answer, lambda: request)
    headers = [(name.lower().encode(), value.encode()) for name, value in _sized(said)]
    await send({"type": "http.response.start", "status": said.status, "headers": headers})
    await send({"type": "http.response.body", "body": said.body})


def _sized(said: "Answer") -> Headers:
    return [*said.headers.items(), ("Content-Length", str(said.length))]


def google(request: Any) -> tuple[bytes, int, dict[str, str]]:
    """Google's functions-framework, signature type http: takes a Flask request, returns what Flask takes."""
    said = answer(
        lambda: Request(
            method=request.method,
            path=request.path,
            query=request.args,
            headers=request.headers,
            body=request.get_data(),
        )
    )
    return said.body, said.status, said.headers


def openfaas(event: Any, context: Any) -> dict[str, Any]:  # noqa: ARG001 - the template passes both
    """OpenFaaS, template python3-http: `handle(event, context)` of handler.py."""
    said = answer(
        lambda: Request(method=event.method, path=event.path, query=event.query, headers=event.headers, body=event.body)
    )
    return {"statusCode": said.status, "body": said.body.decode(), "headers": said.headers}


def azure(request: Any) -> "Answer":
    """Azure Functions, HTTP trigger: takes azure.functions.HttpRequest; what comes back makes its HttpResponse."""
    return answer(
        lambda: Request(
            method=request.method,
            path=request.url.partition("?")[0],
            query=request.params,
            headers=request.headers,
            body=request.get_body(),
        )
    )


def azure_timer(_timer: Any = None) -> None:
    """Azure Functions, timer trigger: reaps. Raises CallFailed."""
    _unasked(Call(action="reap", params={}, with_token=False))
