"""deploy/'s GitHub action and GitLab template, their steps run as they stand, and programs that then ask localhost."""

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import ollama
import pytest

from tests.machine import is_running
from tests.simulator import Seen, Simulator
from tests.system.runners import GITHUB, GITLAB, Failed, GitHubJob, GitLabJob, dotenv, load, plant_exollama
from tests.system.verbs import changes, let_pass

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
    says = "env | grep -E '^(EXOSCALE_.*|LISTEN|PYTHON)=' >&2"
    where.write_text(f'#!/bin/sh\necho "exollama was asked to $1" >&2\n{says}\n[ "$1" = serve ] || exit 0\n{serve}\n')
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
    cloud: Simulator, job: GitHubJob, port: int
) -> None:
    place = f"127.0.0.1:{port}"
    job.use(GITHUB, given(listen=place), "ollama")
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

    # Used again in the same job, it shares instance and forwarder; for another instance the port is taken.
    job.use(GITHUB, given(listen=place), "again")
    assert job.steps["again"]["outputs"] == outputs
    [forwarder] = job.left()
    with pytest.raises(Failed, match=r"is taken(.*\n)*::error title=exollama::.* set the input listen"):
        job.use(GITHUB, given(listen=place, name="another"), "another")
    assert only(cloud).id == seen.id
    assert list(job.left()) == [forwarder], "it goes on for the first one"

    assert (job.env["EXOSCALE_OLLAMA_KEY"], job.env["EXOLLAMA_INSTANCE_ID"]) == (seen.key, seen.id)
    secrets = (seen.key, cloud.secret)
    shown = [line for line in job.raw.splitlines() if any(secret in line for secret in secrets)]
    assert shown == [f"::add-mask::{seen.key}"] * 2
    arguments = Path(f"/proc/{forwarder}/cmdline").read_text()
    assert "serve" in arguments
    ignored = re.findall(r"^SigIgn:\s*([0-9a-f]+)$", Path(f"/proc/{forwarder}/status").read_text(), re.MULTILINE)
    assert int(ignored[0], 16) & 1 << signal.SIGHUP - 1, "it ends with the job, not with the step's terminal"
    logs = [path.read_text() for path in job.temp.glob("exollama-forwarder.*/*")]
    assert len(logs) == 2 * len(["address", "log", "pid"])
    assert not [place for place in [*outputs.values(), arguments, *logs] if any(secret in place for secret in secrets)]

    # Killed wherever it is, the job leaves an instance that the scheduled reaper removes once it is idle.
    job.end()
    let_pass(cloud, 40 * 60)
    [reap] = [step for step in load(GITHUB / "reap.yml")["jobs"]["reap"]["steps"] if step.get("name") == "Reap"]
    job.run(reap)
    assert f"destroyed ch-gva-2 ci {seen.id}" in job.log
    assert cloud.instances() == []


def said_by_stub(job: GitHubJob) -> dict[str, str]:
    """What the stub was given."""
    return dict(line.split("=", 1) for line in job.raw.splitlines() if re.match(r"(EXOSCALE_\w+|LISTEN|PYTHON)=", line))


def test_an_input_that_is_not_given_leaves_the_jobs_own_variable_as_it_is(stubbed: GitHubJob) -> None:
    stubbed.env |= {"EXOSCALE_INSTANCE_NAME": "of-the-job", "EXOSCALE_IDLE_TIMEOUT": "1200"}
    with pytest.raises(Failed):
        stubbed.use(GITHUB, given(name="", **{"idle-timeout": "900"}), "ollama")
    assert said_by_stub(stubbed) == {
        **NOBODY,
        "EXOSCALE_ZONE": "",
        "EXOSCALE_INSTANCE_NAME": "of-the-job",
        "EXOSCALE_OLLAMA_MODEL": "",
        "EXOSCALE_IDLE_TIMEOUT": "900",
        "LISTEN": ANYWHERE,
        "PYTHON": sys.executable,
    }


def test_every_input_reaches_its_variable(stubbed: GitHubJob) -> None:
    inputs = {"zone": "de-fra-1", "name": "mine", "model": "llama3.2", "idle-timeout": "77", "listen": "127.0.0.1:9"}
    inputs |= {"exoscale-api-key": "EXOgiven", "exoscale-api-secret": "given-secret", "python": sys.executable}
    assert load(GITHUB / "action.yml")["inputs"].keys() == inputs.keys()
    with pytest.raises(Failed):
        stubbed.use(GITHUB, inputs, "ollama")
    assert said_by_stub(stubbed) == {
        "EXOSCALE_API_KEY": "EXOgiven",
        "EXOSCALE_API_SECRET": "given-secret",
        "EXOSCALE_ZONE": "de-fra-1",
        "EXOSCALE_INSTANCE_NAME": "mine",
        "EXOSCALE_OLLAMA_MODEL": "llama3.2",
        "EXOSCALE_IDLE_TIMEOUT": "77",
        "LISTEN": "127.0.0.1:9",
        "PYTHON": sys.executable,
    }


@pytest.mark.parametrize("listen", ["nonsense", "0.0.0.0:0", "taken"])
def test_where_the_forwarder_cannot_listen_nothing_is_created(empty: Simulator, job: GitHubJob, listen: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = f"127.0.0.1:{other.getsockname()[1]}" if listen == "taken" else listen
        with pytest.raises(Failed, match="nothing was provisioned"):
            job.use(GITHUB, given(listen=place), "ollama")
    assert changes(empty) == []
    assert list(job.left()) == []


class Step(threading.Thread):
    """The action's steps, run beside the test; `code` is what they ended with."""

    def __init__(self, job: GitHubJob) -> None:
        super().__init__()
        self._job = job
        self.start()

    def run(self) -> None:
        with pytest.raises(Failed):
            self._job.use(GITHUB, given(), "ollama")

    def cancel(self) -> int:
        """Send a runner's signal, which reaches the first process of the step only, and return the step's code."""
        [first] = [pid for pid in self._job.left() if _parent(pid) == os.getpid()]
        os.kill(first, signal.SIGTERM)
        self.join(20)
        return self._job.code


def test_a_cancelled_step_ends_provision_and_hands_nothing_on(empty: Simulator, job: GitHubJob) -> None:
    empty.boot(never="model")
    step = Step(job)
    empty.wait(empty.instances, "an instance is made")
    assert step.cancel() == 143
    assert list(job.left()) == [], "neither provision nor the forwarder is left"
    assert job.env == dict(empty.env.items() - job.secrets.items())
    assert "::add-mask::" not in job.raw


SLOW_TO_END = f"""#!/bin/sh
[ "$1" = provision ] || exec '{sys.executable}' -c '
import http.server, json
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(json.dumps(dict(url="http://127.0.0.1:" + str(server.server_port))), flush=True)
server.serve_forever()
'
trap 'exec >/dev/null 2>&1; sleep 0.3; touch "$RUNNER_TEMP/ended"; exit 143' TERM
touch "$RUNNER_TEMP/begun"
while :; do sleep 0.05; done
"""


def test_a_cancelled_step_waits_until_provision_has_ended(stubbed: GitHubJob) -> None:
    (stubbed.temp / "exollama/bin/exollama").write_text(SLOW_TO_END)
    step = Step(stubbed)
    deadline = time.monotonic() + 20
    while not (stubbed.temp / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert step.cancel() == 143
    assert (stubbed.temp / "ended").exists()


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # it has ended meanwhile


def test_a_forwarder_that_cannot_listen_fails_the_step_with_the_end_of_its_log(stubbed: GitHubJob) -> None:
    with pytest.raises(Failed, match="is taken\n::error title=exollama::The forwarder does not answer"):
        stubbed.use(GITHUB, given(), "ollama")


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (None, r"::error title=exollama::no-python-here is missing or older than 3\.11"),
        ("3.10.99", r"::error title=exollama::.*3\.10\.99 is missing or older than 3\.11"),
        ("3.11.0", r"^asked for -m venv"),
    ],
)
def test_without_a_python_that_will_do_the_install_says_what_to_do(
    tmp_path: Path, version: str | None, said: str
) -> None:
    job = github(tmp_path, NOBODY)
    with pytest.raises(Failed, match=said):
        job.use(GITHUB, given(python=python_of(tmp_path, version) if version else "no-python-here"), "ollama")
    assert not (job.temp / "exollama").exists()


def python_of(folder: Path, version: str) -> str:
    """A Python that answers as one of this version would, and makes no virtual environment."""
    numbers = tuple(map(int, version.split(".")))
    code = f"import sys; sys.version_info = {numbers}; exec(sys.argv[1])"
    path = folder / f"python{version}"
    otherwise = '[ "$1" = -c ] || { echo "asked for $*"; exit 1; }'
    path.write_text(f"#!/bin/sh\n{otherwise}\nexec '{sys.executable}' -c '{code}' \"$2\"\n")
    path.chmod(0o755)
    return str(path)


def test_to_start_what_is_not_installed_says_what_comes_first(tmp_path: Path) -> None:
    with pytest.raises(
        Failed, match=r"::error title=exollama::exollama is not installed in .*'start.sh install' first"
    ):
        github(tmp_path, NOBODY).run({"run": f"bash '{GITHUB}/start.sh' start"})


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
            "EXOLLAMA_PACKAGE": "git+https://gitlab.example/group/exollama@main",
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
    cloud.wait(lambda: not is_running(pid), "the forwarder has ended")

    let_pass(cloud, 40 * 60)
    reaper = project.job("exollama-reap")
    reaper.run()
    assert f"destroyed ch-gva-2 ci-7 {seen.id}" in reaper.log
    assert cloud.instances() == []


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_forwarder_that_cannot_listen_fails_the_gitlab_job_with_its_log(tmp_path: Path, shell: str) -> None:
    project = Project(tmp_path, NOBODY)
    plant_stub(project.exollama, REFUSES)
    job = project.job(".exollama", shell)
    with pytest.raises(Failed, match="is taken"):
        job.run(["echo the script was run"])
    assert "the script was run" not in job.log
    assert "exollama was asked to provision" not in job.log


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_without_a_package_to_install_the_job_says_which_variable_is_missing(tmp_path: Path, shell: str) -> None:
    project = Project(tmp_path, NOBODY)
    plant_stub(project.exollama, REFUSES)
    with pytest.raises(Failed, match="EXOLLAMA_PACKAGE: is what pip shall install"):
        project.job("exollama-reap", shell, EXOLLAMA_PACKAGE="").run()
