"""A provision function behind a URL (EXOLLAMA_PROVISION_URL), for who has no credentials: asked until it is ready.

Its contract: POST `{"action": "provision"}` with `Authorization: Bearer TOKEN` is answered with 200 and provision's
result, the key in it; or 202 with `{"phase", "percent"}` and Retry-After in seconds; or `{"error"}`. Neighbours:
`functions.faas` is such a function; `client.source` wakes through it for a forwarder, `client.use` for the other verbs.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from client.boot import Progress, share
from client.endpoint import Endpoint
from client.errors import ExollamaError, SettingsError
from client.model import printable
from client.settings import Reader, Secret, by_function, endpoint_key, web_address
from client.transport import Disconnected, Request, Response, Send, http_client_send

ONLY_WITH_CREDENTIALS: Final[Mapping[str, str]] = {
    "no_provision": "--no-provision needs EXOSCALE_API_KEY and EXOSCALE_API_SECRET: through EXOLLAMA_PROVISION_URL an "
    "instance can only be found by waking it.",
    "no_wait": "--no-wait needs EXOSCALE_API_KEY and EXOSCALE_API_SECRET: the function is asked until it is ready.",
    "keep_failed": "--keep-failed needs EXOSCALE_API_KEY and EXOSCALE_API_SECRET: the function keeps none.",
}
"""Flags that a function cannot do, by their names in argparse."""
_ASK_S: Final = 60.0
_WAIT_S: Final = 5.0
_MAX_WAIT_S: Final = 30.0
_PATIENCE_S: Final = 3600.0
_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """What a function answered, checked as far as it is used; the rest is words, fit for a terminal."""

    id: str
    name: str
    zone: str
    model: str
    phase: str
    address: str
    port: int
    key: Secret
    deadline: datetime | None

    @property
    def url(self) -> str:
        """`https://ADDRESS:PORT`."""
        return self.endpoint().url

    def endpoint(self) -> Endpoint:
        """The instance's endpoint; talks to nobody yet."""
        return Endpoint(self.address, self.key, port=self.port)

    @property
    def result(self) -> dict[str, Any]:
        """The same as `functions.provision.run` returns it, as far as it is known."""
        return {
            "id": self.id,
            "name": self.name,
            "zone": self.zone,
            "state": "running",
            "phase": self.phase,
            "url": self.url,
            "model": self.model,
            "created": None,
            "deadline": self.deadline and self.deadline.isoformat(),
            "key": self.key,
        }

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Provisioned:
        """Read a 200's object. Raises ExollamaError."""
        what = "key"
        try:
            key = endpoint_key(str(said.get("key")))
            what = "url"
            parts = urlsplit(str(said.get("url")))
            address, port = parts.hostname, parts.port
            if not address or not port:
                raise ValueError
            what = "deadline"
            deadline = datetime.fromisoformat(said["deadline"]) if said.get("deadline") else None
        except (ValueError, TypeError):
            raise ExollamaError(
                f"The provision function's answer (200) has no {what} that can be used. It has to be the result of "
                "functions.provision.run as JSON, with the key revealed."
            ) from None
        if deadline and deadline.tzinfo is None:
            deadline = deadline.replace(tzinfo=UTC)
        words = {name: printable(said.get(name) or "")[:200] for name in ("id", "name", "zone", "model", "phase")}
        return cls(address=address, port=port, key=key, deadline=deadline, **words)


class Function:
    """One function. `progress` is told what it says of the boot."""

    def __init__(
        self,
        url: str,
        token: Secret,
        progress: Progress,
        *,
        send: Send = http_client_send,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url
        parts = urlsplit(url)
        self._where = f"{parts.scheme}://{parts.netloc}{parts.path}"  # some carry a key in their query
        self._token = token
        self._progress = progress
        self._send = send
        self._sleep = sleep

    @classmethod
    def from_env(cls, env: Mapping[str, str], progress: Progress) -> Function:
        """The function that the environment names. Raises SettingsError, every problem at once."""
        reader = Reader(env)
        url, token = named(reader)
        if reader.problems or url is None or token is None:
            raise SettingsError(*reader.problems)
        return cls(url, token, progress)

    def provision(self) -> Provisioned:
        """Ask until the instance is ready. Raises SettingsError for a wrong token, ExollamaError for the rest."""
        began, failures = time.monotonic(), 0
        while True:
            try:
                answer = self._ask()
            except Disconnected as error:
                failures += 1
                if failures == _ATTEMPTS:
                    raise ExollamaError(
                        f"The provision function does not answer: {error}. Is EXOLLAMA_PROVISION_URL right, and does "
                        "the function run?"
                    ) from error
                self._sleep(min(2.0**failures, _MAX_WAIT_S))
                continue
            parsed = _parsed(answer)
            said = parsed or {}
            if answer.status == 200:
                return Provisioned.read(said)
            if answer.status in (401, 403):
                its_words = f" It says: {_words(answer, parsed)}" if said.get("error") else ""
                raise SettingsError(
                    f"{self._where} refuses EXOLLAMA_FUNCTION_TOKEN ({answer.status}): set it to the function's own."
                    f"{its_words}"
                )
            # Whoever says why has tried, and may have paid for it: trying again is for who asked to decide.
            passing = answer.status in (429, 502, 503, 504) and not said.get("error")
            failures = failures + 1 if passing else 0
            if failures == _ATTEMPTS or (answer.status != 202 and not passing):
                raise ExollamaError(f"The provision function failed ({answer.status}): {_words(answer, parsed)}")
            if time.monotonic() - began > _PATIENCE_S:
                raise ExollamaError(f"The provision function was asked for {_PATIENCE_S:.0f} s, and is not done.")
            phase = printable(said.get("phase") or "provisioning")[:40]
            self._progress(phase, share(said.get("percent")), time.monotonic() - began)
            after = answer.headers.get("retry-after", "")
            self._sleep(min(float(after) if re.fullmatch("[0-9]{1,6}", after) else _WAIT_S, _MAX_WAIT_S))

    def _ask(self) -> Response:
        headers = {"Authorization": f"Bearer {self._token.reveal()}", "Content-Type": "application/json"}
        return self._send(Request("POST", self._url, headers, b'{"action":"provision"}', _ASK_S))


def named(reader: Reader) -> tuple[str | None, Secret | None]:
    """URL and token of the function that an environment names; the reader has what is wrong with them."""
    url = reader.get("EXOLLAMA_PROVISION_URL", web_address, None, secret=True)
    token = reader.get("EXOLLAMA_FUNCTION_TOKEN", _bearer, None, secret=True)
    if by_function(reader.env) and not reader.env.get("EXOLLAMA_FUNCTION_TOKEN", "").strip():
        reader.problems.append("EXOLLAMA_FUNCTION_TOKEN is not set: the provision function demands it.")
    return url, token


def _bearer(value: str) -> Secret:
    """A token, whoever made it. Raises ValueError without repeating it."""
    if not re.fullmatch(r"[!-~]{1,4096}", value):
        raise ValueError("has characters that no token has, a space or a line's end perhaps.")
    return Secret(value)


def _words(answer: Response, parsed: dict[str, Any] | None) -> str:
    """Why it failed, in its own words. An answer of another shape may have a key in it, and is not shown."""
    if parsed is None:
        return printable(answer.body[:200].decode("utf-8", "replace"))
    return printable(parsed.get("error") or "it does not say why")[:500]


def _parsed(answer: Response) -> dict[str, Any] | None:
    """The JSON object that an answer is; empty for JSON of another kind, None for what is none."""
    try:
        said = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else {}
