"""The page as HTML: what stands in it for each state, that it is well-formed, and that nothing in it is trusted."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import page
from client.card import condition, phases, span
from client.markup import Markup, join, tag
from tests.screenshots import booting, ready, result
from tests.unit.read_page import Read


def read(*instances: Any, forwarder: dict[str, Any] | None = None, **more: Any) -> Read:
    return Read(page.html({**result(*instances), **more}, forwarder))


def test_everything_about_an_instance_is_there() -> None:
    found = read(ready() | {"overdue": "idle for 2 h"})
    for words in (
        "exollama",
        "3f0e6c1a-7a52-4a53-9d0e-5b8f3b1f7c11",
        "granite3.1-dense:8b · ch-gva-2",
        "standard.large",
        "50 GiB",
        "192.0.2.17",
        "3 h 12 min",
        "2026-12-03 08:12 UTC",
        "12 min 30 s",
        "if nobody uses it; idle for 17 min 30 s",
        "about 0.32",
        "about 0.10 an hour",
        "214 since it started",
        "2 min 52 s in all",
        "should be gone",
        "the price list of 2026-10",
        "2026-11-26 11:24:00 UTC",
    ):
        assert words in found.said, words
    assert found.texts["b"] == ["starting", "docker", "nginx", "image", "container", "model", "warmup"]
    [meter] = found.attributes["meter"]
    assert (meter["value"], meter["max"], meter["data-left"]) == ("750", "1800", "750")
    assert found.texts["title"] == ["ready · exollama"]


def test_a_bar_is_as_wide_as_its_phases_were_long_and_the_shortest_can_be_seen() -> None:
    bars = read(ready()).attributes["rect"]
    widths = [float(bar["width"] or 0) for bar in bars]
    assert [width / 5.65 for width in widths] == pytest.approx([1.2, 31.4, 6.2, 47.7, 2.1, 74.6, 9.3], abs=0.3)
    assert min(widths) >= 7
    assert sum(widths) + 4 * (len(widths) - 1) == pytest.approx(1000, abs=1)


@pytest.mark.parametrize(
    ("instances", "words"),
    [
        ([], "Nothing runs, nothing costs."),
        ([ready()], "1 instance running, about 0.10 an hour"),
        ([ready(), booting()], "2 instances running, about 0.29 an hour"),
        ([{**ready(), "state": "stopped", "hourly_cost": 0.007}], "1 instance stopped, about 0.007 an hour"),
        (
            [ready(), {"id": "x", "state": "stopped"}],
            "1 instance running and 1 instance stopped, at least about 0.10 an hour",
        ),
        ([{"id": "x", "state": "running"}], "1 instance running"),
        ([ready(), {"id": "x", "state": "destroying"}], "1 instance running, about 0.10 an hour"),
        ([{"id": "x", "state": "destroying"}], "Nothing runs any more"),
    ],
    ids=["none", "one", "two", "stopped", "both", "a price that is not known", "one going", "going"],
)
def test_the_first_sentence_says_what_runs_and_about_what_it_costs(instances: list[Any], words: str) -> None:
    assert words in read(*instances).said


def test_what_may_have_been_stopped_meanwhile_has_cost_at_most_so_much() -> None:
    assert "Cost so far, at most" in read(ready() | {"stops": True}).said
    assert "at most" not in read(ready() | {"stops": False, "deadline": None}).said


def test_no_amount_stands_without_about() -> None:
    said = read(ready(), booting(), {**ready(), "id": "x", "cost": 0.00004, "hourly_cost": 0.0002}).said
    amounts = re.findall(r"(\S+ )(\d+\.\d{2,3})(?! s)\b", said.replace("192.0.2", ""))
    assert len(amounts) >= 6
    assert {before.strip() for before, _ in amounts} == {"about"}


@pytest.mark.parametrize(
    ("one", "tone", "words"),
    [
        (ready(), "ready", "ready"),
        (booting(), "booting", "booting: model 41 %"),
        ({"state": "running", "said": {"boot": {"phase": "docker"}}}, "booting", "booting: docker"),
        ({"state": "running", "said": {"boot": {"phase": "ready"}, "in_flight": 2}}, "busy", "in use"),
        ({"state": "running", "said": {"boot": {"phase": "ready"}, "fence": {}}}, "ready", "ready"),
        ({"state": "running", "said": {"boot": {"phase": "ready"}, "fence": {"v": 1}}}, "leaving", "being removed"),
        ({"state": "running", "said": {"boot": {"phase": "failed", "error": {"phase": "image"}}}},
         "failed", "boot failed in image"),
        ({"state": "running", "said": {"trouble": "refused"}}, "silent", "gives no answer"),
        ({"state": "running", "said": None}, "ready", "running"),
        ({"state": "starting"}, "booting", "starting"),
        ({"state": "stopped", "said": {"trouble": "refused"}}, "stopped", "stopped"),
        ({"state": "stopping"}, "stopped", "stopping"),
        ({"state": "destroying"}, "leaving", "destroying"),
        ({"state": "migrating"}, "silent", "migrating"),
        ({"state": "error"}, "failed", "in error"),
        ({}, "silent", "state not known"),
    ],
    ids=str,
)  # fmt: skip
def test_a_state_is_a_tone_and_always_words(one: dict[str, Any], tone: str, words: str) -> None:
    assert condition(one) == (tone, words)


GOES: dict[str, tuple[dict[str, Any], str]] = {
    "by the result": ({}, "12 min 30 s"),
    "over": ({"goes_in_s": 0}, "at the next reaping"),
    "not known": ({"goes_in_s": None}, "after 30 min without use"),
    "in use": ({"goes_in_s": None, "said": {"boot": {"phase": "ready"}, "in_flight": 1}}, "not while in use"),
    "in use, its grace over": (
        {"goes_in_s": 0, "said": {"boot": {"phase": "ready"}, "in_flight": 1}},
        "at the next reaping",
    ),
    "booting": ({"goes_in_s": None, "said": {"boot": {"phase": "docker"}}}, "not while booting"),
    "booting for too long": ({"goes_in_s": 0, "said": {"boot": {"phase": "docker"}}}, "at the next reaping"),
    "failed": ({"goes_in_s": 0, "said": {"boot": {"phase": "x", "error": {"phase": "x"}}}}, "at the next reaping"),
    "failed, and not known when": (
        {"goes_in_s": None, "said": {"boot": {"phase": "x", "error": {"phase": "x"}}}},
        "at the next reaping",
    ),
    "failed, and kept": (
        {"goes_in_s": 68400, "said": {"boot": {"phase": "x", "error": {"phase": "x"}}}},
        "kept until then, to be looked at",
    ),
    "migrating": ({"state": "migrating", "goes_in_s": None, "said": None}, "after 30 min without use"),
    "stopped, with a disk": ({"state": "stopped", "goes_in_s": 90000}, "1 d 1 h"),
    "stopped, and nobody can say": (
        {"state": "stopped", "goes_in_s": None, "said": None, "reap": {"decision": "keep", "reason": "why"}},
        "not known why",
    ),
    "stopped, and condemned": (
        {"state": "stopped", "goes_in_s": None, "said": None, "reap": {"decision": "destroy"}},
        "at the next reaping",
    ),
}


@pytest.mark.parametrize(("changes", "words"), GOES.values(), ids=GOES)
def test_it_says_when_an_instance_goes_or_why_that_is_not_known(changes: dict[str, Any], words: str) -> None:
    assert words in " ".join(read(ready() | changes).texts["p"] + read(ready() | changes).texts.get("span", []))


def test_a_boot_that_failed_ends_its_timeline_and_shows_its_log() -> None:
    done = [{"phase": "nginx", "seconds": 5.0}, {"phase": "docker", "seconds": 9.0}]
    boot = {
        "phase": "failed",
        "elapsed_s": 14.0,
        "phases": done,
        "error": {"phase": "docker", "message": "no space"},
        "log": ["== docker", "no space left"],
    }
    assert [(one.name, one.seconds, one.mark) for one in phases(boot)] == [("nginx", 5, ""), ("docker", 9, "failed")]
    found = read(ready() | {"said": {"boot": boot}})
    assert found.texts["b"] == ["nginx", "docker, failed"]
    assert "The boot failed in phase docker: " in found.said
    assert found.texts["pre"] == ["== docker\nno space left"]
    assert "open" in found.attributes["details"][0]


def test_news_are_no_percentages() -> None:
    for changes, phase in (({"percent": 42.0}, "model"), ({"percent": None}, "model"), ({"phase": "warmup"}, "warmup")):
        boot = {**booting()["said"]["boot"], "percent": 99.6, **changes}
        told = [read(booting() | {"said": {"boot": boot}}), read(forwarder=FORWARDER | {**WAKING, **boot})]
        assert [one.attributes["main"][0]["data-news"] for one in told] == [
            f"ci-8241: booting: {phase}",
            f"waking: {phase}",
        ]


def test_what_becomes_overdue_is_news() -> None:
    [main] = read(ready() | {"overdue": "idle for 2 h"}).attributes["main"]
    assert main["data-news"] == "exollama: ready, overdue"


def test_an_open_log_stays_the_same_until_its_boot_fails() -> None:
    def log(**said: Any) -> str | None:
        return read(ready() | {"said": {**ready()["said"], **said}}).attributes["details"][0]["id"]

    boot = ready()["said"]["boot"]
    assert log() == log(in_flight=1) == log(boot={**boot, "phase": "model"}) == log(fence={"v": 1})
    assert log() != log(boot={**boot, "error": {"phase": "model"}})


def test_the_phase_under_way_gets_the_seconds_that_are_left() -> None:
    assert [(one.name, one.mark) for one in phases(booting()["said"]["boot"])][-1] == ("model", "now")
    assert phases(booting()["said"]["boot"])[-1].seconds == pytest.approx(120.4 - 88.6)


FORWARDER: dict[str, Any] = {
    "state": "asleep",
    "phase": None,
    "percent": None,
    "waking_s": None,
    "error": None,
    "in_flight": 2,
    "held": 0,
    "wakes": 1,
    "requests": {"forwarded": 5, "local": 4, "repeated": 3, "refused": 2, "malformed": 1, "broken": 1, "left": 6},
    "uptime_s": 61.0,
}
WAKING: dict[str, Any] = {"state": "waking", "phase": "model", "percent": 41.0, "waking_s": 75.0, "held": 1}
STATES: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "asleep": ({}, "asleep", ["Asleep", "The first prompt wakes one; looking at this page does not."]),
    "asleep, and wakes none": (
        {"may_wake": False},
        "asleep",
        ["It wakes none (--no-provision): exollama provision does."],
    ),
    "waking": (
        WAKING,
        "waking: model 41 %",
        ["Waking: model 41 %", "A machine is being started, for 1 min 15 s so far. 1 request waits for it."],
    ),
    "failed": (
        {"state": "failed", "error": "quota"},
        "failed",
        ["Failed", "Waking a machine failed", "quota", "Correct that; the next prompt tries again"],
    ),
    "stopping": ({"state": "stopping"}, "stopping", ["The forwarder finishes what is under way, and ends."]),
}


@pytest.mark.parametrize(("changes", "title", "words"), STATES.values(), ids=STATES)
def test_a_forwarder_says_how_it_is_and_what_to_do(changes: dict[str, Any], title: str, words: list[str]) -> None:
    found = read(forwarder=FORWARDER | changes)
    assert found.texts["title"] == [f"{title} · exollama"]
    for one in (*words, "under way", "up for 1 min 1 s"):
        assert one in found.said, one
    assert found.texts["dd"] == ["2", str((FORWARDER | changes)["held"]), "5", "4", "3", "3", "7", "1"]
    assert found.links[1:] == ["/.exollama/status", "/.exollama/status?format=prometheus"]


def test_a_forwarder_that_is_ready_has_the_title_of_its_instance() -> None:
    assert read(booting(), forwarder=FORWARDER | {"state": "ready"}).texts["title"] == [
        "booting: model 41 % · exollama"
    ]


def test_what_could_not_be_looked_at_is_told() -> None:
    assert "Types are not known" in read(ready(), notes=["Types are not known"]).said
    told = ["at-vie-1 was not looked at: refused."]
    for shown, title, lead in (
        (read(ready(), failed=told), "ready", "1 instance running, about 0.10 an hour"),
        (read(failed=told), "not known", "Nothing runs in ch-gva-2, de-fra-1; elsewhere is not known"),
        (read(failed=told, zones=[]), "not known", "What runs is not known"),
    ):
        assert shown.texts["title"] == [f"{title} · exollama"]
        assert lead in shown.said
        assert told[0] in shown.said
        assert "Types are not known" not in shown.said
        assert "nothing costs" not in shown.said


def test_the_policy_names_the_two_blocks_that_are_in_the_page_and_lets_nothing_else_in() -> None:
    html = page.html(result(ready()))
    policy = dict(one.partition(" ")[::2] for one in page.headers()["Content-Security-Policy"].split("; "))
    for name, directive in (("script", "script-src"), ("style", "style-src")):
        [block] = re.findall(f"<{name}>(.*?)</{name}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert policy.pop(directive) == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_the_page_names_no_address_but_its_own() -> None:
    html = page.html(result(ready()), FORWARDER)
    assert re.findall(r"https?://[^'&\s]+", html) == ["http://www.w3.org/2000/svg"]  # a name, inside the icon
    assert [link for link in Read(html).links if not link.startswith(("data:", "/.exollama/"))] == []
    assert "url(" not in html
    assert "@import" not in html


HOSTILE = "</pre></main><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;\x1b[31m\u202e"


def test_nothing_from_elsewhere_leaves_its_place() -> None:
    def planted(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: planted(one) for name, one in value.items()} | {HOSTILE: HOSTILE}
        if isinstance(value, list):
            return [planted(one) for one in value]
        return HOSTILE if isinstance(value, str) or value is None else value

    one = planted(ready() | {"overdue": "x"})
    shown = planted(result()) | {"instances": [one, {"id": HOSTILE}, {}, {}], "failed": [HOSTILE]}
    found = Read(page.html(shown, planted(FORWARDER)))
    assert "<script>alert(1)</script>" in found.said
    assert len(found.texts["script"]) == 1
    assert "\x1b" not in found.said
    assert "\u202e" not in found.said
    assert "<script>alert(1)" in Read(page.failed(HOSTILE)).said


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_whatever_a_field_holds_a_page_comes_of_it(data: st.DataObject) -> None:
    one: dict[str, Any] = {**ready(), "overdue": None, "said": dict(ready()["said"])}
    for name in data.draw(st.lists(st.sampled_from(sorted(one)), max_size=4)):
        one[name] = data.draw(ANYTHING)
    if isinstance(one["said"], dict):
        boot = one["said"]["boot"] = dict(ready()["said"]["boot"])
        for name in data.draw(st.lists(st.sampled_from(sorted(boot)), max_size=3)):
            boot[name] = data.draw(ANYTHING)
    for name in data.draw(st.lists(st.sampled_from(sorted(one)), max_size=4)):
        one.pop(name, None)
    Read(page.html(result(one)))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "a time not known"),
        (0, "0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (750, "12 min 30 s"),
        (3600, "1 h"),
        (8760, "2 h 26 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_a_length_of_time_has_its_two_largest_units(seconds: float | None, words: str) -> None:
    assert span(seconds) == words


def test_markup_escapes_all_but_markup() -> None:
    assert tag("p", "<b>", tag("b", "x"), class_="a b", data_x='"<', open=True, gone=None, off=False) == (
        '<p class="a b" data-x="&quot;&lt;" open>&lt;b&gt;<b>x</b></p>'
    )
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert join("&", Markup("&amp;")) == "&amp;&amp;"
