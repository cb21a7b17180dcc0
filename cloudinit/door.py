"""Port 11435 until nginx has it, and for good where nginx cannot be had: a boot can be watched from its first seconds.

Certificate, addresses, words and rules are those of nginx.conf, but that nothing goes to Ollama. The only part of the
boot that knows the key, and it logs nothing. It has a thread of its own: whoever hangs, scans or floods holds up no
boot. Imported by bootstrap.py. Standard library only, Python 3.10.
"""

import asyncio
import contextlib
import hmac
import re
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

ETC = Path("/etc/exollama")
RUN = Path("/run/exollama")
TLS = Path("/var/lib/exollama/tls")

MOST = 64  # connections; one more ends the oldest
HEAD_LIMIT = 8192
PATIENCE_S = 10.0  # for a handshake, a request, a reader
AGENT_S = 30.0
PROOFS = 3  # on one connection without a key
Answer = tuple[list[bytes], bytes]  # status and header lines, body
REQUEST = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.([01])")


class Door:
    """Shut at first. While it is open, its file keeps nginx from being started, as apt does once it has the package."""

    def __init__(self) -> None:
        self.mark = RUN / "door"
        self.end: Callable[[], object] = lambda: None
        self.thread: threading.Thread | None = None
        self.talks: dict[asyncio.Task[None], None] = {}

    def open(self) -> None:
        """Listen where nginx will. Raises OSError where that cannot be."""
        conf = (ETC / "nginx.conf").read_text()
        self.words = dict(re.findall(r"return (\d+) '(.*)'", conf))
        self.key = (ETC / "key").read_bytes().strip()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.num_tickets = 0
        self.context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
        listeners = []
        for host, port in re.findall(r"listen (?:\[?([0-9.:]+?)\]?:)?(\d+) ", conf):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with contextlib.suppress(OSError):  # a kernel without IPv6, as which nginx does not start
                listeners.append(socket.create_server((host, int(port)), family=family, backlog=128))
        if not listeners:
            raise OSError("nobody can listen where nginx would")
        self.mark.touch()
        begun = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve(listeners, begun)), daemon=True)
        self.thread.start()
        begun.wait(PATIENCE_S)

    def close(self) -> None:
        """Let go of the port and of whoever is connected, if it is open: nginx may have both."""
        with contextlib.suppress(RuntimeError):  # its thread has ended already
            self.end()
        if self.thread:
            self.thread.join(PATIENCE_S)
        self.end, self.thread = lambda: None, None
        self.mark.unlink(missing_ok=True)

    def wait(self) -> None:
        """While it is open."""
        if self.thread:
            self.thread.join()

    async def serve(self, listeners: list[socket.socket], begun: threading.Event) -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(lambda *_: None)
        self.end = lambda: loop.call_soon_threadsafe(over.set)
        gates = [loop.create_task(self.admit(listener)) for listener in listeners]
        begun.set()
        await over.wait()
        for gate in gates:
            gate.cancel()
        await asyncio.wait(gates)
        for listener in listeners:
            listener.close()

    async def admit(self, listener: socket.socket) -> None:
        loop, talks = asyncio.get_running_loop(), self.talks
        listener.setblocking(False)
        while True:
            try:
                link, _ = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(1)
                continue
            if len(talks) >= MOST:
                oldest = next(iter(talks))
                del talks[oldest]
                oldest.cancel()
            talk = loop.create_task(self.talk(link))
            talks[talk] = None
            talk.add_done_callback(lambda done: talks.pop(done, None))
            await asyncio.sleep(0)  # for it to begin, even in a burst: its socket has an owner then

    async def talk(self, link: socket.socket) -> None:
        """One connection, from its handshake on."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(HEAD_LIMIT)
        transport, protocol = await loop.connect_accepted_socket(
            lambda: asyncio.StreamReaderProtocol(reader), link, ssl=self.context, ssl_handshake_timeout=PATIENCE_S
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        transport.set_write_buffer_limits(1, 0)  # drained is then sent; a high mark of 0 would pause for good
        try:
            again, number = True, 0
            while again:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
                number += 1
                answer, again = await self.respond(head, number)
                writer.write(answer)
                await asyncio.wait_for(writer.drain(), PATIENCE_S)
            link.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(discard(reader), PATIENCE_S)  # left unread it would reset what the answer goes over
        finally:
            transport.abort()

    async def respond(self, head: bytes, number: int) -> tuple[bytes, bool]:
        """The answer to a connection's so many-th request, and whether another one may follow."""
        line, *rest = head[:-4].split(b"\r\n")
        asked = REQUEST.fullmatch(line)
        if not asked:
            return b"", False
        method, target, minor = asked.groups()
        fields = {name.lower(): value.strip(b" ") for name, _, value in (one.partition(b":") for one in rest)}
        path, known = target.partition(b"?")[0], self.knows(fields)
        proof = path == b"/.exollama/proof"
        said = None
        if not known and not proof:
            said = self.own(401, b"WWW-Authenticate: Bearer")
        elif path.startswith(b"/.exollama"):
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                said = await asyncio.wait_for(relay(method, path), AGENT_S)
        more = fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields
        asks_to_close = minor == b"0" or b"close" in fields.get(b"connection", b"").lower()
        again = (known or (proof and number < PROOFS)) and not (more or asks_to_close or method == b"HEAD")
        lines, body = said or self.own(502)
        lines.append(b"Connection: keep-alive" if again else b"Connection: close")
        return b"\r\n".join([*lines, b"", body]), again

    def knows(self, fields: dict[bytes, bytes]) -> bool:
        """Whether the key is there in one of its two forms, compared in constant time; an empty one opens nothing."""
        bearer = re.fullmatch(rb"(?i:Bearer) +(.+)", fields.get(b"authorization", b""))
        given = fields.get(b"x-ollama-key", b""), bearer[1] if bearer else b""
        return self.key != b"" and any(hmac.compare_digest(one, self.key) for one in given)

    def own(self, status: int, *more: bytes) -> Answer:
        body = self.words[str(status)].encode()
        lines = [b"HTTP/1.1 %d " % status, b"Content-Type: application/json", b"Content-Length: %d" % len(body), *more]
        return lines, body


async def relay(method: bytes, path: bytes) -> Answer | None:
    """The agent's answer, None where it breaks off."""
    reader, writer = await asyncio.open_unix_connection(str(RUN / "agent.sock"))
    try:
        writer.write(b"%b %b HTTP/1.0\r\n\r\n" % (method, path))
        head, end, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    status, *lines = head.split(b"\r\n")
    kept = [line for line in lines if not line.startswith((b"Server:", b"Date:"))]
    return ([b"HTTP/1.1" + status[8:], *kept], body) if end else None


async def discard(reader: asyncio.StreamReader) -> None:
    """Read to the end."""
    while await reader.read(HEAD_LIMIT):
        pass
