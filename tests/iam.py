"""The IAM policies of deploy/iam, as tests read and edit them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "deploy" / "iam"
POLICIES: Mapping[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))
}


def operations(policy: Mapping[str, Any]) -> list[str]:
    """The operation ids that stand in the expressions of a policy."""
    rules = policy["services"]["compute"]["rules"]
    return [id_ for rule in rules for id_ in re.findall(r"'([a-z]+(?:-[a-z]+)+)'", rule["expression"])]


def without(policy: Mapping[str, Any], operation: str) -> dict[str, Any]:
    """The same policy, which does not allow this operation."""
    edited: dict[str, Any] = json.loads(json.dumps(policy))
    for rule in edited["services"]["compute"]["rules"]:
        rule["expression"] = f"({rule['expression']}) && operation != '{operation}'"
    return edited
