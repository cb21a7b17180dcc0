"""Somebody at an instance's address who speaks TLS and HTTP, keeps all that it hears, and answers what a test says."""

import hashlib
import hmac
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

KEY = "planted-0123456789-endpoint-key-ABCDEF"
NONCE = "0123456789abcdef0123456789abcdef"


def http(status: int, body: bytes = b"", **headers: str) -> bytes:
    """One whole answer."""
    lines = [f"HTTP/1.1 {status} x", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    lines += [] if status == 204 else [f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Impostor:
    """A TLS server at an instance's address that keeps everything it is sent; `mac_key` makes its proof valid.

    `answers` gives the whole answer to `METHOD /PATH`, the proof's included; None where it has none of its own: 401.
    """

    def __init__(
        self,
        address: str,
        folder: Path,
        mac_key: str | None,
        proof: bytes | None = None,
        answers: Callable[[str], bytes | None] = lambda _asked: None,
    ) -> None:
        self._address, self._folder = address, folder
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate = self.certify()
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()
        message = f"exollama-tls-v1\n{NONCE}\n{fingerprint}".encode()
        mac = hmac.new((mac_key or "a key of its own").encode(), message, hashlib.sha256).hexdigest()
        self.proof = proof or json.dumps({"nonce": NONCE, "mac": mac}).encode()
        self.answers = answers
        self.heard = bytearray()
        self.drip_s = 0.0  # between two bytes of an answer
        self._server = socket.create_server((address, 11435))
        self._talking: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)

    def certify(self) -> Path:
        """A new certificate for every connection from now on; the proof stays that of the first."""
        certificate, private = self._folder / "cert.pem", self._folder / "key.pem"
        make = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={self._address}"
        files = ["-out", str(certificate), "-keyout", str(private)]
        subprocess.run([*make.split(), *files], check=True, capture_output=True)
        self._context.load_cert_chain(certificate, private)
        return certificate

    def __enter__(self) -> "Impostor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        if self._talking:
            with suppress(OSError):  # its client may have kept it open
                self._talking.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._server.accept()
            except OSError:
                return
            plain.settimeout(10)
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    self._talking = connection
                    self._answer(connection)
            except OSError:
                plain.close()

    def _answer(self, connection: ssl.SSLSocket) -> None:
        while data := connection.recv(65536):
            self.heard += data
            asked = data.decode("latin-1").rpartition(" HTTP/1.1\r\n")[0].splitlines()[-1]
            answer = self.answers(asked)
            if answer is None and asked == "GET /.exollama/proof":
                answer = http(200, self.proof)
            said = answer or http(401, b'{"error":"no"}')
            for part in [said[n : n + 1] for n in range(len(said))] if self.drip_s else [said]:
                connection.sendall(part)
                time.sleep(self.drip_s)
            if answer and b"Content-Length" not in answer and not answer.startswith(b"HTTP/1.1 204"):
                return
