"""The status as a page, through every platform's adapter: what goes back to a browser, and JSON to everybody else."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest

from client import page
from functions import faas
from tests.contract.test_adapters import by_asgi, by_azure, by_event, by_google, by_openfaas, by_wsgi
from tests.contract.test_faas import ENV, TOKEN
from tests.fakes import KEY, NOW, label_map
from tests.zones import ID, IDLE, Zones, instance, refusal

BASIC = "Basic " + base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
BROWSER = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}
LOGGED_IN = {**BROWSER, "Authorization": BASIC}


@pytest.fixture(params=[by_wsgi, by_asgi, by_event, by_google, by_openfaas, by_azure], ids=lambda way: way.__name__)
def ask(request: pytest.FixtureRequest, zones: Zones, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    plain: dict[str, Any] = faas.handle.__kwdefaults__ or {}
    hurried = {**plain, **zones.injected, "monotonic": lambda: zones.elapsed_s}
    monkeypatch.setattr(faas.handle, "__kwdefaults__", hurried)

    def asked(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, dict[str, str], str]:
        with monkeypatch.context() as patch:  # the drivers read JSON, and here the text itself is wanted
            patch.setattr("tests.contract.test_adapters.json", SimpleNamespace(loads=lambda raw: raw))
            status, head, said = request.param(method, path, headers, body)
        return (
            status,
            {name.lower(): value for name, value in head.items()},
            said if isinstance(said, str) else said.decode(),
        )

    return asked


def plant(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=NOW)))


def test_a_browser_gets_the_page_with_what_each_instance_says_of_itself_and_what_keeps_it_to_itself(
    zones: Zones, ask: Any
) -> None:
    plant(zones)
    status, head, text = ask("GET", "/", LOGGED_IN)
    assert (status, head["content-type"]) == (200, "text/html; charset=utf-8")
    for name, value in page.headers().items():
        assert head[name.lower()] == value
    assert text.startswith("<!doctype html>")
    assert ID in text
    assert "about" in text or "not known" in text
    assert len(zones.asked) == 1, "each is asked"
    assert KEY not in text
    assert TOKEN not in text
    assert zones.made("POST", "PUT", "DELETE") == []


def test_a_browser_is_told_what_should_be_gone_and_that_is_no_failure(zones: Zones, ask: Any) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=IDLE)))
    status, _, text = ask("GET", "/", LOGGED_IN)
    assert (status, "should be gone" in text, "exollama reap" in text) == (200, True, True)
    zones.said = {"idle_s": 60.0}
    assert "should be gone" not in ask("GET", "/", LOGGED_IN)[2], "it is used by whoever writes no labels"


def test_whoever_asks_for_the_head_gets_that_alone(zones: Zones, ask: Any) -> None:
    plant(zones)
    _, whole, text = ask("GET", "/status", LOGGED_IN)
    status, head, nothing = ask("HEAD", "/status", LOGGED_IN)
    assert (status, nothing) == (200, "")
    assert head["content-type"] == whole["content-type"]
    if "content-length" in whole:
        assert int(head["content-length"]) == pytest.approx(len(text.encode()), abs=9)  # but for the seconds in it


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "kind"),
    [
        ("GET", "/", BROWSER, b"", 401, "text/html; charset=utf-8"),
        ("GET", "/status", {"Authorization": BASIC}, b"", 200, "application/json"),
        ("POST", "/", LOGGED_IN, b'{"action":"provision"}', 401, "application/json"),
        ("POST", "/reap", LOGGED_IN, b"", 401, "application/json"),
        ("POST", "/", LOGGED_IN, b'{"action":"status"}', 401, "application/json"),
        ("GET", "/provision", LOGGED_IN, b"", 405, "text/html; charset=utf-8"),
        ("GET", "/reap", LOGGED_IN, b"", 405, "text/html; charset=utf-8"),
        ("POST", "/", {**BROWSER, "X-Exollama-Token": TOKEN}, b'{"action":"status"}', 200, "application/json"),
        ("GET", "/status", {**BROWSER, "X-Exollama-Token": TOKEN}, b"", 200, "text/html; charset=utf-8"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_password_opens_looking_alone_and_each_gets_what_it_can_read(
    zones: Zones, ask: Any, method: str, path: str, headers: dict[str, str], body: bytes, status: int, kind: str
) -> None:
    plant(zones)
    answered, head, text = ask(method, path, headers, body)
    assert (answered, head["content-type"]) == (status, kind)
    assert zones.made("POST", "PUT", "DELETE") == []
    assert bool(zones.made()) is (status == 200)
    if status == 401:
        wanted = 'Basic realm="exollama", charset="UTF-8"' if kind.startswith("text/html") else "Bearer"
        assert head["www-authenticate"] == wanted
    if kind == "application/json":
        assert isinstance(json.loads(text), dict)
    else:
        assert "<main " in text


def test_what_fails_is_told_beside_what_is_known(zones: Zones, ask: Any) -> None:
    plant(zones)
    zones.faults[f"GET /instance/{ID}"] = refusal(403, "Forbidden by role policy for <compute>")
    status, head, text = ask("GET", "/", LOGGED_IN)
    assert (status, head["content-type"]) == (500, "text/html; charset=utf-8")
    assert "granite3.1-dense:8b" in text
    assert f"{ID} was not asked" in text
    assert "gives no answer" not in text, "which it was not asked for"
    assert "Forbidden by role policy for &lt;compute&gt;" in text


def test_where_no_zone_can_be_looked_at_nobody_is_told_that_nothing_runs(zones: Zones, ask: Any) -> None:
    zones.faults["GET /instance"] = refusal(403, "Forbidden by role policy for compute")
    status, _, text = ask("GET", "/", LOGGED_IN)
    assert (status, "What runs is not known" in text) == (500, True)
    assert "Nothing runs" not in text


def test_a_status_that_cannot_be_had_is_a_page_that_says_so(
    zones: Zones, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EXOSCALE_API_KEY")
    status, head, text = ask("GET", "/", LOGGED_IN)
    assert (status, head["content-type"]) == (500, "text/html; charset=utf-8")
    assert "The status could not be read" in text
    assert "EXOSCALE_API_KEY" in text
    assert "data-failed=" in text
