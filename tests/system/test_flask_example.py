"""docs/examples/flask_app.py as a process: by itself and under gunicorn."""

import http.client
import json
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.simulator import Simulator
from tests.simulator.lodging import Lodging
from tests.system.instance import KEY
from tests.system.verbs import Running, User, changes

APP = ("docs.examples.flask_app",)
GUNICORN = ("gunicorn", "--bind", "127.0.0.1:0", "--workers", "2", "docs.examples.flask_app:app")

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def cloud(lodging: Lodging) -> Simulator:
    """Quick: its instances are ready at once."""
    return lodging.simulator


@pytest.fixture
def user(cloud: Simulator) -> User:
    return User(cloud, EXOSCALE_OLLAMA_KEY=KEY, PORT="0", OLLAMA_URL=NOBODY)


def ask(run: Running) -> tuple[int, dict[str, Any]]:
    """What the app answers, once it says where it listens."""
    pattern = re.compile(r"(?:Running on|Listening at:) http://127\.0\.0\.1:([0-9]+)")
    run.until(lambda: pattern.search(run.err), "it listens")
    found = pattern.search(run.err)
    assert found
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
    try:
        connection.request("POST", "/ask", json.dumps({"prompt": "why?"}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def sources(run: Running, workers: int) -> set[str]:
    """The Ollamas that as many workers answer from, each its own forwarder's, once it has one."""
    with ThreadPoolExecutor(workers) as programs:  # at once, since a worker answers one at a time
        answers = list(programs.map(lambda _: ask(run), range(workers)))
    return {said["from"] for status, said in answers if status == 200}


@pytest.mark.parametrize(
    ("command", "workers", "number", "code"),
    [
        (APP, 1, signal.SIGTERM, -signal.SIGTERM),
        (APP, 1, signal.SIGINT, 0),
        (GUNICORN, 2, signal.SIGTERM, 0),
    ],
    ids=["SIGTERM", "Ctrl-C", "gunicorn"],
)
def test_it_starts_an_instance_answers_from_it_and_ends_it_with_itself(
    cloud: Simulator, user: User, command: tuple[str, ...], workers: int, number: signal.Signals, code: int
) -> None:
    # Of several that end at once, those that find the instance fenced wait for whoever fenced it.
    patience = {"EXOLLAMA_SIMULATED_PATIENCE_S": "1"} if workers > 1 else {}
    with user.running(*command[1:], module=command[0], **patience) as run:
        run.until(lambda: len(sources(run, workers)) == workers, "each worker answers from it")
        status, said = ask(run)
        assert (status, said["response"][-4:]) == (200, "why?"), said
        assert said["from"] != NOBODY
        cloud.ollama(fail_generate="out of memory")
        status, said = ask(run)
        cloud.ollama(fail_generate=None)
        assert (status, "out of memory" in said["error"]) == (500, True), said
        run.process.send_signal(number)
        done = run.end(30)
    assert done.code == code, done.said
    assert "Traceback" not in done.err, done.said
    assert "exollama reap" not in done.err, f"nothing remains for it\n{done.said}"
    for words in ("Creating a standard.large in ch-gva-2, about ", " is ready\n", "no instance named exollama is left"):
        assert words in done.err, done.said
    assert cloud.instances() == [], done.said
    assert (changes(cloud).count("create-instance"), changes(cloud).count("delete-instance")) == (1, 1)


def test_without_credentials_it_asks_the_ollama_that_is_there_anyway(cloud: Simulator, user: User) -> None:
    with user.running(module=APP[0], EXOSCALE_API_KEY=None) as run:
        status, said = ask(run)
        assert status == 503
        assert f"Ollama at {NOBODY}" in said["error"]
        run.process.send_signal(signal.SIGTERM)
        assert run.end(20).code == -signal.SIGTERM
    assert cloud.calls == []
