"""What a run found: one finding for each question of unproven.toml, free of what belongs to one account alone.

Neighbours: checks.py makes them, unproven.py shows them. Imports client only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from client.model import printable

FILE: Final = Path(__file__).resolve().parents[2] / "docs/live-findings.json"
"""What docs/unproven.md shows. Only what was found at Exoscale itself may stand in it."""
AS_ASSUMED, DIFFERENT, NOT_SEEN = "as assumed", "different", "could not be seen"
_IDS: Final = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|exollama-live-[0-9a-f]{12}")
_ADDRESSES: Final = re.compile(r"\b(?!169\.254\.)(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One answer: what was seen, and whether that is what the code assumes."""

    id: str
    verdict: str
    seen: str


def found(id_: str, as_assumed: bool, seen: str) -> Finding:
    """What was seen, and is as assumed or not."""
    return Finding(id=id_, verdict=AS_ASSUMED if as_assumed else DIFFERENT, seen=seen)


def unseen(id_: str, why: str) -> Finding:
    """What could not be seen, and why."""
    return Finding(id=id_, verdict=NOT_SEEN, seen=why)


def scrubbed(text: str, private: Iterable[str]) -> str:
    """A text without ids, addresses, and what is private, on one line of some length: it may be published."""
    for value in private:
        text = text.replace(value, "***")
    return printable(_ADDRESSES.sub("<address>", _IDS.sub("<id>", text)))[:1000]


def is_exoscales(endpoint: str) -> bool:
    """Whether an API endpoint, its {zone} filled in or not, is one of Exoscale's own."""
    parts = urlsplit(endpoint.replace("{zone}", "zone"))
    return parts.scheme == "https" and re.fullmatch(r"api-[a-z0-9-]+\.exoscale\.com", parts.netloc) is not None


def written(new: Iterable[Finding], before: Mapping[str, Mapping[str, str]], **where: str) -> str:
    """The file's text: each finding with its date and place; what could not be seen replaces nothing that was."""
    merged = {id_: dict(one) for id_, one in before.items()}
    for one in new:
        if one.verdict != NOT_SEEN or merged.get(one.id, {}).get("verdict", NOT_SEEN) == NOT_SEEN:
            told = {name: value for name, value in asdict(one).items() if name != "id"}
            merged[one.id] = {**told, "date": f"{datetime.now(UTC):%Y-%m-%d}", **where}
    return json.dumps(dict(sorted(merged.items())), indent=2, ensure_ascii=False) + "\n"


def load(path: Path | None = None) -> dict[str, dict[str, str]]:
    """The findings of a file, none where there is none. Raises ValueError for any that is not from Exoscale itself."""
    path = path or FILE
    if not path.exists():
        return {}
    all_of_them: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    for id_, one in all_of_them.items():
        if not is_exoscales(one.get("endpoint", "")):
            raise ValueError(
                f"{path.name}: {id_} was found at {one.get('endpoint')!r}, which is not Exoscale's own API"
            )
    return all_of_them
