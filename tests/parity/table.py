"""The table: one row for each thing that the original documents, in this project's own words.

rows/*.toml, a file per part of the document, in the order of their names. A row has `original`, what was offered; `at`,
the digests of its places in the document; `here`, what there is instead; and `tests`, pytest's ids of what shows it, or
`reason`, why there is no such thing. A test that is called `?name` is still awaited: awaited.toml says which it is.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All rows, and the fingerprint of the places that they have to claim together."""

    rows: tuple[Row, ...]
    fingerprint: str

    def parts(self) -> dict[str, list[Row]]:
        """The rows by the title of their part."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.part, []).append(row)
        return found


def load() -> Table:
    """Read the table. Raises TypeError for a row with a key too few or too many."""
    awaited = tomllib.loads((HERE / "awaited.toml").read_text())
    rows = []
    for file in sorted((HERE / "rows").glob("*.toml")):
        part = tomllib.loads(file.read_text())
        for row in part["row"]:
            tests = tuple(str(awaited["tests"].get(test, test)) for test in row.pop("tests", ()))
            rows.append(Row(part=part["title"], at=tuple(row.pop("at")), tests=tests, **row))
    return Table(rows=tuple(rows), fingerprint=awaited["places"])


def fingerprint(rows: Iterable[Row]) -> str:
    """What tells whether any place is claimed no more, without the document."""
    return hashlib.sha256(" ".join(sorted(place for row in rows for place in row.at)).encode()).hexdigest()[:16]
