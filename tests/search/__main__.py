"""`python -m tests.search`: search the reap and provision protocols, and print what was covered and what was found."""

from __future__ import annotations

import argparse
import sys

from tests.search.casts import LARGE, SMALL, WEAKENINGS
from tests.search.explore import Search

MOST = 20_000_000


def main() -> int:
    options = argparse.ArgumentParser(
        prog="python -m tests.search",
        description="Search the reap and provision protocols, and print what was covered and what was found.",
        epilog='example:\n  python -m tests.search everybody "three reapers"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options.add_argument("cast", nargs="*", help="which casts (all, the large ones included)")
    options.add_argument("--list", action="store_true", help="say which casts there are")
    args = options.parse_args()
    casts = {**SMALL, **LARGE}
    if unknown := set(args.cast) - set(casts):
        options.error(f"there is no cast named {', '.join(sorted(unknown))}; --list names them")
    if args.list:
        print("\n".join(f"{name:<54} {cast.why}" for name, cast in casts.items()))
        return 0
    good = True
    for name in args.cast or casts:
        report = Search(casts[name]).explore(most_states=MOST)
        print(report.row(name), *report.trace, sep="\n    ", flush=True)
        good = good and report.complete and report.violation is None
    for name, weak in WEAKENINGS.items() if not args.cast else ():
        with weak.weakened():
            report = Search(weak.cast).explore()
        print(f"{name}: {report.violation}", *report.trace[:-1], sep="\n    ", flush=True)
        good = good and report.violation == weak.violation
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
