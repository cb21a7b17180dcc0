"""Everything that can go wrong, as one small tree: each leaf says what failed, the value seen and what to do next.

Neighbours: raised by every module, mapped to exit codes in one place (`client.cli`). Imports nothing of the project.
No message ever carries a secret: keys reach this project as `client.settings.Secret` only.
"""


class ExollamaError(Exception):
    """Base of all errors of this project; `exit_code` is what a command line ends with."""

    exit_code = 1


class SettingsError(ExollamaError):
    """Settings or arguments that cannot be used; `problems` names every one of them at once."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class NoInstance(ExollamaError):
    """No live instance of that name in the zone, and none was to be created."""

    exit_code = 3


class Vanished(ExollamaError):
    """The instance that this run made was removed by somebody else while it was waited for: the next run makes one."""


class OutOfTime(ExollamaError):
    """The time that this call was given is over; the next one goes on from here."""


class ClockError(ExollamaError):
    """The local clock and the API's differ by more than ten minutes, so nothing is acted upon."""


class ApiError(ExollamaError):
    """The Exoscale API refused, failed or could not be understood; `status` is 0 where no answer came."""

    def __init__(self, method: str, path: str, status: int, message: str) -> None:
        super().__init__(f"{method} {path}: {message}")
        self.method = method
        self.path = path
        self.status = status
        self.message = message


class CredentialsRejected(ApiError):
    """The API does not accept the signature: wrong key or secret, or one that was revoked."""


class Denied(ApiError):
    """The credentials are good, but their IAM role does not allow this operation."""


class NotFound(ApiError):
    """No such resource in this zone (everything is zone-scoped)."""


class Conflict(ApiError):
    """Refused as things stand now: 409 (busy, quota, delete protection) or 412."""


class Unanswered(ApiError):
    """No answer came; `sent` tells whether the request may have been carried out all the same."""

    def __init__(self, method: str, path: str, message: str, *, sent: bool) -> None:
        super().__init__(method, path, 0, message)
        self.sent = sent


class OperationFailed(ExollamaError):
    """An asynchronous operation ended in failure or timeout, or had not ended when the patience had.

    `reason` is Exoscale's word for it (busy, conflict, fault, …), or None where it gave none.
    """

    def __init__(self, what: str, state: str, reason: str | None, message: str | None) -> None:
        detail = ", ".join(part for part in (reason, message) if part) or "no reason given"
        super().__init__(f"{what[0].upper()}{what[1:]} failed: the operation is in state {state} ({detail}).")
        self.state = state
        self.reason = reason


class BootFailed(ExollamaError):
    """The instance reported a failed boot, or was not ready in time. `log` is its log's end, `summary` all else."""

    def __init__(self, message: str, *, phase: str, log: tuple[str, ...] = ()) -> None:
        tail = "".join(f"\n  | {line}" for line in log)
        super().__init__(message + tail)
        self.summary = message
        self.phase = phase
        self.log = log


class EndpointError(ExollamaError):
    """Something on port 11435 of an instance is not as it should be. `silent`: nobody (who could be read) answered."""

    silent = False


class Unreachable(EndpointError):
    """No usable answer from port 11435: refused, silent, no TLS, or its agent is not up (yet)."""

    silent = True


class AgentDown(Unreachable):
    """nginx answers, and the agent behind it does not: it is started again within seconds, unless it is broken."""


class Garbled(Unreachable):
    """Port 11435 answers, but with what nobody can read. That is not silence, and condemns nothing."""

    silent = False


class Untrusted(EndpointError):
    """The certificate is not vouched for by our key; the key was not sent."""


class KeyRejected(EndpointError):
    """The instance answered 401: it has another key."""


class OtherVersion(EndpointError):
    """The instance says that it is of a contract version that is not known here."""


class Draining(EndpointError):
    """The instance is fenced: it takes no new requests because somebody is about to remove it."""


class FenceRefused(EndpointError):
    """The instance's fence is another's, or its commit was refused because somebody uses it; the message says which."""


class OllamaError(EndpointError):
    """Ollama itself answered with an error; `status` is its HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class StreamCut(EndpointError):
    """The connection ended in the middle of an answer; what had arrived was passed on."""
