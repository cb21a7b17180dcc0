"""What was observed of an instance: `Instance` from the API, `Policy` from its labels, `Header` from its user-data.

Reading never raises: what somebody edited by hand or another version wrote counts for nothing and the default stands.
Neighbours: `client.labels` for the codec; everything that decides reads these. No I/O.
"""

import base64
import binascii
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from client import labels
from client.settings import (
    DEFAULT_BOOT_S,
    DEFAULT_IDLE_S,
    DEFAULT_LIFETIME_S,
    DEFAULT_RETENTION_S,
    KEY_RE,
    Secret,
)

GONE = frozenset({"destroying", "destroyed", "expunging"})
"""States from which an instance does not come back."""

FOREIGN_DO = "Upgrade exollama, or remove it in the portal."

_MAX_USER_DATA = 1 << 20  # unpacked; a zip bomb in somebody's user-data must not be ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The policy that travels with an instance. Times are seconds; `deadline` None means that there is none."""

    idle_s: int
    boot_s: int
    retention_s: int
    deadline: datetime | None
    action: str
    reach: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The second line of the user-data: the create call's nonce and the endpoint's key."""

    request: str
    key: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance as the API showed it. `user_data` is there only where it was read by id."""

    id: str
    zone: str
    name: str = ""
    state: str = ""
    created: datetime | None = None
    address: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    managed: bool = False
    type_id: str | None = None
    type: str | None = None
    """`family.size`, where the API told that along with the id."""
    disk_gib: int | None = None
    user_data: Secret | None = None

    @classmethod
    def from_api(cls, zone: str, data: Mapping[str, Any]) -> "Instance":
        """Read one item of list-instances or the answer of get-instance. Raises ValueError where it has no id."""
        if not isinstance(data, dict) or not isinstance(data.get("id"), str):
            raise ValueError("an instance without an id")
        given = data.get("labels")
        user_data = data.get("user-data")
        address = data.get("public-ip")
        kind, disk_gib = data.get("instance-type"), data.get("disk-size")
        kind = kind if isinstance(kind, dict) else {}
        return cls(
            id=data["id"],
            zone=zone,
            name=str(data.get("name") or ""),
            state=str(data.get("state") or ""),
            created=_moment(data.get("created-at")),
            address=address if isinstance(address, str) and address else None,
            labels={str(k): str(v) for k, v in given.items()} if isinstance(given, dict) else {},
            managed=bool(data.get("manager")),
            type_id=kind["id"] if isinstance(kind.get("id"), str) else None,
            type=type_name(kind) if kind.get("family") and kind.get("size") else None,
            disk_gib=disk_gib if isinstance(disk_gib, int) else None,
            user_data=Secret(user_data) if isinstance(user_data, str) else None,
        )

    @property
    def owned(self) -> bool:
        """Whether this version of the project may touch it. Pool-managed ones belong to their pool."""
        return self.labels.get(labels.OWNER) == labels.VERSION and not self.managed

    @property
    def foreign(self) -> str | None:
        """The contract version, as `v2`, of the other release that made it; else None, as for what is gone.

        By its label or, where it was read, by its user-data. It is left alone and told of, in the words of
        `left_alone`: what its labels and its endpoint mean is not known here.
        """
        version = labels.read_version(self.labels.get(labels.OWNER))
        if version == labels.VERSION and self.user_data:
            version = labels.read_version(f"v{(_header(self.user_data.reveal()) or {}).get('v', 1)}")
        return None if version == labels.VERSION or self.managed or self.state in GONE else version

    @property
    def owned_name(self) -> str:
        """The name it was provisioned under; the instance's own where the label cannot be read."""
        return labels.read_text(self.labels.get(labels.NAME)) or self.name

    @property
    def model(self) -> str | None:
        """The model it was provisioned with."""
        return labels.read_text(self.labels.get(labels.MODEL))

    @property
    def request(self) -> str | None:
        """The nonce of its create call, from its labels."""
        return labels.read_nonce(self.labels.get(labels.REQUEST))

    @property
    def age_key(self) -> tuple[datetime, str]:
        """Sorts the oldest first; the id breaks a tie, so that everybody picks the same one."""
        return (self.created or datetime.max.replace(tzinfo=UTC), self.id)

    def activity(self, now: datetime) -> datetime | None:
        """The last activity by label, or None where it is unreadable or lies in the future (a minute is forgiven)."""
        moment = labels.read_time(self.labels.get(labels.ACTIVITY))
        return moment if moment and moment <= now + timedelta(minutes=1) else None

    def booting_until(self, now: datetime) -> datetime | None:
        """Until when it may be booting: its boot timeout from the later of created-at and activity."""
        began = [moment for moment in (self.created, self.activity(now)) if moment]
        return max(began) + timedelta(seconds=self.policy.boot_s) if began else None

    def failed_until(self, now: datetime) -> datetime | None:
        """Until when it is kept where its boot failed and it was made with --keep-failed; None: nobody can say."""
        began, deadline = self.activity(now) or self.created, self.policy.deadline
        until = began and began + timedelta(seconds=self.policy.retention_s)
        return min(until, deadline) if until and deadline else until

    @property
    def policy(self) -> Policy:
        """Its policy, with the default for whatever label is missing, unreadable or absurd."""
        read = self.labels.get
        deadline = None
        if read(labels.DEADLINE) != "none":
            deadline = labels.read_time(read(labels.DEADLINE))
            if deadline is None and self.created:
                deadline = self.created + timedelta(seconds=DEFAULT_LIFETIME_S)
        return Policy(
            idle_s=labels.read_seconds(read(labels.IDLE)) or DEFAULT_IDLE_S,
            boot_s=labels.read_seconds(read(labels.BOOT)) or DEFAULT_BOOT_S,
            retention_s=labels.read_seconds(read(labels.RETENTION)) or DEFAULT_RETENTION_S,
            deadline=deadline,
            action="stop" if read(labels.ACTION) == "stop" else "destroy",
            reach="any" if read(labels.REACH) == "any" else "limited",
        )

    def header(self) -> Header | None:
        """The nonce and the key in its user-data; None where it was not read or is not this project's."""
        return read_header(self.user_data.reveal()) if self.user_data else None


def read_header(user_data: str) -> Header | None:
    """Read back the second line of a user-data (base64, gzipped or not), or None where it is not this version's."""
    header = _header(user_data)
    if header is None or header.get("v") != 1:
        return None
    request, key = header.get("request"), header.get("key")
    if not (isinstance(request, str) and re.fullmatch(r"[0-9a-f]{32}", request)):
        return None
    if not (isinstance(key, str) and KEY_RE.fullmatch(key)):
        return None
    return Header(request=request, key=Secret(key))


def _header(user_data: str) -> dict[str, Any] | None:
    """That line's object, of whatever version, or None where it is not this project's."""
    try:
        raw = base64.b64decode(user_data, validate=True)
        if raw[:2] == b"\x1f\x8b":
            raw = zlib.decompressobj(wbits=31).decompress(raw, _MAX_USER_DATA)
        lines = raw[:4096].decode("utf-8", "replace").split("\n", 2)
        match = (
            re.fullmatch(r"# exollama (\{.*\})", lines[1]) if lines[0] == "#cloud-config" and len(lines) > 2 else None
        )
        header = json.loads(match[1]) if match else None
    except (binascii.Error, zlib.error, ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def type_name(instance_type: Mapping[str, Any]) -> str:
    """`family.size`: an instance type has no name of its own."""
    return printable(f"{instance_type.get('family')}.{instance_type.get('size')}")


def printable(value: object) -> str:
    """Words from elsewhere, on one line and without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def number(value: object) -> float | None:
    """A number of a stranger's; None for what is none, or no measure of anything here."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15:
        return float(value)
    return None


def last_day(zone: str, instance_id: str, deadline: datetime | None, now: datetime) -> str | None:
    """That the deadline of an instance is less than a day away, in words, or None."""
    if deadline is None or deadline - now > timedelta(days=1):
        return None
    return (
        f"{zone} {instance_id} reaches the end of its lifetime at {deadline:%Y-%m-%d %H:%M} UTC: it goes then, once "
        "quiet, and the next use makes a fresh one."
    )


def owned_live(instances: list[Instance], name: str) -> list[Instance]:
    """The owned instances of one name that are not on their way out, the oldest first."""
    mine = [i for i in instances if i.owned and i.owned_name == name and i.state not in GONE]
    return sorted(mine, key=lambda instance: instance.age_key)


def left_alone(version: str) -> str:
    """Why an instance that another release made is left alone, and what to do about it."""
    return f"{made_by_another(version)} {FOREIGN_DO}"


def made_by_another(version: str) -> str:
    """The same without what to do."""
    return (
        f"made by another version of exollama (contract {version}, and this one knows {labels.VERSION}), so it is left "
        "alone, and may cost on."
    )


def foreign(listed: list[Instance]) -> list[str]:
    """Which of a list another release made and are there, a sentence or two each."""
    return [f"{i.zone} {i.id} ({printable(i.owned_name)}): {left_alone(i.foreign)}" for i in listed if i.foreign]


def others(listed: list[Instance], name: str) -> str:
    """What to say after there is none of that name in a zone: what else of ours is there, and where to look."""
    names = sorted({i.owned_name for i in listed if i.owned and i.owned_name != name and i.state not in GONE})
    shown = printable(", ".join(names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    told = [*([f"Others of yours in this zone: {shown}."] if names else []), *foreign(listed)]
    return "".join(f" {sentence}" for sentence in [*told, "`exollama status` shows all zones."])


def _moment(value: object) -> datetime | None:
    """RFC 3339 as the API writes it; None for anything else, and for another millennium, as in labels."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if moment and not 2000 <= moment.year < 3000:
        return None
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment
