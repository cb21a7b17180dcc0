"""Each verb does its whole job with a key of its IAM policy in deploy/iam, and no policy allows more than is needed.

jobs.py has the jobs and what each calls; here each is run under its policy, and under the same without any one of the
operations that it calls: then its user misses something, and is told which operation that takes.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from client.errors import CredentialsRejected, Denied
from client.settings import Settings
from functions.cloud import Cloud
from functions.transport import urllib3_send
from tests.iam import POLICIES, operations, without
from tests.simulator import Simulator
from tests.simulator.driver import call, create_body
from tests.system.jobs import JOBS, Stage, generate
from tests.system.situations import KEY, Impatient, World
from tests.system.verbs import plant

TAKEN = [(name, operation) for name, job in JOBS.items() for operation in job.calls]
EACH = [(policy, operation) for policy, text in POLICIES.items() for operation in operations(text)]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
def stage(world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Stage]:
    stage = Stage(world, Impatient(world, monkeypatch), caplog)
    stage.begin()
    yield stage
    assert world.simulator.violations == []


@pytest.mark.parametrize("name", JOBS)
def test_a_verb_does_its_whole_job_under_its_policy(stage: Stage, name: str) -> None:
    job = JOBS[name]
    stage.role = stage.simulator.role(POLICIES[job.policy])
    job.do(stage)
    assert stage.called() == set(job.calls)
    assert not [one for one in stage.simulator.calls if one.status == 403]


@pytest.mark.parametrize("taken", TAKEN, ids="; ".join)
def test_without_one_operation_of_its_policy_a_verb_fails_and_names_it(stage: Stage, taken: tuple[str, str]) -> None:
    name, operation = taken
    job = JOBS[name]
    stage.role = stage.simulator.role(without(POLICIES[job.policy], operation))
    if operation in job.bears:
        job.do(stage)
        return
    with pytest.raises(AssertionError):
        job.do(stage)
    assert re.search(rf"add {operation} to its policy|allow the operation {operation} ", stage.said)
    assert "Traceback" not in stage.said


@pytest.mark.parametrize("each", EACH, ids="; ".join)
def test_every_operation_of_a_policy_is_needed_for_something(each: tuple[str, str]) -> None:
    policy, operation = each
    assert [name for name, job in JOBS.items() if job.policy == policy and operation in job.needs]


@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if job.policy != "provisioner"])
def test_the_provisioners_policy_does_for_everything(stage: Stage, name: str) -> None:
    stage.role = stage.simulator.role(POLICIES["provisioner"])
    JOBS[name].do(stage)
    assert stage.called() <= set(operations(POLICIES["provisioner"]))


def test_a_client_that_was_given_the_key_needs_no_get_instance(stage: Stage) -> None:
    role = stage.simulator.role(without(POLICIES["client"], "get-instance"))
    stage.role = {**role, "EXOSCALE_OLLAMA_KEY": KEY}
    generate(stage)


def test_a_client_without_get_instance_and_key_is_told_both_remedies(stage: Stage) -> None:
    stage.role = stage.simulator.role(without(POLICIES["client"], "get-instance"))
    stage.in_use_label()
    stage.run("generate", "--no-provision", "why?").ended(2, "EXOSCALE_OLLAMA_KEY", "allow the operation get-instance")


def test_a_client_that_finds_something_idle_removes_nothing_and_leaves_it_open(stage: Stage) -> None:
    stage.role = stage.simulator.role(POLICIES["client"])
    up = stage.world.plant(used_ago_s=0)
    left = stage.plant_elsewhere(exollama_name="nother")
    stage.run("generate", "--no-provision", "why?").ended(0)
    assert {seen.id: seen.state for seen in stage.simulator.instances()} == {up.id: "running", left.id: "running"}
    assert stage.world.lodging.fence() == "open"


FORBIDDEN: dict[str, tuple[str, str, str, Any]] = {
    "the client deletes": ("client", "DELETE", "/instance/ID", None),
    "the client stops": ("client", "PUT", "/instance/ID:stop", None),
    "the client starts": ("client", "PUT", "/instance/ID:start", {}),
    "the client creates": ("client", "POST", "/instance", "an instance"),
    "the client renames": ("client", "PUT", "/instance/ID", {"labels": {"a": "b"}, "name": "x"}),
    "the client writes user-data": ("client", "PUT", "/instance/ID", {"labels": {"a": "b"}, "user-data": "eA=="}),
    "the client writes user-data alone": ("client", "PUT", "/instance/ID", {"user-data": "eA=="}),
    "the client opens a port": ("client", "POST", "/security-group", {"name": "x"}),
    "the reaper creates": ("reaper", "POST", "/instance", "an instance"),
    "the reaper starts": ("reaper", "PUT", "/instance/ID:start", {}),
    "the reaper writes labels": ("reaper", "PUT", "/instance/ID", {"labels": {}}),
    "the reaper opens a port": ("reaper", "POST", "/security-group", {"name": "x"}),
    "the provisioner renames": ("provisioner", "PUT", "/instance/ID", {"labels": {"a": "b"}, "name": "x"}),
    "the provisioner writes user-data": ("provisioner", "PUT", "/instance/ID", {"user-data": "eA=="}),
    "the provisioner deletes a group": ("provisioner", "DELETE", "/security-group/GROUP", None),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_is_none_of_a_roles_business_is_denied_and_not_done(records: Simulator, what: str) -> None:
    policy, method, path, body = FORBIDDEN[what]
    seen = plant(records)
    zone = records.zones[seen.zone]
    groups = list(zone.groups)
    path = path.replace("ID", seen.id).replace("GROUP", groups[0])
    body = create_body(records) if body == "an instance" else body
    with pytest.raises(Denied, match="Forbidden by role policy for compute"):
        _cloud(records, records.role(POLICIES[policy])).call(method, path, body=body)
    assert records.instances() == [seen]
    assert list(zone.groups) == groups


def test_a_denial_is_said_after_the_signature_was_verified(records: Simulator) -> None:
    role = records.role({"default-service-strategy": "deny", "services": {}})
    with pytest.raises(Denied):
        _cloud(records, role).list_instances()
    assert "list-instances: not allowed" in records.denied[-1]
    with pytest.raises(CredentialsRejected):
        _cloud(records, {**role, "EXOSCALE_API_SECRET": records.secret}).list_instances()
    _cloud(records, records.env).list_instances()  # a key without a role of its own may do everything


def test_zones_are_listed_unsigned_whatever_a_role_allows_and_are_checked_once_signed(records: Simulator) -> None:
    cloud = _cloud(records, records.role({"default-service-strategy": "deny", "services": {}}))
    assert cloud.list_zones() == ["ch-gva-2", "de-fra-1"]
    with pytest.raises(Denied):
        cloud.call("GET", "/zone")


def test_what_is_denied_meets_no_fault(records: Simulator) -> None:
    cloud = _cloud(records, records.role(POLICIES["client"]))
    records.fault("stop-instance", "500")
    seen = plant(records)
    with pytest.raises(Denied, match="add stop-instance to its policy"):
        cloud.stop_instance(seen.id)
    assert call(records, "PUT", f"/instance/{seen.id}:stop").status == 500


def _cloud(records: Simulator, env: dict[str, str]) -> Cloud:
    settings = Settings.from_env(env)
    return Cloud(settings, settings.zone, urllib3_send(), clock=records.clock.now, sleep=lambda seconds: None)
