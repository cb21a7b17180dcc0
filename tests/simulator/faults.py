"""Faults on demand: what the API, or an instance's endpoint, does wrong, to which operation, and how often.

| kind | what happens |
|---|---|
| lost | the deed is done, the connection closes without an answer |
| reset | the connection closes before the deed |
| hang | nothing is done or answered for `seconds` (60), then the connection closes |
| slow | the answer comes after `seconds` (1) |
| garbage | the deed is done, the answer is malformed JSON |
| truncated | the deed is done, the answer ends in the middle of its body |
| html | 502 with a proxy's HTML page, nothing done; `status` changes the 502 |
| 429, 500, 503, 409, 404 … | that status, nothing done; `retry_after`, `message`, `body`, `content_type` |
| 403-iam, 403-signature | the two refusals, told apart by their message |
| quota | 409 quota exceeded |
| denied-delete | 409, the instance is protected |
| op-failure, op-timeout | the operation ends so, nothing done; `reason` (default `unknown`; None leaves it out) |
| op-never | the operation stays pending for ever, nothing done |
| busy | op-failure with reason `busy` |
| no-reference | the deed is done, the operation names no resource |
| instance-error | the operation succeeds, the instance ends up in state `error` |
| no-start | the operation succeeds, the instance stays `starting` for ever |

Any kind takes `then`, a callable: it is called where the fault has struck, before anything of it shows.

The calls of an endpoint are operations too, where lodging.py stands in for machines: agent-proof, agent-status,
agent-touch, agent-fence, agent-commit, agent-unfence and ollama-show. What differs there:

| kind | what happens |
|---|---|
| lost, reset, hang | as above; what closes is the client's own connection to nginx |
| garbage | as above, with the agent's status (200 for its 204, which has no body) |
| shape | the deed is done, the answer is JSON, but not this one |
| html | as above |
| silent | nothing is done, and the agent closes without an answer: nginx says 502 |
| 409, 500, 503 … | that status, nothing done; 503 is marked as draining, as the agent's |
| dark | nothing is done, and from now on nobody answers at the instance's address |
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

KINDS = frozenset(
    "lost reset hang slow garbage truncated html 403-iam 403-signature quota denied-delete op-failure op-timeout"
    " op-never busy no-reference instance-error no-start shape silent dark".split()
)
ALWAYS = 1 << 30


@dataclass(slots=True, kw_only=True)
class Fault:
    """One planned fault; `times` counts down, `skip` calls pass unharmed first."""

    operation_id: str
    kind: str
    times: int
    skip: int
    zone: str | None
    options: dict[str, Any] = field(default_factory=dict)


class Faults:
    """The faults that are still to come, the earliest planned first."""

    def __init__(self) -> None:
        self._planned: list[Fault] = []
        self._lock = threading.Lock()

    def plan(
        self,
        operation_id: str,
        kind: str,
        *,
        times: int = 1,
        skip: int = 0,
        zone: str | None = None,
        **options: Any,
    ) -> Fault:
        """Plan a fault; operation_id `*` means every operation."""
        if kind not in KINDS and not (kind.isdigit() and 400 <= int(kind) <= 599):
            raise ValueError(f"unknown kind of fault {kind!r}: one of {', '.join(sorted(KINDS))}, or a status")
        fault = Fault(operation_id=operation_id, kind=kind, times=times, skip=skip, zone=zone, options=options)
        with self._lock:
            self._planned.append(fault)
        return fault

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._planned.clear()

    def take(self, operation_id: str, zone: str) -> Fault | None:
        """The fault for this call, counted down."""
        with self._lock:
            for fault in self._planned:
                if fault.operation_id in (operation_id, "*") and fault.zone in (None, zone) and fault.times > 0:
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def next_is(self, kind: str, operation_id: str) -> bool:
        """Whether the next call of that operation is to meet a fault of that kind."""
        with self._lock:
            due = (f for f in self._planned if f.operation_id in (operation_id, "*") and f.times > 0 and not f.skip)
            return any(fault.kind == kind for fault in due)
