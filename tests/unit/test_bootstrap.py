"""bootstrap.py as a process, with stubs for the commands that it calls and a stand-in for Ollama."""

import json
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.booting import ADDRESS, DOCKER_KEY, GOOD_KEYS, IMAGE, MODEL, PHASES, PULL, Machine
from tests.unit.machine import until


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path)
    yield found
    found.close()


def read_certificate(machine: Machine) -> str:
    argv = ["openssl", "x509", "-in", str(machine.place("/var/lib/exollama/tls/cert.pem")), "-noout", "-text"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_a_first_boot_goes_through_all_phases_in_order_to_ready(machine: Machine) -> None:
    assert machine.boot() == 0
    report = machine.report()
    assert (report["phase"], report["error"], report["percent"]) == ("ready", None, None)
    assert [phase for phase, _ in report["done"]] == PHASES
    assert all(seconds >= 0 for _, seconds in report["done"])
    spent = sum(seconds for _, seconds in report["done"])
    assert spent == pytest.approx(report["phase_started"] - report["started"], abs=0.1)
    order = [call.split() for call in machine.calls("apt-get", "systemctl", "docker run", "docker pull")]
    pull = order.pop(next(n for n, words in enumerate(order) if words[1] == "pull"))
    assert pull == ["docker", "pull", "-q", IMAGE]
    assert [[words[0], *words[1:3]] for words in order] == [
        ["systemctl", "start", "exollama-agent.service"],
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-y"],
        ["systemctl", "start", "docker.service"],
        ["apt-get", "install", "-y"],
        ["systemctl", "restart", "nginx.service"],
        ["docker", "run", "-d"],
    ]
    assert "docker-ce" in order[2]
    assert "nginx" in order[4]
    (run,) = machine.calls("docker run")
    for words in (
        f"-p {machine.upstream}:11434",
        "--restart unless-stopped",
        "-v ollama:/root/.ollama",
        "--name ollama",
    ):
        assert words in run
    assert run.endswith(IMAGE)
    assert machine.ollama.asked[-1][0] == "/api/generate"
    assert machine.ollama.asked[-1][1]["options"] == {"num_predict": 1}


def test_a_second_boot_installs_pulls_and_restarts_nothing(machine: Machine) -> None:
    assert machine.boot() == 0
    certificate = machine.place("/var/lib/exollama/tls/cert.pem").read_bytes()
    (machine.place("/run/exollama/apt-lists-are-fresh")).unlink()  # as a reboot does
    machine.ollama.asked.clear()
    assert machine.boot() == 0
    assert machine.calls("apt-get", "gpg", "docker pull", "docker run", "docker rm", "systemctl restart") == []
    assert machine.calls("systemctl start nginx", "docker start") == [
        "systemctl start nginx.service",
        "docker start ollama",
    ]
    assert machine.place("/var/lib/exollama/tls/cert.pem").read_bytes() == certificate
    assert "/api/pull" not in [path for path, _ in machine.ollama.asked]
    assert [phase for phase, _ in machine.report()["done"]] == PHASES


def test_the_certificate_is_ec_names_the_address_and_verifies_strictly(machine: Machine) -> None:
    assert machine.boot() == 0
    tls = machine.place("/var/lib/exollama/tls")
    cert = str(tls / "cert.pem")
    text = read_certificate(machine)
    assert "prime256v1" in text
    assert f"IP Address:{ADDRESS}" in text
    strict = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-verify_ip",
        ADDRESS,
        "-CAfile",
        cert,
        cert,
    ]
    assert subprocess.run(strict, capture_output=True, check=False).returncode == 0
    assert (tls / "key.pem").stat().st_mode & 0o077 == 0
    assert tls.stat().st_mode & 0o077 == 0


def test_another_address_gets_another_certificate_and_a_restarted_nginx(machine: Machine) -> None:
    assert machine.boot() == 0
    machine.stub("curl", "echo 192.0.2.8")
    before = machine.place("/var/lib/exollama/tls/cert.pem").read_bytes()
    assert machine.boot() == 0
    assert machine.place("/var/lib/exollama/tls/cert.pem").read_bytes() != before
    assert machine.calls("systemctl restart") == ["systemctl restart nginx.service"]


@pytest.mark.parametrize("missing", ["cert.pem", "key.pem"])
def test_half_a_certificate_is_made_again(machine: Machine, missing: str) -> None:
    assert machine.boot() == 0
    (machine.place("/var/lib/exollama/tls") / missing).unlink()
    assert machine.boot() == 0
    tls = machine.place("/var/lib/exollama/tls")
    pair = [
        subprocess.run(["openssl", *words], capture_output=True, check=True, cwd=tls).stdout
        for words in (["x509", "-in", "cert.pem", "-noout", "-pubkey"], ["pkey", "-in", "key.pem", "-pubout"])
    ]
    assert pair[0] == pair[1]


@pytest.mark.parametrize("metadata", ["exit 22", "echo '<html>not found</html>'", "echo", None])
def test_without_the_metadata_the_routes_address_serves(machine: Machine, metadata: str | None) -> None:
    if metadata:
        machine.stub("curl", metadata)
    else:
        (machine.bin / "curl").unlink()
    machine.stub("ip", """echo '[{"dst":"1.1.1.1","gateway":"192.0.2.1","dev":"eth0","prefsrc":"192.0.2.9"}]'""")
    machine.boot()
    assert "IP Address:192.0.2.9" in read_certificate(machine)


@pytest.mark.parametrize("route", ["exit 2", "echo '[]'", "echo nonsense", """echo '[{"prefsrc":"x"}]'"""])
def test_without_an_address_the_boot_fails(machine: Machine, route: str) -> None:
    machine.stub("curl", "exit 28")
    machine.stub("ip", route)
    assert machine.boot() == 1
    assert machine.report()["error"]["phase"] == "starting"


FAILURES = [
    ("starting", "openssl", "*req*", "unable to write"),
    ("starting", "systemctl", "*exollama-agent*", "unit not loaded"),
    ("nginx", "apt-get", "*install*nginx*", "Unable to fetch some archives"),
    ("nginx", "systemctl", "*nginx*", "Job for nginx.service failed"),
    ("docker", "apt-get", "*install*docker*", "Unable to correct problems"),
    ("docker", "systemctl", "*docker*", "Job for docker.service failed"),
    ("image", "docker", "*pull*", "manifest for ollama/ollama:1.2.3 not found: manifest unknown"),
    ("image", "docker", "*pull*", "write /var/lib/docker/tmp: no space left on device"),
    ("container", "docker", "*run*", "port is already allocated"),
]


@pytest.mark.parametrize(("phase", "command", "when", "said"), FAILURES)
def test_a_command_that_fails_ends_its_phase_with_its_own_words(
    machine: Machine, phase: str, command: str, when: str, said: str
) -> None:
    if command == "openssl":
        machine.stub("openssl", "exit 0")
    machine.fail(command, when, said)
    assert machine.boot() == 1
    report = machine.report()
    assert report["phase"] == report["error"]["phase"] == phase
    assert command in report["error"]["message"]
    assert said in report["error"]["message"], "the last line that it printed"
    assert [name for name, _ in report["done"]] == PHASES[: PHASES.index(phase) + 1]
    assert f"$ {command}" in machine.log()
    assert "first line" in machine.log()
    later = {"starting": "apt-get", "docker": "docker pull", "container": "none"}.get(phase, "docker run")
    assert machine.calls(later) == [], "nothing goes on after a failure"


def test_what_needs_the_network_is_tried_again(machine: Machine) -> None:
    machine.fail("apt-get", "*", "Temporary failure resolving", times=3)
    machine.fail("docker", "*pull*", "net/http: TLS handshake timeout", times=3)
    machine.ollama.pulls = [
        [{"error": "dial tcp: i/o timeout"}],
        PULL[:3],
        [*PULL[:3], b"not json\n"],
        PULL,
    ]
    assert machine.boot() == 0
    assert len(machine.calls("apt-get update")) >= 4
    assert len(machine.calls("docker pull")) == 4
    assert [path for path, _ in machine.ollama.asked].count("/api/pull") == 4


@pytest.mark.parametrize(
    "words",
    [
        "E: You don't have enough free space in /var/cache/apt/archives/.",
        "dpkg: error: failed to write status database record: No space left on device",
        "E: Unable to locate package docker.io",
    ],
)
def test_what_apt_cannot_get_better_at_is_not_tried_again(machine: Machine, words: str) -> None:
    machine.fail("apt-get", "*install*docker.io*", words)
    machine.fail("curl", "*download.docker.com*", "cannot be reached")
    assert machine.boot() == 1
    assert len([call for call in machine.calls("apt-get install") if "docker.io" in call]) == 1
    assert words[:40] in machine.report()["error"]["message"]


def test_a_source_that_is_not_needed_may_be_broken(machine: Machine) -> None:
    machine.fail("apt-get", "*update*", "E: The repository of somebody else does not have a Release file.")
    assert machine.boot() == 0
    assert all("APT::Update::Error-Mode=any" in call for call in machine.calls("apt-get update"))


def test_where_lists_cannot_be_fetched_that_is_why_a_package_cannot_be_located(machine: Machine) -> None:
    machine.fail("apt-get", "*update*", "E: Could not resolve 'deb.debian.org'")
    machine.fail("apt-get", "*install*", "E: Unable to locate package docker.io")
    assert machine.boot() == 1
    assert "Could not resolve 'deb.debian.org'" in machine.report()["error"]["message"]


def test_what_cannot_get_better_is_not_tried_again(machine: Machine) -> None:
    machine.fail("docker", "*pull*", "manifest unknown")
    assert machine.boot() == 1
    assert len(machine.calls("docker pull")) == 1


def test_a_command_that_is_missing_is_named(machine: Machine) -> None:
    (machine.bin / "docker").unlink()
    assert machine.boot() == 1
    message = "docker pull -q ollama/ollama:1.2.3 cannot be run: No such file or directory"
    assert machine.report()["error"] == {"phase": "image", "message": message}


def test_a_command_that_hangs_ends_with_its_time_and_its_children(machine: Machine) -> None:
    commands = machine.root / "commands.py"
    commands.write_text(commands.read_text().replace("timeout_s: float = 60", "timeout_s: float = 3"))
    machine.stub("systemctl", f"sleep 300 & echo $! > {machine.state}/child; wait")
    assert machine.boot() == 1
    assert "took longer than 3 s" in machine.report()["error"]["message"]
    child = Path("/proc") / (machine.state / "child").read_text().strip()

    def ended() -> bool:
        try:
            return (child / "stat").read_text().split()[2] == "Z"
        except OSError:
            return True

    until(ended, "the child's end")


# -- Docker


def docker_packages(machine: Machine) -> list[str]:
    words = " ".join(machine.calls("apt-get install")).split()
    return [word for word in words if "docker" in word or "containerd" in word or word == "apparmor"]


def test_docker_comes_from_dockers_own_repository(machine: Machine) -> None:
    assert machine.boot() == 0
    assert docker_packages(machine) == ["docker-ce", "docker-ce-cli", "containerd.io", "apparmor"]
    (source,) = machine.place("/etc/apt/sources.list.d").iterdir()
    keyring = machine.place("/etc/apt/keyrings/exollama-docker.gpg")
    assert source.read_text().startswith(f"deb [arch=amd64 signed-by={keyring}] https://download.docker.com/linux/")
    assert source.read_text().endswith(" stable\n")
    (download,) = [call for call in machine.calls("curl") if "docker" in call]
    assert "--proto =https" in download
    shown, dearmored, update, install, nginx = machine.calls("gpg --batch", "apt-get")
    assert "--show-keys" in shown
    assert "--dearmor" in dearmored
    assert "docker-ce" in install
    assert "nginx" in nginx
    assert update == "apt-get update -q -o APT::Update::Error-Mode=any", "of everything at once, for both"


def test_lists_that_are_fresh_are_not_updated_again_for_dockers_source(machine: Machine) -> None:
    (machine.state / "gpg").unlink()
    assert machine.boot() == 0
    configure, whole, tools, dockers, *_ = machine.calls("dpkg --configure", "apt-get")
    assert (configure, whole) == ("dpkg --configure -a", "apt-get update -q -o APT::Update::Error-Mode=any")
    assert tools.endswith(" gpg")
    assert "Dir::Etc::sourceparts=-" in dockers


BAD_KEYS = [
    GOOD_KEYS.replace(DOCKER_KEY, "0" * 40),
    GOOD_KEYS + GOOD_KEYS.replace(DOCKER_KEY, "0" * 40),  # the known one and another beside it
    GOOD_KEYS.replace("fpr", "uid"),
    "nonsense\n",
    "pub\n",
    "",
]


@pytest.mark.parametrize("keys", BAD_KEYS)
def test_a_signing_key_that_is_not_dockers_is_not_trusted(machine: Machine, keys: str) -> None:
    machine.stub("gpg", f"case \"$*\" in *show-keys*) printf '%s' '{keys}' ;; esac")
    assert machine.boot() == 0
    assert docker_packages(machine) == ["docker.io", "apparmor"]
    assert not machine.place("/etc/apt/keyrings/exollama-docker.gpg").exists()
    assert list(machine.place("/etc/apt/sources.list.d").iterdir()) == []


@pytest.mark.parametrize(
    ("command", "when"),
    [
        ("curl", "*download.docker.com*"),
        ("gpg", "*show-keys*"),
        ("gpg", "*dearmor*"),
        ("dpkg", "*"),
        ("apt-get", "*Error-Mode*"),
        ("apt-get", "*docker-ce*"),
    ],
)
def test_where_dockers_repository_fails_the_distributions_package_serves(
    machine: Machine, command: str, when: str
) -> None:
    machine.fail(command, when, "cannot be reached")
    assert machine.boot() == 0
    assert docker_packages(machine)[-2:] == ["docker.io", "apparmor"]
    assert "cannot be reached" in machine.log()
    assert len(machine.calls("curl")) == 2, "the address, and Docker's key once: curl itself tries again what hangs"
    assert list(machine.place("/etc/apt/sources.list.d").glob("*")) == [], "a dead source would spoil the next update"


def test_a_container_of_another_image_is_replaced_and_its_models_kept(machine: Machine) -> None:
    (machine.state / "container").write_text("ollama/ollama:0.0.1\n")
    assert machine.boot() == 0
    calls = [call.split()[:3] for call in machine.calls("docker rm", "docker run", "docker start", "docker volume")]
    assert calls == [["docker", "rm", "-f"], ["docker", "run", "-d"]]


# -- the model


def test_the_percentage_is_over_all_layers_and_never_falls(machine: Machine) -> None:
    right = [None, 0.0, 50.0, 100.0, 100.0, 100.0, 100.0, 100.0]
    seen: list[float | None] = []

    def pause(line: int) -> None:
        patience = time.monotonic() + 10
        while machine.report()["percent"] != right[line] and time.monotonic() < patience:
            time.sleep(0.05)
        time.sleep(0.6)  # longer than the pause between two reports, reckoned from this one
        seen.append(machine.report()["percent"])

    machine.ollama.pause = pause
    assert machine.boot() == 0
    assert seen == right


@pytest.mark.parametrize(
    ("pull", "said"),
    [
        ([PULL[0], {"error": "pull model manifest: file does not exist"}], "file does not exist"),
        ([*PULL[:4], {"error": "write: no space left on device"}], "no space left on device"),
        (PULL[:-1], "without success"),
        ([{"error": "something else"}], "something else"),
        ([b"<html>\n"], "pulling"),
    ],
)
def test_a_pull_that_fails_says_so_in_ollamas_words(machine: Machine, pull: list[Any], said: str) -> None:
    machine.ollama.pulls = [pull]
    assert machine.boot() == 1
    report = machine.report()
    assert report["error"]["phase"] == "model"
    assert said in report["error"]["message"]
    assert MODEL in report["error"]["message"]
    assert machine.ollama.asked[-1][0] == "/api/pull", "no warm-up follows"


def test_a_model_that_cannot_answer_fails_the_warm_up(machine: Machine) -> None:
    machine.ollama.answers = {"/api/generate": (500, {"error": "model requires more system memory (9 GiB)"})}
    assert machine.boot() == 1
    assert machine.report()["error"]["phase"] == "warmup"
    assert "more system memory" in machine.report()["error"]["message"]


@pytest.mark.parametrize(("status", "result"), [(200, 0), (500, 1)])
def test_an_embedding_model_embeds_its_first_token(machine: Machine, status: int, result: int) -> None:
    machine.ollama.answers = {
        "/api/generate": (400, {"error": '"tiny:1b" does not support generate'}),
        "/api/embed": (status, {"embeddings": [[0.1]]}),
    }
    assert machine.boot() == result


def test_an_ollama_that_never_answers_fails_the_container_phase(machine: Machine) -> None:
    machine.program.write_text(machine.program.read_text().replace("boottime() + 180", "boottime() + 1"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        policy = machine.place("/etc/exollama/policy.json")
        policy.write_text(policy.read_text().replace(machine.upstream, f"127.0.0.1:{silent.getsockname()[1]}"))
        silent.close()
        assert machine.boot() == 1
    assert machine.report()["error"]["phase"] == "container"


# -- the report


def test_the_report_is_whole_at_every_moment_and_the_phase_is_seen_while_it_runs(machine: Machine) -> None:
    machine.fail("apt-get", "*", "again", times=2)
    for command, phase in (("systemctl", "starting"), ("apt-get", "docker")):  # which last until they were seen
        body = (machine.bin / command).read_text().partition("\n")[2].partition("\n")[2]
        look = f"[ -e {machine.state}/seen-{phase} ]"
        machine.stub(command, f"n=0; until {look} || [ $n = 400 ]; do sleep 0.05; n=$((n+1)); done\n{body}")
    path = machine.place("/run/exollama/boot.json")
    seen = []
    with machine.start() as process:
        while process.poll() is None:
            if path.exists():
                seen.append(json.loads(path.read_text())["phase"])
                (machine.state / f"seen-{seen[-1]}").touch()
        assert process.returncode == 0
    order = list(dict.fromkeys(seen))
    assert order == [phase for phase in [*PHASES, "ready"] if phase in order]
    assert {"starting", "docker"} <= set(order)


def test_a_policy_that_is_missing_is_a_failed_boot_that_says_so(machine: Machine) -> None:
    machine.place("/etc/exollama/policy.json").unlink()
    assert machine.boot() == 1
    assert machine.report()["error"]["phase"] == "starting"


@pytest.mark.skipif(os.geteuid() != 0 and not os.access("/dev/full", os.W_OK), reason="needs /dev/full")
def test_a_log_that_cannot_be_written_does_not_stop_the_boot(machine: Machine) -> None:
    log = machine.place("/var/log/exollama")
    log.mkdir(parents=True)
    (log / "boot.log").symlink_to("/dev/full")
    machine.fail("docker", "*pull*", "no space left on device")
    assert machine.boot() == 1
    assert "no space left on device" in machine.report()["error"]["message"]


def test_no_command_gets_the_key_or_a_shell(machine: Machine) -> None:
    machine.place("/etc/exollama/key").write_text("planted-key-0123456789abcdef\n")
    assert machine.boot() == 0
    assert "planted-key" not in machine.calls_log.read_text()
    assert "planted-key" not in machine.log()
    assert all(shlex.split(call)[0] not in ("sh", "bash") for call in machine.calls() if "'" not in call)
