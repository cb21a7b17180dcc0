"""Programs with the real `ollama` package, synchronous and not, used as its manual says.

Neighbours: programs.py has the table, questions.py what is asked; programs_openai.py does the same with `openai`.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import ollama
import pytest

from tests.system.questions import PROMPT, TIMEOUT_S, WEATHER, Forecast, right, said, weather

PIXEL = b"\x89PNG\r\n\x1a\n" + bytes(32)


def _ollama(url: str) -> ollama.Client:
    return ollama.Client(host=url, timeout=TIMEOUT_S)


def _ollama_async(url: str) -> ollama.AsyncClient:
    return ollama.AsyncClient(host=url, timeout=TIMEOUT_S)


@contextmanager
def weights(content: bytes) -> Iterator[Path]:
    """A file of a model, to be uploaded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(content)
        yield path


def ollama_generate(url: str, model: str) -> None:
    with _ollama(url) as client:
        answer = client.generate(model, PROMPT, system="Be brief.", options={"temperature": 0})
        assert answer.response == said(model, PROMPT) + " System prompt: Be brief."
        assert (answer.model, answer.done, answer.done_reason) == (model, True, "stop")
        assert answer.eval_count
        assert answer.prompt_eval_count == len(PROMPT.split())
        short = client.generate(model, PROMPT, options={"num_predict": 4})
        assert (short.response, short.eval_count, short.done_reason) == ("No model answers here:", 4, "length")


def ollama_generate_streamed(url: str, model: str) -> None:
    with _ollama(url) as client:
        parts = list(client.generate(model, PROMPT, stream=True))
    assert len(parts) > 10
    assert "".join(part.response or "" for part in parts) == said(model, PROMPT)
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == len(parts) - 1


def ollama_generate_loads_and_unloads(url: str, model: str) -> None:
    with _ollama(url) as client:
        assert client.generate(model).done_reason == "load"
        assert model in [one.model for one in client.ps().models]
        assert client.generate(model, keep_alive=0).done_reason == "unload"
        assert model not in [one.model for one in client.ps().models]


def ollama_chat(url: str, model: str) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is this?", "images": [PIXEL]},
    ]
    with _ollama(url) as client:
        answer = client.chat(model, messages, think=False)
    assert (answer.message.role, answer.message.content) == ("assistant", said(model, "What is this?"))
    assert answer.message.tool_calls is None
    assert answer["message"]["content"] == answer.message.content, "by key, as older programs do"


def ollama_chat_streamed(url: str, model: str) -> None:
    with _ollama(url) as client:
        parts = list(client.chat(model, [{"role": "user", "content": PROMPT}], stream=True))
    assert len(parts) > 10
    assert "".join(part.message.content or "" for part in parts) == said(model, PROMPT)
    assert (parts[-1].done, parts[-1].done_reason) == (True, "stop")


def ollama_chat_with_a_tool(url: str, model: str) -> None:
    messages: list[Mapping[str, Any] | ollama.Message] = [{"role": "user", "content": "Will it rain in Bern?"}]
    with _ollama(url) as client:
        wish = client.chat(model, messages, tools=[weather]).message
        assert wish.tool_calls
        [call] = wish.tool_calls
        assert (call.function.name, wish.content) == ("weather", "")
        right(call.function.arguments, "city", "days")
        found = weather(**call.function.arguments)
        messages += [wish, {"role": "tool", "content": found, "tool_name": call.function.name}]
        final = client.chat(model, messages, tools=[weather]).message
    assert (final.content, final.tool_calls) == (said(model, found), None)


def ollama_chat_with_a_tool_streamed(url: str, model: str) -> None:
    with _ollama(url) as client:
        asked = [{"role": "user", "content": PROMPT}]
        parts = list(client.chat(model, asked, tools=[cast("Mapping[str, Any]", WEATHER)], stream=True))
    [call] = [call for part in parts for call in part.message.tool_calls or ()]
    assert call.function.name == "weather"
    right(call.function.arguments, "city", "days", "unit")
    assert parts[-1].done is True


def ollama_structured_answer(url: str, model: str) -> None:
    with _ollama(url) as client:
        messages = [{"role": "user", "content": PROMPT}]
        answer = client.chat(model, messages, format=Forecast.model_json_schema()).message.content
    Forecast.model_validate_json(answer or "")


def ollama_embeddings(url: str, model: str) -> None:
    with _ollama(url) as client:
        both = client.embed(model, ["one", "two"]).embeddings
        assert len(both) == 2
        assert both[0] != both[1]
        [alone] = client.embed(model, "one").embeddings
        assert alone == both[0] == client.embeddings(model, "one").embedding
        [short] = client.embed(model, "one", dimensions=8).embeddings
        assert short == alone[:8]


def ollama_lists_and_describes(url: str, model: str) -> None:
    with _ollama(url) as client:
        [listed] = [one for one in client.list().models if one.model == model]
        assert listed.modified_at
        assert listed.details
        shown = client.show(model)
        assert (shown.modelfile or "").startswith("FROM ")
        assert "completion" in (shown.capabilities or ())
        client.generate(model, keep_alive="5m")
        [loaded] = [one for one in client.ps().models if one.model == model]
        assert loaded.expires_at


def ollama_pulls(url: str, model: str) -> None:
    with _ollama(url) as client:
        parts = list(client.pull("pulled-by-a-program", stream=True))
        assert (parts[0].status, parts[-1].status) == ("pulling manifest", "success")
        layers = [part for part in parts if part.digest]
        assert layers[-1].completed == layers[-1].total
        assert client.pull("pulled-by-a-program").status == "success"
        assert client.delete("pulled-by-a-program").status == "success"
        with pytest.raises(ollama.ResponseError, match="file does not exist"):
            client.pull("no-such-model")


def ollama_copies_pushes_and_deletes(url: str, model: str) -> None:
    with _ollama(url) as client:
        assert client.copy(model, "me/copied").status == "success"
        assert client.push("me/copied").status == "success"
        parts = list(client.push("me/copied", stream=True))
        assert (parts[0].status, parts[-1].status) == ("retrieving manifest", "success")
        assert client.delete("me/copied").status == "success"
        with pytest.raises(ollama.ResponseError) as failed:
            client.delete("me/copied")
        assert failed.value.status_code == 404


def ollama_creates_from_a_model_and_from_a_blob(url: str, model: str) -> None:
    content = b"weights" * 40_000
    with weights(content) as path, _ollama(url) as client:
        digest = client.create_blob(path)
        assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert client.create(model="from-a-blob", files={path.name: digest}).status == "success"
        parts = list(client.create(model="from-a-model", from_=model, system="Be brief.", stream=True))
        assert parts[-1].status == "success"
        assert client.generate("from-a-blob", PROMPT).response == said("from-a-blob", PROMPT)
        for name in ("from-a-blob", "from-a-model"):
            client.delete(name)


def ollama_says_which_model_is_missing(url: str, model: str) -> None:
    with _ollama(url) as client:
        with pytest.raises(ollama.ResponseError, match="model 'absent' not found") as failed:
            client.chat("absent", [{"role": "user", "content": PROMPT}])
        assert failed.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="model 'absent' not found"):
            list(client.generate("absent", PROMPT, stream=True))


async def ollama_async_chats_at_once(url: str, model: str) -> None:
    async with _ollama_async(url) as client:
        prompts = [f"Question {number}?" for number in range(4)]
        asked = [client.chat(model, [{"role": "user", "content": prompt}]) for prompt in prompts]
        answers = [answer.message.content for answer in await asyncio.gather(*asked)]
    assert answers == [said(model, prompt) for prompt in prompts]


async def ollama_async_streams(url: str, model: str) -> None:
    async with _ollama_async(url) as client:
        parts = [part async for part in await client.chat(model, [{"role": "user", "content": PROMPT}], stream=True)]
        assert "".join(part.message.content or "" for part in parts) == said(model, PROMPT)
        words = [part.response or "" async for part in await client.generate(model, PROMPT, stream=True)]
        assert "".join(words) == said(model, PROMPT)


async def ollama_async_lists_embeds_and_uploads(url: str, model: str) -> None:
    with weights(bytes(300_000)) as path:
        async with _ollama_async(url) as client:
            assert model in [one.model for one in (await client.list()).models]
            assert len((await client.embed(model, ["one", "two"])).embeddings) == 2
            digest = await client.create_blob(path)  # in chunks, without a length
            assert (await client.create(model="uploaded", files={path.name: digest})).status == "success"
            await client.delete("uploaded")


PLAIN: tuple[Callable[[str, str], None], ...] = (
    ollama_generate,
    ollama_generate_streamed,
    ollama_generate_loads_and_unloads,
    ollama_chat,
    ollama_chat_streamed,
    ollama_chat_with_a_tool,
    ollama_chat_with_a_tool_streamed,
    ollama_structured_answer,
    ollama_embeddings,
    ollama_lists_and_describes,
    ollama_pulls,
    ollama_copies_pushes_and_deletes,
    ollama_creates_from_a_model_and_from_a_blob,
    ollama_says_which_model_is_missing,
)
ASYNC: tuple[Callable[[str, str], Coroutine[None, None, None]], ...] = (
    ollama_async_chats_at_once,
    ollama_async_streams,
    ollama_async_lists_embeds_and_uploads,
)
