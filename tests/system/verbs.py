"""The verbs as a user types them: processes of their own, under the simulator's clock and impatient between attempts.

Neighbours: conftest.py has the fixtures; what is asserted stays in the tests.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client import cli
from client.api import Api
from client.settings import Secret, Settings
from functions import doctor, provision, reap_idle, stop
from functions import status as status_verb
from tests.machine import process_state
from tests.simulator import Seen, Simulator
from tests.simulator.driver import status, user_data
from tests.simulator.warden import children

ROOT = Path(__file__).parents[2]
PATIENCE_S = "0.03"
"""Every sleep of a verb is cut to this; its timeouts and what it waits for are not touched."""
CHANGES = ("POST", "PUT", "DELETE")
WAITING: tuple[Any, ...] = (
    *(Api.__init__, doctor.run, provision.run),
    *(reap_idle.run, reap_idle.tidy, status_verb.run, stop.run),
)
"""What takes a clock and a sleep as keywords."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a verb ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def said(self) -> str:
        """All of it, for a failing test's message and for searches."""
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    def ended(self, code: int, *words: str) -> Done:
        """Itself, if it ended with this code, showed no traceback, and its stderr has all of these words."""
        assert self.code == code, self.said
        assert "Traceback" not in self.err, self.said
        for word in words:
            assert word in self.err, f"{word!r} is missing in\n{self.said}"
        return self


class User:
    """Somebody with this simulator's credentials at a terminal."""

    def __init__(self, simulator: Simulator, **env: str) -> None:
        self.simulator = simulator
        self.env: Mapping[str, str] = {**simulator.env, **env}

    def run(self, *arguments: str, module: str = "client", stdin: str = "", **env: str | None) -> Done:
        """Run one verb to its end. `env` adds variables, or takes them away with None."""
        command, environment = self.command(module, *arguments), self.environment(**env)
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def running(self, *arguments: str, module: str = "client", **env: str | None) -> Iterator[Running]:
        """A verb while it runs; whatever is left of it at the end of the block is killed."""
        process = subprocess.Popen(
            self.command(module, *arguments),
            cwd=ROOT,
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        run = Running(process)
        try:
            yield run
        finally:
            process.kill()
            run.end()

    def command(self, module: str, *arguments: str) -> list[str]:
        launcher = [sys.executable, "-m", "tests.simulator.timeshift", str(self.simulator.offset_file)]
        return [*launcher, "-m", module, *arguments]

    def environment(self, **env: str | None) -> dict[str, str]:
        patience = {"EXOLLAMA_SIMULATED_PATIENCE_S": PATIENCE_S}
        buffered = {"PYTHONUNBUFFERED": None}  # a verb that forgets to flush has to be seen
        merged: dict[str, str | None] = {**os.environ, **self.env, **patience, **buffered, **env}
        return {name: value for name, value in merged.items() if value is not None}

    def settings(self, **env: str) -> Settings:
        """The settings that the verbs would read, for `run(settings, …)`."""
        return Settings.from_env({**self.env, **env})


class Clerk(User):
    """The same inside this process: quicker, where no signal is sent. `nap_s` is every sleep."""

    def __init__(self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, nap_s: float) -> None:
        super().__init__(simulator)

        def nap(seconds: float) -> None:
            time.sleep(nap_s)
            if not simulator.options.machines:  # what records do takes no time, and is not to be missed in such naps
                simulator.wait(lambda: not simulator.late, "the cloud's own deeds")

        self.nap = nap
        injected = {"sleep": nap, "clock": simulator.clock.now}
        for function in WAITING:
            defaults: dict[str, Any] = function.__kwdefaults__ or {}
            monkeypatch.setattr(function, "__kwdefaults__", {**defaults, **injected})

    def run(self, *arguments: str, module: str = "client", stdin: str = "", **env: str | None) -> Done:
        verb = {"functions.reap_idle": "reap", "functions.status": "status", "client": None}[module]
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in {**self.env, **env}.items():
                if value is None:
                    patch.delenv(name, raising=False)
                else:
                    patch.setenv(name, value)
            code = cli.main(list(arguments), verb=verb)
        return Done(code, out.getvalue(), err.getvalue())

    def provisions(self, **env: Any) -> Done:
        """Run provision without waiting for the boot, which a record does not have."""
        return self.run("provision", "--no-wait", **env)

    def heals(self, left: int = 0) -> Seen:
        """A second run, with nothing in its way any more, ends well; `left` others are there beside its instance."""
        self.simulator.clear_faults()
        id_ = self.run("provision", "--no-wait", "--json").ended(0).json["id"]
        assert len(self.simulator.instances()) == left + 1
        return self.simulator.instance(id_)


class Running:
    """A verb that runs; its output is gathered as it comes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._out, self._err = bytearray(), bytearray()
        pipes = ((process.stdout, self._out), (process.stderr, self._err))
        self._readers = [threading.Thread(target=_gather, args=pipe) for pipe in pipes]
        for reader in self._readers:
            reader.start()

    @property
    def out(self) -> str:
        return self._out.decode("utf-8", "replace")

    @property
    def err(self) -> str:
        return self._err.decode("utf-8", "replace")

    def until(self, so: Callable[[], object], what: str, timeout_s: float = 20) -> None:
        """Poll until something is so while the verb runs."""
        deadline = time.monotonic() + timeout_s
        while not so():
            assert self.process.poll() is None, f"ended before: {what}\n{self.end().said}"
            assert time.monotonic() < deadline, f"not so after {timeout_s} s: {what}\n{self.out}\n{self.err}"
            time.sleep(0.01)

    def end(self, timeout_s: float = 60) -> Done:
        """Wait for its end."""
        code = self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join(10)
        return Done(code, self.out, self.err)


def _gather(pipe: Any, into: bytearray) -> None:
    with pipe:
        while data := os.read(pipe.fileno(), 65536):
            into += data


def changes(simulator: Simulator) -> list[str]:
    """The operations that were asked for and change something, in order."""
    return [call.operation_id for call in simulator.calls if call.method in CHANGES]


def let_pass(simulator: Simulator, seconds: float) -> None:
    """Move time forward once every agent has seen what was just done: it looks once a second.

    It sees what nginx has logged, which comes after the last byte of an answer: by then nginx's workers sleep again.
    """
    for seen in simulator.instances():
        if {"nginx.service", "exollama-agent.service"} <= seen.pids.keys():
            workers = children(seen.pids["nginx.service"])
            simulator.wait(lambda workers=workers: {*map(process_state, workers)} == {"S"}, "nginx has done with it")  # type: ignore[misc]
            status(seen)
    simulator.advance(seconds)


def owned_labels(request: str = "", **edits: str | None) -> dict[str, str]:
    """The labels of an instance of ours, idle for long; `_` in a name stands for `-`, None leaves one out."""
    values: dict[str, str | None] = {
        "exollama": "v1",
        "exollama-name": "nexollama",
        "exollama-model": "ngranite3!2E1-dense!3A8b",
        "exollama-request": f"r{request or '5' * 32}",
        "exollama-activity": "t20260101T000000Z",
        "exollama-idle": "s1800",
        "exollama-boot": "s1800",
        "exollama-retention": "s86400",
        "exollama-deadline": "none",
        "exollama-action": "destroy",
        "exollama-reach": "any",
    }
    values |= {name.replace("_", "-"): value for name, value in edits.items()}
    return {name: value for name, value in values.items() if value is not None}


def plant(
    simulator: Simulator,
    *,
    key: str = "",
    request: str = "5" * 32,
    vouched: bool = True,
    state: str = "running",
    created_ago_s: float = 86400,
    zone: str | None = None,
    machine: bool = False,
    **edits: str | None,
) -> Seen:
    """An instance of ours without a machine: nothing answers at its address. `vouched`: its user-data agrees."""
    given = {"request": request if vouched else "6" * 32} | ({"key": Secret(key)} if key else {})
    id_ = simulator.plant(
        zone=zone,
        name="exollama",
        state=state,
        labels=owned_labels(request, **edits),
        user_data=user_data(**given),
        created_ago_s=created_ago_s,
        machine=machine,
    )
    return simulator.instance(id_)
