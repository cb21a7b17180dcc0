"""The simulated zone with virtual machines in it, and whoever uses it: the unchanged verbs, as processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.settings import DEFAULT_IMAGE
from tests.boot import ollama
from tests.boot.image import Image
from tests.boot.machine import VirtualMachine
from tests.simulator import Simulator
from tests.simulator.records import Record

ROOT = Path(__file__).parents[2]
KEY = "a-key-for-the-boot-test-0123456789abcdef"
"""The endpoint's key of every instance, unless `Cloud.env` says otherwise."""


class Cloud:
    """A zone whose instances are virtual machines. `kernel` is what the next ones are told beside the usual."""

    def __init__(self, simulator: Simulator, image: Image, folder: Path) -> None:
        self.simulator = simulator
        self.kernel = ""
        self.env: dict[str, str] = {}  # what the verbs are set to beside the credentials
        self.checkout = ROOT  # whose verbs are run
        self.machines: list[VirtualMachine] = []
        self._image = image
        self._folder = folder
        ollama.publish(image.python, folder / "registry", DEFAULT_IMAGE)
        for zone in simulator.zones.values():
            zone.machine = self._machine

    def _machine(self, record: Record) -> VirtualMachine:
        zone = self.simulator.zones[record.zone]

        def off() -> None:
            with self.simulator.api.lock:
                zone.powered_off(record)

        machine = VirtualMachine(
            record,
            image=self._image,
            folder=self._folder / str(len(self.machines)),
            registry=self._folder / "registry",
            kernel=self.kernel,
            on_poweroff=off,
        )
        self.machines.append(machine)
        return machine

    def machine(self) -> VirtualMachine:
        """The newest."""
        return self.machines[-1]

    def run(self, *arguments: str, code: int | None = 0, timeout_s: float = 1500) -> subprocess.CompletedProcess[str]:
        """One verb as a user types it, to its end; raises AssertionError where that is another than `code`."""
        with self.begin("-m", *arguments) as process:
            out, err = process.communicate(timeout=timeout_s)
        ended = process.returncode
        assert code in (None, ended), f"{arguments} ended with {ended}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, ended, out, err)

    @contextmanager
    def begin(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A process of Python with this cloud's credentials, while it runs; killed at the end."""
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.checkout,
            env={**os.environ, **self.simulator.env, "EXOSCALE_OLLAMA_KEY": KEY, **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


@contextmanager
def running(image: Image) -> Iterator[Cloud]:
    """A cloud; every machine loses its power at the end."""
    folder = Path(tempfile.mkdtemp(prefix="exollama-boot-"))
    try:
        with Simulator(start_s=0.5) as simulator:
            cloud = Cloud(simulator, image, folder)
            try:
                yield cloud
            finally:
                for machine in cloud.machines:
                    machine.destroy()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
