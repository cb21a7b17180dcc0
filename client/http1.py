"""HTTP/1.1 messages as bytes: heads parsed strictly, the ends of bodies found, heads written again for the next hop.

What is not plainly well-formed is refused, never guessed at: two parties who read one message differently are how
requests get smuggled (RFC 9112, section 11.2). Bodies are not touched, only followed to their ends. Pure: bytes in,
values out. Neighbours: `client.downstream` and `client.upstream` do the I/O. Imports nothing of the project.
"""

import re
from typing import Final

MAX_HEAD: Final = 64 << 10
"""Bytes of a request's head; of an answer's too."""
MAX_FIELDS: Final = 200
_MAX_CHUNK_LINE: Final = 1 << 10
_MAX_TRAILERS: Final = 16 << 10

# RFC 9110, section 5.6.2 and 5.5; obs-text (0x80 up) is passed on.
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TEXT: Final = rb"[\t -~\x80-\xff]*"
_FIELD: Final = _TOKEN + rb":" + _TEXT
_REQUEST: Final = re.compile(_TOKEN + rb" [!-~]+ HTTP/1\.[01]\r\n(?:" + _FIELD + rb"\r\n)*\r\n")
_RESPONSE: Final = re.compile(rb"HTTP/1\.[01] [1-9][0-9][0-9](?: " + _TEXT + rb")?\r\n(?:" + _FIELD + rb"\r\n)*\r\n")
_LINE: Final = re.compile(_TOKEN + rb" [!-~]+ HTTP/[0-9]\.[0-9]\r\n")
_TARGET: Final = re.compile(rb"(?:[Hh][Tt][Tt][Pp][Ss]?://([^/?#@]+))?(/[^#]*|\?[^#]*)?")
_HOST: Final = re.compile(rb"(?:[0-9A-Za-z._~%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;" + _TEXT + rb")?\r\n")
_TRAILER: Final = re.compile(rb"(" + _TOKEN + rb"):" + _TEXT + rb"\r\n")

# Fields that concern one hop only (RFC 9110, section 7.6.1), and those that are not ours to pass on: the program's
# own idea of a key, and what a browser says of the page behind it, which was looked at here.
_OF_REQUESTS: Final = frozenset(
    b"host content-length transfer-encoding connection keep-alive proxy-connection te upgrade http2-settings expect "
    b"authorization proxy-authorization x-ollama-key origin sec-fetch-site".split()
)
_OF_RESPONSES: Final = frozenset(
    b"content-length transfer-encoding connection keep-alive proxy-connection proxy-authenticate te upgrade "
    b"x-exollama".split()
)
_ONCE: Final = frozenset(
    b"host content-length transfer-encoding authorization x-ollama-key origin sec-fetch-site".split()
)
_NO_TRAILERS: Final = _OF_REQUESTS | _OF_RESPONSES
_BODILESS: Final = frozenset({204, 304})


class BadMessage(Exception):
    """Bytes that are not a message, or not one that is taken here; `status` is what to answer (RFC 9110)."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Sized:
    """A body of so many bytes."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = not length

    def feed(self, data: bytes, at: int = 0) -> int:
        """Follow the body through `data[at:]` and return where in `data` it ends, for now or, if `done`, for good."""
        here = len(data) - at
        if here < self.left:
            self.left -= here
            return len(data)
        end, self.left, self.done = at + self.left, 0, True
        return end


class UntilClose:
    """A body that ends with its connection."""

    __slots__ = ()
    done: Final = False

    def feed(self, data: bytes, at: int = 0) -> int:  # noqa: ARG002 - as the others
        """All of it."""
        return len(data)


class Chunked:
    """A chunked body (RFC 9112, section 7.1), extensions and trailers included. Raises BadMessage where it is none."""

    __slots__ = ("_in_trailers", "_left", "_line", "_trailers", "done")

    def __init__(self) -> None:
        self.done = False
        self._left = 0  # of the chunk and the CRLF behind it
        self._line = b""
        self._in_trailers = False
        self._trailers = 0

    def feed(self, data: bytes, at: int = 0) -> int:
        """As `Sized.feed`."""
        end = len(data)
        while at < end and not self.done:
            if self._left:
                at = self._chunk(data, at)
                continue
            found = data.find(b"\n", at) + 1
            line = self._line + data[at : found or end]
            if len(line) > (_MAX_TRAILERS if self._in_trailers else _MAX_CHUNK_LINE):
                raise BadMessage(400, "a line of a chunked body is too long")
            at = found or end
            if found:
                self._line = b""
                self._whole(line)
            else:
                self._line = line
        return at

    def _chunk(self, data: bytes, at: int) -> int:
        """Skip what is here of a chunk's data, and see that CRLF follows it."""
        end = at + self._left
        if self._left > 2 and data[end - 2 : end] == b"\r\n":  # all of it is here, as it nearly always is
            self._left = 0
            return end
        if self._left > 2:
            step = min(self._left - 2, len(data) - at)
            self._left -= step
            at += step
        while self._left and self._left <= 2 and at < len(data):
            if data[at] != b"\n\r"[self._left - 1]:
                raise BadMessage(400, "a chunk is not as long as it says")
            self._left -= 1
            at += 1
        return at

    def _whole(self, line: bytes) -> None:
        if not self._in_trailers:
            size = _CHUNK.fullmatch(line)
            if not size:
                raise BadMessage(400, "a chunk's size cannot be read")
            length = int(size[1], 16)
            self._left = length + 2 if length else 0
            self._in_trailers = not length
        elif line == b"\r\n":
            self.done = True
        else:
            self._trailers += len(line)
            trailer = _TRAILER.fullmatch(line)
            if self._trailers > _MAX_TRAILERS or not trailer:
                raise BadMessage(400, "a trailer cannot be read")
            if trailer[1].lower() in _NO_TRAILERS:  # it would go by what is seen to in heads
                raise BadMessage(400, "a field that belongs into a head is a trailer")


Body = Sized | Chunked | UntilClose


class RequestHead:
    """A request's head. `fields` are the lines that go on as they are; `path` is the target without its query."""

    __slots__ = (
        "authorization",
        "chunked",
        "close",
        "continues",
        "fields",
        "host",
        "key",
        "length",
        "method",
        "minor",
        "origin",
        "path",
        "site",
        "target",
    )

    def __init__(self, method: bytes, minor: int) -> None:
        self.method = method
        self.target = self.path = b""
        self.minor = minor
        self.fields: list[bytes] = []
        self.length = 0
        self.chunked = False
        self.close = not minor
        self.continues = False
        """It waits for 100 Continue before it sends its body."""
        self.host: bytes | None = None
        self.origin: bytes | None = None
        self.site: bytes | None = None
        self.authorization: bytes | None = None
        self.key: bytes | None = None

    def __repr__(self) -> str:
        return f"RequestHead({self.method!r} {self.path!r})"

    def body(self) -> Sized | Chunked:
        """What follows the body to its end."""
        return Chunked() if self.chunked else Sized(self.length)

    def upstream(self, hop: bytes) -> bytes:
        """The head for the next hop. `hop`: that one's own lines (Host, its key), each with its CRLF."""
        lines = b"\r\n".join(self.fields)
        # The old version asks for an answer without chunks, as an old client needs one.
        version = b" HTTP/1.1\r\n" if self.minor else b" HTTP/1.0\r\nConnection: close\r\n"
        return self.method + b" " + self.target + version + hop + lines + (b"\r\n\r\n" if lines else b"\r\n")


class ResponseHead:
    """An answer's head. `length` is None where its body is not counted in bytes."""

    __slots__ = ("chunked", "close", "draining", "fields", "length", "line", "minor", "status")

    def __init__(self, line: bytes) -> None:
        self.line = b"HTTP/1.1" + line[8:] if len(line) > 12 else b"HTTP/1.1" + line[8:] + b" "
        self.minor = 0 if line.startswith(b"HTTP/1.0") else 1
        self.status = int(line[9:12])
        self.fields: list[bytes] = []
        self.length: int | None = None
        self.chunked = False
        self.close = not self.minor
        self.draining = False

    def body(self, method: bytes) -> Body:
        """What follows the body to its end, in an answer to a request of that method (RFC 9112, section 6.3)."""
        if method == b"HEAD" or self.status in _BODILESS or self.status < 200:
            return Sized(0)
        if self.chunked:
            return Chunked()
        return UntilClose() if self.length is None else Sized(self.length)

    def downstream(self, extra: bytes, *, close: bool) -> bytes:
        """The head for whoever asked. `extra`: further lines, each with its CRLF."""
        lines = b"\r\n".join(self.fields)
        tail = b"\r\nConnection: close\r\n\r\n" if close else b"\r\n\r\n"
        return self.line + b"\r\n" + extra + lines + (tail if lines else tail[2:])


def parse_request(raw: bytes) -> RequestHead:
    """Read a request's head, its empty line included. Raises BadMessage."""
    if len(raw) > MAX_HEAD:
        raise BadMessage(431, f"more than {MAX_HEAD} bytes of head")
    if not _REQUEST.fullmatch(raw):
        raise _refusal(raw)
    lines = raw.split(b"\r\n")
    if len(lines) - 3 > MAX_FIELDS:
        raise BadMessage(431, f"more than {MAX_FIELDS} fields")
    method, target, version = lines[0].split(b" ")
    head = RequestHead(method, 0 if version == b"HTTP/1.0" else 1)
    seen = _sort(lines[1:-2], _OF_REQUESTS, head.fields)
    head.host = seen.get(b"host")
    if head.host is not None and not _HOST.fullmatch(head.host):
        raise BadMessage(400, "one Host is expected, and a host in it")
    _aim(head, target)
    if b"connection" in seen:
        _heed(head, seen[b"connection"])
    _frame(head, seen)
    head.origin, head.site = seen.get(b"origin"), seen.get(b"sec-fetch-site")
    head.authorization, head.key = seen.get(b"authorization"), seen.get(b"x-ollama-key")
    if expected := seen.get(b"expect"):
        if expected.lower() != b"100-continue":
            raise BadMessage(417, "only 100-continue can be expected")
        if head.minor:
            head.continues = True
            head.fields.append(b"Expect: 100-continue")
    return head


def _sort(lines: list[bytes], watched: frozenset[bytes], fields: list[bytes]) -> dict[bytes, bytes]:
    """Put the lines that go on as they are into `fields`, and return the others' values by lower-case name."""
    seen: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name not in watched:
            fields.append(line)
        elif name not in seen:
            seen[name] = value.strip(b" \t")
        elif name in _ONCE:
            raise BadMessage(400, f"more than one {name.decode()}")
        else:
            seen[name] += b"," + value.strip(b" \t")
    return seen


def _frame(head: RequestHead | ResponseHead, seen: dict[bytes, bytes]) -> None:
    """Settle where the body will end (RFC 9112, section 6)."""
    coding, length = seen.get(b"transfer-encoding"), seen.get(b"content-length")
    if length is not None:
        if coding is not None:
            raise BadMessage(400, "both Content-Length and Transfer-Encoding")
        if not _LENGTH.fullmatch(length):
            raise BadMessage(400, "Content-Length is no whole number")
        head.length = int(length)
        head.fields.append(b"Content-Length: " + length)
    elif coding is not None:
        if not head.minor:
            raise BadMessage(400, "Transfer-Encoding is not for HTTP/1.0")
        if coding.lower() != b"chunked":
            raise BadMessage(501, "chunked is the only transfer coding that is taken")
        head.chunked = True
        head.fields.append(b"Transfer-Encoding: chunked")


def _aim(head: RequestHead, target: bytes) -> None:
    """Take the target in one of the forms that a server takes (RFC 9112, section 3.2), and settle the host."""
    if head.host is None and head.minor:
        raise BadMessage(400, "no Host")
    aim = _TARGET.fullmatch(target)
    if not aim or head.method == b"CONNECT" or not (aim[1] or (aim[2] or b"").startswith(b"/")):
        raise BadMessage(400, "the target is no path")
    if aim[1] is not None:
        if aim[1].startswith(b":") or not _HOST.fullmatch(aim[1]):
            raise BadMessage(400, "the target has no host that can be read")
        head.host = aim[1]
    rest = aim[2] or b"/"
    head.target = rest if rest.startswith(b"/") else b"/" + rest
    head.path = head.target.partition(b"?")[0]


def parse_response(raw: bytes) -> ResponseHead:
    """Read an answer's head, its empty line included. Raises BadMessage with 502."""
    if len(raw) > MAX_HEAD or not _RESPONSE.fullmatch(raw):
        raise BadMessage(502, "the answer's head cannot be read")
    lines = raw.split(b"\r\n")
    if len(lines) - 3 > MAX_FIELDS:
        raise BadMessage(502, f"the answer's head: more than {MAX_FIELDS} fields")
    head = ResponseHead(lines[0])
    if head.status == 101:
        raise BadMessage(502, "the answer switches protocols, which nobody asked for")
    try:
        seen = _sort(lines[1:-2], _OF_RESPONSES, head.fields)
        if b"connection" in seen:
            _heed(head, seen[b"connection"])
        count = len(head.fields)
        _frame(head, seen)
    except BadMessage as error:
        raise BadMessage(502, f"the answer's head: {error.reason}") from None
    if head.status < 200 or head.status == 204:
        del head.fields[count:]  # no body can follow, so nothing may speak of one (RFC 9110, section 8.6)
    head.draining = head.status == 503 and seen.get(b"x-exollama") == b"draining"
    return head


def _heed(head: RequestHead | ResponseHead, connection: bytes) -> None:
    """Leave out the fields that Connection names as one hop's own, and see whether it closes. Before `_frame`."""
    named = {option.strip(b" \t") for option in connection.lower().split(b",")}
    head.close = head.close or b"close" in named
    if own := named - {b"close", b"keep-alive", b""}:
        head.fields = [line for line in head.fields if line.partition(b":")[0].lower() not in own]


def _refusal(raw: bytes) -> BadMessage:
    """Why a head cannot be read, by what is wrong first."""
    if b"\x00" in raw or raw.count(b"\n") != raw.count(b"\r\n") or raw.count(b"\r") != raw.count(b"\r\n"):
        return BadMessage(400, "a line of the head does not end with CRLF, or has what no line has")
    if not (line := _LINE.match(raw)):
        return BadMessage(400, "the request line cannot be read")
    if not line[0].endswith((b"HTTP/1.1\r\n", b"HTTP/1.0\r\n")):
        return BadMessage(505, "only HTTP/1.1 and 1.0 are spoken here")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        return BadMessage(400, "a field is folded over two lines")
    return BadMessage(400, "a field cannot be read")
