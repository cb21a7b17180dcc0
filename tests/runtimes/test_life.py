"""An instance's whole life through each runtime: provision, status and reap, and no secret where none belongs."""

import json
import time
from collections.abc import Callable

import pytest

from tests.runtimes.drivers import BEARER, KEY, RUNTIMES, TOKEN, Runtime
from tests.simulator import Simulator
from tests.simulator.driver import Answer, ask
from tests.system.verbs import changes
from tests.tally import TALLY

pytestmark = pytest.mark.parametrize("runtime", RUNTIMES, indirect=True, ids=lambda kind: kind.package)


def until_done(do: Callable[[], Answer], between: Callable[[], object] = lambda: None) -> list[Answer]:
    """Ask until the answer is no 202; all answers, that one last."""
    answers = [do()]
    deadline = time.monotonic() + 60
    while answers[-1].status == 202:
        assert time.monotonic() < deadline, answers[-1]
        between()
        time.sleep(0.05)  # Retry-After says five seconds
        answers.append(do())
    return answers


def test_the_code_that_runs_is_the_bundles(runtime: Runtime, cloud: Simulator) -> None:
    assert runtime.do("status").status == 200
    places = {"client", "functions", "urllib3"}
    assert {name for name in runtime.origins if runtime.origins[name].is_relative_to(runtime.bundle)} >= places
    assert all(origin.is_relative_to(runtime.bundle) for origin in runtime.origins.values())


def test_a_browser_is_shown_a_page_and_its_head(runtime: Runtime, cloud: Simulator) -> None:
    browser = {"Accept": "text/html,*/*;q=0.8", "Authorization": BEARER["Authorization"]}
    shown = runtime.ask("GET", "/?action=status", headers=browser)
    assert (shown.status, shown.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert shown.headers["content-security-policy"].startswith("default-src 'none'; ")
    assert shown.body.startswith(b"<!doctype html>")
    assert "Nothing runs, nothing costs." in shown.body.decode()
    head = runtime.ask("HEAD", "/?action=status", headers=browser)
    assert (head.status, head.headers["content-type"], head.body) == (200, "text/html; charset=utf-8", b"")


def test_an_instance_is_provisioned_shown_used_and_reaped(runtime: Runtime, cloud: Simulator) -> None:
    cloud.options.start_s = 3600

    def started() -> None:
        for one in cloud.instances():
            zone = cloud.zones[one.zone]
            with cloud.api.lock:
                zone._up(zone.instances[one.id], None)

    *booting, ready = until_done(lambda: runtime.do("provision"), started)
    assert booting, "a start outlasts one answer"
    for answer in booting:
        assert set(answer.json) == {"phase", "percent", "retry_after_s"}
        assert answer.json["phase"]
        assert answer.headers["retry-after"] == "5"
    assert ready.status == 200, ready
    assert changes(cloud).count("create-instance") == 1
    seen = cloud.instance()
    told = ready.json
    assert (told["id"], told["url"], told["key"], told["phase"]) == (seen.id, seen.url, KEY, "ready")
    assert ask(seen, "GET", "/api/tags", key=KEY).status == 200
    assert ask(seen, "GET", "/api/tags", key="0" * 64).status == 401

    again = runtime.do("provision")
    assert (again.status, again.json["id"]) == (200, seen.id)
    assert changes(cloud).count("create-instance") == 1
    looked = runtime.ask("GET", "/?action=status&probe=true", headers={"X-Exollama-Token": TOKEN})
    assert looked.status == 200, looked
    assert [one["id"] for one in looked.json["instances"]] == [seen.id]
    kept = runtime.do("reap")
    assert (kept.status, [one["outcome"] for one in kept.json["instances"]]) == (200, ["kept"])

    cloud.advance(40 * 60)
    scheduled = json.dumps({"action": "reap", "dry_run": True, "token": TOKEN}).encode()  # as Scaleway's cron does
    planned = runtime.ask("POST", "/", scheduled)
    assert (planned.status, [one["outcome"] for one in planned.json["instances"]]) == (200, ["planned"])
    *_, reaped = until_done(lambda: runtime.do("reap"))
    assert reaped.status == 200, reaped
    assert cloud.instances() == []
    assert len(cloud.called("delete-instance")) == 1
    gone = runtime.ask("GET", "/?action=status" if runtime.rooted else "/status", headers=BEARER)
    assert (gone.status, gone.json["instances"]) == (200, [])

    others = [*booting, looked, kept, planned, reaped, gone]
    places = {"log": runtime.said} | {f"answer {index}": str(answer) for index, answer in enumerate(others)}
    secrets = {"API key": cloud.key, "API secret": cloud.secret, "token": TOKEN}
    assert [
        (what, where) for what, one in (secrets | {"key": KEY}).items() for where, text in places.items() if one in text
    ] == []
    assert [what for what, one in secrets.items() for answer in (ready, again) if one in str(answer)] == []
    TALLY.shown(runtime.row, runtime.how, "provision", "status", "reap")
