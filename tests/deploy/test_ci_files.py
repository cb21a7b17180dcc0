"""What the files of deploy/github and deploy/gitlab say, where no step shows it: test_deploy_ci.py runs their steps."""

import re

import pytest

from tests.system.runners import GITHUB, GITLAB, load
from tests.system.verbs import ROOT

JOBS = load(GITLAB)


def test_the_workflows_hand_secrets_over_as_variables_and_ask_for_no_rights_but_to_read() -> None:
    for name in ("example-workflow.yml", "reap.yml"):
        workflow = load(GITHUB / name)
        assert workflow["permissions"] == {"contents": "read"}
        steps = [step for one in workflow["jobs"].values() for step in one["steps"]]
        assert all(one["timeout-minutes"] for one in workflow["jobs"].values())
        assert not [step for step in steps if "${{" in step.get("run", "")]


ON = True  # what YAML makes of the word
TRIGGERS = {
    # pull_request_target would hand the secrets to what a stranger proposes; pull_request from a fork has none.
    "example-workflow.yml": {"push": None, "workflow_dispatch": None},
    # Every ten minutes, as cron's, and off the full hour, when GitHub is late.
    "reap.yml": {"schedule": [{"cron": "3-59/10 * * * *"}], "workflow_dispatch": None},
}


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_workflow_runs_when_it_should_and_never_for_a_stranger(name: str) -> None:
    assert load(GITHUB / name)[ON] == TRIGGERS[name]


def test_every_place_names_the_same_revision_of_this_repository() -> None:
    places = [ROOT / "README.md", ROOT / "docs/production.md", GITLAB, *GITHUB.glob("*.yml")]
    pattern = r"(?:/deploy/github@|/exollama@|ref: )([\w.]+)"
    found = [(path.name, ref) for path in places for ref in re.findall(pattern, path.read_text())]
    assert {ref for _, ref in found} == {"main"}
    assert {name for name, _ in found} == {
        "README.md",
        "production.md",
        GITLAB.name,
        "example-workflow.yml",
        "reap.yml",
    }


def test_the_image_has_git_which_pip_needs_for_what_the_example_installs() -> None:
    assert "EXOLLAMA_PACKAGE: git+https://" in GITLAB.read_text()
    # Docker's "slim" variants of it have no git.
    assert {job["image"] for job in JOBS.values()} == {"python:3.13"}


def test_the_reaper_is_for_a_schedule_that_asks_for_it_only() -> None:
    [rule] = JOBS["exollama-reap"]["rules"]
    assert rule == {"if": '$CI_PIPELINE_SOURCE == "schedule" && $EXOLLAMA_REAP == "1"'}
    assert [name for name in JOBS if not name.startswith(".")] == ["exollama-reap"]
