"""How the simulator decides IAM policies, and that those in deploy/iam are what they look like."""

from typing import Any

import pytest

from tests.iam import FOLDER, POLICIES, operations
from tests.simulator import document
from tests.simulator.policies import Policy

DOCUMENT = document.load()


def ruled(*rules: tuple[str, str], otherwise: str = "deny") -> Policy:
    """A policy of such rules: an action and an expression each."""
    shown = [{"action": action, "expression": expression} for action, expression in rules]
    return Policy({"default-service-strategy": otherwise, "services": {"compute": {"type": "rules", "rules": shown}}})


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ([("allow", "true")], True),
        ([("allow", "false")], False),
        ([], False),
        ([("deny", "operation == 'get-instance'"), ("allow", "true")], False),
        ([("allow", "operation == 'get-instance'"), ("deny", "true")], True),
        ([("deny", "operation == 'list-zones'"), ("allow", "true")], True),
        ([("allow", "parameters.nowhere == 'x'")], False),
        ([("deny", "parameters.nowhere == 'x'"), ("allow", "parameters.id == 'a'")], True),
        ([("allow", "parameters.has('id')")], True),
        ([("allow", "parameters.has('labels')")], False),
        ([("allow", "int(parameters.size()) == 1")], True),
        ([("allow", "operation.startsWith('get-')")], True),
    ],
)
def test_the_first_rule_that_says_anything_decides_and_silence_denies(
    rules: list[tuple[str, str]], allowed: bool
) -> None:
    assert ruled(*rules).allows("get-instance", {"id": "a"}) is allowed
    assert ruled(*rules, otherwise="allow").allows("get-instance", {"id": "a"}) is allowed


@pytest.mark.parametrize(
    ("default", "services", "allowed"),
    [
        ("deny", {}, False),
        ("allow", {}, True),
        ("allow", {"compute": {"type": "deny"}}, False),
        ("deny", {"compute": {"type": "allow"}}, True),
        ("deny", {"dbaas": {"type": "allow"}}, False),
    ],
)
def test_a_service_without_rules_is_open_or_shut(default: str, services: dict[str, Any], allowed: bool) -> None:
    policy = Policy({"default-service-strategy": default, "services": services})
    assert policy.allows("list-instances", {}) is allowed


@pytest.mark.parametrize(
    "expression",
    ["operation in [", "operaton == 'x'", "parameters.hsa('x')", "parameters.has(1)", "operation == 1", "operation"],
)
def test_a_misspelt_expression_is_an_error_and_no_silent_denial(expression: str) -> None:
    with pytest.raises(ValueError, match=r"no CEL that is known here|neither true nor false"):
        ruled(("allow", expression))


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"default-service-strategy": "perhaps", "services": {}},
        {"default-service-strategy": "deny", "services": {"compute": {"type": "some"}}},
        {"default-service-strategy": "deny", "services": {}, "rules": []},
        {
            "default-service-strategy": "deny",
            "services": {"compute": {"type": "rules", "rules": [{"action": "permit", "expression": "true"}]}},
        },
    ],
)
def test_what_the_document_calls_no_policy_is_refused(policy: Any) -> None:
    with pytest.raises(document.Violation):
        Policy(policy)


def test_parameters_are_those_of_path_query_and_body_with_underscores() -> None:
    body = {"user-data": "eA==", "labels": {"exollama-name": "nx"}}
    given = DOCUMENT.parameters("update-instance", ("some-id",), {}, body)
    assert given == {"id": "some-id", "user_data": "eA==", "labels": {"exollama-name": "nx"}}
    assert DOCUMENT.parameters("list-templates", (), {"visibility": "public"}, None) == {"visibility": "public"}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_allows_the_operations_that_stand_in_it_and_no_other_of_the_document(name: str) -> None:
    policy = Policy(POLICIES[name])
    named = operations(POLICIES[name])
    allowed = {id_ for id_ in DOCUMENT.operations() if policy.allows(id_, {"id": "a", "labels": {}})}
    assert set(named) <= set(DOCUMENT.operations())
    assert set(named) == allowed
    assert len(named) == len(set(named))


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_for_one_service_and_denies_all_others(name: str) -> None:
    assert POLICIES[name]["default-service-strategy"] == "deny"
    assert POLICIES[name]["services"].keys() == {"compute"}


@pytest.mark.parametrize("name", ["client", "provisioner"])
def test_of_an_instance_only_the_labels_may_be_updated(name: str) -> None:
    policy = Policy(POLICIES[name])
    others = set(DOCUMENT.body_parameters("update-instance")) - {"labels"}
    assert {"name", "user_data", "public_ip_assignment"} <= others
    assert policy.allows("update-instance", {"id": "a", "labels": {}})
    assert not policy.allows("update-instance", {"id": "a"})
    for other in others:
        assert not policy.allows("update-instance", {"id": "a", "labels": {}, other: "x"}), other


def test_each_policy_stands_with_all_of_its_operations_in_the_readme_beside_it() -> None:
    rows = [line.split("|") for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()]
    shown = {row[1].strip(" `"): set(row[3].replace("`", "").replace(",", "").split()) for row in rows if len(row) > 4}
    for name, policy in POLICIES.items():
        assert set(operations(policy)) == shown[f"{name}.json"]
