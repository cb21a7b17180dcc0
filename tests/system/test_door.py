"""From a boot's first seconds on its instance answers: before nginx, over to nginx, and where nginx cannot be had."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from client import boot
from client.endpoint import Endpoint
from client.settings import Secret
from functions import provision
from tests.simulator import PHASES, Seen, Simulator, commands
from tests.simulator.driver import ask, boot_report, call, launch, ready, status
from tests.system.verbs import Clerk


@pytest.fixture(autouse=True)
def swept(cloud: Simulator) -> Iterator[None]:
    yield
    for seen in cloud.instances():
        cloud.remove(seen.id)


def answers(seen: Seen) -> bool:
    try:
        return ask(seen, "GET", "/.exollama/proof", key="").status == 200
    except OSError:
        return False


def test_who_waits_sees_each_phase_and_one_certificate_from_docker_on(
    cloud: Simulator, here: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot, "POLL_S", 0.05)
    seen: list[str] = []
    proofs: list[str | None] = []
    prove = Endpoint._prove

    def proved(self: Endpoint, connection: object, fingerprint: str) -> None:
        proofs.append(fingerprint)
        prove(self, connection, fingerprint)  # type: ignore[arg-type]

    play = commands._phase

    def shown(host: commands.Host, phase: str, message: str, code: int = 1) -> commands.Result | None:
        if phase in ("docker", "nginx"):  # which go on once they were seen
            cloud.wait(lambda: phase in seen or host.off.is_set(), f"{phase} is seen")
        return play(host, phase, message, code)

    monkeypatch.setattr(Endpoint, "_prove", proved)
    monkeypatch.setattr(commands, "_phase", shown)
    provision.run(here.settings(), progress=lambda phase, *_: seen.append(phase))
    order = [phase for phase in dict.fromkeys(seen) if phase in PHASES]
    assert order == [phase for phase in PHASES if phase in order]
    assert {"docker", "nginx"} <= set(order), "what is done before nginx runs"
    assert len(set(proofs)) == 1, "another certificate would have had to be proved again"


def test_the_port_is_handed_over_at_once_and_after_a_reboot_it_is_nginxs_from_the_first(
    cloud: Simulator,
) -> None:
    cloud.boot(delay_s=0.2)
    seen = launch(cloud)
    cloud.wait(lambda: answers(seen), "the door")
    assert "Server" not in ask(seen, "GET", "/.exollama/proof", key="").headers
    fence = f"/.exollama/fence/{'a' * 32}"
    assert ask(seen, "PUT", fence).status == 201
    refused_s, latest, over = 0.0, time.monotonic(), False
    while not over:
        over = boot_report(seen).get("phase") == "ready"
        with contextlib.suppress(OSError), socket.create_connection((seen.ip or "", 11435), 5):
            refused_s, latest = max(refused_s, time.monotonic() - latest), time.monotonic()
        time.sleep(0.002)
    assert refused_s < 10, "nginx was started again and again, or with the boot's next phases"
    seen = cloud.instance(seen.id)
    nginx = seen.pids["nginx.service"]
    assert ask(seen, "GET", "/.exollama/proof", key="").headers["Server"] == "nginx"
    assert ask(seen, "POST", "/api/generate", {}).headers["X-Exollama"] == "draining", "put up through the door"
    assert ask(seen, "DELETE", fence).status == 204
    [start] = [words for words in seen.commands if words[0] == "systemctl" and words[-1] == "nginx.service"]
    assert start[1] == "restart"
    assert seen.root
    said = [log.read_text() for log in (seen.root / "var/log/exollama").glob("nginx-*.log")]
    assert "Address already in use" not in "".join(said), "apt did not start it while the port was taken"

    cloud.poweroff(seen.id)
    call(cloud, "PUT", f"/instance/{seen.id}:start", {})
    cloud.wait(lambda: answers(seen), "nginx")
    while boot_report(seen).get("phase") != "ready":
        assert ask(seen, "GET", "/.exollama/proof", key="").headers["Server"] == "nginx"
    assert cloud.instance(seen.id).pids["nginx.service"] != nginx


def test_where_nginx_cannot_be_installed_the_boot_says_so_at_once_and_until_it_is_ended(
    cloud: Simulator, here: Clerk
) -> None:
    cloud.boot(fail="nginx")
    began = time.monotonic()
    done = here.run("provision", "--keep-failed").ended(1, "The boot failed in phase nginx: apt-get install")
    assert "E: Unable to fetch some archives, maybe run apt-get update" in done.err
    assert time.monotonic() - began < 30, "its timeout is half an hour"
    [seen] = cloud.instances()
    assert "exollama-boot.service" in seen.pids
    assert status(seen)["boot"]["error"]["phase"] == "nginx"
    assert ask(seen, "POST", "/api/generate", {}).status == 502
    here.run("stop").ended(0)
    cloud.wait(lambda: cloud.instances() == [], "ended, through its fence")


def test_where_nginx_does_not_start_the_door_opens_again(cloud: Simulator) -> None:
    cloud.boot(never="docker")
    seen = launch(cloud)
    cloud.wait(lambda: answers(seen) and boot_report(seen)["phase"] == "docker", "the door")
    assert seen.root
    conf = seen.root / "etc/exollama/nginx.conf"
    conf.write_text(conf.read_text() + "nonsense;\n")
    program = seen.root / "opt/exollama/bootstrap.py"
    program.write_text(program.read_text().replace("boottime() + 60", "boottime() + 1"))
    cloud.boot()
    cloud.poweroff(seen.id)
    call(cloud, "PUT", f"/instance/{seen.id}:start", {})
    cloud.wait(lambda: boot_report(seen).get("error"), "the failure")
    cloud.wait(lambda: answers(seen), "the door")
    assert status(seen)["boot"]["error"]["message"].startswith("nginx does not listen on its port")


def test_no_crowd_at_the_door_holds_a_boot_up(cloud: Simulator) -> None:
    cloud.boot(delay_s=0.2)
    seen = launch(cloud)
    cloud.wait(lambda: answers(seen), "the door")
    with contextlib.ExitStack() as stack:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        links = [stack.enter_context(socket.create_connection((seen.ip or "", 11435), 5)) for _ in range(60)]
        for link in links[50:]:
            slow = stack.enter_context(context.wrap_socket(link))
            slow.sendall(b"GET /.exollama/status HTTP/1.1\r\nX-Slow: ")
        endpoint = Endpoint(seen.ip or "", Secret(seen.key))
        asked = threading.Event()

        def poll() -> None:
            while not asked.is_set():
                with contextlib.suppress(Exception):
                    endpoint.status()
                asked.wait(0.05)

        poller = threading.Thread(target=poll)
        poller.start()
        try:
            ready(cloud, seen, 40)
        finally:
            asked.set()
            poller.join(20)
            endpoint.close()
    phases = dict(boot_report(seen)["done"])
    assert phases["nginx"] < 10, "the door has that much patience with each of them"
    assert status(seen)["boot"]["phase"] == "ready"
