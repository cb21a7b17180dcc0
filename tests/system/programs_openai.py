"""Programs with the real `openai` package, synchronous and not, used as its manual says.

Neighbours: programs.py has the table, questions.py what is asked; programs_ollama.py does the same with `ollama`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import cast

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from openai.types.responses import FunctionToolParam

from tests.system.questions import PROMPT, SCHEMA, TIMEOUT_S, WEATHER, Forecast, right, said

PICTURE = "data:image/png;base64,iVBORw0KGgo="


def _openai(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="ollama", timeout=TIMEOUT_S, max_retries=0)


def _openai_async(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="ollama", timeout=TIMEOUT_S, max_retries=0)


def openai_lists_models(url: str, model: str) -> None:
    with _openai(url) as client:
        assert model in [one.id for one in client.models.list()]
        one = client.models.retrieve(model)
        assert (one.id, one.object, one.owned_by) == (model, "model", "library")
        with pytest.raises(openai.NotFoundError, match="model 'absent' not found"):
            client.models.retrieve("absent")


def openai_chat(url: str, model: str) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": PICTURE}},
            ],
        },
    ]
    with _openai(url) as client:
        answer = client.chat.completions.create(model=model, messages=messages)
        [choice] = answer.choices
        assert (choice.message.role, choice.message.content) == ("assistant", said(model, "What is this?"))
        assert (answer.object, answer.model, choice.finish_reason) == ("chat.completion", model, "stop")
        assert answer.usage
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        short = client.chat.completions.create(model=model, messages=messages, max_tokens=4).choices[0]
        assert (short.message.content, short.finish_reason) == ("No model answers here:", "length")


def openai_chat_streamed(url: str, model: str) -> None:
    with _openai(url) as client:
        chunks = list(
            client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": PROMPT}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert len(choices) > 10
    assert "".join(choice.delta.content or "" for choice in choices) == said(model, PROMPT)
    assert choices[-1].finish_reason == "stop"
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == len(choices) - 1
    assert [chunk for chunk in chunks if chunk.usage] == chunks[-1:]


def openai_chat_with_a_tool(url: str, model: str) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Will it rain in Bern?"}]
    with _openai(url) as client:
        [wish] = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER]).choices
        assert wish.finish_reason == "tool_calls"
        assert wish.message.tool_calls
        [call] = wish.message.tool_calls
        assert call.type == "function"
        assert call.function.name == "weather"
        right(json.loads(call.function.arguments), "city", "days", "unit")
        messages += [
            cast("ChatCompletionMessageParam", wish.message.model_dump(exclude_none=True)),
            {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
        ]
        [final] = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER]).choices
    assert (final.message.content, final.finish_reason) == (said(model, "sunny"), "stop")


def openai_chat_with_a_tool_streamed(url: str, model: str) -> None:
    with (
        _openai(url) as client,
        client.chat.completions.stream(
            model=model, messages=[{"role": "user", "content": PROMPT}], tools=[WEATHER]
        ) as stream,
    ):
        events = [event.type for event in stream]
        [choice] = stream.get_final_completion().choices
    assert "tool_calls.function.arguments.done" in events
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    [call] = choice.message.tool_calls
    right(json.loads(call.function.arguments), "city", "days", "unit")


def openai_structured_answer(url: str, model: str) -> None:
    with _openai(url) as client:
        answer = client.chat.completions.parse(
            model=model, messages=[{"role": "user", "content": PROMPT}], response_format=Forecast
        )
    assert isinstance(answer.choices[0].message.parsed, Forecast)


def openai_completions(url: str, model: str) -> None:
    with _openai(url) as client:
        whole = client.completions.create(model=model, prompt=PROMPT)
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == (said(model, PROMPT), "stop")
        chunks = list(client.completions.create(model=model, prompt=PROMPT, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == said(model, PROMPT)
    assert chunks[-1].choices[0].finish_reason == "stop"


def openai_embeddings(url: str, model: str) -> None:
    with _openai(url) as client:
        packed = client.embeddings.create(model=model, input=["one", "two"])  # as base64, which is its default
        plain = client.embeddings.create(model=model, input=["one", "two"], encoding_format="float")
    assert [one.index for one in packed.data] == [0, 1]
    for left, right_ in zip(packed.data, plain.data, strict=True):
        assert left.embedding == pytest.approx(right_.embedding, abs=1e-6)
    assert packed.usage.total_tokens == 2


def openai_responses(url: str, model: str) -> None:
    tool: FunctionToolParam = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}
    with _openai(url) as client:
        answer = client.responses.create(model=model, input=PROMPT)
        assert (answer.status, answer.output_text) == ("completed", said(model, PROMPT))
        assert answer.usage
        assert answer.usage.input_tokens == len(PROMPT.split())
        [call] = client.responses.create(model=model, input=PROMPT, tools=[tool]).output
        assert call.type == "function_call"
        right(json.loads(call.arguments), "city", "days", "unit")


def openai_responses_streamed(url: str, model: str) -> None:
    with _openai(url) as client:
        events = list(client.responses.create(model=model, input=PROMPT, stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == said(model, PROMPT)
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == said(model, PROMPT)
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def openai_async_chats_at_once(url: str, model: str) -> None:
    async with _openai_async(url) as client:
        prompts = [f"Question {number}?" for number in range(4)]
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}])
                for prompt in prompts
            )
        )
        assert [answer.choices[0].message.content for answer in answers] == [said(model, prompt) for prompt in prompts]
        assert model in [one.id async for one in client.models.list()]


async def openai_async_streams(url: str, model: str) -> None:
    async with _openai_async(url) as client:
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": PROMPT}], stream=True
        )
        words = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert len(words) > 10
    assert "".join(words) == said(model, PROMPT)


PLAIN: tuple[Callable[[str, str], None], ...] = (
    openai_lists_models,
    openai_chat,
    openai_chat_streamed,
    openai_chat_with_a_tool,
    openai_chat_with_a_tool_streamed,
    openai_structured_answer,
    openai_completions,
    openai_embeddings,
    openai_responses,
    openai_responses_streamed,
)
ASYNC: tuple[Callable[[str, str], Coroutine[None, None, None]], ...] = (
    openai_async_chats_at_once,
    openai_async_streams,
)
