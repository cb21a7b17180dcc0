"""Status as metrics, over HTTP: what a Prometheus that scrapes the function is answered."""

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from functions import faas
from tests.contract.test_adapters import BEARER
from tests.contract.test_faas import ENV
from tests.fakes import label_map
from tests.zones import ID, IDLE, Zones, instance, refusal

GET: dict[str, Any] = {"requestContext": {"http": {"method": "GET"}}, "rawPath": "/status"}
ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"


@pytest.fixture(autouse=True)
def function(zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function's environment, and the zones' clock."""
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    plain: dict[str, Any] = faas.handle.__kwdefaults__ or {}
    monkeypatch.setattr(
        faas.handle, "__kwdefaults__", {**plain, **zones.injected, "monotonic": lambda: zones.elapsed_s}
    )


def scrape(query: dict[str, str] | None = None, **headers: str) -> dict[str, Any]:
    return faas.invoke({**GET, "queryStringParameters": query or {}, "headers": {**BEARER, **headers}})


def found(body: str) -> dict[str, list[float]]:
    return {family.name: [sample.value for sample in family.samples] for family in parsed(body)}


@pytest.mark.parametrize("how", [{"query": {"format": "prometheus"}}, {"Accept": ACCEPT}], ids=["query", "header"])
def test_whoever_asks_for_metrics_gets_them(zones: Zones, how: dict[str, Any]) -> None:
    zones.instances["ch-gva-2"].append(instance())
    said = scrape(**how)
    assert (said["statusCode"], said["headers"]["Content-Type"].split("; charset")[0]) == (
        200,
        "text/plain; version=0.0.4",
    )
    assert said["headers"]["Cache-Control"] == "no-store"
    read = found(said["body"])
    assert read["exollama_instance_age_seconds"] == [86400]
    assert read["exollama_zone_up"] == [1, 1]
    assert read["exollama_instance_overdue"] == [1], "which a scrape always checks"


def test_everybody_else_gets_json(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    said = scrape(Accept="*/*")
    assert said["headers"]["Content-Type"] == "application/json"
    assert json.loads(said["body"])["instances"][0]["id"] == ID


def test_what_is_overdue_or_not_seen_fails_a_check_but_no_scrape(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=IDLE)))
    zones.faults[f"GET /instance/{ID}"] = refusal(403, "Forbidden by role policy for compute")
    assert scrape({"check": "true"})["statusCode"] == 500
    said = scrape({"check": "true", "format": "prometheus"})
    assert said["statusCode"] == 200
    assert found(said["body"])["exollama_instance_overdue"] == [0]


def test_a_scrape_of_nothing_at_all_fails_and_says_why(zones: Zones) -> None:
    zones.faults["GET /zone"] = refusal(400, "broken")
    said = scrape({"format": "prometheus"})
    assert (said["statusCode"], said["headers"]["Content-Type"]) == (502, "application/json")
    assert "broken" in json.loads(said["body"])["error"]


def test_a_scrape_without_the_token_is_refused(zones: Zones) -> None:
    said = scrape({"format": "prometheus"}, Authorization="Bearer wrong")
    assert said["statusCode"] == 401
    assert zones.made() == []
