"""GPU types: what is refused and said before anything is created, and boots through driver, toolkit and proof."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulator import Seen, Simulator
from tests.simulator.driver import boot_report
from tests.system.verbs import Clerk, changes

GPU = {"EXOSCALE_INSTANCE_TYPE": "gpua30.small", "EXOSCALE_TEMPLATE": "Linux Ubuntu 24.04 LTS 64-bit"}
MODULES = "linux-modules-nvidia-580-server"


@pytest.fixture
def gpus(cloud: Simulator) -> Iterator[Simulator]:
    """A cloud where the family is authorised; no instance is left in it."""
    cloud.options.authorized_gpus.add("gpua30")
    yield cloud
    for seen in cloud.instances():
        cloud.remove(seen.id)


def installs(seen: Seen) -> list[str]:
    """The packages that were asked for, of NVIDIA's only."""
    asked = [word for call in seen.commands if call[:2] == ["apt-get", "install"] for word in call[2:]]
    return [word for word in asked if "nvidia" in word or word.startswith("linux-headers")]


def test_an_instance_with_a_card_boots_through_driver_toolkit_and_proof(gpus: Simulator, here: Clerk) -> None:
    assert here.run("provision", "--json", **GPU).ended(0, "Creating a gpua30.small").json["phase"] == "ready"
    [seen] = gpus.instances()
    done = [phase for phase, _ in boot_report(seen)["done"]]
    assert done == ["starting", "docker", "nginx", "gpu", "image", "container", "model", "warmup"]
    ready, programs, utilities, toolkit = installs(seen)
    assert ready.startswith(f"{MODULES}-")
    assert programs == "nvidia-headless-no-dkms-580-server"
    assert (utilities, toolkit) == ("nvidia-utils-580-server", "nvidia-container-toolkit")
    assert seen.root
    said = json.loads((seen.root / "etc/docker/daemon.json").read_text())
    assert said["exec-opts"] == ["native.cgroupdriver=cgroupfs"]
    assert "nvidia" in said["runtimes"]
    order = [" ".join(call[:3]) for call in seen.commands if call[0] in ("modprobe", "nvidia-smi", "nvidia-ctk")]
    assert order == ["modprobe -r nouveau", "modprobe -a nvidia", "nvidia-smi -L", "nvidia-ctk runtime configure"]
    [run] = [call for call in seen.commands if call[:2] == ["docker", "run"]]
    assert run[run.index("--gpus") + 1] == "all"


BROKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"cards": False}, "gpu", "no graphics card appears"),
    ({"missing": (MODULES, "nvidia-dkms")}, "gpu", "Unable to locate package nvidia-dkms-580-server"),
    ({"nvidia_fingerprint": "0" * 40}, "gpu", "NVIDIA's signing key is not the known one"),
    ({"on_card": False}, "warmup", "runs on the processor"),
]


@pytest.mark.parametrize(("plan", "phase", "words"), BROKEN, ids=["no card", "no driver", "another key", "processor"])
def test_a_card_that_cannot_be_used_fails_the_boot_and_the_instance_is_destroyed(
    gpus: Simulator, here: Clerk, plan: dict[str, Any], phase: str, words: str
) -> None:
    gpus.boot(**plan)
    here.run("provision", **GPU).ended(1, f"The boot failed in phase {phase}: ", words, "was destroyed")
    gpus.wait(lambda: gpus.instances() == [], "gone")


def test_a_module_that_is_not_ready_made_is_built_and_a_restarted_machine_installs_nothing(
    gpus: Simulator, here: Clerk
) -> None:
    gpus.boot(missing=(MODULES,))
    stops = {**GPU, "EXOSCALE_REAP_ACTION": "stop"}
    here.run("provision", **stops).ended(0)
    [seen] = gpus.instances()
    assert [word for word in installs(seen) if word.startswith(("linux-headers", "nvidia-dkms"))][1:] == [
        "nvidia-dkms-580-server"
    ]
    here.run("stop", "--keep-disk", **stops).ended(0)
    before = len(gpus.instance().commands)
    cheap = {**stops, "EXOSCALE_MAX_HOURLY_COST": "1.2"}
    dear = here.run("provision", **cheap).ended(1, "is stopped, and was not started: gpua30.small costs about 1.233")
    assert "exollama stop" in dear.err
    assert gpus.instance().state == "stopped"
    here.run("provision", **stops).ended(0, "Starting the stopped instance")
    again = gpus.instance().commands[before:]
    assert not [call for call in again if call[0] == "apt-get" or call[:3] == ["systemctl", "stop", "docker.service"]]
    assert ["nvidia-smi", "-L"] in again, "the card is looked for at every boot"


REFUSED: list[tuple[dict[str, str], bool, tuple[str, ...]]] = [
    (
        {},
        True,
        ("gpua30.small is not authorised for this account", "start at 0", "Authorised in ch-gva-2: standard.micro"),
    ),
    (
        {},
        False,
        ("either the zone has none, or the account is not authorised", "gpua30 was seen in ch-gva-2", "start at 0"),
    ),
    (
        {"EXOSCALE_INSTANCE_TYPE": "gpu3.huge"},
        True,
        ("The family gpu3 was seen in de-fra-1 (as of 2026-", "No other zone lists it", "EXOSCALE_ZONE"),
    ),
    ({"EXOSCALE_INSTANCE_TYPE": "gpu9.small"}, False, ("The family gpu9 is not known here",)),
]


@pytest.mark.parametrize(("changes_", "listed", "words"), REFUSED)
def test_a_type_that_cannot_be_had_is_refused_with_quota_zones_and_what_there_is(
    records: Simulator, clerk: Clerk, changes_: dict[str, str], listed: bool, words: tuple[str, ...]
) -> None:
    records.options.list_unauthorized = listed
    clerk.run("provision", **{**GPU, **changes_}).ended(1, *words, "Nothing was created.")
    assert changes(records) == []


def test_a_type_that_is_authorised_in_another_zone_is_said_to_exist_there(records: Simulator, clerk: Clerk) -> None:
    records.options.authorized_gpus.add("gpu3")
    clerk.run("provision", **{**GPU, "EXOSCALE_INSTANCE_TYPE": "gpu3.small"}).ended(1, "It exists in de-fra-1.")
    assert changes(records) == []


def test_a_type_that_is_too_dear_is_refused_before_any_call_that_changes_something(
    records: Simulator, clerk: Clerk
) -> None:
    records.options.authorized_gpus.add("gpua30")
    done = clerk.run("provision", **GPU, EXOSCALE_MAX_HOURLY_COST="1").ended(1, "costs about 1.233 per hour")
    assert "EXOSCALE_MAX_HOURLY_COST is 1" in done.err
    assert {call.method for call in records.calls} == {"GET"}, "not even a security group"
