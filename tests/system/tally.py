"""What the tests of faults and kills went through, for the end of the run: conftest.py prints it."""

from collections.abc import Iterator

from tests.system.expected_faults import Case


class Tally:
    """Counts, and the table of what befell which call, how that ended, and what the second run did."""

    def __init__(self) -> None:
        self.faults: dict[tuple[str, str], dict[str, list[str]]] = {}
        self.gaps: dict[str, int] = {}

    def fault(self, case: Case, ends: str, healed: str) -> None:
        """One fault was met and healed."""
        code, left = ends.split()
        row = self.faults.setdefault((case.situation, case.call), {})
        row.setdefault(f"{code}, {left}; then {healed}", []).append(case.fault)

    def summary(self) -> Iterator[str]:
        """A line for each of the two counts."""
        if self.faults:
            met = sum(len(faults) for row in self.faults.values() for faults in row.values())
            situations = {situation for situation, _ in self.faults}
            yield f"{met} faults in {len(self.faults)} calls of {len(situations)} situations were healed"
        if self.gaps:
            gaps = ", ".join(f"{situation}: {count}" for situation, count in self.gaps.items())
            yield f"{sum(self.gaps.values())} gaps between two calls were killed in and healed ({gaps})"

    def table(self) -> Iterator[str]:
        """The faults in Markdown: a row per call."""
        for situation in dict.fromkeys(situation for situation, _ in self.faults):
            yield f"\n| {situation} | fault: exit code, what it left; what the second run did |\n|---|---|"
            for (of, call), row in self.faults.items():
                if of == situation:
                    cells = [f"{' '.join(faults)}: {end}" for end, faults in row.items()]
                    yield f"| {call} | {'<br>'.join(cells)} |"


TALLY = Tally()
