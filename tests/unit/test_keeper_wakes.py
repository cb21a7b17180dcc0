"""What one wake leaves for the next, what a callable may end with, and how often one looks meanwhile."""

import pytest

from client.source import Place
from tests.keeping import Kept, Script, refused, run


def test_a_second_wake_says_nothing_of_the_first_ones_end() -> None:
    async def scene(kept: Kept) -> None:
        kept.board("ready", 100.0, 41.0)
        kept.keeper.suspect(await kept.asks(), "it is gone")
        kept.script.gate.clear()
        asking = kept.asks()
        await kept.until(lambda: kept.keeper.held == 1, "it is held")
        assert (kept.board.phase, kept.board.percent) == ("", None)
        kept.script.gate.set()
        await asking

    run(scene)


@pytest.mark.parametrize("kind", [StopIteration, SystemExit, KeyboardInterrupt])
def test_whatever_a_callable_ends_with_is_a_failed_wake_and_not_the_loop_s_end(kind: type[BaseException]) -> None:
    class Odd(Script):
        def wake(self) -> Place:
            raise kind("odd")

    async def scene(kept: Kept) -> None:
        kept.board("model", 41.0, 3.0)
        status, after_s, said = await refused(kept.asks())
        assert kept.board.phase == "", "and nothing looks as if it went on"
        assert (status, after_s) == (503, 30)
        assert said["error"].startswith("Waking failed here: RuntimeError")

    run(scene, Odd())


def test_whoever_polls_while_nothing_runs_has_the_api_asked_less_and_less_often() -> None:
    async def scene(kept: Kept) -> None:
        for _ in range(600):
            await kept.keeper.there()
            kept.loop.ahead += 1
        assert 10 < kept.script.count("look") < 20

    run(scene)
