"""Azure's own: what function_app.py registers, and its timer."""

import json
from collections.abc import Callable

import pytest

from tests.runtimes.drivers import Azure, Runtime
from tests.simulator import Simulator
from tests.system.verbs import plant


@pytest.fixture
def azure(started: Callable[[type[Runtime]], Runtime]) -> Runtime:
    return started(Azure)


def test_one_function_answers_over_http_and_one_reaps_on_schedule(azure: Runtime) -> None:
    assert json.loads((azure.bundle / "host.json").read_text()) == {"version": "2.0"}
    functions = {one["name"]: one for one in azure.http("GET", "/admin/functions").json}
    assert {(name, one["scriptFile"]) for name, one in functions.items()} == {
        ("exollama", "function_app.py"),
        ("reap", "function_app.py"),
    }
    trigger, answer = functions["exollama"]["bindings"]
    assert (trigger["type"], trigger["direction"], trigger["name"]) == ("httpTrigger", "IN", "req")
    assert (trigger["route"], trigger["methods"], trigger["authLevel"]) == (
        "{action?}",
        ["GET", "HEAD", "POST"],
        "ANONYMOUS",
    )
    assert (answer["type"], answer["direction"]) == ("http", "OUT")
    [timer] = functions["reap"]["bindings"]
    assert (timer["type"], timer["name"], timer["schedule"]) == ("timerTrigger", "timer", "0 */10 * * * *")


def test_the_timer_reaps(azure: Runtime, cloud: Simulator) -> None:
    plant(cloud, state="stopped")
    assert azure.http("POST", "/admin/functions/reap").status == 202
    assert cloud.instances() == []


def test_a_timer_whose_reap_fails_is_seen_to_fail(azure: Runtime, cloud: Simulator) -> None:
    cloud.fault("list-zones", "403-iam", times=1 << 30)
    answer = azure.http("POST", "/admin/functions/reap")
    assert (answer.status, answer.body.startswith(b"CallFailed: ")) == (500, True)
    assert b"role policy" in answer.body
