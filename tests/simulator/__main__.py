"""`python -m tests.simulator`: a simulated Exoscale cloud in the foreground, for trying every verb by hand.

It prints the environment to paste into another terminal, and takes commands on standard input (`help` lists them). It
ends with `quit`, Ctrl-C, SIGTERM or its parent, and no process is left behind, however it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests import real_model
from tests.simulator import PHASES, BootPlan, Simulator
from tests.simulator.document import Violation, load

HELP = """\
instances                      what there is: state, address, processes, labels
calls [N]                      the last requests (20)
violations                     what broke the OpenAPI document: nothing, one hopes
advance SECONDS|Nm|Nh|Nd       move time forward, instances included
fault OPERATION KIND [TIMES]   lost, reset, 429, 500, hang, garbage, op-failure, quota, 403-iam ... (faults.py)
clear                          no more faults
boot [fail|never PHASE]        what the next boots do; without arguments they go well
kill SERVICE [ID]              nginx, exollama-agent, exollama-boot, ollama
poweroff [ID]                  switch an instance off from inside
remove [ID]                    delete an instance by hand
slow SECONDS                   so long for each token, from now on
quit"""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulator", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--zone", action="append", choices=load().zones(), help="may be repeated (ch-gva-2, de-fra-1)")
    parser.add_argument("--port", type=int, default=0, help="of the API (a free one)")
    parser.add_argument("--idle-timeout", type=int, default=60, metavar="SECONDS", help="printed for pasting (60)")
    parser.add_argument("--phase-seconds", type=float, default=0.3, metavar="S", help="added to each boot phase (0.3)")
    parser.add_argument("--token-seconds", type=float, default=0.05, metavar="S", help="between two tokens (0.05)")
    parser.add_argument("--policy", type=_policy, metavar="FILE", help="IAM policy of the printed key (it may do all)")
    parser.add_argument("--real-model", action="store_true", help="a small model answers, not a stand-in of one")
    parser.add_argument("--fail", choices=PHASES, help="boots fail in this phase")
    parser.add_argument("--never", choices=PHASES, help="boots stay in this phase for ever")
    arguments = parser.parse_args()
    try:
        model = real_model.controls() if arguments.real_model else {}
    except real_model.Missing as missing:
        parser.error(str(missing))
    parent = os.getppid()
    signal.signal(signal.SIGINT, _interrupt)  # ignored by default where a shell started it in the background
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    zones = arguments.zone or ("ch-gva-2", "de-fra-1")
    plan = BootPlan(fail=arguments.fail, never=arguments.never, delay_s=arguments.phase_seconds)
    try:
        with Simulator(zones, port=arguments.port, plan=plan) as simulator:
            simulator.ollama(token_s=arguments.token_seconds, **model)
            with contextlib.suppress(KeyboardInterrupt):  # as good an end as `quit`
                _serve(simulator, arguments, parent)
            _note("ending every instance")
            return 1 if simulator.violations else 0
    except KeyboardInterrupt:
        return 130


def _serve(simulator: Simulator, arguments: argparse.Namespace, parent: int) -> None:
    env = simulator.role(arguments.policy) if arguments.policy else simulator.env
    if arguments.real_model:
        _note(real_model.about())
        env = {**env, "EXOSCALE_OLLAMA_MODEL": real_model.MODEL}
    _introduce(simulator, env, arguments.idle_timeout)
    if arguments.policy:
        whole = shlex.join(f"{name}={simulator.env[name]}" for name in ("EXOSCALE_API_KEY", "EXOSCALE_API_SECRET"))
        _note(f"What that key may not do, this one may:\n  env {whole} {sys.executable} -m client provision")
    for words in _orders(parent):
        if words[:1] in (["quit"], ["exit"]):
            break
        if words:
            _obey(simulator, words)


def _policy(path: str) -> Any:
    from tests.simulator.policies import Policy

    try:
        policy = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{path} is no JSON: {error}.") from None
    try:
        Policy(policy)
    except (Violation, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path} has no IAM policy: {error}") from None
    return policy


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _introduce(simulator: Simulator, env: Mapping[str, str], idle_s: int) -> None:
    _note("A simulated Exoscale cloud is up. Paste this into another terminal:\n")
    print(f"cd {shlex.quote(str(Path(__file__).parents[2]))}")  # whose modules the commands below are
    for name, value in {**env, "EXOSCALE_IDLE_TIMEOUT": str(idle_s)}.items():
        print(f"export {name}={shlex.quote(value)}")
    sys.stdout.flush()
    shift = shlex.join([sys.executable, "-m", "tests.simulator.timeshift", str(simulator.offset_file)])
    _note(
        f"\nThen try:  {sys.executable} -m client generate 'Why is the sky blue?'\n"
        f"           {sys.executable} -m functions.status\n"
        f"           {sys.executable} -m functions.reap_idle --dry-run\n"
        "To let time pass, type `advance 2m` here. From then on run each verb under the same clock, since beyond ten\n"
        "minutes one that reads this machine's refuses to act:\n"
        f"  {shift} -m functions.reap_idle\n"
        f"  {shift} -m client generate 'And at night?'\n"
        "`help` lists what can be typed here; Ctrl-C ends everything."
    )


def _orders(parent: int) -> Iterator[list[str]]:
    """Lines of standard input, in words, until the parent has gone. Their end alone ends nothing: /dev/null is fine."""
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)  # in the background of a terminal, reading is an error, not a stop
    pending, listening = b"", [0]
    while os.getppid() == parent:
        if not select.select(listening, [], [], 0.5)[0]:
            continue
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""
        if not data:
            listening = []
        *lines, pending = (pending + data).split(b"\n")
        yield from (line.decode(errors="replace").split() for line in lines)


def _obey(simulator: Simulator, words: list[str]) -> None:
    try:
        _note(_COMMANDS.get(words[0], _unknown)(simulator, words[1:]))
    except (LookupError, ValueError, AssertionError, TypeError) as error:
        _note(f"{words[0]}: {error}")


def _unknown(simulator: Simulator, words: list[str]) -> str:
    return f"no such command; these there are:\n{HELP}"


def _instances(simulator: Simulator, words: list[str]) -> str:
    lines = []
    for seen in simulator.instances():
        labels = " ".join(f"{name}={value}" for name, value in sorted(seen.labels.items()))
        pids = " ".join(f"{name.removesuffix('.service')}:{pid}" for name, pid in seen.pids.items())
        lines.append(
            f"{seen.id} {seen.zone} {seen.name} {seen.state} {seen.ip}\n  {pids or 'no processes'}\n  {labels}"
        )
    return "\n".join(lines) or "none"


def _calls(simulator: Simulator, words: list[str]) -> str:
    last = simulator.calls[-int(words[0] if words else 20) :]
    lines = [
        f"{call.status or 'no answer'} {call.zone} {call.operation_id} {call.fault or ''}".rstrip() for call in last
    ]
    return "\n".join(lines) or "none"


def _advance(simulator: Simulator, words: list[str]) -> str:
    number, unit = (words[0][:-1], words[0][-1]) if words[0][-1] in UNITS else (words[0], "s")
    simulator.advance(float(number) * UNITS[unit])
    return f"it is {simulator.clock.date(next(iter(simulator.zones)))}"


def _fault(simulator: Simulator, words: list[str]) -> str:
    simulator.fault(words[0], words[1], times=int(words[2]) if words[2:] else 1)
    return "planned"


def _boot(simulator: Simulator, words: list[str]) -> str:
    simulator.boot(**{words[0]: words[1]} if words else {})  # type: ignore[arg-type]
    return "planned"


def _done(deed: Callable[..., object]) -> Callable[[Simulator, list[str]], str]:
    def run(simulator: Simulator, words: list[str]) -> str:
        deed(simulator, *words)
        return "done"

    return run


_COMMANDS: dict[str, Callable[[Simulator, list[str]], str]] = {
    "help": lambda simulator, words: HELP,
    "instances": _instances,
    "calls": _calls,
    "violations": lambda simulator, words: "\n".join(simulator.violations) or "none",
    "advance": _advance,
    "fault": _fault,
    "clear": _done(Simulator.clear_faults),
    "boot": _boot,
    "kill": _done(Simulator.kill),
    "poweroff": _done(Simulator.poweroff),
    "remove": _done(Simulator.remove),
    "slow": lambda simulator, words: _done(lambda s: s.ollama(token_s=float(words[0])))(simulator, []),
}


if __name__ == "__main__":
    sys.exit(main())
