"""The main job over real sockets: provision, generate, status, env, idle, reaped or stopped and started again."""

import json
import re
import shutil
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from client.settings import Secret, key_mark
from tests.simulator import Seen, Simulator
from tests.simulator.driver import ask, status
from tests.system.verbs import ROOT, User, changes, let_pass

IDLE = 40 * 60
PROMPT = "Why is the sky blue?"


@pytest.fixture
def up(cloud: Simulator, user: User) -> Seen:
    """One instance, ready and just used; the calls so far are forgotten."""
    user.run("provision").ended(0)
    cloud.api.calls.clear()
    [seen] = cloud.instances()
    return seen


def streamed(text: str) -> str:
    """What the stand-in answers."""
    return f"No model answers here: this is the simulator's stand-in for Ollama. You asked granite3.1-dense:8b: {text}"


def test_the_first_prompt_brings_an_instance_up_and_says_what_it_costs(empty: Simulator, user: User) -> None:
    done = user.run("generate", PROMPT, EXOSCALE_ZONE="de-fra-1").ended(
        0, "Creating a standard.large in de-fra-1, about 0.100 per hour", "goes about 30 minutes after its last use"
    )
    assert done.out == streamed(PROMPT) + "\n"
    [seen] = empty.instances()
    assert f"Instance {seen.id} is being created" in done.err
    assert (seen.zone, seen.labels["exollama"], seen.labels["exollama-name"]) == ("de-fra-1", "v1", "nexollama")
    assert changes(empty).count("create-instance") == 1
    empty.remove(seen.id)


def test_provision_is_idempotent_under_each_of_its_names(cloud: Simulator, user: User, up: Seen) -> None:
    for module, arguments in (("client", ["provision"]), ("client", ["start"]), ("functions.provision", [])):
        done = user.run(*arguments, "--json", module=module).ended(0)
        assert "Creating" not in done.err
        assert done.json | {"created": "", "deadline": ""} == {
            "id": up.id,
            "name": "exollama",
            "zone": "ch-gva-2",
            "state": "running",
            "phase": "ready",
            "url": up.url,
            "model": "granite3.1-dense:8b",
            "created": "",
            "deadline": "",
            "key": "***",
        }
    assert changes(cloud) == []
    assert user.run("provision").out == f"{up.url}  granite3.1-dense:8b  {up.id} in ch-gva-2, ready\n"


def test_the_first_token_is_on_stdout_before_the_last_was_sent(cloud: Simulator, user: User, up: Seen) -> None:
    cloud.ollama(hold_after=3)
    with user.running("generate", PROMPT) as run:
        run.until(lambda: run.out == "No model answers", "three tokens")
        assert status(up)["in_flight"] == 1
        cloud.ollama(hold_after=None)
        assert run.end().ended(0).out == streamed(PROMPT) + "\n"


def test_without_streaming_nothing_is_printed_before_the_answer_is_whole(
    cloud: Simulator, user: User, up: Seen
) -> None:
    cloud.ollama(hold_after=3)
    with user.running("generate", "--no-stream", PROMPT) as run:
        run.until(lambda: status(up)["in_flight"] == 1, "in flight")
        time.sleep(0.2)  # in which a stream would have shown; too short a wait only makes this test lenient
        assert run.out == ""
        cloud.ollama(hold_after=None)
        assert run.end().ended(0).out == streamed(PROMPT) + "\n"


def test_what_a_user_adds_to_the_prompt_reaches_ollama(user: User, up: Seen) -> None:
    done = user.run("generate", "--json", "--system", "Be brief.", "-", stdin="From standard input").ended(0)
    assert done.json["response"] == streamed("From standard input System prompt: Be brief.")
    assert done.json["done"] is True
    done = user.run("generate", "--json", "--option", "num_predict=4", "--option", "temperature=0", PROMPT).ended(0)
    assert done.json["response"] == "No model answers here:"
    assert done.json["eval_count"] == 4
    done = user.run("generate", "--format", "json", PROMPT).ended(0)
    assert done.json == {"answer": streamed(PROMPT)}
    done = user.run("generate", "--format", '{"type": "object"}', "--no-stream", PROMPT).ended(0)
    assert done.json == {"answer": streamed(PROMPT)}


def test_without_an_instance_and_with_no_provision_it_is_exit_3_and_nothing_changed(
    empty: Simulator, user: User
) -> None:
    user.run("generate", "--no-provision", PROMPT).ended(
        3, "no running instance named exollama in ch-gva-2", "exollama provision"
    )
    user.run("env").ended(3, "no running instance named exollama in ch-gva-2")
    assert changes(empty) == []


def test_what_env_prints_for_a_shell_makes_curl_trust_the_instance(user: User, up: Seen) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here; the next test does the same with Python's ssl")
    ask_tags = 'curl -sS --fail --cacert "$EXOLLAMA_CACERT" -H "X-Ollama-Key: $EXOSCALE_OLLAMA_KEY" "$EXOLLAMA_URL{}"'
    command = " ".join(f"'{word}'" for word in user.command("client", "env"))
    script = f'eval "$({command})" && {ask_tags.format("/api/tags")}'
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=ROOT, env=user.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["name"] == "granite3.1-dense:8b"
    assert "Then: curl --cacert" in done.stderr


def test_what_env_prints_as_json_is_enough_for_a_strict_tls_client(user: User, up: Seen) -> None:
    given = user.run("env", "--json").ended(0).json
    assert (given["url"], given["key"]) == (up.url, up.key)
    context = ssl.create_default_context(cafile=given["cacert"])
    request = urllib.request.Request(f"{given['url']}/v1/models", headers={"Authorization": f"Bearer {given['key']}"})
    with urllib.request.urlopen(request, context=context, timeout=10) as answer:
        assert json.load(answer)["data"][0]["id"] == "granite3.1-dense:8b"
    assert Path(given["cacert"]).stat().st_mode & 0o077 == 0
    assert "key" not in user.run("env", "--json", "--no-key").ended(0).json
    keyless = user.run("env", "--no-key").ended(0)
    assert up.key not in keyless.said
    assert "EXOLLAMA_KEY_MARK" not in keyless.out
    assert "$EXOSCALE_OLLAMA_KEY" not in keyless.err
    assert f"export EXOLLAMA_KEY_MARK={key_mark(Secret(up.key))}\n" in user.run("env").ended(0).out


def test_status_shows_a_table_or_json_and_with_probe_what_the_instance_says(user: User, up: Seen) -> None:
    head, row, more, total = user.run("status").ended(0).out.splitlines()
    assert re.split("  +", head) == ["name", "state", "zone", "type", "model", "age", "idle", "goes in", "cost, about"]
    kind = "standard.large"  # which the model fits
    assert row.split()[:5] == ["exollama", "running", "ch-gva-2", kind, "granite3.1-dense:8b"]
    assert re.match(rf"  {up.id}  by its label used [0-9]+ (s|min) ago$", more)
    assert total.startswith("1 running, about 0.093 per hour, about 0.")
    assert f"  {up.id}  ready  by its label used " in user.run("status", "--probe").ended(0).out
    given = user.run("--json", "--probe", module="functions.status").ended(0).json
    assert (given["zones"], given["failed"]) == (["ch-gva-2", "de-fra-1"], [])
    [one] = given["instances"]
    assert (one["id"], one["address"], one["reap"]["decision"]) == (up.id, up.ip, "keep")
    assert (one["said"]["in_flight"], one["said"]["boot"]["phase"], one["said"]["fence"]) == (0, "ready", None)


def test_labels_are_written_at_most_once_in_a_quarter_of_the_idle_timeout(
    cloud: Simulator, user: User, up: Seen
) -> None:
    for _ in range(3):
        user.run("generate", PROMPT).ended(0)
    assert changes(cloud) == []
    cloud.advance(1800 / 4 + 1)
    before = cloud.instance(up.id).labels
    for _ in range(2):
        user.run("generate", PROMPT).ended(0)
    assert changes(cloud) == ["update-instance"]
    after = cloud.instance(up.id).labels
    assert after["exollama-activity"] > before["exollama-activity"]
    assert {**after, "exollama-activity": ""} == {**before, "exollama-activity": ""}


def test_a_long_stream_records_activity_while_it_lasts(cloud: Simulator, user: User, up: Seen) -> None:
    cloud.edit_labels(up.id, exollama_idle="s4")  # a write each second
    cloud.ollama(hold_after=1)
    with user.running("generate", PROMPT) as run:
        began = time.monotonic()
        run.until(lambda: changes(cloud).count("update-instance") >= 2, "two writes during the stream")
        assert status(up)["in_flight"] == 1
        cloud.ollama(hold_after=None)
        run.end().ended(0)
        lasted_s = time.monotonic() - began
    assert changes(cloud).count("update-instance") <= lasted_s + 3
    cloud.edit_labels(up.id, exollama_idle="s1800")


def test_the_reaper_keeps_what_answers_or_was_used_though_its_label_is_old(
    cloud: Simulator, user: User, up: Seen
) -> None:
    cloud.ollama(hold_after=2)
    with user.running("generate", PROMPT) as run:
        run.until(lambda: run.out, "the first token")
        cloud.advance(IDLE)
        kept = user.run("--json", module="functions.reap_idle").ended(0).json["instances"]
        assert [(one["outcome"], one["reason"]) for one in kept] == [("kept", "1 request(s) in flight")]
        cloud.ollama(hold_after=None)
        assert run.end().ended(0).out == streamed(PROMPT) + "\n"
    cloud.advance(IDLE)
    ask(up, "POST", "/api/generate", {"model": "granite3.1-dense:8b", "prompt": "not by the client"})
    cloud.wait(lambda: status(up)["idle_s"] < 60, "the agent saw it")
    done = user.run("reap").ended(0)
    assert done.out.startswith(f"kept      ch-gva-2 exollama {up.id}: used ")
    assert "as it says itself" in done.out
    assert "delete-instance" not in changes(cloud)


def test_an_idle_instance_is_reaped_once_and_a_dry_run_only_says_so(cloud: Simulator, user: User, up: Seen) -> None:
    assert user.run("reap", "--quiet").ended(0).out == ""
    done = user.run(module="functions.reap_idle").ended(0)
    assert done.out.startswith(f"kept      ch-gva-2 exollama {up.id}: by its label used ")
    let_pass(cloud, IDLE)
    planned = user.run("reap", "--dry-run", "--json").ended(0).json
    assert planned["dry_run"] is True
    [one] = planned["instances"]
    assert (one["id"], one["outcome"]) == (up.id, "planned")
    assert one["reason"].startswith("would destroy it: idle for 4")
    assert (changes(cloud), [seen.id for seen in cloud.instances()]) == ([], [up.id])
    done = user.run("--quiet", module="functions.reap_idle").ended(0)
    assert (done.out, done.err) == ("", "")
    assert (changes(cloud), cloud.instances()) == (["delete-instance"], [])
    done = user.run("reap").ended(0)
    assert done.out == "No owned instance in ch-gva-2, de-fra-1: nothing runs, nothing costs.\n"
    assert user.run("status").ended(0).out == done.out
    assert changes(cloud) == ["delete-instance"]


def test_with_action_stop_it_is_stopped_started_again_and_destroyed_after_its_retention(
    empty: Simulator, user: User
) -> None:
    user.run("provision", EXOSCALE_REAP_ACTION="stop", EXOSCALE_STOPPED_RETENTION="7200").ended(0)
    [first] = empty.instances()
    let_pass(empty, IDLE)
    assert user.run("reap").ended(0).out.startswith(f"stopped   ch-gva-2 exollama {first.id}: idle for")
    assert empty.instance().state == "stopped"
    assert "its disk kept until" in user.run("reap").ended(0).out
    assert changes(empty).count("stop-instance") == 1

    user.run("generate", PROMPT).ended(0, f"Starting the stopped instance {first.id}")
    assert empty.instance().id == first.id
    assert changes(empty).count("create-instance") == 1
    assert changes(empty)[-2:] == ["update-instance", "start-instance"]  # no reaper takes it for a leftover meanwhile

    let_pass(empty, IDLE)
    user.run("reap").ended(0)
    empty.advance(1800 + 7200)
    done = user.run("reap").ended(0)
    assert "destroyed" in done.out
    assert "longer than its retention of 7200 s" in done.out
    assert empty.instances() == []
