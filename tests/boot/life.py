"""The life of one machine, in the order of its tests: booted, used, hurt, restarted, moved, reaped.

`nox -s boot` runs it; see the package's own words.
"""

import json
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest

from client.settings import DEFAULT_IMAGE
from tests.boot import network
from tests.boot.cloud import KEY, Cloud

pytestmark = pytest.mark.timeout(1800)

IDLE_S = 60
ENV = {
    "EXOSCALE_IDLE_TIMEOUT": str(IDLE_S),
    "EXOSCALE_REAP_ACTION": "stop",
}
FETCH = "import urllib.request as r; print(r.urlopen('http://{}/latest/user-data', timeout=5).status)"
PHASES = ["starting", "docker", "nginx", "image", "container", "model", "warmup"]


@pytest.fixture(autouse=True)
def settings(cloud: Cloud) -> None:
    cloud.env.update(ENV)


def until(so: Callable[[], object], what: str, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not so():
        assert time.monotonic() < deadline, f"not so after {timeout_s:.0f} s: {what}"
        time.sleep(0.5)


def said(cloud: Cloud) -> dict[str, Any]:
    """What the only instance says of itself, as `status --probe` has it."""
    (one,) = json.loads(cloud.run("client", "status", "--probe", "--json").stdout)["instances"]
    assert isinstance(one["said"], dict)
    return one["said"]


def inside(cloud: Cloud) -> dict[str, Any]:
    """The boot's own record, on the machine's disk."""
    record: dict[str, Any] = json.loads(cloud.machine().run("cat /run/exollama/boot.json"))
    return record


def answers(cloud: Cloud) -> bool:
    """Whether `generate` gets words, without anything being created or started for it."""
    asked = cloud.run("client", "generate", "why?", "--no-provision", code=None)
    return asked.returncode == 0 and "stand-in" in asked.stdout


def certificate(cloud: Cloud) -> str:
    return ssl.get_server_certificate((str(cloud.machine().record.ip), 11435), timeout=20)


def test_the_user_data_boots_through_every_phase_until_a_model_answers(cloud: Cloud) -> None:
    done = cloud.run("client", "provision", "--json")
    assert json.loads(done.stdout)["phase"] == "ready", done.stdout
    machine = cloud.machine()
    assert [name for name, _ in inside(cloud)["done"]] == PHASES
    assert "exollama: ready" in machine.console
    assert "DataSourceExoscale" in machine.run("cloud-init", "status", "--long")
    assert "status: done" in machine.run("cloud-init", "status", "--long")
    assert machine.run("systemctl", "is-system-running", check=False).strip() == "running"
    installed = machine.run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n").splitlines()
    assert {"nginx installed", "docker.io installed"} <= set(installed)
    pulled = (machine.folder.parent / "registry/asked").read_text()
    assert f"manifests/{DEFAULT_IMAGE.rpartition(':')[2]}" in pulled
    assert "/blobs/sha256:" in pulled


def test_it_is_used(cloud: Cloud) -> None:
    assert "stand-in" in cloud.run("client", "generate", "why?", "--no-provision").stdout
    one = said(cloud)
    assert one["boot"]["phase"] == "ready"
    assert one["in_flight"] == 0


def test_neither_process_list_nor_log_has_the_key(cloud: Cloud) -> None:
    machine = cloud.machine()
    shown = machine.run("ps", "axwwe") + machine.run("journalctl", "--no-pager") + machine.console
    shown += machine.run("cat /var/log/exollama/* /var/log/cloud-init*.log")
    assert KEY not in shown
    holders = machine.run(
        f"grep -rlFs {KEY} / --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev", check=False
    ).split()
    assert {"/etc/exollama/key", "/etc/exollama/nginx.conf"} <= set(holders)
    for file in holders:  # cloud-init keeps the user-data, too
        assert machine.run("stat", "-c", "%U %a", file).split() in (["root", "600"], ["root", "400"]), file


def test_containers_do_not_reach_the_metadata_address(cloud: Cloud) -> None:
    machine = cloud.machine()
    fetch = ["docker", "exec", "ollama", "/usr/bin/python3.11", "-c", FETCH.format(network.METADATA)]
    assert "timed out" in machine.run(*fetch, check=False)
    assert (
        machine.run(
            "curl", "-fsS", "-o", "/dev/null", "-w", "%{http_code}", f"http://{network.METADATA}/latest/user-data"
        )
        == "200"
    )
    rule = ["PREROUTING", "-d", network.METADATA, "-j", "DROP"]
    machine.run("iptables", "-w", "-t", "raw", "-D", *rule)
    assert machine.run(*fetch, check=False).strip() == "200"  # it is this rule that closes it
    machine.run("systemctl", "restart", "docker.service")  # which puts it back
    until(lambda: answers(cloud), "answers after Docker's restart")
    assert "timed out" in machine.run(*fetch, check=False)


def test_a_killed_container_comes_back(cloud: Cloud) -> None:
    machine = cloud.machine()
    before = machine.run("docker", "inspect", "-f", "{{.State.Pid}}", "ollama").strip()
    machine.run("kill", "-9", before)
    until(lambda: answers(cloud), "answers after the container was killed", 120)
    assert machine.run("docker", "inspect", "-f", "{{.State.Pid}}", "ollama").strip() not in (before, "0")


@pytest.mark.parametrize("service", ["exollama-agent", "nginx"])
def test_a_killed_service_comes_back(cloud: Cloud, service: str) -> None:
    machine = cloud.machine()
    machine.run("systemctl", "kill", "-s", "KILL", f"{service}.service")
    until(lambda: answers(cloud) and said(cloud)["boot"]["phase"] == "ready", f"ready after {service} was killed", 120)
    assert machine.run("systemctl", "show", "-P", "NRestarts", f"{service}.service").strip() != "0"


def test_a_reaper_does_not_cut_an_answer_that_takes_longer_than_the_idle_timeout(cloud: Cloud) -> None:
    cloud.machine().pace(4.0)
    command = ["-m", "client", "generate", "why?", "--no-provision"]
    with cloud.begin(*command) as asking:
        began = time.monotonic()
        while time.monotonic() - began < IDLE_S + 10:
            (kept,) = json.loads(cloud.run("functions.reap_idle", "--json").stdout)["instances"]
            assert kept["outcome"] == "kept", kept
            time.sleep(5)
        cloud.machine().pace(0.01)
        out, err = asking.communicate(timeout=120)
    assert asking.returncode == 0, err
    assert "stand-in" in out


@pytest.mark.parametrize("how", ["reboot", "reset"])
def test_it_survives_a_reboot_and_a_power_cut_without_installing_anything(cloud: Cloud, how: str) -> None:
    machine = cloud.machine()
    before = certificate(cloud), machine.run("cat /proc/sys/kernel/random/boot_id")
    logged = machine.run("grep -c 'apt-get' /var/log/exollama/boot.log")
    if how == "reset":
        machine.reset()
    else:
        machine.run("systemctl", "reboot", "--no-block")
    until(lambda: booted(cloud) not in ("", before[1]), "another boot", 180)
    until(lambda: answers(cloud), "answers after it")
    until(lambda: said(cloud)["boot"]["phase"] == "ready", "ready")
    assert certificate(cloud) == before[0]
    assert machine.run("grep -c 'apt-get' /var/log/exollama/boot.log") == logged


def booted(cloud: Cloud) -> str:
    """The name of the boot that runs; "" where nothing answers."""
    try:
        return cloud.machine().run("cat /proc/sys/kernel/random/boot_id", timeout_s=5)
    except (OSError, ValueError, AssertionError):
        return ""


def reaped(cloud: Cloud) -> list[str]:
    """What a reaper did, once."""
    return [one["outcome"] for one in json.loads(cloud.run("functions.reap_idle", "--json").stdout)["instances"]]


def test_a_reaper_stops_it_once_it_is_idle_and_the_next_start_has_another_address(cloud: Cloud) -> None:
    machine = cloud.machine()
    cloud.simulator.options.new_address_on_start = True
    before = machine.record.ip, certificate(cloud)
    until(lambda: reaped(cloud) == ["stopped"], "stopped", IDLE_S + 180)
    until(lambda: not machine.is_on(), "off", 180)
    assert "reboot: Power down" in machine.console
    cloud.run("client", "provision")
    assert cloud.machine() is machine, "the same one was started"
    assert machine.record.ip != before[0]
    assert certificate(cloud) != before[1]
    assert answers(cloud)
    verify = ["openssl", "x509", "-noout", "-checkip", str(machine.record.ip), "-in", "/var/lib/exollama/tls/cert.pem"]
    assert "does match" in machine.run(*verify)


def test_a_reaper_destroys_it_once_it_is_idle(cloud: Cloud) -> None:
    cloud.simulator.edit_labels(exollama_action="destroy")
    until(lambda: reaped(cloud) == ["destroyed"], "destroyed", IDLE_S + 180)
    assert cloud.simulator.instances() == []
    assert not cloud.machine().is_on()
