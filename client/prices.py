"""About what an instance costs, from prices.json: a dated copy of Exoscale's price list, its source in it.

Everything here is "about", and is shown with that word. Neighbours: `functions.plan` refuses what is too dear before it
is created, and whatever shows an instance to a person shows this beside it. Standard library only; no I/O but reading
the file once.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

CURRENCIES = "CHF, EUR or USD"
"""The list has the same figure in each."""


@cache
def listed() -> dict[str, Any]:
    """prices.json: `as_of` (year and month), `source`, `volume_gib_hour`, `types` (per hour and running instance).

    With each family of GPU types: its card, about that card's memory, and the zones where it was seen.
    """
    prices: dict[str, Any] = json.loads(resources.files("client").joinpath("prices.json").read_text("utf-8"))
    return prices


def gpu_family(family: str) -> dict[str, Any] | None:
    """`card`, `card_gib` and `zones` of a family of GPU types; None where it is not listed."""
    found: dict[str, Any] | None = listed()["gpu_families"].get(family)
    return found


def hourly_cost(instance_type: str, disk_gib: int) -> float | None:
    """About what an hour of a running instance costs, with its disk; None for a type without a price."""
    price = listed()["types"].get(instance_type)
    # Without the dust of binary fractions: a limit may be written as exactly this.
    return None if price is None else round(float(price) + disk_hourly_cost(disk_gib), 6)


def disk_hourly_cost(disk_gib: int) -> float:
    """About what an hour of a disk costs, of a stopped instance's, too."""
    return disk_gib * float(listed()["volume_gib_hour"])


def cost_so_far(hourly: float | None, age_s: float | None) -> float | None:
    """About what something has cost that was made that long ago, in seconds, and cost so much per hour ever since.

    For an instance that was stopped meanwhile that is the most it can be, since then only its disk cost.
    """
    return None if hourly is None or age_s is None else hourly * age_s / 3600


def shown(amount: float) -> str:
    """An amount as people are shown it, after the word "about": with two digits behind the point, small ones three."""
    return f"{amount:.2f}" if amount >= 0.1 else f"{amount:.3f}"
