"""IAM role policies, decided as Exoscale documents it: rules in their order, in CEL, and what none allows is denied.

CEL is Google's own (PyPI's cel-expr-python), which checks types as it compiles: a misspelt variable or function is an
error here and no silent refusal later. An expression that cannot be evaluated for a request, say for want of a
parameter, concludes nothing, and the next rule is asked.

`operation` is the OpenAPI document's operation id, `parameters` has what body, query and path give, its names with
underscores for hyphens. Exoscale binds more (resources, zone, identity), which no policy of this project uses: here
those are errors. Imports nothing of the project.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cel_expr_python import cel

from tests.simulator import document

SERVICE = "compute"
"""The service class of every operation that is simulated."""
_PARAMETERS = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
_HAS = cel.FunctionDecl(
    "has",
    [
        cel.Overload(
            "parameters_has_string",
            return_type=cel.Type.BOOL,
            parameters=[_PARAMETERS, cel.Type.STRING],
            is_member=True,
            impl=lambda parameters, name: name in parameters,
        )
    ],
)


class Policy:
    """A role's policy, compiled once."""

    def __init__(self, policy: Mapping[str, Any]) -> None:
        """Raises Violation where it is not what the OpenAPI document calls one, ValueError where a rule is not CEL."""
        document.load().check_policy(policy)
        service = policy["services"].get(SERVICE) or {"type": policy["default-service-strategy"]}
        rules = service.get("rules", []) if service["type"] == "rules" else []
        self._otherwise: bool = service["type"] == "allow"
        self._rules: list[tuple[Any, bool]] = [
            (_compiled(rule["expression"]), rule["action"] == "allow") for rule in rules
        ]

    def allows(self, operation_id: str, parameters: Mapping[str, Any]) -> bool:
        """Whether the first rule that says anything allows it."""
        bound = {"operation": operation_id, "parameters": dict(parameters)}
        return next((allow for rule, allow in self._rules if _is_true(rule, bound)), self._otherwise)


def _compiled(expression: str) -> Any:
    environment = cel.NewEnv(variables={"operation": cel.Type.STRING, "parameters": _PARAMETERS}, functions=[_HAS])
    try:
        compiled = environment.compile(expression)
    except RuntimeError as error:
        raise ValueError(f"no CEL that is known here: {expression}\n{error}") from None
    if compiled.return_type() != cel.Type.BOOL:
        raise ValueError(f"neither true nor false: {expression}")
    return compiled


def _is_true(rule: Any, bound: dict[str, Any]) -> bool:
    answer = rule.eval(data=bound)
    return bool(answer.type() == cel.Type.BOOL and answer.value())
