"""Ctrl-C, SIGTERM and SIGKILL at several moments: what was created stays owned, is found again, and goes when idle."""

import signal
from collections.abc import Iterator

import pytest

from client.settings import Settings
from functions import reap_idle
from tests.simulator import Seen, Simulator
from tests.simulator.driver import boot_report, status
from tests.system.verbs import Clerk, Done, Running, User, changes, let_pass, plant

SIGNALS = {"Ctrl-C": (signal.SIGINT, 130), "SIGTERM": (signal.SIGTERM, 143), "SIGKILL": (signal.SIGKILL, -9)}
GENTLE = {name: SIGNALS[name] for name in ("Ctrl-C", "SIGTERM")}


@pytest.fixture
def clerk_outside(records: Simulator) -> User:
    """The user of the cloud of records, in processes of its own."""
    return User(records)


@pytest.fixture
def swept(cloud: Simulator) -> Iterator[None]:
    yield
    for seen in cloud.instances():
        cloud.remove(seen.id)


def interrupt(run: Running, how: tuple[signal.Signals, int]) -> Done:
    """Send the signal; it ends soon, with its code, a sentence and no traceback."""
    number, code = how
    run.process.send_signal(number)
    done = run.end(timeout_s=20)
    assert done.code == code, done.said
    assert "Traceback" not in done.err, done.said
    if number is not signal.SIGKILL:
        assert "exollama: interrupted." in done.err
    return done


def reap_idle_one(user: User, cloud: Simulator, id_: str) -> None:
    """A reaper that comes after the idle timeout removes it."""
    let_pass(cloud, 40 * 60)  # past the timeout, and before the machine's own watchdog acts
    assert f"destroyed ch-gva-2 exollama {id_}: " in user.run("reap").ended(0).out
    assert id_ not in [seen.id for seen in cloud.instances()]


@pytest.mark.parametrize("how", SIGNALS.values(), ids=SIGNALS)
@pytest.mark.parametrize("moment", ["list-instances", "list-templates", "create-security-group"])
def test_before_the_create_call_an_interrupt_leaves_nothing_that_costs(
    records: Simulator, clerk_outside: User, moment: str, how: tuple[signal.Signals, int]
) -> None:
    records.fault(moment, "hang", seconds=8)
    with clerk_outside.running("provision", "--no-wait") as run:
        run.until(lambda: any(call.operation_id == moment for call in records.calls), moment)
        interrupt(run, how)
    assert records.instances() == []
    assert "create-instance" not in changes(records)


@pytest.mark.parametrize("how", SIGNALS.values(), ids=SIGNALS)
@pytest.mark.parametrize("moment", ["create-instance", "get-operation"])
def test_during_the_create_call_an_interrupt_leaves_an_instance_that_is_owned_found_and_reaped(
    records: Simulator, clerk_outside: User, clerk: Clerk, moment: str, how: tuple[signal.Signals, int]
) -> None:
    clerk.run("provision", "--no-wait").ended(0)  # makes the security group, so that its operations are over
    records.remove()
    records.api.calls.clear()
    records.fault(moment, "slow", seconds=8)
    with clerk_outside.running("provision", "--no-wait") as run:
        run.until(lambda: records.called(moment), moment)
        interrupt(run, how)
    [seen] = records.instances()
    assert seen.labels["exollama"] == "v1"
    assert clerk.run("provision", "--no-wait", "--json").ended(0).json["id"] == seen.id
    assert changes(records).count("create-instance") == 1
    records.advance(2 * 3600)  # nothing answers at its address: it goes once that was so for long
    assert clerk.run("reap").ended(0).out.startswith(f"destroyed ch-gva-2 exollama {seen.id}")


@pytest.mark.usefixtures("swept")
def test_however_often_a_provision_is_interrupted_while_it_boots_there_is_one_instance_in_the_end(
    cloud: Simulator, user: User, here: Clerk
) -> None:
    for seen in cloud.instances():
        cloud.remove(seen.id)
    cloud.ollama(pull_hold_percent=40)
    for how in SIGNALS.values():
        before = len(cloud.called("get-instance"))
        with user.running("provision") as run:
            run.until(lambda: any(seen.state == "running" for seen in cloud.instances()), "running")
            run.until(lambda before=before: len(cloud.called("get-instance")) > before, "waits for it")  # type: ignore[misc]
            interrupt(run, how)
        assert len(cloud.instances()) == 1
    cloud.ollama(pull_hold_percent=None)
    [seen] = cloud.instances()
    assert here.run("provision", "--json").ended(0).json["id"] == seen.id
    assert changes(cloud).count("create-instance") == 1
    assert "delete-instance" not in changes(cloud)
    reap_idle_one(here, cloud, seen.id)


@pytest.mark.usefixtures("swept")
def test_an_interrupted_boot_that_nobody_waits_for_any_more_is_reaped_when_idle(
    cloud: Simulator, user: User, here: Clerk
) -> None:
    for seen in cloud.instances():
        cloud.remove(seen.id)
    cloud.boot(never="model")
    with user.running("generate", "why?") as run:
        run.until(lambda: any(boot_report(seen).get("phase") == "model" for seen in cloud.instances()), "pulling")
        done = interrupt(run, GENTLE["SIGTERM"])
    [seen] = cloud.instances()
    assert seen.id in done.err  # the id is told before the waiting starts
    assert here.run("reap").ended(0).out.startswith("kept")
    reap_idle_one(here, cloud, seen.id)


@pytest.fixture
def up(cloud: Simulator, here: Clerk) -> Seen:
    here.run("provision").ended(0)
    cloud.api.calls.clear()
    return cloud.instance()


@pytest.mark.parametrize("how", SIGNALS.values(), ids=SIGNALS)
def test_in_the_middle_of_a_stream_an_interrupt_keeps_what_arrived_and_frees_the_instance(
    cloud: Simulator, user: User, here: Clerk, up: Seen, how: tuple[signal.Signals, int]
) -> None:
    cloud.ollama(hold_after=3)
    with user.running("generate", "why?") as run:
        run.until(lambda: run.out == "No model answers", "three tokens")
        done = interrupt(run, how)
    assert done.out.rstrip("\n") == "No model answers"
    cloud.wait(lambda: status(up)["in_flight"] == 0, "nothing in flight")
    cloud.ollama(hold_after=None)
    assert "You asked" in here.run("generate", "why?").ended(0).out
    assert [seen.id for seen in cloud.instances()] == [up.id]
    assert changes(cloud) == []


def test_after_an_interrupted_stream_the_instance_is_reaped_when_idle(
    cloud: Simulator, user: User, here: Clerk, up: Seen
) -> None:
    cloud.ollama(hold_after=3)
    with user.running("generate", "--no-stream", "why?") as run:
        run.until(lambda: status(up)["in_flight"] == 1, "in flight")
        done = interrupt(run, GENTLE["Ctrl-C"])
    assert done.out == ""
    cloud.wait(lambda: status(up)["in_flight"] == 0, "nothing in flight")
    reap_idle_one(here, cloud, up.id)


@pytest.mark.parametrize("how", SIGNALS.values(), ids=SIGNALS)
def test_an_interrupted_reaper_leaves_nothing_half_done(
    records: Simulator, clerk_outside: User, clerk: Clerk, how: tuple[signal.Signals, int]
) -> None:
    first, second = plant(records, state="error"), plant(records, state="running", exollama_activity="tnever")
    records.fault("delete-instance", "slow", seconds=8)
    with clerk_outside.running("reap") as run:
        run.until(lambda: records.called("delete-instance"), "deleting")
        interrupt(run, how)
    records.wait(lambda: [seen.id for seen in records.instances()] == [second.id], "the one is gone")
    clerk.run("reap").ended(1, second.id)  # which cannot be asked, and is no trace of the interruption
    assert len(records.called("delete-instance")) == 1
    assert first.id not in str(reap_idle.run(Settings.from_env(clerk.env)))
