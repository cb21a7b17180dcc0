"""Keeps the instance that a forwarder forwards to: found once, woken once for however many ask, recorded as used.

Runs in the forwarder's loop; what waits on the network runs in daemon threads, so that the end of the process waits
for none of them. Neighbours: `client.source` is asked, `client.forwarder` asks.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

from client.boot import Board
from client.errors import BootFailed, Draining, ExollamaError, NoInstance, Unreachable, Vanished
from client.exchange import Exchange, Refusal, Reply, error
from client.model import last_day, printable
from client.source import Place, Source
from client.upstream import Pool

T = TypeVar("T")

log = logging.getLogger("exollama.keeper")

MAX_HELD: Final = 256
"""Requests that wait for an instance at the same time; a further one is refused at once."""
MAX_HELD_BYTES: Final = 64 << 20
LOOK_S: Final = 5.0
"""How long a request that wakes nobody waits for a look; and how long it stands that there is nothing."""
_LONGEST_NOTHING_S: Final = 60.0
_NOTHING_S: Final = 5.0
"""How long it stands that there is nothing, for a use where none may be woken."""
_PASSING: Final = (NoInstance, Draining, Unreachable, Vanished)
"""What a wake may end with although the next one succeeds: the instance went away beneath it."""
_TRIES: Final = 3
_FIRST_PAUSE_S: Final = 30.0
_LONGEST_PAUSE_S: Final = 900.0
_RECORD_RETRY_S: Final = 60.0
_TIDY_S: Final = 600.0
_CHECK_S: Final = 30.0
"""How seldom a look at the status has it made sure of."""
_RETRY_AFTER_S: Final = 10


async def in_thread(do: Callable[[], T]) -> T:
    """Run something in a daemon thread of its own, and wait for it without minding it when the wait is cancelled."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, failure: BaseException | None) -> None:
        if future.done():
            return
        if failure:
            future.set_exception(failure)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, failure = None, None
        try:
            result = do()
        except Exception as trouble:  # noqa: BLE001 - handed over
            failure = RuntimeError("StopIteration") if isinstance(trouble, StopIteration) else trouble
        except BaseException as trouble:  # noqa: BLE001 - an exit in a thread must not end the loop
            failure = RuntimeError(f"{type(trouble).__name__} {trouble}")
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:
            log.info("the loop ended before this did")

    threading.Thread(target=work, name="exollama-keeper", daemon=True).start()
    return await future


def _heard(task: asyncio.Task[Any]) -> None:
    """Somebody has seen how it ended, also where whoever waited has left."""
    if not task.cancelled():
        task.exception()


class Keeper:
    """Which instance is forwarded to. `note` gets sentences for a person; times are the loop's, in seconds."""

    def __init__(
        self, source: Source, board: Board, *, hold_s: float, view: memoryview, note: Callable[[str], None] = log.info
    ) -> None:
        self.source = source
        self.board = board
        self.pool: Pool | None = None
        self.place: Place | None = None
        self.held = 0
        self.held_bytes = 0
        self.in_use = 0
        """Uses of a model that are under way."""
        self.last_use = -math.inf
        self.failure: str | None = None
        self.unseen: str | None = None
        """Why the last look showed nothing, where that does not mean that nothing is there."""
        self.woken = 0
        self._hold_s = hold_s
        self._view = view
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._waking: asyncio.Task[Pool] | None = None
        self._waking_since = 0.0
        self._looking: asyncio.Task[Pool | None] | None = None
        self._nothing_until = -math.inf
        self._nothing_s = 0.0
        self._noted = ""
        self._failures = 0
        self._not_before = -math.inf
        self._record_due = -math.inf
        self._unrecorded = False
        self._tidy_due = self._loop.time()
        self._check_due = -math.inf
        self._chores: set[asyncio.Task[None]] = set()
        self._warned: str | None = None

    @property
    def state(self) -> str:
        """`ready`, `waking`, `failed` (and not tried again yet) or `asleep`."""
        if self._waking:
            return "waking"
        if self.pool:
            return "ready"
        return "failed" if self._loop.time() < self._not_before else "asleep"

    @property
    def waking_s(self) -> float:
        """Seconds since the wake under way began."""
        return self._loop.time() - self._waking_since if self._waking else 0.0

    @property
    def full(self) -> bool:
        """Whether no more bytes are held."""
        return self.held_bytes >= MAX_HELD_BYTES

    # -- an instance

    async def awake(self, exchange: Exchange) -> Pool:
        """The instance's connections, once there are any. Raises Refusal after `hold_s`, or where there is no place."""
        if self.pool:
            return self.pool
        now = self._loop.time()
        if not exchange.until:
            exchange.until = now + self._hold_s
        if self._waking is None:
            if now < self._not_before:
                raise Refusal(self._failed(exchange))
            self._waking, self._waking_since = self._loop.create_task(self._wake()), now
            self._waking.add_done_callback(_heard)
        if self.held >= MAX_HELD or self.full:
            raise Refusal(self._cold(exchange, "too many requests wait for the instance already"))
        self.held += 1
        self.held_bytes += len(exchange.kept or b"")
        exchange.waits = True
        waking = self._waking
        try:
            await asyncio.wait({waking}, timeout=max(0.0, exchange.until - now))
            if not waking.done():
                raise Refusal(self._cold(exchange, "the instance is being started"))
            return waking.result()
        except ExollamaError:
            raise Refusal(self._failed(exchange)) from None
        finally:
            self.held -= 1
            self.held_bytes -= len(exchange.kept or b"")
            exchange.waits = False

    async def there(self) -> Pool | None:
        """The instance's connections if one is ready, for what wakes none; None also where that is unknown."""
        if self.pool or self._waking or self._loop.time() < self._nothing_until:
            return self.pool
        if self._looking is None:
            self._looking = self._loop.create_task(self._look())
        looking = self._looking
        await asyncio.wait({looking}, timeout=LOOK_S)
        return looking.result() if looking.done() else None

    def suspect(self, pool: Pool, why: str) -> None:
        """Something is wrong with it: the next request looks again."""
        if self.pool is pool:
            log.info("the instance is looked for again: %s", why)
            pool.close()
            self.pool = None  # its place stays: streams may still run there, and count as its use
            self._nothing_until = -math.inf

    async def check(self) -> None:
        """Look whether an instance that nobody uses here is still there: others may have removed it."""
        if self.pool and not self.in_use and not self._looking:
            self._looking = self._loop.create_task(self._look())
            await self._looking

    def looked_at(self) -> None:
        """Somebody looks at the status, which is made sure of for the next look: no answer waits for that."""
        if self.pool and self._loop.time() >= self._check_due:
            self._check_due = self._loop.time() + _CHECK_S
            self._chore(self.check)

    async def _wake(self) -> Pool:
        try:
            place = await self._woken()
        except ExollamaError as failure:
            self._failed_for(failure)
            raise
        except Exception as bug:
            log.exception("waking failed")
            words = printable(f"{type(bug).__name__} {bug}")[:200]
            told = ExollamaError(f"Waking failed here: {words}")
            self._failed_for(told)
            raise told from bug
        finally:
            self._waking = None
            self.board.clear()
        self._failures, self.failure, self._noted = 0, None, ""
        self.woken += 1
        took_s = self._loop.time() - self._waking_since
        self._note(f"Instance {place.id} in {place.zone} is ready" + (f" after {took_s:.0f} s." if took_s > 1 else "."))
        return self._use(place)

    def _failed_for(self, failure: ExollamaError) -> None:
        # A boot's log is for who runs the forwarder, not for every program that asks.
        self.failure = printable(failure.summary if isinstance(failure, BootFailed) else failure)
        # Whoever asks again and again must not create one machine after the other.
        doublings = min(self._failures, 20)
        pause_s = _FIRST_PAUSE_S * 2.0**doublings if self.source.wakes else _NOTHING_S
        self._failures += 1
        self._not_before = self._loop.time() + min(pause_s, _LONGEST_PAUSE_S)
        words = self.failure if isinstance(failure, NoInstance) else f"No instance: {failure}"
        if words != self._noted:  # again and again the same is for the log
            self._note(words)
        self._noted = words

    async def _woken(self) -> Place:
        for attempt in range(_TRIES - 1 if self.source.wakes else 0):
            try:
                return await in_thread(self.source.wake)
            except _PASSING as passing:
                log.info("waking once more: %s", passing)
                await asyncio.sleep(2.0**attempt)
        return await in_thread(self.source.wake)

    async def _look(self) -> Pool | None:
        before, unseen = self.pool, None
        try:
            place = await in_thread(self.source.look)
        except ExollamaError as trouble:
            log.info("nothing is known: %s", trouble)
            unseen, place = printable(trouble), None
        except Exception:
            log.exception("looking failed")
            place = None
        finally:
            self._looking = None
        self.unseen = unseen
        if place is None:
            # Whoever polls asks the API less and less often; a use looks at once.
            self._nothing_s = min(2 * self._nothing_s, _LONGEST_NOTHING_S) if self._nothing_s else LOOK_S
            self._nothing_until = self._loop.time() + self._nothing_s
            checked = self.pool is before and unseen is None
            if not self.in_use and (self.pool is None or checked):
                if self.pool:
                    log.info("the instance is gone")
                    self.pool.close()
                self.pool = self.place = None
            return self.pool
        return self._use(place)

    def _use(self, place: Place) -> Pool:
        self._nothing_s = 0.0
        if self.pool and self.place == place:
            return self.pool
        if self.pool:
            self.pool.close()
        self.place = place
        self.pool = Pool(place.address, place.port, place.hop, place.fingerprint, self._view)
        return self.pool

    # -- refusals

    def ending(self, exchange: Exchange) -> Reply:
        """What a request is told that waits for an instance when the forwarder ends; the instance boots on."""
        return self._cold(exchange, "the forwarder ends while the instance is being started")

    def _cold(self, exchange: Exchange, message: str) -> Reply:
        board = self.board
        phase = board.phase or "waking"
        share = "" if board.percent is None else f" {board.percent:.0f} %"
        return error(
            503,
            f"{message}: {phase}{share}, {self.waking_s:.0f} s so far. Send the request again.",
            path=exchange.head.path,
            fields=b"Retry-After: %d\r\n" % _RETRY_AFTER_S,
            phase=phase,
            percent=board.percent,
            seconds=round(self.waking_s, 1),
        )

    def _failed(self, exchange: Exchange) -> Reply:
        again_s = max(1, math.ceil(self._not_before - self._loop.time()))
        return error(
            503,
            f"{self.failure} (asked again in {again_s} s at the earliest)",
            path=exchange.head.path,
            fields=b"Retry-After: %d\r\n" % again_s,
            phase="failed",
            percent=None,
            seconds=0.0,
        )

    # -- what goes on beside requests

    def used(self, by: int) -> None:
        """A use of a model began (1) or ended (-1). Without an instance it is none yet, and none if it is refused."""
        self.in_use += by
        if self.pool:
            self.last_use = self._loop.time()
            self._unrecorded = True

    @property
    def idle_s(self) -> float:
        """Seconds since the last use of a model through here; infinite where there was none."""
        return 0.0 if self.in_use else self._loop.time() - self.last_use

    def sweep(self, now: float) -> None:
        """Once a second: end idle connections, write activity where it is due, look for what should be gone."""
        if self.pool:
            self.pool.sweep(now)
        if (self._unrecorded or self.in_use) and self.place and now >= self._record_due:
            self._unrecorded = bool(self.in_use)
            # Until it is over; then what it says is right for a quarter of the idle timeout.
            self._record_due = now + self.place.idle_s / 4
            self._chore(partial(self._record, self.place))
        if now >= self._tidy_due and not self._waking:  # which tidies up itself, and knows what to spare
            self._tidy_due = now + _TIDY_S
            self._chore(self._tidy)
        self._warn()

    async def _record(self, place: Place, *, always: bool = False) -> None:
        try:
            used_ago_s = self.idle_s
            written = await in_thread(lambda: self.source.record(place, used_ago_s, always=always))
            if not (written or always):  # the label is young enough, or the instance gone
                await self.check()
        except ExollamaError as trouble:
            self._record_due = min(self._record_due, self._loop.time() + _RECORD_RETRY_S)
            self._unrecorded = True
            log.warning("activity not recorded: %s", trouble)

    async def _tidy(self) -> None:
        spare = ""
        if self.place and (self.in_use or self.idle_s < self.place.idle_s):
            spare = self.place.id
        try:
            await in_thread(lambda: self.source.tidy(spare))
            if not spare:
                await self.check()
        except ExollamaError as trouble:
            log.info("nothing was tidied up: %s", trouble)

    def _warn(self) -> None:
        place = self.place
        if place is None or self._warned == place.id:
            return
        if words := last_day(place.zone, place.id, place.deadline, datetime.now(UTC)):
            self._warned = place.id
            self._note(words)

    async def finish(self) -> None:
        """Write activity once more, where somebody used the instance since the last time."""
        if (self._unrecorded or self.in_use) and self.place:
            self._unrecorded = False
            try:
                await self._record(self.place, always=True)
            except RuntimeError as error:  # an interpreter that ends starts no thread; the instance itself knows
                log.info("activity not recorded: %s", error)

    def close(self) -> None:
        """End everything that is the loop's."""
        for task in (self._waking, self._looking, *self._chores):
            if task:
                task.cancel()
        if self.pool:
            self.pool.close()

    def _chore(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def doing() -> None:
            try:
                await work()  # made here: a loop that ends before this begins leaves nothing that was never awaited
            except Exception:
                log.exception("a chore failed")

        task = self._loop.create_task(doing())
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
