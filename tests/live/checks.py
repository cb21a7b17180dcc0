"""The checks, in their order: each answers questions of unproven.toml with calls that the project itself makes.

A check yields a finding for each of its ids; what it does not get to is said to be unseen, with the reason, by `run`.
Neighbours: account.py makes and removes. Imports client and functions.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from client.api import Api
from client.errors import (
    ApiError,
    Conflict,
    CredentialsRejected,
    Denied,
    ExollamaError,
    NotFound,
    OperationFailed,
    OutOfTime,
)
from client.model import GONE, Instance, number, printable
from client.session import Session
from client.settings import Secret, Settings
from functions import fit, permissions, provision, stop
from functions.cloud import Cloud
from functions.deeds import destroy
from tests.live import guest
from tests.live.account import BOOT_LIMIT_S, OFF_S, Account, allow
from tests.live.findings import Finding, found, unseen

RUNNING, STOPPED = frozenset({"running", "error"}), frozenset({"stopped"})
BOOT_TYPE, BOOT_MODEL = "standard.medium", "smollm:135m"
LOOKS: Final = 60
"""So often, five seconds apart, the first machine is asked what it sees."""
SOON_OFF_S: Final = 60
"""The second machine switches itself off so soon after its boot has begun."""
UBUNTU: Final = tuple(f"Linux Ubuntu {year}.04 LTS 64-bit" for year in (22, 24, 26))


@dataclass(slots=True, kw_only=True)
class Run:
    """What the checks share; ids are there once made."""

    account: Account
    roles: Mapping[str, tuple[str, Secret]]
    boot: bool
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def cloud(self) -> Cloud:
        return self.account.cloud

    def id(self, what: str) -> str:
        """The id of the group, or of the first or second instance. Raises ExollamaError where that was not made."""
        if not self.ids.get(what):
            raise ExollamaError(f"there is no {what}: see above")
        return self.ids[what]

    def get(self, what: str) -> Instance:
        return self.cloud.get_instance(self.id(what))

    def put(self, what: str, **tags: str) -> tuple[str, str]:
        """Try to put the labels of the create call and these; as `tried`."""
        return tried(lambda: self.cloud.put_labels(self.id(what), {**self.account.sent[self.id(what)][1], **tags}))


Check = Callable[[Run], Iterator[Finding]]
CHECKS: Final[list[tuple[tuple[str, ...], Check]]] = []


def answers(*ids: str) -> Callable[[Check], Check]:
    """Put a check at the end of the list, with the ids that it answers."""

    def register(check: Check) -> Check:
        CHECKS.append((ids, check))
        return check

    return register


def run_one(run: Run, ids: tuple[str, ...], check: Check) -> Iterator[Finding]:
    """The findings of one check, one for each id; what ends it early is told as why the rest was not seen."""
    left = list(ids)
    why = "the check did not get there"
    try:
        for one in check(run):
            left.remove(one.id)
            yield one
    except ExollamaError as error:
        why = first_line(error)
    for id_ in left:
        yield unseen(id_, why)


def first_line(error: Exception) -> str:
    """What went wrong, without what to do about it."""
    return printable(str(error)).split(". ")[0][:300]


def tried(deed: Callable[[], object]) -> tuple[str, str]:
    """How a deed ended: done, conflict, failed (the operation), denied, missing or error; and that in words."""
    try:
        deed()
    except (Conflict, Denied, NotFound) as error:
        kinds = {Conflict: "conflict", Denied: "denied", NotFound: "missing"}
        return kinds[type(error)], f"{error.status}: {first_line(error)}"
    except OperationFailed as error:
        return "failed", f"the operation ended as {error.state}, reason {error.reason}"
    except ApiError as error:
        return "error", f"{error.status}: {first_line(error)}"
    return "done", "accepted"


# -- before anything is made


@answers("wrong-secret")
def wrong_secret(run: Run) -> Iterator[Finding]:
    stranger = run.account.settings._replace(api_secret=Secret(secrets.token_urlsafe(32)))
    try:
        Cloud(stranger, stranger.zone, run.account.traffic).list_instances()
    except ApiError as error:
        right = isinstance(error, CredentialsRejected) and "Invalid request signature" in error.message
        yield found("wrong-secret", right, f"{error.status}: {first_line(error)}")
    else:
        yield found("wrong-secret", False, "a wrong secret was let in")


@answers("zones-unsigned", "types-unsigned", "types-signed", "clock")
def catalogue(run: Run) -> Iterator[Finding]:
    zones = run.cloud.list_zones()
    yield found("zones-unsigned", run.cloud.zone in zones, f"{', '.join(zones)}, without a signature")
    every = run.cloud.type_names()
    yield found("types-unsigned", "standard.small" in every.values(), f"{len(every)} types, without a signature")
    mine = run.cloud.list_instance_types()
    barred = [one for one in mine if not one.get("authorized", True)]
    whole = all(isinstance(one.get("memory"), int) and one.get("family") and one.get("size") for one in mine)
    omitted = len(every) - len(mine)
    seen = f"signed {len(mine)}, {omitted} fewer, {len(barred)} of them not authorised; memory in bytes: {whole}"
    yield found("types-signed", whole and bool(mine), seen)
    skew_s = run.cloud.skew_s
    yield found(
        "clock", skew_s is not None, "no Date" if skew_s is None else f"Date is there, {skew_s:+.0f} s from here"
    )


@answers("templates")
def templates(run: Run) -> Iterator[Finding]:
    there = run.cloud.list_templates()
    dates = {name: sorted(str(t.get("created-at"))[:10] for t in there if t.get("name") == name) for name in UBUNTU}
    told = (f"{name}: {len(of)} ({of[-1]})" if of else f"{name}: none" for name, of in dates.items())
    yield found("templates", all(dates.values()), "; ".join(told))


@answers("quotas")
def quotas(run: Run) -> Iterator[Finding]:
    names = [str(quota.get("resource")) for quota in run.cloud.list_quotas()]
    yield found("quotas", "instance" in names, f"resources: {', '.join(names)}")


@answers("groups-twice", "rules-twice", "ipv6")
def groups(run: Run) -> Iterator[Finding]:
    run.account.create_group()
    run.ids["group"] = min(run.account.groups(run.account.name), default="")
    kind, words = tried(run.account.create_group)
    count = len(run.account.groups(run.account.name))
    yield found("groups-twice", kind in ("done", "conflict"), f"{words}; {count} of that name")
    allow(run.account, run.id("group"))
    kind, words = tried(lambda: allow(run.account, run.id("group")))
    rules = run.cloud.get_security_group(run.id("group")).get("rules") or ()
    yield found("rules-twice", kind in ("done", "conflict"), f"{words}; {len(rules)} rule(s)")
    kind, words = tried(lambda: allow(run.account, run.id("group"), "::/0"))
    yield found("ipv6", kind in ("done", "conflict"), words)


# -- the first machine, and a second of the same name


@answers("labels-starting", "list", "create", "user-data", "labels-kept", "labels-replaced")
def create(run: Run) -> Iterator[Finding]:
    run.ids["first"], operation = run.account.create(run.id("group"), OFF_S)
    kind, words = run.put("first", **{"exollama-live": "nstarting"})
    listed = [one for one in run.cloud.list_instances() if one.id == run.id("first")]
    yield found("labels-starting", kind in ("done", "conflict", "failed"), words)
    course = run.account.follow(operation, run.id("first"), RUNNING, 600.0)
    seen = run.get("first")
    bare = bool(listed) and listed[0].user_data is None and listed[0].disk_gib is None
    late = "" if listed else "; not in the list that was asked for right after the create call"
    yield found("list", bare and seen.disk_gib is not None, f"user-data and disk only where read by id: {bare}{late}")
    yield found("create", course.reached and seen.state == "running" and seen.address is not None, course.text)
    user_data, tags = run.account.sent[run.id("first")]
    same = seen.user_data == Secret(user_data)
    yield found(
        "user-data", same, f"{len(user_data)} characters of gzip in base64 come back {'as' if same else 'not as'} sent"
    )
    extra = set(seen.labels) - set(tags)
    kept = all(seen.labels.get(name) == value for name, value in tags.items())
    yield found(
        "labels-kept", kept, f"the values of the contract come back as sent: {kept}; put meanwhile: {len(extra)}"
    )
    kind, words = run.put("first")
    yield found("labels-replaced", kind == "done" and run.get("first").labels == tags, words)


@answers("names-twice")
def names_twice(run: Run) -> Iterator[Finding]:
    run.ids["second"], operation = run.account.create(run.id("group"), SOON_OFF_S)
    run.account.follow(operation, run.id("second"), RUNNING | STOPPED, 600.0)
    names = [run.get(which).name for which in ("first", "second")]
    yield found("names-twice", names == [run.account.name] * 2, "two instances have the same name")


@answers("metadata", "image", "repositories", "one-port")
def surroundings(run: Run) -> Iterator[Finding]:
    address = run.get("first").address
    if address is None:
        raise ExollamaError("it has no address")
    told = None
    for _ in range(LOOKS):  # cloud-init is not through when the API says `running`
        with suppress(ExollamaError):
            told = guest.facts(address)
            break
        run.cloud.sleep(5.0)
    told = told or guest.facts(address)
    try:  # only now: it listens on both ports, and the one that a rule opens was reached from here
        socket.create_connection((address, guest.CLOSED), 5.0).close()
        yield found("one-port", False, f"port {guest.CLOSED} can be reached, and no rule opens it")
    except OSError as error:
        yield found("one-port", True, f"port {guest.CLOSED}, which no rule opens: {type(error).__name__}")
    sent = base64.b64decode(run.account.sent[run.id("first")][0])
    same = told.get("user_data") == hashlib.sha256(sent).hexdigest()
    right = told.get("address") == address
    yield found(
        "metadata", same and right, f"user-data as sent (gzip): {same}; public-ipv4 is the public address: {right}"
    )
    python = [int(part) for part in str(told.get("python")).split(".")[:2] if part.isdigit()]
    shown = "; ".join(printable(told.get(name)) for name in ("cloud", "vendor", "system", "kernel", "python"))
    yield found("image", python >= [3, 10], f"{shown}; looked {told.get('uptime_s')} s after its kernel began")
    reached = {str(host): status for host, status in told["reached"].items()}
    unlocked = all(isinstance(status, int) and status < 500 for status in reached.values())
    yield found("repositories", unlocked, ", ".join(f"{host} {status}" for host, status in reached.items()))


@answers("labels-stopping", "stop", "stopped-address", "stop-again", "labels-stopped", "start", "address")
def stop_and_start(run: Run) -> Iterator[Finding]:
    id_, before = run.id("first"), run.get("first").address
    operation = run.cloud.stop_instance(id_)
    kind, words = run.put("first")
    yield found("labels-stopping", kind in ("done", "conflict", "failed"), words)
    course = run.account.follow(operation, id_, STOPPED, 900.0)
    yield found("stop", course.reached, course.text)
    has = run.get("first").address is not None
    yield found("stopped-address", True, f"a stopped instance {'shows its' if has else 'shows no'} public-ip")
    kind, words = tried(lambda: run.cloud.stop_instance(id_))
    yield found("stop-again", kind in ("error", "conflict", "failed"), words)
    kind, words = run.put("first")
    yield found("labels-stopped", kind == "done", words)
    course = run.account.follow(run.cloud.start_instance(id_), id_, RUNNING, 600.0)
    yield found("start", course.reached and course.steps[-1][2] == "running", course.text)
    after = run.get("first").address
    yield found("address", after is not None, "the same as before" if after == before else "another than before")


@answers("powered-off", "protection", "destroy-stopped")
def powered_off(run: Run) -> Iterator[Finding]:
    id_ = run.id("second")
    course = run.account.follow({"state": "success"}, id_, STOPPED, 600.0)
    yield found("powered-off", course.reached, course.text)
    try:
        run.account.protect(id_, "add")
        kind, words = tried(lambda: run.cloud.wait(run.cloud.delete_instance(id_), "a protected delete", 60.0))
        yield found("protection", kind in ("conflict", "error", "failed", "denied"), words)
    except ExollamaError as error:
        yield unseen("protection", first_line(error))
    finally:
        with suppress(ExollamaError):
            run.account.protect(id_, "remove")
    destroy(run.cloud, run.get("second"))
    yield found("destroy-stopped", True, "it went, as a reaper does it")


@answers(*(f"iam-{role}" for role in permissions.ROLES))
def roles(run: Run) -> Iterator[Finding]:
    for role in permissions.ROLES:
        if role not in run.roles:
            yield unseen(f"iam-{role}", f"no key with that role was given (EXOLLAMA_LIVE_{role.upper()}_KEY, _SECRET)")
            continue
        key, secret = run.roles[role]
        settings = run.account.settings._replace(api_key=key, api_secret=secret)
        try:
            denied = _denied(Cloud(settings, settings.zone, run.account.traffic), run)
        except ExollamaError as error:
            yield unseen(f"iam-{role}", first_line(error))
            continue
        should_be = {name: role not in permissions.NEEDED_BY.get(name, ()) for name in denied}
        odd = [
            f"{name} is {'denied' if denied[name] else 'allowed'}" for name in denied if denied[name] != should_be[name]
        ]
        yield found(
            f"iam-{role}", not odd, "; ".join(odd) or f"{len(denied)} operations allowed or denied as its file says"
        )


def _denied(cloud: Cloud, run: Run) -> dict[str, bool]:
    """Which of a few harmless operations a key may not do. `rename` is update-instance with more than labels."""
    id_, tags = run.id("first"), run.account.sent[run.id("first")][1]
    rename = {"name": run.account.name, "labels": tags}
    deeds: dict[str, Callable[[], object]] = {
        "list-instances": cloud.list_instances,
        "get-instance": lambda: cloud.get_instance(id_),
        "list-templates": cloud.list_templates,
        "list-instance-types": cloud.list_instance_types,
        "list-security-groups": cloud.list_security_groups,
        "get-security-group": lambda: cloud.get_security_group(run.id("group")),
        "update-instance": lambda: cloud.call("PUT", f"/instance/{id_}", body={"labels": tags}),
        "rename": lambda: cloud.call("PUT", f"/instance/{id_}", body=rename),
    }
    ends = {name: tried(deed) for name, deed in deeds.items()}
    for name, (kind, words) in ends.items():
        if kind not in (
            "done",
            "denied",
            "conflict",
        ):  # neither allowed nor denied: a wrong secret, an API that is down
            raise ExollamaError(f"{name}: {words}")
    return {name: kind == "denied" for name, (kind, _) in ends.items()}


@answers("delete", "gone")
def delete(run: Run) -> Iterator[Finding]:
    id_ = run.id("first")
    state = run.get("first").state
    course = run.account.follow(run.cloud.delete_instance(id_), id_, GONE - {"destroying"} | {"404"}, 600.0)
    yield found("delete", course.reached, f"asked for while {state}: {course.text}")
    kind, words = tried(lambda: run.cloud.get_instance(id_))
    listed = any(one.id == id_ for one in run.cloud.list_instances())
    told = words if kind != "done" else f"state {run.get('first').state}"
    yield found("gone", kind == "missing" or course.reached, f"{told}; {'still' if listed else 'not'} listed")


# -- one real boot, with --boot


@answers("boot", "generate", "drain")
def boot(run: Run) -> Iterator[Finding]:
    if not run.boot:
        raise ExollamaError("not asked for (--boot)")
    settings, made = boot_settings(run.account.settings), None
    run.account.began = True
    run.account.asked += 1
    for _ in range(BOOT_LIMIT_S // 32):
        try:  # with patience nothing but its own is looked at; without, what is overdue in the zone would be reaped
            made = provision.run(settings, patience_s=30.0, note=run.account.note, send=run.account.traffic)
            break
        except OutOfTime:
            run.cloud.sleep(2.0)
    if made is None:
        raise ExollamaError(f"not ready within {BOOT_LIMIT_S} s")
    run.account.account_for(run.cloud.get_instance(made["id"]))
    session = Session(settings, Api(settings, settings.zone, run.account.traffic))
    told = session.ready()[2]
    took = [one for one in told["boot"].get("phases") or () if isinstance(one, dict)]
    phases = ", ".join(f"{printable(one.get('phase'))} {number(one.get('seconds')) or 0.0:.0f} s" for one in took)
    yield found("boot", told["boot"]["phase"] == "ready", phases or printable(told["boot"]))
    last = session.generate({"model": BOOT_MODEL, "prompt": "Why is the sky blue?", "stream": True}, lambda _: None)
    tokens, nanoseconds = last.get("eval_count") or 0, last.get("eval_duration") or 0
    speed = f", {tokens / nanoseconds * 1e9:.0f} a second" if tokens and nanoseconds else ""
    yield found("generate", bool(tokens), f"{BOOT_MODEL} on {BOOT_TYPE}: {tokens} tokens{speed}")
    outcomes = stop.run(settings, send=run.account.traffic)["instances"]
    told_of = "; ".join(f"{one['outcome']}: {one['reason']}" for one in outcomes)
    yield found("drain", all(one["outcome"] == "destroyed" for one in outcomes), told_of)


def boot_settings(settings: Settings) -> Settings:
    """What the real boot is provisioned with: a small type, a tiny model, an early deadline."""
    return settings._replace(
        instance_type=BOOT_TYPE,
        model=BOOT_MODEL,
        disk_gib=fit.disk_gib(BOOT_MODEL),
        max_lifetime_s=BOOT_LIMIT_S,
        reap_action="destroy",
    )


# -- from all that was said


@answers("signing", "operations", "refusals", "limits")
def traffic(run: Run) -> Iterator[Finding]:
    heard = run.account.traffic
    made = len(run.account.made)
    if made:
        yield found(
            "signing", True, f"{heard.calls} requests; {made} instance(s) made with GET, POST, PUT, :start, DELETE"
        )
    else:
        yield unseen("signing", f"{heard.calls} requests, and no instance was made")
    shapes = "; ".join(f"{state}: {' or '.join(sorted(keys))}" for state, keys in sorted(heard.operations.items()))
    known = set(heard.operations) <= {"pending", "success", "failure", "timeout"}
    yield found("operations", known, shapes)
    yield found("refusals", "no JSON object" not in " ".join(heard.refusals), "; ".join(sorted(heard.refusals)))
    names = ", ".join(sorted(heard.limits))
    yield found("limits", True, f"in {heard.calls} answers: {names or 'no header that names a limit'}")
