"""What a pass over many zones and instances costs: one list per zone, few calls for each instance, ten at a time."""

import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from requests import PreparedRequest

from client.endpoint import Endpoint
from client.model import Instance
from client.settings import Secret
from functions import reap_idle
from functions.transport import urllib3_send
from tests.bridge import Urllib3Mock
from tests.fakes import NOW, label_map, settings
from tests.zones import Agent, Answer, Zones, instance

IDLE_ONES = 100
AT_ONCE = 10
PLACES = ("at-vie-1", "at-vie-2", "bg-sof-1", "ch-dk-2", "ch-gva-2", "de-fra-1", "de-muc-1", "hr-zag-1")


class Traffic(Zones):
    """Zones that know which instances are in progress: from their first reading to the one that finds them gone."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self.by_instance: dict[str, list[str]] = defaultdict(list)
        self.threads: set[str] = set()
        self.in_progress: set[str] = set()
        self.most_in_progress = 0
        self.together = threading.Barrier(AT_ONCE)

    def _answer(self, request: PreparedRequest) -> Answer:
        answer = super()._answer(request)
        if found := re.search(r"/instance/(.+)", str(request.url)):
            self.by_instance[found[1]].append(str(request.method))
            self.threads.add(threading.current_thread().name)
            self.in_progress.add(found[1])
            self.most_in_progress = max(self.most_in_progress, len(self.in_progress))
            if answer[0] == 404:
                self.in_progress.remove(found[1])
        return answer

    def endpoint(self, instance: Instance, key: Secret) -> "Companion":
        self.asked.append((instance.id, key))
        return Companion(self)


class Companion(Agent):
    """An endpoint that answers its first question only once ten are asked at the same time."""

    def __init__(self, zones: Traffic) -> None:
        super().__init__(zones)
        self.together: threading.Barrier | None = zones.together

    def status(self) -> dict[str, Any]:
        together, self.together = self.together, None
        if together:
            together.wait(30)
        return super().status()


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    served = Traffic(*PLACES)
    monkeypatch.setattr(Endpoint, "of", served.endpoint)
    monkeypatch.setattr("functions.transport.http_client_send", urllib3_send())
    with Urllib3Mock(assert_all_requests_are_fired=False) as mock:
        for method in ("GET", "POST", "PUT", "DELETE"):
            mock.add_callback(method, re.compile(r"https://api-.*"), callback=served.answer)
        yield served


def test_a_pass_with_nothing_to_reap_costs_one_list_per_zone_whatever_runs_in_them(traffic: Traffic) -> None:
    for place in PLACES:
        traffic.instances[place] += [instance(id=f"{place}-{n}", labels=label_map(activity=NOW)) for n in range(250)]
    result = reap_idle.run(settings(zones=PLACES), **traffic.injected)
    assert {one["outcome"] for one in result["instances"]} == {"kept"}
    assert len(result["instances"]) == 2000
    assert sorted(traffic.made()) == [f"GET {place}/v2/instance" for place in PLACES]
    assert traffic.asked == []


def test_a_hundred_idle_instances_are_reaped_ten_at_a_time_with_four_calls_each(traffic: Traffic) -> None:
    traffic.instances["ch-gva-2"] += [instance(id=f"idle-{n}") for n in range(IDLE_ONES)]
    still = traffic.injected | {"sleep": lambda _: None}
    result = reap_idle.run(settings(zones=("ch-gva-2",)), **still)
    assert {one["outcome"] for one in result["instances"]} == {"destroyed"}, result
    assert len(result["instances"]) == IDLE_ONES
    # Read before it is asked and under the fence, and once it is gone; the contract allows eight.
    assert dict(traffic.by_instance) == {f"idle-{n}": ["GET", "GET", "DELETE", "GET"] for n in range(IDLE_ONES)}
    assert traffic.made().count("GET ch-gva-2/v2/instance") == 1
    polls = traffic.made().count("GET ch-gva-2/v2/operation/the-operation")
    assert len(traffic.made()) == 1 + 4 * IDLE_ONES + polls
    assert traffic.most_in_progress == AT_ONCE
    assert len(traffic.threads) == AT_ONCE
    assert sorted(asked for asked, _ in traffic.asked) == sorted(traffic.by_instance)
