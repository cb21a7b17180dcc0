"""h11 as the reference for client/http1.py: what it reads, and for what of that a message is refused here.

RFC 9112 lets a recipient be lenient in many of these; whoever forwards must not be, since the next one may read it in
another way. Each reason is told from the bytes alone and holds just where the message is refused for it, so that
"accepted here" is "accepted by h11, and none of the reasons".
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import h11

HERE = {
    b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection", b"te",
    b"upgrade", b"http2-settings", b"expect", b"authorization", b"proxy-authorization", b"x-ollama-key", b"origin",
    b"sec-fetch-site",
}  # fmt: skip
"""Fields of a request that end here, or are written anew."""
HERE_OF_ANSWERS = {
    b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade",
    b"proxy-authenticate", b"x-exollama",
}  # fmt: skip
_SAID_ONCE = (b"authorization", b"x-ollama-key", b"origin", b"sec-fetch-site")
_BIG = 1 << 20


@dataclass(kw_only=True)
class Read:
    """A message as h11 reads it."""

    event: h11.Request | h11.Response | h11.InformationalResponse
    raw: bytes
    length: int | None = None  # None: chunked, or until it closes
    chunked: bool = False
    continues: bool = False
    connection: h11.Connection = field(repr=False)

    def all(self, name: bytes) -> list[bytes]:
        """The values of that name as they stand in the bytes; h11 joins equal lengths."""
        lines = (line.partition(b":") for line in self.raw.split(b"\r\n")[1:])
        return [value.strip(b" \t") for found, _, value in lines if found.lower() == name]

    def passing(self, here: set[bytes]) -> list[tuple[bytes, bytes]]:
        """The fields that are to go on: not those of one hop, nor what Connection names."""
        named = {option.strip().lower() for value in self.all(b"connection") for option in value.split(b",")}
        here = here | (named - {b"close", b"keep-alive"})
        return [(name, value) for name, value in self.event.headers.raw_items() if name.lower() not in here]

    def closes(self) -> bool | None:
        """Whether the connection closes behind the message; None where the body says so, or is not all here."""
        after = self.connection.their_state
        known = {h11.DONE: False, h11.MUST_CLOSE: True}
        return known.get(after)


def request(raw: bytes) -> Read | None:
    """What h11 reads, and None where it refuses it or finds no end."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_BIG)
    return _read(connection, raw)


def answer(raw: bytes, method: bytes = b"GET") -> Read | None:
    """The same for an answer to a request of that method."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_BIG)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    connection.send(h11.EndOfMessage())
    return _read(connection, raw)


def _read(connection: h11.Connection, raw: bytes) -> Read | None:
    try:
        connection.receive_data(raw)
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
        return None
    read = Read(event=event, raw=raw, connection=connection, continues=connection.they_are_waiting_for_100_continue)
    if not isinstance(event, h11.InformationalResponse):
        _frame(read)
    return read


def _frame(read: Read) -> None:
    """How h11 would have the body end, found by sending it one."""
    connection = read.connection
    if connection.trailing_data[0]:
        return  # it saw the head end early
    if _drain(connection)[1]:
        read.length = 0
        return
    connection.receive_data(b"0\r\n\r\n")
    got, ended = _drain(connection)
    said = [int(value) for name, value in read.event.headers if name == b"content-length"]
    if ended:
        read.chunked, read.length = not got, got or None
    elif said:
        read.length = said[0]
        if said[0] < 1000:
            connection.receive_data(b"x" * (said[0] - got))
            assert _drain(connection) == (said[0] - got, True)
    else:
        connection.receive_data(b"")
        assert _drain(connection) == (0, True)


def _drain(connection: h11.Connection) -> tuple[int, bool]:
    """How much of a body is there, and whether it ends."""
    got = 0
    while isinstance(event := connection.next_event(), h11.Data):
        got += len(event.data)
    return got, isinstance(event, h11.EndOfMessage)


def end_of_body(head: bytes, body: bytes) -> int | str:
    """Where in `body` h11 sees the end of the request's body; else "more" or "refused"."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_BIG)
    connection.receive_data(head + body)
    try:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return "more"
    except h11.RemoteProtocolError:
        return "refused"
    return len(body) - len(connection.trailing_data[0])


def _is_host(host: bytes) -> bool:
    name, bracket, port = host.rpartition(b"]") if host.startswith(b"[") else host.partition(b":")
    if host.startswith(b"["):
        return bool(
            bracket
            and len(name) > 1
            and not name[1:].strip(b"0123456789abcdefABCDEF:.")
            and re.fullmatch(rb"(:\d*)?", port)
        )
    return not re.search(rb"[^\w.~%-]", name) and (not port or port.isdigit())


def _aims_elsewhere(read: Read) -> bool:
    assert isinstance(read.event, h11.Request)
    target = read.event.target
    if read.event.method == b"CONNECT" or b"#" in target:
        return True
    scheme, _, rest = target.partition(b"://")
    authority = re.split(rb"[/?]", rest)[0]
    usable = (
        scheme.lower() in (b"http", b"https") and _is_host(authority) and authority.lstrip(b":") == authority != b""
    )
    return not target.startswith(b"/") and not usable


def _old(read: Read) -> bool:
    return read.event.http_version == b"1.0"


BOTH: dict[str, Callable[[Read], bool]] = {
    "bare LF": lambda read: read.raw.count(b"\n") != read.raw.count(b"\r\n"),
    "obs-fold": lambda read: re.search(rb"\n[ \t]", read.raw) is not None,
    "a control character in a value": lambda read: re.search(rb"[\x01-\x08\x0e-\x1f\x7f]", read.raw) is not None,
    "another version than 1.1 and 1.0": lambda read: read.event.http_version not in (b"1.1", b"1.0"),
    "several equal lengths": lambda read: len(b",".join(read.all(b"content-length")).split(b",")) > 1,
    "a length of 19 digits or 20": lambda read: any(len(value) > 18 for value in read.all(b"content-length")),
    "both length and coding": lambda read: bool(read.all(b"content-length") and read.all(b"transfer-encoding")),
    "chunks in HTTP/1.0": lambda read: bool(_old(read) and read.all(b"transfer-encoding")),
    "more than 200 fields": lambda read: read.raw.count(b"\r\n") > 202,
    "more than 64 KiB": lambda read: len(read.raw) > 65536,
}
OF_REQUESTS: dict[str, Callable[[Read], bool]] = {
    **BOTH,
    "a target that is no path here": _aims_elsewhere,
    "a Host that is none": lambda read: not all(_is_host(value) for value in read.all(b"host")),
    "another expectation": lambda read: b",".join(read.all(b"expect")).lower() not in (b"", b"100-continue"),
    "credentials or a page said twice": lambda read: any(len(read.all(name)) > 1 for name in _SAID_ONCE),
}


def reasons(read: Read) -> Iterator[str]:
    """Why a message that h11 takes is refused here."""
    for reason, holds in (OF_REQUESTS if isinstance(read.event, h11.Request) else BOTH).items():
        if holds(read):
            yield reason


# Whatever of these h11 takes in a chunked body is refused; they can stand in a chunk's data as well.
LENIENT_CHUNKS = re.compile(
    rb"""[^\r]\n | ^\n                  # bare LF, in trailers
    | [\x01-\x08\x0b\x0c\x0e-\x1f\x7f\0\r] (?!\n)   # control characters and bare CR, in extensions and trailers
    | [ \t]\r\n                         # whitespace behind a size
    | [0-9A-Fa-f]{16}                   # 16 digits to 20
    | \n[ \t]                           # obs-fold
    | (?i:\n(?:host|content-length|transfer-encoding|x-ollama-key):)""",
    re.VERBOSE,
)
