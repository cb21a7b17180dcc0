"""The status page in headless Chromium, from a forwarder and from a function: what it shows, live, and that it loads
nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import sheet
from tests.simulator import Simulator
from tests.system.functioning import TOKEN, Function, functioning
from tests.system.serving import MODEL, serving, whole
from tests.system.verbs import User, changes

PHASES = ["starting", "docker", "nginx", "image", "container", "model", "warmup"]
LOGIN = {"username": "anybody", "password": TOKEN}


def again(page: Page) -> None:
    """Have it look now, as when its tab is shown again, rather than some seconds later."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def until(page: Page, words: str) -> None:
    """Wait until it shows that."""
    expect(page.locator("main")).to_contain_text(words)


def test_a_forwarders_page_follows_a_machine_from_asleep_to_ready_without_being_loaded_again(
    empty: Simulator, user: User, chromium: Browser
) -> None:
    empty.ollama(pull_hold_percent=40)
    with serving(user) as served, sheet(chromium) as one, ThreadPoolExecutor(1) as programs:
        page = one.page
        page.goto(f"{served.url}/.exollama/")
        until(page, "The first prompt wakes one; looking at this page does not.")
        expect(page).to_have_title("asleep · exollama")
        page.evaluate("window.stayed = true")
        assert changes(empty) == []

        answer = programs.submit(served.generate)
        until(page, "Waking: model 40 %")  # by itself
        expect(page).to_have_title("waking: model 40 % · exollama")
        until(page, "1 request waits for it.")
        names = page.locator(".steps b").all_inner_texts()
        assert names[-1] == "model, now"
        assert "40 %" in page.locator(".steps li").last.inner_text()

        empty.ollama(pull_hold_percent=None)
        assert whole(answer.result())
        again(page)
        expect(page).to_have_title("ready · exollama")
        assert page.locator(".steps b").all_inner_texts() == PHASES
        [seen] = empty.instances()
        for words in (seen.id, MODEL, "standard.large", "50 GiB", "ch-gva-2", "about 0.10 an hour", "2026-10"):
            until(page, words)
        left = page.locator("span[data-left]")
        before = left.inner_text()
        assert before.startswith(("29 min 5", "30 min"))
        expect(left).not_to_have_text(before)  # it counts down
        expect(page.locator("#news")).to_contain_text("exollama: ready")
        assert page.evaluate("window.stayed") is True
        assert seen.key not in page.content()

        used_at = served.status()["idle_s"]
        again(page)
        page.wait_for_timeout(50)
        assert served.status()["idle_s"] >= used_at, "looking is no use"
        assert {url.removeprefix(served.url) for url in one.asked} == {"/.exollama/"}
        assert one.complaints == []
        assert changes(empty).count("create-instance") == 1

        assert served.end().code == 0
        again(page)
        expect(page.locator("#live")).to_contain_text("Asked since: nobody answers.")
        expect(page).to_have_title("(not live) ready · exollama")
        until(page, seen.id)


def test_a_forwarders_page_tells_of_a_failed_boot_and_what_to_do(
    empty: Simulator, user: User, chromium: Browser
) -> None:
    empty.boot(fail="docker")
    with serving(user) as served, sheet(chromium) as one:
        assert served.generate().status == 503
        one.page.goto(f"{served.url}/.exollama/")
        expect(one.page).to_have_title("failed · exollama")
        for words in ("The boot failed in phase docker", "the next prompt tries again"):
            until(one.page, words)


def test_a_forwarders_page_asks_for_its_token_as_a_password_and_another_sites_page_gets_none_of_it(
    empty: Simulator, user: User, chromium: Browser
) -> None:
    with serving(user, EXOLLAMA_SERVE_TOKEN=TOKEN) as served:
        with sheet(chromium) as one:
            refused = one.page.goto(f"{served.url}/.exollama/")
            assert refused
            assert refused.status == 401
        with sheet(chromium, http_credentials=LOGIN) as one:
            one.page.goto(f"{served.url}/.exollama")
            until(one.page, "The first prompt wakes one")
            again(one.page)
            expect(one.page.locator("#live")).to_be_empty()
            one.page.route("http://evil.test/", lambda route: route.fulfill(content_type="text/html", body="hello"))
            one.page.goto("http://evil.test/")
            outcome = (
                "(url) => fetch(url, {mode: 'no-cors', credentials: 'include'}).then(() => 'read', () => 'refused')"
            )
            one.page.evaluate(outcome, f"{served.url}/.exollama/")
            counts = served.ask("GET", "/.exollama/status", Authorization=f"Bearer {TOKEN}").json["requests"]
            assert counts["refused"] >= 2, "without the token, and from another site"
            assert one.page.evaluate("document.body.innerText") == "hello"


@pytest.fixture
def function(empty: Simulator, user: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[Function]:
    with functioning(user, monkeypatch) as one:
        yield one


def test_a_functions_page_asks_for_its_token_as_a_password_shows_every_instance_and_does_without_javascript(
    empty: Simulator, user: User, function: Function, chromium: Browser
) -> None:
    with sheet(chromium) as one:
        refused = one.page.goto(function.url)
        assert refused
        assert refused.status == 401
        assert refused.header_value("www-authenticate") == 'Basic realm="exollama", charset="UTF-8"'

    with sheet(chromium, http_credentials=LOGIN) as one:
        page = one.page
        page.goto(function.url)
        until(page, "Nothing runs, nothing costs.")
        user.run("provision").ended(0)
        page.evaluate("window.stayed = true")
        again(page)
        expect(page).to_have_title("ready · exollama")
        [seen] = empty.instances()
        for words in (seen.id, MODEL, "ch-gva-2", "warmup", "In flight"):
            until(page, words)
        assert page.evaluate("window.stayed") is True
        assert {url.removeprefix(function.url) for url in one.asked} == {"/"}
        assert one.complaints == []
        assert function.answers.count(401) == 2, "once refused, once asked for the token, which it sends from then on"
        for secret in (TOKEN, seen.key):
            assert secret not in page.content()
    with sheet(chromium, http_credentials=LOGIN, java_script_enabled=False) as one:
        one.page.goto(f"{function.url}/status")
        for words in (seen.id, MODEL, "warmup", "Goes in"):
            until(one.page, words)
        assert "reload it" in one.page.locator("noscript p").inner_text()
        assert one.asked == [f"{function.url}/status"]
