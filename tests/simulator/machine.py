"""The machine behind one instance: a directory for its disk, cloud-init's part, and the stubs its programs call."""

from __future__ import annotations

import ast
import json
import os
import shlex
import shutil
import socketserver
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.simulator import commands, userdata
from tests.simulator.processes import Processes
from tests.simulator.records import Record
from tests.simulator.services import HERE, Supervisor

OS_RELEASE = 'ID=ubuntu\nVERSION_ID="{version}"\nVERSION_CODENAME={name}\nPRETTY_NAME="Ubuntu {version} LTS"\n'
CODENAMES = {"22.04": "jammy", "24.04": "noble", "26.04": "resolute"}


class Machines:
    """All machines of one simulator, and the socket on which their stubs call."""

    def __init__(
        self,
        *,
        base: Path,
        processes: Processes,
        later: Callable[[float, Callable[[], None]], None],
        offset: Path,
        report: Callable[[str], None],
    ) -> None:
        self.base = base
        self.processes = processes
        self.later = later
        self.offset = offset
        self.report = report
        self.plan = commands.BootPlan()
        self.controls: dict[str, Any] = {}
        self.all: dict[int, LocalMachine] = {}
        self.socket = base / "stubs.sock"
        self._server = _StubServer(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="simulator-stubs", daemon=True
        )
        self._thread.start()

    def create(self, record: Record, version: str, on_poweroff: Callable[[], None]) -> LocalMachine:
        """A machine for a record, switched off."""
        number = len(self.all) + 1
        machine = self.all[number] = LocalMachine(self, number, record, version, on_poweroff)
        return machine

    def close(self) -> None:
        """Switch all machines off; their processes end with the warden."""
        for machine in self.all.values():
            machine.supervisor.off.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        for machine in self.all.values():
            machine.join()


class LocalMachine:
    """One machine. `boot`, `power_off` and `destroy` are what the zone calls."""

    def __init__(
        self, machines: Machines, number: int, record: Record, version: str, on_poweroff: Callable[[], None]
    ) -> None:
        self.record = record
        self.folder = machines.base / str(number)
        self.root = self.folder / "root"
        self.commands: list[list[str]] = []  # every command line that was run, for whoever looks for secrets in them
        self._machines = machines
        self._version = version
        self._thread: threading.Thread | None = None
        self._address = ""
        self._changes: dict[str, Any] = {}
        self._controlling = threading.Lock()
        self.supervisor = Supervisor(
            folder=self.folder,
            processes=machines.processes,
            later=machines.later,
            offset=machines.offset,
            environment=self._environment(),
            on_poweroff=on_poweroff,
        )
        self.host = commands.Host(
            address=record.ip or "", plan=machines.plan, services=self.supervisor, off=self.supervisor.off
        )
        self._lay_out(number)

    def _environment(self) -> Mapping[str, str]:
        mark = {name: value for name, value in os.environ.items() if name == "EXOLLAMA_TEST_RUN"}
        return {
            **mark,
            "PATH": str(self.folder / "bin"),
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),
            "EXOLLAMA_SIMULATED_ROOT": str(self.root),
        }

    def _lay_out(self, number: int) -> None:
        programs = self.folder / "bin"
        programs.mkdir(parents=True)
        self.folder.chmod(0o711)  # nginx's workers may run as another user
        call = shlex.join([sys.executable, "-I", "-S", str(HERE / "stub.py"), str(self._machines.socket), str(number)])
        for name in commands.NAMES:
            (programs / name).write_text(f'#!/bin/sh\nexec {call} "$0" "$@"\n')
            (programs / name).chmod(0o755)
        openssl = shutil.which("openssl")
        if openssl:
            (programs / "openssl").symlink_to(openssl)
        (self.root / "etc").mkdir(parents=True)
        codename = CODENAMES.get(self._version, "jammy")
        (self.root / "etc/os-release").write_text(OS_RELEASE.format(version=self._version, name=codename))

    # -- what the zone calls

    def boot(self) -> None:
        self.host.plan = self._machines.plan
        self.host.modules.clear()
        self.control()
        shutil.rmtree(self.root / "run", ignore_errors=True)
        self.join()
        self._thread = threading.Thread(target=self._boot, name=f"simulator-boot-{self.record.id[:8]}", daemon=True)
        self.supervisor.off.clear()
        self._thread.start()

    def power_off(self) -> None:
        self.supervisor.power_off()

    def destroy(self) -> None:
        self.supervisor.power_off()
        self.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def join(self) -> None:
        """Until the boot's own thread has ended; it does once the machine is off."""
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(15)

    def control(self, **changes: Any) -> None:
        """Write the controls of its Ollama: the simulator's, what the boot plan asks for, and what was changed."""
        plan = self.host.plan
        planned: dict[str, Any] = {"pull_s": 0.2 + plan.delay_s, "load_s": 0.0}
        if plan.fail == "model":
            planned["fail_pull"] = "pull model manifest: 503: registry unavailable"
        if plan.never == "model":
            planned["pull_hold_percent"] = 40.0
        if plan.fail == "warmup":
            planned["fail_generate"] = "model requires more system memory (9.1 GiB) than is available (3.6 GiB)"
        if plan.never == "container":
            planned["silent"] = True
        if plan.never == "warmup":
            planned["hold_after"] = 0
        with self._controlling:  # a boot writes them as well as a test
            self._changes = {**self._changes, **changes}
            text = json.dumps({**planned, **self._machines.controls, **self._changes})
            draft = self.folder / "ollama.json.new"
            draft.write_text(text)
            os.replace(draft, self.folder / "ollama.json")

    # -- cloud-init

    def _boot(self) -> None:
        try:
            self._run_cloud_init()
        except userdata.Unreadable as error:
            self._machines.report(f"instance {self.record.id}: {error}")
        except Exception:  # noqa: BLE001 - a thread of its own; the test is told
            if not self.supervisor.off.is_set():
                self._machines.report(f"instance {self.record.id}: {traceback.format_exc()}")

    def _run_cloud_init(self) -> None:
        address = self.record.ip or ""
        first = not self._address
        self.supervisor.address = self.host.address = address
        if self.record.user_data is None:
            return
        config = userdata.read(self.record.user_data)
        if not first and address != self._address:
            self._move(config, address)
        self._address = address
        if not first:
            self.supervisor.power_on()
            return
        for command in config.bootcmd:
            self._run(command)
        userdata.write(config, self.root, address)
        for command in config.runcmd:
            self._run(command)

    def _move(self, config: userdata.CloudConfig, address: str) -> None:
        """The simulator put the address into files; the instance's own files name none but loopback."""
        for file in config.files:
            target = userdata.place(file.path, self.root)
            if target.exists():
                target.write_text(target.read_text().replace(self._address, address))

    def _run(self, command: str | list[str]) -> None:
        """One entry of bootcmd or runcmd: a list is run as it is, a string by the shell."""
        if isinstance(command, list) and command and command[0] in commands.NAMES:
            result = self.play([str(word) for word in command], "")
            status = result.code
        else:
            argv = ["/bin/sh", "-c", command] if isinstance(command, str) else [str(word) for word in command]
            argv = [userdata.relocate(word, self.root, self._address) for word in argv]
            status = self.supervisor.run("cloud-init", argv)
        if status and not self.supervisor.off.is_set():
            self._machines.report(f"instance {self.record.id}: {command} ended with {status}")

    def play(self, argv: list[str], given: str) -> commands.Result:
        """One command that a program of this machine called."""
        self.commands.append(argv)
        return commands.run(self.host, argv, given)


class _StubServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        super().__init__(str(machines.socket), _StubHandler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a stub that was killed


class _StubHandler(socketserver.StreamRequestHandler):
    server: _StubServer

    def handle(self) -> None:
        number, argv, given = ast.literal_eval(self.rfile.readline().decode())
        machine = self.server.machines.all[number]
        if machine.supervisor.off.is_set():
            return
        result = machine.play(argv, given)
        out = result.out.encode()
        self.wfile.write(b"%d %d\n%b%b" % (result.code, len(out), out, result.err.encode()))
