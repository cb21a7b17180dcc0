"""All zones at once: where the owned instances are, one list call per zone, side by side.

Neighbours: `functions.status` and `functions.reap_idle` start from it. Threads stay here and in them, outside the
protocols.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from client.errors import ExollamaError
from client.model import Instance
from client.settings import Settings
from client.transport import Send
from functions.cloud import Cloud

WORKERS = 8


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone that was looked at: its owned instances that are not gone, or why it could not be."""

    name: str
    cloud: Cloud
    instances: tuple[Instance, ...]
    trouble: str | None


def survey(
    settings: Settings,
    send: Send,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Zone]:
    """Look at EXOSCALE_ZONES, or every zone there is. Raises ExollamaError where not even the zones can be listed."""
    home = Cloud(settings, settings.zone, send, clock=clock, sleep=sleep)
    names = settings.zones or tuple(home.list_zones())
    if not names:
        raise ExollamaError(f"{home.base}/zone lists no zone, so nothing was looked at. Set EXOSCALE_ZONES.")

    def look(name: str) -> Zone:
        cloud = home.beside(name)
        try:
            listed = cloud.list_instances()
            cloud.check_clock()
        except ExollamaError as error:
            return Zone(name, cloud, (), f"{name} was not looked at: {error}")
        return Zone(name, cloud, tuple(i for i in listed if i.owned), None)

    with ThreadPoolExecutor(WORKERS, thread_name_prefix="zone") as pool:
        return list(pool.map(look, names))
