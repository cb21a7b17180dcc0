"""What `doctor` found: one finding a check, in words for people and for programs.

Pure. Neighbours: `functions.doctor` gathers them, `functions.permissions` and `functions.examination` make some.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

OK: Final = "ok"
WARNING: Final = "warning"
FAILED: Final = "failed"
UNCHECKED: Final = "not checked"
_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    OK: ("ok", "32"),
    WARNING: ("warn", "33"),
    FAILED: ("FAIL", "1;31"),
    UNCHECKED: ("skip", "2"),
}
"""How each state reads without colour, and the colour (ECMA-48, SGR) where there is one."""


BARRED: Final = "the API could not be asked."
SEE: Final = "See what failed above."


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: `state` is ok, warning, failed or not checked; `do` is what to do next, empty where all is well."""

    check: str
    state: str
    says: str
    do: str = ""


def ok(check: str, says: str) -> Finding:
    """All is well."""
    return Finding(check=check, state=OK, says=says)


def warning(check: str, says: str, do: str) -> Finding:
    """It works, but somebody should know."""
    return Finding(check=check, state=WARNING, says=says, do=do)


def failed(check: str, says: str, do: str) -> Finding:
    """Something will not work."""
    return Finding(check=check, state=FAILED, says=says, do=do)


def unchecked(check: str, says: str, do: str) -> Finding:
    """Nobody knows, and why."""
    return Finding(check=check, state=UNCHECKED, says=says, do=do)


def text(findings: Iterable[Mapping[str, Any]], *, colour: bool = False) -> str:
    """A line for each finding, those that say the same on one, then how many there are of each state."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for one in findings:
        alike.setdefault((one["state"], one["says"], one["do"]), []).append(one["check"])
    lines, counts = [], dict.fromkeys(_WORDS, 0)
    for (state, says, do), checks in alike.items():
        word, code = _WORDS[state]
        counts[state] += len(checks)
        shown = f"\x1b[{code}m{word:<4}\x1b[0m" if colour else f"{word:<4}"
        lines.append(f"{shown}  {', '.join(checks)}: {says}" + (f" To do: {do}" if do else ""))
    told = [f"{count} {state}{'s' * (state == WARNING and count != 1)}" for state, count in counts.items()]
    return "\n".join([*lines, "", ", ".join(told)])
