"""`python -m tests.boot`: where a boot spends its time, and where it did before: two versions in turn, in one run."""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

from tests.boot import cloud, image, timeline


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.boot",
        description="Boot the user-data in QEMU, as root on Debian, and print where the time went.",
        epilog="example:\n  python -m tests.boot --runs 3 --before HEAD~20",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--runs", type=int, default=1, help="boots of each version (1)")
    parser.add_argument("--before", metavar="COMMIT", help="a version to boot as well, in turn with this one")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all timelines there")
    args = parser.parse_args()
    disk = image.build()
    found: dict[str, list[list[timeline.Row]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        versions = {"now": cloud.ROOT}
        if args.before:
            versions = {"before": _checkout(args.before, Path(folder)), **versions}
        for _ in range(args.runs):
            for name, checkout in versions.items():
                rows = _boot(disk, checkout)
                found.setdefault(name, []).append(rows)
                print(f"\n== {name}", *timeline.table(rows), sep="\n", flush=True)
    print("\n== medians, in seconds since power-on")
    for name, boots in found.items():
        for what in ("first answer", "warmup"):
            ends = [row.ended for rows in boots for row in rows if row.what == what]
            print(f"{name:8} {'ready' if what == 'warmup' else what:14} {statistics.median(ends):6.1f}")
    if args.json:
        args.json.write_text(json.dumps({k: [[asdict(r) for r in rows] for rows in v] for k, v in found.items()}))
    return 0


def _checkout(commit: str, folder: Path) -> Path:
    packed = subprocess.run(["git", "archive", commit], cwd=cloud.ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def _boot(disk: image.Image, checkout: Path) -> list[timeline.Row]:
    with cloud.running(disk) as one:
        one.checkout = checkout
        answered: list[float] = []
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(one, answered, over), daemon=True)
        watcher.start()
        try:
            one.run("client", "provision")
        finally:
            over.set()
            watcher.join(30)
        rows = timeline.read(one.machine())
        moment = answered[0] - one.machine().started
        return sorted(
            [*rows, timeline.Row(who="client", what="first answer", began=moment, ended=moment)],
            key=lambda row: row.began,
        )


def _watch(one: cloud.Cloud, answered: list[float], over: threading.Event) -> None:
    """Note the moment from which on the machine answers whoever has the key."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    while not over.wait(0.5) and not answered:
        with suppress(OSError, http.client.HTTPException, IndexError):
            address = str(one.machines[-1].record.ip)
            connection = http.client.HTTPSConnection(address, 11435, context=context, timeout=10)
            try:
                connection.request("GET", "/.exollama/status", headers={"X-Ollama-Key": cloud.KEY})
                if connection.getresponse().status == 200:
                    answered.append(time.monotonic())
            finally:
                connection.close()


if __name__ == "__main__":
    sys.exit(main())
