"""How the page looks and is used in headless Chromium, in each state: by eye, by keyboard, through a screen reader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from client import page
from client.card import span as in_words
from tests import screenshots
from tests.browser import Sheet, sheet

ADDRESS = "http://page.test/status"
WRONG = {"phase": "docker", "message": "docker did not start: " + "no space left on device " * 4}


def machine(said: dict[str, Any] | None = None, boot: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The ready instance of the pictures, changed."""
    one = screenshots.ready() | changes
    one["said"] = {**one["said"], **(said or {}), "boot": {**one["said"]["boot"], **(boot or {})}}
    return one


def forwarder(state: str, **changes: Any) -> dict[str, Any]:
    """As `client.report.status` has it."""
    return {
        "state": state,
        "phase": None,
        "percent": None,
        "waking_s": None,
        "error": None,
        "in_flight": 1,
        "held": 2,
        "wakes": 1,
        "requests": {"forwarded": 12, "local": 3, "repeated": 0, "refused": 1, "malformed": 0, "broken": 0, "left": 1},
        "uptime_s": 4000.0,
        **changes,
    }


ODD = {
    "ready": screenshots.ready(),
    "booting": screenshots.booting(),
    "in use": machine({"in_flight": 3}, id="a"),
    "a failed boot": machine(boot={"phase": "failed", "error": WRONG, "log": ["word " * 80] * 20}, id="b"),
    "overdue": machine(id="c", overdue="idle for 2 h 26 min", goes_in_s=0),
    "fenced": machine({"fence": {"lease_s": 100.0, "committed": True}}, id="d"),
    "silent": {**screenshots.ready(), "id": "e", "said": {"trouble": "it cannot be reached: refused."}},
    "stopped": {**screenshots.ready(), "id": "f", "state": "stopped", "said": None, "hourly_cost": 0.007},
    "next to nothing": {"id": "g", "name": "n" * 120, "model": "m" * 120, "said": None},
}
PAGES = {
    **{name: page.html(screenshots.result(one)) for name, one in ODD.items()},
    "all": page.html({**screenshots.result(*ODD.values()), "failed": ["at-vie-1 could not be looked at: refused."]}),
    "none": page.html(screenshots.result()),
    "no status": page.failed("The key was refused."),
    "asleep": page.html({}, forwarder("asleep")),
    "waking": page.html({"instances": [screenshots.booting()]}, forwarder("waking", phase="model", percent=41.0)),
    "failed": page.html({}, forwarder("failed", error="The boot failed in phase docker: no space left on device")),
    "served": page.html(screenshots.result(screenshots.ready()), forwarder("ready")),
}


@contextmanager
def shown(chromium: Browser, html: str, **options: Any) -> Iterator[Sheet]:
    """It, as a server would send it."""
    with sheet(chromium, **options) as one:
        headers = {"Content-Type": page.CONTENT_TYPE, **page.headers()}
        one.page.route("**/*", lambda route: route.fulfill(body=html, headers=headers))
        one.page.goto(ADDRESS)
        yield one


# What can be read against what stands behind it (WCAG 2.2, 1.4.3): the ratio of each element that has text of its own.
CONTRASTS = """() => {
  const channels = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const light = (colour) => {
    const [r, g, b] = channels(colour).map((one) => one / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.body.querySelectorAll("*")]
    .filter((one) => one.checkVisibility() && [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .filter((one) => !["METER", "SCRIPT"].includes(one.tagName))
    .map((one) => {
      const [a, b] = [light(getComputedStyle(one).color), light(behind(one))];
      return [one.className || one.tagName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    });
}"""


# axe-core's rules, all of them, on pages that have everything between them; only the colours differ in the dark.
WHOLE = ("all", "none", "no status", "asleep", "waking", "failed", "served")
CHECKED = {"light": ("all", "none", "no status", "failed", "served"), "dark": ("failed", "served")}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_both_colour_schemes_and_breaks_no_rule_of_accessibility(
    chromium: Browser, scheme: Any
) -> None:
    backgrounds = {"light": "rgb(243, 245, 248)", "dark": "rgb(13, 17, 23)"}
    for name in WHOLE:
        with shown(chromium, PAGES[name], color_scheme=scheme, reduced_motion="reduce") as one:
            assert one.page.evaluate("getComputedStyle(document.body).backgroundColor") == backgrounds[scheme]
            found = one.page.evaluate(CONTRASTS)
            assert len(found) > 3
            assert [(name, ratio) for name, ratio in found if ratio < 4.5] == []
            if name in CHECKED[scheme]:
                axe = Axe().run(one.page)
                assert axe.violations_count == 0, axe.generate_report()
            assert one.complaints == []
            assert one.asked == [ADDRESS]


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_on_a_telephone_or_on_a_desk(chromium: Browser, width: int) -> None:
    for name in ("all", "served", "none"):
        with shown(chromium, PAGES[name], viewport={"width": width, "height": 640}) as one:
            one.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            across = "[document.documentElement.scrollWidth, ...[...document.querySelectorAll('.card, .card *')]"
            across += ".map((one) => Math.ceil(one.getBoundingClientRect().right))]"
            assert max(one.page.evaluate(across)) <= width, name


def test_each_state_is_said_in_words_and_its_title_with_it(chromium: Browser) -> None:
    said = {
        "ready": "ready",
        "booting": "booting: model 41 %",
        "in use": "in use",
        "a failed boot": "boot failed in docker",
        "overdue": "ready",
        "fenced": "being removed",
        "silent": "gives no answer",
        "stopped": "stopped",
        "all": "boot failed in docker",
        "none": "nothing runs",
        "no status": "no status",
        "asleep": "asleep",
        "waking": "waking: model 41 %",
        "failed": "failed",
        "served": "ready",
    }
    with sheet(chromium) as one:
        for name, words in said.items():
            one.page.set_content(PAGES[name])
            assert one.page.title() == f"{words} · exollama", name
    with shown(chromium, PAGES["overdue"]) as one:
        expect(one.page.locator(".badge.failed")).to_have_text("overdue")
        expect(one.page.locator(".alert")).to_contain_text("should be gone")


def test_the_keyboard_opens_the_log_and_is_caught_nowhere(chromium: Browser) -> None:
    where = "document.activeElement.localName"
    with shown(chromium, PAGES["served"]) as one:
        keys, details = one.page.keyboard, one.page.locator("details")
        keys.press("Tab")
        assert one.page.evaluate(where) == "summary"
        assert one.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        expect(details).not_to_have_attribute("open", "")
        keys.press("Enter")
        expect(details).to_have_attribute("open", "")
        passed = []
        for _ in range(4):
            keys.press("Tab")
            passed.append(one.page.evaluate(where))
        assert passed == ["pre", "a", "a", "body"]


def test_what_is_open_focused_or_selected_stays_so_when_the_page_brings_itself_up_to_date(chromium: Browser) -> None:
    after = screenshots.result(ODD["in use"], machine({"requests": 215}, idle_s=3, goes_in_s=1797), ODD["silent"])
    used = screenshots.result(machine({"requests": 216, "in_flight": 1}))
    bodies = [PAGES["ready"], page.html({**after, "failed": ["at-vie-1 was not looked at."]}), page.html(used)]
    with sheet(chromium) as one:
        headers = {"Content-Type": page.CONTENT_TYPE, **page.headers()}
        one.page.route("**/*", lambda route: route.fulfill(body=bodies[min(len(one.asked), 3) - 1], headers=headers))
        one.page.goto(ADDRESS)
        one.page.locator("summary").click()
        one.page.evaluate("getSelection().selectAllChildren(document.querySelector('dd'))")
        for requests, cards in (("215", 3), ("216", 1)):
            one.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            expect(one.page.locator("main")).to_contain_text(f"{requests} since it started")
            expect(one.page.locator(".card")).to_have_count(cards)
            expect(one.page.locator(".alert")).to_have_count(int(cards > 1))
            assert one.page.evaluate("document.activeElement.localName") == "summary"
            expect(one.page.locator("details[open]")).to_have_count(1)
            assert one.page.evaluate("getSelection().toString()") == "standard.large"
            if cards > 1:
                assert one.page.locator("span[data-left]").first.inner_text().startswith("29 min 5")
        assert one.complaints == []


def test_a_status_that_cannot_be_had_any_more_is_told_and_what_was_known_stays(chromium: Browser) -> None:
    bodies = [PAGES["ready"], PAGES["no status"], "<p>something else", PAGES["ready"]]
    with sheet(chromium) as one:
        headers = {"Content-Type": page.CONTENT_TYPE, **page.headers()}
        one.page.route("**/*", lambda route: route.fulfill(body=bodies[len(one.asked) - 1], headers=headers))
        one.page.goto(ADDRESS)
        line = one.page.locator("#live")
        for words in ("Asked since: The key was refused.", "Asked since: the answer was 200, and no page."):
            one.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            expect(line).to_contain_text(words)
            expect(one.page.locator("main")).to_contain_text("granite3.1-dense:8b")
        axe = Axe().run(one.page)
        assert axe.violations_count == 0, axe.generate_report()
        one.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(line).to_have_text("")
        expect(one.page).to_have_title("ready · exollama")


def test_what_is_not_looked_at_asks_nobody(chromium: Browser) -> None:
    with shown(chromium, PAGES["served"]) as one:
        one.page.clock.install()
        one.page.reload()
        one.page.evaluate("Object.defineProperty(document, 'hidden', {value: true})")
        one.page.clock.run_for(60_000)
        assert len(one.asked) == 2, "once for each time that it was loaded"


def test_the_script_counts_down_in_the_words_that_the_page_was_written_in(chromium: Browser) -> None:
    with shown(chromium, PAGES["ready"]) as one:
        script = one.page.locator("script").text_content() or ""
        span = script.partition("const span = ")[2].partition("\n  };\n")[0] + "}"
        moments = [0, 10, 59, 60, 61, 119, 600, 3599, 3600, 3660, 7325, 86399, 86400, 90000, 700000]
        written = one.page.evaluate(f"(moments) => moments.map({span})", moments)
        assert written == [in_words(moment) for moment in moments]


def test_nothing_that_came_from_elsewhere_is_taken_for_html(chromium: Browser) -> None:
    hostile = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\'"&amp;</pre></main>'
    boot = {"phase": hostile, "error": {"phase": hostile, "message": hostile}, "log": [hostile]}
    one = machine({"trouble": hostile}, boot, name=hostile, model=hostile, zone=hostile, id=hostile, overdue=hostile)
    html = page.html({"instances": [one], "failed": [hostile], "prices_as_of": hostile, "zones": [hostile]})
    with shown(chromium, html) as sheet_:
        assert sheet_.page.evaluate("window.hacked") is None
        assert sheet_.page.locator("img, main script").count() == 0
        assert sheet_.page.locator("h2", has_text=hostile[:20]).count() >= 1
        assert (sheet_.asked, sheet_.complaints) == ([ADDRESS], [])
