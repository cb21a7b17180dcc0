"""The label codec: how times, seconds, nonces and text become label values, and back.

Exoscale's documentation allows a value 128 characters, first a letter, then letters, digits and `* + ! - _ ?`; so
every value begins with a letter that names its kind. Reading never raises: labels may have been edited by hand, and
what cannot be read is None. Neighbours: `client.model` gives the values their meaning. Imports nothing of the
project.
"""

import re
from datetime import UTC, datetime
from typing import Final

VERSION: Final = "v1"
OWNER: Final = "exollama"
NAME: Final = "exollama-name"
MODEL: Final = "exollama-model"
REQUEST: Final = "exollama-request"
ACTIVITY: Final = "exollama-activity"
IDLE: Final = "exollama-idle"
BOOT: Final = "exollama-boot"
RETENTION: Final = "exollama-retention"
DEADLINE: Final = "exollama-deadline"
ACTION: Final = "exollama-action"
REACH: Final = "exollama-reach"

MAX_LENGTH: Final = 128
MAX_SECONDS: Final = 10 * 366 * 86400
"""More than ten years is no policy but a slip of the hand."""

_TIME = re.compile(r"t(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)
_SECONDS = re.compile(r"s(\d{1,10})", re.ASCII)
_VERSION = re.compile(r"v\d{1,127}", re.ASCII | re.IGNORECASE)  # `V1` is a slip of a hand, and has to be told of
_NONCE = re.compile(r"r([0-9a-f]{32})")
_TEXT = re.compile(r"n((?:[A-Za-z0-9_-]|![0-9A-F]{2})*)")


def time(moment: datetime) -> str:
    """`t20261123T181500Z`: a moment in UTC, to the second."""
    return f"t{moment.astimezone(UTC):%Y%m%dT%H%M%S}Z"


def seconds(value: int) -> str:
    """`s1800`. Raises ValueError outside 0 to ten years."""
    if not 0 <= value <= MAX_SECONDS:
        raise ValueError(f"{value} seconds cannot be a label (0 to {MAX_SECONDS})")
    return f"s{value}"


def nonce(value: str) -> str:
    """`r` and 32 hex digits. Raises ValueError for anything else."""
    label = f"r{value}"
    if not _NONCE.fullmatch(label):
        raise ValueError("a nonce is 32 lower-case hex digits")
    return label


def text(value: str) -> str:
    """`n` and the text, its UTF-8 bytes outside letters, digits, `-` and `_` as `!XX`. Raises ValueError over 128."""
    label = "n" + re.sub(r"[^A-Za-z0-9_-]", lambda m: "".join(f"!{b:02X}" for b in m[0].encode()), value)
    if len(label) > MAX_LENGTH:
        raise ValueError(f"{value!r} makes a label of {len(label)} characters; {MAX_LENGTH} are allowed")
    return label


def read_time(label: str | None) -> datetime | None:
    """The moment (UTC) of a time label, or None where it is missing, unreadable or in another millennium."""
    match = _TIME.fullmatch(label or "")
    if not match:
        return None
    year, month, day, hour, minute, second = map(int, match.groups())
    try:  # strptime takes twenty times as long, and a pass reads thousands
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:  # the 31st of February
        return None
    return moment if 2000 <= moment.year < 3000 else None


def read_seconds(label: str | None) -> int | None:
    """The seconds of a label, or None where it is missing, unreadable or absurd."""
    match = _SECONDS.fullmatch(label or "")
    return int(match[1]) if match and int(match[1]) <= MAX_SECONDS else None


def read_version(label: str | None) -> str | None:
    """A contract version, this one's or another release's; None for what says nothing of one."""
    return label if label and _VERSION.fullmatch(label) else None


def read_nonce(label: str | None) -> str | None:
    """The 32 hex digits of a nonce label, or None."""
    match = _NONCE.fullmatch(label or "")
    return match[1] if match else None


def read_text(label: str | None) -> str | None:
    """The text of a label, or None where it is missing, unreadable, not UTF-8 or not printable."""
    match = _TEXT.fullmatch(label or "")
    if not match:
        return None
    raw = re.sub(r"!([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), match[1])
    try:
        value = raw.encode("latin-1").decode()
    except UnicodeDecodeError:
        return None
    return value if value.isprintable() else None  # a terminal would obey the rest
