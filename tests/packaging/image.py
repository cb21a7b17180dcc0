"""What deploy/docker/Dockerfile builds, without a container. Run by `nox -s wheel`: it asks PyPI, as the build does.

Its build stage's command runs word for word over what .dockerignore lets through, with /src and /opt/exollama
elsewhere; then what the last stage starts is started, from that folder alone. What is not run: the base image (its
Python is this one), the copy from stage to stage, the user.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()


def sent(context: Path) -> None:
    """Copy what .dockerignore lets through: everything is refused, and these names are not."""
    refused, *allowed, caches = (ROOT / "deploy/docker/Dockerfile.dockerignore").read_text().split()
    assert (refused, caches) == ("*", "**/__pycache__")
    context.mkdir()
    for pattern in allowed:
        source = ROOT / re.fullmatch(r"!([A-Za-z.]+)", pattern)[1]  # type: ignore[index]
        if source.is_dir():
            shutil.copytree(source, context / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, context)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the image has as /opt/exollama."""
    root = tmp_path_factory.mktemp("image")
    sent(root / "src")
    subprocess.run([sys.executable, "-m", "venv", str(root / "base")], check=True, timeout=120)  # has pip, as the base
    commands = re.findall(r"^RUN (.*)$", DOCKERFILE, re.MULTILINE)
    for command in commands:
        there = command.replace("/opt/exollama", str(root / "opt/exollama")).replace("/src", str(root / "src"))
        env = os.environ | {"PATH": f"{root}/base/bin:{os.environ['PATH']}"}
        subprocess.run(["sh", "-c", there], cwd=root, env=env, check=True, timeout=300)
    assert commands
    shutil.rmtree(root / "src")  # the last stage does not have it
    return root / "opt/exollama"


def started(image: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The entry point, with the last stage's environment and a home that is not there."""
    [entrypoint] = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)
    [assigned] = re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)
    env = dict(word.split("=", 1) for word in assigned.split())
    env["PATH"] = env["PATH"].replace("/opt/exollama", str(image)).replace("$PATH", "/usr/bin:/bin")
    command = [shutil.which(word, path=env["PATH"]) or word for word in json.loads(entrypoint)]
    return subprocess.run([*command, *words], env=env, cwd="/", capture_output=True, text=True, timeout=60, check=False)


def test_the_image_starts_with_its_help(image: Path) -> None:
    [default] = re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)
    done = started(image, *json.loads(default))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: exollama VERB [options]\n")


@pytest.mark.parametrize("verb", ["reap", "serve"])
def test_a_verb_in_the_image_gets_as_far_as_its_settings(image: Path, verb: str) -> None:
    done = started(image, verb)
    assert done.returncode == 2, done.stderr
    assert "EXOSCALE_API_KEY is not set" in done.stderr
    assert "urllib3" not in done.stderr


def test_the_image_has_urllib3_and_the_templates_and_nothing_else(image: Path) -> None:
    [site] = image.glob("lib/python3.*/site-packages")
    packages = {path.name for path in site.iterdir() if path.is_dir() and not path.name.endswith(".dist-info")}
    assert packages - {"__pycache__"} == {"client", "functions", "urllib3"}
    assert (site / "functions/cloudinit/nginx.conf").is_file()


def test_nothing_was_written_beside_the_code(image: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in image.rglob("*")}
    started(image, "reap")
    assert {path: path.stat().st_mtime_ns for path in image.rglob("*")} == before
