"""Both ways of sending trust whom the system trusts, nobody else, and find out once."""

import http.server
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

from client.transport import Disconnected, Request, Send, http_client_send, once
from functions.transport import urllib3_send

SENDS: dict[str, Callable[[], Send]] = {"http.client": lambda: http_client_send, "urllib3": urllib3_send}


class Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None:
        pass


class Silent(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Being refused is what is tested."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    name = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*make, *name, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return key, cert


@pytest.fixture
def port(certificate: tuple[str, str]) -> Iterator[int]:
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with Silent(("127.0.0.1", 0), Answering) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the system's trust was read for; nothing of it is left over from another test, or for one."""
    made: list[object] = []

    def counted() -> ssl.SSLContext:
        made.append(None)
        return ssl.create_default_context()

    fresh = once(counted)
    for module in ("client", "functions"):
        monkeypatch.setattr(f"{module}.transport.tls_context", fresh)
    return made


def ask(send: Send, port: int, host: str = "localhost") -> bytes:
    return send(Request("GET", f"https://{host}:{port}/zone", {}, b"", 30.0)).body


@pytest.mark.parametrize("name", SENDS)
def test_threads_share_one_reading_of_whom_the_system_trusts(
    name: str, port: int, certificate: tuple[str, str], read: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certificate[1])
    send, answers = SENDS[name](), []
    threads = [threading.Thread(target=lambda: answers.append(ask(send, port))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [b"ok"] * 8
    assert len(read) == 1


def test_a_signal_that_is_handled_while_it_is_read_may_send_as_well() -> None:
    read: list[str] = []

    def interrupted() -> str:
        read.append("again")
        return fresh() if len(read) == 1 else "read"

    fresh = once(interrupted)
    thread = threading.Thread(target=lambda: read.append(fresh()), daemon=True)  # which would wait for itself for ever
    thread.start()
    thread.join(10)
    assert read == ["again", "again", "read"]


@pytest.mark.parametrize("name", SENDS)
@pytest.mark.parametrize(
    ("trusted", "host"), [(False, "localhost"), (True, "127.0.0.1")], ids=["by nobody", "for another name"]
)
def test_a_certificate_that_is_not_vouched_for_gets_no_request(
    name: str,
    trusted: bool,
    host: str,
    port: int,
    certificate: tuple[str, str],
    read: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", certificate[1])
    with pytest.raises(Disconnected, match="certificate verify failed"):
        ask(SENDS[name](), port, host)


@pytest.mark.parametrize("name", SENDS)
def test_plain_http_reads_nothing_of_it(name: str, read: list[object]) -> None:
    with Silent(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            send = SENDS[name]()
            assert send(Request("GET", f"http://127.0.0.1:{server.server_port}/", {}, b"", 30.0)).body == b"ok"
        finally:
            server.shutdown()
            thread.join()
    assert read == []
