"""A real model through what people use: the command line, `client.forward`, and PyPI's ollama and openai."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import ollama
import openai
import pytest

import client
from functions import provision
from tests.real_model import MODEL
from tests.real_model.asking import PATIENCE_S, PROMPT, asked, options, whole
from tests.system.serving import Served
from tests.system.verbs import User

CHOSEN = ["--option", "temperature=0", "--option", "num_predict=16"]


@pytest.fixture(scope="module")
def url(user: User) -> Iterator[str]:
    """A forwarder in this very process, as the README shows it."""
    settings = user.settings()
    with client.forward(settings, wake=partial(provision.run, settings)) as found:
        yield found


@pytest.fixture
def said(served: Served) -> str:
    """What the model says at temperature 0, through `serve`."""
    return str(whole(served, "/api/generate", asked(stream=False))["response"])


def test_generate_says_it_and_counts(user: User, said: str) -> None:
    assert user.run("generate", *CHOSEN, PROMPT).ended(0).out == said + "\n"
    counted = user.run("generate", "--json", *CHOSEN, PROMPT).ended(0).json
    assert (counted["response"], counted["eval_count"], counted["done_reason"]) == (said, 16, "length")
    assert counted["prompt_eval_count"] > 0


def test_chat_gives_the_model_what_was_said_before(user: User, said: str) -> None:
    done = user.run("chat", "--json", *CHOSEN, stdin=f"{PROMPT}\nGo on.\n").ended(0)
    first, second = map(json.loads, done.out.splitlines())
    assert first["message"]["content"] == said
    assert second["prompt_eval_count"] > first["prompt_eval_count"] + first["eval_count"]


def test_the_ollama_package_is_answered(url: str, said: str) -> None:
    with ollama.Client(host=url, timeout=PATIENCE_S) as program:
        parts = list(program.generate(MODEL, PROMPT, options=options(), stream=True))
        chat = program.chat(MODEL, [{"role": "user", "content": PROMPT}], options=options())
        assert MODEL in [one.model for one in program.ps().models]
    assert [part.response for part in parts[:-1]] == [part.response for part in parts if part.response]
    assert "".join(part.response or "" for part in parts) == chat.message.content == said
    assert parts[-1].eval_count == len(parts) - 1 == chat.eval_count == 16


def test_the_openai_package_is_answered(url: str, said: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", timeout=PATIENCE_S, max_retries=0) as program:
        chat = program.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": PROMPT}], temperature=0, max_tokens=16
        )
        stream = program.completions.create(model=MODEL, prompt=PROMPT, temperature=0, max_tokens=16, stream=True)
        words = [chunk.choices[0].text for chunk in stream]
        response = program.responses.create(model=MODEL, input=PROMPT, temperature=0, max_output_tokens=16)
    assert chat.choices[0].message.content == "".join(words) == response.output_text == said
    assert len([word for word in words if word]) == 16
    assert chat.usage
    assert response.usage
    assert chat.usage.completion_tokens == response.usage.output_tokens == 16
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + 16
