"""A zone of one real instance that comes back after each reap, the reapers of it, and what befalls it meanwhile.

The reapers are the project's own functions over a `Cloud` whose delete really ends nginx, agent and all, without
asking anybody. Neighbours: `tests.system.clients` use the instance all the while.
"""

import json
import os
import random
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from client.endpoint import Endpoint
from client.errors import EndpointError, ExollamaError, FenceRefused, NotFound
from client.model import Instance as Observed
from client.settings import Secret
from functions import policy
from functions.policy import Decision, Gate, Verb
from functions.protocol import Outcome, drain, reap_one
from tests.fakes import label_map
from tests.machine import process_state
from tests.system.clients import Ledger
from tests.system.instance import until

LEASE_S, COMMIT_MARGIN_S = 120.0, 600.0  # the contract's
UNREAD_BYTES = 4096  # what the agent cannot tell from an answer to somebody without a key


def connections() -> list[list[str]]:
    """The kernel's table: [slot, local, remote, state, …, inode at 9], in hex."""
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]


class Zone:
    """The `Cloud` of the protocols over one instance; each life of it has an id of its own."""

    zone = "ch-gva-2"
    # An agent that is started again here shares its processors with everybody else, and takes as much longer.
    sleep: Callable[[float], None] = staticmethod(lambda seconds: time.sleep(4 * seconds))

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.instance = ledger, ledger.instance
        self.lock = threading.RLock()
        self.random = random.Random(0)
        self.life = 1
        self.counts: Counter[str] = Counter()
        self.wrongs: list[str] = []
        began = datetime.now(UTC)
        self.created = began - timedelta(days=1)
        activity, deadline = began - timedelta(hours=5), began + timedelta(days=6)
        self.labels = label_map(activity=activity, deadline=deadline, request=f"r{'0' * 32}", idle="s1")

    # -- the Cloud of the protocols

    def now(self) -> datetime:
        return datetime.now(UTC)

    def list_instances(self) -> list[Observed]:
        return [self._seen()]

    def get_instance(self, instance_id: str) -> Observed:
        seen = self._seen()
        if instance_id != seen.id:
            raise NotFound("GET", f"/instance/{instance_id}", 404, "Not Found")
        return seen

    def delete_instance(self, instance_id: str) -> Mapping[str, Any]:
        with self.lock:
            self.get_instance(instance_id)
            if self.random.random() < 0.3:  # a slow API, and an agent that is started again behind the commit
                self.instance.stop_agent()
                self.instance.start_agent()
                time.sleep(self.random.uniform(0.0, 0.2))
            self._end("reaped")
            return {"id": "an-operation", "state": "success", "reference": {"id": instance_id}}

    def wait(self, operation: Mapping[str, Any], what: str, timeout_s: float) -> Mapping[str, Any]:
        return operation

    def put_labels(self, instance_id: str, labels: Mapping[str, str]) -> None:
        raise NotImplementedError

    def create_instance(self, body: Secret) -> Mapping[str, Any]:
        raise NotImplementedError

    def start_instance(self, instance_id: str) -> Mapping[str, Any]:
        raise NotImplementedError

    def stop_instance(self, instance_id: str) -> Mapping[str, Any]:
        raise NotImplementedError

    def _seen(self) -> Observed:
        return Observed(
            id=f"life-{self.life}",
            zone=self.zone,
            name="exollama",
            state="running",
            created=self.created,
            address=self.instance.address,
            labels=dict(self.labels),
            user_data=Secret(self.instance.user_data),
        )

    # -- what befalls the instance

    def powered_off(self) -> None:
        """Let its own watchdog's power-off be one, if there was any."""
        with self.lock:
            if self.instance.off.exists():
                self._end("powered off")

    def kill_worker(self) -> None:
        """One of nginx's workers dies; the connections that it held are noted, for it cuts them."""
        with self.lock:
            worker = self.random.choice(self.instance.workers())
            os.kill(worker, signal.SIGSTOP)
            until(lambda: process_state(worker) == "T", "a standstill")
            links = (os.readlink(entry) for entry in Path(f"/proc/{worker}/fd").iterdir())
            held = {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}
            now = time.monotonic()
            for row in connections():
                if row[9] in held and row[1].endswith(f":{11435:04X}"):
                    self.ledger.killed[int(row[2].rpartition(":")[2], 16)] = now
            os.kill(worker, signal.SIGKILL)
            until(lambda: worker not in self.instance.workers(), "its end")
            self.counts["workers killed"] += 1

    def restart_agent(self) -> None:
        with self.lock:
            self.instance.stop_agent()
            time.sleep(self.random.uniform(0.0, 0.1))
            self.instance.start_agent()
            self.counts["agent restarts"] += 1

    def forsaken(self, owner: str) -> None:
        """Let the time pass after which a fence falls, or its commit is made good, that its owner could not lift."""
        with self.lock:
            fence = self.fence()
            if fence.get("owner") == owner:
                self.counts["fences that lapsed"] += 1
                self.instance.advance(LEASE_S + 1 if fence["committed"] is None else COMMIT_MARGIN_S + 1)

    def still_shut(self, owner: str) -> None:
        """Note the fence of one that kept the instance and said that it had lifted it."""
        with self.lock:
            if self.fence().get("owner") == owner:
                self.wrongs.append("kept, and left shut")

    def fence(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.instance.run / "fence").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def _end(self, how: str) -> None:
        """Off at once, like a machine that is deleted, and a fresh one in its place."""
        instance = self.instance
        address = "".join(f"{int(part):02X}" for part in reversed(instance.address.split(".")))
        ollama, nginx = f"{address}:{11434:04X}", f"{address}:{11435:04X}"
        table = connections()
        if in_flight := sum(row[2] == ollama and row[3] in ("01", "02", "08") for row in table):
            self.wrongs.append(f"{how} with {in_flight} requests on their way to Ollama")
        # The kernel delivers what a killed process leaves to it; a machine takes both along.
        if unread := sum(row[1] == nginx and int(row[4].partition(":")[0], 16) > UNREAD_BYTES for row in table):
            self.wrongs.append(f"{how} with {unread} answers that were not taken yet")
        if self.fence().get("committed") is None:
            self.wrongs.append(f"{how} without a commit")
        assert instance.nginx
        workers = instance.workers()
        for process in (instance.nginx.pid, *workers):
            os.kill(process, signal.SIGKILL)
        instance.nginx.wait(10)
        until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "nginx's end")
        instance.stop_agent()
        for file in (instance.run / "fence", instance.run / "activity.json", instance.log / "activity", instance.off):
            file.unlink(missing_ok=True)
        self.counts[how] += 1
        instance.start_agent()
        instance.start_nginx()
        until(instance.answers, "the next life")
        self.life += 1


class Mishaps(threading.Thread):
    """Kills a worker or starts the agent again every now and then, until `over`."""

    def __init__(self, zone: Zone, over: threading.Event, *, seed: int) -> None:
        super().__init__(name=f"mishaps {seed}")
        self.zone, self.over, self.random = zone, over, random.Random(seed)

    def run(self) -> None:
        try:
            while not self.over.wait(self.random.uniform(0.2, 2.0)):
                self.random.choice([self.zone.kill_worker, self.zone.restart_agent])()
        except BaseException:  # noqa: BLE001 - the test reports it
            self.zone.ledger.troubles.append(traceback.format_exc())


class Noted(Endpoint):
    """An endpoint that counts what becomes of its fences."""

    counts: Counter[str]
    owner = ""
    lifted = True

    def fence(self, owner: str) -> None:
        self.owner = owner
        self.counts["attempts"] += 1
        try:
            super().fence(owner)
        except FenceRefused:
            self.counts["another's fence"] += 1
            raise

    def commit(self, owner: str) -> None:
        try:
            super().commit(owner)
        except FenceRefused:
            self.counts["commits refused"] += 1
            raise
        self.counts["commits"] += 1

    def unfence(self, owner: str) -> None:
        self.lifted = False
        super().unfence(owner)
        self.lifted = True


def hasty(status: dict[str, Any]) -> Decision:
    """Goes ahead whatever it is told: the commit alone stands between it and a request."""
    return Decision(Verb.DESTROY, "in a hurry", gate=Gate.COMMIT)


def wished(status: dict[str, Any]) -> Decision:
    """As `stop` decides: at once, unless it is in use."""
    return policy.by_wish(status, Verb.DESTROY)


class Reaper(threading.Thread):
    """Passes over the zone until `over`; without a judge it is `reap_idle`'s."""

    def __init__(
        self, zone: Zone, judge: Callable[[dict[str, Any]], Decision] | None, over: threading.Event, *, seed: int = 0
    ) -> None:
        super().__init__(name=f"reaper {seed}")
        self.zone, self.judge, self.over = zone, judge, over
        self.random = random.Random(seed)
        self.endpoints: list[Noted] = []

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.once()
                self.zone.powered_off()
                time.sleep(self.random.uniform(0.0, 0.6))
        except BaseException:  # noqa: BLE001 - the test reports it
            self.zone.ledger.troubles.append(traceback.format_exc())

    def once(self) -> Outcome | None:
        """One pass; None where the instance could not be talked to."""
        (listed,) = self.zone.list_instances()
        outcome = None
        self.endpoints.clear()
        self.zone.counts["passes"] += 1
        try:
            if self.judge:
                outcome = drain(self.zone, self.connect(listed), listed, self.judge)
            else:
                outcome = reap_one(self.zone, self.connect, listed)
                if "unexpected" in outcome.reason:
                    self.zone.wrongs.append(outcome.reason)
        except (EndpointError, NotFound):
            pass  # its agent or its nginx is being started again, or another was faster
        except ExollamaError as error:
            self.zone.wrongs.append(f"{type(error).__name__}: {error}")
        finally:
            for endpoint in self.endpoints:
                if outcome and outcome.outcome == "kept" and endpoint.lifted:
                    self.zone.still_shut(endpoint.owner)
                self.zone.forsaken(endpoint.owner)
                endpoint.close()
        return outcome

    def connect(self, seen: Observed, key: Secret | None = None) -> Noted:
        endpoint = Noted(seen.address or "", key or self.zone.instance.key)
        endpoint.counts = self.zone.counts
        self.endpoints.append(endpoint)
        return endpoint
