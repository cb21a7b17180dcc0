"""Checks of what was built: run by `nox -s wheel`.

EXOLLAMA_DIST is a folder with wheel, sdist, and four virtual environments: installed/ has the wheel, editable/
the checkout, knative/ the unzipped bundle as a project, and exollama/ what the GitHub action's install step made.

Not collected by an ordinary run, whence the file's name. Everything is run away from the checkout.
"""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HOSTILE = "raise SystemExit('the client.py of the current directory was imported')\n"
# Says what the rendered user-data is; the same bytes must come out however the project is installed.
RENDER = """
import hashlib, sys
from client import page, prices
from functions import userdata
from client.settings import Secret
assert prices.hourly_cost("standard.medium", 50)  # reads client/prices.json
assert page.html({}) and page.headers()  # reads client/page.css and client/page.js
text = userdata.render(
    name="exollama", model="granite3.1-dense:8b", key=Secret("0123456789abcdef" * 4), request="ab" * 16,
    image="ollama/ollama:1.2.3", idle_s=1800, boot_s=1800, retention_s=86400, deadline=None, action="destroy",
    version="0.1.0",
)
print(hashlib.sha256(text.encode()).hexdigest(), userdata.__file__)
"""


@pytest.fixture(scope="module")
def dist() -> Path:
    return Path(os.environ["EXOLLAMA_DIST"])


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (found,) = dist.glob("*.tar.gz")
    return found


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def run(*argv: str | Path, cwd: Path, **env: str) -> str:
    """Run a command to its good end, away from the checkout, and return what it printed."""
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(argv, cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def installed(dist: Path) -> Path:
    return dist / "installed/bin"


@pytest.fixture(scope="module")
def rendered_here() -> str:
    return run(sys.executable, "-c", RENDER, cwd=ROOT).split()[0]


def in_checkout(folder: str) -> dict[str, bytes]:
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}


def test_the_wheel_holds_both_packages_and_the_templates_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    templates = {f"functions/{name}": content for name, content in in_checkout("cloudinit").items()}
    assert packed == in_checkout("client") | in_checkout("functions") | templates
    assert {"client/py.typed", "functions/py.typed", "functions/cloudinit/agent.py"} <= set(packed)


def test_the_sdist_holds_what_the_project_is_made_of(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("client", "functions", "cloudinit", "deploy", "docs", "tests"):
        assert set(in_checkout(folder)) <= names
    assert {
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "noxfile.py",
        "pyproject.toml",
        ".ci/run",
    } <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".git/", ".nox/", ".venv/"))]


def test_the_metadata_says_what_pyproject_does(metadata: Message) -> None:
    assert metadata["Name"] == "exollama"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "GPL-3.0-or-later"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata.get_all("Requires-Dist") == ["urllib3<3,>=2.6.3"]
    assert metadata.get_payload()


def test_the_version_stands_in_the_changelog_and_in_the_package(metadata: Message, installed: Path) -> None:
    assert f"## [{metadata['Version']}] - " in (ROOT / "CHANGELOG.md").read_text()
    assert run(installed / "exollama", "--version", cwd=installed).split() == [
        "exollama",
        metadata["Version"],
    ]


def test_the_license_text_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/LICENSE"))
        assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("hostile", [False, True], ids=["empty directory", "with a client.py of its own"])
@pytest.mark.parametrize("script", sorted(PROJECT["scripts"]))
def test_the_scripts_help_wherever_they_are_called(installed: Path, tmp_path: Path, script: str, hostile: bool) -> None:
    if hostile:
        (tmp_path / "client.py").write_text(HOSTILE)
    text = run(installed / script, "--help", cwd=tmp_path)
    assert f"usage: {script} " in text
    for verb in ("provision", "status", "generate"):
        assert f"usage: {script} {verb}" in run(installed / script, verb, "--help", cwd=tmp_path)


@pytest.mark.parametrize("module", ["client", "functions.provision", "functions.reap_idle", "functions.status"])
def test_the_modules_help_in_an_empty_directory(installed: Path, tmp_path: Path, module: str) -> None:
    assert "usage: " in run(installed / "python", "-m", module, "--help", cwd=tmp_path)


def test_the_installed_wheel_renders_what_the_checkout_does(
    installed: Path, tmp_path: Path, rendered_here: str
) -> None:
    digest, file = run(installed / "python", "-c", RENDER, cwd=tmp_path).split()
    assert digest == rendered_here
    assert not Path(file).is_relative_to(ROOT)


def test_a_zip_on_the_path_renders_what_the_checkout_does(wheel: Path, tmp_path: Path, rendered_here: str) -> None:
    command = [sys.executable, "-S", "-c", RENDER]  # -S: nothing but the zip and the standard library
    digest, file = run(*command, cwd=tmp_path, PYTHONPATH=str(wheel)).split()
    assert digest == rendered_here
    assert file.startswith(f"{wheel}/")


def test_an_editable_install_renders_what_the_checkout_does(dist: Path, tmp_path: Path, rendered_here: str) -> None:
    commands = dist / "editable/bin"
    digest, file = run(commands / "python", "-c", RENDER, cwd=tmp_path).split()
    assert digest == rendered_here
    assert Path(file).is_relative_to(ROOT)
    assert "usage: exollama " in run(commands / "exollama", "--help", cwd=tmp_path)


def test_the_bundle_installs_as_the_project_that_knative_functions_want(
    dist: Path, tmp_path: Path, rendered_here: str
) -> None:
    python = dist / "knative/bin/python"
    for module in ("function", "urllib3"):
        assert run(python, "-c", f"import {module}; print({module}.__file__)", cwd=tmp_path).startswith(
            f"{dist}/knative/"
        )
    assert run(python, "-c", RENDER, cwd=tmp_path).split()[0] == rendered_here


def test_the_github_actions_install_step_gives_later_steps_the_command_and_leaves_them_their_python(
    dist: Path, tmp_path: Path, metadata: Message
) -> None:
    [added] = (dist / "github-path").read_text().splitlines()
    assert os.listdir(added) == ["exollama"]
    assert run(f"{added}/exollama", "--version", cwd=tmp_path).split() == ["exollama", metadata["Version"]]
    assert "usage: exollama provision" in run(f"{added}/exollama", "provision", "--help", cwd=tmp_path)
