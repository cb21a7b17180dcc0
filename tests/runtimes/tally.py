"""Which runtime went through what: conftest.py prints it as a table at the end of a run."""

from collections.abc import Iterator

from tests.runtimes.drivers import Runtime

COLUMNS = ("provision", "status", "reap", "refusals")


class Tally:
    """What was shown, a row for each runtime."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, set[str]]] = {}

    def shown(self, runtime: Runtime, *columns: str) -> None:
        """These were shown in it."""
        assert set(columns) <= set(COLUMNS)
        self._rows.setdefault(runtime.row, (runtime.how, set()))[1].update(columns)

    def table(self) -> Iterator[str]:
        """In Markdown."""
        if self._rows:
            yield f"| runtime | started as | {' | '.join(COLUMNS)} |"
            yield f"|---|---|{'---|' * len(COLUMNS)}"
        for row, (how, shown) in self._rows.items():
            yield f"| {row} | {how} | {' | '.join('yes' if one in shown else 'no' for one in COLUMNS)} |"


TALLY = Tally()
