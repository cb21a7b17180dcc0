"""HTTP/1.1 messages for fuzzing: well-formed ones, odd ones, and what accidents and attackers make of either."""

from hypothesis import strategies as st

TOKEN = "!#$%&'*+-.^_`|~09azAZ"
SECRET = b"planted-key-0123456789abcdefABCDEF"
CREDENTIALS = ("Authorization", "X-Ollama-Key", "Proxy-Authorization")


def octets(alphabet: bytes, *, least: int = 0, most: int) -> st.SearchStrategy[bytes]:
    """Bytes of the alphabet, drawn as bytes, which is quick."""
    size = len(alphabet)
    return st.binary(min_size=least, max_size=most).map(lambda raw: bytes(alphabet[byte % size] for byte in raw))


tokens = octets(TOKEN.encode(), least=1, most=8)
texts = octets(b' ",:;=()/@az09\t~!\x80\xa0\xff', most=12)
whitespace = octets(b" \t", most=2)


@st.composite
def cased(draw: st.DrawFn, names: tuple[str, ...]) -> bytes:
    name = draw(st.sampled_from(names))
    return draw(st.sampled_from([name, name.lower(), name.upper(), name.swapcase()])).encode()


def field(names: st.SearchStrategy[bytes], values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda *parts: b"".join(parts), names, st.just(b":"), whitespace, values, whitespace)


plain = field(st.sampled_from([b"Accept", b"Content-Type", b"X-A", b"x-a", b"Cookie", b"Date", b"Server"]), texts)
odd = field(tokens.map(lambda token: b"x-" + token), texts)
connections = field(
    cased(("Connection",)),
    st.lists(
        st.sampled_from(
            b"close|keep-alive||X-A|accept|host|x-ollama-key|authorization|content-length|Transfer-Encoding|TE".split(
                b"|"
            )
        ),
        max_size=4,
    ).map(b",".join),
)
hops = field(cased(("Keep-Alive", "Proxy-Connection", "TE", "HTTP2-Settings")), texts)
credentials = field(cased(CREDENTIALS), st.sampled_from([SECRET, b"Bearer " + SECRET]))
pages = field(cased(("Origin", "Sec-Fetch-Site")), st.sampled_from([b"http://a", b"same-origin", b""]))
expects = field(cased(("Expect",)), st.sampled_from([b"100-continue", b"100-CONTINUE", b""]))
lengths = field(cased(("Content-Length",)), st.integers(0, 300).map(lambda length: b"%d" % length))
codings = field(cased(("Transfer-Encoding",)), cased(("chunked",)))
hosts = field(cased(("Host",)), st.sampled_from(b"localhost|127.0.0.1:11434|[::1]:80|a.b:|".split(b"|")))
tricks = st.one_of(
    field(
        cased(("Content-Length",)),
        st.sampled_from(
            b"+5|-1|5,5|5, 6|0x5|5_0|00|1111111111111111111|11111111111111111111|123456789012345678".split(b"|")
        ),
    ),
    field(
        cased(("Transfer-Encoding",)),
        st.sampled_from(b"xchunked|chunked, identity|identity|gzip, chunked||chunked,|\x0bchunked".split(b"|")),
    ),
    field(cased(("Host",)), st.sampled_from(b"a b|a,b|a@b|a/b|[::1|::1|a:b".split(b"|"))),
    field(cased(("Expect",)), st.sampled_from(b"x|100-continue, 100-continue|100".split(b"|"))),
    st.sampled_from(
        [b"Transfer-Encoding : chunked", b" Content-Length: 5", b"X: \x01", b"X: \x7f", b": x", b"x", b"X:\r\n y"]
    ),
)

methods = st.sampled_from(b"GET POST HEAD DELETE OPTIONS PUT get CONNECT".split())
paths = octets(b"/?%.=;\\~azAZ09@:[]{|}\"'", most=12).map(lambda rest: b"/" + rest)
urls = st.builds(
    lambda scheme, host, rest: scheme + b"://" + host + rest,
    st.sampled_from([b"http", b"HTTP", b"https", b"ftp"]),
    st.sampled_from(b"localhost|127.0.0.1:11434|[::1]:80|a@b|a:b|:80|".split(b"|")),
    st.one_of(paths, st.sampled_from([b"", b"?a=b", b"#a"])),
)
targets = st.one_of(paths, paths, paths, urls, st.sampled_from([b"*", b"a:80", b"?a", b"a", b"/#", b"//x", b"\\"]))
versions = st.sampled_from([b"HTTP/1.1"] * 8 + [b"HTTP/1.0"] * 2 + [b"HTTP/2.0", b"HTTP/1.2", b"http/1.1"])
statuses = st.sampled_from([200] * 4 + [503, 503, 404, 204, 304, 100, 103, 101, 999, 99])


def written(line: bytes, fields: list[bytes]) -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


@st.composite
def good_requests(draw: st.DrawFn) -> bytes:
    """A request that nothing is wrong with."""
    old = draw(st.integers(0, 9)) == 9
    fields = draw(st.lists(st.one_of(plain, odd, connections, hops), max_size=6))
    fields += draw(
        st.lists(st.one_of(credentials, pages), max_size=4, unique_by=lambda line: line.split(b":")[0].lower())
    )
    fields += draw(st.lists(expects, max_size=1))
    fields += draw(st.one_of(st.just([]), st.tuples(lengths), st.tuples(lengths if old else codings)))
    fields += [draw(hosts)]
    line = b" ".join([draw(methods.filter(lambda method: method != b"CONNECT")), draw(paths), b"HTTP/1.%d" % (not old)])
    return written(line, draw(st.permutations(fields)))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request with a flaw, or two, or what may be one."""
    flaws = draw(st.sets(st.sampled_from(["target", "version", "method", "hosts", "trick", "twice"]), max_size=2))
    fields = draw(st.lists(st.one_of(plain, odd, connections, hops), max_size=3))
    fields += draw(st.one_of(st.just([]), st.tuples(lengths), st.tuples(codings)))
    fields += [draw(hosts)] * (draw(st.sampled_from([0, 2])) if "hosts" in flaws else 1)
    if "trick" in flaws:
        fields.append(draw(tricks))
    if "twice" in flaws:
        doubled = st.one_of(credentials, pages, expects, lengths, codings)
        fields += draw(st.lists(doubled, max_size=2)) + [draw(doubled)] * 2
    method = draw(methods if "method" in flaws else st.just(b"POST"))
    target = draw(targets if "target" in flaws else paths)
    version = draw(versions) if "version" in flaws else b"HTTP/1.1"
    return written(b" ".join([method, target, version]), fields)


reasons = st.one_of(st.just(b""), texts.map(lambda text: b" " + text))
drains = field(cased(("X-Exollama",)), st.sampled_from([b"draining", b"Draining", b"ready"]))


@st.composite
def good_answers(draw: st.DrawFn) -> bytes:
    """An answer that nothing is wrong with."""
    fields = draw(st.lists(st.one_of(plain, odd, connections, hops, drains), max_size=6))
    fields += draw(st.one_of(st.just([]), st.tuples(lengths), st.tuples(codings)))
    status = draw(statuses.filter(lambda status: status not in (99, 101)))
    return written(b"HTTP/1.1 %d" % status + draw(reasons), draw(st.permutations(fields)))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer with a flaw, or two, or what may be one."""
    flaws = draw(st.sets(st.sampled_from(["version", "status", "trick", "framing"]), max_size=2))
    fields = draw(st.lists(st.one_of(plain, odd, connections, hops, drains), max_size=3))
    fields += draw(st.one_of(st.just([]), st.tuples(lengths), st.tuples(codings)))
    if "trick" in flaws:
        fields.append(draw(tricks))
    if "framing" in flaws:
        fields += draw(st.lists(st.one_of(lengths, codings), max_size=2))
    status = draw(statuses) if "status" in flaws else 200
    return written((draw(versions) if "version" in flaws else b"HTTP/1.1") + b" %d" % status + draw(reasons), fields)


@st.composite
def chunks(draw: st.DrawFn, *, smallest: int) -> bytes:
    """A chunk or, where it is empty, the start of the end."""
    data = draw(st.one_of(st.binary(min_size=smallest, max_size=40), octets(b"\r\n0:;", least=smallest, most=6)))
    if not smallest:
        data = b""
    size = draw(st.sampled_from([b"%x", b"%X", b"%04x", b"%015X"])) % len(data)
    extension = draw(st.one_of(st.just(b""), texts.map(lambda text: b";" + text)))
    return size + extension + b"\r\n" + (data + b"\r\n" if data else b"")


@st.composite
def chunked(draw: st.DrawFn) -> bytes:
    """A chunked body."""
    body = b"".join(draw(st.lists(chunks(smallest=1), max_size=4))) + draw(chunks(smallest=0))
    trailers = draw(st.lists(st.one_of(odd, field(st.just(b"Server-Timing"), texts)), max_size=3))
    return body + b"".join(trailer + b"\r\n" for trailer in trailers) + b"\r\n"


tails = st.one_of(
    st.just(b""), st.binary(max_size=20), st.sampled_from([b"\r\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
)
cuts = st.lists(st.integers(0, 400), max_size=6)

JUNK = [
    *(bytes([byte]) for byte in b"\r\n \t\0:,;#@/\x01\x0b\x7f\x85\xe9+-05fFxg"), b"\r\n", b"\n\n", b"\r\n\r\n",
    b"\r\n ", b"chunked", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: a\r\n", b"a: b\r\n",
    b"0\r\n", b"ffffffffffffffff", b"X-Ollama-Key: a\r\n",
]  # fmt: skip
ENDS = [b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\n\r\n", b"\r\n ", b"", b" \r\n", b"\x0b\r\n"]
Mutation = tuple[str, int, int]
mutations: st.SearchStrategy[list[Mutation]] = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "twice", "end", "swap"]), st.integers(0, 999), st.integers(0, 255)
    ),
    max_size=3,
)


def mutate(raw: bytes, changes: list[Mutation]) -> bytes:
    """The message after these accidents."""
    for kind, where, what in changes:
        at = where % (len(raw) or 1)
        lines = raw.split(b"\r\n")
        line, other = where % len(lines), what % len(lines)
        match kind:
            case "flip":
                raw = raw[:at] + bytes([what]) + raw[at + 1 :]
            case "insert":
                raw = raw[:at] + JUNK[what % len(JUNK)] + raw[at:]
            case "delete":
                raw = raw[:at] + raw[at + 1 + what % 3 :]
            case "twice":
                raw = b"\r\n".join([*lines[:line], lines[line], *lines[line:]])
            case "end":
                raw = b"\r\n".join(lines[: line + 1]) + ENDS[what % len(ENDS)] + b"\r\n".join(lines[line + 1 :])
            case _:
                lines[line], lines[other] = lines[other], lines[line]
                raw = b"\r\n".join(lines)
    return raw
