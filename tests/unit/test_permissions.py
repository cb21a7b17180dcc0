"""What a key's role allows, from what each call that changes nothing came to."""

import pytest

from client.errors import ApiError, Denied, ExollamaError, NotFound
from functions import permissions
from functions.findings import FAILED, OK, UNCHECKED, WARNING
from functions.permissions import NEEDED_BY, ROLES
from tests.iam import POLICIES, operations

DENIED = Denied("GET", "/x", 403, "Forbidden by role policy for compute.")
NOWHERE = NotFound("GET", "/x", 404, "not found.")
FAULT = ApiError("GET", "/x", 503, "it rests (503).")
READS = [one for one in NEEDED_BY if one.startswith(("list-", "get-"))]
HEALTHY: dict[str, ExollamaError | None] = dict.fromkeys(READS)


def test_the_table_is_what_stands_in_the_policies_of_deploy_iam() -> None:
    assert sorted(ROLES) == sorted(POLICIES)
    by_role = {role: {one for one, roles in NEEDED_BY.items() if role in roles} for role in ROLES}
    assert by_role == {name: set(operations(policy)) for name, policy in POLICIES.items()}


@pytest.mark.parametrize(
    ("came", "state", "words"),
    [
        (None, OK, "allowed"),
        (DENIED, WARNING, "it is in provisioner.json"),
        (NOWHERE, UNCHECKED, "made up (404)"),
        (FAULT, UNCHECKED, "it rests"),
    ],
)
def test_an_operation_is_told_by_what_its_call_came_to(came: ExollamaError | None, state: str, words: str) -> None:
    asked = HEALTHY | {"list-templates": came}
    (found,) = [one for one in permissions.findings(asked, has_key=False) if one.check == "list-templates"]
    assert found.state == state
    assert words in found.says
    assert bool(found.do) is (state != OK)


def test_what_nothing_harmless_calls_and_what_no_made_up_id_tells_is_reported_alike_as_not_checked() -> None:
    found = {one.check: one for one in permissions.findings(HEALTHY | {"get-operation": NOWHERE}, has_key=False)}
    untold = [found[one] for one in NEEDED_BY if one not in READS or one == "get-operation"]
    assert {one.state for one in untold} == {UNCHECKED}
    assert len({(one.says, one.do) for one in untold}) == 1, "they are shown on one line"
    assert all(one.do for one in untold)


@pytest.mark.parametrize(
    ("denied", "has_key", "state", "words"),
    [
        ([], False, OK, "for client.json, reaper.json and provisioner.json."),
        (["list-templates"], False, OK, "client.json and reaper.json; not for provisioner.json (denied: list-templat"),
        (["get-instance"], True, OK, "for client.json; not for reaper.json (denied: get-instance)"),
        (["get-instance"], False, FAILED, "none of deploy/iam"),
        (READS, True, FAILED, "none of deploy/iam"),
    ],
    ids=["all", "no provisioner", "a client with the key", "a client without", "nothing"],
)
def test_it_says_for_which_roles_the_key_does(denied: list[str], has_key: bool, state: str, words: str) -> None:
    asked = HEALTHY | dict.fromkeys(denied, DENIED)
    *each, role = permissions.findings(asked, has_key=has_key)
    assert (role.check, role.state) == ("role", state)
    assert words in role.says
    assert {one.state for one in each if one.check in denied} <= {FAILED if state == FAILED else WARNING}


def test_where_nothing_could_be_asked_nothing_is_said_of_any_role() -> None:
    assert {one.state for one in permissions.findings({}, has_key=False)} == {UNCHECKED}
    assert permissions.findings({"list-instances": FAULT}, has_key=False)[-1].state == UNCHECKED
