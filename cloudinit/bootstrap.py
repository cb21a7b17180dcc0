"""Everything between power-on and a model that answers, in phases that each skip what is already there.

Run by exollama-boot.service at every boot. Where it stands goes to boot.json (read by the agent beside it), what
its commands print to boot.log. A step that fails ends the boot with its phase and message. Standard library only,
Python 3.10. Nothing here knows the endpoint key, so no log can hold it.
"""

import contextlib
import http.client
import ipaddress
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ETC = Path("/etc/exollama")
APT = Path("/etc/apt")
RUN = Path("/run/exollama")
LOG = Path("/var/log/exollama")
TLS = Path("/var/lib/exollama/tls")

METADATA = "http://169.254.169.254/latest/meta-data/public-ipv4"
DOCKER = "https://download.docker.com/linux"
# As https://docs.docker.com/engine/install/ has given it ever since 2017.
DOCKER_KEY = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
# Which Docker only recommends, and without which it starts no container where the kernel has AppArmor switched on.
APPARMOR = "apparmor"
RETRY_S = float(os.environ.get("EXOLLAMA_RETRY_S", "5"))
ATTEMPTS = 4  # of whatever needs the network
HOPELESS = re.compile(
    "no space left|not found|manifest unknown|denied|does not exist|Unable to (locate|correct)"
    "|find any package by"  # apt's last word on a name with dots in it, as a kernel's has
)

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


class Failed(Exception):
    """A step that failed, in words for whoever waits for this machine."""


def boottime() -> float:
    """Seconds since power-on, as the agent counts them too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def note(text: str) -> None:
    """Write to boot.log; a full disk must not keep the boot from saying that the disk is full."""
    with contextlib.suppress(OSError), (LOG / "boot.log").open("a") as log:
        log.write(text + "\n")


class Report:
    """boot.json: where the boot stands, written whole at every change."""

    def __init__(self) -> None:
        self.phase = "starting"
        self.started = self.phase_started = self.written = boottime()
        self.done: list[tuple[str, float]] = []
        self.percent: float | None = None

    def enter(self, phase: str) -> None:
        now = boottime()
        if self.phase != "starting":
            self.done.append((self.phase, round(now - self.phase_started, 2)))
        self.phase, self.phase_started, self.percent = phase, now, None
        note(f"== {phase}")
        self.write()

    def progress(self, percent: float) -> None:
        """Percent never falls back; written at most twice a second."""
        self.percent = max(self.percent or 0.0, round(percent, 1))
        if boottime() - self.written >= 0.5:
            self.write()

    def fail(self, message: str) -> None:
        """phase_started is when it failed from here on."""
        note(f"== failed in {self.phase}: {message}")
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


def run_once(argv: list[str], timeout_s: float) -> tuple[str, str]:
    """What a command printed, and what went wrong ("": nothing)."""
    note(f"$ {shlex.join(argv)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C.UTF-8"}
    # Into memory, not the log, for the sake of full disks; no pipe, which a daemon left behind would hold open.
    with (RUN / "output").open("w+b") as output:
        try:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
            )
        except OSError as error:
            return "", f"cannot be run: {error.strerror}"
        try:
            status = child.wait(timeout_s)
            problem = f"ended with {status}" if status else ""
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            problem = f"took longer than {timeout_s:.0f} s"
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    note(text)
    last = text.rpartition("\n")[2][:300]
    return text, f"{problem}: {last}" if problem and last else problem


def run(command: str, *more: str, timeout_s: float = 60, attempts: int = 1) -> str:
    """Run a command found on PATH (the words of `command`, then `more`) and return what it printed.

    Raises Failed with its last line once the last attempt failed.
    """
    argv = [*command.split(), *more]
    for attempt in range(1, attempts + 1):
        text, problem = run_once(argv, timeout_s)
        if not problem:
            return text
        if attempt == attempts or HOPELESS.search(problem):
            raise Failed(f"{shlex.join(argv[:6])} {problem}")
        time.sleep(RETRY_S * attempt)
    raise AssertionError("at least one attempt")


def ask(command: str, *more: str) -> str | None:
    """What a command printed, None where it failed."""
    try:
        return run(command, *more)
    except Failed:
        return None


def installed(package: str) -> bool:
    """Whether dpkg has it, whole."""
    return ask("dpkg-query -W -f ${db:Status-Status}", package) == "installed"


def install(*packages: str) -> bool:
    """Install what is missing, after one update of apt's lists per boot; whether anything was missing."""
    missing = [package for package in packages if not installed(package)]
    fresh = RUN / "apt-lists-are-fresh"
    if missing and not fresh.exists():
        run("apt-get update -q", timeout_s=300, attempts=ATTEMPTS)
        fresh.touch()
    if missing:
        run("apt-get install -y -q --no-install-recommends", *missing, timeout_s=900, attempts=ATTEMPTS)
    return bool(missing)


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


def start_nginx() -> None:
    """The agent, the certificate, nginx: from here on the boot can be watched."""
    run("systemctl start exollama-agent.service")
    if shutil.which("openssl") is None:
        install("openssl")
    made = make_certificate(own_address())
    new = install("nginx")
    # A running nginx may be streaming already, after a reboot: start leaves it alone.
    run("systemctl restart" if made or new else "systemctl start", "nginx.service")


def install_from(maker: str, key_url: str, fingerprint: str, line: str, *packages: str) -> None:
    """Install from a maker's own repository, whose signing key must be the known one and no other."""
    install("ca-certificates", "curl", "gpg")
    stem = f"exollama-{maker.lower()}"
    armored, keyring = RUN / f"{stem}.asc", APT / f"keyrings/{stem}.gpg"
    source = APT / f"sources.list.d/{stem}.list"
    for folder in (keyring.parent, source.parent, RUN / "gnupg"):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    download = "curl -fsSL --proto =https --connect-timeout 10 -m 60 -o"
    run(download, str(armored), key_url, timeout_s=90, attempts=2)
    gpg = f"gpg --batch --yes --homedir {RUN / 'gnupg'}"
    lines = run(gpg, "--show-keys", "--with-colons", str(armored)).splitlines()
    # The record of a key is followed by its fingerprint's (its subkeys, "sub", have theirs as well).
    found = [lines[i + 1] for i, line in enumerate(lines) if line.startswith("pub:")]
    if found != [f"fpr:::::::::{fingerprint}:"]:
        raise Failed(f"{maker}'s signing key is not the known one but {found}")
    run(gpg, "--dearmor", "-o", str(keyring), str(armored))
    architecture = run("dpkg --print-architecture")
    source.write_text(f"deb [arch={architecture} signed-by={keyring}] {line}\n")
    only = f"-o Dir::Etc::sourcelist={source} -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0"
    try:
        run(f"apt-get update -q {only} -o APT::Update::Error-Mode=any", timeout_s=120, attempts=2)
        install(*packages)
    except Failed:
        source.unlink()  # a source that does not answer would fail every later update as well
        raise


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


def boot(report: Report) -> None:
    """All phases in their order."""
    policy = json.loads((ETC / "policy.json").read_text())
    image, model, upstream = policy["image"], policy["model"], policy["upstream"]
    driver = policy.get("gpu")  # which one the graphics cards need; unknown to earlier versions
    phases: list[tuple[str, Callable[[], None]]] = [
        ("nginx", start_nginx),
        ("docker", start_docker),
        ("image", lambda: pull_image(image)),
        ("container", lambda: start_container(image, upstream, "--gpus all" if driver else "")),
        ("model", lambda: pull_model(model, upstream, report.progress)),
        ("warmup", lambda: warm_up(model, upstream)),
    ]
    if driver:
        # gpu.py, which only machines with such cards are given, takes its tools from this very program.
        sys.modules["bootstrap"] = sys.modules["__main__"]
        sys.path.append(str(Path(__file__).parent))
        import gpu

        phases.insert(2, ("gpu", lambda: gpu.start(driver)))
        phases[-1] = ("warmup", lambda: gpu.warm_up(model, upstream))
    for name, phase in phases:
        report.enter(name)
        phase()
    report.enter("ready")


def main() -> int:
    """Exit status 1 where the boot failed."""
    for folder in (RUN, LOG):
        folder.mkdir(parents=True, exist_ok=True)
    report = Report()
    try:
        boot(report)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
        report.fail(str(error) if isinstance(error, Failed) else repr(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
