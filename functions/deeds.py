"""Destroying and stopping one instance: looked up before it is asked for again, done when the API says so.

Neighbours: `functions.protocol` and `functions.provisioning` decide that it is to be done, and have read the instance
and vouched for it just before. Like them without a clock or socket of its own.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from client.errors import ApiError, ClockError, ExollamaError, NotFound, OperationFailed, OutOfTime, Unanswered
from client.model import GONE, Instance
from functions.seams import Cloud

log = logging.getLogger("exollama.reap")

CONFIRM_S: Final = 600.0
"""How long the API may take to carry out a delete or stop before that is reported as trouble."""
LOST_S: Final = 10.0
"""How long a deed whose answer was lost is given to show before it is asked for again."""
_PAUSE_S: Final = 2.0
_REFUSALS: Final = frozenset({"busy", "conflict", "forbidden", "incorrect", "unsupported"})
"""Reasons of a failed operation with which nothing was done. The others (fault, partial, …) leave that open."""

Deed = Callable[[Cloud, Instance], None]


class Refused(ExollamaError):
    """The API certainly did not do it and will not: whatever was shut for it may be opened again."""


def destroy(cloud: Cloud, instance: Instance) -> None:
    """Destroy an instance that was just read and vouched for; done when the API says that it is gone.

    Raises Refused where it certainly did not happen, and ExollamaError where that is not known.
    """
    _carry_out(cloud, instance, "destruction", cloud.delete_instance, GONE, GONE)


def stop(cloud: Cloud, instance: Instance) -> None:
    """Stop an instance that was just read and vouched for; done when the API says that it is stopped, or gone."""
    wanted = GONE | {"stopped"}
    _carry_out(cloud, instance, "stopping", cloud.stop_instance, wanted, wanted | {"stopping"})


def _carry_out(
    cloud: Cloud,
    instance: Instance,
    what: str,
    deed: Callable[[str], Mapping[str, Any]],
    wanted: frozenset[str],
    under_way: frozenset[str],
) -> None:
    def is_in(states: frozenset[str]) -> bool:
        try:
            return cloud.get_instance(instance.id).state in states
        except NotFound:
            return True

    def reached() -> bool:
        return is_in(wanted)

    unread = ""
    try:
        operation = _ask_for(cloud, instance, what, deed, lambda: is_in(under_way))
        if operation:
            cloud.wait(operation, f"the {what} of {instance.id}", CONFIRM_S)
    except (OperationFailed, NotFound) as error:
        if not _shows(cloud, 0.0, reached):
            refused = isinstance(error, OperationFailed) and error.state == "failure" and error.reason in _REFUSALS
            raise (Refused if refused else ExollamaError)(
                f"{error} It may still run and cost; look at {instance.id} in the portal."
            ) from error
    except ApiError as error:  # an operation that cannot be read: the instance itself tells
        log.info("%s", error)
        unread = f" Why is not known: {error}"
    if not _until(cloud, CONFIRM_S, reached):
        raise ExollamaError(
            f"The {what} of {instance.id} was accepted but has not happened; look at it in the portal.{unread}"
        )


def _ask_for(
    cloud: Cloud,
    instance: Instance,
    what: str,
    deed: Callable[[str], Mapping[str, Any]],
    begun: Callable[[], bool],
) -> Mapping[str, Any] | None:
    """The operation, or None where the answer was lost but the deed shows, if only begun.

    A second time only where no answer came and the instance, read again, is as it was. Raises NotFound, Refused,
    ExollamaError.
    """
    maybe_done = False  # by an earlier attempt, or later
    for last in (False, True):
        try:
            return deed(instance.id)
        except NotFound:
            raise
        except OutOfTime as error:  # before another try of what was refused (429) or never left this machine
            raise (ExollamaError if maybe_done else Refused)(
                f"The {what} of {instance.id} was not asked for again: {error} It still runs and costs."
            ) from error
        except (ApiError, ClockError) as error:
            log.info("%s", error)
            certain = _certainly_not_done(error)
            maybe_done = maybe_done or not certain
            again = not certain or isinstance(error, Unanswered)
            shows = _shows(cloud, LOST_S if maybe_done else 0.0, begun)
            if shows:
                return None
            if last or not again or shows is None:  # what was not read again is not asked for again
                raise _told(instance, what, error, maybe_done=maybe_done) from error
    raise AssertionError("the last attempt returns or raises")


def _told(instance: Instance, what: str, error: Exception, *, maybe_done: bool) -> ExollamaError:
    costs = "It still runs and costs."
    if maybe_done:
        return ExollamaError(f"The {what} of {instance.id} was not answered: {error} {costs} A reaper looks again.")
    if isinstance(error, Unanswered):
        return Refused(f"The {what} of {instance.id} was never asked for: {error} {costs}")
    return Refused(
        f"The {what} of {instance.id} was refused: {error} {costs} Delete protection, another operation under way or a "
        "missing permission can be the reason."
    )


def _certainly_not_done(error: ApiError | ClockError) -> bool:
    """Whether a request that met this was certainly not carried out: refused, or never sent."""
    if isinstance(error, Unanswered):
        return not error.sent
    return isinstance(error, ClockError) or 400 <= error.status < 500


def _shows(cloud: Cloud, patience_s: float, reached: Callable[[], bool]) -> bool | None:
    """As `_until`; None where the instance cannot be read."""
    try:
        return _until(cloud, patience_s, reached)
    except (ApiError, OutOfTime) as unread:
        log.info("%s", unread)
        return None


def _until(cloud: Cloud, patience_s: float, reached: Callable[[], bool]) -> bool:
    waited_s = 0.0
    while not reached():
        if waited_s >= patience_s:
            return False
        cloud.sleep(_PAUSE_S)
        waited_s += _PAUSE_S
    return True
