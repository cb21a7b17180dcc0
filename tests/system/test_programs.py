"""Unmodified programs through `exollama serve`: their answers, what wakes an instance and what does not, leaving.

test_stand_in.py runs the same programs against Ollama's stand-in itself: what fails there too is not the forwarder's.
"""

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ollama
import openai
import pytest

from tests.simulator import Simulator
from tests.system.programs import PROGRAMS
from tests.system.questions import PROMPT, TIMEOUT_S, said
from tests.system.verbs import User, changes

MODEL = "granite3.1-dense:8b"


@contextmanager
def serving(simulator: Simulator) -> Iterator[str]:
    """The URL of a forwarder of this cloud's user, which ends with the block."""
    user = User(simulator, EXOSCALE_OLLAMA_MODEL=MODEL)
    with user.running("serve", "--listen", "127.0.0.1:0", "--json") as run:
        run.until(lambda: "\n" in run.out, "it says where it listens")
        yield json.loads(run.out.splitlines()[0])["url"]
        run.process.send_signal(signal.SIGTERM)
        done = run.end()
    assert "Traceback" not in done.err, done.said


@pytest.fixture(scope="module")
def forwarder(module_cloud: Simulator) -> Iterator[str]:
    """One forwarder for all of the module; the first program that asks for words wakes its instance."""
    with serving(module_cloud) as url:
        yield url


@pytest.fixture
def cold() -> Iterator[Simulator]:
    """A cloud of its own, without any instance."""
    with Simulator(operation_s=0.01, start_s=0.02) as simulator:
        yield simulator
        assert simulator.violations == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gets_through_the_forwarder_what_it_gets_from_ollama_itself(
    cloud: Simulator, forwarder: str, name: str
) -> None:
    PROGRAMS[name](forwarder, MODEL)


# -- waking


def test_the_first_streaming_call_wakes_one_instance_and_gets_its_whole_answer(cold: Simulator) -> None:
    async def program(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="ollama", timeout=TIMEOUT_S) as client:
            stream = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": PROMPT}], stream=True
            )
            return [chunk.choices[0].delta.content or "" async for chunk in stream]

    with serving(cold) as url:
        assert cold.instances() == []
        words = asyncio.run(program(url))
    assert len(words) > 10
    assert "".join(words) == said(MODEL, PROMPT)
    assert len(cold.called("create-instance")) == 1
    assert len(cold.instances()) == 1


def test_calls_that_come_together_wake_one_instance_for_all(cold: Simulator) -> None:
    async def program(url: str) -> list[str | None]:
        async with ollama.AsyncClient(host=url, timeout=TIMEOUT_S) as client:
            asked = [client.generate(MODEL, f"Question {number}?") for number in range(5)]
            return [answer.response for answer in await asyncio.gather(*asked)]

    with serving(cold) as url:
        assert asyncio.run(program(url)) == [said(MODEL, f"Question {number}?") for number in range(5)]
    assert len(cold.called("create-instance")) == 1


def test_listing_models_with_nothing_running_shows_the_configured_one_and_creates_nothing(cold: Simulator) -> None:
    with serving(cold) as url:
        with ollama.Client(host=url, timeout=TIMEOUT_S) as client:
            assert [one.model for one in client.list().models] == [MODEL]
            assert client.show(MODEL).capabilities is not None
            assert list(client.ps().models) == []
        with openai.OpenAI(base_url=f"{url}/v1", api_key="ollama", timeout=TIMEOUT_S) as openai_client:
            assert [one.id for one in openai_client.models.list()] == [MODEL]
    assert changes(cold) == []
    assert cold.instances() == []


# -- leaving


@pytest.mark.parametrize("held", [{"hold_after": 3}, {"token_s": 60}], ids=["held", "slow"])
def test_a_client_that_disconnects_in_the_middle_of_a_stream_stops_it_upstream(
    cloud: Simulator, forwarder: str, held: dict[str, Any]
) -> None:
    id_ = "left-" + "-".join(held)
    with openai.OpenAI(base_url=f"{forwarder}/v1", api_key="ollama", timeout=TIMEOUT_S) as client:
        _wake(client)
        cloud.ollama(**held)
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": PROMPT}],
            stream=True,
            extra_headers={"X-Request-Id": id_},
        )
        assert next(stream).choices[0].delta.content == "No"
        assert _ends(cloud, id_) == []
        stream.close()
        cloud.wait(lambda: _ends(cloud, id_), "the stand-in noticed")
    assert _ends(cloud, id_) == ["/v1/chat/completions left"]


def test_a_client_that_gives_up_before_the_first_token_stops_it_upstream(cloud: Simulator, forwarder: str) -> None:
    with openai.OpenAI(base_url=f"{forwarder}/v1", api_key="ollama", timeout=TIMEOUT_S, max_retries=0) as client:
        _wake(client)
        cloud.ollama(load_s=60)
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": PROMPT}],
                extra_headers={"X-Request-Id": "gave-up"},
                timeout=2.5,
            )
        cloud.wait(lambda: _ends(cloud, "gave-up"), "the stand-in noticed")
    assert _ends(cloud, "gave-up") == ["/v1/chat/completions left"]


def _wake(client: openai.OpenAI) -> None:
    """So that what follows is not about waking, whichever test came first."""
    client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=1)


def _ends(simulator: Simulator, id_: str) -> list[str]:
    """How the requests with this id ended, wherever they went."""
    lines = [line.split() for seen in simulator.instances() for line in seen.requests]
    return [f"{path} {end}" for found, path, end in lines if found == id_]
