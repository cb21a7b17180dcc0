"""The commands that an instance's programs call, as far as the simulator plays them: what each prints and changes.

Neighbours: machine.py calls `run` for every stub that was executed; services.py does what systemctl and docker ask for.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

PHASES = ("starting", "docker", "nginx", "image", "container", "model", "warmup")
# The fingerprint of Docker's signing key, from https://docs.docker.com/engine/install/ubuntu/ as it stood for years.
DOCKER_FINGERPRINT = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
# And that of NVIDIA's container toolkit, as many public repositories pin it.
NVIDIA_FINGERPRINT = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int = 0
    out: str = ""
    err: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootPlan:
    """What the next boots do. `fail` and `never` name a phase; `delay_s` is added to each phase (real seconds)."""

    fail: str | None = None
    never: str | None = None
    delay_s: float = 0.0
    docker_repository: bool = True  # False: Docker's own repository cannot be reached
    docker_fingerprint: str = DOCKER_FINGERPRINT
    metadata: bool = False  # whether the metadata server answers
    nvidia_fingerprint: str = NVIDIA_FINGERPRINT
    cards: bool = True  # False: the graphics cards of a GPU type do not appear
    on_card: bool = True  # False: Ollama uses the processor all the same
    missing: tuple[str, ...] = ()  # beginnings of packages' names that the archive does not have

    def __post_init__(self) -> None:
        for phase in (self.fail, self.never):
            if phase is not None and phase not in PHASES:
                raise ValueError(f"unknown phase {phase!r}: one of {', '.join(PHASES)}")


class Services(Protocol):
    """What systemctl and docker act upon."""

    def start(self, unit: str) -> Result: ...
    def stop(self, unit: str) -> Result: ...
    def restart(self, unit: str) -> Result: ...
    def reload(self, unit: str) -> Result: ...
    def enable(self, unit: str) -> Result: ...
    def active(self, unit: str) -> bool: ...
    def run_container(self, name: str, image: str, publish: str, on_card: bool) -> Result: ...
    def start_container(self, name: str) -> Result: ...
    def remove_container(self, name: str) -> Result: ...
    def poweroff(self) -> None: ...


@dataclass(slots=True)
class Host:
    """What the commands see of their machine. The sets survive a reboot, as a disk does."""

    address: str
    plan: BootPlan
    services: Services
    off: threading.Event
    packages: set[str] = field(
        default_factory=lambda: {"ca-certificates", "openssl", "curl", "gnupg", "gpg", "iproute2"}
    )
    images: set[str] = field(default_factory=set)
    containers: dict[str, str] = field(default_factory=dict)  # name → image
    rules: set[str] = field(default_factory=set)
    cards: int = 0
    modules: set[str] = field(default_factory=set)  # of the kernel's, loaded; a reboot forgets them


def run(host: Host, argv: list[str], given: str) -> Result:
    """Play one command."""
    deed = _COMMANDS.get(argv[0])
    if deed is None:
        return Result(127, err=f"{argv[0]}: the simulator does not play this command\n")
    return deed(host, argv[1:], given)


def _phase(host: Host, phase: str, message: str, code: int = 1) -> Result | None:
    """The failure or the endlessness that was planned for a phase; None where it goes well, after its delay."""
    if host.plan.never == phase:
        host.off.wait()
    host.off.wait(host.plan.delay_s)
    return Result(code, err=message) if host.plan.fail == phase else None


def _apt_get(host: Host, argv: list[str], given: str) -> Result:
    words = _operands(argv)
    if not words or words[0] == "update":
        from_docker = any("exollama-docker" in word for word in argv)
        if from_docker and not host.plan.docker_repository:
            return Result(100, err="E: Failed to fetch https://download.docker.com/linux  Could not connect\n")
        return Result(out="Reading package lists...\n")
    if words[0] in ("install", "remove", "purge"):
        names = {word.partition("=")[0] for word in words[1:]}
        if lacking := [name for name in sorted(names) if name.startswith(host.plan.missing)]:
            unknown = f"E: Unable to locate package {lacking[0]}\n"
            if "." in lacking[0]:  # a pattern, for all that apt knows
                unknown += "".join(
                    f"E: Couldn't find any package by {how} '{lacking[0]}'\n" for how in ("glob", "regex")
                )
            return Result(100, err=unknown)
        broken = "E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?\n"
        for phase, wanted in (("nginx", "nginx"), ("docker", "docker")):
            if any(name.startswith(wanted) for name in names) and (failed := _phase(host, phase, broken, 100)):
                return failed
        if words[0] != "install":
            host.packages -= names
            return Result()
        host.packages |= names
        if "nginx" in names:  # Debian's package enables and starts it
            host.services.enable("nginx.service")
            host.services.start("nginx.service")
        if names & {"docker-ce", "docker.io"}:
            host.services.enable("docker.service")
            host.services.start("docker.service")
        return Result(out="".join(f"Setting up {name} ...\n" for name in sorted(names)))
    return Result()


def _dpkg_query(host: Host, argv: list[str], given: str) -> Result:
    name = _operands(argv, with_value={"-f", "--showformat"})[-1]
    if name not in host.packages:
        return Result(1, err=f"dpkg-query: no packages found matching {name}\n")
    forms = [argv[i + 1] for i, word in enumerate(argv[:-1]) if word in ("-f", "--showformat")]
    form = (forms or ["${Package}\t${Version}\n"])[0]
    fields = {
        "db:Status-Status": "installed",
        "Status": "install ok installed",
        "Version": "1.0-simulator",
        "Package": name,
    }
    text = re.sub(r"\$\{([^}]+)\}", lambda found: fields.get(found[1], ""), form)
    return Result(out=text.replace("\\n", "\n").replace("\\t", "\t"))


def _dpkg(host: Host, argv: list[str], given: str) -> Result:
    return Result(out="amd64\n" if "--print-architecture" in argv else "")


def _curl(host: Host, argv: list[str], given: str) -> Result:
    url = next((word for word in argv if "://" in word), "")
    if "169.254.169.254" in url:
        return Result(out=host.address) if host.plan.metadata else Result(28, err="curl: (28) Connection timed out\n")
    docker, nvidia = "download.docker.com" in url, "nvidia.github.io" in url
    if nvidia or (docker and host.plan.docker_repository):
        if "-o" in argv:
            Path(argv[argv.index("-o") + 1]).write_text("a key, armoured, of the simulator\n")
        return Result()
    return Result(6, err=f"curl: (6) Could not resolve host: {url}\n")


def _gpg(host: Host, argv: list[str], given: str) -> Result:
    if "--show-keys" in argv:
        nvidia = "nvidia" in argv[-1]
        rows = [
            "pub:-:4096:1:8D81803C0EBFCD88:1487788586:::-:::scESCA::::::23::0:",
            f"fpr:::::::::{host.plan.nvidia_fingerprint if nvidia else host.plan.docker_fingerprint}:",
            "uid:-::::1487792064::0::Docker Release::::::::::0:",
        ]
        return Result(out="\n".join(rows) + "\n")
    for flag in ("-o", "--output"):
        if flag in argv:
            Path(argv[argv.index(flag) + 1]).write_bytes(b"a key, of the simulator")
    return Result()


def _ip(host: Host, argv: list[str], given: str) -> Result:
    if "route" in argv and "get" in argv:
        if failed := _phase(host, "starting", "RTNETLINK answers: Network is unreachable\n", 2):
            return failed
        target = argv[-1]
        gateway = host.address.rpartition(".")[0] + ".1"
        found = [
            {
                "dst": target,
                "gateway": gateway,
                "dev": "eth0",
                "prefsrc": host.address,
                "flags": [],
                "uid": 0,
                "cache": [],
            }
        ]
        plain = f"{target} via {gateway} dev eth0 src {host.address} uid 0\n    cache\n"
        return Result(out=json.dumps(found) + "\n" if "-j" in argv or "-json" in argv else plain)
    return Result()


def _iptables(host: Host, argv: list[str], given: str) -> Result:
    for check, deed in (
        ("-C", None),
        ("-A", host.rules.add),
        ("-I", host.rules.add),
        ("-D", host.rules.discard),
    ):
        if check in argv:
            rule = " ".join(word for word in argv if word not in ("-w", "-C", "-A", "-I", "-D"))
            if deed is None:
                return Result(0 if rule in host.rules else 1)
            deed(rule)
    return Result()


def _systemctl(host: Host, argv: list[str], given: str) -> Result:
    verb, *units = _operands(argv) or [""]
    units = [unit if "." in unit else f"{unit}.service" for unit in units]
    services = host.services
    if verb in ("poweroff", "halt"):
        services.poweroff()
        return Result()
    if verb in ("is-active", "is-enabled"):
        up = all(services.active(unit) for unit in units)
        return Result(0 if up else 3, out="active\n" if up else "inactive\n")
    if verb in ("daemon-reload", "mask", "disable", "reset-failed", "show", "unmask"):
        return Result()
    deeds: dict[str, Callable[[str], Result]] = {
        "start": services.start,
        "stop": services.stop,
        "restart": services.restart,
        "try-restart": services.restart,
        "reload": services.reload,
        "enable": services.enable,
    }
    if verb not in deeds:
        return Result(1, err=f"the simulator does not play systemctl {verb}\n")
    for unit in units:
        result = deeds[verb](unit)
        if result.code:
            return result
        if verb == "enable" and "--now" in argv:
            services.start(unit)
    return Result()


def _docker(host: Host, argv: list[str], given: str) -> Result:
    kind, argv = (argv[0], argv[1:]) if argv[:1] in (["container"], ["image"]) else ("", argv)
    valued = {"--name", "--restart", "-p", "-v", "-e", "--log-opt", "--format", "-f", "--gpus", "--network"}
    # rm's -f takes no value, unlike inspect's.
    verb, *words = _operands(argv, with_value=valued - ({"-f"} if argv[:1] == ["rm"] else set())) or [""]
    if not host.services.active("docker.service"):
        return Result(1, err="Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?\n")
    deeds: dict[str, Callable[[Host, list[str], list[str]], Result]] = {
        "pull": _docker_pull,
        "inspect": _image_inspect if kind == "image" else _container_inspect,
        "run": _docker_run,
        "start": _docker_start,
        "rm": _docker_rm,
    }
    if verb in deeds and words:
        return deeds[verb](host, words, argv)
    if verb in ("logs", "ps", "info", "version"):
        return Result(out="a container of the simulator\n")
    return Result(1, err=f"the simulator does not play docker {verb}\n")


def _docker_pull(host: Host, words: list[str], argv: list[str]) -> Result:
    denied = f"Error response from daemon: manifest for {words[0]} not found: manifest unknown\n"
    if failed := _phase(host, "image", denied):
        return failed
    host.images.add(words[0])
    return Result(out=words[0] + "\n")


def _image_inspect(host: Host, words: list[str], argv: list[str]) -> Result:
    if words[0] in host.images:
        return Result(out="sha256:" + "5" * 64 + "\n")
    return Result(1, err=f"Error response from daemon: No such image: {words[0]}\n")


def _container_inspect(host: Host, words: list[str], argv: list[str]) -> Result:
    if words[0] in host.containers:
        return Result(out=host.containers[words[0]] + "\n")
    return Result(1, err=f"Error response from daemon: No such container: {words[0]}\n")


def _docker_run(host: Host, words: list[str], argv: list[str]) -> Result:
    if failed := _phase(host, "container", "docker: Error response from daemon: failed to create task\n", 125):
        return failed
    name = argv[argv.index("--name") + 1] if "--name" in argv else "unnamed"
    gpus = "--gpus" in argv
    if gpus and "nvidia-container-toolkit" not in host.packages:
        refused = 'could not select device driver "" with capabilities: [[gpu]]'
        return Result(125, err=f"docker: Error response from daemon: {refused}\n")
    if name in host.containers:
        return Result(125, err=f'docker: Error response from daemon: Conflict. The name "/{name}" is in use\n')
    host.images.add(words[0])
    host.containers[name] = words[0]
    publish = argv[argv.index("-p") + 1] if "-p" in argv else ""
    return host.services.run_container(name, words[0], publish, gpus and bool(host.cards) and host.plan.on_card)


def _docker_start(host: Host, words: list[str], argv: list[str]) -> Result:
    if words[0] not in host.containers:
        return Result(1, err=f"Error response from daemon: No such container: {words[0]}\n")
    failed = _phase(host, "container", f"Error: failed to start containers: {words[0]}\n")
    return failed or host.services.start_container(words[0])


def _docker_rm(host: Host, words: list[str], argv: list[str]) -> Result:
    host.containers.pop(words[0], None)
    return host.services.remove_container(words[0])


def _modprobe(host: Host, argv: list[str], given: str) -> Result:
    names = _operands(argv)
    if "-r" in argv:
        host.modules -= set(names)
        return Result()
    drivers = ("linux-modules-nvidia-", "nvidia-dkms-")
    for name in names:
        if name.startswith("nvidia") and not any(package.startswith(drivers) for package in host.packages):
            return Result(1, err=f"modprobe: FATAL: Module {name} not found in directory /lib/modules/6.8.0-1\n")
        if name.startswith("nvidia") and not (host.cards and host.plan.cards):
            return Result(1, err=f"modprobe: ERROR: could not insert '{name}': No such device\n")
    host.modules |= set(names)
    return Result()


def _nvidia_smi(host: Host, argv: list[str], given: str) -> Result:
    if not any(package.startswith("nvidia-utils-") for package in host.packages):
        return Result(127, err="nvidia-smi: not found\n")
    if "nvidia" not in host.modules:
        return Result(9, out="NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n")
    return Result(out="".join(f"GPU {n}: a card of the simulator (UUID: GPU-{n})\n" for n in range(host.cards)))


def _nvidia_ctk(host: Host, argv: list[str], given: str) -> Result:
    if "nvidia-container-toolkit" not in host.packages:
        return Result(127, err="nvidia-ctk: not found\n")
    config = Path(next(word for word in argv if word.startswith("--config=")).removeprefix("--config="))
    said = json.loads(config.read_text()) if config.exists() else {}
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps({**said, "runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}}))
    return Result()


def _operands(argv: list[str], with_value: set[str] | None = None) -> list[str]:
    """The words that are no options; those of `with_value` take the word after them along."""
    valued = with_value if with_value is not None else {"-o", "-t"}
    words: list[str] = []
    skip = False
    for word in argv:
        if skip or word.startswith("-"):
            skip = not skip and word in valued
        else:
            words.append(word)
    return words


def _nothing(host: Host, argv: list[str], given: str) -> Result:
    return Result()


_COMMANDS: dict[str, Callable[[Host, list[str], str], Result]] = {
    "apt-get": _apt_get,
    "curl": _curl,
    "docker": _docker,
    "dpkg": _dpkg,
    "dpkg-query": _dpkg_query,
    "gpg": _gpg,
    "ip": _ip,
    "ip6tables": _iptables,
    "iptables": _iptables,
    "journalctl": _nothing,
    "modprobe": _modprobe,
    "nvidia-ctk": _nvidia_ctk,
    "nvidia-smi": _nvidia_smi,
    "rm": _nothing,  # of bootcmd, which is not relocated: it would be this machine's file
    "shutdown": _nothing,  # and these two are never looked for on the machine that the simulator runs on
    "sysctl": _nothing,
    "systemctl": _systemctl,
    "systemd-run": _nothing,
}
NAMES = tuple(_COMMANDS)
