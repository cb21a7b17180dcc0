"""The simulator's instance half: real nginx, agent and bootstrap behind a played systemd, apt and Docker."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from functions.userdata import bare
from tests.machine import is_running, process_state
from tests.simulator import PHASES, Seen, Simulator
from tests.simulator.driver import Answer, ask, boot_report, call, launch, ready, status
from tests.simulator.warden import children

MODEL = "granite3.1-dense:8b"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running
        assert running.violations == []


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if is_running(pid)]


def generate(seen: Seen, prompt: str = "Why is the sky blue?") -> Answer:
    return ask(seen, "POST", "/api/generate", {"model": MODEL, "prompt": prompt})


def test_an_instance_boots_answers_through_nginx_and_goes_without_a_trace(simulator: Simulator) -> None:
    seen = ready(simulator, launch(simulator))
    assert {"nginx.service", "exollama-agent.service", "ollama"} <= seen.pids.keys()
    assert ask(seen, "GET", "/api/tags", key="").status == 401
    before = status(seen)["requests"]
    lines = [json.loads(line) for line in generate(seen).body.splitlines()]
    text = "".join(line["response"] for line in lines)
    assert lines[-1]["done"] is True
    assert "No model answers here" in text
    assert "Why is the sky blue?" in text
    simulator.wait(lambda: status(seen)["requests"] == before + 1, "the agent counts it")
    missing = ask(seen, "POST", "/api/generate", {"model": "other:1b", "prompt": "Hi"})
    assert (missing.status, missing.json) == (404, {"error": "model 'other:1b' not found"})
    assert seen.key not in str(seen.commands)

    pids = list(seen.pids.values())
    assert call(simulator, "DELETE", f"/instance/{seen.id}").status == 200
    simulator.wait(lambda: not simulator.instances(), "gone")
    assert alive(pids) == []
    assert seen.root is not None
    assert not seen.root.exists()
    with pytest.raises(OSError):  # noqa: PT011 - whichever way the kernel says that nobody is there
        generate(seen)


def test_stop_keeps_the_disk_and_start_boots_from_it(simulator: Simulator) -> None:
    seen = ready(simulator, launch(simulator))
    root = seen.root
    assert root is not None
    certificate = (root / "var/lib/exollama/tls/cert.pem").read_bytes()
    fence = root / "run/exollama/fence"
    fence.write_text("{}")
    pids = list(seen.pids.values())
    call(simulator, "PUT", f"/instance/{seen.id}:stop")
    simulator.wait(lambda: simulator.instance().state == "stopped", "stopped")
    assert alive(pids) == []
    simulator.ollama(fail_pull="the model is there, nothing is to be pulled")
    before = boot_report(seen)
    call(simulator, "PUT", f"/instance/{seen.id}:start", {})
    simulator.wait(lambda: boot_report(seen) != before, "/run is cleaned")
    seen = ready(simulator, seen)
    assert not fence.exists()
    assert (root / "var/lib/exollama/tls/cert.pem").read_bytes() == certificate
    assert generate(seen).status == 200


def test_a_started_instance_may_come_back_at_another_address(simulator: Simulator) -> None:
    simulator.options.new_address_on_start = True
    seen = ready(simulator, launch(simulator))
    assert seen.root is not None
    certificate = (seen.root / "var/lib/exollama/tls/cert.pem").read_bytes()
    simulator.poweroff()
    before = boot_report(seen)
    call(simulator, "PUT", f"/instance/{seen.id}:start", {})
    simulator.wait(lambda: boot_report(seen) != before, "/run is cleaned")
    moved = ready(simulator, seen)
    assert moved.ip != seen.ip
    assert (seen.root / "var/lib/exollama/tls/cert.pem").read_bytes() != certificate
    assert generate(moved).status == 200


@pytest.mark.parametrize("phase", PHASES)
def test_a_boot_can_fail_in_each_phase(simulator: Simulator, phase: str) -> None:
    simulator.boot(fail=phase)
    seen = launch(simulator)
    simulator.wait(lambda: boot_report(seen).get("error"), f"failed in {phase}")
    report = boot_report(seen)
    assert report["error"]["phase"] == phase
    assert report["error"]["message"]


@pytest.mark.parametrize("phase", PHASES)
def test_a_boot_can_stay_in_each_phase_and_still_be_ended(simulator: Simulator, phase: str) -> None:
    simulator.boot(never=phase)
    seen = launch(simulator)
    simulator.wait(lambda: boot_report(seen).get("phase") == phase, phase)
    time.sleep(0.3)
    report = boot_report(seen)
    assert (report["phase"], report["error"]) == (phase, None)
    simulator.remove()
    assert simulator.instances() == []


def test_without_dockers_own_repository_the_distributions_package_serves(simulator: Simulator) -> None:
    simulator.boot(docker_repository=False)
    seen = ready(simulator, launch(simulator))
    installs = [words for words in seen.commands if words[:2] == ["apt-get", "install"]]
    assert any("docker.io" in words for words in installs)


def test_the_agent_powers_an_idle_machine_off(simulator: Simulator) -> None:
    seen = ready(simulator, launch(simulator, idle_s=60))
    simulator.advance(50)
    simulator.wait(lambda: status(seen)["idle_s"] > 45, "the agent's clock moved")
    assert simulator.instance().state == "running"
    simulator.advance(60 + 900)
    simulator.wait(lambda: simulator.instance().state == "stopped", "powered off")
    assert simulator.instance().pids == {}


@pytest.mark.parametrize("service", ["nginx", "exollama-agent", "ollama"])
def test_what_is_killed_comes_back_as_its_unit_says(simulator: Simulator, service: str) -> None:
    seen = ready(simulator, launch(simulator))
    simulator.kill(service)

    def back() -> bool:
        try:
            return generate(seen).status == 200 and ask(seen, "GET", "/.exollama/status").status == 200
        except OSError:
            return False

    simulator.wait(back, f"{service} is back")
    name = service if service == "ollama" else f"{service}.service"
    assert simulator.instance().pids[name] != seen.pids[name]


def test_a_stream_can_be_cut_in_its_middle(simulator: Simulator) -> None:
    seen = ready(simulator, launch(simulator))
    simulator.ollama(seen.id, cut_after=3)
    with pytest.raises(Exception, match=r"IncompleteRead|closed"):
        generate(seen)


def test_a_stream_can_be_held_and_let_go(simulator: Simulator) -> None:
    seen = ready(simulator, launch(simulator))
    simulator.ollama(hold_after=2)
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(generate(seen)))
    asking.start()
    try:
        simulator.wait(lambda: status(seen)["in_flight"] == 1, "in flight")
        assert answers == []
    finally:
        simulator.ollama(hold_after=None)
        asking.join(10)
    assert answers[0].body.count(b"\n") > 3
    simulator.wait(lambda: status(seen)["in_flight"] == 0, "done")


def test_a_stopped_process_makes_the_instance_hang(simulator: Simulator) -> None:
    seen = ready(simulator, launch(simulator))
    simulator.kill("nginx", number=signal.SIGSTOP)  # the warden sends it, in its own time
    master = seen.pids["nginx.service"]
    simulator.wait(lambda: {*map(process_state, (master, *children(master)))} == {"T"}, "it stands still")
    with pytest.raises(OSError, match="timed out"):
        ask(seen, "GET", "/.exollama/proof", timeout_s=0.3)
    simulator.kill("nginx", number=signal.SIGCONT)
    assert ask(seen, "GET", "/.exollama/proof", key="").status == 200


def test_an_instance_that_is_no_cloud_config_is_reported(simulator: Simulator) -> None:
    simulator.plant(user_data="IyEvYmluL3NoCg==", machine=True)
    simulator.wait(lambda: simulator.violations, "reported")
    assert "#cloud-config" in simulator.violations[0]
    simulator.api.violations.clear()


def test_the_agent_and_bootstrap_run_are_the_ones_in_the_user_data(simulator: Simulator) -> None:
    seen = ready(simulator, launch(simulator))
    assert seen.root is not None
    here = Path(__file__).parents[2] / "cloudinit"
    for name in ("agent.py", "bootstrap.py", "commands.py", "door.py", "rules.py"):
        written = (seen.root / "opt/exollama" / name).read_text()
        there = written.replace(str(seen.root), "").replace(f"{seen.ip}:11434", "127.0.0.1:11434")
        assert there == bare((here / name).read_text())
    [agent] = [pid for name, pid in seen.pids.items() if name == "exollama-agent.service"]
    assert str(seen.root / "opt/exollama/agent.py") in Path(f"/proc/{agent}/cmdline").read_text().split("\0")
    assert os.getpid() != agent
