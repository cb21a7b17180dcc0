"""An instance is woken once for however many ask, and waited for within bounds; failures are paused after."""

import asyncio
import logging
import re
import time

import pytest

from client.errors import BootFailed, Draining, ExollamaError, NoInstance, SettingsError, Unreachable
from client.exchange import Exchange, Refusal
from client.keeper import LOOK_S, MAX_HELD, MAX_HELD_BYTES
from client.upstream import Pool
from tests.keeping import Kept, Script, place, refused, run

# -- one wake


@pytest.mark.parametrize("number", [1, 50])
def test_however_many_ask_at_once_there_is_one_wake_and_all_are_given_its_instance(number: int) -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        assert kept.keeper.state == "asleep"
        asking = [kept.asks() for _ in range(number)]
        await kept.until(lambda: kept.keeper.held == number, "all are held")
        assert (kept.keeper.state, kept.keeper.waking_s >= 0) == ("waking", True)
        kept.script.gate.set()
        pools = await asyncio.gather(*asking)
        assert len(set(map(id, pools))) == 1
        assert kept.script.asked == [("wake",)]
        assert (kept.keeper.held, kept.keeper.held_bytes, kept.keeper.woken) == (0, 0, 1)
        assert (kept.keeper.state, kept.keeper.waking_s) == ("ready", 0.0)
        assert kept.notes == ["Instance an-id in ch-gva-2 is ready."]
        assert await kept.asks() is pools[0]
        assert kept.script.asked == [("wake",)]

    run(scene)


def test_programs_that_leave_end_no_wake_that_others_wait_for() -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        first, second = kept.asks(), kept.asks()
        await kept.until(lambda: kept.keeper.held == 2, "both are held")
        first.cancel()
        await kept.until(lambda: kept.keeper.held == 1, "one has left")
        kept.script.gate.set()
        assert await second is kept.keeper.pool
        assert kept.script.count("wake") == 1

    run(scene)


# -- held within bounds


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_where_the_hold_runs_out_503_says_phase_percent_and_seconds_and_the_wake_goes_on(path: str) -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        asking = kept.asks(path)
        await kept.until(lambda: kept.keeper.held, "it is held")
        kept.board("model", 41.26, 3.0)
        kept.loop.ahead += 31
        status, after_s, said = await refused(asking)
        assert status == 503
        assert 1 <= after_s <= 60
        assert set(said) == {"error", "phase", "percent", "seconds"}
        assert (said["phase"], said["percent"]) == ("model", 41.26)
        assert 31 <= said["seconds"] < 40
        message = said["error"]["message"] if path.startswith("/v1/") else said["error"]
        assert re.fullmatch(
            r"the instance is being started: model 41 %, 3\d s so far\. Send the request again\.", message
        )
        if path.startswith("/v1/"):
            assert said["error"]["type"] == "server_error"
        again = kept.asks(path)
        await kept.until(lambda: kept.keeper.held, "the next one is held")
        kept.script.gate.set()
        assert await again is kept.keeper.pool
        assert kept.script.count("wake") == 1

    run(scene)


def test_before_anything_is_known_of_a_boot_the_phase_is_waking() -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        asking = kept.asks()
        await kept.until(lambda: kept.keeper.held, "it is held")
        kept.loop.ahead += 31
        _, _, said = await refused(asking)
        assert (said["phase"], said["percent"]) == ("waking", None)

    run(scene)


def test_a_request_is_held_for_so_long_as_a_whole_however_often_it_is_sent_on() -> None:
    async def scene(kept: Kept) -> None:
        exchange = kept.exchange()
        pool = await kept.keeper.awake(exchange)
        kept.loop.ahead += 20
        kept.keeper.suspect(pool, "it fell silent")
        kept.script.gate.clear()
        again: asyncio.Task[Pool] = kept.loop.create_task(kept.keeper.awake(exchange))
        await kept.until(lambda: kept.keeper.held, "it is held")
        kept.loop.ahead += 11
        assert (await refused(again))[0] == 503

    run(scene)


def test_a_wake_that_fails_when_nobody_waits_any_more_is_told_to_the_next_one() -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        asking = kept.asks()
        await kept.until(lambda: kept.keeper.held, "it is held")
        kept.loop.ahead += 31
        await refused(asking)
        kept.script.gate.set()
        await kept.until(lambda: kept.keeper.state == "failed", "it failed")
        assert "quota exceeded" in (await refused(kept.asks()))[2]["error"]

    run(scene, Script(wake=[ExollamaError("quota exceeded")]))


def test_more_than_may_be_held_are_refused_at_once_and_the_others_answered() -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        asking = [kept.asks() for _ in range(MAX_HELD)]
        await kept.until(lambda: kept.keeper.held == MAX_HELD, "all are held")
        status, after_s, said = await refused(kept.asks())
        assert (status, after_s > 0) == (503, True)
        assert "too many requests wait for the instance already" in said["error"]
        assert set(said) == {"error", "phase", "percent", "seconds"}
        kept.script.gate.set()
        assert len(await asyncio.gather(*asking)) == MAX_HELD
        assert kept.keeper.held == 0

    run(scene)


def test_bytes_are_counted_as_they_arrive_and_more_than_may_be_held_are_refused() -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        large: list[Exchange] = [kept.exchange(length=MAX_HELD_BYTES // 2) for _ in range(2)]
        large[0].feed(b"x" * 1000)
        asking = [kept.loop.create_task(kept.keeper.awake(one)) for one in large]
        await kept.until(lambda: kept.keeper.held == 2, "both are held")
        assert kept.keeper.held_bytes == 1000
        large[0].feed(b"x" * (MAX_HELD_BYTES // 2 - 1000))
        large[1].feed(b"x" * (MAX_HELD_BYTES // 2 - 1))
        assert (kept.keeper.held_bytes, kept.keeper.full) == (MAX_HELD_BYTES - 1, False)
        large[1].feed(b"x")
        assert (kept.keeper.full, large[1].full) == (True, True)
        assert "too many requests" in (await refused(kept.asks()))[2]["error"]
        asking[0].cancel()
        await kept.until(lambda: kept.keeper.held == 1, "one has left")
        assert kept.keeper.held_bytes == MAX_HELD_BYTES // 2
        kept.script.gate.set()
        assert await asking[1] is kept.keeper.pool
        assert kept.keeper.held_bytes == 0

    run(scene)


# -- failures


def test_after_a_failure_there_is_no_second_wake_before_the_pause_which_doubles_and_ends_with_a_success() -> None:
    fails = ExollamaError("quota exceeded")

    async def scene(kept: Kept) -> None:
        for number, pause_s in enumerate([30, 60, 120, 240, 480, 900, 900], start=1):
            status, after_s, said = await refused(kept.asks())
            assert (status, after_s) == (503, pause_s)
            assert said["error"] == f"quota exceeded (asked again in {pause_s} s at the earliest)"
            assert (said["phase"], said["percent"], said["seconds"]) == ("failed", None, 0.0)
            kept.loop.ahead += pause_s - 10
            _, after_s, _ = await refused(kept.asks())
            assert 8 <= after_s <= 10
            assert kept.keeper.state == "failed"
            assert kept.script.count("wake") == number
            assert kept.notes == ["No instance: quota exceeded"], "the same is told once"
            kept.loop.ahead += 11
            assert kept.keeper.state == "asleep"
        pool = await kept.asks()
        assert kept.keeper.failure is None
        kept.keeper.suspect(pool, "it is gone")
        assert (await refused(kept.asks()))[1] == 30, "the pause begins anew"

    run(scene, Script(wake=[*[fails] * 7, place(), fails]))


def test_all_who_wait_are_told_of_the_failure_at_once() -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        asking = [kept.asks("/v1/completions") for _ in range(9)]
        await kept.until(lambda: kept.keeper.held == 9, "all are held")
        kept.script.gate.set()
        told = [await refused(one) for one in asking]
        assert {(status, after_s) for status, after_s, _ in told} == {(503, 30)}
        assert "quota exceeded" in told[0][2]["error"]["message"]
        assert kept.script.count("wake") == 1

    run(scene, Script(wake=[ExollamaError("quota exceeded")]))


def test_programs_are_told_in_which_phase_a_boot_failed_and_a_person_its_log_as_well() -> None:
    async def scene(kept: Kept) -> None:
        _, _, said = await refused(kept.asks())
        assert said["error"].startswith("The boot failed in phase docker: it broke (asked again in 30 s")
        assert kept.notes == ["No instance: The boot failed in phase docker: it broke\n  | the last line"]

    boot = BootFailed("The boot failed in phase docker: it broke", phase="docker", log=("the last line",))
    run(scene, Script(wake=[boot]))


@pytest.mark.parametrize("kind", [NoInstance, Draining, Unreachable])
@pytest.mark.parametrize(("times", "goes_well"), [(1, True), (2, True), (3, False)])
def test_an_instance_that_went_away_meanwhile_is_woken_again_within_the_same_wake(
    kind: type[ExollamaError], times: int, goes_well: bool
) -> None:
    async def scene(kept: Kept) -> None:
        asking = kept.asks()
        await kept.until(asking.done, "it is over", step_s=0.2)
        assert kept.script.count("wake") == min(times + 1, 3)
        assert (asking.exception() is None) is goes_well
        assert kept.keeper.state == ("ready" if goes_well else "failed")

    run(scene, Script(wake=[*[kind("it went away")] * times, place()]), hold_s=900)


@pytest.mark.parametrize("error", [SettingsError("no"), BootFailed("no", phase="model"), ExollamaError("no")])
def test_no_other_failure_is_tried_again_within_the_same_wake(error: ExollamaError) -> None:
    async def scene(kept: Kept) -> None:
        assert (await refused(kept.asks()))[1] == 30
        assert kept.script.count("wake") == 1

    run(scene, Script(wake=[error, place()]))


def test_where_none_may_be_woken_it_is_looked_for_again_some_seconds_later() -> None:
    async def scene(kept: Kept) -> None:
        for number in (1, 2, 3):
            _, after_s, said = await refused(kept.asks())
            assert after_s == 5
            assert said["error"].startswith("There is none. Run `exollama provision`.")
            assert kept.script.count("wake") == number
            kept.loop.ahead += 5.01
        assert await kept.asks() is kept.keeper.pool

    fails = NoInstance("There is none. Run `exollama provision`.")
    run(scene, Script(wakes=False, wake=[*[fails] * 3, place()]))


def test_a_mistake_in_what_wakes_is_a_failure_as_any_other_with_its_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(kept: Kept) -> None:
        _, after_s, said = await refused(kept.asks())
        assert after_s == 30
        assert said["error"].startswith("Waking failed here: RuntimeError a bug (asked again")
        await refused(kept.asks())
        assert kept.script.count("wake") == 1

    run(scene, Script(wake=[RuntimeError("a\nbug")]))
    [record] = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert record.exc_info


# -- looking


def test_whoever_wakes_nobody_shares_one_look_whose_no_stands_for_five_seconds() -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        asking = [kept.loop.create_task(kept.keeper.there()) for _ in range(20)]
        await kept.until(lambda: kept.script.asked, "it is looked")
        kept.script.gate.set()
        assert await asyncio.gather(*asking) == [None] * 20
        assert kept.script.asked == [("look",)]
        kept.loop.ahead += LOOK_S - 1
        assert await kept.keeper.there() is None
        assert kept.script.asked == [("look",)]
        kept.loop.ahead += 1.01
        found = await kept.keeper.there()
        assert found is kept.keeper.pool
        assert kept.script.asked == [("look",)] * 2
        assert (await kept.keeper.there(), kept.keeper.state) == (found, "ready")
        assert kept.script.asked == [("look",)] * 2
        assert kept.keeper.woken == 0

    run(scene, Script(look=[None, place()]))


@pytest.mark.parametrize("trouble", [ExollamaError("the API is down"), RuntimeError("a bug")])
def test_a_look_that_fails_finds_nothing_and_fails_nobody(trouble: Exception) -> None:
    async def scene(kept: Kept) -> None:
        assert await kept.keeper.there() is None
        assert kept.script.count("look") == 1
        assert kept.keeper.state == "asleep"

    run(scene, Script(look=[trouble]))


def test_a_look_that_takes_its_time_is_not_waited_for_and_counts_once_it_is_over() -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        asking = kept.loop.create_task(kept.keeper.there())
        await kept.until(lambda: kept.script.asked, "it is looked")
        kept.loop.ahead += LOOK_S + 0.01
        assert await asking is None
        kept.script.gate.set()
        await kept.until(lambda: kept.keeper.pool, "it was found")
        assert kept.script.count("look") == 1

    run(scene, Script(look=[place()]))


def test_while_one_is_woken_nobody_looks() -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        asking = kept.asks()
        await kept.until(lambda: kept.keeper.held, "it is held")
        assert await kept.keeper.there() is None
        kept.script.gate.set()
        assert await asking is await kept.keeper.there()
        assert kept.script.asked == [("wake",)]

    run(scene)


def test_a_failure_does_not_keep_others_from_looking() -> None:
    async def scene(kept: Kept) -> None:
        await refused(kept.asks())
        assert await kept.keeper.there() is kept.keeper.pool
        assert await kept.asks() is kept.keeper.pool

    run(scene, Script(wake=[ExollamaError("no")], look=[place()]))


# -- suspicion


def test_an_instance_that_is_suspect_is_looked_for_again_and_its_connections_are_closed() -> None:
    async def scene(kept: Kept) -> None:
        pool = await kept.ready()
        kept.keeper.suspect(pool, "it fell silent")
        assert pool.closed
        assert (kept.keeper.pool, kept.keeper.place, kept.keeper.state) == (None, place(), "asleep")
        other = await kept.asks()
        assert other is not pool
        kept.keeper.suspect(pool, "said late")
        assert kept.keeper.pool is other
        assert not other.closed
        kept.keeper.suspect(other, "it is gone")
        assert await kept.keeper.there() is None
        assert kept.script.asked == [("wake",), ("wake",), ("look",)]

    run(scene, Script(wake=[place(), place("another")]))


def test_an_instance_that_is_found_again_keeps_its_connections() -> None:
    async def scene(kept: Kept) -> None:
        pool = await kept.ready()
        assert kept.keeper._use(place()) is pool
        assert kept.keeper._use(place("another")) is not pool
        assert pool.closed

    run(scene)


# -- the end


def test_the_end_waits_for_nobody_who_is_still_waking() -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        asking = kept.asks()
        await kept.until(lambda: kept.keeper.held, "it is held")
        began = time.monotonic()
        kept.keeper.close()
        with pytest.raises((asyncio.CancelledError, Refusal)):
            await asking
        assert time.monotonic() - began < 5

    run(scene)
