"""The provision protocol for one name in one zone: find, start or create, wait, and settle on one of several.

Idempotent, and safe beside other runs of itself: everybody picks the oldest healthy instance, and a loser deletes its
own only while that is not yet ready. Neighbours: `functions.creating` creates, `functions.leftovers` ends. Like
`functions.protocol`, over the same two seams, without a clock or socket of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from client import activity
from client.boot import REACH_S, UNREACHABLE, Progress, boot_budget_s, failure, wait_ready
from client.errors import (
    ApiError,
    BootFailed,
    Draining,
    EndpointError,
    ExollamaError,
    NotFound,
    OperationFailed,
    OutOfTime,
    Unreachable,
    Vanished,
)
from client.model import Instance, foreign, owned_live
from client.settings import Secret
from functions.creating import create
from functions.leftovers import Leftovers
from functions.plan import Draft, Note
from functions.policy import may_start
from functions.protocol import vouched
from functions.seams import Cloud, Connect, Endpoint

ROUNDS: Final = 400
"""Looks at the list before giving up; they are seconds apart, and every long wait inside has a bound of its own."""
PAUSE_S: Final = 2.0
CREATES: Final = 3
SHORT_REACH_S: Final = 4.0
"""How long a run of short patience bears the silence of an instance that ought to answer."""


class Superseded(Exception):
    """Another run's instance is older: ours is the one too many."""


@dataclass(frozen=True, slots=True)
class Found:
    """The instance that was settled on, its key, and its status where it was waited for."""

    instance: Instance
    key: Secret
    status: dict[str, Any] | None


class Provisioning:
    """One run of the protocol.

    `order` drafts a create call only once one is needed; `check_start` raises where a stopped one is not to be started;
    `under_way` is told the id of what is created or waited for. `patience_s`: this is one of many short runs, each of
    which goes on where the one before ended. After so long nothing is waited for any more, but OutOfTime raised; and
    what an earlier run made and nobody can use is this one's to end: otherwise each next run would make another.
    """

    def __init__(
        self,
        cloud: Cloud,
        connect: Connect,
        order: Callable[[], Draft],
        name: str,
        *,
        note: Note,
        progress: Progress,
        monotonic: Callable[[], float],
        keep_failed: bool = False,
        patience_s: float | None = None,
        under_way: Callable[[str], None] = lambda _: None,
        check_start: Callable[[Instance], None] = lambda _: None,
    ) -> None:
        self.cloud = cloud
        self.connect = connect
        self.order = order
        self.name = name
        self.note = note
        self.progress = progress
        self.monotonic = monotonic
        self.keep_failed = keep_failed
        self.patience_s = patience_s
        self.under_way = under_way
        self.check_start = check_start
        self.leftovers = Leftovers(cloud, connect)
        self.created: str | None = None
        self._condemned: set[str] = set()
        self._began_s = 0.0
        self._creates = 0
        self._hourly_cost: float | None = None
        self._unreachable: Unreachable | None = None

    def run(self, *, wait: bool = True) -> Found:
        """Return the instance of this name, ready (or, without `wait`, found or created).

        Raises BootFailed, Unreachable, and what the API and the draft raise. Whatever was created is owned and will go.
        """
        self._began_s = self.monotonic()
        for _ in range(ROUNDS):
            instance = self._choose()
            if instance is None:
                if self._unreachable:
                    raise self._unreachable
                self._create(self.order())
                continue
            try:
                if instance.state in ("stopping", "migrating"):
                    self._pause(instance.state)
                elif instance.state == "stopped":
                    self._start(instance)
                elif found := self._use(instance, wait=wait):
                    return found
            except NotFound:
                self._vanished(instance)
        raise ExollamaError(
            f"No instance named {self.name} settled in {self.cloud.zone}. See `exollama status`, and run this again."
        )

    # -- choosing

    def _choose(self) -> Instance | None:
        """The oldest live instance that is not condemned, or None where one has to be created.

        One that runs comes before one that would have to be started: what was stopped since is no reason for two.
        """
        live = owned_live(self.cloud.list_instances(), self.name)
        if self.created and self.created not in {i.id for i in live}:
            # Lists may lag behind. Ours has to take part all the same: two runs that each see only the other's
            # instance would both give way.
            live = sorted([*live, *self._ours(others=live)], key=lambda i: i.age_key)
        for instance in sorted(live, key=lambda i: i.state in ("stopping", "stopped")):
            if instance.id in self._condemned or self._is_condemned(instance):
                continue
            if self.created and instance.id != self.created:
                if self._is_hopeless(instance):
                    self._condemned.add(instance.id)
                    continue
                self._yield_to(instance)
            return instance
        if self.patience_s is not None:
            self.leftovers.end_broken([i for i in live if i.id not in self._condemned])
        return None

    def _is_condemned(self, instance: Instance) -> bool:
        if instance.state == "error":
            if instance.id == self.created:
                raise ExollamaError(
                    f"Instance {instance.id} came up in state error. It is owned, and the reaper removes it: exollama "
                    "reap. Then run this again; if it happens again, try another EXOSCALE_INSTANCE_TYPE or zone."
                )
            return True
        if instance.state != "stopped" or may_start(instance, self.cloud.now()):
            return False
        if instance.id == self.created:
            raise BootFailed(
                f"Instance {instance.id} stopped before it was ready: its boot failed before it could say why, or "
                "somebody stopped it. It is owned, and the reaper removes it. Run this again, with --keep-failed if it "
                "happens again.",
                phase=instance.state,
            )
        return True

    def _is_hopeless(self, instance: Instance) -> bool:
        """Whether one that runs will take no requests: silent, a failed or overdue boot, or committed to going."""
        status = self._status(instance.id)
        until = instance.booting_until(self.cloud.now())
        overdue = until is not None and self.cloud.now() >= until
        if status is None:
            return overdue
        late = overdue and status["boot"]["phase"] != "ready"
        return late or failure(status) is not None or _is_committed(status)

    def _status(self, instance_id: str) -> dict[str, Any] | None:
        """What an instance says of itself; None where it says nothing, or cannot be asked."""
        try:
            seen = self.cloud.get_instance(instance_id)
            header = seen.header()
            return self.connect(seen, header.key).status() if header and seen.address else None
        except (NotFound, EndpointError):
            return None

    def _ours(self, others: Sequence[Instance]) -> list[Instance]:
        """The one that this run made; none where somebody removed it as the one too many, and others are there."""
        assert self.created
        try:
            return [self.cloud.get_instance(self.created)]
        except NotFound:
            mine = {self.created, *self._condemned}
            if any(i.id not in mine and i.state in ("starting", "running") for i in others):
                self.created = None
                return []
            raise Vanished(
                f"Instance {self.created}, made by this run, was removed by somebody else while it was waited for. "
                "Run this again for a new one."
            ) from None

    def _yield_to(self, older: Instance) -> None:
        """Give way to an older one of the same name: ours is deleted while not yet ready, else left to the reaper."""
        assert self.created
        ours, self.created = self.created, None
        self._condemned.add(ours)
        self.note(f"Another run made {older.id} first: using that one.")
        self.note(self.leftovers.removed(ours))

    def _end_surplus(self, chosen: Instance) -> None:
        """End what runs before this one made beside a good one, at the same time: none of them came back to give way.

        Only one that says itself that it never was ready is ended; silent ones may be another's, and in use.
        """
        live = owned_live(self.cloud.list_instances(), self.name)
        others = [i for i in live if i.age_key > chosen.age_key and i.state == "running" and i.address]
        good = self._status(chosen.id) if others else None
        until = chosen.booting_until(self.cloud.now())
        overdue = until is None or self.cloud.now() >= until
        if good is None or failure(good) or good.get("fence") or good["boot"]["phase"] == "ready" or overdue:
            return  # nothing is certain of it, or it is ready, which is all that is waited for
        for one in others:
            if self.patience_s is not None and self.monotonic() - self._began_s >= self.patience_s:
                return
            status = self._status(one.id)
            if status and failure(status) is None and status["boot"]["phase"] != "ready":
                self._condemned.add(one.id)
                self.note(f"{chosen.id} was made first. {self.leftovers.removed(one.id)}")

    # -- creating and starting

    def _create(self, draft: Draft) -> None:
        self._creates += 1
        if self._creates > CREATES:
            raise ExollamaError(
                f"{CREATES} instances were asked for in this run and none came of it. Look at `exollama status` "
                "before running this again."
            )
        self._hourly_cost = draft.hourly_cost
        create(self.cloud, draft, note=self.note, progress=self.progress, announce=self._announce)

    def _announce(self, instance_id: str) -> None:
        self.created = instance_id
        self.under_way(instance_id)
        self.note(
            f"Instance {instance_id} is being created. Whatever happens now, it is owned and goes once nobody uses it."
        )

    def _start(self, instance: Instance) -> None:
        """Start a stopped instance; activity is written first, so that no reaper takes it for a leftover meanwhile."""
        if not vouched(seen := self.cloud.get_instance(instance.id)):
            self._disown(seen)
            return
        self.check_start(seen)
        self.note(f"Starting the stopped instance {instance.id}.")
        self.progress("starting", None, 0.0)
        if not activity.record(self.cloud, instance.id, always=True):
            return  # gone, or no longer ours
        try:
            operation = self.cloud.start_instance(instance.id)
            self.cloud.wait(operation, f"starting {instance.id}", 600.0)
        except (ApiError, OperationFailed) as error:
            # Another run may have started it in between, or the answer was lost: its state tells.
            if self.cloud.get_instance(instance.id).state == "stopped":
                raise ExollamaError(
                    f"Instance {instance.id} cannot be started: {error} `exollama stop` makes way for a fresh one."
                ) from error

    def _disown(self, instance: Instance) -> None:
        disowned = f"Instance {instance.id} has our labels, but not our user-data: it is left alone."
        self.note(next(iter(foreign([instance])), disowned))
        self._condemned.add(instance.id)

    # -- using

    def _use(self, instance: Instance, *, wait: bool) -> Found | None:
        """Wait until it is ready, touch it and record activity; None where the list has to be looked at again."""
        seen = self.cloud.get_instance(instance.id)
        header = seen.header()
        if header is None or not vouched(seen):
            self._disown(seen)
            return None
        self.under_way(instance.id)
        if not wait and instance.id == self.created:
            return Found(seen, header.key, None)
        if seen.address is None:
            self._pause("waiting for its address")
            return None
        if self.patience_s is not None and not self.created:
            self._end_surplus(seen)
        endpoint = self.connect(seen, header.key)
        status = self._wait(seen, endpoint) if wait else self._status(seen.id)
        broken = failure(status) if status else None
        if broken:
            self._not_ready(instance, broken)
        if broken or (wait and status is None) or not self._settled(seen, endpoint, status):
            return None
        handed_out = self.cloud.get_instance(instance.id)
        if not vouched(handed_out):
            raise ExollamaError(
                f"The labels of instance {instance.id} were changed while it was waited for: it is no longer owned, so "
                "no reaper will remove it. Delete it in the portal, then run this again."
            )
        return Found(handed_out, header.key, status)

    def _wait(self, instance: Instance, endpoint: Endpoint) -> dict[str, Any] | None:
        """Its status once its boot is through; None where it will not get there and the list has to be looked at."""
        reach_s = REACH_S if self.patience_s is None else SHORT_REACH_S
        budget_s = boot_budget_s(instance, self.cloud.now(), reach_s)
        try:
            return wait_ready(
                endpoint,
                budget_s=budget_s,
                look=lambda: self._look(instance),
                # What ought to have booted long ago is borne with for as long as it takes to be sure.
                progress=self.progress if budget_s <= reach_s else self._patiently,
                monotonic=self.monotonic,
                sleep=self.cloud.sleep,
            )
        except Superseded:
            pass  # the next look at the list settles it
        except BootFailed as error:
            self._not_ready(instance, error)
        return None

    def _patiently(self, phase: str, percent: float | None, elapsed_s: float) -> None:
        """A Progress that waits no longer than there is patience."""
        self.progress(phase, percent, elapsed_s)
        if self.patience_s is not None and self.monotonic() - self._began_s >= self.patience_s:
            raise OutOfTime(f"{phase}: it goes on. Ask again.")

    def _settled(self, instance: Instance, endpoint: Endpoint, status: dict[str, Any] | None) -> bool:
        """Whether it takes requests, knows that it is in use, and is still the one that everybody picks.

        Without a status (nobody wants to wait) silence is no obstacle: it may be booting.
        """
        if status and _is_committed(status):
            self.note(f"Instance {instance.id} is being removed; a new one is needed.")
            self._condemned.add(instance.id)
            return False
        try:
            endpoint.touch()
        except (Draining, Unreachable) as error:
            if status or isinstance(error, Draining):
                self._pause("draining")
                return False
        try:
            activity.record(self.cloud, instance.id)
        except (ApiError, OperationFailed) as error:
            self.note(f"Warning: the activity label was not written ({error}). The instance itself knows of its use.")
        return instance.id != self.created or self._oldest_usable() in (None, instance.id)

    def _look(self, instance: Instance) -> None:
        """While a boot is waited for: raise where the instance is gone or broken, or an older one turned up."""
        seen = self.cloud.get_instance(instance.id)
        if seen.state not in ("starting", "running"):
            raise Superseded
        if instance.id == self.created and self._oldest_usable() not in (None, instance.id):
            raise Superseded

    def _oldest_usable(self) -> str | None:
        live = owned_live(self.cloud.list_instances(), self.name)
        usable = (i.id for i in live if i.id not in self._condemned and i.state in ("starting", "running"))
        return next(usable, None)

    def _not_ready(self, instance: Instance, error: BootFailed) -> None:
        """What follows from a boot that did not get ready."""
        self._condemned.add(instance.id)
        if instance.id == self.created:
            rest = self.leftovers.kept(instance, self._hourly_cost)
            if not self.keep_failed:
                rest = f"{self.leftovers.removed(instance.id)} `exollama provision --keep-failed` keeps one to look at."
            raise BootFailed(f"{error.summary}\n{rest}", phase=error.phase, log=error.log) from error
        own = self.patience_s is not None and error.phase != UNREACHABLE
        if own and self.leftovers.end_as_its_maker(instance, error):
            self._condemned.discard(instance.id)
            return
        self.note(f"Instance {instance.id} is of no use and left to the reaper: {error}")
        if error.phase == UNREACHABLE:
            # Our own network may be the reason, and a new instance would cost without being reachable either: so
            # this is an error, unless there is another one that can be reached.
            self._unreachable = Unreachable(
                f"Instance {instance.id} runs, but its port 11435 cannot be reached from here. Check the network "
                "and the EXOSCALE_ALLOWED_CIDRS of the run that made it, or delete it in the portal; then run this "
                "again."
            )

    def _vanished(self, instance: Instance) -> None:
        if instance.id == self.created:
            self._ours(others=owned_live(self.cloud.list_instances(), self.name))  # raises where it was the only one
        self._condemned.add(instance.id)

    def _pause(self, phase: str) -> None:
        self._patiently(phase, None, 0.0)
        self.cloud.sleep(PAUSE_S)


def _is_committed(status: dict[str, Any]) -> bool:
    """Whether somebody has committed to the instance's removal, by what it says of its fence."""
    return bool((status.get("fence") or {}).get("committed"))
