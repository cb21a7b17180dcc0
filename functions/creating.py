"""One create call, whose answer may be lost: what it made is looked up by its nonce before anything is repeated.

Neighbours: `functions.plan` drafts the call, `functions.provisioning` decides that one is needed. Like that, without a
clock or socket of its own.
"""

from collections.abc import Callable
from typing import Final

from client.boot import Progress
from client.errors import ApiError, ExollamaError, OperationFailed, OutOfTime, Unanswered
from functions import gpu
from functions.plan import Draft
from functions.seams import Cloud

LOOKUPS: Final = 5


def create(
    cloud: Cloud, draft: Draft, *, note: Callable[[str], None], progress: Progress, announce: Callable[[str], None]
) -> None:
    """Make the call and `announce` the instance's id as soon as it is known; without a word of it, nothing came of it.

    Raises ExollamaError where it was refused or failed, saying what it left behind.
    """
    note(draft.sentence())
    progress("creating", None, 0.0)
    try:
        operation = cloud.create_instance(draft.call())
    except ApiError as error:
        # Lost, garbled or broken off: the deed may have been done all the same.
        maybe = error.sent if isinstance(error, Unanswered) else error.status >= 500 or error.status == 200
        if not maybe:
            raise _explained(error, draft.instance_type) from error
        progress("looking for what the lost answer created", None, 0.0)
        found = _by_nonce(cloud, draft.request)
        if found:
            announce(found)
        elif isinstance(error, Unanswered):
            note("The create call's answer was lost and nothing came of it; trying again.")
        else:
            raise
        return
    reference = operation.get("reference")
    known = reference.get("id") if isinstance(reference, dict) else None
    if isinstance(known, str):
        announce(known)
    try:
        cloud.wait(operation, f"creating an instance in {cloud.zone}", 600.0)
    except ApiError:
        if not known:
            raise
        # It is known and owned; whether it comes up shows in the list.
    except OperationFailed as error:
        rest = _left_behind(cloud, draft.request)
        hint = f" {gpu.quota(draft.instance_type)}" if gpu.is_gpu(draft.instance_type) else ""
        raise ExollamaError(f"{error} {rest} Run this again; if it goes on, try another type or zone.{hint}") from error
    if not known:
        found = _by_nonce(cloud, draft.request)
        if found is None:
            raise ExollamaError("The instance was created, but is not listed. Run this again: it is owned, and found.")
        announce(found)


def _left_behind(cloud: Cloud, request: str) -> str:
    """What is left of a create that failed, in words."""
    try:
        left = _by_nonce(cloud, request)
    except OutOfTime:
        return "What it left behind, if anything, is owned and will be removed by the reaper."
    if left is None:
        return "Nothing was left behind."
    return f"It left instance {left}, which is owned and will be removed by the reaper."


def _by_nonce(cloud: Cloud, request: str) -> str | None:
    """The id of the instance that a create call made, looked for a few times since lists may lag."""
    for attempt in range(LOOKUPS):
        if attempt:
            cloud.sleep(2.0 ** (attempt - 1))
        for instance in cloud.list_instances():
            if instance.owned and instance.request == request:
                return instance.id
    return None


def _explained(error: ApiError, instance_type: str) -> ExollamaError:
    """A refused create call, with what usually is behind it."""
    said = error.message.lower()
    if gpu.is_gpu(instance_type) and error.status in (400, 409) and ("quota" in said or "authoriz" in said):
        family = instance_type.partition(".")[0]
        return ExollamaError(
            f"{error} The account's quota of {family} allows no more. {gpu.quota(instance_type)} Nothing was created."
        )
    if error.status == 409 and "quota" in said:
        return ExollamaError(
            f"{error} The account's quota is used up: remove instances, or ask Exoscale's support for more. "
            "Quotas of GPU types start at 0. Nothing was created."
        )
    return error
