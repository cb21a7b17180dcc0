"""`python -m tests.live`: what it refuses, what it finds, what it never touches and never tells."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from client.endpoint import PORT
from client.settings import Secret
from tests import readme
from tests.iam import POLICIES
from tests.live import __main__ as live
from tests.live import checks, findings
from tests.live import guest as guest_side
from tests.live.account import worst_cost
from tests.simulator import Seen, Simulator
from tests.system.looking import BUDGET, Look
from tests.system.verbs import Clerk, changes, owned_labels, plant

GUEST = ("image", "metadata", "one-port", "repositories")
BOOT = ("boot", "drain", "generate")
ROLES = ("iam-client", "iam-provisioner", "iam-reaper")
UNSEEN = {*GUEST, *BOOT, *ROLES}
"""What records without a machine, a key for everything and no --boot leave open."""


@pytest.fixture
def look(clerk: Clerk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    clerk.simulator.options.at_once = True
    return Look(clerk, tmp_path, monkeypatch)


# -- refusals

NO_BUDGET = r"There is no budget\. At most it costs about 0\.13 .* Say so with --budget 0\.13 or more"
REFUSED: dict[str, tuple[tuple[str, ...], dict[str, str | None], str]] = {
    "no credentials": (BUDGET, {"EXOSCALE_API_SECRET": None}, "Set EXOSCALE_API_KEY and EXOSCALE_API_SECRET to an"),
    "no budget": ((), {}, NO_BUDGET),
    "a cent too little": (("--budget", "0.12"), {}, r"is 0\.12, which is not enough\. At most it costs about 0\.13"),
    "too little for a boot": (("--boot", *BUDGET), {}, r"which is not enough\. .* Say so with --budget 0\.29"),
    "a dear type": (("--type", "gpu3.huge", *BUDGET), {}, "which is not enough"),
    **{
        f"the budget {amount!r}": (("--budget", amount), {}, "an amount above 0 and up to 100, without a currency")
        for amount in (
            "nan",
            "inf",
            "0",
            "0.00",
            "1e3",
            "100.01",
            "99999999",
            "1 CHF",
            "1.00CHF",
            "1,00",
            "",
            " 1",
            "٣",
        )
    },
    "a negative budget": (("--budget=-1",), {}, "an amount above 0"),
    "a type without a price": (("--type", "cpu.huge", *BUDGET), {}, r"No price of cpu\.huge is known"),
    "a type that is none": (("--type", "huge", *BUDGET), {}, "EXOSCALE_INSTANCE_TYPE is 'huge'"),
    "a zone that is none": (("--zone", "Geneva", *BUDGET), {}, "EXOSCALE_ZONE is 'Geneva'"),
    "half a key": (BUDGET, {"EXOLLAMA_LIVE_REAPER_KEY": "EXOreaper"}, "EXOLLAMA_LIVE_REAPER_KEY and _SECRET belong"),
    "a boot by halves": (("--bo", *BUDGET), {}, "unrecognized arguments: --bo"),
}


@pytest.mark.parametrize(("arguments", "env", "words"), REFUSED.values(), ids=REFUSED)
def test_it_refuses_before_it_asks_for_anything(
    look: Look, arguments: tuple[str, ...], env: dict[str, str | None], words: str
) -> None:
    done = look.run(*arguments, env=env)
    assert done.code == 2
    assert re.search(words, done.err.replace("\n", " ")), done.said
    assert look.simulator.calls == []


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (False, "not Exoscale's own, so that nothing found there says anything of Exoscale"),
        (True, "is for what was found at Exoscale itself"),
    ],
)
def test_nothing_from_another_endpoint_gets_into_the_documentation(
    records: Simulator,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    output: bool,
    words: str,
) -> None:
    monkeypatch.setattr(findings, "FILE", tmp_path / "docs.json")
    monkeypatch.setattr(checks, "CHECKS", [])
    arguments = ("--output", str(tmp_path / "." / "docs.json")) if output else ()
    assert live.main([*BUDGET, *arguments], records.env) == 2
    assert words in capsys.readouterr().err
    assert records.calls == []


@pytest.mark.parametrize("broken", ["{", '{"clock": {"endpoint": "http://127.0.0.1"}}', None], ids=str)
def test_where_its_findings_could_not_be_written_it_does_not_begin(
    look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str | None
) -> None:
    monkeypatch.setattr(findings, "FILE", tmp_path / "docs.json")
    monkeypatch.setattr(findings, "is_exoscales", lambda endpoint: endpoint != "http://127.0.0.1")
    if broken:
        findings.FILE.write_text(broken)
    output = () if broken else ("--output", str(tmp_path / "none" / "found.json"))
    assert live.main([*BUDGET, *output], look.simulator.env) == 2
    assert look.simulator.calls == []
    assert capsys.readouterr().err


def test_what_is_found_at_exoscale_itself_updates_the_page(
    look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, make = readme.PARTS["unproven"]
    page = tmp_path / "page.md"
    page.write_bytes(path.read_bytes())
    monkeypatch.setitem(readme.PARTS, "unproven", (page, make))
    monkeypatch.setattr(findings, "FILE", tmp_path / "docs.json")
    monkeypatch.setattr(findings, "is_exoscales", lambda endpoint: True)
    monkeypatch.setattr(checks, "CHECKS", [one for one in checks.CHECKS if "clock" in one[0]])
    assert live.main(BUDGET, look.simulator.env) == 0
    assert "has looked at 4 so far" in page.read_text()
    assert re.search(
        r"^\| Answers carry a `Date`\. .* \| as assumed \(20..-..-.., ch-gva-2\): Date is there",
        page.read_text(),
        re.MULTILINE,
    )
    assert "page.md shows them" in capsys.readouterr().err


def test_help_has_an_example_and_what_it_costs_is_the_worst_case(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        live.main(["--help"], {})
    assert "nox -s live -- --budget 0.50" in capsys.readouterr().out
    # Half an hour until all is removed, 45 minutes until they are off by themselves, and a day of both disks.
    assert worst_cost("standard.small", 1800, None) == pytest.approx(2 * (0.02473 * 1.25 + 24 * 0.0014))
    assert worst_cost("standard.small", 4500, ("standard.medium", 20)) < 0.50


# -- findings


def test_a_whole_run_finds_an_answer_to_each_question_and_leaves_nothing(look: Look) -> None:
    look.power_off_the_second()
    done = look.run(*BUDGET, "--json")
    assert done.code == 0, done.said
    assert {id_ for id_, verdict in look.verdicts().items() if verdict != findings.AS_ASSUMED} == UNSEEN, done.err
    assert {id_ for ids, _ in checks.CHECKS for id_ in ids} == set(look.found)
    assert done.json["findings"] == look.found
    assert look.left() == []
    assert "different: none" in done.err
    assert "Spent so far: about 0.00" in done.err
    assert all("127.0.0.1" in one["endpoint"] and one["date"] and one["zone"] for one in look.found.values())


@pytest.mark.parametrize(
    "options",
    [
        {"unique_group_names": False, "new_address_on_start": True, "list_unauthorized": True, "start_s": 0.03},
        {"list_lag_s": 5.0},
    ],
    ids=["otherwise", "late"],
)
def test_it_finds_its_answers_whichever_way_an_unknown_turns_out(
    records: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    look = Look(Clerk(records, monkeypatch, nap_s=0.02), tmp_path, monkeypatch)
    for name, value in options.items():
        setattr(look.simulator.options, name, value)
    look.power_off_the_second()
    done = look.run(*BUDGET)
    assert done.code == 0, done.said
    lags = {"list"} if "list_lag_s" in options else set()  # which is told
    assert {id_ for id_, verdict in look.verdicts().items() if verdict != findings.AS_ASSUMED} == UNSEEN | lags
    assert look.left() == []
    seen = {id_: one["seen"] for id_, one in look.found.items()}
    assert ("another" in seen["address"]) is ("new_address_on_start" in options)
    assert ("2 of that name" in seen["groups-twice"]) is ("unique_group_names" in options)


OTHERWISE = {
    "in what is survived": [
        ("update-instance", "busy", 0, "labels-starting", "as assumed", "reason busy"),
        ("update-instance", "409", 1, "labels-stopping", "as assumed", "409"),
        ("add-rule-to-security-group", "409", 1, "rules-twice", "as assumed", "409"),
        ("create-instance", "no-reference", 0, "create", "as assumed", "success/running"),
        ("list-quotas", "403-iam", 0, "quotas", "could not be seen", "role policy"),
        ("add-instance-protection", "403-iam", 0, "protection", "could not be seen", "role policy"),
    ],
    "in what is not": [
        ("update-instance", "404", 0, "labels-starting", "different", "404"),
        ("create-security-group", "op-failure", 1, "groups-twice", "different", "reason unknown"),
        ("create-instance", "instance-error", 0, "create", "different", "success/error"),
        ("get-security-group", "garbage", 0, "rules-twice", "could not be seen", "GET /security-group/<id>: "),
    ],
    "in what is made": [
        ("create-instance", "quota", 0, "create", "could not be seen", "Quota exceeded"),
        ("stop-instance", "500", 0, "names-twice", "could not be seen", "there is no first"),
    ],
    "in that nothing is made": [
        ("create-instance", "quota", 0, "create", "could not be seen", "Quota exceeded"),
        ("create-instance", "quota", 0, "signing", "could not be seen", "no instance was made"),
    ],
}


@pytest.mark.parametrize("otherwise", OTHERWISE.values(), ids=OTHERWISE)
def test_what_is_otherwise_is_told_as_such(look: Look, otherwise: list[tuple[str, str, int, str, str, str]]) -> None:
    look.power_off_the_second()
    for operation, kind, skip, *_ in otherwise:
        look.simulator.fault(operation, kind, skip=skip)
    done = look.run(*BUDGET)
    assert done.code == 0, done.said
    for *_, id_, verdict, seen in otherwise:
        assert (id_, look.found[id_]["verdict"]) == (id_, verdict), look.found[id_]
        assert seen in look.found[id_]["seen"]
    assert look.left() == []


def test_roles_are_held_to_their_policies(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        checks, "CHECKS", [one for one in checks.CHECKS if {"rules-twice", "create", *ROLES} & {*one[0]}]
    )
    given = {}
    for role, policy in {"CLIENT": "provisioner", "REAPER": "reaper", "PROVISIONER": "provisioner"}.items():
        env = look.simulator.role(POLICIES[policy])
        for part in ("KEY", "SECRET"):
            given[f"EXOLLAMA_LIVE_{role}_{part}"] = env[f"EXOSCALE_API_{part}"]
    done = look.run(*BUDGET, env=given)
    assert look.verdicts(*ROLES) == dict.fromkeys(ROLES, "as assumed") | {"iam-client": "different"}, look.found
    assert "list-templates is allowed" in look.found["iam-client"]["seen"]
    assert not any(secret in look.output.read_text() + done.err for secret in given.values())


def test_a_wrong_key_of_a_role_is_no_finding_about_its_policy(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"rules-twice", "create", *ROLES}
    monkeypatch.setattr(checks, "CHECKS", [one for one in checks.CHECKS if wanted & {*one[0]}])
    given = {"EXOLLAMA_LIVE_REAPER_KEY": look.simulator.key, "EXOLLAMA_LIVE_REAPER_SECRET": "a-wrong-secret"}
    look.run(*BUDGET, env=given)
    assert look.verdicts("iam-reaper") == {"iam-reaper": "could not be seen"}
    assert "Invalid request signature" in look.found["iam-reaper"]["seen"]


@contextmanager
def guest(look: Look, changed: dict[str, Any]) -> Iterator[None]:
    """The first machine's own word, from when the second is made on."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def serve() -> None:
        first = look.simulator.instances()[0]
        sent = hashlib.sha256(base64.b64decode(first.user_data or "")).hexdigest()
        facts = {"user_data": sent, "address": first.ip, "cloud": "exoscale", "vendor": "Exoscale", "python": "3.12.3"}
        reached = {"download.docker.com": 200, "registry-1.docker.io\x1b[2J": 401}
        body = json.dumps(
            {**facts, "reached": reached, "system": "Ubuntu\x1b[31m", "uptime_s": 31.5, **changed}
        ).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        for port in (PORT, *([guest_side.CLOSED] if changed is OTHER else ())):
            servers.append(http.server.ThreadingHTTPServer((first.ip or "", port), Handler))
            threading.Thread(target=servers[-1].serve_forever, args=(0.02,)).start()

    look.simulator.fault("create-instance", "slow", skip=1, seconds=0, then=serve)
    try:
        yield
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


OTHER = {"user_data": "0" * 64, "python": "3.8.10", "reached": {"download.docker.com": "URLError"}}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [({}, "as assumed"), (OTHER, "different"), ({"reached": "everything"}, "could not be seen")],
    ids=["right", "other", "nonsense"],
)
def test_the_machines_own_word_is_compared_with_what_was_sent(
    look: Look, changed: dict[str, Any], verdict: str
) -> None:
    with guest(look, changed):
        look.run(*BUDGET)
    assert look.verdicts(*GUEST) == dict.fromkeys(GUEST, verdict)
    assert not any("\x1b" in one["seen"] for one in look.found.values())
    assert look.left() == []


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"EXOSCALE_API_SECRET": "a-wrong-secret"}, "CredentialsRejected: GET /instance: Invalid request signature"),
        ({"EXOSCALE_ZONE": "de-muc-1"}, "There is no zone de-muc-1. Zones: ch-gva-2, de-fra-1"),
    ],
)
def test_where_nothing_could_begin_it_ends_at_once(look: Look, env: dict[str, str], words: str) -> None:
    done = look.run(*BUDGET, env=env)
    assert done.code == 1
    assert words in done.err
    assert len(look.simulator.calls) < 10
    assert not look.output.exists()


# -- what is others', and what is secret


def test_what_it_did_not_make_is_never_touched(look: Look) -> None:
    records = look.simulator
    ours = plant(records, created_ago_s=90_000)  # idle for long: any reaper would take it
    foreign = records.plant(name="somebody-elses")
    beside = records.plant(name="exollama-live-0123456789ab", labels=owned_labels(exollama_name="nexollama-live-x"))
    unvouched = plant(
        records, vouched=False, exollama_name="nexollama-live-0123456789ab", exollama_deadline="t20260101T000000Z"
    )
    zone = next(iter(records.zones.values()))
    group = zone._group("exollama-live-0123456789ab", "somebody's own, until t20260101T000000Z")
    before = {one.id: one for one in records.instances()}
    look.power_off_the_second()
    done = look.run(*BUDGET)
    look.run("--clean")
    assert done.code == 0, done.said
    after: dict[str, Seen] = {one.id: one for one in records.instances()}
    assert after == before
    assert {ours.id, foreign, beside, unvouched.id} == set(after)
    assert group["id"] in zone.groups
    written = [call.path for call in records.calls if call.method != "GET"]
    assert not [path for path in written if any(id_ in path for id_ in (*before, group["id"]))]


def test_what_belongs_to_the_account_is_in_no_output_and_in_no_finding(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    made = guest_side.user_data

    def kept(request: str, key: Secret, off_s: int) -> str:
        keys.append(key.reveal())
        return made(request, key, off_s)

    monkeypatch.setattr(guest_side, "user_data", kept)
    look.power_off_the_second()
    done = look.run(*BUDGET, "--json")
    records, text = look.simulator, look.output.read_text()
    assert len(keys) == 2
    for secret in (records.secret, *keys):
        assert secret not in done.out + done.err + text
    for private in (records.key, *(call.path.split("/")[4] for call in records.called("get-instance"))):
        assert private not in done.out + text
    assert not [one for one in look.found.values() if "127.1" in one["seen"]]


def test_a_boot_is_made_used_and_drained(
    cloud: Simulator, here: Clerk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On real machines, so that nothing but the boot is looked at."""
    idle = plant(cloud, created_ago_s=90_000)  # provision tidies up beside its own work, elsewhere
    there = [one.id for one in cloud.instances()]
    only = [(ids, check) for ids, check in checks.CHECKS if "boot" in ids]
    monkeypatch.setattr(checks, "CHECKS", only)
    look = Look(here, tmp_path, monkeypatch)
    done = look.run("--budget", "0.60", "--boot")
    assert done.code == 0, done.said
    assert look.verdicts() == dict.fromkeys(BOOT, "as assumed"), look.found
    assert "warmup" in look.found["boot"]["seen"]
    assert "smollm:135m on standard.medium: " in look.found["generate"]["seen"]
    assert [one.id for one in cloud.instances()] == there
    assert idle.id in there
    assert "delete-instance" in changes(cloud)
