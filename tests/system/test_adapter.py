"""ExoscaleOllamaAdapter on a simulated zone, inside this process; tests/system/test_adapter_ends.py ends processes."""

import http.client
import json
import logging
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest

from functions import ExoscaleOllamaAdapter
from functions import adapter as module
from tests.simulator import Seen, Simulator
from tests.simulator.driver import boot_report, status
from tests.system.serving import MODEL, PROMPT
from tests.system.verbs import Clerk, changes, let_pass

IDLE_S = 40 * 60
WORDS = f"No model answers here: this is the simulator's stand-in for Ollama. You asked {MODEL}: Hello world"

Make = Callable[..., ExoscaleOllamaAdapter]


@pytest.fixture
def make(
    empty: Simulator, here: Clerk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Make]:
    """Makes adapters for an empty zone, and ends them."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("EXOSCALE_API_ENDPOINT", here.env["EXOSCALE_API_ENDPOINT"])
    made: list[ExoscaleOllamaAdapter] = []

    def adapter(**arguments: Any) -> ExoscaleOllamaAdapter:
        made.append(ExoscaleOllamaAdapter(empty.key, empty.secret, **arguments))
        return made[-1]

    yield adapter
    empty.clear_faults()
    empty.ollama(hold_after=None, pull_hold_percent=None)
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


@contextmanager
def elsewhere(cloud: Simulator, seen: Seen) -> Iterator[Callable[[], str]]:
    """Somebody else's stream that is in flight; gives what lets it go on and returns its last line."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    cloud.ollama(hold_after=3)
    with closing(http.client.HTTPSConnection(seen.ip or "", 11435, context=context, timeout=30)) as other:
        other.request("POST", "/api/generate", json.dumps(PROMPT), {"X-Ollama-Key": seen.key})
        answer = other.getresponse()
        answer.readline()

        def rest() -> str:
            cloud.ollama(hold_after=None)
            return answer.read().decode().splitlines()[-1]

        yield rest


def test_the_original_s_example_runs_as_it_stands(empty: Simulator, here: Clerk, make: Make) -> None:
    adapter = ExoscaleOllamaAdapter(
        api_key=empty.key,
        api_secret=empty.secret,
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
    seen = empty.instance()
    assert seen.labels["exollama-idle"] == "s1800"
    assert "standard.large" in here.run("provision").err or True
    adapter.start_idle_monitor()
    result = adapter.proxy_request({"model": "granite3.1-dense:8b", "prompt": "Hello world", "stream": False})
    assert result
    assert (result["response"], result["done"]) == (WORDS, True)
    adapter.record_activity()
    adapter.shutdown()
    assert empty.instances() == []
    assert changes(empty).count("delete-instance") == 1
    assert (adapter.get_ollama_url(), adapter.get_instance_status(), adapter.last_error) == (None, None, None)


def test_ten_threads_at_once_boot_one_instance_and_get_one_url(
    empty: Simulator, adapter: ExoscaleOllamaAdapter
) -> None:
    empty.boot(delay_s=0.1)
    with ThreadPoolExecutor(10) as threads:
        urls = set(threads.map(lambda _: adapter.ensure_instance(), range(10)))
        assert len(urls) == 1
        assert posted(urls.pop()).endswith("why?")
        status_of = set(threads.map(lambda _: adapter.get_instance_status(), range(10)))
        assert status_of == {"running"}
    assert changes(empty).count("create-instance") == 1


def test_the_url_stays_while_instances_come_and_go(empty: Simulator, adapter: ExoscaleOllamaAdapter) -> None:
    url = adapter.ensure_instance()
    first = empty.instance().id
    assert adapter.create_instance() == url
    assert empty.instance().id == first, "one that lives is the one"
    assert adapter.destroy_instance() is True
    assert empty.instances() == []
    assert adapter.destroy_instance() is True, "nothing is left is what it says"
    assert (adapter.get_instance_status(), adapter.last_error) == (None, None)
    assert posted(url).endswith("why?"), "a request wakes another one"
    assert empty.instance().id != first
    assert adapter.ensure_instance() == url


def test_a_request_in_flight_is_cut_by_neither_destroy_nor_shutdown(
    empty: Simulator, adapter: ExoscaleOllamaAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    adapter.ensure_instance()
    seen = empty.instance()
    with elsewhere(empty, seen) as rest:
        assert adapter.destroy_instance() is False
        assert adapter.last_error
        assert "in use: 1 request(s) in flight" in adapter.last_error
        adapter.shutdown()
        assert "in use" in caplog.records[-1].getMessage()
        assert json.loads(rest())["done"] is True
    assert empty.instance().id == seen.id
    assert adapter.ensure_instance() is None
    assert adapter.proxy_request({"model": MODEL}) is None
    assert "shut down" in (adapter.last_error or "")


def test_shutdown_finishes_what_this_process_has_under_way_or_cuts_it_after_its_bound(
    empty: Simulator, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DRAIN_S", 1.0)
    for held in (False, True):
        adapter = make()
        adapter.ensure_instance()
        empty.ollama(hold_after=3)
        with ThreadPoolExecutor(2) as threads:
            answer = threads.submit(adapter.proxy_request, {"model": MODEL, "prompt": "Hello world"})
            empty.wait(lambda: status(empty.instance())["in_flight"], "it is in flight")
            ending = threads.submit(adapter.shutdown)
            empty.ollama(hold_after=3 if held else None)
            ending.result(20)
            result = answer.result(20)
        empty.ollama(hold_after=None)
        assert (result is None) is held
        assert empty.instances() == []


def test_shutdown_while_it_boots_waits_for_no_boot_and_who_waited_ends_the_instance(
    empty: Simulator, adapter: ExoscaleOllamaAdapter
) -> None:
    empty.ollama(pull_hold_percent=40)
    with ThreadPoolExecutor(1) as threads:
        url = threads.submit(adapter.ensure_instance)
        empty.wait(lambda: empty.instances() and boot_report(empty.instance()).get("phase") == "model", "it boots")
        assert adapter.get_instance_status() == "running"
        assert adapter.get_ollama_url()
        adapter.shutdown()
        assert "booting (phase model)" in (adapter.last_error or "")
        assert empty.instance().labels["exollama"] == "v1"
        assert not url.done()
        empty.ollama(pull_hold_percent=None)
        assert url.result(20) is None
    assert empty.instances() == []


# -- the monitor


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor looks often."""
    assert module._LOOK_S == 60
    monkeypatch.setattr(module, "_LOOK_S", 0.02)


@pytest.mark.usefixtures("looking")
def test_the_monitor_ends_an_idle_instance_and_the_one_that_a_later_request_wakes_after_a_pass_that_failed(
    empty: Simulator, adapter: ExoscaleOllamaAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    url = adapter.ensure_instance()
    adapter.start_idle_monitor()
    adapter.start_idle_monitor()
    assert [one.name for one in threading.enumerate()].count("exollama-monitor") == 1
    looks = len(empty.called("list-instances"))
    empty.wait(lambda: len(empty.called("list-instances")) > looks + 3, "it looks again and again")
    first = empty.instance().id
    let_pass(empty, IDLE_S)
    empty.wait(lambda: empty.instances() == [], "it is gone")
    assert posted(url).endswith("why?")
    assert empty.instance().id != first
    empty.fault("list-instances", "403-iam", times=2)
    let_pass(empty, IDLE_S)

    def said(words: str) -> int:
        return sum(words in one.getMessage() for one in caplog.records if one.name == "exollama.adapter")

    empty.wait(lambda: said("was destroyed: idle for 40 min") == 2, "the other one is gone as well")
    assert empty.instances() == []
    assert said("ch-gva-2 was not looked at") == 2
    adapter.stop_idle_monitor()
    adapter.stop_idle_monitor()
    assert "exollama-monitor" not in [one.name for one in threading.enumerate()]


@pytest.mark.usefixtures("looking")
def test_the_monitor_leaves_alone_what_is_in_use_or_has_another_name(
    empty: Simulator, here: Clerk, adapter: ExoscaleOllamaAdapter, make: Make
) -> None:
    adapter.ensure_instance()
    seen = empty.instance()
    here.run("provision", EXOSCALE_INSTANCE_NAME="another").ended(0)
    with elsewhere(empty, seen):
        let_pass(empty, IDLE_S)
        adapter.start_idle_monitor()
        looks = len(empty.called("list-instances"))
        empty.wait(lambda: len(empty.called("list-instances")) > looks + 3, "it looks again and again")
        assert len(empty.instances()) == 2
    empty.ollama(hold_after=None)


def test_activity_that_is_recorded_keeps_it_from_a_reaper_and_asks_little(
    empty: Simulator, here: Clerk, adapter: ExoscaleOllamaAdapter
) -> None:
    adapter.ensure_instance()
    let_pass(empty, IDLE_S)
    before = len(empty.calls)
    for _ in range(100):
        adapter.record_activity()
    assert len(empty.calls) - before < 8
    assert changes(empty).count("update-instance") == 1
    assert status(empty.instance())["idle_s"] < 60
    assert "kept" in here.run("reap").ended(0).out
