"""The contestant itself: `python -m tests.benchmarks.forwarding.forwarder PORT [FINGERPRINT]`, until it is killed.

A forwarder on a port of loopback, which it prints, that has found its instance already: on that port of loopback,
with TLS where a certificate's fingerprint is given. Prints the port.
"""

import asyncio
import json
import sys
from typing import Any

from client.boot import Board
from client.errors import NoInstance
from client.forwarder import Address, Forwarder
from client.guard import Guard
from client.keeper import Keeper
from client.running import collect_seldom
from client.settings import Secret, Settings
from client.source import Place
from client.upstream import Pool
from tests.benchmarks.forwarding.answers import KEY


class Nowhere:
    """A `Source` that knows of nothing: the instance is there for good."""

    wakes = False

    def look(self) -> Place | None:
        return None

    def wake(self) -> Place:
        raise NoInstance("The benchmark's instance is gone.")

    def record(self, place: Place, used_ago_s: float, *, always: bool = False) -> bool:
        """Nothing."""
        return True

    def tidy(self, spare: str) -> None:
        """Nothing."""

    def facts(self, place: Place) -> dict[str, Any]:
        """Nothing."""
        return {}


async def serve(port: int, fingerprint: str | None) -> None:
    collect_seldom()
    forwarder = Forwarder(Settings(api_key="EXObenchmark", api_secret=Secret("not-a-secret")), Guard())
    forwarder.keeper = Keeper(Nowhere(), Board(), hold_s=10, view=forwarder.view)
    hop = b"Host: 127.0.0.1:%d\r\nX-Ollama-Key: %b\r\n" % (port, KEY)
    forwarder.keeper.pool = Pool("127.0.0.1", port, hop, fingerprint, forwarder.view)
    address = await forwarder.listen(Address(port=0))
    print(json.dumps({"port": address.port}), flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2] if sys.argv[2:] else None))
