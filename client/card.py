"""One instance on the page: its state, when it goes, what it costs, how it booted, and the end of its log.

Neighbours: `client.page` puts it on a page. What it is given comes from an API, from labels and from the instance, and
may be of any type: the small readers here make text, numbers and mappings of it, or nothing. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from client.markup import Markup, join, tag
from client.model import GONE, number, printable
from client.prices import shown

RANK: Final = ("failed", "leaving", "booting", "silent", "busy", "ready", "stopped", "asleep")
"""Tones, the one first that a person has to know of."""
_MAX_PHASES: Final = 24
_MAX_LINES: Final = 40
_GAP, _BAR, _LEAST = 4.0, 1000.0, 8.0

_ICONS: Final = {
    "ready": "M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1Zm3.2 4.4-4 4.2-1.9-1.9-1.1 1.1 3 3 5.1-5.3Z",
    "busy": "M9.5 0.8 3 9.2h3.9l-1 6L13 6.6H8.7Z",
    "booting": "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1Zm0 2v10A5 5 0 0 0 8 3Z",
    "failed": "M8 .8 15.7 14.6H.3ZM7.1 5.4v4.8h1.8V5.4ZM7.1 11.3V13h1.8v-1.7Z",
    "stopped": "M3 3h10v10H3Z",
    "asleep": "M6.5 1.2a7 7 0 1 0 8.3 8.3A5.6 5.6 0 0 1 6.5 1.2Z",
    "leaving": "M2 2h6v2H4v8h4v2H2ZM9.5 4 14 8l-4.5 4V9H6V7h3.5Z",
    "silent": "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1Zm0 2a5 5 0 1 1 0 10A5 5 0 0 1 8 3Z",
}


class Condition(NamedTuple):
    """How something is: a tone, which has a colour and a sign, and always words."""

    tone: str
    words: str


class Phase(NamedTuple):
    """A phase of a boot: how long it took, and whether it is over (""), under way ("now") or where it ended."""

    name: str
    seconds: float
    mark: str


def condition(one: Mapping[str, Any]) -> Condition:
    """How an instance is, by its own word where that is known, else by the API's."""
    said = mapping(one.get("said"))
    boot, state = mapping(said.get("boot")), words(one.get("state"))
    phase = words(boot.get("phase"))
    if boot.get("error"):
        return Condition("failed", f"boot failed in {words(mapping(boot['error']).get('phase')) or phase}")
    if said.get("fence"):
        return Condition("leaving", "being removed")
    if state == "error":
        return Condition("failed", "in error")
    if state in ("stopped", "stopping"):
        return Condition("stopped", state)
    if state in GONE:
        return Condition("leaving", state)
    if state not in ("running", "starting", ""):  # migrating: it comes back
        return Condition("silent", state)
    if said.get("trouble"):
        return Condition("silent", "gives no answer")
    if phase and phase != "ready":
        percent = number(boot.get("percent"))
        return Condition("booting", f"booting: {phase}" + ("" if percent is None else f" {percent:.0f} %"))
    if state == "starting":
        return Condition("booting", state)
    if number(said.get("in_flight")):
        return Condition("busy", "in use")
    return Condition("ready", "ready" if phase else state) if state else Condition("silent", "state not known")


def card(one: Mapping[str, Any], how: Condition, name: str) -> Markup:
    """Everything of one instance; `name` is part of its elements' ids."""
    title = f"title-{name}"
    below = " · ".join(filter(None, (words(one.get("model")), words(one.get("zone")))))
    top = tag(
        "div",
        tag("div", tag("h2", instance_name(one), id=title), tag("p", below, class_="quiet") if below else join()),
        badge(Condition("failed", "overdue")) if one.get("overdue") else join(),
        badge(how),
        class_="top",
    )
    tiles = [_going(one, how), _cost(one), _use(one)]
    if how.tone == "booting" and "id" not in one:  # it is waited for, and nothing is known but that
        tiles = tiles[:1]
    elif how.tone == "stopped":
        tiles = tiles[:2]
    parts = [top, tag("div", *tiles, class_="tiles"), *_boot(one, how, f"log-{name}"), _facts(one)]
    return tag("article", *parts, class_="card", id=f"card-{name}", aria_labelledby=title)


def badge(how: Condition) -> Markup:
    """A condition as a sign with words."""
    return tag("span", _icon(how.tone), how.words, class_=f"badge {how.tone}")


def heading(how: Condition, title: str) -> Markup:
    """A heading with the sign of a condition before it."""
    return tag("h2", _icon(how.tone), title, class_=f"sign {how.tone}")


def _icon(tone: str) -> Markup:
    drawn = tag("path", d=_ICONS.get(tone, _ICONS["silent"]), fill_rule="evenodd")
    return tag("svg", drawn, viewBox="0 0 16 16", aria_hidden="true", class_="icon")


# -- tiles


def _tile(title: str, figure: str, *more: str) -> Markup:
    said = [one if isinstance(one, Markup) else tag("p", one, class_="quiet") for one in more if one]
    return tag("div", tag("h3", title), tag("p", figure, class_="figure"), *said, class_="tile")


def _going(one: Mapping[str, Any], how: Condition) -> Markup:
    """When it goes if nobody uses it."""
    said = mapping(one.get("said"))
    timeout_s = number(one.get("idle_timeout_s"))
    idle_s, left_s = number(one.get("idle_s")), number(one.get("goes_in_s"))
    policy = f"after {span(timeout_s)} without use" if timeout_s else "once idle"
    if how.tone == "busy" and left_s != 0:  # past deadline and grace it goes in spite of that
        count = number(said.get("in_flight")) or 0
        return _tile("Goes", "not while in use", f"{count:.0f} under way; goes {policy}")
    if how.tone == "booting" and left_s != 0:  # nor does a boot keep it that takes too long
        return _tile("Goes", "not while booting", f"then {policy}")
    if not left_s or how.tone == "leaving":
        reap = mapping(one.get("reap"))
        sure = left_s == 0 or how.tone in ("leaving", "failed") or reap.get("decision") in ("destroy", "stop")
        when = "not known" if how.tone == "stopped" else policy
        return _tile("Goes", "at the next reaping" if sure else when, words(reap.get("reason")))
    ticking = tag("span", span(left_s), data_left=round(left_s))
    meter = join()
    if timeout_s and how.tone == "ready":
        meter = tag(
            "meter",
            f"{span(left_s)} of {span(timeout_s)} left",
            min=0,
            max=round(timeout_s),
            value=round(min(left_s, timeout_s)),
            data_left=round(left_s),
            aria_label="what is left of the idle timeout",
        )
    idle = f"; idle for {span(idle_s)}" if idle_s is not None else ""
    others = {"stopped": "with its disk, if nobody starts it", "failed": "kept until then, to be looked at"}
    unless = others.get(how.tone, f"if nobody uses it{idle}")
    return _tile("Goes in", ticking, meter, unless)


def _cost(one: Mapping[str, Any]) -> Markup:
    hourly, so_far = number(one.get("hourly_cost")), number(one.get("cost"))
    rate = f"{money(hourly)} an hour" if hourly is not None else ""
    if so_far is not None:
        return _tile("Cost so far, at most" if one.get("stops") else "Cost so far", money(so_far), rate)
    return _tile("Cost", rate or "not known", "" if rate else "its type or its price is not known here")


def _use(one: Mapping[str, Any]) -> Markup:
    said = mapping(one.get("said"))
    running, done = number(said.get("in_flight")), number(said.get("requests"))
    if running is None:
        seen = words(said.get("trouble")) or "it was not asked"
        return _tile("In flight", "not known", seen)
    return _tile("In flight", f"{running:.0f}", "" if done is None else f"{done:.0f} since it started")


# -- the boot


def phases(boot: Mapping[str, Any]) -> list[Phase]:
    """The phases of a boot, the one under way among them."""
    given = boot.get("phases")
    found = [
        Phase(words(mapping(one).get("phase")), seconds, "")
        for one in (given if isinstance(given, list) else [])[:_MAX_PHASES]
        if (seconds := number(mapping(one).get("seconds"))) is not None
    ]
    current = words(boot.get("phase"))
    if boot.get("error"):
        where = words(mapping(boot["error"]).get("phase"))
        return [one._replace(mark="failed") if one.name == where else one for one in found]
    if current and current != "ready":
        elapsed_s = number(boot.get("elapsed_s")) or 0.0
        found.append(Phase(current, max(0.0, elapsed_s - sum(one.seconds for one in found)), "now"))
    return found


def _boot(one: Mapping[str, Any], how: Condition, log_id: str) -> list[Markup]:
    """The boot's timeline, twice: drawn, and as a list; its error; the end of its log."""
    boot = mapping(mapping(one.get("said")).get("boot"))
    steps, parts = phases(boot), []
    if error := boot.get("error"):
        where = words(mapping(error).get("phase")) or "a phase not known"
        message = words(mapping(error).get("message") if isinstance(error, dict) else error)
        parts.append(tag("p", tag("strong", f"The boot failed in phase {where}: "), message, class_="error"))
    if steps:
        total_s = sum(step.seconds for step in steps)
        took = {"booting": "so far", "failed": "until it failed"}.get(how.tone, "in all")
        title = tag("h3", "Boot ", tag("span", f"{span(total_s)} {took}", class_="quiet"))
        percent = number(boot.get("percent"))
        items = [_step(index, step, percent) for index, step in enumerate(steps)]
        parts.append(tag("div", title, _bar(steps), tag("ol", *items, class_="steps"), class_="boot"))
    given = boot.get("log")
    lines = [words(line) for line in given[-_MAX_LINES:]] if isinstance(given, list) else []
    if lines:
        text = tag("pre", "\n".join(lines), tabindex="0", aria_label="the end of the boot log", role="group")
        failed = how.tone == "failed"
        log_id += "-failed" * failed  # another one, so that it opens; page.js leaves open and shut what is the same
        summary = tag("summary", "The end of the boot log", id=f"{log_id}-summary")
        parts.append(tag("details", summary, text, id=log_id, open=failed))
    return parts


def _step(index: int, step: Phase, percent: float | None) -> Markup:
    swatch = tag("span", class_=f"swatch p{index % 6} {step.mark}".rstrip())
    name = tag("b", f"{step.name}, {step.mark}" if step.mark else step.name)
    share = f", {percent:.0f} %" if step.mark == "now" and percent is not None else ""
    return tag("li", swatch, name, tag("span", f"{span(step.seconds)}{share}"))


def _bar(steps: list[Phase]) -> Markup:
    """The phases side by side, as wide as they were long; the shortest can still be seen."""
    room = _BAR - _GAP * (len(steps) - 1)
    total_s = sum(step.seconds for step in steps) or 1.0
    wide = [max(_LEAST, step.seconds / total_s * room) for step in steps]
    scale = room / sum(wide)
    drawn, at = [], 0.0
    for index, (step, width) in enumerate(zip(steps, wide, strict=True)):
        where = {"x": f"{at:.1f}", "y": 0, "height": 10, "width": f"{width * scale:.1f}"}
        drawn.append(tag("rect", class_=f"p{index % 6} {step.mark}".rstrip(), **where))
        at += width * scale + _GAP
    box = {"viewBox": f"0 0 {_BAR:.0f} 10", "preserveAspectRatio": "none"}
    return tag("svg", *drawn, class_="bar", aria_hidden="true", **box)


# -- the rest


def _facts(one: Mapping[str, Any]) -> Markup:
    disk = number(one.get("disk_gib"))
    rows = {
        "type": words(one.get("type")),
        "disk": f"{disk:.0f} GiB" if disk else "",
        "address": words(one.get("address")),
        "age": span(number(one.get("age_s"))) if number(one.get("age_s")) is not None else "",
        "last used": _moment(one.get("activity")),
        "at the latest until": _moment(one.get("deadline")),
        "reaper": words(mapping(one.get("reap")).get("reason")),
        "id": words(one.get("id")),
    }
    cells = [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows.items() if value]
    return tag("dl", *cells, class_="facts")


def instance_name(one: Mapping[str, Any]) -> str:
    """What to call it."""
    return words(one.get("name")) or words(one.get("id")) or "an instance without a name"


def _moment(value: object) -> str:
    try:
        return f"{datetime.fromisoformat(words(value)).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError):
        return ""


def money(value: float) -> str:
    """An amount with the word that belongs to it."""
    return f"about {shown(value)}"


def span(seconds: float | None) -> str:
    """A length of time in words, its two largest units; page.js counts down in the same."""
    if seconds is None:
        return "a time not known"
    if 0 < seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, size, smaller, rest in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            more = whole % size // rest
            return f"{whole // size} {unit}" + (f" {more} {smaller}" if more else "")
    return f"{whole} s"


def words(value: object) -> str:
    """Text from elsewhere on one line, of bearable length; nothing for what is not there."""
    return "" if value is None else printable(value)[:500]


def mapping(value: object) -> Mapping[str, Any]:
    """An object from elsewhere; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}
