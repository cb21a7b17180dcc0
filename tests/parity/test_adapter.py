"""The adapter is called as the original documents it: its parameters and defaults, its methods and what they return."""

from __future__ import annotations

import inspect
import typing
from typing import Any, cast

import pytest

from client.errors import NoInstance
from functions import ExoscaleOllamaAdapter, provision, stop
from tests.fakes import API_KEY, API_SECRET

REQUIRED = inspect.Parameter.empty
PARAMETERS: dict[str, tuple[object, object]] = {
    "api_key": (str, REQUIRED),
    "api_secret": (str, REQUIRED),
    "zone": (str, "ch-gva-2"),
    "instance_type": (str, "standard.medium"),
    "template_name": (str, "Linux Ubuntu 22.04 LTS 64-bit"),
    "disk_size": (int, 50),
    "ollama_model": (str, "granite3.1-dense:8b"),
    "ollama_key": (str | None, None),
    "idle_timeout": (int, 1800),
}
METHODS: dict[str, tuple[list[str], object]] = {
    "ensure_instance": ([], str | None),
    "create_instance": ([], str | None),
    "destroy_instance": ([], bool),
    "get_instance_status": ([], str | None),
    "get_ollama_url": ([], str | None),
    "record_activity": ([], type(None)),
    "start_idle_monitor": ([], type(None)),
    "stop_idle_monitor": ([], type(None)),
    "proxy_request": (["payload"], dict[str, Any] | None),
    "shutdown": ([], type(None)),
}
SIGNATURE = inspect.signature(ExoscaleOllamaAdapter)


def test_the_parameters_stand_in_the_originals_order() -> None:
    assert list(SIGNATURE.parameters) == list(PARAMETERS)
    assert {one.kind for one in SIGNATURE.parameters.values()} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_has_the_originals_type_and_default(name: str) -> None:
    kind, default = PARAMETERS[name]
    assert SIGNATURE.parameters[name].default == default
    assert typing.get_type_hints(ExoscaleOllamaAdapter.__init__)[name] == kind


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_and_returns_what_the_originals_does(name: str) -> None:
    taken, returned = METHODS[name]
    method = getattr(ExoscaleOllamaAdapter, name)
    assert list(inspect.signature(method).parameters) == ["self", *taken]
    assert typing.get_type_hints(method)["return"] == returned


@pytest.mark.parametrize(("given", "chosen"), [("standard.medium", None), ("standard.large", "standard.large")])
def test_the_originals_default_type_counts_as_none_chosen(given: str, chosen: str | None) -> None:
    adapter = ExoscaleOllamaAdapter(API_KEY, API_SECRET, instance_type=given)
    assert adapter._settings.instance_type == chosen


def test_every_argument_arrives_in_the_settings() -> None:
    key = "0123456789abcdef" * 2
    adapter = ExoscaleOllamaAdapter(
        API_KEY, API_SECRET, "de-fra-1", "standard.huge", "Mine", 60, "llama2:7b", key, 600
    )  # by position, as in the original's signature
    got = adapter._settings
    assert (got.api_key, got.api_secret.reveal()) == (API_KEY, API_SECRET)
    assert (got.zone, got.instance_type, got.template) == ("de-fra-1", "standard.huge", "Mine")
    assert (got.disk_gib, got.model, got.idle_s) == (60, "llama2:7b", 600)
    assert got.key
    assert got.key.reveal() == key


def test_the_monitor_looks_every_sixty_seconds() -> None:
    waited: list[float] = []

    class Over:
        def wait(self, seconds: float) -> bool:
            waited.append(seconds)
            return True

    ExoscaleOllamaAdapter(API_KEY, API_SECRET)._look_after(cast(Any, Over()))
    assert waited == [60]


def test_create_instance_brings_one_up_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def none(_: object) -> dict[str, Any]:
        raise NoInstance("none")

    monkeypatch.setattr(provision, "run", lambda settings, **_: made.append(settings.zone))
    monkeypatch.setattr(stop, "run", none)
    with ExoscaleOllamaAdapter(API_KEY, API_SECRET, "de-fra-1") as adapter:
        monkeypatch.setattr(adapter._source, "wake", lambda: None)
        url = adapter.create_instance()
        assert made == ["de-fra-1"]
        assert url
        assert url == adapter.get_ollama_url()
