"""`doctor`: what would go wrong, and what to do about it. It only asks: nothing is created, changed, woken or used.

`python -m functions.doctor` is the verb; `run` is the same for other code. One failure stops no other check: what
cannot be checked then says why. Neighbours: `functions.plan` has the verdicts of provisioning, `functions.permissions`,
`functions.examination` and `functions.reapers` look at the role, the running instance and this machine.
"""

import logging
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar

from client import prices
from client.api import MAX_SKEW_S
from client.boot import Progress, Ticker, silent
from client.errors import ApiError, ClockError, CredentialsRejected, Denied, ExollamaError, NotFound, Unanswered
from client.model import FOREIGN_DO, Instance, made_by_another, owned_live, type_name
from client.settings import DEFAULT_TYPE, Settings
from client.transport import Send
from functions import fit, gpu, permissions, plan, reapers, status
from functions.cloud import Cloud
from functions.examination import examine
from functions.findings import BARRED, FAILED, SEE, Finding, failed, ok, unchecked, warning
from functions.transport import urllib3_send
from functions.zones import WORKERS, side_by_side

log = logging.getLogger("exollama.doctor")
T = TypeVar("T")

_SKEW_S: Final = 60.0
"""From here on a label of this machine's would lie in the future for others."""
_EVERYWHERE: Final = (CredentialsRejected, ClockError, Unanswered)
"""What bars the other zones as well."""
_SUPPORT: Final = "Ask Exoscale's support for more."
_LOOK: Final = "look in the portal, under Organization, Quotas."


def run(
    settings: Settings,
    *,
    progress: Progress = silent,
    send: Send | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Check everything and return `{"zone", "name", "failed", "findings": [{check, state, says, do}]}`.

    `state` is ok, warning, failed or "not checked"; `failed` is how many failed. Raises nothing of `client.errors`.
    """
    ticker = Ticker(progress, monotonic, sleep)
    send = send or urllib3_send()
    visit = _Visit(settings, Cloud(settings, settings.zone, send, clock=clock, sleep=ticker.sleep))
    ticker.progress("asking the API", None)
    visit.arrive()

    def overdue() -> list[Finding]:
        return in_time(status.run(settings, check=True, send=send, clock=clock, sleep=ticker.sleep))

    elsewhere = "or EXOSCALE_ZONE to a zone with it."
    checks = (
        _Check(visit.operation),
        _Check(visit.security_group),
        _Check(visit.template, ("template",), f"Set EXOSCALE_TEMPLATE to one of these, {elsewhere}"),
        _Check(visit.type, ("type", "memory", "price"), f"Set EXOSCALE_INSTANCE_TYPE, {elsewhere}"),
        _Check(visit.quota, ("quota",)),
        _Check(visit.instance, ("instance",)),
        _Check(overdue, ("overdue",), "Run exollama status --check once that is mended."),
    )
    left = [check.look.__name__.replace("_", " ") for check in checks]

    def make(check: _Check) -> list[Finding]:
        if visit.barred and (check.look is not overdue or isinstance(visit.barred, _EVERYWHERE)):
            return [unchecked(name, BARRED, SEE) for name in check.names]
        found = _made(check)
        left.remove(check.look.__name__.replace("_", " "))
        ticker.progress(f"checking {', '.join(left) or 'this machine'}", 100 * (1 - len(left) / len(checks)))
        return found

    gathered = [finding for some in side_by_side(make, checks, at_once=WORKERS) for finding in some]
    findings = [
        *visit.access(),
        clock_apart(visit.cloud.skew_s),
        *permissions.findings({} if visit.barred else visit.asked, has_key=settings.key is not None),
        disk(settings),
        *gathered,
        reaper(*reapers.here()),
    ]
    return {
        "zone": settings.zone,
        "name": settings.name,
        "failed": sum(one.state == FAILED for one in findings),
        "findings": [asdict(one) for one in findings],
    }


class _Check(NamedTuple):
    """A look that gives findings of these names; `do` is what to do where what is set cannot be."""

    look: Callable[[], list[Finding]]
    names: Sequence[str] = ()
    do: str = "Run this again in a few minutes."


class _Visit:
    """One visit to the zone; `asked` keeps what came of each operation."""

    def __init__(self, settings: Settings, cloud: Cloud) -> None:
        self.settings = settings
        self.cloud = cloud
        self.asked: dict[str, ExollamaError | None] = {}
        self._live: list[Instance] | None = None
        self.barred: ExollamaError | None = None
        """Why nothing else can be asked for in this zone."""

    def arrive(self) -> None:
        """List the instances."""
        try:
            listed = self.ask("list-instances", self.cloud.list_known_zone)
            self._live = owned_live(listed, self.settings.name)
        except ExollamaError as error:
            # Denied, and what may be this call's own trouble, bar no other; no such zone is no ApiError.
            if isinstance(error, (*_EVERYWHERE, NotFound)) or not isinstance(error, ApiError):
                self.barred = error

    def ask(self, operation: str, call: Callable[[], T]) -> T:
        """What the call returns. An error of the API's, not a verdict on its answer, is what came of the operation."""
        self.asked[operation] = None
        try:
            return call()
        except (ApiError, ClockError) as error:
            self.asked[operation] = error
            raise

    def access(self) -> list[Finding]:
        """Whether the API answers, and takes the credentials."""
        base, came = self.cloud.base, list(self.asked.values())
        api = ok("API", f"{base} answers.")
        if self.barred and not isinstance(self.barred, CredentialsRejected | ClockError):
            do = "Check the network and EXOSCALE_ZONE, and EXOSCALE_API_ENDPOINT where it is set."
            api = failed("API", _plain(self.barred), do)
        credentials = unchecked("credentials", "no answer told.", "See the others.")
        if isinstance(self.barred, ClockError):
            says = "a signature made by a wrong clock is refused, whatever it is made with."
            credentials = unchecked("credentials", says, "Set the clock first.")
        elif isinstance(self.barred, CredentialsRejected):
            do = "Set both again from one key of the portal's IAM, Keys; a lost secret takes a new key."
            credentials = failed("credentials", str(self.barred), do)
        elif any(error is None or isinstance(error, Denied | NotFound) for error in came) and not self.barred:
            credentials = ok("credentials", "the API takes the signature.")
        return [api, credentials]

    def operation(self) -> list[Finding]:
        self._probe("get-operation", f"/operation/{uuid.uuid4()}")
        return []

    def security_group(self) -> list[Finding]:
        group = str(uuid.uuid4())
        with suppress(ApiError, ClockError):
            groups = self.ask("list-security-groups", self.cloud.list_security_groups)
            group = next((str(one["id"]) for one in groups if one.get("id")), group)
        self._probe("get-security-group", f"/security-group/{group}")
        return []

    def _probe(self, operation: str, path: str) -> None:
        with suppress(ApiError, ClockError):
            self.ask(operation, lambda: self.cloud.call("GET", path, operation=operation))

    def template(self) -> list[Finding]:
        found = self.ask("list-templates", lambda: plan.find_template(self.cloud, self.settings))
        gpu.check_template(found, self.settings.instance_type or "")
        made = str(found.get("created-at"))[:10]
        return [ok("template", f"{self.settings.template} is in {self.cloud.zone}; the newest is of {made}.")]

    def type(self) -> list[Finding]:
        notes: list[str] = []
        chosen = self.ask("list-instance-types", lambda: plan.find_type(self.cloud, self.settings, notes.append))
        name, here = type_name(chosen), self.cloud.zone
        others = [str(zone) for zone in chosen.get("zones") or () if zone != here]
        where = f"{name} is authorised in {here}, and exists in {', '.join(others) or 'no other zone'}."
        fitted = "" if self.settings.instance_type else f" {' '.join(notes)}"
        return [
            ok("type", where + fitted),
            memory(self.settings, name, int(chosen.get("memory") or 0), notes),
            price(self.settings, name),
        ]

    def quota(self) -> list[Finding]:
        try:
            rows = self.cloud.list_quotas()
        except Denied:
            says = "the key's role does not allow list-quotas, which nothing else needs: deploy/iam leaves it out."
            return [unchecked("quota", says, f"Nothing, or {_LOOK}")]
        wanted, cards = self.settings.instance_type or DEFAULT_TYPE, 1
        if gpu.is_gpu(wanted):
            types = self.cloud.list_instance_types()
            cards = next((int(one.get("gpus") or 1) for one in types if type_name(one) == wanted), 1)
        return quotas(rows, wanted, cards=cards, has_instance=bool(self._live))

    def instance(self) -> list[Finding]:
        try:
            if self._live is None:
                return [unchecked("instance", "the instances could not be listed.", SEE)]
            return examine(self.cloud, self.settings, self._live, self._read)
        finally:
            if "get-instance" not in self.asked:
                self._probe("get-instance", f"/instance/{uuid.uuid4()}")

    def _read(self, instance_id: str) -> Instance:
        return self.ask("get-instance", lambda: self.cloud.get_instance(instance_id))


def _made(check: _Check) -> list[Finding]:
    """The findings of a check; where it cannot be made, or condemns what is set, that of each of its names."""
    names = check.names
    try:
        return check.look()
    except (ApiError, ClockError) as error:
        return [unchecked(name, str(error), _again(error)) for name in names]
    except ExollamaError as error:
        found = [failed(name, _plain(error), check.do) for name in names[:1]]
        return found + [unchecked(name, f"{names[0]} comes first.", "See there.") for name in names[1:]]
    except Exception as error:  # what nobody thought of in one check must not keep the others from being made
        log.exception("checking the %s", check.look.__name__)
        says = f"unexpected {type(error).__name__}: {error}."
        return [failed(name, says, "Please report this.") for name in names]


def _again(error: ExollamaError) -> str:
    if isinstance(error, Denied):
        return "Run this with a provisioner's key; a client's and a reaper's need none of it."
    return "Run this again in a few minutes."


def _plain(error: ExollamaError) -> str:
    """Its words, without the comfort that a verb which creates gives."""
    return str(error).removesuffix(" Nothing was created.")


# -- verdicts


def clock_apart(skew_s: float | None) -> Finding:
    """How far the local clock is from the API's, which is `skew_s` seconds ahead."""
    if skew_s is None:
        return unchecked("clock", "no answer of the API's told its time.", SEE)
    apart = (
        f"this machine's is {timedelta(seconds=round(abs(skew_s)))} {'behind' if skew_s > 0 else 'ahead of'} the API's"
    )
    do = "Set the clock: timedatectl set-ntp true"
    if abs(skew_s) > MAX_SKEW_S:
        return failed("clock", f"{apart}; from ten minutes on, nothing is changed and signatures expire.", do)
    return warning("clock", f"{apart}.", do) if abs(skew_s) > _SKEW_S else ok("clock", "as the API's.")


def memory(settings: Settings, name: str, has: int, notes: Sequence[str]) -> Finding:
    """Whether the model fits into a type of `has` bytes; `notes` is what was said when that was chosen."""
    do = "Set EXOSCALE_INSTANCE_TYPE to a larger type, or EXOSCALE_OLLAMA_MODEL to a smaller model."
    warned = [note.removeprefix("Warning: ") for note in notes if note.startswith("Warning: ")]
    if warned:
        return warning("memory", " ".join(warned), do)
    need = fit.memory_bytes(settings.model)
    if need is not None and gpu.is_gpu(name):
        return ok("memory", f"as far as is known here, the cards of {name} hold {settings.model}.")
    if need is None:
        return warning("memory", f"the tag of {settings.model} does not tell its size.", f"If it does not load: {do}")
    gib = f"{settings.model} needs about {need / fit.GIB:.1f} GiB by its tag, and {name} has {has / fit.GIB:.1f}."
    return ok("memory", gib) if has >= need else warning("memory", gib, do)


def price(settings: Settings, name: str) -> Finding:
    """What an hour costs, against EXOSCALE_MAX_HOURLY_COST."""
    cost, most = prices.hourly_cost(name, settings.disk_gib), settings.max_hourly_cost
    about = f"{name} has no price known here"
    if cost is not None:
        about = (
            f"{name} costs about {cost:.5g} per hour with its disk ({prices.CURRENCIES}; of {prices.listed()['as_of']})"
        )
    if most is not None and (cost is None or cost > most):
        return failed("price", f"{about}, and EXOSCALE_MAX_HOURLY_COST is {most}.", plan.afford(cost))
    if cost is None:
        return warning("price", f"{about}.", "Look it up at exoscale.com/pricing before you use it.")
    return ok(
        "price", f"{about}; {'no EXOSCALE_MAX_HOURLY_COST is set' if most is None else f'at most {most} is set'}."
    )


def disk(settings: Settings) -> Finding:
    """Whether system, image and model fit onto the disk."""
    need = fit.disk_gib(settings.model, gpu=gpu.is_gpu(settings.instance_type or ""))
    says = f"{settings.disk_gib} GiB; system, container image and {settings.model} need about {need}."
    if settings.disk_gib < need:
        return failed("disk", says, f"Set EXOSCALE_DISK_SIZE={need} or more.")
    if fit.weights_bytes(settings.model) is None:
        do = f"Have EXOSCALE_DISK_SIZE at {need} GiB and its size, which its tag does not tell."
        return warning("disk", f"{settings.disk_gib} GiB; system and container image need about {need}.", do)
    return ok("disk", says)


def quotas(rows: Sequence[Mapping[str, Any]], wanted: str, *, cards: int, has_instance: bool) -> list[Finding]:
    """Whether one more instance may be made, and one of a GPU type with so many cards. `rows` are the API's quotas.

    Their names are those that Exoscale's own command line reads: `instance`, and one for each GPU family.
    """
    by_name = {str(row.get("resource")): row for row in rows}
    return [
        _quota(resource, by_name.get(resource), takes, has_instance=has_instance)
        for resource, takes in (("instance", 1), *([(wanted.partition(".")[0], cards)] if gpu.is_gpu(wanted) else []))
    ]


def _quota(resource: str, row: Mapping[str, Any] | None, takes: int, *, has_instance: bool) -> Finding:
    check = "quota" if resource == "instance" else f"quota of {resource}"
    usage, limit = (row.get("usage"), row.get("limit")) if row else (None, None)
    if not isinstance(usage, int) or not isinstance(limit, int):
        return unchecked(check, f"the API names none for {resource}.", f"To be sure, {_LOOK}")
    if limit < 0:
        return ok(check, f"{resource}: {usage} in use, no limit.")
    says = f"{resource}: {usage} of {limit} in use."
    if usage + takes <= limit:
        return ok(check, says)
    if usage < limit:
        return warning(check, f"{says} The type has {takes} cards, if those are what is counted.", gpu.quota(resource))
    if has_instance:
        return warning(check, says, f"Nothing while your instance lives; no other can be made. {_SUPPORT}")
    more = gpu.quota(resource) if gpu.is_gpu(resource) else f"Remove what is not needed. {_SUPPORT}"
    return failed(check, says, more)


def in_time(result: Mapping[str, Any]) -> list[Finding]:
    """Whether a reaper does its work, by what is there of a `status` with check."""
    late = [one for one in result["instances"] if one["overdue"]]
    do = "Remove it: exollama reap. Then see that a reaper runs, and reaches port 11435."
    found = [
        failed("overdue", f"{one['zone']} {one['id']} ({one['name']}) should be gone: {one['overdue']}.", do)
        for one in late
    ]
    found += [
        failed("versions", f"{one['zone']} {one['id']} ({one['name']}): {made_by_another(one['version'])}", FOREIGN_DO)
        for one in result["foreign"]
    ]
    if result["failed"]:
        more = len(result["failed"]) - 1
        says = str(result["failed"][0]) + (f" And {more} more like that." if more else "")
        found.append(unchecked("overdue", says, "Run exollama status --check once that is mended."))
    looked = f"nothing in {', '.join(result['zones'])} that a reaper should have removed."
    return found or [ok("overdue", looked)]


def reaper(where: Sequence[str], lacks: Sequence[str]) -> Finding:
    """Whether anything reaps on this machine; `lacks` is what a line of the crontab names and is not there."""
    if lacks:
        says = f"a line of this user's crontab names what is not there: {' and '.join(lacks)}."
        return warning("reaper", says, f"Correct it with crontab -e; this one would do: {reapers.cron_line()}")
    if where:
        return ok("reaper", f"set up here: {', '.join(where)}. Whether it works, overdue tells.")
    return warning(
        "reaper",
        "none was seen on this machine; one elsewhere (CI, a function, another machine) cannot be seen from here.",
        "If there is none: put the settings into ~/.exollama.env (mode 600), then crontab -e, and add: "
        + reapers.cron_line(),
    )


if __name__ == "__main__":
    from client.cli import main

    sys.exit(main(prog="python -m functions.doctor", verb="doctor"))
