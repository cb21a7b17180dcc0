"""Measures commands side by side: alternating in one run, so that the machine's moods reach all alike.

Medians of wall time, in seconds. Standard library only.
"""

import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


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


def medians(commands: Sequence[Command], *, cwd: Path, env: Mapping[str, str], rounds: int) -> dict[str, float]:
    """Run the commands by turns, `rounds` times each after one warm-up, which byte-compiles; take medians."""
    samples: dict[str, list[float]] = {command.name: [] for command in commands}
    for turn in range(rounds + 1):
        for command in commands if turn % 2 else reversed(commands):
            started = time.perf_counter()
            run = subprocess.run(
                command.argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            elapsed = time.perf_counter() - started
            if run.returncode != 0:
                raise RuntimeError(f"{command.name} exited {run.returncode}:\n{run.stderr or run.stdout}")
            if turn:
                samples[command.name].append(elapsed)
    return {name: statistics.median(times) for name, times in samples.items()}
