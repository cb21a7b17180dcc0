"""One side of a TLS connection over memory: bytes from the network in, plain bytes out, and back.

asyncio's own TLS sets 256 KiB aside for each connection, copies once more on the way, and cannot tell an end that the
other side meant from one that only TCP had; for hundreds of streams of short tokens all of that counts. No I/O.
Neighbours: `client.upstream` carries the bytes; `client.endpoint` takes the context. Imports nothing of the project.
"""

import hashlib
import ssl
from typing import Final, cast

ROOM: Final = 32 << 10
"""Bytes that what is decrypted may take more than what came in: the rest of a record that was here already."""


def pinned_context() -> ssl.SSLContext:
    """TLS as the instance speaks it. Its certificate is nobody's but its own: a pin is what is checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class Tls:
    """The client's side. `ended`: the other side has said that nothing more will come."""

    __slots__ = ("_incoming", "_object", "_outgoing", "ended")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing)
        self.ended = False

    def handshake(self, data: bytes | memoryview = b"") -> str | None:
        """Go on with the handshake; once it is through, the fingerprint of the certificate. Raises ssl.SSLError."""
        self._incoming.write(data)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return None
        return hashlib.sha256(self._object.getpeercert(binary_form=True) or b"").hexdigest()

    def decrypt(self, view: memoryview, nbytes: int) -> bytes:
        """What `view[:nbytes]`, as it came in, says; `view` is written over, and has ROOM to spare.

        Raises ssl.SSLError.
        """
        self._incoming.write(view[:nbytes])
        at = 0
        try:
            while self._incoming.pending or self._object.pending():
                got = cast("int", self._object.read(len(view) - at, view[at:]))  # with a buffer it counts
                if not got:
                    self.ended = True
                    break
                at += got
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        return bytes(view[:at])

    def encrypt(self, data: bytes) -> bytes:
        """What is to be sent for `data`."""
        while data:
            data = data[self._object.write(data) :]
        return self._outgoing.read()

    def outgoing(self) -> bytes:
        """What TLS itself has to send: a handshake, a new key."""
        return self._outgoing.read() if self._outgoing.pending else b""
