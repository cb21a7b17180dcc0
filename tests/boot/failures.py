"""Machines with which something is wrong: each says what, to the unchanged verbs, and ends.

`nox -s boot` runs it; see the package's own words.
"""

import json
import re

import pytest

from tests.boot import network
from tests.boot.cloud import Cloud
from tests.boot.machine import MARGIN_S

pytestmark = pytest.mark.timeout(1800)

MISSING = "ollama/ollama:0.0.0-missing"
NO_PACKAGES = f"test.packages=http://{network.REGISTRY}:5000/none"


@pytest.mark.parametrize(
    ("kernel", "env", "phase", "words"),
    [
        pytest.param(NO_PACKAGES, {}, "docker", "apt-get update", id="packages"),
        pytest.param("test.free_mib=120", {}, "docker|nginx|image", "[Nn]o space left|enough free space", id="disk"),
        pytest.param("", {"EXOSCALE_OLLAMA_IMAGE": MISSING}, "image", "manifest|no such host|not found", id="image"),
        pytest.param("", {"EXOSCALE_OLLAMA_MODEL": "no-such-model:1b"}, "model", "manifest", id="model"),
    ],
)
def test_a_boot_that_fails_says_in_which_phase_and_why(
    cloud: Cloud, kernel: str, env: dict[str, str], phase: str, words: str, request: pytest.FixtureRequest
) -> None:
    cloud.env = env
    cloud.kernel = kernel
    try:
        done = cloud.run("client", "provision", "--keep-failed", code=1, timeout_s=900)
        machine = cloud.machine()
        (one,) = json.loads(cloud.run("client", "status", "--probe", "--json").stdout)["instances"]
        assert one["said"]["boot"]["phase"] == "failed"
        assert one["said"]["boot"]["error"]["message"] in done.stderr
        assert re.search(f"phase ({phase}): .*{words}", done.stderr, re.DOTALL), done.stderr
        error = json.loads(machine.run("cat /run/exollama/boot.json"))["error"]
        assert re.fullmatch(phase, error["phase"])
        assert re.search(words, error["message"])
        assert f"exollama: failed in {error['phase']}: {error['message'][:40]}" in machine.console
        print(f"\n-- {request.node.name}: {error}\n-- its console ended so:\n{machine.console[-1500:]}")
    finally:
        cloud.run("client", "stop", "--force", code=None)
        cloud.kernel = ""
    assert cloud.simulator.instances() == []


def test_a_machine_whose_boot_failed_and_whose_maker_died_powers_itself_off(cloud: Cloud) -> None:
    cloud.kernel = NO_PACKAGES
    before = len(cloud.machines)
    with cloud.begin("-m", "client", "provision"):
        cloud.simulator.wait(lambda: len(cloud.machines) > before, "it is created", 60)
    machine = cloud.machine()
    try:
        cloud.simulator.wait(lambda: "exollama: failed in docker" in machine.console, "its boot failed", 900)
        assert machine.goes_off(MARGIN_S + 120) > MARGIN_S - 30
        (one,) = json.loads(cloud.run("client", "status", "--json").stdout)["instances"]
        assert one["state"] == "stopped"
    finally:
        cloud.run("client", "stop", "--force", code=None)
        cloud.kernel = ""
    assert cloud.simulator.instances() == []
