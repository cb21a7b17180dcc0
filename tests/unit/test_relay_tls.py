"""The forwarder's TLS to the instance: pinned, so that nobody else gets the key or a word of a request."""

import contextlib
import hashlib
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from tests.unit.relaying import HOST, OK, PATIENCE_S, drained, get, post, relay


def made(folder: Path) -> tuple[ssl.SSLContext, str]:
    """A server's context with a certificate that it made itself, and the fingerprint of that."""
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    subprocess.run(
        [*make, "-days", "2", "-subj", "/CN=t", "-keyout", key, "-out", cert], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(cert).read_text())).hexdigest()


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    return made(tmp_path_factory.mktemp("tls"))


Pinned = tuple[ssl.SSLContext, str]


def test_requests_pass_over_a_pinned_connection_that_is_used_again(pinned: Pinned) -> None:
    with relay(context=pinned[0], fingerprint=pinned[1]) as it:
        program, far = it.ask(post(b"x" * 100_000))
        program.send(get() + get())
        for _ in range(2):
            assert it.far.hop in far.message()
            far.send(OK)
        program.expect(OK + OK)
        assert isinstance(far.sock, ssl.SSLSocket)
        assert far.sock.version() == "TLSv1.3"
        assert it.far.nobody()


def test_whoever_has_another_certificate_gets_nothing(pinned: Pinned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.forwarder._TRIES", 2)
    with relay(context=pinned[0], fingerprint="0" * 64) as it:
        program = it.program()
        program.send(post(b'{"secret":1}'))
        for _ in range(2):
            assert drained(it.far.accept()) == 0
        answer = program.message()
        assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert b"another certificate" in answer
        assert it.source.asked == ["wake", "wake"]
        assert it.idle() == 0


def test_an_instance_that_was_replaced_is_found_again_with_its_new_certificate(pinned: Pinned, tmp_path: Path) -> None:
    context, fingerprint = made(tmp_path)
    with relay(context=pinned[0], fingerprint=pinned[1]) as it:
        program, far = it.ask(get())
        it.far.context = context
        it.source.place = it.far.place(fingerprint=fingerprint, name="two")
        program.send(post())
        far.message()
        far.close()
        assert drained(it.far.accept()) == 0  # what answers there is not the one that was known
        second = it.far.accept()
        second.message()
        second.send(OK)
        program.expect(OK)


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 500, b""], ids=["HTTP", "zeros", "nothing"]
)
def test_whoever_speaks_no_tls_gets_nothing_but_a_hello(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.forwarder._TRIES", 1)
    with relay(fingerprint="0" * 64) as it:
        program = it.program()
        program.send(post(b'{"secret":1}'))
        far = it.far.accept()
        hello = far.sock.recv(1 << 16)
        assert b"secret" not in hello
        far.send(said)
        if said:
            far.ends()
        else:
            far.close()
        assert program.message().startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize("whole", [True, False])
def test_an_answer_that_ends_with_its_connection_is_whole_only_where_tls_says_so(pinned: Pinned, whole: bool) -> None:
    with relay(context=pinned[0], fingerprint=pinned[1]) as it:
        program, far = it.begun(get())
        far.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        program.until(b"\r\n\r\nhello")
        assert isinstance(far.sock, ssl.SSLSocket)
        if whole:
            far.sock.setblocking(False)
            with contextlib.suppress(OSError):  # the other end's word is not waited for
                far.sock.unwrap()
            assert program.rest() == b""
        else:
            far.sock.shutdown(socket.SHUT_WR)  # beneath TLS
            with pytest.raises(ConnectionResetError):
                program.rest()
        far.close()


def test_a_connection_that_was_closed_while_unused_is_not_used_over_tls_either(pinned: Pinned) -> None:
    with relay(context=pinned[0], fingerprint=pinned[1]) as it:
        program, far = it.ask(get())
        far.close()
        it.wait(lambda: it.idle() == 0)
        it.afresh(program)


def test_over_tls_too_nobody_sends_on_to_whoever_does_not_read(pinned: Pinned) -> None:
    size = 100 << 20
    with relay(context=pinned[0], fingerprint=pinned[1]) as it:
        program = it.program(receive=1 << 16)
        program.send(get())
        far = it.far.accept()
        far.message()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        answer = threading.Thread(target=lambda: far.send(head + bytes(size)))
        answer.start()
        it.wait(lambda: next(iter(it.forwarder._connections)).stuffed)
        (down,) = it.forwarder._connections
        assert down.transport.get_write_buffer_size() < 1 << 20
        assert answer.is_alive()
        program.expect(head)
        assert len(program.read(size)) == size
        answer.join(PATIENCE_S)
        program.send(b"POST /api/blobs/x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size)
        second = it.far.accept()
        second.until(b"\r\n\r\n")
        body = threading.Thread(target=lambda: program.send(bytes(size)))
        body.start()
        it.wait(lambda: down._held_back)
        assert body.is_alive()
        assert len(second.read(size)) == size
        body.join(PATIENCE_S)
        second.send(OK)
        program.expect(OK)


@pytest.mark.parametrize("leaves", ["closes", "resets"])
def test_whoever_leaves_ends_a_pinned_connection_too(pinned: Pinned, leaves: str) -> None:
    with relay(context=pinned[0], fingerprint=pinned[1]) as it:
        program, far = it.begun(post())
        if leaves == "closes":
            program.close()
        else:
            program.reset()
        far.ends()
