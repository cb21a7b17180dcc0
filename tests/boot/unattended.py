"""Machines that nobody reaps: each powers itself off, and costs its disk only.

`nox -s boot` runs it; see the package's own words.
"""

import base64
import contextlib
import hashlib
import json
import time
from typing import Any

import pytest

from client.errors import ExollamaError
from client.settings import Secret
from tests.boot.cloud import KEY, Cloud
from tests.boot.machine import MARGIN_S
from tests.live import guest

pytestmark = pytest.mark.timeout(2400)

IDLE_S = 60


def test_the_live_runs_machine_tells_what_it_sees_and_switches_itself_off(cloud: Cloud) -> None:
    off_s = 150  # longer than a boot takes on a busy machine
    data = guest.user_data("5" * 32, Secret(KEY), off_s)
    id_ = cloud.simulator.plant(user_data=data, machine=True)
    machine = cloud.machine()
    address = str(machine.record.ip)
    facts: dict[str, Any] = {}
    began = time.monotonic()
    while "reboot: Power down" not in machine.console:
        assert time.monotonic() - began < off_s + 200, "it still runs"
        with contextlib.suppress(ExollamaError):
            facts = facts or guest.facts(address)
        time.sleep(2)
    assert time.monotonic() - began > off_s
    assert facts["address"] == address
    assert facts["cloud"] == "exoscale"
    assert facts["vendor"].startswith("Exoscale")
    assert facts["user_data"] == hashlib.sha256(base64.b64decode(data)).hexdigest()
    cloud.simulator.wait(lambda: cloud.simulator.instance(id_).state == "stopped", "stopped")
    cloud.simulator.remove(id_)


def test_a_machine_that_nobody_uses_and_nobody_reaps_powers_itself_off(cloud: Cloud) -> None:
    cloud.env = {"EXOSCALE_IDLE_TIMEOUT": str(IDLE_S)}
    cloud.run("client", "provision")
    assert cloud.machine().goes_off(IDLE_S + MARGIN_S + 120) > IDLE_S + MARGIN_S - 30
    (one,) = json.loads(cloud.run("client", "status", "--json").stdout)["instances"]
    assert one["state"] == "stopped"


def test_a_machine_past_its_deadline_powers_itself_off_whatever_it_does(cloud: Cloud) -> None:
    cloud.env["EXOSCALE_IDLE_TIMEOUT"] = "86400"
    cloud.run("client", "provision")  # the same one, started again
    machine = cloud.machine()
    policy = json.loads(machine.run("cat /etc/exollama/policy.json"))
    command = ["-m", "client", "generate", "why?", "--no-provision"]
    machine.pace(9.0)
    with cloud.begin(*command):
        time.sleep(5)  # under way
        machine.run("date", "-s", f"@{policy['deadline'] + policy['grace_s'] - 20}")
        time.sleep(10)
        assert machine.is_on(), "it went before its time"
        machine.goes_off(120)
