"""What large passes cost: 2,000 instances in eight zones with nothing to reap, and a hundred idle ones in one zone.

`python -m tests.benchmarks.scale busy` is one pass in this process, against EXOSCALE_API_ENDPOINT, measured from
inside: the parent runs it as a process of its own, so that the peak of its memory is the pass's alone.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from client.endpoint import Endpoint
from client.settings import Secret, Settings
from client.transport import Request, Response
from functions import reap_idle
from functions.transport import urllib3_send

ZONE_FACTOR = 1.3
"""A pass with nothing to do may take so many times its slowest list."""
PEAK_MIB = 60.0
CALLS_EACH = 8
AT_ONCE = 10


def busy() -> dict[str, float]:
    """One pass of `reap_idle` over EXOSCALE_ZONES: its seconds, those of its slowest list, and its peak memory."""
    lists: list[float] = []
    plain = urllib3_send()

    def send(request: Request) -> Response:
        started = time.perf_counter()
        answer = plain(request)
        lists.append(time.perf_counter() - started)
        return answer

    settings = Settings.from_env(os.environ)
    started = time.perf_counter()
    result = reap_idle.run(settings, send=send)
    elapsed = time.perf_counter() - started
    assert not result["failed"], result["failed"]
    return {
        "pass_s": elapsed,
        "slowest_list_s": max(lists),
        "requests": len(lists),
        "zones": len(result["zones"]),
        "instances": len(result["instances"]),
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    """The most memory that this process had, in MiB. getrusage counts the parent's as well, where that forked it."""
    match = re.search(r"VmHWM:\s+([0-9]+) kB", Path("/proc/self/status").read_text())
    assert match, "the peak of the memory is measured on Linux only"
    return int(match[1]) / 1024


def measured(env: Mapping[str, str], *, cwd: Path) -> dict[str, Any]:
    """`busy`, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.scale", "busy"],
        cwd=cwd,
        env=dict(env),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr or done.stdout)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class IdleZone:
    """A `Send` over one zone of idle instances, and their endpoints, which counts what is asked for each."""

    def __init__(self, instances: int, latency_s: float) -> None:
        # Imported here, as below: what these import would count as memory of the busy pass.
        from tests.fakes import label_map, user_data

        idle = datetime.now(UTC) - timedelta(hours=5)
        self.latency_s = latency_s
        self.instances = {
            f"idle-{number}": {
                "id": f"idle-{number}",
                "state": "running",
                "created-at": (idle - timedelta(days=1)).isoformat(),
                "public-ip": "198.51.100.7",
                "labels": label_map(activity=idle, deadline=idle + timedelta(days=6)),
                "user-data": user_data(),
            }
            for number in range(instances)
        }
        self.calls: Counter[str] = Counter()
        self.polls = 0
        self.in_progress: set[str] = set()
        self.most_in_progress = 0
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Response:
        time.sleep(self.latency_s)
        with self._lock:
            status, answer = self._answer(request.method, request.url)
        return Response(status, {}, json.dumps(answer).encode())

    def _answer(self, method: str, url: str) -> tuple[int, dict[str, Any]]:
        if "/operation/" in url:
            self.polls += 1
            return 200, {"id": "op", "state": "success"}
        found = re.search(r"/instance/(.+)", url)
        if not found:
            self.calls["list"] += 1
            shown = [{k: v for k, v in one.items() if k != "user-data"} for one in self.instances.values()]
            return 200, {"instances": shown}
        self.calls[found[1]] += 1
        self.in_progress.add(found[1])
        self.most_in_progress = max(self.most_in_progress, len(self.in_progress))
        if found[1] not in self.instances:
            self.in_progress.discard(found[1])
            return 404, {"message": "Not Found"}
        if method == "DELETE":
            del self.instances[found[1]]
            return 200, {"id": "op", "state": "pending"}
        return 200, self.instances[found[1]]

    # -- any of its endpoints

    def status(self) -> dict[str, Any]:
        return {"idle_s": 18000.0, "in_flight": 0, "boot": {"phase": "ready"}, "fence": None}

    def fence(self, owner: str) -> None:
        time.sleep(self.latency_s)

    commit = unfence = fence


def idle(instances: int = 100, latency_s: float = 0.01) -> dict[str, int]:
    """One pass over so many idle instances of one zone: calls for each at most, lists, and most in progress at once."""
    from unittest.mock import patch

    zone = IdleZone(instances, latency_s)
    settings = Settings(api_key="EXObenchmark", api_secret=Secret("not-a-secret"), zones=("ch-gva-2",))
    with patch.object(Endpoint, "of", lambda *_: zone):
        result = reap_idle.run(settings, send=zone, sleep=lambda _: time.sleep(latency_s))
    outcomes = Counter(one["outcome"] for one in result["instances"])
    assert outcomes == {"destroyed": instances}, outcomes
    lists = zone.calls.pop("list")
    return {
        "instances": instances,
        "lists": lists,
        "calls_each_at_most": max(zone.calls.values()),
        "polls": zone.polls,
        "most_in_progress": zone.most_in_progress,
    }


if __name__ == "__main__":
    print(json.dumps(busy()))
