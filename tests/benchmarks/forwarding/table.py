"""Rows of samples and their bounds, printed and as JSON. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question, several runs each. A bound is on the ratio of the medians, or, without `theirs`, on the median."""

    what: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float] = ()
    """nginx's."""
    alone: Sequence[float] = ()
    """The rig's own, with nobody in between: what no contestant can be better than."""
    at_least: float | None = None
    at_most: float | None = None
    value_bound: bool = False
    """Whether the bound is on the forwarder's own median although there is something to compare it with."""
    waited: tuple[Sequence[float], Sequence[float]] = ((), ())
    """What share of each run the forwarder, and nginx, had something to do while others had their processor."""

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ours) / statistics.median(self.theirs) if self.theirs else None

    @property
    def bound_on(self) -> float:
        """What is held against the bound."""
        ratio = self.ratio
        return statistics.median(self.ours) if ratio is None or self.value_bound else ratio

    @property
    def met(self) -> bool:
        return (self.at_least is None or self.bound_on >= self.at_least) and (
            self.at_most is None or self.bound_on <= self.at_most
        )

    def calmest(self) -> str:
        """How much others used the contestants' processor, and what was measured where they did least."""
        said = []
        for name, values, shares in zip(("forwarder", "nginx"), (self.ours, self.theirs), self.waited, strict=True):
            least, value = min(zip(shares, values, strict=True))
            said.append(f"{name} {statistics.median(shares):.0%}, and {_short(value)} {self.unit} at {least:.0%}")
        return "; ".join(said)

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "unit": self.unit,
            "forwarder": [round(value, 4) for value in self.ours],
            "nginx": [round(value, 4) for value in self.theirs],
            "rig_alone": [round(value, 4) for value in self.alone],
            "waited": [[round(value, 4) for value in shares] for shares in self.waited],
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "at_least": self.at_least,
            "at_most": self.at_most,
            "bound_is_on": "value" if self.value_bound or self.ratio is None else "ratio",
            "met": self.met,
        }


HEADING = (
    f"{'what':<42}{'unit':<6}{'forwarder (spread)':<27}{'nginx (spread)':<27}{'rig alone':>10}{'ratio':>7}  "
    f"{'bound':<11}"
)


def line(row: Row) -> str:
    """A row of the table."""
    bound = ""
    if row.at_least is not None or row.at_most is not None:
        word, number = ("≥", row.at_least) if row.at_most is None else ("≤", row.at_most)
        bound = f"{word} {number:g}{f' {row.unit}' if row.value_bound or row.ratio is None else ''}"
    alone = _short(statistics.median(row.alone)) if row.alone else ""
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return (
        f"{row.what:<42}{row.unit:<6}{_spread(row.ours):<27}{_spread(row.theirs):<27}{alone:>10}{ratio:>7}  "
        f"{bound:<11}{'' if row.met else 'MISSED'}"
    ).rstrip()


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = _short(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({_short(min(values))}..{_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
