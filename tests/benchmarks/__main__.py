"""`python -m tests.benchmarks`: is what is promised about speed so? As ratios, in one run, on this machine.

Prints a table, writes JSON with --json FILE, and exits 1 where a bound is missed.
"""

import argparse
import compileall
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import cold_start, ready, scale
from tests.benchmarks.endpoint import ZONES, endpoint
from tests.benchmarks.measure import Bound, Command, Result, medians

ROOT = Path(__file__).parents[2]

START_UP = [
    Command(name="python -c pass", argv=[sys.executable, "-c", "pass"]),
    Command(name="python -m client --help", argv=[sys.executable, "-m", "client", "--help"]),
]
IDLE_PASS = [
    Command(name="the same with the official SDK", argv=[sys.executable, "-m", "tests.benchmarks.sdk_pass"]),
    # Not bound: what the one dependency costs by itself, and so what no pass over urllib3 can be below.
    Command(name="python -c 'import urllib3'", argv=[sys.executable, "-c", "import urllib3"]),
    Command(name="python -m functions.reap_idle", argv=[sys.executable, "-m", "functions.reap_idle"]),
]
BOUNDS = [
    Bound(subject="python -m client --help", reference="python -c pass", at_most=2),
    Bound(subject="python -m functions.reap_idle", reference="the same with the official SDK", at_most=0.5),
]
FLOOR = Bound(subject="python -c 'import urllib3'", reference="the same with the official SDK", at_most=float("inf"))


def environment(api_endpoint: str, home: str) -> dict[str, str]:
    """A bare environment; PYTHONDONTWRITEBYTECODE stays out of it, or the compiler would be measured."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": home,
        "EXOSCALE_API_KEY": "EXObenchmark",
        "EXOSCALE_API_SECRET": "not-a-secret",
        "EXOSCALE_API_ENDPOINT": api_endpoint,
        "EXOSCALE_ZONE": "ch-gva-2",
    }


def measure_cold_starts(rounds: int, latency_s: float) -> tuple[cold_start.ColdStarts, cold_start.ColdStarts]:
    """Measure the handlers' cold starts, the endpoint's answers being `latency_s` late; and again two over TLS."""
    with tempfile.TemporaryDirectory() as home:
        with endpoint(latency_s) as plain:
            found = cold_start.measured(cold_start.HANDLERS, rounds, cwd=ROOT, env=environment(plain, home))
        context, trust = cold_start.trusted(Path(home))
        with endpoint(latency_s, context=context) as secure:
            env = environment(secure, home) | trust
            return found, cold_start.measured((cold_start.REAP, cold_start.SDK), rounds, cwd=ROOT, env=env)


def measure(rounds: int, latency_s: float) -> list[Result]:
    """Measure every bound, the endpoint's answers being `latency_s` late."""
    for package in ("client", "functions", "tests/benchmarks"):
        compileall.compile_dir(ROOT / package, quiet=2)
    with endpoint(latency_s) as api_endpoint, tempfile.TemporaryDirectory() as home:
        env = environment(api_endpoint, home)
        measured = medians(START_UP, cwd=ROOT, env=env, rounds=rounds * 2)
        measured |= medians(IDLE_PASS, cwd=ROOT, env=env, rounds=rounds)
    return [
        Result(bound=bound, subject_s=measured[bound.subject], reference_s=measured[bound.reference])
        for bound in (*BOUNDS, FLOOR)
    ]


PER_ZONE = 250
FAR_S = 0.3


def large(rounds: int) -> dict[str, float]:
    """2,000 instances in use in eight zones that answer 300 ms late: ratios and peaks, of so many passes."""
    with endpoint(FAR_S, instances=PER_ZONE) as api_endpoint, tempfile.TemporaryDirectory() as home:
        env = environment(api_endpoint, home) | {"EXOSCALE_ZONES": ",".join(ZONES)}
        passes = [scale.measured(env, cwd=ROOT) for _ in range(rounds)]
    for one in passes:
        counted = (one["zones"], one["instances"], one["requests"])
        if counted != (len(ZONES), len(ZONES) * PER_ZONE, len(ZONES)):
            raise RuntimeError(f"zones, instances and requests of a pass are {counted}")
    return {
        "pass_s": statistics.median(one["pass_s"] for one in passes),
        "slowest_list_s": statistics.median(one["slowest_list_s"] for one in passes),
        "ratio": statistics.median(one["pass_s"] / one["slowest_list_s"] for one in passes),
        "peak_mib": max(one["peak_mib"] for one in passes),
    }


def report_large(rounds: int) -> tuple[dict[str, float], bool]:
    """Measure and print what large passes cost; whether their bounds are met."""
    found: dict[str, float] = large(rounds)
    quick, small = found["ratio"] <= scale.ZONE_FACTOR, found["peak_mib"] <= scale.PEAK_MIB
    print(
        f"\n{PER_ZONE * len(ZONES)} instances in use in {len(ZONES)} zones, {FAR_S * 1e3:.0f} ms away: one list per "
        f"zone, {found['pass_s'] * 1e3:.0f} ms, {found['ratio']:.2f} times the slowest list (median of {rounds}; at "
        f"most {scale.ZONE_FACTOR}{'' if quick else '  MISSED'}), peak {found['peak_mib']:.0f} MiB (at most "
        f"{scale.PEAK_MIB:.0f}{'' if small else '  MISSED'})"
    )
    idle = scale.idle()
    few, even = idle["calls_each_at_most"] <= scale.CALLS_EACH, idle["most_in_progress"] == scale.AT_ONCE
    print(
        f"{idle['instances']} idle instances in one zone: {idle['lists']} list, {idle['calls_each_at_most']} calls "
        f"each (at most {scale.CALLS_EACH}{'' if few else '  MISSED'}) besides {idle['polls']} polls, "
        f"{idle['most_in_progress']} at a time ({scale.AT_ONCE}{'' if even else '  MISSED'})"
    )
    return found | {f"idle_{name}": value for name, value in idle.items()}, quick and small and few and even


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks", allow_abbrev=False)
    options.add_argument("--rounds", type=int, default=15, metavar="N", help="runs per command (15)")
    options.add_argument(
        "--latency-ms", type=float, default=0, metavar="MS", help="how late the endpoint answers each request (0)"
    )
    options.add_argument("--boots", type=int, default=10, metavar="N", help="simulated boots, for the wait (10)")
    options.add_argument("--passes", type=int, default=7, metavar="N", help="large passes (7)")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    args = options.parse_args()
    results = measure(args.rounds, args.latency_ms / 1e3)
    print(f"{'what':<32}{'ms':>8}   {'against':<32}{'ms':>8}{'ratio':>8}{'at most':>9}")
    for result in results:
        bound, verdict = result.bound, "" if result.met else "  MISSED"
        print(
            f"{bound.subject:<32}{result.subject_s * 1e3:>8.1f}   {bound.reference:<32}"
            f"{result.reference_s * 1e3:>8.1f}{result.ratio:>8.2f}{bound.at_most:>9.2f}{verdict}"
        )
    starts, tls_starts = measure_cold_starts(args.rounds, args.latency_ms / 1e3)
    cold_start.report(starts, tls_starts)
    lags = ready.lags(args.boots)
    noticed = lags[-1] <= ready.AT_MOST_S
    print(
        f"\nready is handed out after {lags[len(lags) // 2]:.2f} s (median of {len(lags)} boots), "
        f"{lags[-1]:.2f} s at worst; "
        f"at most {ready.AT_MOST_S:.0f} s{'' if noticed else '  MISSED'}"
    )
    sizes, sized = report_large(args.passes)
    if args.json:
        rows = [
            {
                "subject": result.bound.subject,
                "reference": result.bound.reference,
                "subject_s": round(result.subject_s, 5),
                "reference_s": round(result.reference_s, 5),
                "ratio": round(result.ratio, 3),
                "at_most": result.bound.at_most,
                "met": result.met,
            }
            for result in results
        ]
        about = {
            "python": platform.python_version(),
            "system": platform.platform(),
            "rounds": args.rounds,
            "latency_ms": args.latency_ms,
            "cold_starts_s": {name: round(starts.median_s(name), 5) for name in starts.samples},
            "cold_starts_over_tls_s": {name: round(tls_starts.median_s(name), 5) for name in tls_starts.samples},
            "ready_lags_s": [round(lag, 3) for lag in lags],
            "large": {name: round(value, 4) for name, value in sizes.items()},
        }
        args.json.write_text(json.dumps({**about, "results": rows}, indent=2) + "\n")
    return 0 if starts.met and noticed and sized and all(result.met for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
