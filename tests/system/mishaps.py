"""What befalls the instances of a simulated zone while programs use them, and the book of their lives.

A mishap is noted with its time and its instance, so that each answer that broke can be laid at one's door; what the
reaper does is looked at in the kernel at the very moment of its DELETE. Neighbours: `tests.system.crowd` are the
programs, test_forwarder_soak.py judges.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from client.endpoint import Endpoint
from client.errors import ExollamaError, FenceRefused
from client.settings import Settings
from functions import reap_idle
from tests.simulator import Seen, Simulator
from tests.simulator.driver import ask, boot_report
from tests.simulator.machine import LocalMachine
from tests.simulator.records import Record
from tests.system.crowd import Ledger, Request

SLACK_S = 1.5
"""How much later than its bytes were there a busy program notes the first of an answer."""
DOWN_S = 8.0
"""How long an Ollama that was killed may take to be back."""
SILENCING = ("Ollama killed", "deleted", "powered off", "deleted booting")
"""What ends Ollama before nginx, or alone."""
UNREAD_BYTES = 4096


@dataclass(slots=True)
class Life:
    """One instance from its create call to the moment from which it takes nothing more, and how that came."""

    id: str
    began: float
    shut: float | None = None
    how: str = ""


@dataclass(slots=True)
class Mishap:
    """`live`: how many answers were under way through the forwarders. `cuts`: whether it may break them."""

    kind: str
    id: str
    began: float
    live: int
    cuts: bool
    ended: float = 0.0


@dataclass
class Book:
    """The lives of all instances, in order, and what the reaper did wrong."""

    simulator: Simulator
    lives: dict[str, Life] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)

    def keep(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Note what the zones do from now on."""
        for zone in self.simulator.zones.values():
            monkeypatch.setattr(zone, "_create", self._creating(zone._create))
            monkeypatch.setattr(zone, "_delete", self._deleting(zone._delete))
            monkeypatch.setattr(zone, "remove", self._ending("deleted", zone.remove))
            monkeypatch.setattr(zone, "powered_off", self._ending("powered off", zone.powered_off))

    def shut(self, id_: str, how: str) -> None:
        life = self.lives[id_]
        if life.shut is None:
            life.shut, life.how = time.monotonic(), how

    @property
    def open(self) -> list[Life]:
        return [life for life in self.lives.values() if life.shut is None]

    def ends(self) -> Counter[str]:
        return Counter(life.how or "lives" for life in self.lives.values())

    def _creating(self, create: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            if self.open:
                self.wrongs.append(f"a create call beside {self.open}")
            answer = create(*arguments)
            id_ = answer["reference"]["id"]
            self.lives[id_] = Life(id_, time.monotonic())
            return answer

        return noted

    def _deleting(self, delete: Callable[..., Any]) -> Callable[..., Any]:
        def noted(record: Record) -> Any:
            if record.state == "running" and (used := in_use(record.ip or "")):
                self.wrongs.append(f"DELETE of {record.id} with {used}")
            self.shut(record.id, "reaped")
            return delete(record)

        return noted

    def _ending(self, how: str, end: Callable[[Record], None]) -> Callable[[Record], None]:
        def noted(record: Record) -> None:
            self.shut(record.id, how)
            end(record)

        return noted


def in_use(address: str) -> str:
    """What the kernel knows of requests that an instance has accepted and not answered to the end."""
    host = socket.inet_aton(address)[::-1].hex().upper()
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    asked = sum(row[2] == f"{host}:{11434:04X}" and row[3] in ("01", "02", "08") for row in table)
    unread = sum(row[1] == f"{host}:{11435:04X}" and int(row[4].split(":")[0], 16) > UNREAD_BYTES for row in table)
    return f"{asked} requests at Ollama and {unread} answers not taken yet" if asked or unread else ""


def upstream_sockets(pid: int | str = "self") -> int:
    """How many connections a process has to instances."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue  # closed meanwhile
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(row[9] in found and row[2].endswith(f":{11435:04X}") for row in rows)


class Reaper(threading.Thread):
    """`reap_idle` once a second, until `over`; `fenced` is set whenever it has put up a fence."""

    def __init__(self, settings: Settings, over: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(name="reaper")
        self.settings, self.over = settings, over
        self.fenced = threading.Event()
        self.counts: Counter[str] = Counter()
        self.troubles: list[str] = []
        fence, commit = Endpoint.fence, Endpoint.commit

        def noted_fence(endpoint: Endpoint, owner: str) -> None:
            fence(endpoint, owner)
            self.counts["fences"] += 1
            self.fenced.set()

        def noted_commit(endpoint: Endpoint, owner: str) -> None:
            try:
                commit(endpoint, owner)
            except FenceRefused:
                self.counts["commits refused"] += 1
                raise
            self.counts["commits"] += 1

        monkeypatch.setattr(Endpoint, "fence", noted_fence)
        monkeypatch.setattr(Endpoint, "commit", noted_commit)

    def run(self) -> None:
        while not self.over.wait(1.0):
            self.once()

    def once(self) -> list[str]:
        """One pass; how it ended for each instance."""
        self.counts["passes"] += 1
        try:
            outcomes = [item["outcome"] for item in reap_idle.run(self.settings)["instances"]]
        except ExollamaError as error:
            self.troubles.append(str(error))
            return []
        except BaseException:  # noqa: BLE001 - the test reports it
            self.troubles.append(traceback.format_exc())
            return []
        self.counts.update(outcomes)
        return outcomes


class Mishaps:
    """Everything that can happen to an instance from outside, each of it noted."""

    def __init__(self, simulator: Simulator, ledger: Ledger, book: Book) -> None:
        self.simulator, self.ledger, self.book = simulator, ledger, book
        self.random = random.Random(0)
        self.done: list[Mishap] = []
        self.kinds: dict[str, tuple[bool, Callable[[Seen], None]]] = {
            "worker killed": (True, self.kill_worker),
            "Ollama killed": (True, lambda seen: self.simulator.kill("ollama", seen.id)),
            "fenced, lifted": (False, self.fence_and_lift),
            "nginx restarted": (True, self.restart_nginx),
            "agent killed": (False, lambda seen: self.simulator.kill("exollama-agent", seen.id)),
            "deleted": (True, lambda seen: self.simulator.remove(seen.id)),
            "fenced, lapsed": (False, self.fence_and_lapse),
            "nginx killed": (True, lambda seen: self.simulator.kill("nginx", seen.id)),
            "powered off": (True, lambda seen: self.simulator.poweroff(seen.id)),
            "deleted booting": (True, self.delete_booting),
        }
        self.turn = list(self.kinds)

    def live(self) -> int:
        """Answers that have begun and are not over."""
        return sum(r.first is not None and not r.end for r in self.ledger.requests[-200:])

    def strike(self) -> None:
        """The next kind of mishap befalls the instance, answers being under way; nothing, where none comes to that."""
        kind = self.turn.pop(0)
        self.turn.append(kind)
        seen = self.in_use()
        if seen is None or not self.befall(kind, seen, *self.kinds[kind]):
            self.turn.insert(0, self.turn.pop())  # soon again

    def in_use(self, seconds: float = 15.0) -> Seen | None:
        """The instance, once it answers several requests at a time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.live() > 3 and (open_ := self.book.open):
                try:
                    return self.simulator.instance(open_[-1].id)
                except LookupError:
                    pass  # gone just now
            time.sleep(0.005)
        return None

    def befall(self, kind: str, seen: Seen, cuts: bool, deed: Callable[[Seen], None]) -> bool:
        """Do it and note it; whether all of it could be done."""
        mishap = Mishap(kind, seen.id, time.monotonic(), self.live(), cuts)
        self.done.append(mishap)
        try:
            deed(seen)
        except (OSError, LookupError, AssertionError):
            mishap.kind = "in part"  # the reaper was there first, or an earlier mishap is not over
        mishap.ended = time.monotonic()
        return mishap.kind == kind

    def blame(self, request: Request) -> Mishap | None:
        """The mishap that broke an answer: it was to an instance that was born before, and met it on its way."""
        assert request.first
        silent = request.how == "silent"
        after_s = DOWN_S if silent else SLACK_S
        for mishap in self.done:
            if silent and mishap.kind not in SILENCING:
                continue
            met = mishap.began <= request.end and request.first <= mishap.ended + after_s
            if mishap.cuts and met and self.book.lives[mishap.id].began < request.first:
                return mishap
        return None

    # -- the kinds that take several steps

    def kill_worker(self, seen: Seen) -> None:
        master = seen.pids["nginx.service"]
        workers = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        files = {int(worker): len(list(Path(f"/proc/{worker}/fd").iterdir())) for worker in workers}
        os.kill(max(files, key=lambda worker: files[worker]), signal.SIGKILL)  # the one with the connections

    def restart_nginx(self, seen: Seen) -> None:
        machine = self.simulator._record(seen.id).machine
        assert isinstance(machine, LocalMachine)
        machine.supervisor.restart("nginx.service")

    def delete_booting(self, seen: Seen) -> None:
        """Delete it, and then the next one while that boots."""
        self.simulator.remove(seen.id)
        lives = len(self.book.lives)

        def booting() -> bool:
            id_ = list(self.book.lives)[-1]
            fresh = self.simulator.instance(id_)
            return len(self.book.lives) > lives and boot_report(fresh).get("phase") in ("docker", "image", "model")

        def soon() -> bool:
            try:
                return booting()
            except LookupError:
                return False

        try:
            self.simulator.wait(soon, "the next boot", 10)
        except TimeoutError:
            raise LookupError("no next boot") from None
        self.simulator.remove(list(self.book.lives)[-1])

    def fence_and_lift(self, seen: Seen) -> None:
        owner = self.fence(seen)
        time.sleep(self.random.uniform(0.2, 0.8))
        assert ask(seen, "DELETE", f"/.exollama/fence/{owner}").status == 204

    def fence_and_lapse(self, seen: Seen) -> None:
        self.fence(seen)
        time.sleep(self.random.uniform(0.2, 0.8))
        self.simulator.advance(121)

    def fence_and_commit(self, seen: Seen) -> None:
        """As a reaper that dies behind its commit: shut for good, with nobody to end it."""
        owner = self.fence(seen)
        if ask(seen, "POST", f"/.exollama/fence/{owner}/commit").status != 200:
            ask(seen, "DELETE", f"/.exollama/fence/{owner}")
            raise LookupError("it was asked for meanwhile")
        self.book.shut(seen.id, "forsaken")

    @staticmethod
    def fence(seen: Seen) -> str:
        owner = secrets.token_hex(16)
        answer = ask(seen, "PUT", f"/.exollama/fence/{owner}")
        assert answer.status == 201, json.loads(answer.body)
        return owner
