"""What a boot spent its time on, from power-on to ready: the firmware's, systemd's, cloud-init's and the agent's word.

Seconds are counted from QEMU's start. On an emulated processor everything that computes takes many times as long as on
an instance, while downloads do not: ratios between two boots of one run say something, seconds do not.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from tests.boot.machine import VirtualMachine

CLOCKS = "import time; print(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))"
STAGES = {"init-local": "local", "init-network": "network", "modules-config": "config", "modules-final": "final"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One stretch of a boot, in seconds since power-on."""

    who: str
    what: str
    began: float
    ended: float


def read(machine: VirtualMachine) -> list[Row]:
    """The rows of a machine that is ready, in the order in which they began."""
    wall, uptime = map(float, machine.run("python3", "-c", CLOCKS).split())
    firmware = time.monotonic() - machine.started - uptime
    userspace = int(machine.run("systemctl", "show", "-P", "UserspaceTimestampMonotonic")) / 1e6
    rows = [("QEMU", "firmware", -firmware, 0.0), ("Linux", "kernel and its first disk", 0.0, userspace)]
    begun: dict[str, float] = {}
    for event in json.loads(machine.run("cloud-init analyze dump")):
        name = STAGES.get(event["name"])
        if name and event["event_type"] == "start":
            begun[name] = event["timestamp"] - wall + uptime
        elif name and event["event_type"] == "finish":
            rows.append(("cloud-init", name, begun[name], event["timestamp"] - wall + uptime))
    boot = json.loads(machine.run("cat /run/exollama/boot.json"))
    at = boot["started"]
    for phase, seconds in boot["done"]:
        rows.append(("exollama", phase, at, at + seconds))
        at += seconds
    found = [Row(who=who, what=what, began=a + firmware, ended=b + firmware) for who, what, a, b in rows]
    return sorted(found, key=lambda row: row.began)


def table(rows: list[Row], width: int = 40) -> list[str]:
    """The rows as text, with what lies between two of them."""
    whole = max(row.ended for row in rows)
    lines = [f"{'':12} {'':26} {'from':>6} {'to':>6} {'took':>6}"]
    reached = 0.0
    for row in rows:
        if row.began - reached >= 0.5:
            lines.append(_line("", "(systemd: other units)", reached, row.began, whole, width))
        lines.append(_line(row.who, row.what, row.began, row.ended, whole, width))
        reached = max(reached, row.ended)
    return lines


def _line(who: str, what: str, began: float, ended: float, whole: float, width: int) -> str:
    left, right = round(width * began / whole), round(width * ended / whole)
    bar = " " * left + "#" * max(1, right - left)
    return f"{who:12} {what:26} {began:6.1f} {ended:6.1f} {ended - began:6.1f}  {bar}"
