"""Whoever leaves stops the engine, and an instance goes once nobody listens to it any more, and not before."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

from tests.real_model.asking import asked
from tests.real_model.conftest import Engine
from tests.simulator import Simulator
from tests.simulator.driver import status
from tests.system.serving import Served
from tests.system.verbs import User, changes, let_pass

SOON_S = 3.0
"""The engine looks once a second whether its client has gone; a piece that cannot be sent tells it sooner."""
LONG = 3000
"""Tokens that take half a minute at the very least."""
IDLE_S = 40 * 60
"""Past the idle timeout also by its label, and before the watchdog would power it off."""


def begun(served: Served, engine: Engine, body: dict[str, Any]) -> http.client.HTTPConnection:
    """A request that the engine is at, to whose answer nobody has listened yet."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request("POST", "/api/generate", json.dumps(body), {"X-Request-Id": "leaves"})
    engine.cloud.wait(lambda: engine.counts()["requests_processing"] == 1, "the engine is at it")
    return connection


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_an_answer_that_nobody_waits_for_stops_in_the_engine_soon(
    served: Served, engine: Engine, cloud: Simulator, stream: bool
) -> None:
    before = engine.counts()
    connection = begun(served, engine, asked(num_predict=LONG, stream=stream))
    assert status(cloud.instance())["in_flight"] == 1
    if stream:
        for _ in range(5):
            assert connection.sock
            assert connection.sock.recv(1 << 16)
    connection.close()
    after = engine.rests(SOON_S)
    assert after["tokens_predicted_total"] - before["tokens_predicted_total"] < LONG / 10
    assert cloud.instance().requests[-1] == "leaves /api/generate left"
    assert engine.counts() == after, "not a token more"


def test_a_prompt_that_nobody_waits_for_is_not_read_to_its_end(served: Served, engine: Engine) -> None:
    words = 3800
    before = engine.counts()
    connection = begun(served, engine, asked("word " * words))
    connection.close()
    after = engine.rests(30)  # a batch that was begun is read to its end
    assert after["prompt_tokens_total"] - before["prompt_tokens_total"] < words
    assert after["tokens_predicted_total"] == before["tokens_predicted_total"]


def test_an_instance_that_answers_is_kept_and_goes_once_its_client_has_left(
    served: Served, engine: Engine, cloud: Simulator, user: User
) -> None:
    seen = cloud.instance()
    connection = begun(served, engine, asked(num_predict=LONG))
    let_pass(cloud, IDLE_S)
    kept = user.run(module="functions.reap_idle").ended(0)
    assert "kept" in kept.out
    assert "1 request" in kept.out, kept.said
    assert connection.getresponse().readline(), "it is still being answered"
    connection.close()
    engine.rests(SOON_S)
    let_pass(cloud, IDLE_S)
    assert "destroyed" in user.run(module="functions.reap_idle").ended(0).out
    assert changes(cloud).count("delete-instance") == 1
    assert cloud.instances() == []
    assert seen.pids.keys() >= {"ollama"}
