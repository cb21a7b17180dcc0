"""What bootstrap.py does on a machine with graphics cards, with stubs for the commands that it calls."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.booting import DOCKER_KEY, GOOD_KEYS, PHASES, PREFIXES, Machine
from tests.unit.machine import ROOT

NVIDIA_KEY = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
WITH_GPU = [*PHASES[:3], "gpu", *PHASES[3:]]


class GpuMachine(Machine):
    """A machine whose stubs know a card, on an Ubuntu of one's choice."""

    def __init__(self, root: Path, driver: str = "580-server") -> None:
        super().__init__(root)
        policy = self.place("/etc/exollama/policy.json")
        policy.write_text(json.dumps({**json.loads(policy.read_text()), "gpu": driver}))
        text = (ROOT / "cloudinit/gpu.py").read_text()
        for prefix in PREFIXES:
            text = text.replace(f'"{prefix}', f'"{root}{prefix}')
        self.source = text.replace("platform.release()", '"6.8.0-99-generic"')
        self.release("ubuntu", "24.04")
        keys = f"case \"$*\" in *nvidia*) printf '%s' '{GOOD_KEYS.replace(DOCKER_KEY, NVIDIA_KEY)}' ;;"
        self.stub("gpg", f"case \"$*\" in *show-keys*) {keys} *) printf '%s' '{GOOD_KEYS}' ;; esac ;; esac")
        self.stub("modprobe", "exit 0")
        self.stub("nvidia-smi", 'echo "GPU 0: NVIDIA A30 (UUID: GPU-1)"')
        config = self.place("/etc/docker/daemon.json")
        config.parent.mkdir()
        self.stub(
            "nvidia-ctk", f'echo \'{{"runtimes": {{"nvidia": {{}}}}, "debug": true}}\' > {config.parent}/daemon.new'
        )
        self.ollama.answers["/api/ps"] = (200, {"models": [{"name": "tiny:1b", "size_vram": 5}]})

    def release(self, name: str, version: str) -> None:
        """The operating system, as os-release has it."""
        found = {"ID": name, "VERSION_ID": version, "PRETTY_NAME": f"{name} {version}"}
        text = self.source.replace("platform.freedesktop_os_release()", repr(found))
        assert text != self.source
        (self.root / "gpu.py").write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[GpuMachine]:
    found = GpuMachine(tmp_path)
    yield found
    found.close()


def wanted(machine: Machine) -> list[list[str]]:
    """What each apt-get install was asked for, as far as it is about cards."""
    calls = [call.split()[5:] for call in machine.calls("apt-get install")]
    return [words for words in calls if any("nvidia" in word for word in words)]


@pytest.mark.parametrize("version", ["22.04", "24.04", "26.04"])
@pytest.mark.parametrize("kind", ["", "-open"])
def test_the_packages_are_those_of_the_family_for_the_running_kernel(tmp_path: Path, version: str, kind: str) -> None:
    machine = GpuMachine(tmp_path, f"580-server{kind}")
    machine.release("ubuntu", version)
    try:
        assert machine.boot() == 0
        assert [phase for phase, _ in machine.report()["done"]] == WITH_GPU
        assert wanted(machine) == [
            [
                f"linux-modules-nvidia-580-server{kind}-6.8.0-99-generic",
                f"nvidia-headless-no-dkms-580-server{kind}",
                "nvidia-utils-580-server",
            ],
            ["nvidia-container-toolkit"],
        ]
        source = machine.place("/etc/apt/sources.list.d/exollama-nvidia.list").read_text()
        assert source.endswith("] https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH) /\n")
        said = json.loads(machine.place("/etc/docker/daemon.json").read_text())
        assert said == {"runtimes": {"nvidia": {}}, "debug": True, "exec-opts": ["native.cgroupdriver=cgroupfs"]}
        assert "--gpus all " in machine.calls("docker run")[0]
    finally:
        machine.close()


def test_the_image_is_pulled_beside_the_driver_and_docker_restarted_only_then(machine: GpuMachine) -> None:
    body = (machine.bin / "docker").read_text().partition("\n")[2].partition("\n")[2]
    names = ("image", "cut", "driver", "alone", "pulls")
    image, cut, driver, alone, pulls = (machine.state / name for name in names)
    wait = f"n=0; until [ -e {driver} ]; do sleep 0.05; n=$((n+1)); [ $n -lt 200 ] || {{ touch {alone}; break; }}; done"
    machine.stub("docker", f'case "$1" in pull) touch {pulls}; {wait}; sleep 0.2 ;; esac\n{body}')
    # However slowly the pull gets going beside it.
    machine.stub("modprobe", f"n=0; until [ -e {pulls} ] || [ $n = 200 ]; do sleep 0.05; n=$((n+1)); done")
    machine.stub("nvidia-smi", f'touch {driver}; echo "GPU 0: NVIDIA A30 (UUID: GPU-1)"')
    nginx = f"*start*nginx*) touch {machine.place('/run/exollama')}/nginx.pid ;;"
    machine.stub("systemctl", f'case "$*" in {nginx} "stop docker"*) [ -e {image} ] || touch {cut} ;; esac')
    assert machine.boot() == 0
    assert not alone.exists(), "the pull did not end before the driver was there"
    assert not cut.exists(), "a restart of Docker would have cut its pull"
    heads = [" ".join(call.split()[:3]) for call in machine.calls()]
    stop, start = (
        heads.index("systemctl stop docker.service"),
        len(heads) - heads[::-1].index("systemctl start docker.service"),
    )
    assert (
        heads.index("docker pull -q") < heads.index("nvidia-smi -L") < stop < start <= heads.index("docker run -d") + 1
    )


# Its caller, and nobody else: one whose caller was killed just before is somebody else's child.
KILL = "{ grep -q bootstrap.py /proc/$PPID/cmdline && kill -9 $PPID; }"


def test_killed_at_any_command_it_gets_there_once_it_is_run_again(machine: GpuMachine) -> None:
    run, limit = machine.state / "run", machine.state / "limit"
    for stub in machine.bin.iterdir():
        if not stub.is_symlink() and stub.name != "dpkg-query":
            # A mark each, appended: some run beside each other, and none may lose another's count.
            count = f"printf x >> {run}; read n < {run}; read most < {limit}; [ ${{#n}} -le $most ] || {KILL}"
            lines = stub.read_text().splitlines(keepends=True)
            stub.write_text("".join([*lines[:2], f"{count}\n", *lines[2:]]))
    ends = []
    for commands in range(0, 60, 2):  # so many are run whole, and one is all but done when its caller dies
        run.write_text("")
        limit.write_text(f"{commands}\n")
        ends.append(machine.boot())
        if ends[-1] == 0:
            break
    assert ends[-1] == 0
    assert set(ends[:-1]) == {-9}, "no boot met what it could not go on from"
    assert len(ends) > 5
    limit.write_text("999\n")
    assert machine.boot() == 0
    assert machine.calls("apt-get", "docker pull", "docker run", "systemctl stop") == []


def test_a_second_boot_looks_for_the_card_and_installs_and_restarts_nothing(machine: GpuMachine) -> None:
    assert machine.boot() == 0
    assert machine.boot() == 0
    assert machine.calls("apt-get", "gpg", "nvidia-ctk", "systemctl restart") == []
    assert machine.calls("nvidia-smi") == ["nvidia-smi -L"]


@pytest.mark.parametrize(("name", "version"), [("debian", "13"), ("ubuntu", "20.04"), ("ubuntu", "25.10")])
def test_a_system_without_a_known_driver_is_told_what_to_set(machine: GpuMachine, name: str, version: str) -> None:
    machine.release(name, version)
    assert machine.boot() == 1
    error = machine.report()["error"]
    assert error["phase"] == "gpu"
    assert f"no GPU driver is known for {name} {version}: set EXOSCALE_TEMPLATE" in error["message"]
    assert wanted(machine) == []


@pytest.mark.parametrize(
    ("command", "when", "said"),
    [
        (
            "apt-get",
            "*install*linux-modules-nvidia*",
            "E: Couldn't find any package by regex 'linux-modules-nvidia-580-server-6.8.0-99-generic'",
        ),
        ("nvidia-smi", "*", "Failed to initialize NVML: Driver/library version mismatch"),
        ("modprobe", "*nvidia_uvm", "modprobe: FATAL: Module nvidia not found"),
    ],
    ids=["none", "of another version", "for another kernel"],
)
def test_a_ready_made_module_that_cannot_be_used_is_replaced_by_one_that_is_built(
    machine: GpuMachine, command: str, when: str, said: str
) -> None:
    machine.fail(command, when, said, times=1)
    assert machine.boot() == 0
    ready, built, _toolkit = wanted(machine)
    assert ready[0] == "linux-modules-nvidia-580-server-6.8.0-99-generic"
    assert built[:2] == ["linux-headers-6.8.0-99-generic", "nvidia-dkms-580-server"]
    assert machine.calls("apt-get purge") == ["apt-get purge -y -q linux-modules-nvidia-580-server-6.8.0-99-generic"]
    assert said in machine.log()
    assert machine.boot() == 0
    assert machine.calls("apt-get") == [], "a later boot knows that it was built"


@pytest.mark.parametrize(
    ("command", "script", "said"),
    [
        (
            "modprobe",
            'case "$*" in *uvm) echo "could not insert nvidia: No such device"; exit 1 ;; esac',
            "No such device",
        ),
        ("nvidia-smi", 'echo "No devices were found"', "No devices were found"),
        ("nvidia-smi", 'echo "No devices were found"; exit 6', "No devices were found"),
    ],
)
def test_a_card_that_does_not_appear_fails_the_boot_and_nothing_is_built_for_it(
    machine: GpuMachine, command: str, script: str, said: str
) -> None:
    machine.stub(command, script)
    assert machine.boot() == 1
    error = machine.report()["error"]
    assert error["phase"] == "gpu"
    assert error["message"].startswith("no graphics card appears: ")
    assert said in error["message"]
    assert len(wanted(machine)) == 1, "another driver would find no more"


@pytest.mark.parametrize("known", [DOCKER_KEY, "0" * 40])
def test_another_key_than_nvidias_is_not_trusted(machine: GpuMachine, known: str) -> None:
    keys = GOOD_KEYS.replace(DOCKER_KEY, known)
    machine.stub("gpg", f"case \"$*\" in *show-keys*) printf '%s' '{keys}' ;; esac")
    assert machine.boot() == 1
    assert machine.report()["error"]["phase"] == "gpu"
    assert "NVIDIA's signing key is not the known one" in machine.report()["error"]["message"]
    assert not machine.place("/etc/apt/keyrings/exollama-nvidia.gpg").exists()


@pytest.mark.parametrize(
    "loaded",
    [[], [{"name": "tiny:1b", "size_vram": 0}], [{"name": "tiny:1b"}], None],
    ids=["none", "0", "unsaid", "null"],
)
def test_a_model_on_the_processor_fails_the_warm_up(machine: GpuMachine, loaded: object) -> None:
    machine.ollama.answers["/api/ps"] = (200, {"models": loaded})
    assert machine.boot() == 1
    assert machine.report()["error"]["phase"] == "warmup"
    assert "tiny:1b runs on the processor" in machine.report()["error"]["message"]
    assert "Set EXOSCALE_OLLAMA_IMAGE" in machine.report()["error"]["message"]
    assert machine.calls("docker logs") == ["docker logs --tail 50 ollama"]
