"""Pipelines that hand on what they provisioned: to a shell, to later jobs, and to the reaper where they are killed.

Neighbours: test_pipelines.py has many jobs at once that share one instance, test_interrupts.py and
test_kills_everywhere.py the kills of every verb as such, test_deploy_ci.py the files of deploy/.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from client.model import read_header
from client.settings import Secret, key_mark
from functions import provision
from functions.zones import side_by_side
from tests.simulator import Seen, Simulator
from tests.simulator.driver import boot_report
from tests.system.verbs import ROOT, Clerk, User, changes, let_pass

MODEL = "granite3.1-dense:8b"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The variables of one step of a GitHub job."""
    paths = {name: tmp_path / name.lower() for name in ("GITHUB_ENV", "GITHUB_OUTPUT")}
    for path in paths.values():
        path.touch()
    return {name: str(path) for name, path in paths.items()}


def written(files: dict[str, str], name: str) -> str:
    return Path(files[name]).read_text()


# -- a pipeline that is killed


def killed(user: User, moment: Callable[[], bool], files: dict[str, str]) -> str:
    """Provision for GitHub, kill that as soon as something is so, and return all that it printed."""
    with user.running("provision", "--format", "github", **files) as run:
        run.until(lambda: moment() and (not user.simulator.instances() or "is being created" in run.err), "the moment")
        run.process.send_signal(signal.SIGKILL)
        done = run.end()
    assert done.code == -signal.SIGKILL, done.said
    return done.out + done.err


def collected(cloud: Simulator, here: Clerk) -> str:
    """The id of the one instance that is there; owned, it goes with the next reaper once it is idle."""
    [seen] = cloud.instances()
    let_pass(cloud, 40 * 60)
    assert f"destroyed ch-gva-2 exollama {seen.id}: " in here.run("reap").ended(0).out
    assert cloud.instances() == []
    return seen.id


def test_a_pipeline_that_is_killed_before_the_create_call_leaves_nothing(
    empty: Simulator, user: User, files: dict[str, str]
) -> None:
    empty.fault("list-templates", "hang", seconds=8)
    killed(user, lambda: any(call.operation_id == "list-templates" for call in empty.calls), files)
    assert empty.instances() == []
    assert "create-instance" not in changes(empty)
    assert written(files, "GITHUB_ENV") == written(files, "GITHUB_OUTPUT") == ""


def test_a_pipeline_that_is_killed_in_the_boot_leaves_an_instance_that_the_reaper_collects(
    empty: Simulator, user: User, here: Clerk, files: dict[str, str]
) -> None:
    empty.boot(never="model")
    told = killed(user, lambda: any(boot_report(seen).get("phase") == "model" for seen in empty.instances()), files)
    [key] = [seen.key for seen in empty.instances()]
    assert "::add-mask::" not in told
    assert key not in told
    assert written(files, "GITHUB_ENV") == written(files, "GITHUB_OUTPUT") == ""
    assert collected(empty, here) in told, "the id is told before the waiting starts"


def fill(pipe: int) -> None:
    """Write until nothing more goes in."""
    while True:
        os.write(pipe, b"\n" * 4096)


def test_a_pipeline_that_is_killed_between_its_two_files_leaves_an_instance_to_later_jobs_and_then_to_the_reaper(
    empty: Simulator, user: User, here: Clerk, files: dict[str, str], tmp_path: Path
) -> None:
    os.unlink(files["GITHUB_OUTPUT"])
    os.mkfifo(files["GITHUB_OUTPUT"])  # full, so that whoever writes into it waits
    pipe = os.open(files["GITHUB_OUTPUT"], os.O_RDWR | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            fill(pipe)
        told = killed(user, lambda: "EXOLLAMA_URL=" in written(files, "GITHUB_ENV"), files)
    finally:
        os.close(pipe)
    [seen] = empty.instances()
    assert [line for line in told.splitlines() if seen.key in line] == [f"::add-mask::{seen.key}"]
    assert f"EXOSCALE_OLLAMA_KEY={seen.key}\n" in written(files, "GITHUB_ENV")

    empty.api.calls.clear()
    given, answer = later_job(user, tmp_path / "another machine")
    assert (given["EXOLLAMA_URL"], given["EXOLLAMA_INSTANCE_ID"]) == (seen.url, seen.id)
    assert json.loads(answer)["data"][0]["id"] == MODEL
    assert "create-instance" not in changes(empty)
    collected(empty, here)


def later_job(user: User, home: Path) -> tuple[dict[str, str], str]:
    """A shell that has the credentials and nothing else: the variables that it is given, and what curl gets with them.

    The name of its home shows whether paths are quoted.
    """
    command = " ".join(f"'{word}'" for word in user.command("client", "provision", "--format", "env"))
    script = (
        f'eval "$({command})" && env | grep -E "^EXOLLAMA_(URL|INSTANCE_ID)=" && curl -sS --fail '
        '--cacert "$EXOLLAMA_CACERT" -H "X-Ollama-Key: $EXOSCALE_OLLAMA_KEY" "$EXOLLAMA_URL/v1/models"'
    )
    env = user.environment(HOME=str(home), XDG_CACHE_HOME=None, EXOSCALE_OLLAMA_KEY=None)
    done = subprocess.run(["/bin/sh", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*.pem"))
    *lines, answer = done.stdout.splitlines()
    return dict(line.split("=", 1) for line in lines), answer


# -- one each, by name


def test_jobs_with_names_of_their_own_get_an_instance_each_and_find_it_again(records: Simulator, clerk: Clerk) -> None:
    names = [f"ci-{number}" for number in range(4)]

    def job(name: str) -> str:
        return str(provision.run(clerk.settings(EXOSCALE_INSTANCE_NAME=name), wait=False)["id"])

    first = side_by_side(job, names, at_once=4)
    assert len(set(first)) == len(records.instances()) == 4
    assert {seen.id: seen.labels["exollama-name"] for seen in records.instances()} == {
        id_: f"n{name}" for id_, name in zip(first, names, strict=True)
    }
    records.api.calls.clear()
    assert side_by_side(job, names, at_once=4) == first
    assert changes(records) == []


def key_of(seen: Seen) -> str:
    """The key in an instance's user-data, as get-instance shows it."""
    header = seen.user_data and read_header(seen.user_data)
    assert header
    return header.key.reveal()


def test_the_key_of_one_instance_is_not_given_to_the_next_one(records: Simulator, clerk: Clerk) -> None:
    own = "0123456789abcdef" * 4
    clerk.provisions(EXOSCALE_INSTANCE_NAME="ci-1", EXOSCALE_OLLAMA_KEY=own).ended(0)
    [one] = records.instances()
    assert key_of(one) == own
    handed_out = {"EXOSCALE_OLLAMA_KEY": own, "EXOLLAMA_KEY_MARK": key_mark(Secret(own))}
    clerk.provisions(EXOSCALE_INSTANCE_NAME="ci-2", **handed_out).ended(0, "unset EXOLLAMA_KEY_MARK")
    keys = {seen.labels["exollama-name"]: key_of(seen) for seen in records.instances()}
    assert keys["nci-1"] == own != keys["nci-2"]

    # Beside the second instance, the first one's key is no wish that went unheard; a key of the user's own is one.
    again = clerk.provisions(EXOSCALE_INSTANCE_NAME="ci-2", **handed_out).ended(0)
    assert "EXOSCALE_OLLAMA_KEY" not in again.said
    wish = clerk.provisions(EXOSCALE_INSTANCE_NAME="ci-2", EXOSCALE_OLLAMA_KEY=own)
    wish.ended(0, "EXOSCALE_OLLAMA_KEY (its own is handed out)")
    assert len(records.instances()) == 2
