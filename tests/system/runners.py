"""Runners of GitHub Actions and GitLab CI, as far as deploy/ needs them: its steps are run as the files have them.

What is played: the runner's files, variables, contexts, masks and the end of a job. What is not there: checkout and
containers; and the installed exollama is a launcher of this checkout under the simulator's clock, put where the steps
would install it. Neighbours: test_deploy_ci.py has the assertions.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.simulator import Simulator
from tests.system.verbs import PATIENCE_S, ROOT

GITHUB, GITLAB = ROOT / "deploy/github", ROOT / "deploy/gitlab/exollama.gitlab-ci.yml"
_INHERITED = ("PATH", "EXOLLAMA_TEST_RUN")
TIMEOUT_S = 60


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def plant_exollama(simulator: Simulator, where: Path) -> None:
    """What an install leaves, which is then found to be there: a launcher of this checkout."""
    where.parent.mkdir(parents=True)
    timeshift = f"-m tests.simulator.timeshift '{simulator.offset_file}' -m client"
    settings = f"PYTHONPATH='{ROOT}' EXOLLAMA_SIMULATED_PATIENCE_S={PATIENCE_S}"
    where.write_text(f"#!/bin/sh\nexec env {settings} '{sys.executable}' {timeshift} \"$@\"\n")
    where.chmod(0o755)


class Failed(Exception):
    """A step ended with another code than 0."""


class GitHubJob:
    """One job on a runner of GitHub's. `log` is what it would show, `raw` what it was sent, `masks` what it hides.

    `code` is the last step's.
    """

    def __init__(self, folder: Path, env: Mapping[str, str], secrets: Mapping[str, str]) -> None:
        self.temp, self._workspace, self._home = (folder / name for name in ("temp", "workspace", "home"))
        for made in (self.temp, self._workspace, self._home):
            made.mkdir(parents=True)
        self.env = dict(env)
        self.path: list[str] = []
        self.steps: dict[str, dict[str, dict[str, str]]] = {}
        self.secrets = dict(secrets)
        self.masks = list(secrets.values())
        self.raw = self.log = ""
        self.code = 0
        self._mark = f"RUNNER_TRACKING_ID=github_{uuid.uuid4()}"

    def use(self, action: Path, given: Mapping[str, str], id_: str) -> None:
        """Run a composite action. `given`: its inputs, expressions included."""
        file = load(action / "action.yml")
        assert set(given) <= set(file["inputs"]), "an input that the action does not have"
        asked = {name: one.get("default", "") for name, one in file["inputs"].items()} | dict(given)
        inputs = {name: self._value(value, self._outside) for name, value in asked.items()}
        assert all(inputs[name] for name, one in file["inputs"].items() if one.get("required"))
        inner: dict[str, dict[str, dict[str, str]]] = {}
        for step in file["runs"]["steps"]:
            outputs = self.run(step, {"inputs": inputs, "steps": inner}, GITHUB_ACTION_PATH=str(action))
            inner[step.get("id", "")] = {"outputs": outputs}
        values = {name: self._value(one["value"], {"steps": inner}) for name, one in file["outputs"].items()}
        self.steps[id_] = {"outputs": values}

    def run(self, step: Mapping[str, Any], contexts: Mapping[str, Any] | None = None, **more: str) -> dict[str, str]:
        """Run one `run:` step and return its outputs. Raises Failed."""
        assert "${{" not in step["run"], "a shell would run whatever stands in such a value"
        number = uuid.uuid4().hex
        files = {name: self.temp / f"{name}_{number}" for name in ("GITHUB_ENV", "GITHUB_OUTPUT", "GITHUB_PATH")}
        for file in files.values():
            file.touch()
        script = self.temp / f"{number}.sh"
        script.write_text(step["run"])
        own = {name: self._value(value, contexts or self._outside) for name, value in step.get("env", {}).items()}
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        env = inherited | {"HOME": str(self._home), "RUNNER_TEMP": str(self.temp), "CI": "true"} | self.env | own | more
        env |= {name: str(path) for name, path in files.items()} | dict([self._mark.split("=")])
        env["PATH"] = os.pathsep.join([*self.path, env["PATH"]])
        done = subprocess.run(  # which ends once nothing holds its streams any more, as a step does
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self._workspace,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        self._show(done.stdout if done.stdout.endswith("\n") else f"{done.stdout}\n")
        self.path += files["GITHUB_PATH"].read_text().splitlines()
        self.env |= _pairs(files["GITHUB_ENV"].read_text())
        self.code = done.returncode
        if done.returncode:
            raise Failed(self.log)
        return _pairs(files["GITHUB_OUTPUT"].read_text())

    def end(self) -> None:
        """End what the job left, by the mark that all of it inherited, and wait for that."""
        while left := list(self.left()):
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    @property
    def _outside(self) -> Mapping[str, Any]:
        """The contexts of the workflow, which an action does not have."""
        return {"steps": self.steps, "secrets": self.secrets}

    def left(self) -> Iterator[int]:
        """The processes of this job."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)
            except OSError:
                continue  # ended meanwhile, or somebody else's

    def _show(self, text: str) -> None:
        self.raw += text
        for line in text.splitlines():
            if line.startswith("::add-mask::"):
                self.masks.append(line.removeprefix("::add-mask::"))
                continue
            for mask in self.masks:
                line = line.replace(mask, "***")  # noqa: PLW2901
            self.log += f"{line}\n"

    def _value(self, text: Any, contexts: Mapping[str, Any]) -> str:
        """A string with its expressions resolved: `a.b.c || d.e` is all that deploy/ uses."""
        known = {"env": self.env, **contexts}

        def operand(words: str) -> str:
            context, *path = words.split(".")
            value: Any = known[context]
            for word in path:
                value = value.get(word, "")
            assert isinstance(value, str), words
            return value

        def resolve(match: re.Match[str]) -> str:
            return next(filter(None, (operand(words.strip()) for words in match[1].split("||"))), "")

        return re.sub(r"\$\{\{(.*?)\}\}", resolve, str(text))


class GitLabJob:
    """One job of a GitLab runner: its before_script and script in one shell, then its after_script in another."""

    def __init__(
        self, project: Path, job: Mapping[str, Any], variables: Mapping[str, str], shell: str = "bash"
    ) -> None:
        self._project, self._job, self._shell = project, job, shell
        home = project.parent / f"home-{uuid.uuid4().hex}"  # each job's own, as in containers
        home.mkdir(parents=True)
        given = {name: str(value) for name, value in job.get("variables", {}).items()}
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        place = {"HOME": str(home), "CI_PROJECT_DIR": str(project), "CI": "true"}
        self._env = inherited | place | given | dict(variables)
        self.log = ""

    def run(self, script: list[str] | None = None) -> None:
        """Run it, with a script of its own where it is given one. Raises Failed, once the after_script was run."""
        failed = self._lines([*self._job.get("before_script", []), *(script or self._job["script"])])
        self._lines(self._job.get("after_script", []))
        if failed:
            raise Failed(self.log)

    def _lines(self, lines: list[str]) -> int:
        assert all(isinstance(line, str) for line in lines)
        done = subprocess.run(
            [self._shell],
            input="set -e\n" + "\n".join(lines) + "\n",
            cwd=self._project,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        self.log += done.stdout
        return done.returncode


def _pairs(text: str) -> dict[str, str]:
    """`NAME=value` lines, none of which is anything else."""
    assert all(re.match(r"[A-Za-z_][A-Za-z0-9_]*=", line) for line in text.splitlines()), text
    return dict(line.split("=", 1) for line in text.splitlines())


def dotenv(path: Path) -> dict[str, str]:
    """What GitLab makes of a dotenv report."""
    return _pairs(path.read_text())
