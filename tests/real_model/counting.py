"""A real model's tokens and times, as the engine counts them and as they come through forwarder, TLS and nginx."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.real_model import ABOUT, MODEL
from tests.real_model.asking import PROMPT, asked, options, pieces, streamed, whole
from tests.real_model.conftest import FIGURES, Engine
from tests.system.serving import Served

MESSAGES = [{"role": "user", "content": PROMPT}]


# -- counts


@pytest.mark.parametrize("limit", [1, 24])
def test_every_token_that_the_engine_says_arrives_as_a_piece_and_no_more_than_were_asked_for(
    served: Served, engine: Engine, limit: int
) -> None:
    before = engine.counts()
    values = streamed(served, "/api/generate", asked(num_predict=limit))
    last, after = values[-1][1], engine.counts()
    assert (len(pieces(values)), last["eval_count"], last["done_reason"]) == (limit, limit, "length")
    assert after["tokens_predicted_total"] - before["tokens_predicted_total"] == limit
    assert after["prompt_tokens_total"] - before["prompt_tokens_total"] == last["prompt_eval_count"]


def test_an_answer_that_ends_by_itself_says_so(served: Served) -> None:
    answer = whole(served, "/api/generate", asked(stream=False, num_predict=64, stop=["e"]))
    assert answer["done_reason"] == "stop"
    assert 0 < answer["eval_count"] < 64
    assert "e" not in answer["response"]


def test_a_system_prompt_and_what_was_said_before_are_read_and_counted(served: Served) -> None:
    def read(*messages: dict[str, str]) -> int:
        body = {"model": MODEL, "messages": messages, "stream": False, "options": options(num_predict=1)}
        return int(whole(served, "/api/chat", body)["prompt_eval_count"])

    alone = read(*MESSAGES)
    assert alone == whole(served, "/api/generate", asked(stream=False, num_predict=1))["prompt_eval_count"]
    system = {"role": "system", "content": "Be brief."}
    briefly = read(system, *MESSAGES)
    assert briefly > alone
    given = {**asked(stream=False, num_predict=1), "system": "Be brief."}
    assert whole(served, "/api/generate", given)["prompt_eval_count"] == briefly
    assert read(*MESSAGES, {"role": "assistant", "content": "No."}, *MESSAGES) > 2 * alone - 3


@pytest.mark.parametrize("chosen", [{"temperature": 0}, {"temperature": 1, "seed": 7}], ids=["greedy", "seeded"])
def test_the_same_seed_or_none_at_temperature_0_says_the_same_twice(served: Served, chosen: dict[str, Any]) -> None:
    first, second = (pieces(streamed(served, "/api/generate", asked(**chosen))) for _ in range(2))
    assert first == second


def test_a_schema_is_followed(served: Served) -> None:
    body = {**asked("Is the sky blue?", stream=False), "format": {"type": "string", "enum": ["yes", "no"]}}
    assert json.loads(whole(served, "/api/generate", body)["response"]) in {"yes", "no"}


def test_openais_usage_is_what_ollama_counts(served: Served, engine: Engine) -> None:
    chosen = {"model": MODEL, "temperature": 0}
    ollama = whole(served, "/api/chat", {"model": MODEL, "messages": MESSAGES, "stream": False, "options": options()})
    body = {**chosen, "messages": MESSAGES, "max_tokens": 16}
    chat = whole(served, "/v1/chat/completions", body)
    counted = {**body, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = (value for _, value in streamed(served, "/v1/chat/completions", counted))
    said = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    response = whole(served, "/v1/responses", {**chosen, "input": PROMPT, "max_output_tokens": 16})["usage"]
    expected = {"prompt_tokens": ollama["prompt_eval_count"], "completion_tokens": ollama["eval_count"]}
    expected["total_tokens"] = sum(expected.values())
    assert expected["completion_tokens"] == 16
    assert chat["usage"] == last["usage"] == expected
    assert [response[f"{name}_tokens"] for name in ("input", "output", "total")] == [*expected.values()]
    assert len([piece for piece in said if piece]) == 16
    assert "".join(said) == chat["choices"][0]["message"]["content"] == ollama["message"]["content"]
    assert chat["choices"][0]["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_a_prompt_beyond_the_context_is_refused_at_once_and_the_next_one_is_answered(
    served: Served, engine: Engine
) -> None:
    before = engine.counts()
    for stream in (True, False):
        refused = whole(served, "/api/generate", asked("word " * 5000, stream=stream), status=400)
        assert refused == {"error": "the input length exceeds the context length"}
    refused = whole(served, "/v1/completions", {"model": MODEL, "prompt": "word " * 5000}, status=400)
    assert refused["error"]["message"] == "the input length exceeds the context length"
    after = engine.counts()
    assert [after[name] - before[name] for name in ("prompt_tokens_total", "tokens_predicted_total")] == [0, 0]
    assert whole(served, "/api/generate", asked(stream=False))["eval_count"] == 16


@pytest.mark.parametrize(
    ("path", "more", "status", "words"),
    [
        ("/api/chat", {"messages": MESSAGES, "tools": [{"function": {"name": "x"}}]}, 400, "does not support tools"),
        ("/api/embed", {"input": "x"}, 501, "does not support embeddings"),
    ],
)
def test_what_this_model_cannot_do_is_refused(
    served: Served, path: str, more: dict[str, Any], status: int, words: str
) -> None:
    assert words in whole(served, path, {"model": MODEL, **more}, status)["error"]


def test_lists_of_models_tell_of_the_one_that_runs(served: Served, engine: Engine) -> None:
    with urllib.request.urlopen(f"{engine.url}/v1/models", timeout=60) as answer:
        [meta] = [one["meta"] for one in json.load(answer)["data"]]
    assert (ABOUT["size"], ABOUT["parameters"]) == (meta["size"], meta["n_params"])
    for path in ("/api/tags", "/api/ps"):
        [model] = served.ask("GET", path).json["models"]
        assert (model["size"], model["details"]["family"]) == (meta["size"], "gemma3")
        assert model["details"]["parameter_size"] == f"{meta['n_params'] / 1e6:.2f}M"
    shown = whole(served, "/api/show", {"model": MODEL})
    assert shown["model_info"] == {"general.architecture": "gemma3", "general.parameter_count": meta["n_params"]}
    assert shown["capabilities"] == ["completion"]


# -- times


def test_pieces_arrive_while_the_engine_still_speaks_and_its_times_add_up(served: Served, engine: Engine) -> None:
    values = streamed(served, "/api/generate", asked(num_predict=48))
    moments, last = [moment for moment, _ in values], values[-1][1]
    steps = [last[f"{step}_duration"] for step in ("load", "prompt_eval", "eval")]
    assert all(step > 0 for step in steps)
    assert sum(steps) <= last["total_duration"] <= moments[-1] * 1e9
    assert moments == sorted(moments)
    # Held back anywhere on their way, they would all come at the end.
    assert moments[-2] - moments[0] > 0.6 * last["eval_duration"] / 1e9
    speed = last["eval_count"] / last["eval_duration"] * 1e9
    FIGURES.append(
        f"measured: {speed:.1f} tokens per second, first token after {moments[0]:.3f} s, of which "
        f"{last['prompt_eval_duration'] / 1e9:.3f} s for a prompt of {last['prompt_eval_count']} tokens"
    )


def test_a_model_that_was_unloaded_is_loaded_again_and_the_time_of_it_is_told(served: Served, engine: Engine) -> None:
    loaded = whole(served, "/api/generate", asked(stream=False, num_predict=1))
    url = engine.url
    assert whole(served, "/api/generate", {"model": MODEL, "keep_alive": 0, "stream": False})["done_reason"] == "unload"
    with pytest.raises(OSError, match="refused"):
        engine.counts()
    again = whole(served, "/api/generate", asked(stream=False, num_predict=1))
    assert engine.url != url
    assert again["load_duration"] > 10 * loaded["load_duration"]
    assert again["load_duration"] > 0.05e9  # 250 MB are read
    assert again["response"] == loaded["response"]
    FIGURES.append(f"measured: the model loads in {again['load_duration'] / 1e9:.2f} s")


def test_two_are_answered_at_once(served: Served) -> None:
    with ThreadPoolExecutor(2) as both:
        began = [both.submit(streamed, served, "/api/generate", asked(num_predict=32)) for _ in range(2)]
        one, two = (answer.result() for answer in began)
    assert [len(pieces(values)) for values in (one, two)] == [32, 32]
    first, last = max(one[0][0], two[0][0]), min(one[-2][0], two[-2][0])
    assert first < last, "neither waited for the other's end"
