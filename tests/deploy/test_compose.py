"""deploy/docker/compose.yaml: what reaches each service from .env, and both services against a simulated zone."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import yaml

from client.settings import Settings
from tests.deploy.composed import DOCKER, PARSERS, Service, resolved
from tests.deploy.tools import SETTINGS, filled_in, stand_in
from tests.fakes import settings_read
from tests.simulator import Simulator
from tests.simulator.driver import Answer
from tests.system.serving import PROMPT, whole
from tests.system.verbs import Done, Running, let_pass, plant

SERVE = {"EXOLLAMA_SERVE_TOKEN", "EXOLLAMA_PROVISION_URL", "EXOLLAMA_FUNCTION_TOKEN", "OLLAMA_ORIGINS"}
NO_SETTING = "EXOLLAMA_KEY_MARK"
"""Read all the same: the key beside it was handed out with an instance."""
PASSED_ON = settings_read() - {NO_SETTING}
REQUIRED = {"EXOSCALE_API_KEY": "EXOexample", "EXOSCALE_API_SECRET": "example-secret"}


def serve_reads() -> set[str]:
    """The variables of serve's own, from its source and that of the function that it may ask."""
    source = "".join((DOCKER.parents[1] / f"client/{name}.py").read_text() for name in ("serve", "function"))
    return set(re.findall(r'"(EXOLLAMA_[A-Z_]+|OLLAMA_[A-Z_]+)"', source))


@pytest.fixture(params=PARSERS)
def parser(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_each_service_gets_every_variable_that_is_read_and_no_other(parser: str, tmp_path: Path) -> None:
    services = resolved(parser, tmp_path)
    assert serve_reads() == SERVE
    assert set(services["reaper"]["environment"]) == PASSED_ON
    assert set(services["forwarder"]["environment"]) == PASSED_ON | SERVE


@pytest.mark.parametrize("env", ["", SETTINGS.read_text()], ids=["empty", "the example"])
def test_without_values_in_env_every_variable_is_empty_which_is_unset(parser: str, tmp_path: Path, env: str) -> None:
    (tmp_path / ".env").write_text(env)
    for service in resolved(parser, tmp_path).values():
        assert set(service["environment"].values()) == {""}
        assert Settings.from_env(service["environment"] | REQUIRED) == Settings.from_env(REQUIRED)


def test_what_the_original_documents_for_env_reaches_both_services(parser: str, tmp_path: Path) -> None:
    given = {
        **REQUIRED,
        "EXOSCALE_ZONE": "de-fra-1",
        "EXOSCALE_INSTANCE_TYPE": "standard.large",
        "EXOSCALE_TEMPLATE": "Linux Ubuntu 24.04 LTS 64-bit",
        "EXOSCALE_DISK_SIZE": "60",
        "EXOSCALE_OLLAMA_KEY": "0123456789abcdef0123456789abcdef",
        "EXOSCALE_IDLE_TIMEOUT": "600",
        "GARUDA_OLLAMA_MODEL": "llama2:7b",
    }
    filled_in(tmp_path / ".env", given)
    for service in resolved(parser, tmp_path).values():
        assert Settings.from_env(service["environment"]) == Settings.from_env(given)


def test_the_example_of_settings_has_every_variable_and_its_default() -> None:
    lines = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", SETTINGS.read_text(), re.MULTILINE))
    assert set(lines) == PASSED_ON | SERVE | {"COMPOSE_PROJECT_NAME"}
    assert Settings.from_env(lines | REQUIRED) == Settings.from_env(REQUIRED)


def test_no_service_has_more_rights_than_it_needs() -> None:
    for service in yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert "ports" not in service
        assert "volumes" not in service
    [user] = re.findall(r"^USER (.*)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert re.fullmatch(r"[1-9][0-9]{3,}:[1-9][0-9]{3,}", user)


def test_each_service_comes_back_reaps_its_children_and_has_a_place_to_write() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    for service in services.values():
        # init: a shell as process 1 would not forward signals; /tmp is the cache's and the health check's.
        assert (service["restart"], service["init"], service["tmpfs"]) == ("unless-stopped", True, ["/tmp"])
    # The host's own loopback, so that programs there need no token and nothing else reaches it.
    assert services["forwarder"]["network_mode"] == "host"
    assert "network_mode" not in services["reaper"]
    # With a token set, /.exollama/status demands it of the check, too.
    assert (
        'headers={"X-Ollama-Key": os.environ["EXOLLAMA_SERVE_TOKEN"]}'
        in services["forwarder"]["healthcheck"]["test"][3]
    )
    # Two passes of ten minutes may fail before it counts, and a third may take its time.
    assert services["reaper"]["healthcheck"]["test"] == ["CMD-SHELL", 'test -n "$$(find /tmp/passed -mmin -25)"']


def composed(cloud: Simulator, folder: Path, **env: str) -> dict[str, Service]:
    """The services with an .env that has the cloud's credentials."""
    filled_in(folder / ".env", cloud.env | env)
    program = stand_in(folder / "bin/exollama", cloud)
    path = f"{program.parent}:{os.environ['PATH']}"
    return {name: Service(said, folder, path) for name, said in resolved(PARSERS[0], folder).items()}


def generated(port: int) -> str:
    """What a program on this machine is answered."""
    connection = http.client.HTTPConnection("localhost", port, timeout=30)
    try:
        connection.request("POST", "/api/generate", json.dumps(PROMPT))
        response = connection.getresponse()
        return whole(Answer(status=response.status, headers={}, body=response.read()))
    finally:
        connection.close()


def ended(service: Service, run: Running) -> Done:
    """Send SIGTERM, as compose does, and wait no longer than compose would."""
    run.process.send_signal(signal.SIGTERM)
    return run.end(float(service.said["stop_grace_period"].removesuffix("s")))


def test_the_forwarder_answers_a_program_and_the_reaper_removes_what_it_made(cloud: Simulator, tmp_path: Path) -> None:
    services = composed(cloud, tmp_path)
    forwarder, reaper = services["forwarder"], services["reaper"]
    with forwarder.running(**{"127.0.0.1:11434": "127.0.0.1:0"}) as run:
        run.until(lambda: "\n" in run.out, "it listens")
        port = run.out.strip().rpartition(":")[2]
        assert generated(int(port)).startswith("No model answers here")
        assert (forwarder.healthy(**{"11434": port}), forwarder.healthy(**{"11434": "1"})) == (True, False)
        ended(forwarder, run).ended(0)
    let_pass(cloud, 40 * 60)
    assert not reaper.healthy()
    with reaper.running() as run:
        run.until(reaper.healthy, "a pass went well")
        assert cloud.instances() == []
        began = time.monotonic()
        done = ended(reaper, run).ended(0)
        assert time.monotonic() - began < 20, "the pause goes on"
        assert (done.out, done.err) == ("", "")


def test_the_reaper_goes_on_after_failed_passes_and_is_unhealthy(cloud: Simulator, tmp_path: Path) -> None:
    reaper = composed(cloud, tmp_path, EXOSCALE_API_SECRET="wrong-secret")["reaper"]
    with reaper.running(sleep_600="sleep 0.1") as run:
        run.until(lambda: run.err.count("ch-gva-2 was not looked at") > 1, "a second pass failed")
        assert not reaper.healthy()
        ended(reaper, run).ended(0)


def test_a_reaper_in_the_middle_of_a_pass_ends_at_once(cloud: Simulator, tmp_path: Path) -> None:
    plant(cloud)
    fault = cloud.fault("list-instances", "hang", times=10, seconds=20)
    reaper = composed(cloud, tmp_path)["reaper"]
    with reaper.running() as run:
        run.until(lambda: fault.times < 10, "a call hangs")
        began = time.monotonic()
        ended(reaper, run).ended(0)
        assert time.monotonic() - began < 15, "the call would have hung for longer"
    cloud.clear_faults()
    assert len(cloud.instances()) == 1
