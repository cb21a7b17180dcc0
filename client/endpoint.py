"""Port 11435 of one instance: a TLS binding proved by the key, authenticated requests, the agent's status and fence.

The instance's certificate is made on it and signed by nobody, so it is trusted only once the answer to GET
/.exollama/proof, fetched on the very same connection before any key is sent, shows that whoever holds the certificate
also holds our key (kubeadm finds its CA so). From then on its fingerprint is pinned; another has to be proved again.
Neighbours: `cloudinit/agent.py` and `nginx.conf` are the other side. Imports errors, labels, model, settings and tls.
"""

import hashlib
import hmac
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from client.errors import (
    AgentDown,
    Draining,
    EndpointError,
    FenceRefused,
    Garbled,
    KeyRejected,
    OllamaError,
    OtherVersion,
    StreamCut,
    Unreachable,
    Untrusted,
)
from client.labels import MAX_SECONDS
from client.model import FOREIGN_DO, Instance, printable
from client.settings import Secret
from client.tls import pinned_context

PORT: Final = 11435
TIMEOUT_S: Final = 10.0
STREAM_TIMEOUT_S: Final = 900.0
"""How long one wait inside an answer may take: a large model needs minutes to load before its first token."""
_MAX_JSON: Final = 1 << 20
_TIMEOUTS: Final = 3
"""How many of its timeouts a small exchange may take as a whole."""


class Endpoint:
    """One instance's endpoint. Not thread-safe: it keeps one connection. `fingerprint` is None until proved."""

    def __init__(self, address: str, key: Secret, *, port: int = PORT, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        self.port = port
        self.timeout_s = timeout_s
        self.fingerprint: str | None = None
        self.certificate: bytes | None = None
        self._key = key
        self._idle: http.client.HTTPSConnection | None = None

    @classmethod
    def of(cls, instance: Instance, key: Secret) -> "Endpoint":
        """The endpoint of an instance. Raises Unreachable where it has no address; talks to nobody yet."""
        if not instance.address:
            raise Unreachable(f"Instance {instance.id} has no public address (yet).")
        return cls(instance.address, key)

    @property
    def url(self) -> str:
        """`https://ADDRESS:PORT`."""
        return f"https://{self.address}:{self.port}"

    def close(self) -> None:
        """Close the kept connection, if there is one."""
        if self._idle:
            self._idle.close()
            self._idle = None

    # -- the agent

    def status(self) -> dict[str, Any]:
        """What the instance says of itself: idle_s, in_flight, requests, boot, fence, policy, versions.

        Fields that are not known here are left in. Raises Unreachable (Garbled for an answer that is not of this
        shape), OtherVersion, Untrusted, KeyRejected.
        """
        status = self._agent("GET", "/.exollama/status", (200,))
        policy = status.get("policy")
        for said in (status, policy if isinstance(policy, dict) else {}):
            if (version := said.get("v", 1)) != 1:
                raise OtherVersion(
                    f"{self.url} says that it is of contract version {printable(version)[:20]}, and this exollama "
                    f"knows 1. {FOREIGN_DO}"
                )
        idle_s, in_flight, boot = status.get("idle_s"), status.get("in_flight"), status.get("boot")
        sane = (
            isinstance(idle_s, int | float)
            and not isinstance(idle_s, bool)
            and 0 <= idle_s < MAX_SECONDS
            and isinstance(in_flight, int)
            and not isinstance(in_flight, bool)
            and in_flight >= 0
            and isinstance(boot, dict)
            and isinstance(boot.get("phase"), str)
            and boot["phase"].isprintable()
            and isinstance(boot.get("log", []), list)
            and isinstance(status.get("fence"), dict | None)
        )
        if not sane:
            raise Garbled(f"{self.url} answers, but not with a status that can be read: {_glimpse(status)}.")
        return status

    def touch(self) -> None:
        """Count as activity. Raises Draining where the instance is fenced."""
        self._agent("POST", "/.exollama/touch", (204,))

    def fence(self, owner: str) -> None:
        """Take no new requests for a lease of 120 s. `owner`: 32 hex digits, fresh per attempt.

        Raises FenceRefused where another's fence stands. Repeating it, as after a lost answer, changes nothing.
        """
        self._agent("PUT", f"/.exollama/fence/{owner}", (201,))

    def commit(self, owner: str) -> None:
        """Stay shut until this owner lifts the fence. Raises FenceRefused with the reason where it is in use."""
        said = self._agent("POST", f"/.exollama/fence/{owner}/commit", (200,))
        if said.get("committed") is not True:
            raise Garbled(f"{self.url} answers the commit with something else: {_glimpse(said)}.")

    def unfence(self, owner: str) -> None:
        """Take requests again, committed or not. Raises FenceRefused where another's fence stands."""
        self._agent("DELETE", f"/.exollama/fence/{owner}", (204,))

    # -- Ollama

    @contextmanager
    def request(
        self, method: str, path: str, payload: dict[str, Any] | None = None, *, timeout_s: float = STREAM_TIMEOUT_S
    ) -> Iterator[http.client.HTTPResponse]:
        """Send one request on a connection of its own and hand out the answer, unread.

        Raises Unreachable, Untrusted, KeyRejected, Draining, OllamaError (any other status than 200) and, where the
        connection ends while the answer is read, StreamCut.
        """
        connection = self._connect()
        try:
            assert connection.sock
            connection.sock.settimeout(timeout_s)
            answer = self._exchange(
                connection, method, path, json.dumps(payload).encode() if payload is not None else b""
            )
            if answer.status != 200:
                self._refused(answer.status, answer.headers.get("X-Exollama"), answer.read(_MAX_JSON))
            try:
                yield answer
            except (OSError, http.client.HTTPException) as error:
                raise StreamCut(f"The connection to {self.url} ended in the middle of the answer ({error}).") from error
        finally:
            connection.close()

    # -- inside

    def _agent(self, method: str, path: str, expected: tuple[int, ...]) -> dict[str, Any]:
        """One small exchange with the agent on the kept connection, repeated on a new one where that was stale."""
        kept = self._idle is not None
        try:
            answer, body = self._small(method, path)
        except Unreachable:
            if not kept:
                raise
            answer, body = self._small(method, path)
        if answer.status in (502, 504):
            raise AgentDown(f"{self.url}: the port answers, but the agent behind it does not (yet).")
        if answer.status == 409:
            raise FenceRefused(_words(body))
        if answer.status not in expected:
            self._refused(answer.status, answer.headers.get("X-Exollama"), body)
        if not body:
            return {}
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise Garbled(f"{self.url}{path} answers, but not with JSON: {body[:80]!r}.")
        return data

    def _small(self, method: str, path: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = self._idle or self._connect()
        self._idle = None
        try:
            with self._bounded(connection.sock):
                answer = self._exchange(connection, method, path, b"")
                body = answer.read(_MAX_JSON)
                if answer.length and len(body) < _MAX_JSON:  # http.client takes an early end for the whole of it
                    # Whoever begins an answer is no silent machine: three of these condemn nothing.
                    raise Garbled(f"{self.url} stopped answering: {answer.length} bytes of its answer are missing.")
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _silence(error)(f"{self.url} stopped answering: {_why(error)}.") from error
        except BaseException:
            connection.close()
            raise
        if answer.will_close or not answer.isclosed():
            connection.close()
        else:
            self._idle = connection
        return answer, body

    @contextmanager
    def _bounded(self, sock: socket.socket) -> Iterator[None]:
        """End the connection where a small exchange takes many timeouts: a byte now and then is no answer."""

        def cut() -> None:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # TLS knows nothing of it, and reads the end

        timer = threading.Timer(_TIMEOUTS * self.timeout_s, cut)
        timer.daemon = True
        with suppress(RuntimeError):  # an interpreter that ends starts no thread; each wait has its own timeout still
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _exchange(
        self, connection: http.client.HTTPSConnection, method: str, path: str, body: bytes
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, path, body=body, headers=self._headers(body))
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            kind, trouble = _silence(error), _why(error)
        # Raised out here, so that no frame that held the key hangs on to the error.
        raise kind(f"{self.url} gave no answer to {method} {path}: {trouble}.")

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {"X-Ollama-Key": self._key.reveal(), "Content-Length": str(len(body))}
        return {**headers, "Content-Type": "application/json"} if body else headers

    def _refused(self, status: int, mark: str | None, body: bytes) -> None:
        words = _words(body)
        if status == 401:
            raise KeyRejected(
                f"{self.url} refuses the key (401): it has another one. Unset EXOSCALE_OLLAMA_KEY to use the one in "
                "the instance's user-data, or set it to the key the instance was made with."
            )
        if status == 503 and mark == "draining":
            raise Draining(f"{self.url} takes no new requests (fenced): somebody is about to remove the instance.")
        raise OllamaError(f"{self.url} answered {status}: {words}", status=status)

    def _connect(self) -> http.client.HTTPSConnection:
        """A new connection whose certificate is the pinned one, or was proved just now; no key is sent before that."""
        context = pinned_context()
        connection = http.client.HTTPSConnection(self.address, self.port, timeout=self.timeout_s, context=context)
        try:
            plain = socket.create_connection((self.address, self.port), self.timeout_s)
            connection.sock = secured = context.wrap_socket(plain, do_handshake_on_connect=False)
            with self._bounded(secured):
                secured.do_handshake()
                certificate = secured.getpeercert(binary_form=True) or b""
                fingerprint = hashlib.sha256(certificate).hexdigest()
                if not hmac.compare_digest(fingerprint, self.fingerprint or ""):
                    self._prove(connection, fingerprint)
                    self.fingerprint, self.certificate = fingerprint, certificate
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            why = printable(error)[:200] or type(error).__name__
            raise _silence(error)(f"{self.url} cannot be reached: {why}.") from error
        except EndpointError:
            connection.close()
            raise
        return connection

    def _prove(self, connection: http.client.HTTPSConnection, fingerprint: str) -> None:
        connection.request("GET", "/.exollama/proof")
        answer = connection.getresponse()
        body = answer.read(_MAX_JSON)
        if answer.status != 200:
            kind = AgentDown if answer.status in (502, 503, 504) else Garbled
            raise kind(f"{self.url} has no proof of its certificate (yet): {answer.status}.")
        try:
            proof = json.loads(body)
            nonce, mac = str(proof["nonce"]), str(proof["mac"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Garbled(f"{self.url} answers the proof with something else: {body[:80]!r}.") from None
        message = f"exollama-tls-v1\n{nonce}\n{fingerprint}".encode("utf-8", "replace")
        expected = hmac.new(self._key.reveal().encode(), message, hashlib.sha256).hexdigest().encode()
        good = hmac.compare_digest(expected, mac.encode("utf-8", "replace"))
        if not re.fullmatch(r"[0-9a-f]{32}", nonce) or not good:
            raise Untrusted(
                f"The certificate of {self.url} ({fingerprint[:16]}…) is not vouched for by our key: either somebody "
                "intercepts the connection, or the key is a wrong one (unset EXOSCALE_OLLAMA_KEY to use the instance's "
                "own). The key was not sent."
            )

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()


def _silence(error: Exception) -> type[Unreachable]:
    """What an error of http.client's or of the socket is: something that is no HTTP was heard, or nothing (more)."""
    heard = isinstance(error, http.client.HTTPException) and not isinstance(error, OSError | http.client.IncompleteRead)
    return Garbled if heard else Unreachable


def _why(error: Exception) -> str:
    """An error's words, which may quote what was heard."""
    return printable(f"{type(error).__name__} {error}")[:200]


def _glimpse(said: dict[str, Any]) -> str:
    """The beginning of what was said."""
    try:
        return repr(str(said)[:120])
    except RecursionError:
        return "nested too deeply to be shown"


def _words(body: bytes) -> str:
    """What an error's body says, as one line."""
    try:
        return printable(json.loads(body)["error"])[:500]
    except (ValueError, KeyError, TypeError, RecursionError):
        return printable(body[:200].decode("utf-8", "replace"))
