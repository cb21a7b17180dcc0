"""All zones at once: where the owned instances are, one list call per zone, side by side.

Neighbours: `functions.status` and `functions.reap_idle` start from it. Threads stay here and in them, outside the
protocols.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from client.errors import ExollamaError, NotFound, Unanswered
from client.settings import DEFAULT_ZONE, Settings
from client.transport import Send
from functions.cloud import Cloud

if TYPE_CHECKING:
    from client.model import Instance

WORKERS = 8
LOOK_S = 0.2
"""Whoever waits for threads looks this often: Python handles a signal between two waits, and one that arrives just
before a wait begins does not end it."""
_UNSEEN = " was not looked at"

T = TypeVar("T")
R = TypeVar("R")


class Zone(NamedTuple):
    """One zone that was looked at: its owned instances, and those of other versions; or why it could not be."""

    name: str
    cloud: Cloud
    instances: tuple[Instance, ...]
    trouble: str | None
    foreign: tuple[Instance, ...] = ()


def nothing(result: Mapping[str, Any]) -> str:
    """What an empty result means, in words: that nothing runs is said only of zones that were looked at."""
    if result.get("foreign"):
        return f"No instance of this version in {', '.join(result['zones'])}, but of another one."
    if result["zones"]:
        return f"No owned instance in {', '.join(result['zones'])}: nothing runs, nothing costs."
    return "Nothing is known: no zone could be looked at."


def failures(result: Mapping[str, Any]) -> list[str]:
    """What of a pass or a look failed, a sentence each: instances that were acted upon, those of another
    version, and zones that were not seen.

    Zones that were not seen for the same reason share one.
    """
    instances = [one for one in result["instances"] if one.get("outcome") == "failed"] + list(result.get("foreign", ()))
    sentences = [f"{one['zone']} {one['id']} ({one['name']}): {one['reason']}" for one in instances]
    alike: dict[str, list[str]] = {}
    for sentence in result.get("failed", ()):
        name, _, why = sentence.partition(f"{_UNSEEN}: ")
        alike.setdefault(why, []).append(name)
    sentences += alike.pop("", ())
    for why, (first, *others) in alike.items():
        sentences.append(f"{first}{_UNSEEN}{', nor ' * bool(others)}{', '.join(others)}: {why}")
    return sentences


def foreign(zones: Iterable[Zone]) -> list[dict[str, str]]:
    """Instances that another version made, for a result: nobody here ends them, so each look has to tell."""
    return [_foreign(one, one.foreign) for zone in zones for one in zone.foreign if one.foreign]


def _foreign(one: Instance, version: str) -> dict[str, str]:
    from client.model import left_alone, printable

    return {
        "id": one.id,
        "name": printable(one.owned_name),
        "zone": one.zone,
        "state": printable(one.state),
        "version": version,
        "reason": left_alone(version),
    }


def survey(
    settings: Settings,
    send: Send,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Zone]:
    """Look at EXOSCALE_ZONES, or every zone there is. Raises ExollamaError where not even the zones can be listed."""
    home = Cloud(settings, settings.zone, send, clock=clock, sleep=sleep)
    # An endpoint without {zone} is one zone, whatever its list of zones says.
    one_zone = "{zone}" not in settings.endpoint
    names = (settings.zone,) if one_zone else settings.zones or tuple(_all_zones(home))
    if not names:
        raise ExollamaError(f"{home.base}/zone lists no zone, so nothing was looked at. Set EXOSCALE_ZONES.")

    def look(name: str) -> Zone:
        cloud = home.beside(name)
        try:
            listed = cloud.list_instances()
            cloud.check_clock()
        except ExollamaError as error:
            return Zone(name, cloud, (), f"{name}{_UNSEEN}: {error}")
        owned, strange = tuple(i for i in listed if i.owned), tuple(i for i in listed if i.foreign)
        return Zone(name, cloud, owned, None, strange)

    return side_by_side(look, names, at_once=WORKERS)


def _all_zones(home: Cloud) -> list[str]:
    """Every zone, from the one that is set or, where that does not answer as one, from the default."""
    try:
        return home.list_zones()
    except (NotFound, Unanswered):
        if home.zone == DEFAULT_ZONE:
            raise
        return home.beside(DEFAULT_ZONE).list_zones()


def side_by_side(do: Callable[[T], R], items: Iterable[T], *, at_once: int) -> list[R]:
    """Apply `do` to each item in a few threads, and return the results in order; the first error is raised.

    The threads are daemons, unlike those of concurrent.futures: Ctrl-C and SIGTERM end the process at once, not after
    the last answer that somebody waits for.
    """
    waiting = list(enumerate(items))[::-1]
    results: dict[int, R] = {}
    errors: list[Exception] = []

    def work() -> None:
        while waiting and not errors:
            try:
                index, item = waiting.pop()
            except IndexError:  # another thread took the last one
                return
            try:
                results[index] = do(item)
            except Exception as error:  # noqa: BLE001 - handed to the caller below
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(waiting)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(LOOK_S)
    if errors:
        raise errors[0]
    return [results[index] for index in sorted(results)]
