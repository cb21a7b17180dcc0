"""Who may shut an instance, and when it ends itself: the fence and the watchdog, whatever the machine does meanwhile.

Imported by agent.py. No clock, no socket and no process here: time and what was seen are handed in, and files are
only what is handed on. Standard library only, Python 3.10. Durations are seconds of the agent's `boottime`.
"""

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

LEASE_S = 120.0
MARGIN_S = 900.0  # how long the reaper, the bootstrap and whoever looks into a failure get before the watchdog acts
COMMIT_MARGIN_S = 600.0
OWNER = re.compile(r"[0-9a-f]{32}")

Answer = tuple[int, dict[str, Any] | None]
Mark = tuple[int, int]


def write_atomically(path: Path, text: str) -> None:
    """Nobody ever reads half of it."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text)
    os.replace(draft, path)


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; {} where it is missing or holds no object."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Fence:
    """Who holds the fence, until when, and what had been asked of the machine when it went up.

    Each operation returns the next fence and the answer. No owner: no fence stands.
    """

    owner: str | None = None
    until: float = 0.0
    mark: Mark | None = None
    committed: float | None = None

    def expire(self, now: float) -> "Fence":
        """A lease that lapsed without a commit is no fence; a commit stands until its owner lifts it."""
        return Fence() if self.committed is None and now >= self.until else self

    def put(self, owner: str, now: float, mark: Mark) -> tuple["Fence", Answer]:
        held = self.expire(now)
        if held.owner is None:
            held = Fence(owner, now + LEASE_S, mark)
        if held.owner != owner:
            return held, (409, {"error": "another owner holds the fence", **held.view(now)})
        return held, (201, held.view(now))

    def commit(self, owner: str, now: float, mark: Mark, in_flight: int) -> tuple["Fence", Answer]:
        held = self.expire(now)
        if held.owner != owner:
            reason = "no lease stands" if held.owner is None else "another owner holds the fence"
        elif held.committed is not None:
            return held, (200, held.view(now))
        elif in_flight:
            reason = f"{in_flight} in flight"
        elif mark != held.mark:
            reason = "asked for or touched since the fence went up"
        else:
            held = replace(held, committed=now)
            return held, (200, held.view(now))
        return held, (409, {"error": reason})

    def delete(self, owner: str, now: float) -> tuple["Fence", Answer]:
        held = self.expire(now)
        if held.owner not in (None, owner):
            return held, (409, {"error": "another owner holds the fence"})
        return Fence(), (204, None)

    def view(self, now: float) -> dict[str, Any]:
        committed_s = None if self.committed is None else round(now - self.committed)
        lease_s = round(max(0.0, self.until - now), 1)
        return {"lease_s": lease_s, "committed": committed_s is not None, "committed_s": committed_s}

    @classmethod
    def load(cls, path: Path, now: float) -> "Fence":
        """The fence on file. One that cannot be read is nobody's for a lease: shut is the safe side."""
        if not path.exists():
            return cls()
        data = read_json(path)
        with contextlib.suppress(LookupError, TypeError):
            if OWNER.fullmatch(data["owner"]) and 0 <= data["until"] <= now + LEASE_S:
                return cls(data["owner"], data["until"], (*data["mark"],), data["committed"])
        return cls("unreadable", now + LEASE_S)

    def save(self, path: Path) -> None:
        if self.owner is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, json.dumps(asdict(self)))


def read_boot(path: Path, now: float, since: float) -> dict[str, Any]:
    """What bootstrap wrote of the boot, as the status says it, and `failed_s`, the age of its failure, or None.

    since is when the agent first ran, for a bootstrap that never says a word.
    """
    data = {"phase": "starting", "started": since, "done": [], "percent": None, "error": None, **read_json(path)}
    latest = data.get("phase_started", now)
    end = latest if data["error"] or data["phase"] == "ready" else now
    return {
        "phase": "failed" if data["error"] else data["phase"],
        "percent": data["percent"],
        "elapsed_s": round(end - data["started"], 1),
        "phases": [{"phase": name, "seconds": seconds} for name, seconds in data["done"]],
        "error": data["error"],
        "failed_s": now - latest if data["error"] else None,
    }


class Watchdog:
    """When a machine that nobody reaps powers itself off, by the policy that came in its user-data."""

    def __init__(self, policy: dict[str, Any]) -> None:
        self.policy = policy

    def decide(
        self, *, idle_s: float, boot: dict[str, Any], committed_s: float | None, wall: float
    ) -> tuple[str, bool] | None:
        """None, or the reason and whether it stands whatever is in flight.

        boot is as read_boot has it, committed_s the commit's age, wall Unix time.
        """
        policy = self.policy
        if committed_s is not None:
            # Shut, and its owner's to act upon or to lift, for this long.
            abandoned = committed_s >= COMMIT_MARGIN_S
            return (f"a commit was not carried out for {committed_s:.0f} s", True) if abandoned else None
        if policy["deadline"] and wall >= policy["deadline"] + policy["grace_s"]:
            return "the deadline and its grace are over", True
        if boot["phase"] == "failed":
            patience_s = policy["retention_s"] if policy["keep_failed"] else MARGIN_S
            return ("the boot failed", True) if boot["failed_s"] >= patience_s else None
        if boot["phase"] != "ready":
            late = boot["elapsed_s"] >= policy["boot_s"] + MARGIN_S
            return (f"the boot did not end within {boot['elapsed_s']:.0f} s", True) if late else None
        unreaped = idle_s >= policy["idle_s"] + MARGIN_S
        return (f"idle for {idle_s:.0f} s and not reaped", False) if unreaped else None
