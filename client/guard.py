"""Who may use the forwarder: programs on this machine, but no web page that a browser on it shows.

A page reaches loopback ports as any program does, and with DNS rebinding under a name of its own. So names (Host) and
pages (Origin, Sec-Fetch-Site) are looked at as Ollama looks at them, OLLAMA_ORIGINS included; a forwarder that
listens beyond loopback demands a token instead of a name. Neighbours: `client.forwarder`. Imports exchange and http1.
"""

import base64
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import Final

from client.exchange import Reply, error
from client.http1 import RequestHead
from client.settings import Secret

# As in Ollama's envconfig and routes (github.com/ollama/ollama, envconfig/config.go, AllowedOrigins; server/routes.go,
# allowedHost): any port of these, and what desktop programs show their own pages under.
_LOCAL: Final = ("localhost", "127.0.0.1", "0.0.0.0")
_PROGRAMS: Final = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_MAX_NAMES: Final = 64
_LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal")
_ALLOWED_FIELDS: Final = (
    "Authorization, Content-Type, User-Agent, Accept, X-Requested-With, OpenAI-Beta, x-stainless-arch, "
    "x-stainless-async, x-stainless-custom-poll-interval, x-stainless-helper-method, x-stainless-lang, x-stainless-os, "
    "x-stainless-package-version, x-stainless-poll-helper, x-stainless-retry-count, x-stainless-runtime, "
    "x-stainless-runtime-version, x-stainless-timeout"
)

_LOOKS: Final = re.compile(rb"/\.exollama(?:/(?:status)?)?")
"""What a person opens in a browser, which can send no token but as a password."""
_IN_BROWSER: Final = re.compile(rb"(?i:accept):.*text/html")
_ASKED: Final = re.compile(rb"(?i:access-control-request-headers):")


def origins(value: str) -> tuple[str, ...]:
    """OLLAMA_ORIGINS as a tuple: origins like `https://example.org`, `*` in them for anything, or `*` alone.

    Raises ValueError for what could match no origin.
    """
    found = tuple(part for raw in value.strip("\"'").split(",") if (part := raw.strip()))
    for one in found:
        if one != "*" and not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.*-]*://[^\s/]+", one):
            raise ValueError(f"origins like https://example.org or chrome-extension://*, or *, are expected: {one!r}.")
    return found


class Guard:
    """What of a request is looked at before it is taken. `loopback`: nobody from elsewhere can reach the listener."""

    def __init__(self, *, allowed: Iterable[str] = (), token: Secret | None = None, loopback: bool = True) -> None:
        self._token = token.reveal().encode() if token else None
        self._by_name = loopback and token is None
        self._itself = socket.gethostname().lower()
        self._names: set[bytes] = set()
        patterns = [*allowed, *(f"{program}://*" for program in _PROGRAMS)]
        self._all = "*" in patterns
        # A * is never more than a part of a host and a port: no path, user or second origin gets past it.
        named = ("[^/?#@,]*".join(map(re.escape, one.split("*"))) for one in patterns if one != "*")
        local = rf"https?://(?:{'|'.join(map(re.escape, _LOCAL))})(?::[0-9]+)?"
        self._origins = re.compile("|".join([local, *named]), re.IGNORECASE)

    def check(self, head: RequestHead) -> tuple[Reply | None, bytes]:
        """A refusal or a preflight's answer, or None; and what further lines the request's answer gets."""
        if self._by_name and not self._known(head.host or b""):
            said = (head.host or b"").decode("latin-1")[:100]
            return self._no(head, f"this forwarder is not known as {said!r}: use localhost or 127.0.0.1"), b""
        extra = b""
        if head.origin is not None:
            if not self._allowed(head.origin):
                said = head.origin.decode("latin-1")[:100]
                return self._no(head, f"the origin {said!r} is not allowed: OLLAMA_ORIGINS names those that are"), b""
            extra = b"Access-Control-Allow-Origin: " + head.origin + b"\r\nVary: Origin\r\n"
            if head.method == b"OPTIONS":
                return Reply(204, fields=_preflight(head)), extra
        elif head.site == b"cross-site" and not self._all:
            message = "another site's page asks (Sec-Fetch-Site: cross-site)"
            message += "; whoever followed a link from it opens this address by typing it" if _looks(head) else ""
            return self._no(head, message), b""
        if self._token is not None and not self._knows_token(head):
            message = "missing or wrong token: send it as Authorization: Bearer, or X-Ollama-Key"
            scheme = b"Bearer"
            if _looks(head) and any(map(_IN_BROWSER.match, head.fields)):
                message += "; in a browser as the password, with any name"
                scheme = b'Basic realm="exollama", charset="UTF-8"'
            return error(401, message, path=head.path, fields=b"WWW-Authenticate: " + scheme + b"\r\n"), extra
        return None, extra

    def _known(self, host: bytes) -> bool:
        """Whether it is called by a name that leads here from this machine only."""
        if host in self._names:
            return True
        name = host.decode("latin-1").lower()
        name = name.partition("]")[0].removeprefix("[") if name.startswith("[") else name.partition(":")[0]
        known = name in ("", "localhost", self._itself) or name.endswith(_LOCAL_SUFFIXES) or _local_address(name)
        if known and len(self._names) < _MAX_NAMES:
            self._names.add(host)
        return known

    def _allowed(self, origin: bytes) -> bool:
        return self._all or bool(self._origins.fullmatch(origin.decode("latin-1")))

    def _knows_token(self, head: RequestHead) -> bool:
        assert self._token
        bearer = re.fullmatch(rb"(?i:Bearer) +(.+)", head.authorization or b"")
        # With a password a page that another site shows could have anything done, were it good for more than looking.
        password = _password(head.authorization or b"") if _looks(head) else b""
        given = (head.key or b"", bearer[1] if bearer else b"", password)
        return sum(hmac.compare_digest(one, self._token) for one in given) > 0

    @staticmethod
    def _no(head: RequestHead, message: str) -> Reply:
        return error(403, message, path=head.path)


def _looks(head: RequestHead) -> bool:
    return head.method in (b"GET", b"HEAD") and _LOOKS.fullmatch(head.path) is not None


def _password(authorization: bytes) -> bytes:
    """The password of HTTP Basic (RFC 7617); the name is anybody's."""
    given = re.fullmatch(rb"(?i:Basic) +([A-Za-z0-9+/=]+)", authorization)
    try:
        return base64.b64decode(given[1], validate=True).partition(b":")[2] if given else b""
    except ValueError:
        return b""


def _local_address(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified


def _preflight(head: RequestHead) -> bytes:
    """What a browser asks before it lets a page ask. The fields it names itself are allowed beside the usual ones."""
    asked = [line.partition(b":")[2].strip(b" \t") for line in head.fields if _ASKED.match(line)]
    fields = b", ".join([_ALLOWED_FIELDS.encode(), *asked])
    return (
        b"Access-Control-Allow-Methods: GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS\r\n"
        b"Access-Control-Allow-Headers: " + fields + b"\r\nAccess-Control-Max-Age: 43200\r\n"
    )
