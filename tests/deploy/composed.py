"""deploy/docker/compose.yaml as compose reads it, and its services as processes with what compose would give them.

No container runs: the root is not read-only, the user is the test's, and /tmp is a folder of the test's own. What
`exollama` is in the image, a stand-in for this checkout is here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import DEPLOY, optional
from tests.system.verbs import Running

DOCKER = DEPLOY / "docker"
PARSERS = ("podman-compose", "docker-compose")
"""The first is PyPI's, and always there; the second is Debian's, of the version that the original was written for."""


def resolved(parser: str, folder: Path) -> dict[str, Any]:
    """compose.yaml beside the .env in `folder`, as a parser reads it with nothing else in its environment."""
    shutil.copy(DOCKER / "compose.yaml", folder)
    if parser == "podman-compose":
        podman = folder / "podman"  # asked for its version only
        podman.write_text("#!/bin/sh\necho podman version 5.0.0\n")
        podman.chmod(0o755)
        command = [sys.executable, "-m", "podman_compose", "--podman-path", str(podman)]
    else:
        command = [optional(parser)]
    done = subprocess.run(
        [*command, "-f", "compose.yaml", "config"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # The one prints a dollar as it was written, doubled, and the other as it is meant.
    services: dict[str, Any] = yaml.safe_load(done.stdout.replace("$$", "$"))["services"]
    return services


def image_env() -> dict[str, str]:
    """What the image's last stage sets; PATH is left to the caller."""
    [line] = re.findall(r"^ENV (.*)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    pairs = (word.split("=", 1) for word in line.split())
    return {name: value for name, value in pairs if name != "PATH"}


@dataclass(frozen=True, slots=True)
class Service:
    """One service. `folder` takes the place of /tmp, `path` that of the image's PATH."""

    said: Mapping[str, Any]
    folder: Path
    path: str

    @property
    def env(self) -> dict[str, str]:
        return {name: self._here(value) for name, value in (image_env() | self.said["environment"]).items()} | {
            "PATH": self.path
        }

    @contextmanager
    def running(self, **replaced: str) -> Iterator[Running]:
        """Its process; `replaced` is written otherwise in its command, `sleep_600="sleep 0.1"`."""
        words = [*self.said.get("entrypoint", ["exollama"]), *self.said["command"]]
        for old, new in replaced.items():
            assert any(old.replace("_", " ") in word for word in words), words
            words = [word.replace(old.replace("_", " "), new) for word in words]
        process = subprocess.Popen(
            [self._here(word) for word in words],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        run = Running(process)
        try:
            yield run
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
            run.end()

    def healthy(self, **replaced: str) -> bool:
        """What its health check says."""
        kind, *words = self.said["healthcheck"]["test"]
        for old, new in replaced.items():
            words = [word.replace(old, new) for word in words]
        words = [self._here(word) for word in (["sh", "-c", *words] if kind == "CMD-SHELL" else words)]
        return subprocess.run(words, env=self.env, capture_output=True, timeout=20, check=False).returncode == 0

    def _here(self, word: str) -> str:
        return re.sub(r"/tmp\b", str(self.folder), word)
