"""What to create: template, type, disk, security group, labels and user-data, settled before anything is charged.

Everything that can be refused is refused here, with what exists instead. Neighbours: `functions.fit` estimates,
`functions.userdata` renders, `functions.creating` creates.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from client import __version__, labels, prices
from client.endpoint import PORT
from client.errors import Conflict, ExollamaError
from client.model import Instance, type_name
from client.settings import DEFAULT_TYPE, Secret, Settings
from functions import fit, gpu, userdata
from functions.cloud import Cloud
from functions.zones import WORKERS, side_by_side

Note = Callable[[str], None]
_WHOLE_INTERNET: Final = frozenset({"0.0.0.0/0", "::/0"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One create call: its body but for the user-data, its nonce, and what a person wants to know of it."""

    body: Mapping[str, Any]
    user_data: Secret
    request: str
    instance_type: str
    zone: str
    hourly_cost: float | None

    def call(self) -> Secret:
        """The body of the create call, whole, as JSON; it carries the key."""
        return Secret(json.dumps({**self.body, "user-data": self.user_data.reveal()}))

    def sentence(self) -> str:
        """What is being created, where, and about what an hour costs."""
        cost = (
            "a price that is not known here"
            if self.hourly_cost is None
            else f"about {self.hourly_cost:.3f} per hour ({prices.CURRENCIES})"
        )
        return f"Creating a {self.instance_type} in {self.zone}, {cost}."


def draft(cloud: Cloud, settings: Settings, *, note: Note, keep_failed: bool = False) -> Draft:
    """Settle everything for one create call; makes or heals the security group, creates nothing else.

    Raises ExollamaError for an unknown template or type, a type that is too dear or not authorised, a disk that is too
    small; and what the API raises.
    """
    template = find_template(cloud, settings)
    instance_type = find_type(cloud, settings, note)
    name = type_name(instance_type)
    gpu.check_template(template, name)
    needed = fit.disk_gib(settings.model, gpu=gpu.is_gpu(name))
    if settings.disk_gib < needed:
        raise ExollamaError(
            f"A disk of {settings.disk_gib} GiB is too small for {settings.model}: system, container image and model "
            f"need about {needed}. Set EXOSCALE_DISK_SIZE={needed} or more. Nothing was created."
        )
    cost = prices.hourly_cost(name, settings.disk_gib)
    if dear := _too_dear(name, cost, settings):
        raise ExollamaError(f"{dear} {afford(cost)} Nothing was created.")
    group = security_group(cloud, settings.allowed_cidrs, note)
    request = secrets.token_hex(16)
    now = cloud.now()
    deadline = None if settings.max_lifetime_s is None else now + timedelta(seconds=settings.max_lifetime_s)
    user_data = userdata.render(
        name=settings.name,
        model=settings.model,
        key=_key(settings, note),
        request=request,
        image=settings.image,
        idle_s=settings.idle_s,
        boot_s=settings.boot_s,
        retention_s=settings.retention_s,
        deadline=None if deadline is None else int(deadline.timestamp()),
        action=settings.reap_action,
        keep_failed=keep_failed,
        gpu_driver=gpu.driver(name),
        version=__version__,
    )
    body = {
        "name": settings.name,
        "labels": owned_labels(settings, request, now, deadline),
        "instance-type": {"id": instance_type["id"]},
        "template": {"id": template["id"]},
        "disk-size": settings.disk_gib,
        "security-groups": [{"id": group}],
        "public-ip-assignment": "inet4",
    }
    return Draft(
        body=body, user_data=Secret(user_data), request=request, instance_type=name, zone=cloud.zone, hourly_cost=cost
    )


def check_start(cloud: Cloud, settings: Settings, instance: Instance) -> None:
    """Raise ExollamaError where a stopped instance, once started, would cost more per hour than the limit.

    It was made under another limit, or by somebody else's settings; one that runs already is used as it is.
    """
    if settings.max_hourly_cost is None:
        return
    types = {one.get("id"): type_name(one) for one in cloud.list_instance_types()}
    name = types.get(instance.type_id, "its type")
    cost = prices.hourly_cost(name, instance.disk_gib or settings.disk_gib)
    if dear := _too_dear(name, cost, settings):
        raise ExollamaError(
            f"Instance {instance.id} is stopped, and was not started: {dear} {'Unset' if cost is None else 'Raise'} "
            "it, or remove the instance with `exollama stop`, and the next run makes one within the limit."
        )


def afford(cost: float | None) -> str:
    """What to do about EXOSCALE_MAX_HOURLY_COST where a type that costs so much per hour is refused."""
    if cost is None:  # no limit, however high, lets in what cannot be compared with it
        return "Unset it, or set EXOSCALE_INSTANCE_TYPE to a type with a known price."
    return "Raise it, or set EXOSCALE_INSTANCE_TYPE to a cheaper type."


def _too_dear(name: str, cost: float | None, settings: Settings) -> str | None:
    """That a type is beyond EXOSCALE_MAX_HOURLY_COST or has no price to compare with it, in a sentence, or None."""
    if settings.max_hourly_cost is None or (cost is not None and cost <= settings.max_hourly_cost):
        return None
    about = "has no price known here" if cost is None else f"costs about {cost:.5g} per hour"
    return f"{name} {about}, and EXOSCALE_MAX_HOURLY_COST is {settings.max_hourly_cost}."


def _key(settings: Settings, note: Note) -> Secret:
    """The user's own key, or a fresh one. What was handed out with an instance opens that one, and no other."""
    if settings.key and not settings.key_handed_out:
        return settings.key
    if settings.key:
        note(
            "EXOSCALE_OLLAMA_KEY is another instance's, since EXOLLAMA_KEY_MARK stands beside it: this one gets a key "
            "of its own. To give it that one all the same, unset EXOLLAMA_KEY_MARK."
        )
    return Secret(secrets.token_hex(32))


def owned_labels(settings: Settings, request: str, now: datetime, deadline: datetime | None) -> dict[str, str]:
    """The labels of the create call (contract v1): ownership, policy and the first activity."""
    return {
        labels.OWNER: labels.VERSION,
        labels.NAME: labels.text(settings.name),
        labels.MODEL: labels.text(settings.model),
        labels.REQUEST: labels.nonce(request),
        labels.ACTIVITY: labels.time(now),
        labels.IDLE: labels.seconds(settings.idle_s),
        labels.BOOT: labels.seconds(settings.boot_s),
        labels.RETENTION: labels.seconds(settings.retention_s),
        labels.DEADLINE: "none" if deadline is None else labels.time(deadline),
        labels.ACTION: settings.reap_action,
        labels.REACH: reach(settings),
    }


def reach(settings: Settings) -> str:
    """`any` where the whole internet may reach the endpoint, else `limited`."""
    return "any" if _WHOLE_INTERNET.intersection(settings.allowed_cidrs) else "limited"


def find_template(cloud: Cloud, settings: Settings) -> dict[str, Any]:
    """The template of that id, or the newest of that name. Raises ExollamaError naming what there is."""
    wanted = settings.template
    templates = cloud.list_templates()
    found = [t for t in templates if wanted in (t.get("id"), t.get("name"))]
    if found:
        return max(found, key=lambda t: str(t.get("created-at") or ""))
    names = sorted({str(t.get("name")) for t in templates if "ubuntu" in str(t.get("name")).lower()})
    raise ExollamaError(
        f"There is no template {wanted!r} in {cloud.zone}.{_elsewhere(cloud, settings, _has_template)} Ubuntu "
        "templates here: "
        f"{'; '.join(names) or 'none'}. Set EXOSCALE_TEMPLATE. Nothing was created."
    )


def find_type(cloud: Cloud, settings: Settings, note: Note) -> dict[str, Any]:
    """The type that was set, or the smallest authorised one that fits. Raises ExollamaError naming what there is."""
    types = _types(cloud)
    usable = sorted((t for t in types if t.get("authorized", True)), key=lambda t: int(t.get("memory") or 0))
    need = fit.memory_bytes(settings.model)
    wanted = settings.instance_type
    if wanted is None:
        return _fit_type(usable, settings, need, note)
    chosen = next((t for t in usable if type_name(t) == wanted), None)
    if chosen is None:
        here = ", ".join(type_name(t) for t in usable)
        if any(type_name(t) == wanted for t in types):
            raise ExollamaError(
                f"The type {wanted} is not authorised for this account. {gpu.quota(wanted)} Authorised in "
                f"{cloud.zone}: {here}. Nothing was created."
            )
        missing = f"There is no type {wanted} in {cloud.zone}."
        if gpu.is_gpu(wanted):
            missing = gpu.unavailable(wanted, cloud.zone)
        raise ExollamaError(
            f"{missing}{_elsewhere(cloud, settings, _has_type)} Authorised here: {here}. Set EXOSCALE_INSTANCE_TYPE or "
            "EXOSCALE_ZONE. Nothing was created."
        )
    memory = int(chosen.get("memory") or 0)
    if gpu.is_gpu(wanted):
        if warning := gpu.misfit(chosen, wanted, settings.model):
            note(warning)
    elif need is not None and need > memory:
        note(
            f"Warning: {settings.model} needs about {need / fit.GIB:.1f} GiB of memory by its tag, and {wanted} has "
            f"{memory / fit.GIB:.1f}. It may fail to load or be very slow."
        )
    return chosen


def _fit_type(usable: list[dict[str, Any]], settings: Settings, need: int | None, note: Note) -> dict[str, Any]:
    family = DEFAULT_TYPE.partition(".")[0]
    candidates = [t for t in usable if t.get("family") == family]
    if need is None:
        note(
            f"The tag of {settings.model} does not tell its size; taking {DEFAULT_TYPE}. EXOSCALE_INSTANCE_TYPE sets "
            "another type."
        )
        fitting = [t for t in candidates if type_name(t) == DEFAULT_TYPE]
    else:
        fitting = [t for t in candidates if int(t.get("memory") or 0) >= need]
    if not fitting:
        largest = type_name(candidates[-1]) if candidates else "none"
        raise ExollamaError(
            f"No authorised type of the {family} family fits {settings.model}"
            f"{'' if need is None else f', which needs about {need / fit.GIB:.1f} GiB by its tag'} (the largest is "
            f"{largest}). "
            "Choose a smaller model, or set EXOSCALE_INSTANCE_TYPE. Nothing was created."
        )
    name = type_name(fitting[0])
    if need is not None:
        note(
            f"{settings.model} needs about {need / fit.GIB:.1f} GiB of memory by its tag: taking {name} "
            f"({int(fitting[0]['memory']) / fit.GIB:.0f} GiB). EXOSCALE_INSTANCE_TYPE sets another type."
        )
    smaller = [type_name(t) for t in candidates[: candidates.index(fitting[0])]]
    priced = [(cost, of) for of in smaller if (cost := prices.hourly_cost(of, settings.disk_gib))]
    if priced and prices.hourly_cost(name, settings.disk_gib) is None:
        cost, of = max(priced)
        note(f"The price of {name} is not known here; it is higher than that of {of}, about {cost:.3f} per hour.")
    return fitting[0]


def _types(cloud: Cloud) -> list[dict[str, Any]]:
    """The types that the zone has: the API lists those of other zones as well, with theirs."""
    return [t for t in cloud.list_instance_types() if not t.get("zones") or cloud.zone in t["zones"]]


def _has_template(cloud: Cloud, settings: Settings) -> bool:
    return any(settings.template in (t.get("id"), t.get("name")) for t in cloud.list_templates())


def _has_type(cloud: Cloud, settings: Settings) -> bool:
    return any(type_name(t) == settings.instance_type and t.get("authorized", True) for t in _types(cloud))


def _elsewhere(cloud: Cloud, settings: Settings, has: Callable[[Cloud, Settings], bool]) -> str:
    """The other zones that have what is missing here, as a sentence; best effort, on the way to an error.

    They are asked at once, and none that does not answer, even in the time there is, hides what the others say.
    """

    def look(other: Cloud) -> bool | None:
        with suppress(ExollamaError):
            return has(other, settings)
        return None

    try:
        # An endpoint without {zone} in it is always this one.
        others = [other for zone in cloud.list_zones() if (other := cloud.beside(zone)).base != cloud.base]
    except ExollamaError:
        return ""
    answers = side_by_side(look, others, at_once=WORKERS)
    having = [other.zone for other, has_it in zip(others, answers, strict=True) if has_it]
    if having:
        return f" It exists in {', '.join(having)}."
    return " No other zone lists it either." if others and None not in answers else ""


def security_group(cloud: Cloud, cidrs: tuple[str, ...], note: Note) -> str:
    """The id of the group that lets these networks, and no others, reach the endpoint's port; made or healed.

    The networks' hash is in its name, so that no pipeline widens another's. Somebody else making it at the same time
    is survived: names may or may not be unique, so the lowest id of that name is taken.
    """
    name = f"exollama-{hashlib.sha256(','.join(cidrs).encode()).hexdigest()[:12]}"
    group_id = _group_id(cloud, name)
    if group_id is None:
        with suppress(Conflict):  # another run made it in between
            cloud.create_security_group(name, f"exollama: port {PORT} from {', '.join(cidrs)}"[:255])
        group_id = _group_id(cloud, name)
        if group_id is None:
            raise ExollamaError(
                f"The security group {name} was created in {cloud.zone} but is not listed. Run this again."
            )
    rules = [r for r in cloud.get_security_group(group_id).get("rules") or () if isinstance(r, dict)]
    ingress = [r for r in rules if r.get("flow-direction") == "ingress"]
    ours = {r.get("network") for r in ingress if _opens_port(r)}
    for cidr in cidrs:
        if cidr not in ours:
            with suppress(Conflict):  # the rule appeared in between
                cloud.allow(group_id, cidr, PORT)
    wider = sorted({str(r.get("network")) for r in ingress if not (_opens_port(r) and r.get("network") in cidrs)})
    if wider:
        note(f"Warning: the security group {name} also lets in {', '.join(wider)}; somebody added that by hand.")
    return group_id


def _opens_port(rule: Mapping[str, Any]) -> bool:
    return rule.get("protocol") == "tcp" and rule.get("start-port") == PORT == rule.get("end-port")


def _group_id(cloud: Cloud, name: str) -> str | None:
    return min(
        (str(g["id"]) for g in cloud.list_security_groups() if g.get("name") == name and g.get("id")), default=None
    )
