"""Everything between power-on and a model that answers, in phases that each skip what is already there.

Run by exollama-boot.service at every boot. Where it stands goes to boot.json (read by the agent beside it), what
its commands print to boot.log. A step that fails ends the boot with its phase and message. Standard library only,
Python 3.10. Nothing here knows the endpoint key, so no log can hold it; door.py, which does, logs nothing.
"""

import contextlib
import http.client
import ipaddress
import json
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # which python3 -I leaves out
from commands import ATTEMPTS, FRESH, HOPELESS, RETRY_S, Failed, ask, install, install_from, installed, note, run
from door import Door

ETC = Path("/etc/exollama")
RUN = Path("/run/exollama")
LOG = Path("/var/log/exollama")
TLS = Path("/var/lib/exollama/tls")

METADATA = "http://169.254.169.254/latest/meta-data/public-ipv4"
DOCKER = "https://download.docker.com/linux"
# As https://docs.docker.com/engine/install/ has given it ever since 2017.
DOCKER_KEY = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
# Which Docker only recommends, and without which it starts no container where the kernel has AppArmor switched on.
APPARMOR = "apparmor"
CERTIFICATE = """\
[req]
distinguished_name = dn
x509_extensions = ext
prompt = no
[dn]
CN = exollama
[ext]
subjectAltName = IP:{address}
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyCertSign
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
"""


def boottime() -> float:
    """Seconds since power-on, as the agent counts them too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def tell(text: str) -> None:
    """In boot.log, and on the machine's console, for whoever looks at it in Exoscale's portal."""
    note(f"== {text}")
    with contextlib.suppress(OSError):
        print(f"exollama: {text}", flush=True)


class Report:
    """boot.json: where the boot stands, written whole at every change."""

    def __init__(self) -> None:
        self.phase = "starting"
        self.started = self.phase_started = self.written = boottime()
        self.done: list[tuple[str, float]] = []
        self.percent: float | None = None
        tell("starting")
        self.write()

    def enter(self, phase: str) -> None:
        now = boottime()
        self.done.append((self.phase, round(now - self.phase_started, 2)))
        self.phase, self.phase_started, self.percent = phase, now, None
        tell(phase)
        self.write()

    def progress(self, percent: float) -> None:
        """Percent never falls back; written at most twice a second."""
        self.percent = max(self.percent or 0.0, round(percent, 1))
        if boottime() - self.written >= 0.5:
            self.write()

    def fail(self, message: str) -> None:
        """phase_started is when it failed from here on."""
        tell(f"failed in {self.phase}: {message}")
        self.done.append((self.phase, round(boottime() - self.phase_started, 2)))
        self.phase_started = boottime()
        self.write({"phase": self.phase, "message": message})

    def write(self, error: dict[str, str] | None = None) -> None:
        self.written = boottime()
        names = ("phase", "started", "phase_started", "done", "percent")
        said = {**{name: getattr(self, name) for name in names}, "error": error}
        draft = RUN / "boot.json.new"
        draft.write_text(json.dumps(said))
        os.replace(draft, RUN / "boot.json")


def own_address() -> str:
    """The address that clients use: the metadata server's word, else the default route's."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(ask("curl -fsS -m 3", METADATA) or ""))
    try:
        return str(ipaddress.ip_address(json.loads(run("ip -4 -j route get 1.1.1.1"))[0]["prefsrc"]))
    except (ValueError, LookupError, TypeError):
        raise Failed("this machine's address: neither the metadata server nor the route tells it") from None


def make_certificate(address: str) -> bool:
    """An EC P-256 certificate with the address as SAN; True where one had to be made."""
    TLS.mkdir(mode=0o700, parents=True, exist_ok=True)
    cert, key, conf = TLS / "cert.pem", TLS / "key.pem", TLS / "openssl.cnf"
    if cert.exists() and key.exists():
        verdict = ask("openssl x509 -noout -checkip", address, "-in", str(cert))
        if verdict and "does match" in verdict:
            return False
    conf.write_text(CERTIFICATE.format(address=address))
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 -days 3650"
    run(request, "-config", str(conf), "-keyout", f"{key}.new", "-out", f"{cert}.new")
    # Cut off anywhere in between, the certificate is missing and made again: never one beside another's key.
    cert.unlink(missing_ok=True)
    os.replace(f"{key}.new", key)
    os.replace(f"{cert}.new", cert)
    return True


class Beside(threading.Thread):
    """A step that goes on beside the next ones. What it raises is raised where it is waited for."""

    def __init__(self, step: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.step = step
        self.problem: Exception | None = None

    def run(self) -> None:
        try:
            self.step()
        except Exception as error:  # noqa: BLE001 - another thread's to tell
            self.problem = error

    def result(self) -> None:
        self.join()
        if self.problem:
            raise self.problem


def open_up(door: Door) -> None:
    """The agent and the certificate, behind nginx or the door: from here on the boot can be watched."""
    run("systemctl start exollama-agent.service")
    if shutil.which("openssl") is None:
        install("openssl")
    made = make_certificate(own_address())
    if installed("nginx"):
        start_nginx(door, anew=made)
    else:
        open_door(door)


def open_door(door: Door) -> None:
    """A boot that cannot be watched goes on."""
    try:
        door.open()
    except OSError as error:
        note(f"nobody answers until nginx does: {error}")


def start_nginx(door: Door, *, anew: bool) -> None:
    """Hand the port over to nginx, and take it back where nginx does not want it."""
    door.close()
    # A running nginx may be streaming already, after a reboot: start leaves it alone.
    pid = RUN / "nginx.pid"
    if anew:
        pid.unlink(missing_ok=True)
    until = boottime() + 60
    try:
        run("systemctl restart" if anew else "systemctl start", "nginx.service")
        while not pid.exists():  # which nginx writes once it listens
            if boottime() > until:
                raise Failed("nginx does not listen on its port; `journalctl -u nginx` on the instance says why")
            time.sleep(0.02)
    except Failed:
        ask("systemctl stop nginx.service")
        open_door(door)
        raise


def install_nginx(door: Door) -> None:
    """In the door's place."""
    if install("nginx") or door.thread:
        start_nginx(door, anew=True)


def docker_from_docker() -> None:
    """Docker CE from Docker's own repository."""
    release = platform.freedesktop_os_release()
    site = f"{DOCKER}/{release['ID']}"
    line = f"{site} {release['VERSION_CODENAME']} stable"
    install_from("Docker", f"{site}/gpg", DOCKER_KEY, line, "docker-ce", "docker-ce-cli", "containerd.io", APPARMOR)


def start_docker() -> None:
    """Docker's own packages, or the distribution's where Docker's cannot be had."""
    if not installed("docker-ce") and not installed("docker.io"):
        try:
            docker_from_docker()
        except (Failed, LookupError, OSError) as problem:
            note(f"taking the distribution's docker.io, since Docker's own cannot be had: {problem}")
            install("docker.io", APPARMOR)
    run("systemctl start docker.service", timeout_s=120)


def pull_image(image: str) -> None:
    """The container image."""
    if ask("docker image inspect -f {{.Id}}", image) is None:
        run("docker pull -q", image, timeout_s=1500, attempts=ATTEMPTS)


def start_container(image: str, upstream: str, more: str = "") -> None:
    """Ollama on its loopback port, answering. One machine, one user's models: they stay loaded."""
    found = ask("docker container inspect -f {{.Config.Image}} ollama")
    if found == image:
        run("docker start ollama", timeout_s=120)
    else:
        if found is not None:
            run("docker rm -f ollama", timeout_s=120)
        options = "--name ollama --restart unless-stopped -v ollama:/root/.ollama -e OLLAMA_KEEP_ALIVE=24h"
        logs = f"--log-opt max-size=10m --log-opt max-file=2 {more}"
        run(f"docker run -d {options} {logs} -p {upstream}:11434", image, timeout_s=300)
    until = boottime() + 180
    while boottime() < until:
        with contextlib.suppress(OSError, http.client.HTTPException), ollama(upstream, "/api/version") as answer:
            if answer.status == 200:
                return
        time.sleep(0.25)
    raise Failed("the Ollama container did not answer within 180 s")


@contextlib.contextmanager
def ollama(upstream: str, path: str, body: object = None, timeout_s: float = 10) -> Iterator[http.client.HTTPResponse]:
    """Ollama's answer: to a GET, or to a POST where there is a body."""
    connection = http.client.HTTPConnection(upstream, timeout=timeout_s)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body))
        yield connection.getresponse()
    finally:
        connection.close()


def pull_once(model: str, upstream: str, progress: Callable[[float], None]) -> None:
    """Pull a model; progress is percent over all layers named so far. A stream without success has failed."""
    layers: dict[str, tuple[int, int]] = {}
    said: dict[str, Any] = {}
    # While a large layer is verified, Ollama says nothing for minutes.
    with ollama(upstream, "/api/pull", {"model": model}, 900) as answer:
        for line in answer:
            said = json.loads(line)
            if "error" in said:
                raise Failed(str(said["error"]))
            if said.get("total"):
                layers[said["digest"]] = (said.get("completed", 0), said["total"])
                total = sum(size for _, size in layers.values())
                progress(100 * sum(got for got, _ in layers.values()) / total)
    if said.get("status") != "success":
        raise Failed(f"the stream ended without success, after {said.get('status', 'nothing')!r}")


def pull_model(model: str, upstream: str, progress: Callable[[float], None]) -> None:
    """The model. Ollama goes on where an attempt was cut off."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with ollama(upstream, "/api/show", {"model": model}) as answer:
                present = answer.status == 200
            if not present:
                pull_once(model, upstream, progress)
            return
        except (Failed, OSError, ValueError, LookupError, http.client.HTTPException) as error:  # noqa: PERF203
            problem = str(error) if isinstance(error, Failed) else repr(error)
            note(f"pulling {model}: {problem}")
            if attempt == ATTEMPTS or HOPELESS.search(problem):
                raise Failed(f"pulling {model}: {problem}") from None
            time.sleep(RETRY_S * attempt)


def warm_up(model: str, upstream: str) -> None:
    """One token, so that the first user finds the model in memory; an embedding model embeds one instead."""
    body = {"model": model, "prompt": "Hi", "stream": False, "options": {"num_predict": 1}}
    problem = ""
    for path in ("/api/generate", "/api/embed"):
        with ollama(upstream, path, {**body, "input": "Hi"}, 900) as answer:
            if answer.status == 200:
                return
            text = answer.read(1000).decode(errors="replace").strip()
        problem = problem or f"the first token of {model}: {path} answered {answer.status}: {text}"
        if "does not support" not in text:
            break
    raise Failed(problem)


def boot(report: Report, door: Door) -> None:
    """All phases in their order. apt does one thing at a time; the image is pulled beside what follows Docker."""
    open_up(door)
    policy = json.loads((ETC / "policy.json").read_text())
    image, model, upstream = policy["image"], policy["model"], policy["upstream"]
    pull = Beside(lambda: pull_image(image))

    def docker() -> None:
        start_docker()
        pull.start()

    phases: list[tuple[str, Callable[[], None]]] = [
        ("docker", docker),
        ("nginx", lambda: install_nginx(door)),
        ("image", pull.result),
        ("container", lambda: start_container(image, upstream)),
        ("model", lambda: pull_model(model, upstream, report.progress)),
        ("warmup", lambda: warm_up(model, upstream)),
    ]
    if driver := policy.get("gpu"):  # which one the graphics cards need; unknown to earlier versions
        # gpu.py, which only machines with such cards are given, takes its tools from this very program.
        sys.modules["bootstrap"] = sys.modules["__main__"]
        import gpu

        phases.insert(2, ("gpu", lambda: gpu.install_cards(driver)))
        phases[4] = ("container", lambda: gpu.start_container(image, upstream))
        phases[-1] = ("warmup", lambda: gpu.warm_up(model, upstream))
    for name, phase in phases:
        report.enter(name)
        phase()
    report.enter("ready")


def main() -> int:
    """Exit status 1 where the boot failed, once nobody listens to it any more."""
    for folder in (RUN, LOG):
        folder.mkdir(parents=True, exist_ok=True)
    FRESH.unlink(missing_ok=True)
    report, door = Report(), Door()
    try:
        boot(report, door)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
        report.fail(str(error) if isinstance(error, Failed) else repr(error))
        door.wait()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
