"""What goes wrong between a client and an instance: cut streams, impostors, keys, models, labels edited by hand."""

import hashlib
import hmac
import json
import os
import pty
import re
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.labels import read_time
from tests.simulator import ALWAYS, Seen, Simulator
from tests.simulator.driver import ask
from tests.system.impostor import KEY, NONCE, Impostor
from tests.system.verbs import ROOT, Clerk, User, changes, let_pass, plant

OTHER_KEY = "another-9876543210-endpoint-key-FEDCBA"


@pytest.fixture
def up(cloud: Simulator, here: Clerk) -> Seen:
    """One instance, ready and just used, as provision left it; the calls so far are forgotten."""
    for seen in cloud.instances():
        if seen.root is None or seen.state != "running":
            cloud.remove(seen.id)
    here.run("provision").ended(0)
    cloud.api.calls.clear()
    [seen] = cloud.instances()
    return seen


# -- streams and models


def test_a_stream_that_is_cut_keeps_what_arrived_and_is_exit_1(cloud: Simulator, here: Clerk, up: Seen) -> None:
    cloud.ollama(cut_after=3)
    done = here.run("generate", "why?").ended(1, up.url)
    assert done.out.startswith("No model answers")
    assert "You asked" not in done.out
    assert "cut off" in done.err or "ended in the middle of the answer" in done.err
    cut = here.run("generate", "--json", "why?").ended(1)
    assert cut.out == ""
    cloud.ollama(cut_after=None)
    assert "You asked" in here.run("generate", "why?").ended(0).out


def test_an_error_in_the_middle_of_an_answer_is_shown_in_ollamas_words(cloud: Simulator, here: Clerk, up: Seen) -> None:
    cloud.ollama(error_after=2)
    done = here.run("generate", "why?").ended(1, "llama runner process has terminated")
    assert done.out.startswith("No model")
    cloud.ollama(error_after=None, fail_generate="model requires more system memory (9.1 GiB)")
    here.run("generate", "why?").ended(1, "answered 500: model requires more system memory (9.1 GiB)")


def test_a_model_that_is_not_there_is_pulled_with_progress(cloud: Simulator, user: User, up: Seen) -> None:
    mine, theirs = pty.openpty()
    shown = bytearray()

    def gather() -> None:
        try:
            while data := os.read(mine, 4096):
                shown.extend(data)
        except OSError:
            pass  # the other end was closed

    command = user.command("client", "generate", "--model", "tinyllama:1.1b", "why?")
    with subprocess.Popen(command, cwd=ROOT, env=user.environment(), stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        reader = threading.Thread(target=gather)
        reader.start()
        out, _ = process.communicate(timeout=60)
        reader.join(10)
    os.close(mine)
    assert process.returncode == 0, shown
    assert b"You asked tinyllama:1.1b: why?" in out
    assert b"The model tinyllama:1.1b is not on the instance yet; pulling it." in shown
    assert b"exollama: model 50 %" in shown


def test_a_model_that_nobody_has_is_told_in_ollamas_own_words(here: Clerk, up: Seen) -> None:
    for _ in range(2):
        here.run("generate", "--model", "no-such-model:1b", "why?").ended(
            1, "The model no-such-model:1b cannot be pulled: pull model manifest: file does not exist"
        )


def test_provision_pulls_the_model_that_is_set_onto_an_existing_instance(here: Clerk, up: Seen) -> None:
    done = here.run("provision", "--json", EXOSCALE_OLLAMA_MODEL="llama3.2:3b").ended(0, "pulling llama3.2:3b")
    assert (done.json["id"], done.json["model"]) == (up.id, "llama3.2:3b")
    assert "llama3.2:3b" in ask(up, "GET", "/api/tags").body.decode()
    here.run("provision", EXOSCALE_OLLAMA_MODEL="no-such:1b").ended(1, "cannot be pulled", "file does not exist")


def test_an_existing_instance_with_other_settings_is_used_and_the_difference_told(here: Clerk, up: Seen) -> None:
    done = here.run("provision", EXOSCALE_IDLE_TIMEOUT="600", EXOSCALE_DISK_SIZE="80").ended(0)
    assert re.search(
        r"EXOSCALE_IDLE_TIMEOUT \(its own\D+1800, set\D+600\), EXOSCALE_DISK_SIZE \(its own\D+50", done.err
    )


@pytest.mark.parametrize("kind", ["409", "500", "lost", "403-iam", "op-failure"])
def test_an_activity_label_that_cannot_be_written_fails_no_answer(
    cloud: Simulator, here: Clerk, up: Seen, kind: str
) -> None:
    let_pass(cloud, 1800 / 4 + 1)
    before = cloud.instance(up.id).labels["exollama-activity"]
    cloud.fault("update-instance", kind, times=ALWAYS)
    assert "You asked" in here.run("generate", "why?").ended(0).out
    done = here.run("provision").ended(0)
    assert ("Warning: the activity label was not written" in done.err) == (kind != "lost")  # the deed was done then
    cloud.clear_faults()
    here.run("generate", "why?").ended(0)
    assert cloud.instance(up.id).labels["exollama-activity"] > before


# -- keys


def test_neither_source_of_the_key_is_exit_2_with_both_remedies(cloud: Simulator, here: Clerk, up: Seen) -> None:
    cloud.fault("get-instance", "403-iam", times=ALWAYS)
    for verb in (["generate", "--no-provision", "why?"], ["env"]):
        here.run(*verb).ended(2, "set EXOSCALE_OLLAMA_KEY", "allow the operation get-instance")


def test_with_get_instance_denied_the_key_of_the_environment_serves(cloud: Simulator, here: Clerk, up: Seen) -> None:
    cloud.fault("get-instance", "403-iam", times=ALWAYS)
    done = here.run("generate", "--no-provision", "why?", EXOSCALE_OLLAMA_KEY=up.key).ended(0)
    assert "You asked" in done.out


def test_a_wrong_key_with_get_instance_denied_is_not_sent_and_told(cloud: Simulator, here: Clerk, up: Seen) -> None:
    cloud.fault("get-instance", "403-iam", times=ALWAYS)
    done = here.run("generate", "--no-provision", "why?", EXOSCALE_OLLAMA_KEY=OTHER_KEY)
    done.ended(1, "not vouched for by our key", "the key is a wrong one", "unset EXOSCALE_OLLAMA_KEY")
    assert "The key was not sent" in done.err


def test_a_key_that_differs_from_the_instances_is_reported_and_the_instances_own_used(here: Clerk, up: Seen) -> None:
    done = here.run("generate", "why?", EXOSCALE_OLLAMA_KEY=OTHER_KEY)
    done.ended(0, "EXOSCALE_OLLAMA_KEY differs from the key of the running instance; the instance's own is used")
    assert here.run("env", "--json", EXOSCALE_OLLAMA_KEY=OTHER_KEY).ended(0).json["key"] == up.key


# -- somebody else at the instance's address


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistrust is final at once; a certificate that is being made again is another test's matter."""
    monkeypatch.setattr("client.boot.MISTRUST_S", 0.0)


@pytest.fixture(params=["a proof of its own", "the true proof, relayed"])
def impostor(request: pytest.FixtureRequest, records: Simulator, tmp_path: Path) -> Iterator[tuple[Impostor, Seen]]:
    """Somebody at the address of an idle instance who does not have its key, but perhaps its true proof."""
    seen = plant(records, key=KEY)
    assert seen.ip
    proof = None
    if request.param == "the true proof, relayed":
        mac = hmac.new(KEY.encode(), f"exollama-tls-v1\n{NONCE}\n{'ab' * 32}".encode(), hashlib.sha256).hexdigest()
        proof = json.dumps({"nonce": NONCE, "mac": mac}).encode()
    with Impostor(seen.ip, tmp_path, None, proof) as one:
        yield one, seen


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize(
    "arguments",
    [["generate", "--no-provision", "why?"], ["generate", "why?"], ["env"], ["provision"]],
    ids=["generate", "generate or provision", "env", "provision"],
)
def test_an_impostor_never_gets_the_key_nor_the_prompt(
    records: Simulator, clerk: Clerk, impostor: tuple[Impostor, Seen], arguments: list[str]
) -> None:
    one, _ = impostor
    done = clerk.run(*arguments).ended(1, "not vouched for by our key", "somebody intercepts", "The key was not sent")
    assert KEY not in done.said
    assert b"GET /.exollama/proof" in one.heard
    assert KEY.encode() not in one.heard
    assert b"why?" not in one.heard
    assert changes(records) == []


@pytest.mark.parametrize("reach", ["any", "limited"])
def test_an_impostor_is_seen_by_status_and_makes_no_reaper_destroy_what_answers(
    records: Simulator, clerk: Clerk, impostor: tuple[Impostor, Seen], reach: str
) -> None:
    one, seen = impostor
    records.edit_labels(seen.id, exollama_reach=reach)
    [said] = [i["said"] for i in clerk.run("status", "--probe", "--json").ended(0).json["instances"]]
    assert "not vouched for by our key" in said["trouble"]
    clerk.run("reap").ended(1, "cannot be asked", "not vouched for by our key")
    assert KEY.encode() not in one.heard
    assert changes(records) == []


def test_a_401_of_an_instance_that_proved_itself_says_that_it_has_another_key(
    records: Simulator, clerk: Clerk, tmp_path: Path
) -> None:
    seen = plant(records, key=KEY)
    assert seen.ip
    with Impostor(seen.ip, tmp_path, KEY) as one:
        done = clerk.run("generate", "--no-provision", "why?").ended(1, "refuses the key (401)", "EXOSCALE_OLLAMA_KEY")
    assert KEY not in done.said
    assert KEY.encode() in one.heard  # the recorder hears a key that is sent, so its silence above means something


# -- labels edited by hand


@pytest.mark.parametrize("moment", ["tyesterday", "t20260231T000000Z", "unknown!", None, "ahead"])
def test_an_activity_label_that_cannot_be_used_has_the_instance_asked(
    cloud: Simulator, here: Clerk, up: Seen, moment: str | None
) -> None:
    if moment == "ahead":
        ahead = datetime.fromtimestamp(cloud.clock.now(), UTC) + timedelta(days=30)
        moment = f"t{ahead:%Y%m%dT%H%M%S}Z"
    cloud.edit_labels(up.id, exollama_activity=moment)
    done = here.run("reap").ended(0)
    assert done.out.startswith(f"kept      ch-gva-2 exollama {up.id}: used ")
    assert done.out.endswith("ago, as it says itself\n")
    assert up.id in here.run("status").ended(0).out
    here.run("generate", "why?").ended(0)
    written = read_time(cloud.instance(up.id).labels["exollama-activity"])
    assert written
    assert abs(written.timestamp() - cloud.clock.now()) < 60


def test_an_idle_instance_goes_even_where_its_label_claims_the_future(cloud: Simulator, here: Clerk, up: Seen) -> None:
    cloud.edit_labels(up.id, exollama_activity="t29990101T000000Z")
    let_pass(cloud, 40 * 60)
    assert here.run("reap").ended(0).out.startswith("destroyed")
    assert cloud.instances() == []


def test_a_policy_label_that_is_absurd_counts_as_its_default(cloud: Simulator, here: Clerk, up: Seen) -> None:
    cloud.edit_labels(up.id, exollama_idle="s-5", exollama_boot="x", exollama_retention="s99999999999")
    cloud.edit_labels(up.id, exollama_deadline="tomorrow", exollama_action="explode", exollama_reach="moon")
    assert here.run("reap").ended(0).out.startswith("kept")
    [one] = here.run("status", "--json").ended(0).json["instances"]
    lifetime = datetime.fromisoformat(one["deadline"]) - datetime.fromisoformat(one["created"])
    assert lifetime == timedelta(days=7)
    cloud.remove(up.id)


def test_an_instance_whose_ownership_was_taken_away_is_never_touched(cloud: Simulator, here: Clerk, up: Seen) -> None:
    cloud.edit_labels(up.id, exollama=None)
    labels = cloud.instance(up.id).labels
    assert "No owned instance" in here.run("status").ended(0).out
    here.run("generate", "--no-provision", "why?").ended(3, "no running instance")
    let_pass(cloud, 86400 * 30)
    assert "No owned instance" in here.run("reap").ended(0).out
    assert changes(cloud) == []
    assert cloud.instance(up.id).labels == labels
    cloud.remove(up.id)


@pytest.mark.parametrize("state", ["running", "stopped", "error"])
def test_an_instance_whose_user_data_does_not_vouch_for_its_labels_is_reported_and_left(
    records: Simulator, clerk: Clerk, state: str
) -> None:
    seen = plant(records, vouched=False, state=state)
    for arguments in (["reap"], ["reap", "--dry-run"]):
        done = clerk.run(*arguments).ended(1, "does not carry the nonce", "left alone")
        assert seen.id in done.err
    mine = clerk.run("provision", "--no-wait", "--json").ended(0).json["id"]
    assert mine != seen.id
    assert "delete-instance" not in changes(records)
    assert "start-instance" not in changes(records)
    assert records.instance(seen.id).labels == seen.labels


@pytest.mark.parametrize("state", ["running", "error"])
def test_what_belongs_to_an_instance_pool_is_left_alone(records: Simulator, clerk: Clerk, state: str) -> None:
    pool = {"id": "5f2c8f0e-3a0b-4c86-9a55-0d1f4a6b7c11", "type": "instance-pool"}
    records.plant(labels={"exollama": "v1", "exollama-name": "nexollama"}, manager=pool, state=state)
    assert "No owned instance" in clerk.run("reap").ended(0).out
    clerk.run("generate", "--no-provision", "why?").ended(3)
    assert changes(records) == []
