"""The list of what is not proven, and the part of docs/unproven.md that is made of it and of what was found.

unproven.toml has the list. Neighbours: findings.py reads what `nox -s live` found, tests/readme.py writes the page.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tests.live.findings import NOT_SEEN
from tests.live.findings import load as load_findings

HERE: Final = Path(__file__).parent
BY: Final = {
    "live": "not run",
    "boot": "not run with an account",
    "gpu": "takes an account with a GPU quota",
    "invoice": "takes an account's usage report or invoice",
    "platform": "takes an account at that platform",
    "portal": "takes a person at the portal",
    "time": "takes more time or use than a run has",
    "none": "is never provoked on purpose",
}
"""What could prove it, and what stands in the table until it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One thing that is not proven: why it matters, and what the code does whichever way it turns out."""

    id: str
    part: str
    what: str
    matters: str
    guard: str
    by: str
    files: tuple[str, ...]
    vm: str = ""
    """What was shown of it in a virtual machine (`nox -s boot`), in a sentence."""


@cache
def load() -> Mapping[str, Question]:
    """The list, in its order. Raises TypeError for a question with a key too few or too many."""
    document = tomllib.loads((HERE / "unproven.toml").read_text(encoding="utf-8"))
    questions = [
        Question(part=part["title"], files=tuple(row.pop("files")), **row)
        for part in document["part"]
        for row in part["question"]
    ]
    return {one.id: one for one in questions}


def table(findings: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """The generated part of docs/unproven.md."""
    told = load_findings() if findings is None else findings
    questions = list(load().values())
    live = [one for one in questions if one.by == "live"]
    seen = [one for one in live if told.get(one.id, {}).get("verdict", NOT_SEEN) != NOT_SEEN]
    in_vm = sum(bool(one.vm) for one in questions)
    counted = (
        f"{len(questions)} things. `nox -s live` looks at {len(live)} of them, and has looked at {len(seen)} so far; "
        f"{in_vm} were shown in a virtual machine (`nox -s boot`)."
    )
    lines = [counted]
    for part in dict.fromkeys(one.part for one in questions):
        lines += ["", f"### {part}", "", "| not proven | matters, because | either way | found |", "|---|---|---|---|"]
        lines += [_row(one, told.get(one.id)) for one in questions if one.part == part]
    return "\n".join(lines) + "\n"


def _row(one: Question, finding: Mapping[str, str] | None) -> str:
    state = BY[one.by]
    if finding:
        verdict = finding["verdict"] if finding["verdict"] != "different" else "**different**"
        state = f"{verdict} ({finding['date']}, {finding['zone']}): {finding['seen']}"
    if one.vm:
        state = f"shown in a virtual machine, `nox -s boot`: {one.vm}; {state}"
    links = ", ".join(f"[{Path(file).name}](../{file})" for file in one.files)
    cells = (one.what, one.matters, f"{one.guard} {links}".strip(), state)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
