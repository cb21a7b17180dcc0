"""ExoscaleOllamaAdapter while an instance boots: once for all who ask, and a shutdown waits for none."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from functions import ExoscaleOllamaAdapter
from functions import adapter as module
from tests.simulator import Simulator
from tests.simulator.driver import boot_report
from tests.system.verbs import Clerk, User, changes


@pytest.fixture
def adapter(empty: Simulator, here: Clerk, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExoscaleOllamaAdapter]:
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)
    with ExoscaleOllamaAdapter.from_env(here.env) as adapter:
        yield adapter
        empty.ollama(pull_hold_percent=None)


def boots(cloud: Simulator) -> bool:
    """Whether the one instance pulls its model."""
    return any(boot_report(seen).get("phase") == "model" for seen in cloud.instances() if seen.root)


def test_ten_threads_at_once_boot_one_instance_and_get_one_url(
    empty: Simulator, adapter: ExoscaleOllamaAdapter
) -> None:
    empty.boot(delay_s=0.1)
    with ThreadPoolExecutor(11) as threads:
        urls = list(threads.map(lambda _: adapter.ensure_instance(), range(10)))
    assert urls[0]
    assert set(urls) == {adapter.get_ollama_url()}
    assert changes(empty).count("create-instance") == 1


def test_shutdown_while_it_boots_waits_for_no_boot_and_who_waited_ends_the_instance(
    empty: Simulator, adapter: ExoscaleOllamaAdapter
) -> None:
    empty.ollama(pull_hold_percent=40)
    with ThreadPoolExecutor(1) as threads:
        url = threads.submit(adapter.ensure_instance)
        empty.wait(lambda: boots(empty), "it boots")
        assert (adapter.get_instance_status(), bool(adapter.get_ollama_url())) == ("running", True)
        adapter.shutdown()
        assert "booting (phase model)" in (adapter.last_error or "")
        assert empty.instance().labels["exollama"] == "v1"
        assert not url.done()
        empty.ollama(pull_hold_percent=None)
        assert url.result(20) is None
    assert empty.instances() == []


def test_what_boots_still_when_the_program_is_ended_is_owned_and_left_to_the_reaper(
    empty: Simulator, user: User
) -> None:
    empty.ollama(pull_hold_percent=40)
    with user.running("waits", "boots", module="tests.system.adapting") as run:
        run.until(lambda: boots(empty), "it boots")
        run.process.send_signal(signal.SIGTERM)
        done = run.end(20)
    empty.ollama(pull_hold_percent=None)
    assert done.code == -signal.SIGTERM, done.said
    assert "booting (phase model)" in done.err
    assert "exollama reap" in done.err
    assert empty.instance().labels["exollama"] == "v1"
