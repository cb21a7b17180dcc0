"""`exollama chat` as a person types into it, and as a pipe does: the context goes along, whoever answers."""

import json
from typing import Any

import pytest

from tests.simulator import Seen, Simulator
from tests.simulator.driver import status
from tests.system.keyboard import CTRL_C, CTRL_D, ENTER, typing
from tests.system.verbs import Clerk, User, changes, let_pass, plant

ANSWER = "No model answers here: this is the simulator's stand-in for Ollama. You asked granite3.1-dense:8b: {}"
WORDS = len(ANSWER.split()) - 1
"""Of an answer, but for those of its prompt."""


@pytest.fixture
def up(cloud: Simulator, here: Clerk) -> Seen:
    here.run("provision").ended(0)
    cloud.api.calls.clear()
    return cloud.instance()


def test_ctrl_c_ends_the_answer_and_not_the_chat(cloud: Simulator, user: User, up: Seen) -> None:
    cloud.ollama(hold_after=3)
    with typing(user, "chat", NO_COLOR="1") as keyboard:
        assert "Chatting with granite3.1-dense:8b; /help lists" in keyboard.prompt()
        keyboard.type("why?", ENTER)
        keyboard.until("No model answers")
        cloud.wait(lambda: status(up)["in_flight"] == 1, "in flight")
        keyboard.type(CTRL_C)
        assert "What had arrived stays in the conversation. Ctrl-C again ends the chat" in keyboard.prompt()
        cloud.wait(lambda: status(up)["in_flight"] == 0, "nothing in flight")
        cloud.ollama(hold_after=None)
        keyboard.type("half a line")
        keyboard.until("half a line")
        keyboard.type(CTRL_C)  # drops it
        keyboard.prompt()
        keyboard.type('"""', ENTER, "and", ENTER, "then?", ENTER, '"""', ENTER)
        keyboard.until(lambda: keyboard.screen.count(">>> ") == 1)
        assert f"{ANSWER.format('and')}\r\nthen?" in keyboard.screen
        assert "waiting for the first token" in keyboard.raw
        assert "\x1b[2m" not in keyboard.raw
        keyboard.type("/bye", ENTER)
        assert keyboard.end() == 0
        assert "after its last use" in keyboard.screen
    assert changes(cloud) == []


def test_one_that_was_reaped_at_a_long_pause_is_replaced_and_the_whole_context_goes_along(
    cloud: Simulator, user: User, here: Clerk, up: Seen
) -> None:
    with typing(user, "chat", "--json", "--system", "be brief") as keyboard:

        def answer() -> dict[str, Any]:
            screen = keyboard.prompt()
            found: dict[str, Any] = json.loads(next(line for line in screen.splitlines() if line.startswith("{")))
            return found

        keyboard.prompt()
        keyboard.type("one", ENTER)
        assert answer()["prompt_eval_count"] == len("be brief one".split())
        cloud.ollama(hold_after=3)
        keyboard.type("two", ENTER)
        cloud.wait(lambda: status(up)["in_flight"] == 1, "in flight")
        keyboard.until("answering")
        keyboard.type(CTRL_C)
        keyboard.prompt()
        cloud.wait(lambda: status(up)["in_flight"] == 0, "nothing in flight")
        cloud.ollama(hold_after=None)
        written = changes(cloud)
        let_pass(cloud, 40 * 60)
        assert up.id in here.run("reap").ended(0).out, "somebody who sits at the prompt keeps no machine"
        assert changes(cloud) == [*written, "delete-instance"]
        keyboard.type("three", ENTER)
        whole = len("be brief one".split()) + WORDS + 1 + len("two three".split())
        assert answer()["prompt_eval_count"] - whole in (1, 2, 3), "and what of the second answer had arrived"
        assert "\x1b[2mexollama: " in keyboard.raw
        assert "(usually " in keyboard.screen, "the boot was shown as it went"
        assert cloud.instance().id != up.id
        keyboard.type(CTRL_D)
        assert keyboard.end() == 0


def test_each_line_of_a_pipe_is_answered_and_nothing_else_is_printed(user: User, up: Seen) -> None:
    done = user.run("chat", stdin="one\ntwo\n").ended(0)
    assert done.out == f"{ANSWER.format('one')}\n{ANSWER.format('two')}\n"
    assert done.err.count("\n") == 1, "when it goes"
    lines = user.run("chat", "--json", "--no-provision", stdin="one\ntwo\n/clear\nthree\n").ended(0).out.splitlines()
    assert [json.loads(line)["prompt_eval_count"] for line in lines] == [1, 1 + WORDS + 1 + 1, 1]


def test_where_none_is_to_be_created_it_says_so_and_ends_with_3(records: Simulator, user: User, clerk: Clerk) -> None:
    plant(records, state="stopped")
    outside = User(records)
    outside.run("chat", "--no-provision", stdin="one\n").ended(3, "no running instance")
    with typing(outside, "chat", "--no-provision") as keyboard:
        keyboard.prompt()
        keyboard.type("one", ENTER)
        assert keyboard.end() == 3
    assert changes(records) == []


def test_ctrl_c_while_an_instance_boots_goes_back_to_the_prompt_and_says_that_it_goes_on(records: Simulator) -> None:
    with typing(User(records), "chat") as keyboard:
        keyboard.prompt()
        keyboard.type("one", ENTER)
        keyboard.until("exollama: starting, ")
        keyboard.type(CTRL_C)
        assert "An instance that is being started goes on, until nobody uses it." in keyboard.prompt()
        assert keyboard.end(insist=CTRL_C) == 0
    assert changes(records).count("create-instance") == 1
    assert len(records.instances()) == 1
