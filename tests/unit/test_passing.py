"""What passes by itself and no program is told of: an instance that vanished as it was made."""

import asyncio
from typing import Any

import pytest

from client.boot import Board
from client.errors import BootFailed, ExollamaError, Vanished
from client.keeper import Keeper
from client.settings import Secret
from client.source import Place

PLACE = Place(
    id="new-2", zone="z", address="127.0.0.1", port=1, key=Secret("k"), fingerprint="f", idle_s=60, deadline=None
)


class Fickle:
    """A source whose instance vanishes as often as that, or whose boot fails."""

    wakes = True

    def __init__(self, *failures: ExollamaError) -> None:
        self.failures = list(failures)
        self.asked = 0

    def look(self) -> Place | None:
        return None

    def wake(self) -> Place:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        return PLACE

    def record(self, place: Place, used_ago_s: float, *, always: bool = False) -> bool:
        return True

    def tidy(self, spare: str) -> None: ...

    def facts(self, place: Place) -> dict[str, Any]:
        return {}


def wake(source: Fickle, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The id of what was woken."""
    real = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: real(0))

    async def run() -> str | None:
        keeper = Keeper(source, Board(), hold_s=5, view=memoryview(bytearray(64)))
        try:
            await keeper._wake()
            return keeper.place.id if keeper.place else None
        finally:
            keeper.close()

    return asyncio.run(run())


def test_an_instance_that_vanished_as_it_was_made_is_woken_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Fickle(Vanished("new-1 was removed"))
    assert wake(source, monkeypatch) == "new-2"
    assert source.asked == 2


def test_not_more_than_three_are_made_and_a_boot_that_failed_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Fickle(*[Vanished("it was removed")] * 9)
    with pytest.raises(Vanished):
        wake(source, monkeypatch)
    assert source.asked == 3
    source = Fickle(BootFailed("no disk", phase="docker"))
    with pytest.raises(BootFailed):
        wake(source, monkeypatch)
    assert source.asked == 1
