"""ExoscaleOllamaAdapter on a simulated zone, inside this process; test_adapter_ends.py ends processes."""

import http.client
import json
import logging
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from client.keeper import Keeper
from functions import ExoscaleOllamaAdapter
from functions import adapter as module
from tests.simulator import ALWAYS, Simulator
from tests.simulator.lodging import Lodging
from tests.system.instance import KEY
from tests.system.serving import MODEL, PROMPT
from tests.system.verbs import Clerk, changes

IDLE_S = 40 * 60
WORDS = f"No model answers here: this is the simulator's stand-in for Ollama. You asked {MODEL}: Hello world"

Make = Callable[..., ExoscaleOllamaAdapter]


@pytest.fixture
def cloud(lodging: Lodging) -> Simulator:
    """Quick: its instances are ready at once."""
    return lodging.simulator


@pytest.fixture
def here(lodging: Lodging, monkeypatch: pytest.MonkeyPatch) -> Clerk:
    clerk = Clerk(lodging.simulator, monkeypatch, nap_s=0.01)
    clerk.env = {**clerk.env, "EXOSCALE_OLLAMA_KEY": KEY}
    return clerk


@pytest.fixture
def make(
    cloud: Simulator, here: Clerk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Make]:
    """Makes adapters, and ends them."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("EXOSCALE_API_ENDPOINT", here.env["EXOSCALE_API_ENDPOINT"])
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)
    made: list[ExoscaleOllamaAdapter] = []

    def adapter(**arguments: Any) -> ExoscaleOllamaAdapter:
        made.append(ExoscaleOllamaAdapter(cloud.key, cloud.secret, ollama_key=KEY, **arguments))
        return made[-1]

    yield adapter
    cloud.clear_faults()
    cloud.ollama(hold_after=None)
    for one in made:
        one.shutdown()


@pytest.fixture
def adapter(make: Make) -> ExoscaleOllamaAdapter:
    return make()


def posted(url: str | None) -> str:
    """What existing code does: it just posts."""
    request = urllib.request.Request(f"{url}/api/generate", json.dumps({**PROMPT, "stream": False}).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["response"])


def idle(lodging: Lodging) -> None:
    """Time passes, once the agent has seen what was just done."""
    lodging.ask("GET", "status")
    lodging.simulator.advance(IDLE_S)


@contextmanager
def elsewhere(lodging: Lodging) -> Iterator[Callable[[], str]]:
    """Somebody else's request that is in flight; gives what lets it go on and returns the last line of its answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    cloud = lodging.simulator
    cloud.ollama(hold_after=3)
    address = cloud.instances()[0].ip or ""
    with closing(http.client.HTTPSConnection(address, 11435, context=context, timeout=30)) as other:
        other.request("POST", "/api/generate", json.dumps(PROMPT), {"X-Ollama-Key": KEY})
        cloud.wait(lambda: lodging.ask("GET", "status")["in_flight"], "it is in flight")

        def rest() -> str:
            cloud.ollama(hold_after=None)
            return other.getresponse().read().decode().splitlines()[-1]

        yield rest


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a forwarder has looked whether a use is to be recorded: up to a second after it.

    Time that passes before that would let the use look young, since a forwarder's own clock stands still meanwhile.
    """
    looked, record = threading.Event(), Keeper._record

    async def recording(self: Keeper, *arguments: Any, **more: Any) -> None:
        await record(self, *arguments, **more)
        looked.set()

    monkeypatch.setattr(Keeper, "_record", recording)
    return looked


def test_the_original_s_example_runs_as_it_stands(cloud: Simulator, here: Clerk, make: Make) -> None:
    adapter = ExoscaleOllamaAdapter(
        api_key=cloud.key,
        api_secret=cloud.secret,
        ollama_key=KEY,
        zone="ch-gva-2",
        instance_type="standard.medium",
        ollama_model="granite3.1-dense:8b",
        idle_timeout=1800,
    )
    assert (adapter.get_ollama_url(), adapter.get_instance_status()) == (None, None)
    ollama_url = adapter.ensure_instance()
    assert ollama_url
    assert ollama_url.startswith("http://127.0.0.1:")
    assert (adapter.get_ollama_url(), adapter.get_instance_status()) == (ollama_url, "running")
    seen = cloud.instance()
    assert seen.labels["exollama-idle"] == "s1800"
    adapter.start_idle_monitor()
    result = adapter.proxy_request({"model": "granite3.1-dense:8b", "prompt": "Hello world", "stream": False})
    assert result
    assert (result["response"], result["done"]) == (WORDS, True)
    adapter.record_activity()
    adapter.shutdown()
    assert cloud.instances() == []
    assert changes(cloud).count("delete-instance") == 1
    assert (adapter.get_ollama_url(), adapter.get_instance_status(), adapter.last_error) == (None, None, None)


def test_the_url_stays_while_instances_come_and_go(cloud: Simulator, adapter: ExoscaleOllamaAdapter) -> None:
    url = adapter.ensure_instance()
    first = cloud.instance().id
    assert adapter.create_instance() == url
    assert cloud.instance().id == first, "one that lives is the one"
    assert adapter.destroy_instance() is True
    assert cloud.instances() == []
    assert adapter.destroy_instance() is True, "nothing is left is what it says"
    assert (adapter.get_instance_status(), adapter.last_error) == (None, None)
    assert posted(url).endswith("why?"), "a request wakes another one"
    assert cloud.instance().id != first
    assert adapter.ensure_instance() == url


def test_a_running_instance_is_touched_and_gets_the_model_and_what_ollama_refuses_is_told(
    cloud: Simulator, lodging: Lodging, adapter: ExoscaleOllamaAdapter, make: Make
) -> None:
    adapter.ensure_instance()
    idle(lodging)
    assert adapter.proxy_request({"model": "llama2:7b", "prompt": "Hello world"}) is None
    assert "llama2:7b" in (adapter.last_error or "")
    assert "404" in (adapter.last_error or "")
    idle(lodging)
    other = make(ollama_model="llama2:7b")
    assert other.ensure_instance()
    assert lodging.ask("GET", "status")["idle_s"] < 60
    result = other.proxy_request({"model": "llama2:7b", "prompt": "Hello world", "stream": True})
    assert result
    assert (result["model"], result["done"]) == ("llama2:7b", True)
    assert len(cloud.instances()) == 1


def test_a_request_in_flight_is_cut_by_neither_destroy_nor_shutdown(
    cloud: Simulator, lodging: Lodging, adapter: ExoscaleOllamaAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    adapter.ensure_instance()
    seen = cloud.instance()
    with elsewhere(lodging) as rest:
        assert adapter.destroy_instance() is False
        assert adapter.last_error
        assert "in use: 1 request(s) in flight" in adapter.last_error
        adapter.shutdown()
        said = [one.getMessage() for one in caplog.records if one.name == "exollama.adapter"]
        assert "in use" in said[-1]
        assert json.loads(rest())["done"] is True
    assert cloud.instance().id == seen.id
    assert adapter.ensure_instance() is None
    assert adapter.proxy_request({"model": MODEL}) is None
    assert "shut down" in (adapter.last_error or "")


def test_shutdown_finishes_what_this_process_has_under_way_or_cuts_it_after_its_bound(
    cloud: Simulator, lodging: Lodging, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 1.0)  # nginx may take a while to see that a request was cut
    for held in (False, True):
        monkeypatch.setattr(module, "_DRAIN_S", 1.0 if held else 20.0)
        adapter = make()
        adapter.ensure_instance()
        cloud.ollama(hold_after=3)
        with ThreadPoolExecutor(2) as threads:
            answer = threads.submit(adapter.proxy_request, {"model": MODEL, "prompt": "Hello world"})
            cloud.wait(lambda: lodging.ask("GET", "status")["in_flight"], "it is in flight")
            ending = threads.submit(adapter.shutdown)
            cloud.ollama(hold_after=3 if held else None)
            ending.result(20)
            result = answer.result(20)
        cloud.ollama(hold_after=None)
        assert (result is None) is held
        assert cloud.instances() == []


def test_shutdown_starts_no_thread_since_an_interpreter_that_ends_has_none(
    cloud: Simulator,
    adapter: ExoscaleOllamaAdapter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    recorded: threading.Event,
) -> None:
    adapter.ensure_instance()
    assert adapter.proxy_request({"model": MODEL, "prompt": "Hello world"})
    assert recorded.wait(20), "for which the forwarder starts a thread, as it does not again for long"
    assert adapter.proxy_request({"model": MODEL, "prompt": "Hello world"}), "which is left to be recorded at the end"
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if isinstance(self, threading.Timer) or self.name.startswith("exollama"):
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(self)  # one of the simulator's

    monkeypatch.setattr(threading.Thread, "start", refuse)
    adapter.shutdown()
    assert cloud.instances() == []
    assert not [one for one in caplog.records if one.levelno > logging.INFO]


# -- the monitor


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor looks often."""
    assert module._LOOK_S == 60
    monkeypatch.setattr(module, "_LOOK_S", 0.02)


@pytest.mark.usefixtures("looking")
def test_the_monitor_ends_an_idle_instance_and_the_one_that_a_later_request_wakes_after_a_pass_that_failed(
    cloud: Simulator,
    lodging: Lodging,
    adapter: ExoscaleOllamaAdapter,
    caplog: pytest.LogCaptureFixture,
    recorded: threading.Event,
) -> None:
    url = adapter.ensure_instance()
    adapter.start_idle_monitor()
    adapter.start_idle_monitor()
    assert [one.name for one in threading.enumerate()].count("exollama-monitor") == 1
    looks = len(cloud.called("list-instances"))
    cloud.wait(lambda: len(cloud.called("list-instances")) > looks + 3, "it looks again and again")
    first = cloud.instance().id
    idle(lodging)
    cloud.wait(lambda: cloud.instances() == [], "it is gone")
    assert posted(url).endswith("why?")
    assert cloud.instance().id != first
    assert recorded.wait(20)
    cloud.fault("list-instances", "403-iam", times=ALWAYS)
    idle(lodging)

    def said(words: str) -> int:
        return sum(words in one.getMessage() for one in caplog.records if one.name == "exollama.adapter")

    cloud.wait(lambda: said("ch-gva-2 was not looked at") >= 2, "passes that failed")
    cloud.clear_faults()
    cloud.wait(lambda: said("was destroyed: idle for 40 min") == 2, "the other one is gone as well")
    assert cloud.instances() == []
    adapter.stop_idle_monitor()
    adapter.stop_idle_monitor()
    assert "exollama-monitor" not in [one.name for one in threading.enumerate()]


@pytest.mark.usefixtures("looking")
@pytest.mark.parametrize("why", ["in use", "another's"])
def test_the_monitor_leaves_alone_what_is_in_use_or_has_another_name(
    cloud: Simulator, lodging: Lodging, here: Clerk, adapter: ExoscaleOllamaAdapter, why: str
) -> None:
    here.run("provision", EXOSCALE_INSTANCE_NAME="exollama" if why == "in use" else "another").ended(0)
    with ExitStack() as stack:
        if why == "in use":
            stack.enter_context(elsewhere(lodging))
        idle(lodging)
        adapter.start_idle_monitor()
        looks = len(cloud.called("list-instances"))
        cloud.wait(lambda: len(cloud.called("list-instances")) > looks + 3, "it looks again and again")
        adapter.stop_idle_monitor()
    assert len(cloud.instances()) == 1


def test_activity_that_is_recorded_keeps_it_from_a_reaper_and_asks_little(
    cloud: Simulator, lodging: Lodging, here: Clerk, adapter: ExoscaleOllamaAdapter
) -> None:
    adapter.ensure_instance()
    idle(lodging)
    before = len(cloud.calls)
    for _ in range(100):
        adapter.record_activity()
    assert len(cloud.calls) - before < 8
    assert changes(cloud).count("update-instance") == 1
    assert lodging.ask("GET", "status")["idle_s"] < 60
    assert "kept" in here.run("reap").ended(0).out
