"""The watchdog in the agent, for real: when it powers the machine off, and when it must not."""

import socket
import threading
from pathlib import Path

from tests.unit.machine import A, B, Machine, policy, until


def upstream(machine: Machine) -> tuple[str, int]:
    host, _, port = machine.upstream.rpartition(":")
    return host, int(port)


@policy(idle_s=60)
def test_a_machine_that_nobody_reaps_powers_itself_off_behind_its_fence(machine: Machine) -> None:
    machine.advance(900)
    machine.looked()
    assert not machine.off.exists()
    machine.advance(60)
    until(machine.powered_off, "the power-off")
    assert machine.off.read_text() == "poweroff\n"
    assert machine.status()["fence"]["committed"] is True


@policy(idle_s=60)
def test_a_machine_in_use_never_powers_itself_off_until_its_deadline(machine: Machine) -> None:
    host, _, port = machine.upstream.rpartition(":")
    with socket.create_connection((host, int(port))):
        machine.advance(50_000)
        machine.looked()
        machine.advance(50_000)
        machine.looked()
        assert not machine.off.exists()


@policy(deadline_in_s=100_000)
def test_past_the_deadline_and_its_grace_it_goes_whatever_is_in_flight(machine: Machine) -> None:
    host, _, port = machine.upstream.rpartition(":")
    with socket.create_connection((host, int(port))):
        machine.advance(100_000)
        machine.looked()
        assert not machine.off.exists()
        machine.advance(3600)
        until(machine.powered_off, "the power-off")


def test_an_abandoned_commit_ends_in_a_power_off_across_a_restart(machine: Machine) -> None:
    machine.ask("PUT", f"fence/{A}")
    assert machine.ask("POST", f"fence/{A}/commit")[0] == 200
    machine.advance(550)
    machine.restart()
    machine.looked()
    assert not machine.off.exists()
    machine.advance(60)
    until(machine.powered_off, "the power-off")


@policy(idle_s=60)
def test_another_ones_lease_is_waited_for(machine: Machine) -> None:
    machine.advance(880)
    assert machine.ask("PUT", f"fence/{A}")[0] == 201
    machine.advance(90)
    machine.looked()
    assert not machine.off.exists()
    machine.advance(40)
    until(machine.powered_off, "the power-off after the lease")


def test_a_failed_boot_powers_off_after_a_while_and_says_why_until_then(machine: Machine) -> None:
    machine.place("/var/log/exollama/boot.log").write_text("one\ntwo\n")
    machine.boot("image", error={"phase": "image", "message": "no such tag"})
    boot = machine.status()["boot"]
    assert (boot["phase"], boot["log"]) == ("failed", ["one", "two"])
    assert boot["error"] == {"phase": "image", "message": "no such tag"}
    machine.advance(850)
    machine.looked()
    assert not machine.off.exists()
    machine.advance(60)
    until(machine.powered_off, "the power-off")


@policy(boot_s=100)
def test_a_boot_that_never_ends_powers_off_even_where_bootstrap_never_ran(machine: Machine) -> None:
    (machine.run / "boot.json").unlink()
    assert machine.status()["boot"]["phase"] == "starting"
    machine.advance(930)
    machine.restart()
    machine.looked()
    assert not machine.off.exists()
    machine.advance(80)
    until(machine.powered_off, "the power-off")


@policy(idle_s=60)
def test_requests_hold_it_off_and_it_counts_from_their_end(machine: Machine) -> None:
    for _ in range(2):
        with socket.create_connection(upstream(machine)):
            machine.advance(900)
            until(lambda: machine.status()["idle_s"] < 60, "a look that takes it for more than a listing")
    until(lambda: machine.status()["in_flight"] == 0, "its end, behind any look that still saw it")
    machine.advance(900)
    machine.looked()
    assert not machine.off.exists()
    machine.advance(60)
    until(machine.powered_off, "the power-off")


@policy(idle_s=60)
def test_a_request_that_comes_behind_its_fence_stops_its_commit_and_the_fence_is_lifted(machine: Machine) -> None:
    """A worker that had looked for the fence just before: connected while it is waited for."""
    machine.settles.touch()
    machine.advance(970)
    until((machine.run / "fence").exists, "its fence")
    with socket.create_connection(upstream(machine)):
        machine.settles.unlink()
        until(lambda: not (machine.run / "fence").exists(), "the fence's end")
        until(lambda: machine.status()["idle_s"] < 60, "a look that takes it for more than a listing")
        machine.looked()
        assert not machine.off.exists()
        assert machine.status()["fence"] is None
        assert machine.ask("POST", "touch")[0] == 204
    machine.looked()
    assert not machine.off.exists()


@policy(idle_s=60)
def test_a_touch_that_was_answered_204_is_never_followed_by_a_power_off(machine: Machine) -> None:
    for _ in range(3):
        machine.advance(800)
        machine.looked()
        assert machine.ask("POST", "touch")[0] == 204
        machine.advance(100)  # beyond what was left of its patience before the touch
        machine.looked()
        assert not machine.off.exists()
    machine.advance(900)
    until(machine.powered_off, "the power-off")


@policy(idle_s=60)
def test_a_touch_between_its_look_and_its_commit_is_not_promised_anything(machine: Machine) -> None:
    """Whoever touches the machine meanwhile is refused, and goes elsewhere: 204 would be a promise."""
    assert machine.process
    tasks = Path(f"/proc/{machine.process.pid}/task")
    machine.thinks.touch()
    machine.advance(970)
    until(lambda: max(machine.noted(), default=0) >= 960, "the look that condemns it")
    assert not machine.off.exists(), "it thinks"
    before = len(list(tasks.iterdir()))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(machine.ask("POST", "touch")[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(list(tasks.iterdir())) >= before + 4, "all of them are asking")
    machine.thinks.unlink()
    for thread in threads:
        thread.join()
    assert answers == [503] * 4
    until(machine.powered_off, "the power-off")


@policy(idle_s=60)
def test_a_machine_whose_agent_is_started_again_and_again_goes_all_the_same(machine: Machine) -> None:
    for _ in range(4):
        machine.advance(225)
        machine.restart()
    assert not machine.off.exists()
    machine.advance(80)
    until(machine.powered_off, "the power-off")


def test_a_lease_that_was_never_committed_powers_nothing_off(machine: Machine) -> None:
    assert machine.ask("PUT", f"fence/{A}")[0] == 201
    machine.advance(700)
    machine.looked()
    assert not machine.off.exists()
    assert machine.ask("POST", "touch")[0] == 204


def test_a_commit_that_its_owner_lifted_powers_nothing_off(machine: Machine) -> None:
    for owner in (A, B):
        assert machine.ask("PUT", f"fence/{owner}")[0] == 201
        assert machine.ask("POST", f"fence/{owner}/commit")[0] == 200
        machine.advance(500)
        machine.looked()
        machine.restart()
        assert machine.ask("DELETE", f"fence/{owner}")[0] == 204
    machine.advance(200)
    machine.looked()
    assert not machine.off.exists()
    assert machine.ask("POST", "touch")[0] == 204


@policy(idle_s=10**6, deadline_in_s=100_000)
def test_somebody_elses_commit_is_theirs_to_carry_out_even_past_the_deadline(machine: Machine) -> None:
    machine.advance(103_300)
    assert machine.ask("PUT", f"fence/{A}")[0] == 201
    assert machine.ask("POST", f"fence/{A}/commit")[0] == 200
    machine.advance(550)
    machine.looked()
    assert not machine.off.exists()
    machine.advance(60)
    until(machine.powered_off, "the power-off")


@policy(idle_s=60)
def test_a_power_off_that_fails_is_tried_again(machine: Machine) -> None:
    machine.stub("systemctl", f"echo tried >> {machine.off}; exit 1")
    machine.advance(970)
    until(machine.off.exists, "the first attempt")
    machine.stub("systemctl", f'echo "$@" >> {machine.off}')
    machine.advance(700)  # its own commit has been abandoned by now
    until(machine.powered_off, "the next attempt")


@policy(idle_s=60)
def test_what_will_not_go_looks_older_and_older_to_a_reaper_however_often_its_power_off_fails(machine: Machine) -> None:
    machine.stub("systemctl", f"echo tried >> {machine.off}; exit 1")
    machine.advance(970)
    until(machine.off.exists, "the first attempt")
    for tries in range(2, 5):
        machine.advance(600)
        until(lambda tries=tries: machine.off.read_text().count("tried") >= tries, "the next attempt")  # type: ignore[misc]
    assert machine.status()["fence"]["committed_s"] >= 1800
