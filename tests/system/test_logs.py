"""`exollama logs`: one look at an instance, or one that goes on, which never counts as use and wakes nothing."""

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from tests import fakes
from tests.simulator import ALWAYS, Seen, Simulator, commands
from tests.simulator.driver import boot_report, status
from tests.system.impostor import KEY, Impostor, http
from tests.system.verbs import Clerk, User, changes, let_pass, plant

PHASES = ["starting", "docker", "nginx", "image", "container", "model", "warmup"]


@pytest.fixture
def up(cloud: Simulator, here: Clerk) -> Seen:
    if not cloud.instances():
        here.run("provision").ended(0)
        cloud.api.calls.clear()
    return cloud.instance()


def test_the_instance_is_shown_with_its_boot_s_phases_and_the_end_of_its_log(here: Clerk, up: Seen) -> None:
    out = here.run("logs").ended(0).out
    for words in (
        up.id,
        f"{up.ip}:11435",
        "standard.large",
        "granite3.1-dense:8b",
        "boot          ready, after ",
        "fence         none",
    ):
        assert words in out
    assert re.findall(r"^    (\w+) +[0-9.]+ s", out, re.MULTILINE) == PHASES
    assert out.rstrip().endswith("| == ready")
    assert up.key not in out


def test_as_json_it_is_one_object(here: Clerk, up: Seen) -> None:
    [one] = here.run("logs", "--json").ended(0).json["instances"]
    assert (one["id"], one["zone"], one["state"], one["trouble"]) == (up.id, up.zone, "running", None)
    assert one["type"] == "standard.large"
    assert one["type_id"]
    assert one["idle_timeout_s"] == 1800
    assert [phase["phase"] for phase in one["said"]["boot"]["phases"]] == PHASES
    assert one["said"]["boot"]["log"][-1] == "== ready"


def test_looking_is_no_use_and_changes_nothing(cloud: Simulator, here: Clerk, up: Seen) -> None:
    let_pass(cloud, 1200)
    before = cloud.instance().labels
    here.run("logs").ended(0)
    here.run("logs", "--follow").ended(0)
    assert changes(cloud) == []
    assert cloud.instance().labels == before
    assert status(up)["idle_s"] >= 1200
    let_pass(cloud, 1150)
    assert here.run("reap").ended(0).out.startswith("destroyed"), "idle since before anybody looked"


def test_a_boot_is_followed_until_it_is_ready_and_each_line_is_shown_once(
    cloud: Simulator, empty: Simulator, user: User, here: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    play, follows = commands._phase, threading.Event()

    def followed(host: commands.Host, phase: str, message: str, code: int = 1) -> commands.Result | None:
        if phase != "starting":  # before which nobody can be asked, and later on a log may be too long for one look
            follows.wait(30)
        return play(host, phase, message, code)

    monkeypatch.setattr(commands, "_phase", followed)
    cloud.boot(delay_s=0.1)
    here.run("provision", "--no-wait").ended(0)
    with user.running("logs", "--follow") as run:
        run.until(lambda: "| == docker" in run.out, "it follows")
        follows.set()
        done = run.end().ended(0)
    seen = cloud.instance()
    assert boot_report(seen)["phase"] == "ready"
    shown = [line.partition("| ")[2] for line in done.out.splitlines() if line.lstrip().startswith("| ")]
    headings = [line.removeprefix("== ") for line in shown if line.startswith("== ")]
    assert headings == [*PHASES, "ready"]
    assert "boot          ready, after " in done.out
    assert done.err == "", "quiet in a pipe"
    assert changes(cloud).count("create-instance") == 1


def test_a_boot_that_fails_ends_it_with_1_its_error_and_what_to_do(
    cloud: Simulator, empty: Simulator, here: Clerk
) -> None:
    cloud.boot(fail="image", delay_s=0.1)
    here.run("provision", "--no-wait", "--keep-failed").ended(0)
    done = here.run("logs", "--follow").ended(1, "Its boot failed", "It is kept, as asked (--keep-failed), until 20")
    assert "exollama reap" not in done.err
    assert re.search(r"^  error +image: .*docker pull", done.out, re.MULTILINE)
    assert here.run("logs").ended(1, "Its boot failed").out.count("== failed in image") == 1


# -- with records alone


def test_with_none_it_says_so_and_ends_with_3(records: Simulator, clerk: Clerk) -> None:
    clerk.run("logs").ended(3, "no instance named exollama in ch-gva-2", "exollama provision")
    plant(records, exollama_name="nanother")
    clerk.run("logs", "--follow", "--json").ended(3, "Others of yours in this zone: another.")


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ({"state": "stopped"}, "It is stopped and cannot be asked"),
        ({"state": "error"}, "It is error and cannot be asked"),
        ({}, "It cannot be asked, and only what the API knows of it is shown: https://"),
    ],
    ids=["stopped", "error", "unreachable"],
)
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
def test_one_that_cannot_be_asked_is_shown_as_the_api_knows_it_with_the_reason(
    records: Simulator, clerk: Clerk, planted: dict[str, Any], words: str, flags: list[str]
) -> None:
    seen = plant(records, key=KEY, **planted)
    done = clerk.run("logs", *flags).ended(1, words, seen.id)
    assert seen.id in done.out
    if flags:
        [one] = done.json["instances"]
        assert (one["said"], one["model"]) == (None, "granite3.1-dense:8b")
        assert words in one["trouble"]
    assert changes(records) == []


def test_several_are_shown_the_oldest_first(records: Simulator, clerk: Clerk) -> None:
    young, old = (plant(records, state="stopped", created_ago_s=ago).id for ago in (60, 600))
    shown = clerk.run("logs", "--json").ended(1).json["instances"]
    assert [one["id"] for one in shown] == [old, young]
    assert clerk.run("logs").ended(1, old, young).out.count("in ch-gva-2: stopped") == 2


def test_where_its_key_is_not_known_both_remedies_are_named_and_the_rest_is_shown(
    records: Simulator, clerk: Clerk
) -> None:
    seen = plant(records, key=KEY)
    records.fault("get-instance", "403-iam", times=ALWAYS)
    records.fault("list-instance-types", "403-iam", times=ALWAYS)
    done = clerk.run("logs", "--follow").ended(2, "EXOSCALE_OLLAMA_KEY", "allow the operation get-instance")
    assert seen.id in done.out


# -- with somebody at its address who says what a test wants


class Boot:
    """An instance whose statuses are these, one after the other; the last one stays."""

    def __init__(self, records: Simulator, folder: Path, *statuses: dict[str, Any]) -> None:
        self.seen = plant(records, key=KEY, created_ago_s=60)
        self.statuses = list(statuses)
        assert self.seen.ip
        self.impostor = Impostor(self.seen.ip, folder, KEY, answers=self._answer)

    def _answer(self, asked: str) -> bytes | None:
        if not asked.endswith("/status"):
            return None
        said = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return http(200, json.dumps(said).encode())


def at(phase: str, *log: str, **boot: Any) -> dict[str, Any]:
    said = fakes.status(phase=phase, failed=boot.pop("failed", None))
    return {**said, "boot": {**said["boot"], "log": list(log), **boot}}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.logs.LOOK_S", 0.05)


def test_what_is_new_is_printed_as_it_comes(records: Simulator, clerk: Clerk, tmp_path: Path) -> None:
    boot = Boot(
        records,
        tmp_path,
        at("docker", "a", "b"),
        at("docker", "a", "b"),
        at("docker", "b", "c", "d"),
        at("image", "x", "y"),
        at("ready", "y", "z"),
    )
    with boot.impostor:
        out = clerk.run("logs", "--follow").ended(0).out
    assert re.findall(r"\| (.*)", out) == ["a", "b", "c", "d", "[…]", "x", "y", "z"]


def test_as_json_what_is_new_is_an_object_a_line(records: Simulator, clerk: Clerk, tmp_path: Path) -> None:
    boot = Boot(records, tmp_path, at("docker", "a"), at("docker", "a"), at("ready", "a", "b"))
    with boot.impostor:
        whole, ready = map(json.loads, clerk.run("logs", "--follow", "--json").ended(0).out.splitlines())
    assert [one["id"] for one in (*whole["instances"], ready)] == [boot.seen.id] * 2
    assert [ready["said"]["boot"][name] for name in ("phase", "log")] == ["ready", ["b"]]


def test_nothing_in_a_log_is_obeyed_by_a_terminal(records: Simulator, clerk: Clerk, tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp"
    with Boot(records, tmp_path, at("docker", evil), at("ready", evil, evil + "2")).impostor:
        done = clerk.run("logs", "--follow").ended(0)
    assert done.said.replace("\n", "").isprintable()
    assert "owned" in done.out


def test_one_that_is_removed_while_it_is_followed_ends_that(
    records: Simulator, clerk: Clerk, tmp_path: Path, quick: None
) -> None:
    boot = Boot(records, tmp_path, at("model", "a"))
    answer = boot.impostor.answers

    def removing(asked: str) -> bytes | None:
        if asked.endswith("/status") and boot.seen.id in [seen.id for seen in records.instances()]:
            records.remove(boot.seen.id)
        return answer(asked)

    boot.impostor.answers = removing
    with boot.impostor:
        clerk.run("logs", "--follow").ended(1, "It is gone and cannot be asked")


def test_a_boot_that_takes_too_long_ends_it_too(records: Simulator, clerk: Clerk, tmp_path: Path) -> None:
    boot = Boot(records, tmp_path, at("model", "a"))
    with boot.impostor, pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.logs.boot_budget_s", lambda *_: 0.2)
        clerk.run("logs", "--follow").ended(
            1, "takes longer than it may, and stands in phase model", "`exollama reap`", "EXOSCALE_BOOT_TIMEOUT"
        )
