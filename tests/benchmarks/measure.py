"""Measures commands side by side: alternating in one run, so that the machine's moods reach all alike.

Medians of wall time, in seconds. Standard library only.
"""

import statistics
import subprocess
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One contestant; it has to exit 0."""

    name: str
    argv: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """`subject` may take at most `at_most` times as long as `reference`."""

    subject: str
    reference: str
    at_most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was measured for one bound; `ratio` is that of the medians."""

    bound: Bound
    subject_s: float
    reference_s: float

    @property
    def ratio(self) -> float:
        return self.subject_s / self.reference_s

    @property
    def met(self) -> bool:
        return self.ratio <= self.bound.at_most


def by_turns(contestants: Sequence[T], seconds: Callable[[T], float], rounds: int) -> dict[T, list[float]]:
    """Measure the contestants by turns, `rounds` times each after one warm-up, which byte-compiles."""
    samples: dict[T, list[float]] = {contestant: [] for contestant in contestants}
    for turn in range(rounds + 1):
        for contestant in contestants if turn % 2 else reversed(contestants):
            elapsed = seconds(contestant)
            if turn:
                samples[contestant].append(elapsed)
    return samples


def medians(commands: Sequence[Command], *, cwd: Path, env: Mapping[str, str], rounds: int) -> dict[str, float]:
    """Run the commands by turns and take the medians."""
    argv = {command.name: command.argv for command in commands}

    def seconds(name: str) -> float:
        started = time.perf_counter()
        run = subprocess.run(
            argv[name],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        elapsed = time.perf_counter() - started
        if run.returncode != 0:
            raise RuntimeError(f"{name} exited {run.returncode}:\n{run.stderr or run.stdout}")
        return elapsed

    return {name: statistics.median(times) for name, times in by_turns(tuple(argv), seconds, rounds).items()}
