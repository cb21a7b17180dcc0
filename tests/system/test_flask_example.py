"""docs/examples/flask_app.py as a process: by itself and under gunicorn."""

import http.client
import json
import re
import signal
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


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        (APP, signal.SIGTERM, -signal.SIGTERM),
        (APP, signal.SIGINT, 0),
        (GUNICORN, signal.SIGTERM, 0),
    ],
    ids=["SIGTERM", "Ctrl-C", "gunicorn"],
)
def test_it_starts_an_instance_answers_from_it_and_ends_it_with_itself(
    cloud: Simulator, user: User, command: tuple[str, ...], number: signal.Signals, code: int
) -> None:
    with user.running(*command[1:], module=command[0]) as run:
        run.until(lambda: ask(run)[0] == 200, "it answers")
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
