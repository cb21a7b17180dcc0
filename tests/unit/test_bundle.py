"""The bundle for function platforms: what is in it, and that the same files give the same bytes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SHIMS = {
    "function/__init__.py",
    "function_app.py",
    "handler.py",
    "host.json",
    "main.py",
    "pyproject.toml",
    "requirements.txt",
}
PARTS = ("client", "functions", "cloudinit", "deploy/faas")


def build(
    checkout: Path, *words: str | Path, umask: int = 0o022, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, checkout / "deploy/faas/bundle.py", *words]
    return subprocess.run(
        command, env={**os.environ, **(env or {})}, umask=umask, cwd="/", capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command says of the one that it has built."""
    done = build(ROOT, tmp_path_factory.mktemp("bundle") / "new/exollama.zip", "--json")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_it_says_where_it_is_how_large_and_its_digest(bundle: dict[str, Any]) -> None:
    raw = Path(bundle["path"]).read_bytes()
    assert bundle == {"path": bundle["path"], "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    assert len(raw) < 1_500_000


def test_another_checkout_built_by_somebody_else_later_gives_the_same_bytes(
    bundle: dict[str, Any], tmp_path: Path
) -> None:
    for part in PARTS:
        shutil.copytree(ROOT / part, tmp_path / "elsewhere" / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "LICENSE", tmp_path / "elsewhere/LICENSE")
    for path in sorted((tmp_path / "elsewhere").rglob("*"), reverse=True):
        path.chmod(0o700)
        os.utime(path, (2e9, 2e9))
    (tmp_path / "elsewhere/client/__pycache__").mkdir()
    for junk in (
        "client/__pycache__/junk.pyc",
        "client/.env",
        "client/cli.py~",
        "client/notes.txt",
        "functions/.faas.py.swp",
        "cloudinit/key.pem",
    ):
        (tmp_path / "elsewhere" / junk).write_bytes(b"junk")
    twin, env = tmp_path / "twin.zip", {"LC_ALL": "C", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7"}
    done = build(tmp_path / "elsewhere", twin, umask=0o077, env=env)
    assert (done.returncode, done.stdout.split()) == (
        0,
        [str(twin), str(bundle["bytes"]), "bytes", "SHA-256", bundle["sha256"]],
    )
    assert twin.read_bytes() == Path(bundle["path"]).read_bytes()


def test_it_holds_the_packages_the_templates_urllib3_and_what_platforms_look_for(bundle: dict[str, Any]) -> None:
    with zipfile.ZipFile(bundle["path"]) as archive:
        assert archive.testzip() is None
        entries = archive.infolist()
        packed = {entry.filename: archive.read(entry) for entry in entries}
    ours = {name: content for name, content in packed.items() if not name.startswith("urllib3/")}
    expected = {shim: (ROOT / "deploy/faas" / shim).read_bytes() for shim in SHIMS} | {"LICENSE": license_text()}
    for folder, to in (("client", "client"), ("functions", "functions"), ("cloudinit", "functions/cloudinit")):
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        expected |= {f"{to}/{path.relative_to(ROOT / folder).as_posix()}": path.read_bytes() for path in files}
    assert ours == expected
    assert {"urllib3/__init__.py", "urllib3/connectionpool.py", "urllib3/LICENSE.txt"} <= packed.keys() - ours.keys()
    assert not [name for name in packed if "__pycache__" in name or name.endswith((".pyc", ".so"))]
    assert [entry.filename for entry in entries] == sorted(packed)
    assert {(entry.date_time, entry.external_attr >> 16) for entry in entries} == {((1980, 1, 1, 0, 0, 0), 0o100644)}


def license_text() -> bytes:
    return (ROOT / "LICENSE").read_bytes()


def test_the_time_of_its_files_is_the_given_one(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "timed.zip", env={"SOURCE_DATE_EPOCH": "1764115200"})
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "timed.zip") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(2025, 11, 26, 0, 0, 0)}


@pytest.mark.parametrize(
    ("words", "env", "code", "said"),
    [
        pytest.param(["x.zip"], {"SOURCE_DATE_EPOCH": "today"}, 2, "SOURCE_DATE_EPOCH is 'today'", id="a bad time"),
        pytest.param(["/dev/null/x.zip"], {}, 1, "/dev/null/x.zip cannot be written", id="a place that is none"),
        pytest.param(["--jso"], {}, 2, "unrecognized arguments: --jso", id="an abbreviation"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(words: list[str], env: dict[str, str], code: int, said: str) -> None:
    done = build(ROOT, *words, env=env)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_its_help_has_an_example() -> None:
    assert "nox -s bundle -- exollama.zip" in build(ROOT, "--help").stdout


def test_azure_reads_its_host_file_as_version_2() -> None:
    assert json.loads((ROOT / "deploy/faas/host.json").read_text()) == {"version": "2.0"}
