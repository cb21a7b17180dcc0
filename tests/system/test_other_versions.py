"""What a newer version made, as a version sees it that does not know its contract: left alone, and told of each time.

Three places say which contract holds: the ownership label, the user-data's header, the instance's own status. What is
merely not known within v1 is passed over.
"""

import base64
import gzip
import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from client import page
from client.settings import Secret
from functions import status
from tests.simulator import Seen, Simulator
from tests.simulator.driver import user_data
from tests.system.impostor import KEY, Impostor, http
from tests.system.verbs import Clerk, changes, owned_labels, plant

WORDS = ("exollama (contract v2, and this one knows v1)", "Upgrade exollama, or remove it in the portal.")
IDLE = {"idle_s": 9999.0, "in_flight": 0, "boot": {"phase": "ready", "error": None}, "fence": None}

SHUT = http(201, b'{"lease_s": 120.0, "committed": false, "colour": "blue"}')


def told(answers: Mapping[str, bytes]) -> Callable[[str], bytes | None]:
    """What an impostor answers, by how a request begins."""
    return lambda asked: next((answer for begins, answer in answers.items() if asked.startswith(begins)), None)


def of_header(header: str, **edits: str) -> dict[str, Any]:
    """What plants an instance with v1's labels whose user-data has this in its header beside nonce and key."""
    text = gzip.decompress(base64.b64decode(user_data(request="5" * 32, key=Secret(KEY)))).decode()
    head, line, rest = text.split("\n", 2)
    packed = gzip.compress("\n".join([head, line.replace('"v":1', header), rest]).encode())
    return {"labels": owned_labels(**edits), "user_data": base64.b64encode(packed).decode()}


@pytest.fixture
def newer(records: Simulator) -> Seen:
    """One with v2's label."""
    return plant(records, exollama="v2")


TOLD = {
    "reap": (1, "No instance of this version in ch-gva-2, de-fra-1, but of another one."),
    "reap --quiet": (1, ""),
    "reap --dry-run": (1, ""),
    "reap --json": (1, '"version": "v2"'),
    "status": (1, "No instance of this version in ch-gva-2, de-fra-1, but of another one."),
    "status --check": (1, ""),
    "status --json": (1, '"version": "v2"'),
    "status --format prometheus": (1, 'exollama_instance_foreign{id="'),
    "stop": (3, ""),
    "stop --force": (3, ""),
    "logs": (3, ""),
    "env": (3, ""),
    "generate --no-provision why?": (3, ""),
}


@pytest.mark.parametrize("verb", TOLD)
def test_one_with_another_versions_label_is_left_alone_and_told_of_by_each_verb(
    records: Simulator, clerk: Clerk, newer: Seen, verb: str
) -> None:
    code, out = TOLD[verb]
    done = clerk.run(*verb.split()).ended(code, newer.id, *WORDS)
    assert out in done.out
    assert "nothing runs" not in done.said
    assert changes(records) == []
    assert records.called("get-instance") == []


@pytest.mark.parametrize("state", ["error", "stopped"])
def test_whatever_its_state_it_is_left_alone(records: Simulator, clerk: Clerk, state: str) -> None:
    seen = plant(records, exollama="v2", state=state)
    clerk.run("reap").ended(1, seen.id, *WORDS)
    assert changes(records) == []


def test_doctor_says_what_to_do_about_it(records: Simulator, clerk: Clerk, newer: Seen) -> None:
    out = clerk.run("doctor").ended(1).out
    [line] = [line for line in out.splitlines() if line.startswith("FAIL  versions: ")]
    assert newer.id in line
    assert line.endswith(f"alone, and may cost on. To do: {WORDS[1]}")
    assert changes(records) == []


def test_the_page_shows_it_and_does_not_say_that_nothing_runs(records: Simulator, clerk: Clerk, newer: Seen) -> None:
    shown = page.html(status.run(clerk.settings()))
    assert "exollama in ch-gva-2 is left alone" in shown
    assert all(words in shown for words in (newer.id, *WORDS))
    assert "Nothing runs" not in shown
    assert "nothing runs" not in shown


def test_provision_says_so_and_makes_one_of_its_own_beside_it_once(
    records: Simulator, clerk: Clerk, newer: Seen
) -> None:
    first = json.loads(clerk.run("provision", "--no-wait", "--json").ended(0, newer.id, *WORDS, "It is not used").out)
    again = json.loads(clerk.run("provision", "--no-wait", "--json").ended(0, newer.id, *WORDS).out)
    assert first["id"] == again["id"] != newer.id
    assert changes(records).count("create-instance") == 1
    assert records.instance(newer.id) == newer
    other = clerk.run("provision", "--no-wait", EXOSCALE_INSTANCE_NAME="another").ended(0)
    assert newer.id not in other.said, "of another name, and another one's concern"


@pytest.mark.parametrize(
    "edits", [{"manager": {"id": str(uuid.UUID(int=1)), "type": "instance-pool"}}, {"state": "destroying"}]
)
def test_a_pools_and_one_that_goes_already_are_not_told_of(
    records: Simulator, clerk: Clerk, edits: dict[str, Any]
) -> None:
    records.plant(labels=owned_labels(exollama="v2"), **edits)
    assert "nothing runs, nothing costs" in clerk.run("status").ended(0).out


@pytest.mark.parametrize("label", ["V1", "V2", "v01", "v0", "v99999999999", "v" + "9" * 127])
def test_a_label_that_a_hand_made_some_version_is_told_of_too(records: Simulator, clerk: Clerk, label: str) -> None:
    seen = plant(records, exollama=label)
    clerk.run("reap", "--quiet").ended(1, seen.id, f"(contract {label}, and this one knows v1)", WORDS[1])
    assert changes(records) == []


def test_one_of_another_version_keeps_no_other_from_being_reaped(records: Simulator, clerk: Clerk, newer: Seen) -> None:
    plant(records, state="error")
    assert clerk.run("reap").ended(1, newer.id, *WORDS).out.startswith("destroyed")
    assert [one.id for one in records.instances()] == [newer.id]


@pytest.mark.parametrize("label", ["yes", "v", "version2", "v2x", "2"])
def test_a_label_that_is_no_version_is_somebody_elses(records: Simulator, clerk: Clerk, label: str) -> None:
    plant(records, exollama=label)
    assert "nothing runs, nothing costs" in clerk.run("status").ended(0).out


@pytest.mark.parametrize("verb", ["reap", "reap --dry-run", "stop", "stop --force"])
@pytest.mark.parametrize(
    "edits",
    [{}, {"exollama_reach": "limited"}, {"exollama_deadline": "t20260101T000000Z"}],
    ids=["idle", "limited", "past its deadline"],
)
def test_one_whose_user_data_is_of_another_version_is_no_less_left_alone(
    records: Simulator, clerk: Clerk, verb: str, edits: dict[str, str]
) -> None:
    id_ = records.plant(name="exollama", created_ago_s=86400, **of_header('"v":2', **edits))
    clerk.run(*verb.split()).ended(1, id_, *WORDS)
    assert changes(records) == []


def test_such_a_one_is_not_used_and_every_look_at_it_tells(records: Simulator, clerk: Clerk) -> None:
    id_ = records.plant(name="exollama", created_ago_s=86400, **of_header('"v":2'))
    [one] = clerk.run("status", "--probe", "--json").ended(0).json["instances"]
    assert all(words in one["said"]["trouble"] for words in WORDS)
    for words in (["logs"], ["env"], ["generate", "--no-provision", "why?"]):
        clerk.run(*words, EXOSCALE_OLLAMA_KEY=KEY).ended(1, id_, *WORDS)
    assert WORDS[0] in clerk.run("doctor").ended(1).out
    made = json.loads(clerk.run("provision", "--no-wait", "--json").ended(0, id_, *WORDS).out)
    assert made["id"] != id_
    assert [call.path for call in records.calls if id_ in call.path and call.method != "GET"] == []


@pytest.mark.parametrize("answer", [{"v": 2}, {"policy": {"v": 2}}, {"v": "2\x1b[31m"}], ids=str)
def test_what_says_so_itself_is_kept_and_told_of_until_the_deadline_that_its_labels_set(
    records: Simulator, clerk: Clerk, tmp_path: Path, answer: dict[str, Any]
) -> None:
    seen = plant(records, key=KEY)
    assert seen.ip
    body = http(200, json.dumps({**IDLE, **answer}).encode(), Connection="close")  # it listens to one at a time
    answers = {"GET /.exollama/status": body, "PUT ": SHUT, "DELETE ": http(204, Connection="close")}
    with Impostor(seen.ip, tmp_path, KEY, answers=told(answers)):
        words = ("says that it is of contract version 2", WORDS[1])
        assert clerk.run("reap").ended(1, seen.id, *words).said.replace("\n", "").isprintable()
        for verb in (["stop"], ["logs"], ["generate", "why?"], ["provision"]):
            clerk.run(*verb).ended(1, *words)
        assert changes(records) == []
        records.edit_labels(seen.id, exollama_deadline="t20260101T000000Z")
        clerk.run("reap").ended(0)
    assert changes(records) == ["delete-instance"], "a machine may say what it likes: its labels bound its life"


def test_what_is_not_known_within_v1_is_passed_over(records: Simulator, clerk: Clerk, tmp_path: Path) -> None:
    given = of_header('"v":1,"colour":"blue"', exollama_colour="nblue")
    id_ = records.plant(name="exollama", created_ago_s=86400, **given)
    more = {"v": 1, "colour": "blue", "versions": {"colour": 3}, "policy": {"v": 1, "colour": "blue"}}
    body = http(200, json.dumps({**IDLE, **more}).encode())
    address = records.instance(id_).ip
    assert address
    answers = {
        "GET /.exollama/status": body,
        "POST /.exollama/touch": http(204),
        "PUT ": SHUT,
        "POST ": http(200, b'{"committed": true, "colour": "blue"}'),
    }
    with Impostor(address, tmp_path, KEY, answers=told(answers)):
        assert json.loads(clerk.run("provision", "--no-wait", "--json").ended(0).out)["id"] == id_
        assert changes(records) == ["update-instance"]
        now = records.instance(id_).labels
        assert now == {**given["labels"], "exollama-activity": now["exollama-activity"]}
        records.advance(3600)
        assert clerk.run("reap").ended(0).out.startswith(f"destroyed ch-gva-2 exollama {id_}: idle for")


@pytest.mark.parametrize(("created_ago_s", "outcome"), [(60, "kept"), (86400, "destroyed")])
def test_a_phase_that_is_not_known_is_one_of_a_boot_and_gets_no_more_time_than_that(
    records: Simulator, clerk: Clerk, tmp_path: Path, created_ago_s: float, outcome: str
) -> None:
    seen = plant(records, key=KEY, created_ago_s=created_ago_s)
    assert seen.ip
    body = http(200, json.dumps({**IDLE, "boot": {"phase": "colouring", "error": None}}).encode())
    with Impostor(seen.ip, tmp_path, KEY, answers=told({"GET /.exollama/status": body, "PUT ": SHUT})):
        out = clerk.run("reap").ended(0).out
    assert out.startswith(outcome)
    assert "(phase colouring)" in out
