"""What long waits show: a live line on a terminal; in a pipe one sentence where a boot begins, and then quiet."""

import re

import pytest

from tests.simulator import Simulator
from tests.system.keyboard import typing
from tests.system.verbs import Clerk, User, plant


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (["stop", "--force"], "ending the instance, 0 s (usually under a minute)"),
        (["reap"], "reaping, 0 s"),
        (["provision", "--no-wait"], "creating, 0 s (usually under a minute)"),
        (["logs"], "asking the instance, 0 s"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_whatever_takes_long_is_shown_while_it_does_and_gone_afterwards(
    records: Simulator, verb: list[str], words: str
) -> None:
    if verb[0] in ("stop", "reap"):
        plant(records, state="error")
        records.fault("delete-instance", "slow", seconds=0.3)
    elif verb[0] == "logs":
        plant(records)
    line = re.compile(re.escape(words).replace("0", r"\d"))  # by as many seconds as it took to draw it
    with typing(User(records), *verb) as keyboard:
        keyboard.until(lambda: line.search(keyboard.screen))
        keyboard.end()
        *_, last = line.finditer(keyboard.raw)
        before, after = keyboard.raw[: last.start()], keyboard.raw[last.end() :]
        assert before.endswith("\r\x1b[K\x1b[2mexollama: ")
        assert after.startswith("\x1b[m\r\x1b[K"), "it is no line that stays"


def test_in_a_pipe_a_boot_begins_with_its_sentences_and_goes_on_without(empty: Simulator, user: User) -> None:
    empty.boot(delay_s=0.1)
    first, second, third, last = user.run("provision").ended(0).err.splitlines()
    assert "taking standard.large" in first
    assert second.startswith("exollama: Creating a standard.large in ch-gva-2, about ")
    assert "is being created. Whatever happens now, it is owned" in third
    assert last.startswith("exollama: Use it with: ")
    assert user.run("provision", "--json").ended(0).err == ""
    assert user.run("stop").ended(0).err == ""


def test_whoever_waits_for_anothers_boot_is_told_so_once_it_takes_long(
    empty: Simulator, here: Clerk, user: User
) -> None:
    empty.ollama(pull_hold_percent=40)
    here.run("provision", "--no-wait").ended(0)
    with user.running("provision") as run:
        run.until(lambda: "Waiting" in run.err, "it is told")
        empty.ollama(pull_hold_percent=None)
        said = run.end().ended(0).err.splitlines()
    assert [line.partition(" (")[0] for line in said[:-1]] == ["exollama: Waiting for an instance of this name"]
