"""What the API key's IAM role allows, as far as calls that change nothing tell, and which of deploy/iam's roles it is.

Pure. Neighbours: `functions.doctor` makes the calls; deploy/iam has the policies, a test holds this table to them.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from client.errors import Denied, ExollamaError, NotFound
from functions.findings import BARRED, SEE, Finding, failed, ok, unchecked, warning

ROLES: Final = ("client", "reaper", "provisioner")
_ALL, _PROVISIONER = ROLES, ("provisioner",)
NEEDED_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "list-instances": _ALL,
    "get-instance": _ALL,
    "get-operation": _ALL,
    "list-templates": _PROVISIONER,
    "list-instance-types": _PROVISIONER,
    "list-security-groups": _PROVISIONER,
    "get-security-group": _PROVISIONER,
    "create-security-group": _PROVISIONER,
    "add-rule-to-security-group": _PROVISIONER,
    "create-instance": _PROVISIONER,
    "start-instance": _PROVISIONER,
    "update-instance": ("client", "provisioner"),
    "stop-instance": ("reaper", "provisioner"),
    "delete-instance": ("reaper", "provisioner"),
}
"""Each operation that a verb uses, by its id in the OpenAPI document and in policies, and the roles that need it."""
HARMLESS: Final = ("list-", "get-")

Asked = Mapping[str, ExollamaError | None]
"""What came of each operation that was asked for: None where it was done."""


def findings(asked: Asked, *, has_key: bool) -> list[Finding]:
    """A finding for each operation, and one for the roles. `has_key`: whether EXOSCALE_OLLAMA_KEY is set."""
    lacking = lacks(asked, has_key=has_key)
    fits = [role for role in ROLES if role not in lacking]
    return [*(_operation(one, asked, fits) for one in NEEDED_BY), _roles(asked, lacking, fits)]


def lacks(asked: Asked, *, has_key: bool) -> dict[str, list[str]]:
    """The roles that this key's cannot be, each with what was denied. A client that has the key needs no user-data."""
    denied = [operation for operation in NEEDED_BY if isinstance(asked.get(operation), Denied)]
    lacking = {role: [one for one in denied if role in NEEDED_BY[one]] for role in ROLES}
    if has_key:
        lacking["client"] = [one for one in lacking["client"] if one != "get-instance"]
    return {role: operations for role, operations in lacking.items() if operations}


def _operation(operation: str, asked: Asked, fits: list[str]) -> Finding:
    if operation not in asked:
        return unchecked(operation, BARRED, SEE) if operation.startswith(HARMLESS) else _untold(operation)
    error = asked[operation]
    if error is None:
        return ok(operation, "allowed by the key's role.")
    denied = f"denied by the key's role; it is in {_files(NEEDED_BY[operation])}."
    if isinstance(error, Denied) and fits:
        do = f"Nothing for a key of {_files(fits)}; else add it to the role."
        return warning(operation, denied, do)
    if isinstance(error, Denied):
        return failed(operation, denied, "Add it to the role.")
    if isinstance(error, NotFound):
        return _untold(operation)  # which of 403 and 404 is looked at first is not known
    return unchecked(operation, str(error), "Run this again in a few minutes.")


def _untold(operation: str) -> Finding:
    says = "nothing harmless calls it, or only with an id that is made up (404)."
    return unchecked(operation, says, "Nothing, until a verb names it.")


def _roles(asked: Asked, lacking: Mapping[str, list[str]], fits: list[str]) -> Finding:
    if not any(error is None or isinstance(error, Denied) for error in asked.values()):
        return unchecked("role", BARRED, SEE)
    short = "; ".join(f"not for {_files([role])} (denied: {', '.join(lacking[role])})" for role in lacking)
    if fits:
        return ok("role", f"as far as seen, it does for {_files(fits)}{f'; {short}' if short else ''}.")
    return failed("role", f"it does for none of deploy/iam: {short}.", "Attach one of deploy/iam to the key's role.")


def _files(roles: Sequence[str]) -> str:
    names = [f"{role}.json" for role in roles]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
