"""deploy/'s GitHub action and GitLab template, their steps run as they stand, and programs that then ask localhost."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import ollama
import pytest

from tests.simulator import Seen, Simulator
from tests.system.runners import GITHUB, GITLAB, Failed, GitHubJob, GitLabJob, dotenv, load, plant_exollama
from tests.system.verbs import let_pass

MODEL = "granite3.1-dense:8b"
EXAMPLE = load(GITHUB / "example-workflow.yml")["jobs"]["test"]["steps"]
JOBS = load(GITLAB)
ANYWHERE = "127.0.0.1:0"
"""Tests run beside others, so that none may count on Ollama's own port."""


def only(cloud: Simulator) -> Seen:
    [seen] = cloud.instances()
    return seen


def plant_stub(where: Path, serve: str) -> None:
    """In the place of exollama something that says what it was given, and does as told when it is to serve."""
    where.parent.mkdir(parents=True)
    where.write_text(f'#!/bin/sh\n[ "$1" = serve ] || {{ env | grep ^EXOSCALE_; exit; }}\n{serve}\n')
    where.chmod(0o755)


REFUSES = "echo exollama: 127.0.0.1:11434 is taken >&2; exit 1"


# -- GitHub


def github(folder: Path, env: Mapping[str, str]) -> GitHubJob:
    """A job whose workflow sets the API's address; the secrets are the repository's."""
    names = ("EXOSCALE_API_KEY", "EXOSCALE_API_SECRET")
    others = {name: value for name, value in env.items() if name not in names}
    return GitHubJob(folder, others, {name: env[name] for name in names})


@pytest.fixture
def job(empty: Simulator, tmp_path: Path) -> Iterator[GitHubJob]:
    """A job whose install step finds exollama to be there."""
    job = github(tmp_path, empty.env)
    plant_exollama(empty, job.temp / "exollama/bin/exollama")
    yield job
    job.end()


NOBODY = {"EXOSCALE_API_KEY": "EXOnobody", "EXOSCALE_API_SECRET": "a-secret-of-nobody"}


@pytest.fixture
def stubbed(tmp_path: Path) -> Iterator[GitHubJob]:
    """The same with a stub in the place of exollama, whose forwarder cannot listen."""
    job = github(tmp_path, NOBODY)
    plant_stub(job.temp / "exollama/bin/exollama", REFUSES)
    yield job
    job.end()


def given(**more: str) -> dict[str, str]:
    """The example's inputs, and others."""
    [step] = [step for step in EXAMPLE if "/deploy/github@" in step.get("uses", "")]
    return {**step["with"], "listen": ANYWHERE, "python": sys.executable, **more}


def test_after_the_action_programs_find_ollama_and_the_key_is_nowhere_but_behind_its_mask(
    cloud: Simulator, job: GitHubJob
) -> None:
    job.use(GITHUB, given(), "ollama")
    seen, outputs = only(cloud), job.steps["ollama"]["outputs"]
    assert outputs.keys() == {"forwarder", "url", "id", "model"}
    assert (outputs["url"], outputs["id"], outputs["model"]) == (seen.url, seen.id, MODEL)
    assert seen.labels["exollama-name"] == "nci"
    with ollama.Client(host=outputs["forwarder"]) as client:
        assert client.generate(MODEL, "why?").response.endswith("why?")
    # And the example's own question, asked at the port that the forwarder has here.
    [ask] = [step for step in EXAMPLE if "run" in step]
    assert "http://localhost:11434/" in ask["run"]
    job.run(ask | {"run": ask["run"].replace("http://localhost:11434", outputs["forwarder"])})
    assert "Why is the sky blue?" in job.log

    # Used again in the same job, it shares the instance.
    job.use(GITHUB, given(), "again")
    again = job.steps["again"]["outputs"]
    assert again["id"] == only(cloud).id == seen.id
    assert again["forwarder"] != outputs["forwarder"]

    assert (job.env["EXOSCALE_OLLAMA_KEY"], job.env["EXOLLAMA_INSTANCE_ID"]) == (seen.key, seen.id)
    secrets = (seen.key, cloud.secret)
    shown = [line for line in job.raw.splitlines() if any(secret in line for secret in secrets)]
    assert shown == [f"::add-mask::{seen.key}"] * 2
    forwarders = list(job.left())
    arguments = [Path(f"/proc/{pid}/cmdline").read_text() for pid in forwarders]
    assert len(forwarders) == sum("serve" in one for one in arguments) == 2, "they end with the job only"
    logs = [path.read_text() for path in job.temp.glob("exollama-forwarder.*/*")]
    assert len(logs) == 4
    assert not [place for place in [*outputs.values(), *arguments, *logs] if any(secret in place for secret in secrets)]

    # Killed wherever it is, the job leaves an instance that the scheduled reaper removes once it is idle.
    job.end()
    let_pass(cloud, 40 * 60)
    [reap] = [step for step in load(GITHUB / "reap.yml")["jobs"]["reap"]["steps"] if step.get("name") == "Reap"]
    job.run(reap)
    assert f"destroyed ch-gva-2 ci {seen.id}" in job.log
    assert cloud.instances() == []


def test_an_input_that_is_not_given_leaves_the_jobs_own_variable_as_it_is(stubbed: GitHubJob) -> None:
    stubbed.env |= {"EXOSCALE_INSTANCE_NAME": "of-the-job", "EXOSCALE_IDLE_TIMEOUT": "1200"}
    with pytest.raises(Failed):
        stubbed.use(GITHUB, given(name="", **{"idle-timeout": "900"}), "ollama")
    assert {line for line in stubbed.raw.splitlines() if line.startswith("EXOSCALE_")} == {
        *(f"{name}={value}" for name, value in NOBODY.items()),
        "EXOSCALE_ZONE=",
        "EXOSCALE_INSTANCE_NAME=of-the-job",
        "EXOSCALE_OLLAMA_MODEL=",
        "EXOSCALE_IDLE_TIMEOUT=900",
    }


def test_a_forwarder_that_cannot_listen_fails_the_step_with_the_end_of_its_log(stubbed: GitHubJob) -> None:
    with pytest.raises(Failed, match="is taken\n::error title=exollama::The forwarder does not answer"):
        stubbed.use(GITHUB, given(), "ollama")


def test_without_a_python_that_will_do_the_install_says_what_to_do(tmp_path: Path) -> None:
    job = github(tmp_path, NOBODY)
    old = tmp_path / "python3.10"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for python in ("no-python-here", str(old)):
        with pytest.raises(Failed, match=r"::error title=exollama::.* is missing or older than 3\.11"):
            job.use(GITHUB, given(python=python), "ollama")
    assert not (job.temp / "exollama").exists()


def test_the_workflows_hand_secrets_over_as_variables_and_ask_for_no_rights_but_to_read() -> None:
    for name in ("example-workflow.yml", "reap.yml"):
        workflow = load(GITHUB / name)
        assert workflow["permissions"] == {"contents": "read"}
        steps = [step for one in workflow["jobs"].values() for step in one["steps"]]
        assert all(one["timeout-minutes"] for one in workflow["jobs"].values())
        assert not [step for step in steps if "${{" in step.get("run", "")]


# -- GitLab


class Project:
    """A checkout on a GitLab runner, with the project's variables."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder / "project"
        self.exollama = self.folder / ".exollama/bin/exollama"
        pythons = folder / "pythons"
        pythons.mkdir()
        (pythons / "python3").symlink_to(sys.executable)
        self._variables = {
            **variables,
            "PATH": f"{pythons}{os.pathsep}{os.environ['PATH']}",
            "EXOLLAMA_PACKAGE": "git+https://gitlab.example/group/exollama@v0.1.0",
            "EXOLLAMA_LISTEN": ANYWHERE,
        }

    def job(self, name: str, shell: str = "bash", **variables: str) -> GitLabJob:
        return GitLabJob(self.folder, JOBS[name], self._variables | variables, shell)


@pytest.fixture
def project(empty: Simulator, tmp_path: Path) -> Project:
    project = Project(tmp_path, empty.env)
    plant_exollama(empty, project.exollama)
    return project


PROGRAM = f"""
import json, ollama, os
url = json.load(open(os.environ["CI_PROJECT_DIR"] + "/.exollama/address"))["url"]
print("answered:", ollama.Client(host=url).generate("{MODEL}", "why?").response)
"""


def test_what_a_first_job_hands_on_leads_a_later_one_to_its_instance_which_the_scheduled_reaper_removes(
    cloud: Simulator, project: Project, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    first = project.job(".exollama-provision", EXOSCALE_INSTANCE_NAME="ci-7")
    first.run()
    seen = only(cloud)
    assert seen.labels["exollama-name"] == "nci-7"
    report = dotenv(project.folder / JOBS[".exollama-provision"]["artifacts"]["reports"]["dotenv"])
    assert report["EXOLLAMA_INSTANCE_ID"] == seen.id

    later = project.job(".exollama", "sh", **report)
    later.run([f"'{sys.executable}' '{program}'"])
    assert only(cloud).id == seen.id
    assert "answered: No model answers here" in later.log
    assert "Forwarding http://127.0.0.1:" in later.log, "the end of the forwarder's log"
    secrets = (seen.key, cloud.secret)
    assert not [place for place in (*report.values(), first.log, later.log) if any(one in place for one in secrets)]
    pid = int((project.folder / ".exollama/serve.pid").read_text())
    cloud.wait(lambda: not _runs(pid), "the forwarder has ended")

    let_pass(cloud, 40 * 60)
    reaper = project.job("exollama-reap")
    reaper.run()
    assert f"destroyed ch-gva-2 ci-7 {seen.id}" in reaper.log
    assert cloud.instances() == []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_forwarder_that_cannot_listen_fails_the_gitlab_job_with_its_log(tmp_path: Path, shell: str) -> None:
    project = Project(tmp_path, NOBODY)
    plant_stub(project.exollama, REFUSES)
    job = project.job(".exollama", shell)
    with pytest.raises(Failed, match="is taken"):
        job.run(["echo the script was run"])
    assert "the script was run" not in job.log


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_without_a_package_to_install_the_job_says_which_variable_is_missing(tmp_path: Path, shell: str) -> None:
    project = Project(tmp_path, NOBODY)
    plant_stub(project.exollama, REFUSES)
    with pytest.raises(Failed, match="EXOLLAMA_PACKAGE: is what pip shall install"):
        project.job("exollama-reap", shell, EXOLLAMA_PACKAGE="").run()


def test_the_reaper_is_for_a_schedule_that_asks_for_it_only() -> None:
    [rule] = JOBS["exollama-reap"]["rules"]
    assert rule == {"if": '$CI_PIPELINE_SOURCE == "schedule" && $EXOLLAMA_REAP == "1"'}
    assert [name for name in JOBS if not name.startswith(".")] == ["exollama-reap"]
