"""The stand-in where its words come from a process that runs a model, whose place faked_engine.py takes here.

tests/real_model has a real one.
"""

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.system.test_stand_in import MODEL, StandIn, module_stand_in, until
from tests.system.verbs import ROOT

__all__ = ["module_stand_in"]

ENGINE = [sys.executable, "-I", "-S", str(ROOT / "tests/system/faked_engine.py")]
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "Why so?"},
]


@pytest.fixture
def stand_in(module_stand_in: StandIn) -> Iterator[StandIn]:
    module_stand_in.control(runner=ENGINE, tokens=5)
    yield module_stand_in
    ask(module_stand_in, "/api/generate", {"keep_alive": 0})  # no engine is left


def ask(stand_in: StandIn, path: str, body: Any) -> Any:
    """An answer without streaming."""
    with closing(stand_in.connect()) as connection:
        connection.request("POST", path, json.dumps({"model": MODEL, "stream": False, **body}))
        return json.load(connection.getresponse())


DIALECTS: dict[str, tuple[str, dict[str, Any], list[Any]]] = {
    "generate": (
        "/api/generate",
        {"prompt": "Why?", "system": "Be brief.", "options": {"num_predict": 4, "seed": 7, "num_gpu": 1}},
        CONVERSATION[:2],
    ),
    "chat": ("/api/chat", {"messages": CONVERSATION, "options": {"num_predict": 4, "seed": 7}}, CONVERSATION),
    "openai's chat": ("/v1/chat/completions", {"messages": CONVERSATION, "max_tokens": 4, "seed": 7}, CONVERSATION),
    "openai's completions": ("/v1/completions", {"prompt": "Why?", "max_tokens": 4, "seed": 7}, CONVERSATION[1:2]),
    "openai's responses": (
        "/v1/responses",
        {"instructions": "Be brief.", "input": CONVERSATION[1:], "max_output_tokens": 4, "seed": 7},
        CONVERSATION,
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_whole_conversation_and_the_options_reach_the_engine_and_its_counts_come_back(
    stand_in: StandIn, dialect: str
) -> None:
    path, body, expected = DIALECTS[dialect]
    answer = ask(stand_in, path, body)
    given = json.loads(next(filter(lambda text: text.startswith("{"), _texts(answer))).removesuffix("xxx"))
    assert json.loads(given["prompt"]) == expected
    assert (given["n_predict"], given["seed"], "num_gpu" in given) == (4, 7, False)
    counts = answer.get("usage") or {"read": answer["prompt_eval_count"], "said": answer["eval_count"]}
    assert list(counts.values())[:2] == [3, 4], answer
    if path.startswith("/api"):
        assert (answer["prompt_eval_duration"], answer["eval_duration"]) == (2_500_000, 4_500_000)
        assert answer["done_reason"] == "length"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


@pytest.mark.parametrize(("format_", "schema"), [("json", {"type": "object"}), ({"enum": [1]}, {"enum": [1]})])
def test_a_format_is_a_schema_to_the_engine(stand_in: StandIn, format_: object, schema: object) -> None:
    answer = ask(stand_in, "/api/generate", {"prompt": "Why?", "format": format_})
    assert json.loads(answer["response"].removesuffix("xxxx"))["json_schema"] == schema


def test_where_no_length_is_asked_for_the_controls_is_the_longest(stand_in: StandIn) -> None:
    assert ask(stand_in, "/api/generate", {"prompt": "Why?"})["eval_count"] == 5


def test_an_engine_that_dies_is_an_error_in_the_stream_and_another_one_answers_next(stand_in: StandIn) -> None:
    with closing(stand_in.connect()) as connection:
        connection.request("POST", "/api/generate", json.dumps({"model": MODEL, "prompt": "die"}))
        *_, last = connection.getresponse().read().splitlines()
    assert json.loads(last) == {"error": "llama runner process has terminated"}
    assert ask(stand_in, "/api/generate", {"prompt": "Why?"})["eval_count"] == 5


def test_an_engine_that_does_not_come_up_is_told_with_its_exit_status(stand_in: StandIn) -> None:
    stand_in.control(runner=[sys.executable, "-I", "-S", "-c", "raise SystemExit(9)"])
    answer = ask(stand_in, "/api/generate", {"prompt": "Why?"})
    assert answer == {"error": "llama runner process has terminated: exit status 9"}


def test_a_prompt_beyond_the_context_is_refused(stand_in: StandIn) -> None:
    answer = ask(stand_in, "/api/generate", {"prompt": "long"})
    assert answer == {"error": "the input length exceeds the context length"}


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_client_that_leaves_while_the_engine_is_silent_is_noticed(stand_in: StandIn, streamed: bool) -> None:
    ask(stand_in, "/api/generate", {})  # loads the model
    id_ = f"silent-{streamed}"
    connection = stand_in.connect()
    body = json.dumps({"model": MODEL, "prompt": "wait", "stream": streamed})
    connection.request("POST", "/api/generate", body, {"X-Request-Id": id_})
    connection.close()
    until(lambda: stand_in.ends(id_), "it noticed")
    assert stand_in.ends(id_) == ["/api/generate left"]


def test_the_engine_ends_where_the_model_is_to_be_kept_no_longer(stand_in: StandIn) -> None:
    answer = ask(stand_in, "/api/generate", {"prompt": "Why?", "keep_alive": 0})
    port = json.loads(answer["response"].removesuffix("xxxx"))["port"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    loaded, unloaded = (ask(stand_in, "/api/generate", more) for more in ({}, {"keep_alive": 0}))
    assert (loaded["done_reason"], unloaded["done_reason"]) == ("load", "unload")
