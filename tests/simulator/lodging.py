"""One machine that stands in for those of all instances: booted once, and reached through relays that know faults.

Instances that are created, started or planted (with `machine=True`) while it stands get its address and are as ready
as it is, at once, if their user-data has its key. Whoever runs last lives there: once that one stops or is destroyed,
nobody answers any more. A fence goes with a power-off, as /run does. The machine's own power-off is its lodger's.
Its agent sleeps a fifth of its time, so that hundreds of runs are quick. Imports nothing of the project.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

from tests.simulator.machine import LocalMachine
from tests.simulator.records import Record
from tests.simulator.relay import PORT, Front, Relay
from tests.simulator.simulator import Seen, Simulator

OLLAMA, MOVED = PORT - 1, PORT + 1


class Lodging:
    """The machine of `house`, which the API shows no more. Closed before its simulator is."""

    def __init__(self, simulator: Simulator, house: Seen) -> None:
        record = simulator._record(house.id)
        assert isinstance(record.machine, LocalMachine)
        assert house.root
        assert house.ip
        self.simulator = simulator
        self.zone = simulator.zones[record.zone]
        self.lodger: Record | None = None
        self._house = record.machine
        self._run = house.root / "run/exollama"
        self.front = Front(self.zone.address(), house.ip)
        with simulator.api.lock:
            del self.zone.instances[record.id]
            self.zone.address = lambda: self.front.address
            self.zone.machine = lambda lodger: Room(self, lodger)
            simulator.options.machines = True
        supervisor = self._house.supervisor
        supervisor._on_poweroff = self._powered_off
        behind, door, where = self._run / "agent-itself.sock", self._run / "agent.sock", (house.ip, MOVED)
        supervisor._environment = {**supervisor._environment, "EXOLLAMA_SIMULATED_HASTE": "0.2"}
        supervisor.restart("exollama-agent.service")
        simulator.wait(lambda: _listens(door), "the agent")  # not what the one before left of its socket
        image, _, on_card = supervisor._containers["ollama"]
        supervisor._containers["ollama"] = (image, f"127.0.0.1:{MOVED}", on_card)
        supervisor.signal("ollama", signal.SIGKILL)  # Docker brings it back
        simulator.wait(lambda: _answers(where), "Ollama in its new place")
        os.rename(door, behind)
        api, zone = simulator.api, record.zone
        self._behind = behind
        self._relays = (
            Relay(str(door), api, zone, self.front, lambda: _to_unix(behind)),
            Relay((house.ip, OLLAMA), api, zone, self.front, lambda: socket.create_connection(where)),
        )

    def close(self) -> None:
        """End the relays; the machine ends with its simulator."""
        self.front.close()
        for relay in self._relays:
            relay.close()

    def light(self) -> None:
        """Whoever is to answer does again, after a fault that left it dark."""
        self.front.dark = self.lodger is None

    def ask(self, method: str, path: str) -> dict[str, Any]:
        """What the agent itself answers, past nginx and relays."""
        connection = http.client.HTTPConnection("agent", timeout=10)
        with _to_unix(self._behind) as connection.sock:
            connection.request(method, f"/.exollama/{path}")
            answer: dict[str, Any] = json.loads(connection.getresponse().read() or b"{}")
        return answer

    def fence(self) -> str:
        """`open`, `leased` or `committed`, by the agent's own word."""
        fence = self.ask("GET", "status")["fence"]
        return "open" if fence is None else "committed" if fence["committed"] else "leased"

    def fence_by(self, owner: str) -> None:
        """Have somebody else fence it."""
        self.ask("PUT", f"fence/{owner}")

    def reboot(self) -> None:
        """No fence, and just used."""
        with contextlib.suppress(FileNotFoundError):  # a lease that is over is the agent's to remove, at any moment
            owner = json.loads((self._run / "fence").read_text())["owner"]
            self.ask("DELETE", f"fence/{owner}")
        self.ask("POST", "touch")

    def _powered_off(self) -> None:
        def off() -> None:
            with self.simulator.api.lock:
                if self.lodger:
                    self.zone.powered_off(self.lodger)

        self.simulator._schedule.after(0.0, off)  # the agent holds its lock until systemctl returns


class Room:
    """What the zone takes for the machine of one instance."""

    def __init__(self, lodging: Lodging, record: Record) -> None:
        self._lodging = lodging
        self._record = record

    def boot(self) -> None:
        self._lodging.reboot()
        self._lodging.lodger = self._record
        self._lodging.front.dark = False

    def power_off(self) -> None:
        if self._lodging.lodger is self._record:
            self._lodging.lodger = None
            self._lodging.front.dark = True
            self._lodging.front.cut()
            self._lodging.reboot()

    def destroy(self) -> None:
        self.power_off()


def _to_unix(path: Path) -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(30)
    try:
        link.connect(str(path))
    except OSError:
        link.close()
        raise
    return link


def _listens(path: Path) -> bool:
    try:
        _to_unix(path).close()
    except OSError:
        return False
    return True


def _answers(where: tuple[str, int]) -> bool:
    try:
        socket.create_connection(where).close()
    except OSError:
        return False
    return True
