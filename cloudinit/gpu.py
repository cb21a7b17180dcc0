"""What a machine with graphics cards needs besides: their driver, NVIDIA's container toolkit, and proof that they work.

Imported by bootstrap.py; only GPU types are given this file. A card that does not work fails the
boot: a GPU's price for a processor's speed is what nobody wants. Standard library only, Python 3.10.
"""

import json
import os
import platform
import re
from pathlib import Path

import bootstrap
from bootstrap import ollama
from commands import ATTEMPTS, Failed, ask, install, install_from, installed, note, run

RELEASES = ("22.04", "24.04", "26.04")  # whose archives have branch 580, as packages.ubuntu.com says
TOOLKIT = "https://nvidia.github.io/libnvidia-container"
# Of cudatools@nvidia.com, 2017: the same in a dozen independent public repositories that pin it.
TOOLKIT_KEY = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
DOCKER_CONFIG = Path("/etc/docker/daemon.json")
# With systemd's driver a `systemctl daemon-reload` takes the cards from running containers
# (https://github.com/NVIDIA/nvidia-docker/issues/1730).
CGROUPS = ["native.cgroupdriver=cgroupfs"]


class NoCard(Failed):
    """The driver is there and finds nothing to drive: no other driver would."""


def install_cards(driver: str) -> None:
    """The phase "gpu". `driver` is the end of its packages' names, as in nvidia-dkms-580-server-open."""
    release = platform.freedesktop_os_release()
    if release["ID"] != "ubuntu" or release["VERSION_ID"] not in RELEASES:
        raise Failed(
            f"no GPU driver is known for {release.get('PRETTY_NAME', release['ID'])}: set EXOSCALE_TEMPLATE to one "
            f"with Ubuntu {', '.join(RELEASES)}"
        )
    start_driver(driver)
    if not installed("nvidia-container-toolkit"):
        line = f"{TOOLKIT}/stable/deb/$(ARCH) /"
        key = f"{TOOLKIT}/gpgkey"
        install_from("NVIDIA", key, TOOLKIT_KEY, line, "nvidia-container-toolkit", attempts=ATTEMPTS)


def start_driver(driver: str) -> None:
    """Ubuntu's ready-made module of this very kernel; where none is had or it does not fit, one that is built here."""
    kernel = platform.release()
    ready, built = f"linux-modules-nvidia-{driver}-{kernel}", f"nvidia-dkms-{driver}"
    programs = (f"nvidia-headless-no-dkms-{driver}", f"nvidia-utils-{driver.removesuffix('-open')}")
    if not installed(built):
        try:
            install(ready, *programs)
            load()
            return
        except NoCard:
            raise
        except Failed as problem:
            # A kernel that is not the newest may have an older module, which the newest libraries refuse.
            note(f"building the driver's module, since the ready-made one cannot be had or used: {problem}")
            ask("systemctl stop nvidia-persistenced.service")
            ask("modprobe -r nvidia_drm nvidia_modeset nvidia_uvm nvidia")
            ask("apt-get purge -y -q", ready)
    install(f"linux-headers-{kernel}", built, *programs)
    load()


def load() -> None:
    """Load the modules, without a reboot, and see that a card is there."""
    ask("modprobe -r nouveau")
    try:
        run("modprobe -a nvidia nvidia_uvm")
        found = run("nvidia-smi -L")
    except Failed as problem:
        if re.search("No (such|supported|devices)", str(problem)):  # modprobe's words, and nvidia-smi's
            raise NoCard(f"no graphics card appears: {problem}") from None
        raise
    if not re.search(r"^GPU \d", found, re.MULTILINE):
        raise NoCard(f"no graphics card appears: nvidia-smi -L says {found[:200]!r}")


def start_container(image: str, upstream: str) -> None:
    """With the cards. Docker is restarted only now, since that would have cut the pull of the image."""
    configure_docker()
    bootstrap.start_container(image, upstream, "--gpus all")


def configure_docker() -> None:
    """NVIDIA's runtime and the cgroup driver; a restart only where that is new, since it would end what runs."""
    if DOCKER_CONFIG.exists() and json.loads(DOCKER_CONFIG.read_text()).get("exec-opts") == CGROUPS:
        return
    draft = DOCKER_CONFIG.with_suffix(".new")
    draft.parent.mkdir(exist_ok=True)
    draft.write_text(DOCKER_CONFIG.read_text() if DOCKER_CONFIG.exists() else "{}")
    run(f"nvidia-ctk runtime configure --runtime=docker --config={draft}")
    draft.write_text(json.dumps({**json.loads(draft.read_text()), "exec-opts": CGROUPS}, indent=4))
    # Cut off anywhere in between, it is all done again, or Docker is started with it: never left running without.
    run("systemctl stop docker.service", timeout_s=120)
    os.replace(draft, DOCKER_CONFIG)
    run("systemctl start docker.service", timeout_s=120)


def warm_up(model: str, upstream: str) -> None:
    """The first token, and that it came from a card."""
    bootstrap.warm_up(model, upstream)
    with ollama(upstream, "/api/ps") as answer:
        loaded = json.loads(answer.read()).get("models") or []
    if not any(one.get("size_vram") for one in loaded):
        ask("docker logs --tail 50 ollama")  # for boot.log
        raise Failed(
            f"{model} runs on the processor: by /api/ps Ollama uses no memory of a graphics card. Set "
            "EXOSCALE_OLLAMA_IMAGE to a release that knows this card, or EXOSCALE_INSTANCE_TYPE to another family"
        )
