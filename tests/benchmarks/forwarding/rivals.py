"""`python -m tests.benchmarks.forwarding.rivals`: beside what people use for the same, requests per second.

mitmproxy in reverse mode adds the key and streams; LiteLLM's proxy passes the path through and adds the key. They are
given as `--mitmproxy FOLDER` and `--litellm FOLDER`, the folders of virtual environments; one that is not given, or
does not start, is said to be missing. Plain text, few connections, no bounds: neither is a forwarder only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.forwarding.__main__ import terminated
from tests.benchmarks.forwarding.answers import KEY
from tests.benchmarks.forwarding.rig import Rig, Running, free_port

CONNECTIONS = 8
_LITELLM = """
model_list: []
general_settings:
  pass_through_endpoints:
    - path: /api/generate
      target: http://127.0.0.1:{port}/api/generate
      headers:
        X-Ollama-Key: {key}
"""


def mitmproxy(rig: Rig, upstream: Running, venv: Path) -> Running:
    port = free_port()
    argv = [
        str(venv / "bin/mitmdump"),
        "--quiet",
        *("--mode", f"reverse:http://127.0.0.1:{upstream.port}"),
        *("--listen-host", "127.0.0.1", "--listen-port", str(port)),
        *("--modify-headers", f"/~q/X-Ollama-Key/{KEY.decode()}"),
        *("--set", "stream_large_bodies=1", "--set", f"confdir={rig.folder}/mitmproxy"),
    ]
    return rig.other(argv, port, cwd=rig.folder, env=bare(rig))


def litellm(rig: Rig, upstream: Running, venv: Path) -> Running:
    port = free_port()
    config = rig.folder / "litellm.yaml"
    config.write_text(_LITELLM.format(port=upstream.port, key=KEY.decode()))
    argv = [str(venv / "bin/litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    more = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"}
    return rig.other([*argv, "--telemetry", "False"], port, cwd=rig.folder, env=bare(rig) | more)


def bare(rig: Rig) -> dict[str, str]:
    """Nothing of the caller's: others' programs get no credentials to see."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(rig.folder)}


RIVALS: dict[str, Callable[[Rig, Running, Path], Running]] = {"mitmproxy": mitmproxy, "litellm": litellm}


def measure(venvs: dict[str, Path | None], runs: int, seconds: float) -> dict[str, list[float]]:
    with Rig() as rig:
        upstream = rig.answers(tls=False)
        contestants = {"nginx": rig.nginx(upstream, tls=False), "forwarder": rig.forwarder(upstream, tls=False)}
        for name, start in RIVALS.items():
            if (venv := venvs[name]) is None:
                print(f"{name} is not installed here")
                continue
            try:
                contestants[name] = start(rig, upstream, venv)
            except RuntimeError as trouble:
                print(f"{name} does not run here: {trouble}")
        found: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(runs):
            for name, running in contestants.items():
                load = rig.load("rate", running.port, "--connections", CONNECTIONS, "--seconds", seconds)
                found[name].append(load["per_second"])
    return found


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks.forwarding.rivals", allow_abbrev=False)
    for name in RIVALS:
        options.add_argument(f"--{name}", type=Path, metavar="FOLDER", help="the virtual environment that has it")
    options.add_argument("--runs", type=int, default=3, metavar="N", help="alternating runs of each (3)")
    options.add_argument("--seconds", type=float, default=3, metavar="S", help="how long each run lasts (3)")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    args = options.parse_args()
    signal.signal(signal.SIGTERM, terminated)
    found = measure({name: getattr(args, name) for name in RIVALS}, args.runs, args.seconds)
    ours = statistics.median(found["forwarder"])
    print(f"requests per second at {CONNECTIONS} connections, plain text: median (spread), of the forwarder's")
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"{name:<12}{middle:>9,.0f} ({min(values):,.0f}..{max(values):,.0f})  {middle / ours:.3f}")
    if args.json:
        args.json.write_text(json.dumps({name: [round(one, 1) for one in found[name]] for name in found}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
