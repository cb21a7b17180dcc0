"""A result of `status` for people, as a table, and for Prometheus, as metrics.

Pure. Neighbours: `functions.status` has the results, `client.metrics` the format; whoever prints knows the width.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from client import metrics, prices
from client.card import mapping, phases
from client.model import GONE, printable
from functions.policy import RUNNING
from functions.zones import nothing

Result = Mapping[str, Any]

COLUMNS: Final[tuple[str, ...]] = ("name", "state", "zone", "type", "model", "age", "idle", "goes in", "cost, about")
_MOVED: Final = ("type", "model")
"""Columns that go to each instance's second line where a terminal is too narrow for them."""


def text(result: Result, width: int | None = None) -> str:
    """A table, each instance on two lines, and what runs costs. `width`: columns of the terminal, if it is one."""
    if not result["instances"]:
        return nothing(result)
    rows = [(_cells(one), one) for one in result["instances"]]
    columns = COLUMNS
    if width and len(_line(columns, columns, rows)) > width:
        columns = tuple(name for name in COLUMNS if name not in _MOVED)
    lines = [_line(columns, columns, rows)]
    for cells, one in rows:
        lines.append(_line(columns, [cells[name] for name in columns], rows))
        moved = [cells[name] for name in COLUMNS if name not in columns]
        lines += _wrapped("  ".join([one["id"], *moved, *_phase(one), one["reap"]["reason"]]), width, indent="  ")
    for sentence in (_sum(result), *result["notes"]):
        lines += _wrapped(sentence, width)
    return "\n".join(lines)


def ending(result: Result) -> list[str]:
    """Which instances are less than a day from their deadline, a sentence each."""
    return [
        f"{one['zone']} {one['id']} reaches its deadline at {one['deadline']}."
        for one in result["instances"]
        if one["deadline_s"] is not None and one["deadline_s"] < 86400
    ]


def wrapped(sentences: list[str], width: int | None) -> list[str]:
    """Sentences as lines that fit a terminal."""
    return [line for sentence in sentences for line in _wrapped(sentence, width)]


def _wrapped(words: str, width: int | None, indent: str = "") -> list[str]:
    import textwrap

    if not width:
        return [indent + words]
    more = indent + "  "
    return textwrap.wrap(words, width, initial_indent=indent, subsequent_indent=more, break_on_hyphens=False)


def _line(columns: tuple[str, ...], cells: Any, rows: list[tuple[dict[str, str], Any]]) -> str:
    widths = [max(len(name), *(len(row[name]) for row, _ in rows)) for name in columns]
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cells(one: Mapping[str, Any]) -> dict[str, str]:
    said = one["said"] or {}
    unasked = not said and one["state"] == "running"
    goes = "in use" if said.get("in_flight") else "?" if unasked else "-"
    if one["goes_in_s"] is not None:
        goes = _short(one["goes_in_s"]) if one["goes_in_s"] else "now"
    cost = "?" if one["cost"] is None else prices.shown(one["cost"])
    return {
        "name": printable(one["name"]),
        "state": printable(one["state"]),
        "zone": one["zone"],
        "type": one["type"] or "?",
        "model": one["model"] or "?",
        "age": "?" if one["age_s"] is None else _short(one["age_s"]),
        "idle": "?" if one["idle_s"] is None else _short(one["idle_s"]),
        "goes in": goes,
        "cost, about": f"at most {cost}" if one["stops"] and cost != "?" else cost,
    }


def _phase(one: Mapping[str, Any]) -> Iterator[str]:
    said = one["said"] or {}
    if "boot" in said:
        yield printable(said["boot"]["phase"])
    elif "trouble" in said and one["state"] in RUNNING:
        yield "no answer"


def _short(seconds: float) -> str:
    """A length of time in at most 7 characters: 119s, 119m, 47h 59m, 99d 23h."""
    whole = int(seconds)
    if whole < 120:
        return f"{whole}s"
    if whole < 7200:
        return f"{whole // 60}m"
    hours = whole // 3600
    return f"{hours}h {whole % 3600 // 60}m" if hours < 48 else f"{hours // 24}d {hours % 24}h"


def _sum(result: Result) -> str:
    """How many there are, and about what they cost: per hour and so far, as far as that is known."""
    here = [one for one in result["instances"] if one["state"] not in GONE]
    stopped = [one for one in here if one["state"] == "stopped"]
    counts = [(len(here) - len(stopped), "running"), (len(stopped), "stopped")]
    told = [f"{count} {state}" for count, state in counts if count] or ["nothing runs"]
    known = [one["hourly_cost"] for one in here if one["hourly_cost"] is not None]
    if known:
        told.append(f"about {prices.shown(sum(known))} per hour")
    costs = [one["cost"] for one in here if one["cost"] is not None]
    if costs:
        most = "at most " if any(one["stops"] for one in here) else ""
        told.append(f"{most}about {prices.shown(sum(costs))} so far")
    limits = [prices.CURRENCIES, f"prices of {result['prices_as_of']}"] if known or costs else []
    if here and len(known) < len(here):
        limits.append(f"the hourly price of {len(here) - len(known)} is not known")
    if any(one["disk_gib"] is None for one in here if one["cost"] is not None):
        limits.append("without disks, whose size --probe reads")
    return ", ".join(told) + (f" ({'; '.join(limits)})" if limits else "")


# -- Prometheus


_GAUGES: Final[Mapping[str, tuple[str, str]]] = {
    "age_seconds": ("age_s", "Since it was created."),
    "idle_seconds": ("idle_s", "Since it was last used, by its label, or by its own word where it was asked."),
    "idle_timeout_seconds": ("idle_timeout_s", "After how long without use it may be ended."),
    "goes_in_seconds": ("goes_in_s", "After how long a reaper would end it if nobody used it again."),
    "cost_about": ("cost", f"About what it has cost so far, in {prices.CURRENCIES}; at most, where it was stopped."),
    "hourly_cost_about": ("hourly_cost", f"About what an hour costs now, in {prices.CURRENCIES}."),
}


def prometheus(result: Result) -> str:
    """A result with `check` as metrics; what is None is left out."""
    items = [(one, {name: str(one[name]) for name in ("id", "name", "zone", "state")}) for one in result["instances"]]

    def gauge(name: str, key: str, about: str) -> str:
        samples = [(labels, one[key]) for one, labels in items if one[key] is not None]
        return metrics.family(f"exollama_instance_{name}", samples, about=about)

    info = [(labels | {"type": one["type"] or "", "model": one["model"] or ""}, 1) for one, labels in items]
    deadlines = [
        (labels, datetime.fromisoformat(one["deadline"]).timestamp()) for one, labels in items if one["deadline"]
    ]
    late = [(labels, int(bool(one["overdue"]))) for one, labels in items]
    booted = [(labels | {"phase": name}, seconds) for one, labels in items for name, seconds in _phases(one).items()]
    strange = [({name: value for name, value in one.items() if name != "reason"}, 1) for one in result["foreign"]]
    up = [({"zone": name}, 1) for name in result["zones"]] + [({"zone": name}, 0) for name in result["unseen"]]
    return "".join(
        [
            metrics.family("exollama_zone_up", up, about="Whether the zone could be looked at."),
            metrics.family("exollama_instance_info", info, about="An instance of ours; always 1."),
            *(gauge(name, key, about) for name, (key, about) in _GAUGES.items()),
            metrics.family("exollama_instance_deadline_timestamp_seconds", deadlines, about="When its lifetime ends."),
            metrics.family(
                "exollama_instance_overdue", late, about="Whether a reaper should have removed it by now, and has not."
            ),
            metrics.family(
                "exollama_instance_foreign", strange, about="One that another version made, which nobody here ends."
            ),
            metrics.family(
                "exollama_instance_boot_phase_seconds", booted, about="How long each phase of its boot took, once over."
            ),
        ]
    )


def _phases(one: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of each phase of the boot that is over, as far as its own word can be read."""
    steps = phases(mapping(mapping(one["said"]).get("boot")))
    return {step.name: step.seconds for step in steps if step.mark != "now"}
