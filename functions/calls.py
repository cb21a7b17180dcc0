"""What a call from outside asks for, and whether it may: from an HTTP request, a schedule or a plain event.

Pure: nothing here does anything. What cannot be read, or comes without the token, is a BadCall with one sentence.
Neighbours: `functions.faas` has the platforms' entry points. Imports `client` only.
"""

import base64
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from client.errors import ExollamaError

MAX_BODY: Final = 1 << 16
"""Bytes of a request's body; what is asked takes a hundred."""
TOKEN: Final = "EXOLLAMA_FUNCTION_TOKEN"  # noqa: S105 - the name of the variable
ACTIONS: Final[Mapping[str, frozenset[str]]] = {
    "provision": frozenset(),
    "status": frozenset({"probe", "check"}),
    "reap": frozenset({"dry_run"}),
}
"""Each action and its parameters, which are true or false."""
ALIASES: Final = {"start": "provision", "reap_idle": "reap"}
_LOOKS: Final = ("status",)
"""Actions that change nothing, and so may be asked for with GET."""
_LOOKING: Final = ("GET", "HEAD")
FORMATS: Final = ("json", "prometheus", "html")
"""In what an answer over HTTP may be wanted, of a look."""
_HTTP_MARKS: Final = frozenset(
    {"httpMethod", "requestContext", "rawPath", "headers", "multiValueHeaders", "http", "body", "isBase64Encoded"}
)
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}


class BadCall(ExollamaError):
    """A call that is not understood or not let in; `status` is its HTTP status, `allow` the methods that would do."""

    def __init__(self, status: int, message: str, allow: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.allow = allow


class Request(NamedTuple):
    """One HTTP request as a platform hands it over. `body` is bytes, text, or what JSON was made into already."""

    method: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    path: str = ""
    body: object = None


class Call(NamedTuple):
    """One thing to do. `with_token`: whether it showed the function's token, and so may see the endpoint's key.

    `format`: one of FORMATS.
    """

    action: str
    params: Mapping[str, bool]
    with_token: bool
    format: str = "json"


def format_of(request: Request) -> str:
    """In what format an answer is wanted by its Accept: `html` by a browser, `prometheus` by that, else `json`."""
    from client import metrics

    accept = ", ".join(value for name, value in request.headers.items() if name.lower() == "accept").lower()
    if request.method in _LOOKING and "text/html" in accept and "json" not in accept:  # which no browser names
        return "html"
    return "prometheus" if metrics.accepted(accept) else "json"


def checked(action: object, params: Mapping[str, Any]) -> tuple[str, dict[str, bool]]:
    """The action by its own name, and its parameters. Raises BadCall."""
    if action is None or action == "":
        raise BadCall(400, f'No action is given. Send {{"action": "provision"}}, or {_others("provision")}.')
    action = ALIASES.get(action, action) if isinstance(action, str) else action
    if not isinstance(action, str) or action not in ACTIONS:
        raise BadCall(400, f"There is no action {_shown(action)}: it is {_others('')}.")
    known = ACTIONS[action]
    for name, value in params.items():
        if name not in known:
            has = f"has {', '.join(sorted(known))}" if known else "takes none"
            raise BadCall(400, f"{action} has no parameter {_shown(name)}: it {has}.")
        if not isinstance(value, bool):
            raise BadCall(400, f"{name} is {_shown(value)}: true or false is expected.")
    return action, dict(params)


def from_request(request: Request, env: Mapping[str, str]) -> Call:
    """What an HTTP request asks for, once it has shown the token. Raises BadCall, before anything else is looked at.

    The action stands in the JSON body, the query or the path's last part. Only POST acts. A browser that names none
    looks, and has every instance asked.
    """
    headers = {name.lower(): value for name, value in request.headers.items()}
    said, unread = _body(request.body)
    # A browser sends what was typed into its dialog with whatever another site makes it ask: that opens nothing but a
    # look, which such a site cannot read.
    passwords = [_password(headers)] if request.method in _LOOKING else []
    _admit(env, [*_tokens(headers, said), *filter(None, passwords)])
    if unread:
        raise unread
    params = {name: value for name, value in said.items() if name not in ("action", "token")}
    params |= {name: _FLAGS.get(value, value) for name, value in request.query.items() if name != "action"}
    last = request.path.rstrip("/").rpartition("/")[2]
    named = [said.get("action"), request.query.get("action"), last if _is_action(last) else None]
    given = [ALIASES.get(one, one) if isinstance(one, str) else one for one in named if one is not None]
    if any(one != given[0] for one in given):
        raise BadCall(400, f"Two different actions are given: {' and '.join(_shown(one) for one in given[:2])}.")
    by_accept = format_of(request)
    asked_for = given[0] if given else ("status" if by_accept == "html" else None)
    form = _format(params.pop("format", by_accept)) if asked_for in _LOOKS else "json"
    action, params = checked(asked_for, params)
    allowed = (*_LOOKING, "POST") if action in _LOOKS else ("POST",)
    if request.method not in allowed:
        raise BadCall(405, f"{action} is asked for with {' or '.join(allowed)}.", ", ".join(allowed))
    if form == "html":
        params = {"probe": True, **params}
    return Call(action=action, params=params, with_token=True, format=form)


def from_event(event: object, env: Mapping[str, str]) -> Call:
    """What a plain event asks for, `{"action": …}`, or a schedule's, which reaps: the platform let it in.

    With `"token"` in it, provision's result has the endpoint's key. Raises BadCall; also for text and bytes, since some
    platforms hand over a stranger's request so.
    """
    said = event
    if not isinstance(said, dict):
        raise BadCall(400, f'The event is {_kind(event)}: an object like {{"action": "reap"}} is expected.')
    if said.get("source") == "aws.events" and said.get("detail-type") == "Scheduled Event":
        return Call(action="reap", params={}, with_token=False)
    if "action" not in said:
        seen = f"has {', '.join(_shown(name) for name in list(said)[:5])}" if said else "is empty"
        raise BadCall(
            400, f'The event {seen} and names no action: {{"action": "reap"}} is expected. Is it another trigger\'s?'
        )
    params = {name: value for name, value in said.items() if name not in ("action", "token")}
    action, params = checked(said["action"], params)
    if "token" in said:
        _admit(env, [str(said["token"])])
    return Call(action=action, params=params, with_token="token" in said)


def is_http(event: object) -> bool:
    """Whether an event has anything of an HTTP request in it, and so may come from a stranger."""
    return isinstance(event, dict) and not _HTTP_MARKS.isdisjoint(event)


def request_of(event: Mapping[str, Any]) -> Request:
    """The HTTP request in an event of AWS Lambda (function URL, API gateway 1 and 2, load balancer) or Scaleway."""
    context = event.get("requestContext")
    http = context.get("http") if isinstance(context, dict) else None
    asked = http if isinstance(http, dict) else {}
    body = event.get("body")
    if event.get("isBase64Encoded") is True and isinstance(body, str):
        body = _decoded(body)
    return Request(
        method=str(asked.get("method") or event.get("httpMethod") or ""),
        path=str(event.get("rawPath") or event.get("path") or ""),
        query=_first(event.get("queryStringParameters"), event.get("multiValueQueryStringParameters")),
        headers=_first(event.get("headers"), event.get("multiValueHeaders")),
        body=body,
    )


def query_of(text: str) -> dict[str, str]:
    """A query string as a mapping."""
    return dict(parse_qsl(text[:4096], keep_blank_values=True))


# -- inside


def _format(given: object) -> str:
    """The name of the format that a look is asked for in. Raises BadCall."""
    if not isinstance(given, str) or given not in FORMATS:
        raise BadCall(400, f"format is {_shown(given)}: {' or '.join(FORMATS)} is expected.")
    return given


def _first(single: object, multiple: object) -> dict[str, str]:
    """Names with one value each: of several, as a load balancer may hand over, the first."""
    found = {str(name): str(value[0]) for name, value in _items(multiple) if isinstance(value, list) and value}
    return found | {str(name): str(value) for name, value in _items(single)}


def _decoded(body: str) -> bytes | BadCall:
    """A body out of its base64, or why that cannot be."""
    if len(body) > 2 * MAX_BODY:
        return _too_large()
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:
        return BadCall(400, "The body is said to be base64, and is not.")


def _items(value: object) -> list[tuple[object, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _body(body: object) -> tuple[dict[str, Any], BadCall | None]:
    """What a body says; an empty one says nothing. What cannot be read is only told to whoever has the token."""
    try:
        if isinstance(body, BadCall):
            raise body
        if isinstance(body, dict):
            return body, None
        return (_object(body) if body else {}), None
    except BadCall as error:
        return {}, error


def _object(text: object) -> dict[str, Any]:
    """A JSON object. Raises BadCall."""
    if not isinstance(text, str | bytes | bytearray):
        raise BadCall(400, f"The body is {_kind(text)}: a JSON object is expected.")
    if len(text) > MAX_BODY:
        raise _too_large()
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise BadCall(400, 'The body is no JSON. Send an object like {"action": "provision"}.') from None
    if not isinstance(said, dict):
        raise BadCall(400, f"The body is {_kind(said)}: a JSON object is expected.")
    return said


def _too_large() -> BadCall:
    return BadCall(413, f"The body is over {MAX_BODY >> 10} KiB; what is asked for takes a hundred bytes.")


def _tokens(headers: Mapping[str, str], said: Mapping[str, Any]) -> list[str]:
    """Where a token may stand: a header of its own where the platform wants Authorization for itself, else there.

    In the body, too, since schedules of some platforms (Scaleway's) are HTTP calls whose body is all that can be set.
    """
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    found = [headers.get("x-exollama-token"), bearer if scheme.lower() == "bearer" else None, said.get("token")]
    return [one.strip() for one in found if isinstance(one, str) and one.strip()]


def _password(headers: Mapping[str, str]) -> str | None:
    """The password of HTTP Basic (RFC 7617), which is all that a browser can be made to send; the name is anybody's."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return None


def _admit(env: Mapping[str, str], given: list[str]) -> None:
    """Raise BadCall unless one of these is the function's token."""
    own = env.get(TOKEN, "").strip()
    if not own:
        raise BadCall(403, f"{TOKEN} is not set where this function runs, so it refuses every call. {_MAKE}")
    if len(own) < 32 or len(set(own)) < 10:
        raise BadCall(403, f"{TOKEN} can be guessed where this function runs, so it refuses every call. {_MAKE}")
    if not (own.isascii() and own.isprintable() and " " not in own):
        raise BadCall(403, f"{TOKEN} has letters, where this function runs, that no header carries. {_MAKE}")
    if not given:
        raise BadCall(
            401,
            f"Send the function's token, the value of {TOKEN}: as Authorization: Bearer, in a browser as the password.",
        )
    same = [
        hmac.compare_digest(one.encode(errors="surrogatepass"), own.encode(errors="surrogatepass")) for one in given
    ]
    if not any(same):
        raise BadCall(401, f"That is not this function's token. Send the value of {TOKEN} that was set where it runs.")


_MAKE: Final = "Set it there, and where it is called from, to what this prints: openssl rand -hex 32"


def _is_action(word: str) -> bool:
    return word in ACTIONS or word in ALIASES


def _others(but: str) -> str:
    names = [name for name in ACTIONS if name != but]
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 2 else " or ".join(names)


_KINDS: Final = {str: "text", bytes: "bytes", list: "a list", bool: "true or false", type(None): "null"}


def _kind(value: object) -> str:
    """What something is that should be an object. Not what is in it: that may be a token in the wrong place."""
    return _KINDS.get(type(value), "a number" if isinstance(value, int | float) else "something else")


def _shown(value: object) -> str:
    """A value as somebody sent it, short and in one line."""
    from client.model import printable

    return printable(json.dumps(value, default=str) if not isinstance(value, bytes | bytearray) else repr(value))[:60]
