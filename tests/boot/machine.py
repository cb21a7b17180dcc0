"""One virtual machine in the place of the simulator's processes: what a zone boots, powers off and destroys."""

from __future__ import annotations

import base64
import json
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.boot import network
from tests.boot.image import Image
from tests.simulator.records import Record

MEMORY_MIB = 3072
POWER_OFF_S = 120.0
MARGIN_S = 900.0
"""How much later than a reaper, or than whoever made it, a machine acts by itself, as rules.py has it."""
PRODUCT = "Exoscale Compute Platform"


class VirtualMachine:
    """A machine with a disk of its own, on one address of this machine's loopback.

    folder/serial.log is its console, of all its boots. `kernel` is what the kernel's command line says beside the
    usual; guest/mischief.sh reads it.
    """

    def __init__(
        self,
        record: Record,
        *,
        image: Image,
        folder: Path,
        registry: Path,
        kernel: str,
        on_poweroff: Callable[[], None],
    ) -> None:
        self.record = record
        self.folder = folder
        self.started = 0.0
        """time.monotonic() of the last power-on."""
        self._image = image
        self._registry = registry
        self._kernel = kernel
        self._on_poweroff = on_poweroff
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._hand = threading.Lock()
        folder.mkdir(parents=True)
        overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image.disk)]
        subprocess.run([*overlay, str(folder / "disk.qcow2")], check=True, timeout=60)

    # -- what the zone calls

    def boot(self) -> None:
        before = self._thread
        self._thread = threading.Thread(
            target=self._run, args=(before,), name=f"machine-{self.record.id[:8]}", daemon=True
        )
        self._thread.start()

    def power_off(self) -> None:
        """As a button does it; the machine that does not hear it loses its power."""
        threading.Thread(target=self._press, args=(self._process,), daemon=True).start()

    def destroy(self) -> None:
        """The power goes at once; the logs stay."""
        if self._process:
            self._process.kill()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(30)
        (self.folder / "disk.qcow2").unlink(missing_ok=True)

    # -- what tests do to it, and see of it

    def run(self, *command: str, check: bool = True, timeout_s: float = 330) -> str:
        """What a command printed inside; a string with blanks is the shell's. Raises AssertionError where it failed."""
        argv = ["/bin/sh", "-c", command[0]] if len(command) == 1 else list(command)
        with self._hand, socket.socket(socket.AF_UNIX) as line:
            line.settimeout(timeout_s)
            line.connect(str(self.folder / "hand.sock"))
            line.sendall(json.dumps(argv).encode() + b"\n")
            received = b""
            while not received.endswith(b"\n"):
                piece = line.recv(65536)
                assert piece, "the machine went away"
                received += piece
        status, output = json.loads(received)
        assert not (check and status), f"{shlex.join(argv)} ended with {status}:\n{output}"
        return str(output)

    def pace(self, token_s: float) -> None:
        """So long takes its stand-in for each token, from now on."""
        controls = f"open('/controls.json', 'w').write('{{\"token_s\": {token_s}}}')"
        self.run("docker", "exec", "ollama", "/usr/bin/python3.11", "-c", controls)

    def reset(self) -> None:
        """As the reset button does it: nothing inside hears of it."""
        self._command("system_reset")

    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def goes_off(self, at_most_s: float) -> float:
        """After how many seconds it had switched itself off. Raises AssertionError where it did not in that time."""
        began = time.monotonic()
        while self.is_on():
            assert time.monotonic() - began < at_most_s, f"it still runs after {at_most_s:.0f} s"
            time.sleep(1)
        assert "reboot: Power down" in self.console
        return time.monotonic() - began

    @property
    def console(self) -> str:
        """Everything that its consoles showed."""
        log = self.folder / "serial.log"
        return log.read_text(errors="replace") if log.exists() else ""

    # -- QEMU

    def _run(self, before: threading.Thread | None) -> None:
        """From power-on to its end, in a thread that lives as long: the machine dies with it."""
        if before:
            before.join(POWER_OFF_S + 10)
        self._publish(self.folder / "metadata")
        self.started = time.monotonic()
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(self._qemu(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._process.wait()
        self._on_poweroff()

    def _publish(self, metadata: Path) -> None:
        """The metadata as Exoscale serves it, user-data unpacked from the API's base64."""
        data = base64.b64decode(self.record.user_data or "")
        names = {
            "instance-id": self.record.id,
            "local-hostname": "instance",
            "public-ipv4": self.record.ip or "",
            "local-ipv4": network.FIRST,
        }
        files: dict[str, bytes] = {"user-data": data}
        files |= {f"meta-data/{name}": value.encode() for name, value in names.items()}
        files["meta-data/index"] = "\n".join(names).encode()
        for version in ("1.0", "latest"):
            for path, content in files.items():
                file = metadata / version / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        passwords = metadata / "1.0"
        (passwords / "index").write_bytes(b"")  # the password server's word where nobody asked for a new password

    def _qemu(self) -> list[str]:
        beyond = {
            f"{network.METADATA}:80": self.folder / "metadata",
            f"{network.METADATA}:8080": self.folder / "metadata",
            f"{network.REGISTRY}:5000": self._registry,
        }
        gateway = Path(__file__).with_name("gateway.py")
        net = f"user,id=net,net={network.NETWORK},host={network.HOST},dns={network.NAMES},dhcpstart={network.FIRST}"
        net += f",hostfwd=tcp:{self.record.ip}:11435-:11435"
        net += "".join(
            f",guestfwd=tcp:{at}-cmd:{sys.executable} -I {gateway} {folder}" for at, folder in beyond.items()
        )
        command = f"root=/dev/vda rw console=ttyS0 net.ifnames=0 systemd.show_status=yes {self._kernel}"
        options = {
            "machine": "pc,accel=tcg",
            "cpu": "max",
            "smp": "2",
            "m": str(MEMORY_MIB),
            "display": "none",
            "smbios": f"type=1,manufacturer=Exoscale,product={PRODUCT}",
            "kernel": str(self._image.kernel),
            "initrd": str(self._image.initrd),
            "append": command.strip(),
            "drive": f"file={self.folder / 'disk.qcow2'},if=virtio,cache=unsafe",
            "netdev": net,
            "qmp": f"unix:{self.folder / 'qmp.sock'},server=on,wait=off",
        }
        argv = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config"]
        for name, value in options.items():
            argv += [f"-{name}", value]
        argv += [
            "-chardev",
            f"file,id=console,path={self.folder / 'serial.log'},append=on",
            "-serial",
            "chardev:console",
        ]
        argv += ["-serial", f"unix:{self.folder / 'hand.sock'},server=on,wait=off"]
        return [*argv, "-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"]

    def _press(self, process: subprocess.Popen[bytes] | None) -> None:
        if process is None or process.poll() is not None:
            return
        self._command("system_powerdown")
        try:
            process.wait(POWER_OFF_S)
        except subprocess.TimeoutExpired:
            process.kill()

    def _command(self, name: str) -> None:
        """One command of QEMU's own protocol (QMP)."""
        with socket.socket(socket.AF_UNIX) as line, line.makefile("rw") as words:
            line.settimeout(10)
            line.connect(str(self.folder / "qmp.sock"))
            words.readline()
            for command in ("qmp_capabilities", name):
                words.write(json.dumps({"execute": command}) + "\n")
                words.flush()
                answer: Mapping[str, Any] = json.loads(words.readline())
                assert "error" not in answer, answer
