"""The table: one row for each thing that the original documents, in this project's own words.

rows/*.toml, a file per part of the document, in the order of their names. A row has `original`, what was offered; `at`,
the digests of its places in the document; `here`, what there is instead; and `tests`, pytest's ids of what shows it, or
`reason`, why there is no such thing.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PLACES = "3bfe3a25e0dd36a4"
"""The fingerprint of all places that the rows claim together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row, under the title of its part."""

    id: str
    part: str
    original: str
    at: tuple[str, ...]
    here: str = ""
    tests: tuple[str, ...] = ()
    reason: str = ""


def load() -> tuple[Row, ...]:
    """Read the table. Raises TypeError for a row with a key too few or too many."""
    rows = []
    for file in sorted((HERE / "rows").glob("*.toml")):
        part = tomllib.loads(file.read_text())
        for row in part["row"]:
            at, tests = tuple(row.pop("at")), tuple(row.pop("tests", ()))
            rows.append(Row(part=part["title"], at=at, tests=tests, **row))
    return tuple(rows)


def fingerprint(rows: Iterable[Row]) -> str:
    """What tells whether any place is claimed no more, without the document."""
    return hashlib.sha256(" ".join(sorted(place for row in rows for place in row.at)).encode()).hexdigest()[:16]
