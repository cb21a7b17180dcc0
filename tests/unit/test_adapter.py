"""ExoscaleOllamaAdapter: what its constructor takes, and what its methods say where something fails."""

import contextlib
import inspect
import logging
import os
import signal
import threading
from typing import Any

import pytest

import functions
from client.errors import ApiError, BootFailed, ExollamaError, NoInstance, SettingsError
from functions import ExoscaleOllamaAdapter, adapter, provision, reap_idle, stop
from tests.fakes import API_KEY, API_SECRET, KEY
from tests.unit.test_imports import modules_after

DOCUMENTED = {
    "api_key": inspect.Parameter.empty,
    "api_secret": inspect.Parameter.empty,
    "zone": "ch-gva-2",
    "instance_type": "standard.medium",
    "template_name": "Linux Ubuntu 22.04 LTS 64-bit",
    "disk_size": 50,
    "ollama_model": "granite3.1-dense:8b",
    "ollama_key": None,
    "idle_timeout": 1800,
}


def made(**arguments: Any) -> ExoscaleOllamaAdapter:
    return ExoscaleOllamaAdapter(**{"api_key": API_KEY, "api_secret": API_SECRET, **arguments})


def test_the_constructor_is_the_documented_one() -> None:
    parameters = inspect.signature(ExoscaleOllamaAdapter).parameters
    assert {name: one.default for name, one in parameters.items()} == DOCUMENTED
    assert {one.kind for one in parameters.values()} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_it_is_imported_only_where_it_is_wanted() -> None:
    assert not {"functions.adapter", "asyncio"} & modules_after("import functions.reap_idle")
    assert "functions.adapter" in modules_after("from functions import ExoscaleOllamaAdapter")
    with pytest.raises(AttributeError, match="no attribute 'Adapter'"):
        _ = functions.Adapter


def test_each_argument_is_a_setting_and_the_rest_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"INSTANCE_NAME": "mine", "ZONE": "at-vie-1", "IDLE_TIMEOUT": "9", "OLLAMA_KEY": "k"}.items():
        monkeypatch.setenv(f"EXOSCALE_{name}", value)
    given = (API_KEY, API_SECRET, "de-fra-1", "standard.huge", "Debian", 77, "llama2:7b", KEY, 600)
    settings = ExoscaleOllamaAdapter(*given)._settings
    assert (settings.api_key, settings.api_secret.reveal()) == given[:2]
    assert (settings.zone, settings.instance_type, settings.template, settings.disk_gib, settings.model) == given[2:7]
    assert settings.key
    assert (settings.key.reveal(), settings.idle_s) == given[7:]
    assert settings.name == "mine"
    usual = made()._settings
    assert (usual.zone, usual.key, usual.idle_s) == ("ch-gva-2", None, 1800), "what is not given is as documented"


def test_standard_medium_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXOSCALE_INSTANCE_TYPE", "standard.huge")
    assert made()._settings.instance_type is None
    assert made(instance_type="standard.medium")._settings.instance_type is None
    assert made(instance_type="standard.small")._settings.instance_type == "standard.small"


def test_none_is_not_given() -> None:
    settings = made(zone=None, instance_type=None, disk_size=None, ollama_model=None, idle_timeout=None)._settings
    assert settings == made()._settings


def test_every_bad_argument_is_named_at_once_in_its_own_words_and_no_secret_is() -> None:
    with pytest.raises(SettingsError) as caught:
        ExoscaleOllamaAdapter("", "a b", "Geneva", "medium", "a\0b", 5, "no model", "short-secret-key", 0)
    problems = caught.value.problems
    assert sorted(problem.split()[0] for problem in problems) == sorted(DOCUMENTED)
    assert "disk_size is '5': a whole number of GiB" in str(caught.value)
    assert "short-secret-key" not in str(caught.value)


def test_from_the_environment_an_explicit_type_is_obeyed_and_problems_name_variables() -> None:
    env = {"EXOSCALE_API_KEY": API_KEY, "EXOSCALE_API_SECRET": API_SECRET, "EXOSCALE_INSTANCE_TYPE": "standard.medium"}
    settings = ExoscaleOllamaAdapter.from_env({**env, "GARUDA_OLLAMA_MODEL": "llama2:7b"})._settings
    assert (settings.instance_type, settings.model) == ("standard.medium", "llama2:7b")
    with pytest.raises(SettingsError, match="EXOSCALE_API_SECRET is not set"):
        ExoscaleOllamaAdapter.from_env({"EXOSCALE_API_KEY": API_KEY})


def test_no_secret_shows() -> None:
    one = made(ollama_key=KEY)
    shown = f"{one!r} {one} {vars(one)}"
    assert API_SECRET not in shown
    assert KEY not in shown


# -- what fails


def raising(error: BaseException) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> ExoscaleOllamaAdapter:
    """An adapter whose network fails."""
    one = made()
    down = ApiError("GET", "/instance", 503, "the API is down")
    monkeypatch.setattr(one._source, "wake", raising(BootFailed("The boot failed", phase="docker")))
    monkeypatch.setattr(one._source.session.api, "list_known_zone", raising(down))
    monkeypatch.setattr(stop, "run", raising(down))
    monkeypatch.setattr(provision, "run", raising(down))
    monkeypatch.setattr(one, "_open", raising(ExollamaError("nothing can listen")))
    return one


@pytest.mark.parametrize(
    ("method", "arguments", "returns", "why"),
    [
        ("ensure_instance", (), None, "nothing can listen"),
        ("create_instance", (), None, "nothing can listen"),
        ("destroy_instance", (), False, "the API is down"),
        ("get_instance_status", (), None, "the API is down"),
        ("record_activity", (), None, "the API is down"),
        ("proxy_request", ({},), None, "nothing can listen"),
    ],
)
def test_what_fails_returns_what_is_documented_and_says_why_once(
    one: ExoscaleOllamaAdapter, caplog: pytest.LogCaptureFixture, method: str, arguments: Any, returns: Any, why: str
) -> None:
    assert getattr(one, method)(*arguments) is returns
    [said] = [record for record in caplog.records if record.name == "exollama.adapter"]
    assert said.levelno == logging.ERROR
    assert why in said.getMessage()
    assert one.last_error == said.getMessage()


def test_a_boot_that_fails_is_none_and_a_mistake_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with made() as one:
        monkeypatch.setattr(one._source, "wake", raising(BootFailed("The boot failed", phase="docker")))
        monkeypatch.setattr(stop, "run", raising(NoInstance("none")))
        assert one.ensure_instance() is None
        assert one.last_error == "The boot failed"
        assert one.get_ollama_url(), "it is there for a later one"
        monkeypatch.setattr(one._source, "wake", raising(ZeroDivisionError()))
        with pytest.raises(ZeroDivisionError):
            one.ensure_instance()
        with pytest.raises(TypeError):
            one.proxy_request({"prompt": object()})


def test_one_that_was_never_used_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "run", raising(AssertionError("it was stopped")))
    one = made()
    before = signal.getsignal(signal.SIGTERM)
    one.start_idle_monitor()
    assert signal.getsignal(signal.SIGTERM) == one._heard
    one.shutdown()
    one.shutdown()
    assert signal.getsignal(signal.SIGTERM) == before
    assert one.last_error is None
    one.start_idle_monitor()
    assert "was shut down" in str(one.last_error)


def test_signals_that_somebody_handles_are_left_to_them_and_a_thread_installs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def theirs(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, theirs)
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with made() as one:
            one.start_idle_monitor()
            assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == (theirs, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with made() as one:
            thread = threading.Thread(target=one.start_idle_monitor)
            thread.start()
            thread.join()
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, ignored)


def test_shutdown_runs_once_however_many_call_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    gate = threading.Event()

    def stopped(_: object) -> Any:
        ended.append("once")
        assert gate.wait(10)
        raise NoInstance("none")

    monkeypatch.setattr(stop, "run", stopped)
    one = made()
    assert one._open()
    threads = [threading.Thread(target=one.shutdown) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.set()
    one.shutdown()
    assert one.get_ollama_url() is None
    for thread in threads:
        thread.join(10)
    assert ended == ["once"]


class Ending:
    """What the adapters here end, in order: a name is an instance's, `died` the process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, heard: int = 0) -> None:
        self.ended: list[str] = []
        self._heard = heard
        monkeypatch.setattr(stop, "run", self._stop)
        monkeypatch.setattr(signal, "raise_signal", self._raise)
        monkeypatch.setattr(os, "_exit", lambda code: None)

    def _stop(self, settings: Any) -> Any:
        for _ in range(self._heard):
            os.kill(os.getpid(), signal.SIGTERM)
        self.ended.append(settings.name)
        raise NoInstance("none")

    def _raise(self, number: int) -> None:
        handler = signal.getsignal(number)
        if callable(handler):
            handler(number, None)
        else:
            self.ended.append("died")


@pytest.mark.parametrize(
    ("heard", "expected"),
    [(0, ["exollama"]), (1, ["exollama", "died"]), (2, ["exollama", "died"])],
    ids=["none", "one waits for its end", "two, as a terminal sends that closes, are as one"],
)
def test_a_signal_during_a_shutdown_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, heard: int, expected: list[str]
) -> None:
    ending = Ending(monkeypatch, heard=heard)
    one = made()
    assert one._open()
    one.shutdown()
    assert ending.ended[:3] == expected
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_shutdown_that_is_cut_short_or_cannot_see_what_is_left_says_what_becomes_of_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    down = ApiError("GET", "/instance", 503, "the API is down")
    for error, words in ((KeyboardInterrupt(), "was cut short: an instance may be left."), (down, "the API is down")):
        caplog.clear()
        monkeypatch.setattr(stop, "run", raising(error))
        one = made()
        assert one._open()
        with contextlib.suppress(KeyboardInterrupt):
            one.shutdown()
        [said] = [record.getMessage() for record in caplog.records if record.name == "exollama.adapter"]
        assert words in said
        assert "It goes once nobody uses it, by the next `exollama reap` (cron); or: exollama stop --force" in said


@pytest.mark.parametrize(
    ("phase", "ended", "comes"),
    [("preparing", False, False), ("creating", False, True), ("creating", True, False)],
    ids=["before", "after", "after, and it is ended"],
)
def test_a_shutdown_before_the_create_call_has_none_made_and_one_after_it_says_that_an_instance_may_come(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, phase: str, ended: bool, comes: bool
) -> None:
    told, on, made_one = threading.Event(), threading.Event(), threading.Event()

    def provisioned(_: Any, *, progress: Any) -> Any:
        progress(phase, None, 0.0)
        told.set()
        assert on.wait(10)
        progress("creating", None, 1.0)
        made_one.set()
        raise BootFailed("ended meanwhile", phase="creating")

    monkeypatch.setattr(provision, "run", provisioned)
    destroyed = {"instances": [{"id": "an-id", "outcome": "destroyed", "reason": "as asked"}]}
    monkeypatch.setattr(stop, "run", (lambda _: destroyed) if ended else raising(NoInstance("none")))
    one = made()
    monkeypatch.setattr(one._source, "wake", one._wake)
    waiting = threading.Thread(target=one.ensure_instance)
    waiting.start()
    assert told.wait(10)
    one.shutdown()
    on.set()
    waiting.join(10)
    late = "may come up still. It goes once nobody uses it"
    assert (made_one.is_set(), late in caplog.text) == (phase == "creating", comes)
    assert one.last_error == "ended meanwhile" or "was shut down" in str(one.last_error)


def test_a_signal_ends_what_each_adapter_has_and_then_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = Ending(monkeypatch)
    adapters = []
    for name in ("first", "second"):
        monkeypatch.setenv("EXOSCALE_INSTANCE_NAME", name)
        adapters.append(made())
        assert adapters[-1]._open()
    os.kill(os.getpid(), signal.SIGTERM)
    assert ending.ended[:3] == ["second", "first", "died"]


@pytest.mark.parametrize(
    ("outcomes", "expected", "looks"),
    [
        (["destroyed"], True, 1),
        (["kept", "destroyed"], True, 2),
        (["kept", None], True, 2),
        (["kept"] * 4, False, 4),
        (["failed", None], True, 2),
        (["failed", "kept", "failed", None], True, 4),
        (["failed"] * 4, False, 4),
    ],
)
def test_what_is_kept_or_failed_is_looked_at_three_times_more(
    monkeypatch: pytest.MonkeyPatch, outcomes: list[str | None], expected: bool, looks: int
) -> None:
    monkeypatch.setattr(adapter, "_AGAIN_S", 0.0)
    left = iter(outcomes)

    def stopped(_: Any) -> Any:
        outcome = next(left)
        if outcome is None:
            raise NoInstance("none")
        return {"instances": [{"id": "an-id", "outcome": outcome, "reason": "because."}]}

    monkeypatch.setattr(stop, "run", stopped)
    one = made()
    assert one.destroy_instance() is expected
    assert len(outcomes) - len(list(left)) == looks
    assert (one.last_error is None) is expected
    assert expected or "because. It goes once" in str(one.last_error)


def test_a_mistake_in_a_pass_of_the_monitor_ends_it_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert adapter._LOOK_S == 60
    monkeypatch.setattr(adapter, "_LOOK_S", 0.001)
    passes: list[Any] = []
    enough = threading.Event()

    def pass_(settings: Any, *, name: str) -> Any:
        passes.append((settings.zones, name))
        if len(passes) == 1:
            raise ZeroDivisionError
        if len(passes) == 2:
            raise ExollamaError("the API is down")
        enough.set()
        return {"instances": [], "failed": []}

    monkeypatch.setattr(reap_idle, "run", pass_)
    one = made()
    one.start_idle_monitor()
    assert enough.wait(10)
    one.shutdown()
    assert passes[:3] == [(("ch-gva-2",), "exollama")] * 3
    assert "a pass of the monitor failed" in caplog.text
    assert "the API is down" in caplog.text
