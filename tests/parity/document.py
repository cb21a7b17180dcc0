"""The original's document as places: each line that says anything, under its heading, as a short digest.

The document is not kept here; `python -m tests.parity --document PATH` compares the table with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.parity.table import Row

COPIED_WORDS = 7
"""So many words in a row that stand in the document as well are a copy of its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One line of the document: its number, what it says, and the digest that a row claims it by."""

    number: int
    text: str
    digest: str


def digest(heading: str, line: str) -> str:
    """The first 8 hex digits of the SHA-256 of a line and the heading above it, their blanks made single."""
    said = "\n".join(" ".join(text.split()) for text in (heading, line))
    return hashlib.sha256(said.encode()).hexdigest()[:8]


def places(text: str) -> Iterator[Place]:
    """Every line but empty ones and the fences around code; the same line twice under a heading is one digest."""
    heading, in_code = "", False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif line.strip():
            if not in_code and re.match(r"#{1,6} ", line):
                heading = line
            yield Place(number=number, text=line.strip(), digest=digest(heading, line))


def differences(text: str, rows: Iterable[Row]) -> list[str]:
    """What the document has and no row claims, what a row claims and the document has not, and what was copied."""
    rows = list(rows)
    there = list(places(text))
    claimed = {place for row in rows for place in row.at}
    found = [f"line {place.number} is in no row: {place.text}" for place in there if place.digest not in claimed]
    known = {place.digest for place in there}
    for row in rows:
        gone = [place for place in row.at if place not in known]
        found += [f"{row.id} claims {place}, which is no place of the document" for place in gone]
    words = _words(text)
    runs = {tuple(words[i : i + COPIED_WORDS]) for i in range(len(words))}
    for row in rows:
        own = _words(f"{row.original} {row.here} {row.reason}")
        copied = [own[i : i + COPIED_WORDS] for i in range(len(own)) if tuple(own[i : i + COPIED_WORDS]) in runs]
        found += [f"{row.id} has words of the document: {' '.join(run)}" for run in copied if len(run) == COPIED_WORDS]
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())
