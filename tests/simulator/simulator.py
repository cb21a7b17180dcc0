"""The simulator as tests, demo and benchmarks use it: an Exoscale cloud on this machine, behind a context manager."""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.simulator import document
from tests.simulator.addresses import Addresses
from tests.simulator.clock import Clock, rfc3339
from tests.simulator.commands import BootPlan
from tests.simulator.faults import Fault, Faults
from tests.simulator.machine import LocalMachine, Machines
from tests.simulator.processes import Processes
from tests.simulator.records import Call, Machine, Options, Record
from tests.simulator.schedule import Schedule
from tests.simulator.server import Api, Server
from tests.simulator.zone import Zone


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One instance as it is now. `root` is its disk's directory; `pids` are its services' and containers'."""

    id: str
    zone: str
    name: str | None
    state: str
    labels: dict[str, str]
    created_at: str
    ip: str | None
    user_data: str | None
    root: Path | None
    pids: dict[str, int]
    commands: list[list[str]]

    @property
    def url(self) -> str:
        return f"https://{self.ip}:11435"

    @property
    def key(self) -> str:
        """The endpoint key, from the instance's disk."""
        assert self.root is not None
        return (self.root / "etc/exollama/key").read_text().strip()

    @property
    def requests(self) -> list[str]:
        """How each request to Ollama's stand-in ended, `ID PATH END`, as tests/stand_in/__main__.py says."""
        log = self.root.parent / "requests.log" if self.root else None
        return log.read_text().splitlines() if log and log.exists() else []


class Simulator:
    """Zones with an API over HTTP, and instances that are processes. Everything ends with the `with` block."""

    def __init__(
        self,
        zones: Iterable[str] = ("ch-gva-2", "de-fra-1"),
        *,
        port: int = 0,
        options: Options | None = None,
        plan: BootPlan | None = None,
        **settings: Any,
    ) -> None:
        """`settings` are fields of Options: `Simulator(machines=False, operation_s=0)`."""
        if not sys.platform.startswith("linux"):
            raise RuntimeError("the simulator needs Linux: it gives each instance an address in 127.0.0.0/8")
        names = list(zones)
        if unknown := set(names) - set(document.load().zones()):
            raise ValueError(f"zones that the OpenAPI document does not know: {sorted(unknown)}")
        self.options = options or Options()
        for name, value in settings.items():
            getattr(self.options, name)
            setattr(self.options, name, value)
        self.key = "EXOsim" + secrets.token_hex(12)
        self.secret = secrets.token_urlsafe(32)
        self.base = Path(tempfile.mkdtemp(prefix="exosim-", dir=_short_temporary()))
        self.base.chmod(0o711)
        self.clock = Clock(self.base / "offset")
        self.faults = Faults()
        self._addresses = Addresses()
        self._schedule = Schedule(self._report)
        self._processes = Processes(self.base)
        self._machines = Machines(
            base=self.base,
            processes=self._processes,
            later=self._schedule.after,
            offset=self.clock.path,
            report=self._report,
        )
        self._machines.plan = plan or BootPlan()
        self.zones = {name: self._zone(name, names) for name in names}
        self.api = Api(
            self.zones,
            secrets={self.key: self.secret},
            clock=self.clock,
            faults=self.faults,
            options=self.options,
        )
        self._server = Server(self.api, port)
        self.port: int = self._server.server_port
        for zone in self.zones.values():
            zone.endpoints = {name: f"http://127.0.0.1:{self.port}/{name}/v2" for name in names}
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="simulator-api", daemon=True
        )
        self._closed = False

    def _zone(self, name: str, names: list[str]) -> Zone:
        def later(seconds: float, deed: Callable[[], None]) -> None:
            def locked() -> None:
                with self.api.lock:
                    deed()

            if self.options.at_once:
                locked()
            else:
                self._schedule.after(seconds, locked)

        def machine(record: Record) -> Machine:
            template = self.zones[name].templates[record.template_id]
            made = self._machines.create(
                record, template["version"], lambda: later(0.05, lambda: self.zones[name].powered_off(record))
            )
            made.host.cards = self.zones[name].types[record.type_id].get("gpus", 0)
            return made

        return Zone(
            name,
            names,
            options=self.options,
            clock=self.clock,
            later=later,
            address=self._addresses.take,
            machine=machine,
        )

    # -- its life

    def __enter__(self) -> Simulator:
        self._schedule.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process, connection and thread, and remove what was written."""
        if self._closed:
            return
        self._closed = True
        if self._thread.is_alive():
            self._server.close()
            self._thread.join(10)
        else:
            self._server.server_close()
        self._schedule.close()
        for machine in self._machines.all.values():
            machine.supervisor.off.set()
        self._processes.close()
        self._machines.close()
        self._addresses.close()
        shutil.rmtree(self.base, ignore_errors=True)

    # -- what tests look at

    @property
    def env(self) -> dict[str, str]:
        """The environment that makes the project's verbs use this simulator."""
        return {
            "EXOSCALE_API_KEY": self.key,
            "EXOSCALE_API_SECRET": self.secret,
            "EXOSCALE_API_ENDPOINT": f"http://127.0.0.1:{self.port}/{{zone}}/v2",
            "EXOSCALE_ZONE": next(iter(self.zones)),
        }

    def role(self, policy: Mapping[str, Any]) -> dict[str, str]:
        """The same environment with an API key of its own, whose IAM role has this policy; raises as Policy does."""
        key, secret = self.api.new_key(policy)
        return {**self.env, "EXOSCALE_API_KEY": key, "EXOSCALE_API_SECRET": secret}

    def endpoint(self, zone: str | None = None) -> str:
        """The API's URL of one zone, the first by default."""
        return f"http://127.0.0.1:{self.port}/{zone or next(iter(self.zones))}/v2"

    @property
    def calls(self) -> list[Call]:
        """Every request to a known operation, in order of their ends."""
        return list(self.api.calls)

    def called(self, operation_id: str) -> list[Call]:
        """The calls of one operation."""
        return [call for call in self.calls if call.operation_id == operation_id]

    @property
    def violations(self) -> list[str]:
        """What broke the OpenAPI document, and what went wrong inside the simulator: none, in a good test."""
        return list(self.api.violations)

    @property
    def denied(self) -> list[str]:
        """Why requests were refused with 403."""
        return list(self.api.denied)

    @property
    def late(self) -> bool:
        """Whether something of its own was due before now and is not done yet, as on a busy machine."""
        return self._schedule.late

    @property
    def offset_file(self) -> Path:
        """For `python -m tests.simulator.timeshift`."""
        return self.clock.path

    @property
    def warden_pid(self) -> int:
        """The process that owns all others."""
        return self._processes.warden_pid

    def instances(self, zone: str | None = None) -> list[Seen]:
        """All instances that are not gone, of one zone or of all, in order of creation."""
        with self.api.lock:
            zones = [self.zones[zone]] if zone else self.zones.values()
            return [_seen(record) for z in zones for record in z.instances.values()]

    def instance(self, id_: str | None = None) -> Seen:
        """One instance; without an id, the only one."""
        with self.api.lock:
            return _seen(self._record(id_))

    def wait(self, until: Callable[[], object], what: str = "", timeout_s: float = 20) -> None:
        """Poll until something is so. Raises TimeoutError, naming it."""
        deadline = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so after {timeout_s} s: {what or until}")
            time.sleep(0.01)

    def logs(self, id_: str | None = None) -> str:
        """What the instance's processes wrote, for a failing test's message."""
        record = self._record(id_)
        folder = record.machine.folder if isinstance(record.machine, LocalMachine) else self.base
        files = [*folder.glob("*.log"), *folder.glob("root/var/log/exollama/*")]
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')}" for file in files)

    # -- what tests do to it

    def fault(self, operation_id: str, kind: str, *, times: int = 1, **options: Any) -> Fault:
        """Plan a fault; faults.py lists the kinds. `skip`, `zone` and the kind's own options by name."""
        return self.faults.plan(operation_id, kind, times=times, **options)

    def clear_faults(self) -> None:
        self.faults.clear()

    def advance(self, seconds: float) -> None:
        """Move time forward: zones, agents, and whatever runs under timeshift.py."""
        self.clock.advance(seconds)

    def skew(self, seconds: float, zone: str | None = None) -> None:
        """Set a zone's clock wrong, all of them by default."""
        for name in [zone] if zone else self.zones:
            self.clock.skew(name, seconds)

    def boot(self, fail: str | None = None, never: str | None = None, delay_s: float = 0.0, **more: Any) -> None:
        """What boots do from now on; commands.BootPlan has the fields. Without arguments: they go well."""
        self._machines.plan = BootPlan(fail=fail, never=never, delay_s=delay_s, **more)

    def ollama(self, id_: str | None = None, **controls: Any) -> None:
        """Turn the stand-in's controls (stand_in/controls.py), of one instance or of all, present and future."""
        if id_ is None:
            self._machines.controls.update(controls)
        for machine in self._machines.all.values():
            if machine.folder.exists() and id_ in (None, machine.record.id):
                machine.control(**({} if id_ is None else controls))

    def plant(
        self,
        *,
        zone: str | None = None,
        name: str | None = "planted",
        state: str = "running",
        labels: dict[str, str] | None = None,
        created_ago_s: float = 0,
        user_data: str | None = None,
        manager: dict[str, str] | None = None,
        machine: bool = False,
    ) -> str:
        """Put an instance there by hand and return its id; without a machine nothing answers at its address."""
        with self.api.lock:
            place = self.zones[zone or next(iter(self.zones))]
            record = Record(
                id=str(uuid.uuid4()),
                zone=place.name,
                created_at=rfc3339(self.clock.now(place.name) - created_ago_s),
                type_id=next(iter(place.types)),
                template_id=next(iter(place.templates)),
                disk_gib=50,
                state=state,
                name=name,
                labels=dict(labels or {}),
                user_data=user_data,
                groups=[next(iter(place.groups))],
                ip_known=True,
                manager=manager,
            )
            before = self.options.machines
            self.options.machines = machine
            try:
                place.add(record)
            finally:
                self.options.machines = before
            if record.machine and state == "running":
                record.machine.boot()
            return record.id

    def edit_labels(self, id_: str | None = None, /, **labels: str | None) -> None:
        """Edit labels by hand; None removes one, `_` in a name stands for `-`. No rule of the API is applied."""
        with self.api.lock:
            record = self._record(id_)
            for name, value in labels.items():
                record.labels.pop(name.replace("_", "-"), None)
                if value is not None:
                    record.labels[name.replace("_", "-")] = value

    def set_state(self, id_: str | None, state: str) -> None:
        """Put an instance into a state, its processes untouched."""
        with self.api.lock:
            self._record(id_).state = state

    def protect(self, id_: str | None = None, protected: bool = True) -> None:
        """Delete protection, which nothing in the API shows."""
        with self.api.lock:
            self._record(id_).protected = protected

    def remove(self, id_: str | None = None) -> None:
        """Delete an instance by hand: it is gone at once."""
        with self.api.lock:
            record = self._record(id_)
            self.zones[record.zone].remove(record)

    def poweroff(self, id_: str | None = None) -> None:
        """Switch an instance off from inside."""
        with self.api.lock:
            record = self._record(id_)
            self.zones[record.zone].powered_off(record)

    def kill(self, service: str, id_: str | None = None, *, number: int = signal.SIGKILL) -> None:
        """Send a signal to `nginx`, `exollama-agent`, `exollama-boot` or the container `ollama` of an instance.

        systemd's and Docker's restart policies hold for what dies of it; SIGSTOP makes it hang instead.
        """
        machine = self._record(id_).machine
        assert isinstance(machine, LocalMachine)
        pids = machine.supervisor.pids()
        machine.supervisor.signal(service if service in pids else f"{service}.service", number)

    def halt(self, service: str, id_: str | None = None) -> None:
        """Stop a service for good, as `systemctl stop` does."""
        machine = self._record(id_).machine
        assert isinstance(machine, LocalMachine)
        machine.supervisor.stop(service if service in machine.supervisor.pids() else f"{service}.service")

    def _record(self, id_: str | None) -> Record:
        records = [r for zone in self.zones.values() for r in zone.instances.values() if id_ in (None, r.id)]
        if len(records) != 1:
            raise LookupError(f"{len(records)} instances" + (f" with the id {id_}" if id_ else "; name one by its id"))
        return records[0]

    def _report(self, problem: str) -> None:
        self.api.violations.append(problem)


def _seen(record: Record) -> Seen:
    machine = record.machine if isinstance(record.machine, LocalMachine) else None
    return Seen(
        id=record.id,
        zone=record.zone,
        name=record.name,
        state=record.state,
        labels=dict(record.labels),
        created_at=record.created_at,
        ip=record.ip,
        user_data=record.user_data,
        root=machine.root if machine else None,
        pids=machine.supervisor.pids() if machine else {},
        commands=list(machine.commands) if machine else [],
    )


def _short_temporary() -> str:
    """A directory whose name leaves room for a Unix socket's path, which ends at 107 bytes."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 40 else "/tmp"
