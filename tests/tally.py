"""What the tests went through, for the end of the run.

Each process of a run counts for itself; tests/conftest.py gathers what the workers counted, and prints it.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

RUNTIME_COLUMNS = ("provision", "status", "reap", "refusals")


class Tally:
    """Counts, and the table of what befell which call, how that ended, and what the second run did."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str, str, str]] = []
        """Of each fault that was met and healed: situation, call, the fault, how it ended."""
        self.gaps: dict[str, int] = {}
        self.searched: list[str] = []
        self.raced: list[str] = []
        """What hammered instances and forwarders, and what came of it."""
        self.fuzzed: Counter[str] = Counter()
        self.runtimes: dict[str, dict[str, Any]] = {}
        """Of each function platform's runtime: `how` it was started, and what was `shown` in it."""

    def plain(self) -> dict[str, Any]:
        """All of it in types that travel from one process to another."""
        return {**vars(self), "fuzzed": dict(self.fuzzed)}

    def add(self, plain: dict[str, Any]) -> None:
        """What another process counted."""
        self.faults += plain["faults"]
        self.gaps |= plain["gaps"]
        self.searched += plain["searched"]
        self.raced += plain["raced"]
        self.fuzzed.update(plain["fuzzed"])
        for runtime, row in plain["runtimes"].items():
            self.shown(runtime, row["how"], *row["shown"])

    def shown(self, runtime: str, how: str, *columns: str) -> None:
        """These were shown in a runtime."""
        assert set(columns) <= set(RUNTIME_COLUMNS)
        shown = self.runtimes.setdefault(runtime, {"how": how, "shown": []})["shown"]
        shown += [column for column in columns if column not in shown]

    def sections(self) -> Iterator[tuple[str, list[str]]]:
        """Headings, each with its lines; nothing where no such test ran."""
        if self.searched:
            yield "searched", self.searched
        if self.raced:
            yield "raced", self.raced
        if self.runtimes:
            yield "the functions in their runtimes", list(self._runtimes_table())
        if self.fuzzed:
            refusals = ("refused", "written again: a key")
            cases = sum(count for how, count in self.fuzzed.items() if not how.startswith(refusals))
            yield f"fuzzed: {cases:,} cases", [f"{self.fuzzed[how]:>9,} {how}" for how in sorted(self.fuzzed)]

    def _runtimes_table(self) -> Iterator[str]:
        yield f"| runtime | started as | {' | '.join(RUNTIME_COLUMNS)} |"
        yield f"|---|---|{'---|' * len(RUNTIME_COLUMNS)}"
        for runtime, row in sorted(self.runtimes.items()):
            cells = ("yes" if column in row["shown"] else "no" for column in RUNTIME_COLUMNS)
            yield f"| {runtime} | {row['how']} | {' | '.join(cells)} |"

    def summary(self) -> Iterator[str]:
        """A line for the faults, and one for the kills."""
        if self.faults:
            calls = {(situation, call) for situation, call, _, _ in self.faults}
            situations = {situation for situation, _ in calls}
            yield f"{len(self.faults)} faults in {len(calls)} calls of {len(situations)} situations were healed"
        if self.gaps:
            gaps = ", ".join(f"{situation}: {count}" for situation, count in self.gaps.items())
            yield f"{sum(self.gaps.values())} gaps between two calls were killed in and healed ({gaps})"

    def table(self) -> Iterator[str]:
        """The faults in Markdown: a row per call."""
        rows: dict[str, dict[str, dict[str, list[str]]]] = {}
        for situation, call, fault, end in self.faults:
            rows.setdefault(situation, {}).setdefault(call, {}).setdefault(end, []).append(fault)
        for situation, calls in rows.items():
            yield f"\n| {situation} | fault: exit code, what it left; what the second run did |\n|---|---|"
            for call, ends in calls.items():
                cells = [f"{' '.join(faults)}: {end}" for end, faults in ends.items()]
                yield f"| {call} | {'<br>'.join(cells)} |"


TALLY = Tally()
