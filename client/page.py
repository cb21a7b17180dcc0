"""The status as one HTML page that loads nothing else: what `functions.status.run` returns, and what a forwarder knows.

Everything is rendered here, once; page.js fetches the page again and takes over what changed, page.css is its looks.
Nothing that is shown is trusted: `client.markup` escapes it, and what is not of the expected type counts as not known.
Neighbours: `client.card` draws one instance; `functions.faas` and `client.report` serve it. No I/O but reading those
two files once. Standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any, Final

from client.card import RANK, Condition, card, condition, heading, instance_name, mapping, money, span, words
from client.markup import Markup, join, tag
from client.model import GONE, number
from client.prices import CURRENCIES

CONTENT_TYPE: Final = "text/html; charset=utf-8"
SLOW_S: Final = 15
"""Seconds between two looks where each of them asks the API and every instance."""
QUICK_S: Final = 3
"""The same where a forwarder answers from what it knows."""
_NOTHING: Final = "Nothing runs, nothing costs."
_ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' "
    "height='16' rx='4' fill='%230b6bcb'/%3E%3Cpath d='M9.5 2 4 9h3.2l-.8 5L12 7H8.8Z' fill='%23fff'/%3E%3C/svg%3E"
)


def html(result: Mapping[str, Any], forwarder: Mapping[str, Any] | None = None) -> str:
    """The page for a result of `functions.status.run`; with `forwarder`, `client.report.status`, for a forwarder's."""
    shown = [mapping(one) for one in result.get("instances") or ()]
    found = [condition(one) for one in shown]
    troubles = [words(one) for one in result.get("failed") or ()]
    foreign = [mapping(one) for one in result.get("foreign") or ()]
    if forwarder:
        own = _own(forwarder)
        first = own if own.tone != "ready" or not found else min(found, key=lambda one: RANK.index(one.tone))
    else:
        own = None
        nothing = Condition("asleep", "nothing runs") if not (troubles or foreign) else Condition("silent", "not known")
        first = min(found, key=lambda one: RANK.index(one.tone)) if found else nothing
    parts = [_lead(result, shown, found, own)]
    if forwarder:
        parts.append(_state(forwarder))
    parts += [_late(one) for one in shown if one.get("overdue")]
    parts += [_foreign(one) for one in foreign]
    if troubles:
        parts.append(_alert("Not everything could be looked at", *troubles))
    parts += [tag("p", words(note), class_="where") for note in result.get("notes") or ()]
    parts += [card(one, how, name) for one, how, name in zip(shown, found, _names(shown), strict=True)]
    if forwarder:
        parts.append(_requests(forwarder))
    parts.append(_foot(result, forwarder))
    late = [", overdue" if one.get("overdue") else "" for one in shown]
    told = zip(shown, found, late, strict=True)
    news = "; ".join(f"{instance_name(one)}: {how.words}{more}" for one, how, more in told)
    # It is read out when it changes, and not for each percent.
    news = re.sub(r" [0-9]+ %", "", news or first.words)
    return _document(first.words, join(*parts), every_s=QUICK_S if forwarder else SLOW_S, news=news)


def _names(shown: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each that stays the same from page to page, and stands for no other."""
    names: list[str] = []
    for one in shown:
        name = re.sub(r"[^A-Za-z0-9_-]", "-", words(one.get("id")))[:64]
        while name in names:
            name += "-"
        names.append(name)
    return names


def failed(message: str) -> str:
    """The page for a status that could not be had, with one sentence."""
    alert = _alert("The status could not be read", message)
    return _document("no status", alert, every_s=SLOW_S, news="no status", failed=words(message))


@cache
def headers() -> dict[str, str]:
    """What goes with the page: nothing is loaded from anywhere, and nothing runs but what is in it."""
    script, style = (
        "'sha256-" + base64.b64encode(hashlib.sha256(_file(name).encode()).digest()).decode() + "'"
        for name in ("page.js", "page.css")
    )
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


@cache
def _file(name: str) -> str:
    return resources.files("client").joinpath(name).read_text("utf-8")


def _document(title: str, inside: Markup, *, every_s: int, news: str, failed: str | None = None) -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} · exollama"),
        tag("link", rel="icon", href=_ICON),
        tag("style", Markup(_file("page.css"))),
    )
    top = tag(
        "header",
        tag("h1", "exollama"),
        tag("p", "a private Ollama that exists only while somebody uses it", class_="motto"),
    )
    body = tag(
        "body",
        top,
        tag("p", id="live", role="status"),
        tag("main", inside, data_every=every_s, data_news=news, data_failed=failed),
        tag("p", id="news", role="status", class_="unseen"),
        tag("noscript", tag("p", "This page brings itself up to date with JavaScript; without it, reload it.")),
        tag("script", Markup(_file("page.js"))),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _lead(
    result: Mapping[str, Any],
    shown: Sequence[Mapping[str, Any]],
    found: Sequence[Condition],
    own: Condition | None,
) -> Markup:
    """The one sentence that says it all."""
    if own and own.tone != "ready":
        return heading(own, own.words.capitalize())
    if not shown:
        zones = ", ".join(words(zone) for zone in result.get("zones") or ())
        if result.get("foreign"):
            return heading(Condition("silent", ""), "What this version did not make is there, and left alone")
        if result.get("failed"):
            title = f"Nothing runs in {zones}; elsewhere is not known" if zones else "What runs is not known"
            return heading(Condition("silent", ""), title)
        where = tag("p", f"No instance of exollama's in {zones}." if zones else "No instance.", class_="where")
        return tag("div", heading(Condition("asleep", ""), _NOTHING), where, class_="empty")
    here = [one for one in shown if words(one.get("state")) not in GONE]
    off = sum(how.tone == "stopped" for how in found)
    counted = ((len(here) - off, "running"), (off, "stopped"))
    said = " and ".join(f"{count} instance{'s' * (count > 1)} {how}" for count, how in counted if count)
    known = [hourly for one in here if (hourly := number(one.get("hourly_cost"))) is not None]
    cost = f", {'' if len(known) == len(here) else 'at least '}{money(sum(known))} an hour" if known else ""
    return tag("p", f"{said or 'Nothing runs any more'}{cost}", class_="lead")


def _own(forwarder: Mapping[str, Any]) -> Condition:
    """How a forwarder itself is, in its own terms."""
    state, phase, percent = (forwarder.get(name) for name in ("state", "phase", "percent"))
    if state == "waking":
        share = "" if number(percent) is None else f" {number(percent):.0f} %"
        return Condition("booting", f"waking: {words(phase) or 'starting'}{share}")
    tones = {"ready": "ready", "failed": "failed", "stopping": "leaving"}
    return Condition(tones.get(words(state), "asleep"), words(state) or "not known")


def _state(forwarder: Mapping[str, Any]) -> Markup:
    """What a forwarder is about, and what to do where that is nothing."""
    held = number(forwarder.get("held")) or 0
    waits = f" {held:.0f} request{'s wait' if held != 1 else ' waits'} for it." if held else ""
    wakes = "The first prompt wakes one; looking at this page does not."
    if not forwarder.get("may_wake", True):
        wakes = "It wakes none (--no-provision): exollama provision does."
    said = {
        "asleep": f"It knows of no machine that is ready. {wakes}",
        "waking": f"A machine is being started, for {span(number(forwarder.get('waking_s')))} so far.{waits}",
        "ready": "",
        "stopping": "The forwarder finishes what is under way, and ends.",
    }.get(words(forwarder.get("state")), "")
    if trouble := forwarder.get("error"):
        again = "Correct that; the next prompt tries again, after a pause that grows with each failure."
        return _alert("Waking a machine failed", words(trouble), again)
    return tag("p", said, class_="where") if said else join()


def _requests(forwarder: Mapping[str, Any]) -> Markup:
    """What has become of a forwarder's requests."""
    counts = mapping(forwarder.get("requests"))
    rows = {
        "under way": forwarder.get("in_flight"),
        "waiting for a machine": forwarder.get("held"),
        "forwarded": counts.get("forwarded"),
        "answered here": counts.get("local"),
        "sent again": counts.get("repeated"),
        "refused": (number(counts.get("refused")) or 0) + (number(counts.get("malformed")) or 0),
        "cut, or left": (number(counts.get("broken")) or 0) + (number(counts.get("left")) or 0),
        "machines woken": forwarder.get("wakes"),
    }
    cells = [
        tag("div", tag("dt", name), tag("dd", f"{value:.0f}"))
        for name, count in rows.items()
        if (value := number(count)) is not None
    ]
    up = tag("span", f"up for {span(number(forwarder.get('uptime_s')))}", class_="quiet")
    title = tag("h2", "Requests through this forwarder", id="requests-title")
    top = tag("div", title, up, class_="top")
    return tag("section", top, tag("dl", *cells, class_="facts"), class_="card", aria_labelledby="requests-title")


def _late(one: Mapping[str, Any]) -> Markup:
    name = f"{instance_name(one)} in {words(one.get('zone')) or 'a zone not known'}"
    remedy = "Does a reaper run (cron), and can it reach port 11435? Try: exollama reap"
    return _alert(f"{name} should be gone", f"{words(one.get('overdue'))}. {remedy}")


def _foreign(one: Mapping[str, Any]) -> Markup:
    name = f"{instance_name(one)} in {words(one.get('zone')) or 'a zone not known'}"
    return _alert(f"{name} is left alone", f"{words(one.get('id'))} was {words(one.get('reason'))}")


def _alert(title: str, *sentences: str) -> Markup:
    said = tag("ul", *(tag("li", one) for one in sentences)) if len(sentences) > 1 else tag("p", *sentences)
    return tag("div", heading(Condition("failed", ""), title), said, class_="alert")


def _foot(result: Mapping[str, Any], forwarder: Mapping[str, Any] | None) -> Markup:
    """When this was so, and of when the prices are."""
    try:
        moment = datetime.fromisoformat(words(result.get("time"))).astimezone(UTC)
    except ValueError:
        moment = datetime.now(UTC)
    parts = ["As of ", tag("time", f"{moment:%Y-%m-%d %H:%M:%S} UTC", datetime=moment.isoformat(timespec="seconds"))]
    if result.get("instances") and (prices := words(result.get("prices_as_of"))):
        parts += [f". Costs are about: by the price list of {prices}, machine and disk, in {CURRENCIES}"]
    parts += ["."]
    if forwarder:
        status = "/.exollama/status"
        parts += [" The same as ", tag("a", "JSON", href=status), " and for "]
        parts += [tag("a", "Prometheus", href=f"{status}?format=prometheus"), "."]
    return tag("p", *parts, class_="foot")
