"""The rendered user-data: strict templates, checked values, secrets where they belong, cloud-init's opinion."""

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from client import settings
from client.errors import ExollamaError
from client.model import read_header
from client.settings import Secret
from functions import userdata
from tests.live import guest
from tests.simulator.userdata import LOADER

ROOT = Path(__file__).parents[2]
PROGRAMS = ("agent.py", "bootstrap.py", "commands.py", "door.py", "rules.py")
KEY = "Planted-Key_0123456789abcdefABCDEF"
VALUES: dict[str, Any] = {
    "name": "exollama",
    "model": "granite3.1-dense:8b",
    "key": Secret(KEY),
    "request": "0123456789abcdef" * 2,
    "image": settings.DEFAULT_IMAGE,
    "idle_s": 1800,
    "boot_s": 1800,
    "retention_s": 86400,
    "deadline": 1_795_600_000,
    "action": "destroy",
    "version": "0.1.0",
}
LONGEST: dict[str, Any] = {
    **VALUES,
    "name": "n" * 63,
    "model": "/".join(["m" * 50] * 5) + ":" + "t" * 60,
    "key": Secret("K" * 128),
    "image": "/".join(["r" * 60] * 4) + ":" + "t" * 128 + "@sha256:" + "0" * 64,
    "idle_s": 86400 * 365,
    "deadline": 1 << 33,
    "version": "9" * 64,
}


def text(**changes: Any) -> str:
    return gzip.decompress(base64.b64decode(userdata.render(**{**VALUES, **changes}), validate=True)).decode("ascii")


def files(**changes: Any) -> dict[str, dict[str, Any]]:
    return {entry["path"]: entry for entry in yaml.load(text(**changes), LOADER)["write_files"]}


def test_the_client_reads_request_and_key_back() -> None:
    header = read_header(userdata.render(**VALUES))
    assert header
    assert (header.request, header.key) == (VALUES["request"], VALUES["key"])


def test_the_same_values_make_the_same_bytes_and_other_values_others() -> None:
    assert userdata.render(**VALUES) == userdata.render(**VALUES)
    assert userdata.render(**VALUES) != userdata.render(**{**VALUES, "request": "f" * 32})
    raw = base64.b64decode(userdata.render(**VALUES))
    assert raw[4:8] == bytes(4), "gzip's time would differ from run to run"


@pytest.mark.parametrize("driver", [None, "580-server-open"], ids=["no GPU", "GPU"])
def test_it_fits_with_room_to_spare_even_with_the_longest_values(driver: str | None) -> None:
    assert len(userdata.render(**LONGEST, gpu_driver=driver)) < userdata.LIMIT * 0.8


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userdata, "LIMIT", 1000)
    with pytest.raises(ExollamaError, match=r"has \d{5} base64 characters; Exoscale takes 1000"):
        userdata.render(**VALUES)


def test_the_files_arrive_whole_with_their_modes() -> None:
    found = files()
    for name in PROGRAMS:
        assert found[f"/opt/exollama/{name}"]["content"] == userdata.bare((ROOT / "cloudinit" / name).read_text())
    private = {path for path, entry in found.items() if entry["permissions"] == "0600"}
    assert private == {"/etc/exollama/key", "/etc/exollama/nginx.conf"}
    assert all(isinstance(entry["permissions"], str) for entry in found.values()), "YAML would read 0600 as a number"
    assert not any(path.startswith(("/run", "/var")) for path in found), "bootstrap makes those"


@pytest.mark.parametrize("driver", ["", "580-server x", "server", "580-server-open\n"])
def test_a_gpu_driver_that_is_no_packages_name_is_refused(driver: str) -> None:
    with pytest.raises(ExollamaError, match="cannot carry this GPU driver"):
        text(gpu_driver=driver)


def test_a_machine_with_a_graphics_card_gets_what_its_boot_needs_and_no_other_does() -> None:
    assert "/opt/exollama/gpu.py" not in files()
    found = files(gpu_driver="580-server-open")
    assert found["/opt/exollama/gpu.py"] == {
        "path": "/opt/exollama/gpu.py",
        "permissions": "0644",
        "content": userdata.bare((ROOT / "cloudinit/gpu.py").read_text()),
    }
    assert json.loads(found["/etc/exollama/policy.json"]["content"])["gpu"] == "580-server-open"
    assert found.keys() - files().keys() == {"/opt/exollama/gpu.py"}


def test_the_policy_says_what_was_asked_for_and_holds_no_secret() -> None:
    policy = json.loads(files(keep_failed=True, action="stop", deadline=None)["/etc/exollama/policy.json"]["content"])
    assert policy == {
        "v": 1, "request": VALUES["request"], "name": "exollama", "model": VALUES["model"], "image": VALUES["image"],
        "idle_s": 1800, "boot_s": 1800, "retention_s": 86400, "deadline": None, "grace_s": 3600, "action": "stop",
        "keep_failed": True, "gpu": None, "upstream": "127.0.0.1:11434", "version": "0.1.0",
    }  # fmt: skip


def test_the_key_is_in_the_header_its_file_and_nginxs_maps_and_nowhere_else() -> None:
    whole = text()
    found = files()
    holders = {path: entry["content"].count(KEY) for path, entry in found.items() if KEY in entry["content"]}
    assert holders == {"/etc/exollama/key": 1, "/etc/exollama/nginx.conf": 2}
    assert whole.count(KEY) == 4
    assert KEY in whole.splitlines()[1]
    commands = yaml.safe_load(whole)
    assert KEY not in json.dumps([commands["runcmd"], commands["bootcmd"]])


BAD: list[tuple[str, Any]] = [
    ("name", ""),
    ("name", "a b"),
    ("name", "-x"),
    ("name", "x\n"),
    ("model", ""),
    ("model", 'x"y'),
    ("model", "x\ny"),
    ("model", "$(id)"),
    ("model", "x y"),
    ("key", Secret("short")),
    ("key", Secret("x" * 129)),
    ("key", Secret("x" * 40 + "\n")),
    ("key", Secret('"' + "x" * 40)),
    ("key", Secret("$" * 40)),
    ("key", Secret("@@" + "x" * 40)),
    ("request", "0" * 31),
    ("request", "A" * 32),
    ("request", "0" * 32 + "\n"),
    ("image", "ollama/ollama latest"),
    ("image", "-v/etc:/etc"),
    ("image", "UPPER/x"),
    ("idle_s", 0),
    ("idle_s", -1),
    ("idle_s", 1.5),
    ("idle_s", True),
    ("idle_s", "1800"),
    ("idle_s", 10**12),
    ("boot_s", 0),
    ("retention_s", None),
    ("deadline", 0),
    ("deadline", -5),
    ("deadline", 10**12),
    ("deadline", 1.5),
    ("action", "reboot"),
    ("action", ""),
    ("version", ""),
    ("version", "1 2"),
    ("version", 'x"'),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_that_could_be_misread_is_refused_by_name_and_a_key_is_never_shown(name: str, value: Any) -> None:
    with pytest.raises(ExollamaError, match=name) as caught:
        userdata.render(**{**VALUES, name: value})
    if isinstance(value, Secret):
        assert value.reveal() not in str(caught.value)


@given(
    name=st.from_regex(settings.NAME_RE, fullmatch=True),
    model=st.from_regex(settings.MODEL_RE, fullmatch=True),
    image=st.from_regex(settings.IMAGE_RE, fullmatch=True),
    key=st.from_regex(settings.KEY_RE, fullmatch=True),
)
def test_whatever_is_accepted_arrives_as_it_is(name: str, model: str, image: str, key: str) -> None:
    found = files(name=name, model=model, image=image, key=Secret(key))
    policy = json.loads(found["/etc/exollama/policy.json"]["content"])
    assert (policy["name"], policy["model"], policy["image"]) == (name, model, image)
    assert found["/etc/exollama/key"]["content"] == key + "\n"
    assert f'"~^{key}$" 1;' in found["/etc/exollama/nginx.conf"]["content"]


# -- the templates


@pytest.mark.parametrize(
    ("template", "values", "said"),
    [
        ("a @@b@@ c", {}, "t.txt.*b"),
        ("a c", {"b": "1"}, "t.txt.*b"),
        ("@@a@@ @@b@@", {"a": "1"}, "t.txt.*b"),
        ("@@A@@", {}, "t.txt.*no placeholder"),
        ("@@a@@ @@", {"a": "1"}, "t.txt.*no placeholder"),
        ("@@a b@@", {}, "t.txt.*no placeholder"),
    ],
)
def test_a_placeholder_without_a_value_and_a_value_without_one_are_errors(
    template: str, values: dict[str, str], said: str
) -> None:
    with pytest.raises(ExollamaError, match=said):
        userdata.fill("t.txt", template, values)


def test_a_value_is_put_in_as_it_is_and_not_read_again() -> None:
    assert userdata.fill("t", "<@@a@@|@@a@@|@@b@@>", {"a": r"\1 @@b@@", "b": "2"}) == r"<\1 @@b@@|\1 @@b@@|2>"


@pytest.mark.parametrize("name", ["nginx.conf", "user-data.yaml", *PROGRAMS])
def test_each_template_is_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path / "cloudinit"
    shutil.copytree(ROOT / "cloudinit", folder)
    monkeypatch.setattr(userdata, "templates", lambda: folder)
    assert userdata.render(**VALUES)
    original = (folder / name).read_text()
    (folder / name).write_text(original + "# @@surprise@@\n")
    with pytest.raises(ExollamaError, match="surprise"):
        userdata.render(**VALUES)
    (folder / name).write_text(original + "# caf\u00e9\n", encoding="utf-8")
    with pytest.raises(ExollamaError, match="ASCII"):
        userdata.render(**VALUES)
    (folder / name).write_text(original.replace("@@key@@", "x"))
    if "@@key@@" in original:
        with pytest.raises(ExollamaError, match="key"):
            userdata.render(**VALUES)


@pytest.mark.parametrize("packed", ["folder", "zip"])
def test_an_installed_package_brings_its_own_templates(tmp_path: Path, packed: str) -> None:
    site = tmp_path / "site"
    for package in ("client", "functions"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "cloudinit", site / "functions/cloudinit", ignore=shutil.ignore_patterns("__pycache__"))
    path = site
    if packed == "zip":
        path = tmp_path / "site.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in site.rglob("*"):
                archive.write(file, file.relative_to(site))
        shutil.rmtree(site)
    program = f"""
import sys
sys.path.insert(0, {str(path)!r})
from client.settings import Secret
from functions.userdata import render
print(render(**{ {k: v for k, v in VALUES.items() if k != "key"}!r}, key=Secret({KEY!r})))
"""
    argv = [sys.executable, "-I", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == userdata.render(**VALUES), done.stderr


# -- what the instance will make of it


def test_nothing_updates_or_restarts_anything_behind_our_back() -> None:
    config = yaml.safe_load(text())
    assert config["package_update"] is config["package_upgrade"] is False
    mask, manuals = config["bootcmd"]
    assert mask[:2] == ["systemctl", "mask"]
    assert {"apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service"} <= set(mask)
    found = files()
    assert manuals == ["rm", "-f", "/var/lib/man-db/auto-update"]
    apt = found["/etc/apt/apt.conf.d/99exollama"]["content"].splitlines()
    assert {
        'APT::Periodic::Enable "0";',
        'APT::Install-Recommends "0";',
        'DPkg::Options:: "--force-unsafe-io";',
    } <= set(apt)
    assert found["/etc/needrestart/conf.d/99-exollama.conf"]["content"] == "$nrconf{restart} = 'l';\n"


def test_nginx_starts_with_our_configuration_or_not_at_all() -> None:
    unit = files()["/etc/systemd/system/nginx.service.d/exollama.conf"]["content"]
    starts = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert starts == ["", "/usr/sbin/nginx -c /etc/exollama/nginx.conf -g 'daemon off;'"]
    assert "ExecStartPre=\n" in unit, "the package's own check reads the package's configuration"
    assert "ConditionPathExists=/var/lib/exollama/tls/cert.pem" in unit


def test_containers_do_not_reach_the_metadata() -> None:
    unit = files()["/etc/systemd/system/docker.service.d/exollama.conf"]["content"]
    assert "ExecStartPre=/bin/sh -c 'iptables -w -t raw -C PREROUTING -d 169.254.169.254 -j DROP || " in unit
    assert "iptables -w -t raw -A PREROUTING -d 169.254.169.254 -j DROP'" in unit


def test_the_fence_outlives_the_units_that_share_its_folder() -> None:
    for path, entry in files().items():
        if "RuntimeDirectory=" in entry["content"] and path.startswith("/etc/systemd"):
            assert "RuntimeDirectoryPreserve=yes" in entry["content"], path


def test_a_step_that_memory_runs_out_for_fails_in_its_phase_and_takes_neither_boot_nor_door_along() -> None:
    assert "OOMPolicy=continue" in files()["/etc/systemd/system/exollama-boot.service"]["content"].split()


def test_the_units_hold_directives_that_systemd_knows() -> None:
    known = set(KNOWN_DIRECTIVES.split())
    units = {path: entry["content"] for path, entry in files().items() if path.startswith("/etc/systemd/system/")}
    assert len(units) == 4
    for path, content in units.items():
        lines = content.replace("\\\n", "").splitlines()
        directives = {line.partition("=")[0] for line in lines if "=" in line and not line.startswith("#")}
        assert directives <= known, path
        assert {line for line in lines if line.startswith("[")} <= {"[Unit]", "[Service]", "[Install]"}


KNOWN_DIRECTIVES = """
Description Wants After ConditionPathExists StartLimitIntervalSec Type PIDFile ExecStart ExecStartPre ExecReload
ExecStop Restart RestartSec RuntimeDirectory RuntimeDirectoryPreserve LogsDirectory StateDirectory Environment
StandardOutput OOMPolicy OOMScoreAdjust TasksMax
NoNewPrivileges CapabilityBoundingSet ProtectSystem ProtectHome PrivateTmp PrivateDevices ProtectKernelTunables
ProtectKernelModules ProtectControlGroups RestrictAddressFamilies RestrictNamespaces RestrictSUIDSGID
MemoryDenyWriteExecute WantedBy
"""


# -- cloud-init's own opinion


@pytest.fixture(scope="module")
def cloud_init(request: pytest.FixtureRequest) -> Path:
    """Where the package `cloudinit` lies: EXOLLAMA_CLOUD_INIT, the system's, or Debian's, unpacked."""
    for candidate in (os.environ.get("EXOLLAMA_CLOUD_INIT"), "/usr/lib/python3/dist-packages"):
        if candidate and (Path(candidate) / "cloudinit/config/schema.py").exists():
            return Path(candidate)
    folder = request.config.cache.mkdir("cloud-init")
    found = folder / "usr/lib/python3/dist-packages"
    if not (found / "cloudinit").exists():
        problem = download(folder)
        if problem:
            pytest.fail(
                "cloud-init's schema is needed: set EXOLLAMA_CLOUD_INIT to a folder that holds its package `cloudinit` "
                f"(a clone of github.com/canonical/cloud-init), or make `apt-get download cloud-init` work. {problem}"
            )
    return found


def download(folder: Path) -> str:
    """Fetch Debian's package without installing it, by apt's lists or else by lists of our own; "" or the problem."""
    said = "there is no apt-get"
    own = [f"-oDir::State::Lists={folder}/lists", f"-oDir::Cache={folder}/cache", "-oAPT::Sandbox::User=root", "-qq"]
    for setup in ([], own):
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            break
        if setup:
            (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
            (folder / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", *setup, "update"], capture_output=True, timeout=90, check=False)
        fetch = ["apt-get", *setup, "download", "cloud-init"]
        done = subprocess.run(fetch, cwd=folder, capture_output=True, text=True, timeout=90, check=False)
        said = done.stderr.strip()
        for package in folder.glob("cloud-init_*.deb"):
            subprocess.run(["dpkg", "-x", package.name, "."], cwd=folder, check=True, timeout=60)
            return ""
    return said


def schema_says(cloud_init: Path, path: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-W", "ignore", "-m", "cloudinit.cmd.main", "schema", "-c", str(path)]
    env = {**os.environ, "PYTHONPATH": str(cloud_init)}
    return subprocess.run(program, env=env, capture_output=True, text=True, timeout=60, check=False)


def known_keys(cloud_init: Path) -> set[str]:
    schema = json.loads((cloud_init / "cloudinit/config/schemas/schema-cloud-config-v1.json").read_text())
    modules = [schema, *(module for name, module in schema["$defs"].items() if name.startswith("cc_"))]
    return {key for module in modules for key in module.get("properties", {})}


@pytest.mark.parametrize("values", [VALUES, LONGEST, {**VALUES, "deadline": None, "gpu_driver": "580-server-open"}])
def test_cloud_init_finds_the_user_data_valid_and_knows_every_key(
    cloud_init: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    path = tmp_path / "user-data.yaml"
    path.write_text(text(**values))
    done = schema_says(cloud_init, path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Valid" in done.stdout
    assert set(yaml.safe_load(path.read_text())) <= known_keys(cloud_init), "older versions pass unknown keys"


def test_cloud_init_finds_that_of_the_live_run_valid(cloud_init: Path, tmp_path: Path) -> None:
    path = tmp_path / "user-data.yaml"
    path.write_bytes(gzip.decompress(base64.b64decode(guest.user_data("5" * 32, Secret(KEY), 60))))
    done = schema_says(cloud_init, path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Valid" in done.stdout


def test_cloud_inits_opinion_is_worth_something(cloud_init: Path, tmp_path: Path) -> None:
    path = tmp_path / "user-data.yaml"
    path.write_text(text().replace('permissions: "0600"', "permissions: 600"))
    assert schema_says(cloud_init, path).returncode != 0
    assert {"write_files", "runcmd", "bootcmd", "package_update"} <= known_keys(cloud_init)
    assert "write_file" not in known_keys(cloud_init)
