"""deploy/kubernetes: what kubectl makes of it offline, and its containers' commands run with what the Secret has.

`nox -s lint` holds the manifests to Kubernetes' own schemas. No cluster runs here.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import DEPLOY, filled_in, optional, stand_in
from tests.simulator import Simulator
from tests.system.verbs import plant

KUBERNETES = DEPLOY / "kubernetes"
JOBS = ["reap", "check"]
TEMPLATE = "Linux Ubuntu 24.04 LTS 64-bit"


def pod(cronjob: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("name", JOBS)
def test_a_pod_has_no_privilege_no_token_and_nothing_to_write_to(name: str) -> None:
    cronjob = yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text())
    [user] = re.findall(r"^USER (\d+):\d+$", (DEPLOY / "docker/Dockerfile").read_text(), re.MULTILINE)
    [container] = pod(cronjob)["containers"]
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(cronjob)["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "runAsGroup": int(user),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod(cronjob)["automountServiceAccountToken"] is False
    assert "volumes" not in pod(cronjob)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_ends_before_the_next_pass_and_is_never_repeated_in_between(name: str) -> None:
    spec = yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text())["spec"]
    job = spec["jobTemplate"]["spec"]
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")
    assert job["activeDeadlineSeconds"] < 600
    assert spec["startingDeadlineSeconds"] < 600


SCHEDULES = {
    # Every ten minutes, as README.md promises.
    "reap": "*/10 * * * *",
    # Hourly, and between two passes.
    "check": "7 * * * *",
}


@pytest.mark.parametrize("name", JOBS)
def test_a_pass_comes_when_it_should_and_beside_one_that_hangs(name: str) -> None:
    spec = yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text())["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == (SCHEDULES[name], "Allow")


def test_the_namespace_admits_restricted_pods_only() -> None:
    made = yaml.safe_load((KUBERNETES / "namespace.yaml").read_text())
    assert made["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}


def test_kubectl_gives_both_jobs_the_secret_made_of_the_env_file_and_their_commands_work_with_it(
    cloud: Simulator, tmp_path: Path
) -> None:
    folder = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, folder)
    filled_in(folder / "exollama.env", cloud.env | {"EXOSCALE_TEMPLATE": TEMPLATE})
    built = subprocess.run(
        [optional("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert built.returncode == 0, built.stderr
    made = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(built.stdout)}
    [(secret, data)] = [(name, one["data"]) for (kind, name), one in made.items() if kind == "Secret"]
    env = {name: base64.b64decode(value).decode() for name, value in data.items()}
    assert {name: env[name] for name in cloud.env} == cloud.env
    assert env["EXOSCALE_TEMPLATE"] == TEMPLATE

    seen = plant(cloud, state="stopped")
    program = stand_in(tmp_path / "exollama", cloud)
    said = []
    for name in ("check", "reap", "check"):
        [container] = pod(made["CronJob", f"exollama-{name}"])["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": secret}}]
        assert "env" not in container
        done = subprocess.run(
            [str(program), *container["args"]], env=env, capture_output=True, text=True, timeout=60, check=False
        )
        said.append((name, done.returncode, f"{seen.id} (exollama) should be gone" in done.stderr))
    assert said == [("check", 1, True), ("reap", 0, False), ("check", 0, False)]
    assert cloud.instances() == []
