"""`python -m tests.benchmarks.forwarding`: what the forwarder costs, side by side with nginx, which does it in C.

Both add the key and stream, alone on one processor; answers and loads are programs of ours on another. Prints a table,
writes JSON with --json FILE, and exits 1 where a bound is missed. Linux only.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from tests.benchmarks.forwarding import table
from tests.benchmarks.forwarding.calls import request
from tests.benchmarks.forwarding.rig import Rig, Running
from tests.benchmarks.forwarding.table import Row

CONNECTIONS = 32
STREAMS = 256
TOKENS_S = 100
_WRK = 'wrk.method = "POST"\nwrk.body = [[{body}]]\nwrk.headers["Content-Type"] = "application/json"\n'


class Contest:
    """The forwarder and nginx before the same answers, with TLS on the way there or without."""

    def __init__(self, rig: Rig, upstream: Running, *, tls: bool) -> None:
        self.rig = rig
        self.tls = tls
        self.way = "TLS" if tls else "plain"
        self.least = 0.6 if tls else 0.7
        """Of nginx's requests per second."""
        self.upstream = upstream
        self.ours, self.nginx = rig.forwarder(upstream, tls=tls), rig.nginx(upstream, tls=tls)
        self.direct = ["--direct", "--tls"] if tls else ["--direct"]

    def turns(self, runs: int, one: Callable[[Running], Any]) -> tuple[list[Any], list[Any]]:
        """Run both so many times by turns: the forwarder's results and nginx's."""
        found: tuple[list[Any], list[Any]] = ([], [])
        for turn in range(runs):
            for at in (0, 1) if turn % 2 else (1, 0):
                found[at].append(one((self.ours, self.nginx)[at]))
        return found

    def rates(self, runs: int, seconds: float) -> list[Row]:
        """Requests per second, and what each costs."""
        options = ["--connections", CONNECTIONS, "--seconds", seconds]
        alone = self.rig.load("rate", self.upstream.port, *options, *self.direct)
        ours, theirs = self.turns(runs, lambda one: self.rig.load("rate", one.port, *options, "--pid", one.pid))
        return [
            Row(
                what=f"requests at {CONNECTIONS} connections, {self.way}",
                unit="1/s",
                ours=[one["per_second"] for one in ours],
                theirs=[one["per_second"] for one in theirs],
                alone=[alone["per_second"]],
                waited=waited(ours, theirs),
                at_least=self.least,
            ),
            Row(
                what=f"processor per request, {self.way}",
                unit="us",
                ours=[one["cpu_each_s"] * 1e6 for one in ours],
                theirs=[one["cpu_each_s"] * 1e6 for one in theirs],
            ),
        ]

    def programs(self, runs: int, seconds: float) -> Row:
        """Requests per second of what people use, as many at a time."""
        options = ["--connections", CONNECTIONS, "--seconds", seconds]
        alone = self.rig.programs(self.upstream.port, *options, *self.direct)
        ours, theirs = self.turns(runs, lambda one: self.rig.programs(one.port, *options))
        return Row(
            what=f"Ollama's client, {CONNECTIONS} at a time, {self.way}",
            unit="1/s",
            ours=[one["per_second"] for one in ours],
            theirs=[one["per_second"] for one in theirs],
            alone=[alone["per_second"]],
            at_least=self.least,
        )

    def streams(self, runs: int, seconds: float) -> list[Row]:
        """Lags of tokens, what each costs, and what memory all of that takes."""
        options = ["--connections", STREAMS, "--rate", TOKENS_S, "--seconds", seconds]
        alone = self.rig.load("streams", self.upstream.port, *options, *self.direct)
        ours, theirs = self.turns(runs, lambda one: self.rig.load("streams", one.port, *options, "--pid", one.pid))

        def row(what: str, unit: str, name: str, factor: float, **more: Any) -> Row:
            return Row(
                what=f"{what}, {self.way}",
                unit=unit,
                ours=[one[name] * factor for one in ours],
                theirs=[one[name] * factor for one in theirs],
                **more,
            )

        lag, memory = f"lag at {STREAMS} streams of {TOKENS_S}/s", f"memory at {STREAMS} streams"
        bound = (2.0, 2.5, 100.0) if self.tls else (None, None, None)
        p50, p99 = [alone["p50_s"] * 1e3], [alone["p99_s"] * 1e3]
        return [
            row(f"{lag}, p50", "ms", "p50_s", 1e3, alone=p50),
            row(f"{lag}, p99", "ms", "p99_s", 1e3, alone=p99, waited=waited(ours, theirs), at_most=bound[0]),
            row("processor per token", "us", "cpu_per_token_s", 1e6, at_most=bound[1]),
            row(memory, "MB", "vmrss_mb", 1),
            row(f"{memory}, peak", "MB", "vmhwm_mb", 1, at_most=bound[2], value_bound=True),
        ]

    def first(self, rounds: int) -> Row:
        """What is added to the time to the first token at one stream."""
        found = self.rig.load(
            "first",
            self.upstream.port,
            *(["--tls"] if self.tls else []),
            "--rounds",
            rounds,
            "--through",
            self.ours.port,
            self.nginx.port,
        )
        (ours, nginx), (ours_spread, nginx_spread) = found["added_s"], found["quartiles_s"]
        return Row(
            what=f"added to the first token, {self.way}",
            unit="ms",
            ours=[value * 1e3 for value in (ours_spread[0], ours, ours_spread[1])],
            theirs=[value * 1e3 for value in (nginx_spread[0], nginx, nginx_spread[1])],
            alone=[found["direct_s"] * 1e3],
            at_most=0.5 if self.tls else None,
            value_bound=True,
        )


def waited(*contestants: list[Any]) -> tuple[list[float], list[float]]:
    """What share of each run each of the two waited for its processor."""
    ours, theirs = ([one["waited_s"] / one["took_s"] for one in runs] for runs in contestants)
    return ours, theirs


def wrk(rig: Rig, *, tls: bool, runs: int, seconds: int) -> Row:
    """Requests per second where answers and load cost next to nothing: nginx's `return` and wrk, if that is here."""
    contest = Contest(rig, rig.nginx_answers(tls=tls), tls=tls)
    script = rig.folder / "wrk.lua"
    script.write_text(_WRK.format(body=request(direct=False).partition(b"\r\n\r\n")[2].decode()))

    def one(through: Running) -> float:
        url = f"http://127.0.0.1:{through.port}/api/generate"
        argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "-s", str(script), url]
        said = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
        rate = re.search(r"Requests/sec: +([0-9.]+)", said)
        if not rate or "Non-2xx" in said or "Socket errors" in said:
            raise RuntimeError(said)
        return float(rate[1])

    ours, theirs = contest.turns(runs, one)
    return Row(what=f"requests, wrk and nginx around, {contest.way}", unit="1/s", ours=ours, theirs=theirs)


def measure(args: argparse.Namespace, show: Callable[[Row], None]) -> list[Row]:
    """Everything, row by row."""
    rows: list[Row] = []

    def add(*more: Row) -> None:
        rows.extend(more)
        for row in more:
            show(row)

    with Rig() as rig:
        print(
            "contestants alone on one processor, all else on another"
            if rig.processors
            else "There is one processor only, for contestants and rig alike: the ratios say less than they should."
        )
        print(table.HEADING, flush=True)
        contests = [Contest(rig, rig.answers(tls=tls), tls=tls) for tls in (False, True)]
        for contest in contests:
            add(contest.programs(args.runs, args.seconds / 2))
            add(*contest.rates(args.runs, args.seconds / 2))
        for contest in contests:
            # What is bound is measured longer.
            runs, seconds = (args.runs, args.seconds) if contest.tls else (max(1, args.runs - 2), args.seconds * 2 / 3)
            add(*contest.streams(runs, seconds))
        for contest in contests:
            add(contest.first(args.rounds))
        if shutil.which("wrk"):
            for tls in (False, True):
                add(wrk(rig, tls=tls, runs=3, seconds=2))
        else:
            print("wrk is not installed: how the contestants do where rig costs nothing was not measured.")
    return rows


def explained(rows: Sequence[Row]) -> str:
    """What limits the contestants, for whoever reads the table."""
    said = [
        "Medians of alternating runs; least and most in brackets, quartiles for the first token.",
        "Requests are held against their bound twice: as programs make them, and as fast as sockets can.",
    ]
    for row in rows:
        if row.unit == "1/s" and row.alone:
            spare = statistics.median(row.alone) / statistics.median(row.theirs)
            limit = "the contestants limit, not the rig" if spare >= 1.5 else "the rig limits, at least with nginx"
            said.append(f"{row.what}: the rig alone does {spare:.1f} times as many as nginx, so {limit}.")
        elif row.unit == "1/s":
            said.append(f"{row.what}: here the rig is in C as well, and costs next to nothing; for the record only.")
    if any(any(row.waited) for row in rows):
        said.append(
            "Share of the time that others used the contestants' processor, and the run in which they did least:"
        )
        said += [f"  {row.what}: {row.calmest()}" for row in rows if any(row.waited)]
    return "\n".join(said)


def terminated(number: int, frame: FrameType | None) -> None:
    """End as after Ctrl-C: whatever was started is ended on the way out."""
    sys.exit(128 + number)


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks.forwarding", allow_abbrev=False)
    options.add_argument("--runs", type=int, default=5, metavar="N", help="alternating runs of each contestant (5)")
    options.add_argument("--seconds", type=float, default=6, metavar="S", help="how long streams last (6)")
    options.add_argument("--rounds", type=int, default=300, metavar="N", help="first tokens, of each (300)")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    args = options.parse_args()
    signal.signal(signal.SIGTERM, terminated)
    began = time.monotonic()
    rows = measure(args, lambda row: print(table.line(row), flush=True))
    print(f"\n{explained(rows)}\nMeasured in {time.monotonic() - began:.0f} s.")
    if args.json:
        about = {
            "python": platform.python_version(),
            "system": platform.platform(),
            "runs": args.runs,
            "seconds": args.seconds,
        }
        args.json.write_text(json.dumps({**about, "results": [row.as_json() for row in rows]}, indent=2) + "\n")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
