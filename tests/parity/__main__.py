"""`python -m tests.parity` writes docs/parity.md; `--document PATH` compares the table with the original's text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from tests.parity import document, table
from tests.parity.table import ROOT, Row

PAGE = ROOT / "docs/parity.md"
HEAD = """\
# What the original module had, and where it is

<!-- Written by `python -m tests.parity` from tests/parity/rows; a test checks that it is current. -->

exollama replaces Garuda Intel's Exoscale module. Each row is something that the module's documentation says, in this
project's words, beside what there is here and the tests that fail without it, or the reason why there is no such thing:
{rows} rows, {tested} shown by tests, {reasons} with a reason. [moving.md](moving.md) tells what to do about what is
different. `nox -s parity` takes features of these rows out, one at a time, and demands that a test beside them fails.
"""


def page(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    tested = sum(bool(row.tests) for row in rows)
    text = HEAD.format(rows=len(rows), tested=tested, reasons=len(rows) - tested)
    for title, part in groupby(rows, key=lambda row: row.part):
        text += f"\n## {title}\n\n| the original | here | shown by |\n|---|---|---|\n"
        text += "".join(f"| {_cell(row.original)} | {_cell(_here(row))} | {_shown(row.tests)} |\n" for row in part)
    return text


def _here(row: Row) -> str:
    return row.here if row.tests else f"Not here: {row.reason}"


def _shown(tests: Iterable[str]) -> str:
    names = []
    for test in tests:
        file, _, name = test.partition("::")
        names.append(f"[{Path(file).name}](../{file}) `{_cell(name)}`")
    return "<br>".join(names)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Exit code 1 where the table and the document differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__, allow_abbrev=False)
    parser.add_argument("--document", type=Path, metavar="PATH", help="the original's documentation")
    path = parser.parse_args().document
    rows = table.load()
    if path is None:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(rows))
        return 0
    there = list(document.places(path.read_text()))
    found = document.differences(path.read_text(), rows)
    for problem in found:
        print(problem)
    tested = sum(bool(row.tests) for row in rows)
    print(
        f"{len(there)} lines that say anything; {len(rows)} rows, {tested} shown by tests and "
        f"{len(rows) - tested} with a reason; {len(found)} differences"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
