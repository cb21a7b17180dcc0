"""Exoscale's API v2 over a `Send`: one retry loop that signs every attempt afresh, operations, errors, the API's clock.

What is retried: GET on a lost connection, 429, 500, 502, 503 and 504; anything else only on 429 or where the request
never left this machine, because it may have been carried out. Retry-After is honoured up to a cap. Nothing but GET is
sent while the local clock and the API's differ by more than ten minutes. Endpoints and schemas: the OpenAPI document
at https://openapi-v2.exoscale.com. Neighbours: `client.transport` sends; `functions.cloud` adds what provisioning and
reaping need.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, urlencode

from client.errors import (
    ApiError,
    ClockError,
    Conflict,
    CredentialsRejected,
    Denied,
    ExollamaError,
    NotFound,
    OperationFailed,
    Unanswered,
)
from client.settings import DEFAULT_ZONE, ZONE_RE, Secret, Settings
from client.signature import VALIDITY_S, sign
from client.transport import Disconnected, Request, Response, Send

if TYPE_CHECKING:
    from client.model import Instance

log = logging.getLogger("exollama.api")

ATTEMPTS: Final = 5
RETRY_AFTER_CAP_S: Final = 30.0
TIMEOUT_S: Final = 20.0
MAX_SKEW_S: Final = 600.0
Body = Mapping[str, Any] | Secret | None
"""What is sent: an object, JSON that nobody is to see, or nothing."""
_RETRIED_GET: Final = frozenset({429, 500, 502, 503, 504})


def backoff_s(attempt: int) -> float:
    """Seconds to wait after the given attempt (0, 1, …): a half, then twice as long each time, at most 8."""
    return min(0.5 * 2.0**attempt, 8.0)


def poll_s(elapsed_s: float) -> float:
    """Seconds until the next look at an operation: quick at first, then as Exoscale's own clients (3, at most 60)."""
    if elapsed_s < 5:
        return 0.5 if elapsed_s < 2 else 1.0
    return min(max(3.0, 3.0 + (elapsed_s - 30.0) * 57.0 / 870.0), 60.0)


class Api:
    """The API of one zone. `clock` is Unix time in seconds; `sleep` and `send` are injected for tests."""

    def __init__(
        self,
        settings: Settings,
        zone: str,
        send: Send,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.zone = zone
        self.base = settings.endpoint.replace("{zone}", zone)
        self.sleep = sleep
        self._settings = settings
        self._send = send
        self._clock = clock
        self._skew_s = 0.0

    def beside(self, zone: str) -> Self:
        """The same API in another zone."""
        return type(self)(self._settings, zone, self._send, clock=self._clock, sleep=self.sleep)

    def now(self) -> datetime:
        """The API's time (UTC): the local clock, corrected by the Date of the last answer."""
        return datetime.fromtimestamp(self._clock() + self._skew_s, UTC)

    def check_clock(self) -> None:
        """Raise ClockError where the local clock and the API's differ by more than ten minutes."""
        if abs(self._skew_s) > MAX_SKEW_S:
            side = "behind" if self._skew_s > 0 else "ahead of"
            apart = timedelta(seconds=round(abs(self._skew_s)))
            raise ClockError(
                f"This machine's clock is {apart} {side} the API's ({self.base}). Nothing was changed. "
                "Set the clock (timedatectl set-ntp true) and run this again."
            )

    # -- operations that client and functions share

    def list_zones(self) -> list[str]:
        """The names of all zones. Sent unsigned: GET /zone is public, and IAM-checked only once signed."""
        zones = self.call("GET", "/zone", signed=False).get("zones")
        # The answer is unsigned and its names become part of host names: the shape is checked.
        return [str(zone["name"]) for zone in _items(zones) if ZONE_RE.fullmatch(str(zone.get("name")))]

    def list_instances(self) -> list[Instance]:
        """All instances of the zone, without user-data and disk size. Unpaginated; filtered by the caller."""
        listed = _items(self.call("GET", "/instance", operation="list-instances").get("instances"))
        items = [item for item in listed if isinstance(item.get("id"), str)]
        if not items:
            return []  # as in most zones, and their model was not even imported
        from client.model import Instance

        return [Instance.from_api(self.zone, item) for item in items]

    def list_known_zone(self) -> list[Instance]:
        """As list_instances; where the zone does not answer as one, the error says which zones there are."""
        try:
            return self.list_instances()
        except (NotFound, Unanswered) as error:
            try:
                zones = self.beside(DEFAULT_ZONE).list_zones()
            except ApiError:
                raise error from None
            if self.zone in zones or not zones:
                raise
            raise ExollamaError(
                f"There is no zone {self.zone}. Zones: {', '.join(zones)}. Set EXOSCALE_ZONE. Nothing was created."
            ) from error

    def get_instance(self, instance_id: str) -> Instance:
        """One instance, with its user-data. Raises NotFound once it is gone."""
        from client.model import Instance

        answer = self.call("GET", f"/instance/{quote(instance_id, safe='')}", operation="get-instance")
        try:
            return Instance.from_api(self.zone, answer)
        except ValueError as error:
            raise ApiError("GET", f"/instance/{instance_id}", 200, f"the answer cannot be used: {error}.") from error

    def type_names(self) -> dict[str, str]:
        """The names of all instance types (`family.size`) by their ids.

        Sent unsigned: so the list has those, too, that this account may not use (any more), and needs no permission.
        """
        from client.model import type_name

        types = self.call("GET", "/instance-type", signed=False).get("instance-types")
        return {one["id"]: type_name(one) for one in _items(types) if isinstance(one.get("id"), str)}

    def put_labels(self, instance_id: str, labels: Mapping[str, str]) -> None:
        """Replace the whole label map and wait for it. Raises Conflict or OperationFailed where it is busy."""
        path = f"/instance/{quote(instance_id, safe='')}"
        operation = self.call("PUT", path, body={"labels": dict(labels)}, operation="update-instance")
        self.wait(operation, f"writing the labels of {instance_id}", 60.0)

    def wait(self, operation: Mapping[str, Any], what: str, timeout_s: float) -> Mapping[str, Any]:
        """Poll an operation until it ends and return it. Raises OperationFailed, also after `timeout_s`."""
        began, slept_s = self._clock(), 0.0
        while (state := operation.get("state")) != "success":
            if state in ("failure", "timeout"):
                raise OperationFailed(what, str(state), operation.get("reason"), operation.get("message"))
            operation_id = operation.get("id")
            if state != "pending" or not isinstance(operation_id, str):
                raise OperationFailed(what, f"{state!r:.40}", None, "a state that nobody knows")
            # Slow answers count as well as sleeps.
            elapsed_s = max(slept_s, self._clock() - began)
            if elapsed_s >= timeout_s:
                raise OperationFailed(what, state, None, f"no end after {round(elapsed_s)} s")
            pause_s = poll_s(elapsed_s)
            self.sleep(pause_s)
            slept_s += pause_s
            path = f"/operation/{quote(operation_id, safe='')}"
            operation = self.call("GET", path, operation="get-operation")
        return operation

    # -- the retry loop

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body = None,
        signed: bool = True,
        operation: str = "the operation",
    ) -> dict[str, Any]:
        """Make one call and return its JSON object. `operation` is its id in the OpenAPI document and in IAM policies.

        Raises Unanswered, CredentialsRejected, Denied, NotFound, Conflict, ClockError, or ApiError for the rest.
        """
        url = self.base + path + (f"?{urlencode(query)}" if query else "")
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            if method != "GET":
                self.check_clock()
            try:
                response = self._send(self._request(method, url, body, signed=signed))
            except Disconnected as error:
                log.info("%s %s: %s (attempt %d)", method, path, error, attempt + 1)
                if last or (error.sent and method != "GET"):
                    raise Unanswered(method, path, _unanswered(error, attempt + 1), sent=error.sent) from error
                self.sleep(backoff_s(attempt))
                continue
            self._note_date(response)
            log.info("%s %s: %d (attempt %d)", method, path, response.status, attempt + 1)
            retried = response.status in _RETRIED_GET if method == "GET" else response.status == 429
            if not retried or last:
                return self._read(method, path, response, operation)
            self.sleep(_retry_after_s(response, backoff_s(attempt)))
        raise AssertionError("the last attempt returns or raises")

    def _request(self, method: str, url: str, body: Body, *, signed: bool) -> Request:
        """One attempt, signed afresh; on its own, so that no secret is a local variable where an error is raised."""
        payload = body.reveal() if isinstance(body, Secret) else "" if body is None else json.dumps(body)
        headers = {"Accept": "application/json", "User-Agent": "exollama"}
        if payload:
            headers["Content-Type"] = "application/json"
        if signed:
            key, secret = self._settings.api_key, self._settings.api_secret.reveal()
            expires = int(self._clock()) + VALIDITY_S
            headers["Authorization"] = sign(key, secret, method, url, payload.encode(), expires=expires)
        return Request(method, url, headers, payload.encode(), TIMEOUT_S)

    def _note_date(self, response: Response) -> None:
        try:
            date = parsedate_to_datetime(response.headers.get("date", ""))
        except ValueError:
            return  # without a usable Date the local clock stands
        if date.tzinfo is None:  # "-0000"
            date = date.replace(tzinfo=UTC)
        self._skew_s = date.timestamp() - self._clock()
        if abs(self._skew_s) < 2:
            self._skew_s = 0.0  # a Date has whole seconds: this is rounding and travel time

    def _read(self, method: str, path: str, response: Response, operation: str) -> dict[str, Any]:
        if response.status == 200:
            try:
                answer = json.loads(response.body)
            except ValueError:
                answer = None
            if isinstance(answer, dict):
                return answer
            shown = response.body[:80].decode("utf-8", "replace")
            raise ApiError(
                method, path, 200, f"the answer is no JSON object but {shown!r}. Is {self.base} the right endpoint?"
            )
        message = error_message(response)
        status = response.status
        if status in (401, 403):
            self.check_clock()  # a wrong clock makes signatures expire, and is the likelier cause then
            if "role policy" in message.lower():
                raise Denied(
                    method,
                    path,
                    status,
                    f"{message}. The key's IAM role does not allow this; add {operation} to its policy.",
                )
            raise CredentialsRejected(
                method,
                path,
                status,
                f"{message}. Check EXOSCALE_API_KEY and EXOSCALE_API_SECRET: both from one API key, not revoked.",
            )
        if status == 404:
            raise NotFound(method, path, status, f"{message} (404 in {self.zone}).")
        if status in (409, 412):
            raise Conflict(method, path, status, f"{message} ({status}).")
        wait = re.fullmatch(r"[0-9]{1,9}", response.headers.get("retry-after", ""))
        asked = f" It asks to come back after {wait[0]} s." if wait else ""
        raise ApiError(method, path, status, f"{message} ({status}).{asked}")


def error_message(response: Response) -> str:
    """The words of an error body (`{"message"}`, `{"error"}`, RFC 9457, plain text) as one line of at most 300."""
    from client.model import printable

    words = ""
    try:
        data = json.loads(response.body)
    except ValueError:
        data = None
        if "html" not in response.headers.get("content-type", ""):
            words = response.body[:1200].decode("utf-8", "replace")
    if isinstance(data, dict):
        parts = [data.get(name) for name in ("message", "error", "title", "detail")]
        parts += data["errors"] if isinstance(data.get("errors"), list) else []
        words = ": ".join(part if isinstance(part, str) else json.dumps(part) for part in parts if part)
    return printable(words)[:300].rstrip(".") or f"HTTP {response.status} without a message"


def _items(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _retry_after_s(response: Response, default_s: float) -> float:
    asked = re.fullmatch(r"[0-9]{1,9}", response.headers.get("retry-after", ""))
    return min(max(float(asked[0]), default_s), RETRY_AFTER_CAP_S) if asked else default_s


def _unanswered(error: Disconnected, attempts: int) -> str:
    tried = f" after {attempts} attempts" if attempts > 1 else ""
    return f"{error}{tried}. Check the network and EXOSCALE_ZONE, and EXOSCALE_API_ENDPOINT where it is set."
