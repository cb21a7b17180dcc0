"""`python -m tests.costs` prints a worked month and the worst cases, computed from client/prices.json, as Markdown.

Everything is "about", and what is assumed stands in the table itself: no boot on a real account was measured.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from client import prices
from client.settings import DEFAULT_IDLE_S, DEFAULT_LIFETIME_S, DEFAULT_RETENTION_S
from functions.policy import GRACE, SKIPPED_WRITES

DAYS = 22  # of work in a month, five a week
SESSIONS = 3  # a day, too far apart to find the machine of the one before still running
USE_MIN = 40  # a session
DAY_H = 9  # from the first session's beginning to the last one's end
MONTH_H = 730
TIMEOUT_MIN = DEFAULT_IDLE_S // 60
SHORT_MIN = 10  # the other timeout that is shown
REAPER_MIN = 10  # between two passes
WATCHDOG_MIN = 15  # past the idle timeout, the machine powers itself off
START_MIN = 2  # of a stopped machine, model on its disk
RETENTION_H = DEFAULT_RETENTION_S // 3600
LIFETIME_H = DEFAULT_LIFETIME_S // 3600 + round(GRACE.total_seconds() / 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared: a type with its disk, and how long a fresh one boots."""

    instance_type: str
    where: str
    disk_gib: int
    boot_min: int

    @property
    def hour(self) -> float:
        """About what it costs to run it for an hour, disk included."""
        cost = prices.hourly_cost(self.instance_type, self.disk_gib)
        assert cost is not None
        return cost

    @property
    def disk_hour(self) -> float:
        return prices.disk_hourly_cost(self.disk_gib)


PLANS = (
    Plan(instance_type="standard.large", where="any zone", disk_gib=50, boot_min=6),
    Plan(instance_type="gpua30.small", where="ch-gva-2", disk_gib=100, boot_min=10),
)


def tail_min(timeout_min: float) -> float:
    """From the last request to the end, on average.

    Labels are up to a quarter of the timeout old and so count for a quarter more, which is an eighth in the middle;
    then half of the time between two passes.
    """
    return timeout_min * (1 + (SKIPPED_WRITES - 1) / 2) + REAPER_MIN / 2


def use_alone(plan: Plan) -> float:
    """What only the minutes of use would cost."""
    return DAYS * SESSIONS * USE_MIN / 60 * plan.hour


def destroyed(plan: Plan, timeout_min: float) -> float:
    """A month in which each session makes a machine and the reaper destroys it."""
    return DAYS * SESSIONS * (plan.boot_min + USE_MIN + tail_min(timeout_min)) / 60 * plan.hour


def stopped(plan: Plan) -> float:
    """A month in which the reaper stops it: made once a week, kept over nights, destroyed in the weekend."""
    weeks = DAYS / 5
    starting_min = weeks * plan.boot_min + (DAYS * SESSIONS - weeks) * START_MIN
    running_h = (starting_min + DAYS * SESSIONS * (USE_MIN + tail_min(TIMEOUT_MIN))) / 60
    there_h = weeks * (4 * 24 + DAY_H + TIMEOUT_MIN / 60 + RETENTION_H)
    return running_h * plan.hour + (there_h - running_h) * plan.disk_hour


def table() -> str:
    """The worked month and the worst cases."""
    cpu, gpu = PLANS
    intro = (
        f"A month of {DAYS} days, each with {SESSIONS} sessions of {USE_MIN} minutes that find no machine running. "
        f"Idle timeout {TIMEOUT_MIN} min and a reaper every {REAPER_MIN} min, so that on average "
        f"{tail_min(TIMEOUT_MIN):.0f} min pass between the last request and the end ({tail_min(SHORT_MIN):.0f} with a "
        f"timeout of {SHORT_MIN} min). A stopped machine starts in {START_MIN} min and costs its disk. In "
        f"{prices.CURRENCIES}, at the prices of {prices.listed()['as_of']}; how long a boot or start takes is assumed."
    )
    head = (f"| {cpu.instance_type} ({cpu.where}) | {gpu.instance_type} ({gpu.where}) |", "|---|---:|---:|")
    return "\n".join(
        [
            textwrap.fill(intro, 140, break_on_hyphens=False),
            "",
            f"| a month, about {head[0]}",
            head[1],
            _line(f"disk of {cpu.disk_gib} and {gpu.disk_gib} GiB; an hour running", lambda p: f"{p.hour:.3f}"),
            _line("boot of a fresh machine, assumed", lambda p: f"{p.boot_min} min"),
            _line("use alone, as if nothing else cost", lambda p: _rounded(use_alone(p))),
            _line("**destroyed when idle** (default)", lambda p: f"**{_rounded(destroyed(p, TIMEOUT_MIN))}**"),
            _line(f"`EXOSCALE_IDLE_TIMEOUT={SHORT_MIN * 60}`", lambda p: _rounded(destroyed(p, SHORT_MIN))),
            _line(f"`EXOSCALE_REAP_ACTION=stop`, kept {RETENTION_H} h", lambda p: _rounded(stopped(p))),
            _line(f"running all month ({MONTH_H} h)", lambda p: _rounded(MONTH_H * p.hour)),
            "",
            f"| what may go wrong, about {head[0]}",
            head[1],
            _line(
                f"no reaper runs: off by itself {WATCHDOG_MIN} min past its idle timeout; from then its disk, a day",
                lambda p: _rounded(24 * p.disk_hour),
            ),
            _line("no reaper runs, and the agent is dead as well: runs on, a day", lambda p: _rounded(24 * p.hour)),
            _line(
                f"a reaper that cannot reach it (reach `limited`), and the agent is dead: {LIFETIME_H} h at most",
                lambda p: _rounded(LIFETIME_H * p.hour),
            ),
            "",
        ]
    )


def _line(what: str, of: Callable[[Plan], str]) -> str:
    return f"| {what} | {' | '.join(of(plan) for plan in PLANS)} |"


def _rounded(cost: float) -> str:
    return f"{cost:.2f}" if cost < 100 else f"{cost:.0f}"


if __name__ == "__main__":
    print(table(), end="")
