"""What a forwarder's page finds out about its instance: from itself and the API, seldom, and waking nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from client import glance
from client.boot import Board
from client.endpoint import Endpoint
from client.errors import AgentDown, ApiError, Denied, Unreachable
from client.exchange import Reply
from client.forwarder import Forwarder
from client.source import ByCredentials, Place
from tests import fakes
from tests.keeping import Kept, Script, place, run

TAGS = re.compile(r"<script>.*</script>|<style>.*</style>|<[^>]+>", re.DOTALL)
SAID = {"idle_s": 100.0, "in_flight": 0, "requests": 7, "boot": {"phase": "ready", "phases": [], "log": []}}


def told() -> dict[str, Any]:
    """Of an instance that was created two hours ago."""
    return {
        "name": "exollama",
        "model": "granite3.1-dense:8b",
        "created": (datetime.now(UTC) - timedelta(hours=2)).isoformat(),
        "type": "standard.large",
        "disk_gib": 50,
        "hourly_cost": 0.1,
    }


class Known(Script):
    """A source that knows more, and counts how often it is asked for that."""

    def __init__(self, *facts: dict[str, Any], **answers: Any) -> None:
        super().__init__(**answers)
        self.known = list(facts)

    def facts(self, place: Place) -> dict[str, Any]:
        self.asked.append(("facts",))
        return self.known.pop(0) if len(self.known) > 1 else self.known[0]


class Machine:
    """The instance: what it answers, raised if it is an exception, and how often it was asked."""

    answer: Any = SAID
    asked = 0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    one = Machine()

    def status(endpoint: Endpoint) -> dict[str, Any]:
        assert endpoint.fingerprint == "f" * 64, "the certificate is the one that was proved"
        one.asked += 1
        if isinstance(one.answer, Exception):
            raise one.answer
        return dict(one.answer)

    monkeypatch.setattr(Endpoint, "status", status)
    return one


def look(kept: Kept) -> Callable[[], Awaitable[str]]:
    """Somebody who opens the page, and what it says."""
    own = {"active": 1, "closing": False, "began": 0.0, "now": kept.loop.time, "counts": Counter[str]()}
    forwarder = cast("Forwarder", SimpleNamespace(keeper=kept.keeper, **own))
    one = glance.Glance("exollama")

    async def page() -> str:
        reply: Reply = await one.page(forwarder)
        assert reply.status == 200
        assert b"Content-Security-Policy: default-src 'none'; " in reply.fields
        assert reply.fields.endswith(b"\r\n")
        return " ".join(TAGS.sub(" ", reply.body.decode()).split())

    return page


def test_of_an_instance_that_is_there_the_page_has_what_it_and_the_api_say(machine: Machine) -> None:
    source = Known(told())

    async def scene(kept: Kept) -> None:
        await kept.ready()
        text = await look(kept)()
        for words in (
            "granite3.1-dense:8b",
            "standard.large",
            "about 0.20",
            "about 0.10 an hour",
            "7 since it",
            "5 min",
        ):
            assert words in text, words

    run(scene, source)


@pytest.mark.parametrize(
    ("left_s", "said", "words"),
    [
        (200, SAID, "Goes in 3 min 1"),
        (-5, SAID, "Goes at the next reaping"),
        (-5, SAID | {"in_flight": 1}, "Goes not while in use"),
    ],
    ids=["near", "over", "over, in use"],
)
def test_it_goes_at_its_deadline_where_that_comes_first(
    machine: Machine, left_s: float, said: dict[str, Any], words: str
) -> None:
    machine.answer = said
    ends = datetime.now(UTC) + timedelta(seconds=left_s)

    async def scene(kept: Kept) -> None:
        await kept.ready()
        assert words in await look(kept)()

    run(scene, Known(told(), wake=[place(deadline=ends)]))


def test_it_is_asked_seldom_however_many_look_and_the_api_once(machine: Machine) -> None:
    source = Known(told())

    async def scene(kept: Kept) -> None:
        await kept.ready()
        page = look(kept)
        for _ in range(5):
            await page()
        assert machine.asked == 1
        kept.loop.ahead += 10
        await page()
        assert machine.asked == 2
        assert source.count("facts") == 1

    run(scene, source)


def test_what_the_api_does_not_say_is_not_known_and_asked_for_again_after_a_minute(machine: Machine) -> None:
    source = Known({}, told())

    async def scene(kept: Kept) -> None:
        await kept.ready()
        page = look(kept)
        assert "its type or its price is not known here" in await page()
        kept.loop.ahead += 10
        assert "its type or its price is not known here" in await page()
        kept.loop.ahead += 60
        assert "about 0.10 an hour" in await page()

    run(scene, source)


def test_an_instance_that_gives_no_answer_is_shown_with_why(machine: Machine) -> None:
    machine.answer = Unreachable("it cannot be reached: refused.")

    async def scene(kept: Kept) -> None:
        await kept.ready()
        text = await look(kept)()
        assert "gives no answer" in text
        assert "it cannot be reached: refused." in text

    run(scene, Known(told()))


@pytest.mark.parametrize(
    ("trouble", "used", "asleep"),
    [
        (Unreachable("refused."), 0, True),
        (Unreachable("refused."), 1, False),
        (AgentDown("nginx is up."), 0, False),
    ],
    ids=["silent", "silent, in use", "forwards, though its agent is down"],
)
def test_of_one_that_was_removed_it_is_not_told_for_ever_that_it_runs(
    machine: Machine, trouble: Exception, used: int, asleep: bool
) -> None:
    machine.answer = trouble

    async def scene(kept: Kept) -> None:
        await kept.ready()
        kept.keeper.in_use = used
        page = look(kept)
        await page()
        kept.loop.ahead += 10
        text = await page()
        assert ("The first prompt wakes one" in text, "1 instance running" in text) == (asleep, not asleep)

    run(scene, Known(told()))


def test_looking_finds_what_somebody_else_made_and_wakes_and_uses_nothing(machine: Machine) -> None:
    source = Known(told(), look=[None, place("another")])

    async def scene(kept: Kept) -> None:
        page = look(kept)
        assert "The first prompt wakes one" in await page()
        kept.loop.ahead += 120
        assert "another" in await page()
        assert source.count("wake") == 0
        assert kept.keeper.idle_s == float("inf")

    run(scene, source)


def test_of_a_forwarder_that_wakes_none_nobody_is_told_that_it_does(machine: Machine) -> None:
    async def scene(kept: Kept) -> None:
        assert "It wakes none" in await look(kept)()

    run(scene, Known(told(), wakes=False))


def test_where_nothing_could_be_seen_nobody_is_told_that_nothing_is_there(machine: Machine) -> None:
    trouble = ApiError("GET", "/instance", 403, "Forbidden by role policy")

    async def scene(kept: Kept) -> None:
        page = look(kept)
        text = await page()
        for words in ("Not everything could be looked at", "Forbidden by role policy", "no machine that is ready"):
            assert words in text, words
        kept.loop.ahead += 120
        assert "Not everything" not in await page()

    run(scene, Known(told(), look=[trouble, None]))


def test_while_one_is_woken_its_phases_are_shown_as_they_were_seen_from_here(machine: Machine) -> None:
    source = Known(told())
    source.gate.clear()

    async def scene(kept: Kept) -> None:
        asking = kept.asks()
        await kept.until(lambda: kept.keeper.state == "waking", "it is woken")
        kept.board("docker", None, 0.0)
        kept.board.seconds["docker"] = 12.0
        kept.board("model", 41.0, 0.0)
        text = await look(kept)()
        for words in ("Waking: model 41 %", "docker", "12 s", "model, now", "1 request waits for it."):
            assert words in text, words
        assert "In flight" not in text
        assert machine.asked == 0
        source.gate.set()
        await asking

    run(scene, source)


def test_a_board_counts_the_seconds_of_each_phase_and_holds_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("client.boot.time.monotonic", lambda: now[0])
    board = Board()
    for phase, seconds in (("a", 3), ("a", 2), ("b", 1), ("a", 4), ("c", 0)):
        board(phase, None, 0.0)
        now[0] += seconds
    assert board.seconds == {"a": 9.0, "b": 1.0}
    for number in range(100):
        board(f"p{number}", None, 0.0)
    assert len(board.seconds) < 30
    board.clear()
    assert board.seconds == {}


class Api:
    """What of the API is asked; an exception is raised."""

    def __init__(self, seen: Any = None, kind: Any = "standard.large") -> None:
        self.seen = seen or fakes.instance(type_id="t", disk_gib=50)
        self.kind = kind

    def get_instance(self, _id: str) -> Any:
        if isinstance(self.seen, Exception):
            raise self.seen
        return self.seen

    def type_names(self) -> dict[str, str]:
        if isinstance(self.kind, Exception):
            raise self.kind
        return {"t": self.kind} if self.kind else {}


def facts(api: Api) -> dict[str, Any]:
    source = ByCredentials(cast("Any", SimpleNamespace(api=api)), Board(), wakes=True)
    return source.facts(place())


def test_credentials_tell_an_instances_type_and_about_what_it_costs() -> None:
    assert facts(Api()) == {
        "name": "exollama",
        "model": "granite3.1-dense:8b",
        "created": fakes.instance().created.isoformat(),  # type: ignore[union-attr]
        "type": "standard.large",
        "disk_gib": 50,
        "hourly_cost": pytest.approx(0.10033),
        "stops": False,
    }


@pytest.mark.parametrize(
    ("api", "known"),
    [
        (Api(seen=Denied("GET", "/instance/x", 403, "Forbidden by role policy")), {}),
        (Api(kind=None), {"type": None, "hourly_cost": None}),
        (Api(kind="gpu9.tiny"), {"type": "gpu9.tiny", "hourly_cost": None}),
        (Api(kind=ApiError("GET", "/instance-type", 500, "no")), {"type": None, "hourly_cost": None}),
    ],
    ids=["denied", "no such type", "no price", "no types"],
)
def test_what_credentials_may_not_see_or_nobody_knows_is_left_open(api: Api, known: dict[str, Any]) -> None:
    found = facts(api)
    assert {name: found[name] for name in known} == known
    assert known or found == {}
