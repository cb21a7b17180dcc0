"""API secret, endpoint key and tokens, searched for wherever a forwarder could show them; and the same as a library."""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import client
from client.settings import Secret
from functions import provision
from tests.simulator import Simulator
from tests.simulator.driver import Answer
from tests.system.serving import CHAT, MODEL, PROMPT, Served, refused, serving, whole
from tests.system.test_secrets import KEY, found
from tests.system.verbs import Clerk, User, changes

TOKEN = "PLANTED-serve-token-0123456789-abcdefghijk"


@pytest.fixture(autouse=True)
def cold(cloud: Simulator) -> Iterator[None]:
    for seen in cloud.instances():
        cloud.remove(seen.id)
    yield
    cloud.ollama(fail_generate=None, cut_after=None)


@pytest.fixture
def owner(cloud: Simulator) -> User:
    return User(cloud, EXOSCALE_OLLAMA_KEY=KEY)


def told(answer: Answer) -> str:
    return f"{answer.status} {answer.headers} {answer.body.decode('utf-8', 'replace')}"


def process(served: Served) -> str:
    return Path(f"/proc/{served.run.process.pid}/cmdline").read_bytes().decode()


def test_nothing_that_a_forwarder_says_to_anybody_has_a_secret_in_it(cloud: Simulator, owner: User) -> None:
    places: dict[str, str] = {}
    auth = {"Authorization": f"Bearer {TOKEN}"}
    with serving(owner, "-v", "--hold", "1", EXOLLAMA_SERVE_TOKEN=TOKEN) as served:

        def keep(name: str, method: str, path: str, body: object = None, **fields: str) -> int:
            answer = served.ask(method, path, body, **(auth | fields))
            places[name] = told(answer)
            return answer.status

        assert keep("asleep", "GET", "/api/tags") == 200
        assert keep("no token", "GET", "/api/tags", Authorization="") == 401
        assert keep("a wrong token", "GET", "/.exollama/status", Authorization="Bearer x") == 401
        assert keep("a page", "GET", "/api/tags", Origin="https://evil.example") == 403
        cloud.fault("list-instances", "403-signature", times=1 << 30)
        assert keep("a failed wake", "POST", "/api/generate", PROMPT) == 503
        assert keep("failed", "GET", "/.exollama/status") == 200
        cloud.clear_faults()
        places["its arguments"] = process(served)
        places["its output so far"] = served.run.out + served.run.err
        places["how it ended"] = served.end().ended(0).said
    with serving(owner, "-v", EXOLLAMA_SERVE_TOKEN=TOKEN) as served:
        assert keep("a use", "POST", "/api/generate", PROMPT) == 200
        assert keep("a chat", "POST", "/v1/chat/completions", CHAT) == 200
        assert keep("shown", "POST", "/api/show", {"model": MODEL}) == 200
        assert keep("ready", "GET", "/.exollama/status") == 200
        assert keep("for Prometheus", "GET", "/.exollama/status?format=prometheus") == 200
        for path in ("/.exollama/proof", "/%2eexollama/status", "/.exollama/touch", "/x/..%2f.exollama/status"):
            assert keep(f"the agent's {path}", "GET", path) in (200, 404)
        assert "boot" not in places["the agent's /%2eexollama/status"], "that is the agent's own"
        cloud.ollama(fail_generate="out of memory")
        assert keep("an error of Ollama's", "POST", "/api/generate", PROMPT) == 500
        cloud.fault("update-instance", "403-iam", times=1 << 30)
        places["its arguments, ready"] = process(served)
        places["how it ended, ready"] = served.end().ended(0, "GET /instance").said
    cloud.clear_faults()
    assert all(places.values())
    assert cloud.instance().key == KEY
    assert found(places, cloud, TOKEN) == []


def test_a_programs_own_key_goes_no_further_and_where_a_secret_is_shown_it_is_found(
    cloud: Simulator, owner: User
) -> None:
    with serving(owner) as served:
        answer = served.ask("POST", "/api/generate", PROMPT, Authorization="Bearer any", X_Ollama_Key="any")
        assert whole(answer), "the instance was asked with its own key"
        environment = Path(f"/proc/{served.run.process.pid}/environ").read_bytes().decode()
    assert found({"the answer": told(answer), "its environment": environment}, cloud) == ["its environment"]


# -- beside other code


def test_the_library_wakes_and_forwards_with_provision_as_it_is(cloud: Simulator, here: Clerk) -> None:
    settings = here.settings()
    shown: list[str] = []
    with client.forward(
        settings, wake=partial(provision.run, settings), progress=lambda phase, *_: shown.append(phase)
    ) as url:
        served = Library(url)
        assert changes(cloud) == []
        assert whole(served.generate())
        assert served.chat().status == 200
        status = served.status()
        assert (status["state"], status["instance"]["id"], status["wakes"]) == ("ready", cloud.instance().id, 1)
    assert changes(cloud).count("create-instance") == 1
    assert {"starting", "model"} & set(shown)


def test_the_library_creates_nothing_without_a_wake_and_uses_what_is_there(cloud: Simulator, here: Clerk) -> None:
    with client.forward(here.settings(), token=Secret(TOKEN)) as url:
        served = Library(url)
        auth = {"Authorization": f"Bearer {TOKEN}"}
        assert "Run `exollama provision`" in refused(served.generate(**auth))["error"]
        assert changes(cloud) == []
        here.run("provision").ended(0)
        served.run_until(lambda: served.generate(**auth).status == 200)
        assert json.loads(served.ask("GET", "/api/tags", **auth).body)["models"][0]["name"] == MODEL


class Library(Served):
    """A forwarder in this process, asked like any other."""

    def __init__(self, url: str) -> None:
        self.url = url
        assert urlsplit(url).port

    def run_until(self, so: object) -> None:
        assert callable(so)
        for _ in range(400):
            if so():
                return
            time.sleep(0.05)
        raise AssertionError("not so after many tries")
