"""Boots that fail, never end or lose their instance, and several instances of one name."""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from client.endpoint import Endpoint
from client.errors import BootFailed, ExollamaError
from functions import provision
from tests.simulator import PHASES, Seen, Simulator
from tests.simulator.driver import boot_report
from tests.system.verbs import Clerk, User, changes, plant

LOG = {
    "nginx": "E: Unable to fetch some archives",
    "docker": "E: Unable to fetch some archives",
    "image": "manifest unknown",
    "container": "failed to create task",
    "model": "registry unavailable",
    "warmup": "model requires more system memory",
}


@pytest.fixture(autouse=True)
def swept(cloud: Simulator) -> Iterator[None]:
    """Every test here starts with nothing and leaves nothing."""
    yield
    for seen in cloud.instances():
        cloud.remove(seen.id)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds by design, because a network may be slow, takes tenths."""
    monkeypatch.setattr("client.boot.REACH_S", 0.5)
    monkeypatch.setattr("client.boot.LOOK_S", 0.1)


@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_boot_that_fails_shows_phase_message_and_log_and_its_instance_is_destroyed(
    cloud: Simulator, here: Clerk, phase: str
) -> None:
    cloud.boot(fail=phase)
    done = here.run("provision").ended(1, f"The boot failed in phase {phase}: ", LOG[phase], "was destroyed")
    assert done.out == ""
    assert "--keep-failed" in done.err
    tail = [line for line in done.err.splitlines() if line.startswith("  | ")]
    assert tail, done.err
    assert changes(cloud).count("create-instance") == changes(cloud).count("delete-instance") == 1
    cloud.wait(lambda: cloud.instances() == [], "gone")


def test_a_failed_boot_is_handed_to_other_code_with_its_phase_and_log(cloud: Simulator, here: Clerk) -> None:
    cloud.boot(fail="image")
    with pytest.raises(BootFailed) as caught:
        provision.run(here.settings())
    assert caught.value.phase == "image"
    assert any("manifest unknown" in line for line in caught.value.log)


def test_after_a_failed_boot_the_next_run_gets_an_instance_that_works(cloud: Simulator, here: Clerk) -> None:
    cloud.boot(fail="docker")
    here.run("generate", "why?").ended(1, "The boot failed in phase docker")
    cloud.boot()
    assert "You asked granite3.1-dense:8b: why?" in here.run("generate", "why?").ended(0).out
    assert len(cloud.instances()) == 1


def test_keep_failed_keeps_it_until_its_retention_and_no_longer(cloud: Simulator, here: Clerk) -> None:
    cloud.boot(fail="docker")
    done = here.run("provision", "--keep-failed").ended(1, "The boot failed in phase docker", "is kept, as asked")
    [kept] = cloud.instances()
    assert kept.id in done.err
    cloud.advance(3 * 3600)
    assert f"{kept.id}: its boot failed; kept to be looked at until" in here.run("reap").ended(0).out
    cloud.advance(86400)
    cloud.wait(lambda: cloud.instance(kept.id).state == "stopped", "its own power-off, which comes as early")
    done = here.run("reap").ended(0)
    assert done.out.startswith(f"destroyed ch-gva-2 exollama {kept.id}: ")
    assert cloud.instances() == []


def test_without_keep_failed_the_reaper_removes_a_failed_boot_that_nobody_waited_for(
    cloud: Simulator, here: Clerk
) -> None:
    cloud.boot(fail="docker")
    here.run("provision", "--no-wait", EXOSCALE_IDLE_TIMEOUT="300").ended(0)
    [seen] = cloud.instances()
    cloud.wait(lambda: boot_report(seen).get("error"), "failed")
    assert here.run("reap").ended(0).out.startswith(f"kept      ch-gva-2 exollama {seen.id}: by its label used")
    cloud.advance(10 * 60)  # five minutes later it would power itself off
    done = here.run("reap").ended(0)
    assert done.out == f"destroyed ch-gva-2 exollama {seen.id}: its boot failed in phase docker\n"


@pytest.mark.usefixtures("impatient")
def test_a_boot_that_fails_before_it_can_say_so_counts_as_failed_after_its_timeout(
    cloud: Simulator, here: Clerk
) -> None:
    cloud.boot(fail="starting")
    here.run("provision", EXOSCALE_BOOT_TIMEOUT="2").ended(
        1, "Not ready after", "last seen in phase starting", "cannot be reached", "was destroyed"
    )
    cloud.wait(lambda: cloud.instances() == [], "gone")


@pytest.mark.usefixtures("impatient")
def test_one_that_powers_itself_off_while_it_is_waited_for_is_told_and_not_replaced(
    cloud: Simulator, here: Clerk
) -> None:
    cloud.boot(fail="starting")

    def progress(phase: str, percent: float | None, elapsed_s: float) -> None:
        for seen in cloud.instances():
            if seen.state == "running" and boot_report(seen).get("error"):
                cloud.poweroff(seen.id)

    with pytest.raises(ExollamaError, match="stopped before it was ready"):
        provision.run(here.settings(), progress=progress)
    assert changes(cloud).count("create-instance") == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("phase", ["docker", "warmup"])
def test_a_boot_that_never_ends_counts_as_failed_after_its_timeout(
    cloud: Simulator, here: Clerk, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    phases: list[str] = []
    asked = Endpoint.status

    def status(endpoint: Endpoint) -> dict[str, Any]:
        told = asked(endpoint)
        phases.append(told["boot"]["phase"])
        return told

    def monotonic() -> float:
        """A quarter of an hour passes as soon as it was heard that the boot is where it stays."""
        return time.monotonic() + 900 * (phase in phases)

    monkeypatch.setattr(Endpoint, "status", status)
    assert provision.run.__kwdefaults__
    monkeypatch.setitem(provision.run.__kwdefaults__, "monotonic", monotonic)
    cloud.boot(never=phase)
    done = here.run("provision", EXOSCALE_BOOT_TIMEOUT="600").ended(1, "EXOSCALE_BOOT_TIMEOUT sets", "was destroyed")
    assert re.search(rf"Not ready after 9\d\d s; last seen in phase {phase}\.", done.err), done.said
    cloud.wait(lambda: cloud.instances() == [], "gone")


@pytest.mark.usefixtures("impatient")
def test_an_instance_that_is_deleted_by_hand_while_it_boots_is_told(cloud: Simulator, here: Clerk) -> None:
    cloud.boot(never="image")
    removed: list[str] = []

    def progress(phase: str, percent: float | None, elapsed_s: float) -> None:
        if phase == "image" and not removed:
            removed.append(cloud.instance().id)
            cloud.remove()

    with pytest.raises(ExollamaError, match="made by this run, was removed by somebody else") as caught:
        provision.run(here.settings(), progress=progress)
    assert removed[0] in str(caught.value)
    assert "Run this again" in str(caught.value)
    assert changes(cloud).count("create-instance") == 1
    cloud.boot()
    here.run("provision").ended(0)
    assert len(cloud.instances()) == 1


@pytest.mark.usefixtures("impatient")
def test_one_that_is_removed_while_another_run_waits_for_it_is_replaced(cloud: Simulator, here: Clerk) -> None:
    cloud.boot(never="docker")
    here.run("provision", "--no-wait").ended(0)
    [first] = cloud.instances()

    def progress(phase: str, percent: float | None, elapsed_s: float) -> None:
        if phase == "docker" and [seen.id for seen in cloud.instances()] == [first.id]:
            cloud.boot()
            cloud.remove(first.id)

    result = provision.run(here.settings(), progress=progress)
    [second] = cloud.instances()
    assert (result["id"], result["phase"]) == (second.id, "ready")
    assert second.id != first.id


def test_no_wait_returns_at_once_and_a_later_run_waits_for_the_same_boot(cloud: Simulator, here: Clerk) -> None:
    cloud.boot(delay_s=0.2)
    first = here.run("provision", "--no-wait", "--json").ended(0).json
    assert first["phase"] == "starting"
    again = here.run("provision", "--json").ended(0).json
    assert (again["id"], again["phase"]) == (first["id"], "ready")
    assert changes(cloud).count("create-instance") == 1


def test_two_provisions_at_once_end_with_one_instance_and_both_with_its_url(cloud: Simulator, user: User) -> None:
    with ExitStack() as stack:
        runs = [stack.enter_context(user.running("provision", "--json")) for _ in range(2)]
        results = [run.end().ended(0).json for run in runs]
    cloud.wait(lambda: len(cloud.instances()) == 1, "the other one is gone")
    [seen] = cloud.instances()
    assert [(result["id"], result["url"]) for result in results] == [(seen.id, seen.url)] * 2
    created = changes(cloud).count("create-instance")
    assert changes(cloud).count("delete-instance") == created - 1


def test_of_several_instances_of_one_name_the_oldest_healthy_one_is_used(cloud: Simulator, here: Clerk) -> None:
    broken = plant(cloud, state="error", created_ago_s=600)
    on_the_way = "Instance {} (exollama) was destroyed on the way: {}."
    first = here.run("provision", "--json").ended(0, on_the_way.format(broken.id, "in state error")).json["id"]
    running, stopped = (plant(cloud, state=state, created_ago_s=0) for state in ("running", "stopped"))
    done = here.run("provision", "--json").ended(0, on_the_way.format(stopped.id, "stopped: it powered itself off"))
    assert done.json["id"] == first
    assert here.run("env", "--json").ended(0).json["url"] == cloud.instance(first).url
    here.run("generate", "why?").ended(0)
    assert here.run("status").ended(0).out.count("\nexollama ") == 2
    lines = here.run("reap").ended(0).out.splitlines()
    outcomes = {words[3].rstrip(":"): words[0] for words in (line.split() for line in lines)}
    assert outcomes == {first: "kept", running.id: "kept"}


def test_an_older_instance_of_another_name_is_none_of_ours(cloud: Simulator, here: Clerk) -> None:
    theirs: Seen = plant(cloud, exollama_name="nci-7", exollama_idle="s300000000")
    here.run("provision", "--no-wait").ended(0)
    assert len(cloud.instances()) == 2
    assert cloud.instance(theirs.id).labels == theirs.labels
