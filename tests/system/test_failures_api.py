"""What the API refuses, loses or garbles: the message, what was changed, and that a second run heals it."""

import re
import time

import pytest

import client.api
from functions import provision
from tests.simulator import ALWAYS, Simulator
from tests.system.verbs import Clerk, changes, plant

VERBS = {
    "provision": ["provision", "--no-wait"],
    "status": ["status"],
    "reap": ["reap"],
    "generate": ["generate", "why?"],
    "logs": ["logs", "--follow"],
    "env": ["env"],
}


# -- who may do what, and when


@pytest.mark.parametrize("verb", VERBS)
def test_wrong_credentials_are_named_as_such(records: Simulator, clerk: Clerk, verb: str) -> None:
    done = clerk.run(*VERBS[verb], EXOSCALE_API_SECRET="not-the-secret-of-this-key")
    done.ended(1, "Invalid request signature", "Check EXOSCALE_API_KEY and EXOSCALE_API_SECRET")
    assert "IAM" not in done.err
    assert changes(records) == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_denial_by_the_iam_role_is_told_apart_and_names_the_operation(
    records: Simulator, clerk: Clerk, verb: str
) -> None:
    records.fault("list-instances", "403-iam", times=ALWAYS)
    done = clerk.run(*VERBS[verb]).ended(1, "GET /instance: Forbidden by role policy", "IAM role does not allow this")
    assert "EXOSCALE_API_SECRET" not in done.err
    assert changes(records) == []


def test_a_role_that_may_not_create_is_told_so_and_leaves_nothing(records: Simulator, clerk: Clerk) -> None:
    records.fault("create-instance", "403-iam")
    clerk.provisions().ended(1, "POST /instance: Forbidden by role policy", "IAM role does not allow this")
    assert records.instances() == []
    clerk.heals()


@pytest.mark.parametrize(("skew_s", "words"), [(3660, "1:01:00 behind"), (-700, "0:11:40 ahead of")])
@pytest.mark.parametrize("verb", ["provision", "reap"])
def test_a_clock_that_is_off_by_more_than_ten_minutes_changes_nothing(
    records: Simulator, clerk: Clerk, verb: str, skew_s: int, words: str
) -> None:
    plant(records, state="error", created_ago_s=0)  # the reaper would destroy it, provision make another
    records.skew(skew_s)
    done = clerk.run(*VERBS[verb]).ended(1, "Nothing was changed", "timedatectl")
    assert re.search(rf"clock is ({words}|{_near(words)}) the API's", " ".join(done.err.split())), done.err
    assert changes(records) == []
    records.skew(0)
    assert clerk.run("reap").ended(0).out.startswith("destroyed")


def _near(words: str) -> str:
    """The same some seconds sooner or later: the Date has whole ones, and is looked at when there is time for it."""
    minutes, side = words.split(" ", 1)
    hour, minute, second = (int(part) for part in minutes.split(":"))
    total = hour * 3600 + minute * 60 + second
    return "|".join(f"{t // 3600}:{t // 60 % 60:02}:{t % 60:02} {side}" for t in range(total - 5, total + 6))


def test_a_clock_that_is_off_by_nine_minutes_is_no_obstacle(records: Simulator, clerk: Clerk) -> None:
    for skew_s in (540, -540):
        records.skew(skew_s)
        clerk.heals()


# -- what does not exist or may not be used


def test_an_unknown_template_is_answered_with_what_there_is(records: Simulator, clerk: Clerk) -> None:
    done = clerk.provisions(EXOSCALE_TEMPLATE="Linux Ubuntu 16.04 LTS 64-bit")
    done.ended(
        1,
        "There is no template 'Linux Ubuntu 16.04 LTS 64-bit' in ch-gva-2. No other zone lists it either.",
        "Linux Ubuntu 22.04 LTS 64-bit; Linux Ubuntu 24.04 LTS 64-bit; Linux Ubuntu 26.04 LTS 64-bit",
        "Set EXOSCALE_TEMPLATE",
    )
    assert changes(records) == []


def test_a_template_of_another_zone_is_answered_with_that_zone(records: Simulator, clerk: Clerk) -> None:
    templates = records.zones["de-fra-1"].templates
    theirs = {**next(iter(templates.values())), "name": "Ours"}
    original = dict(templates)
    templates[theirs["id"]] = theirs
    try:
        clerk.provisions(EXOSCALE_TEMPLATE="Ours").ended(1, "no template 'Ours' in ch-gva-2. It exists in de-fra-1.")
    finally:
        records.zones["de-fra-1"].templates = original
    assert changes(records) == []


def test_of_two_templates_of_one_name_the_newest_is_taken(records: Simulator, clerk: Clerk) -> None:
    clerk.heals()
    [call] = records.called("create-instance")
    template = records.zones["ch-gva-2"].templates[call.body["template"]["id"]]
    assert (template["name"], template["created-at"]) == ("Linux Ubuntu 22.04 LTS 64-bit", "2026-10-06T08:40:12Z")


def test_an_unknown_type_is_answered_with_those_there_are(records: Simulator, clerk: Clerk) -> None:
    clerk.provisions(EXOSCALE_INSTANCE_TYPE="standard.gigantic").ended(
        1,
        "There is no type standard.gigantic in ch-gva-2. No other zone lists it either. Authorised here: ",
        "standard.large",
        "Set EXOSCALE_INSTANCE_TYPE",
    )
    assert changes(records) == []


@pytest.mark.parametrize("listed", [True, False], ids=["listed as unauthorised", "left out of the list"])
def test_a_type_that_is_not_authorised_is_refused_before_anything_is_created(
    records: Simulator, clerk: Clerk, listed: bool
) -> None:
    records.options.list_unauthorized = listed
    here = records.zones["ch-gva-2"].types
    [mega] = [kind for kind in here.values() if (kind["family"], kind["size"]) == ("memory", "mega")]
    original, here[mega["id"]] = mega, {**mega, "gpus": 1}  # the simulator authorises no GPU by itself
    try:
        done = clerk.provisions(EXOSCALE_INSTANCE_TYPE="memory.mega").ended(1, "Nothing was created" if listed else "")
    finally:
        here[mega["id"]] = original
    if listed:
        assert "The type memory.mega is not authorised" in done.err
        assert "Ask Exoscale's support for it" in done.err
    else:
        assert "no type memory.mega in ch-gva-2. It exists in de-fra-1." in done.err
    assert "standard.large" in done.err
    assert changes(records) == []


def test_an_unknown_zone_is_answered_with_the_zones_there_are(records: Simulator, clerk: Clerk) -> None:
    clerk.provisions(EXOSCALE_ZONE="at-vie-1").ended(
        1, "There is no zone at-vie-1. Zones: ch-gva-2, de-fra-1. Set EXOSCALE_ZONE."
    )
    clerk.run("generate", "why?", EXOSCALE_ZONE="at-vie-1").ended(1, "There is no zone at-vie-1. Zones: ch-gva-2,")
    clerk.run("reap", EXOSCALE_ZONES="ch-gva-2,at-vie-1").ended(1, "at-vie-1 was not looked at")
    assert changes(records) == []


def test_a_used_up_quota_says_who_raises_it_and_that_gpu_quotas_start_at_0(records: Simulator, clerk: Clerk) -> None:
    records.options.instance_quota = 0
    clerk.provisions().ended(1, "Quota exceeded", "Exoscale's support", "GPU types start at 0", "Nothing was created")
    assert records.instances() == []
    records.options.instance_quota = 1
    clerk.heals()


def test_every_wrong_setting_is_named_at_once_and_nothing_is_asked(records: Simulator, clerk: Clerk) -> None:
    wrong = {"EXOSCALE_DISK_SIZE": "tiny", "EXOSCALE_IDLE_TIMEOUT": "0", "EXOSCALE_OLLAMA_KEY": "short"}
    done = clerk.provisions(EXOSCALE_API_KEY="", **wrong).ended(2, "EXOSCALE_API_KEY is not set", *wrong)
    assert len(done.err.splitlines()) == 4
    assert "'short'" not in done.err
    assert records.calls == []


# -- the security group


@pytest.mark.parametrize("unique", [True, False], ids=["unique names", "names may repeat"])
@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("create-security-group", "lost"),
        ("create-security-group", "op-failure"),
        ("add-rule-to-security-group", "op-failure"),
        ("add-rule-to-security-group", "lost"),
        ("list-security-groups", "403-iam"),
    ],
)
def test_a_security_group_that_was_half_made_is_healed_by_the_next_run(
    records: Simulator, clerk: Clerk, operation: str, kind: str, unique: bool
) -> None:
    records.options.unique_group_names = unique
    records.fault(operation, kind, times=ALWAYS if operation.startswith("list") else 1)
    clerk.provisions().ended(1, "security" if "op" in kind else "security-group")
    assert records.instances() == []
    operations = records.zones["ch-gva-2"].operations
    records.wait(lambda: all(one.state != "pending" for one in operations.values()), "what was lost is done")
    clerk.heals()
    _, *ours = records.zones["ch-gva-2"].groups.values()
    assert len(ours) == 1
    opened = [(r["network"], r["protocol"], r["start-port"], r["end-port"]) for r in ours[0]["rules"]]
    assert sorted(opened) == [("0.0.0.0/0", "tcp", 11435, 11435), ("::/0", "tcp", 11435, 11435)]
    [call] = records.called("create-instance")
    assert call.body["security-groups"] == [{"id": ours[0]["id"]}]


# -- bursts, long waits, nonsense


@pytest.mark.parametrize("kind", ["429", "500", "502", "503", "504", "reset", "lost", "html"])
def test_a_burst_of_failures_of_every_kind_of_read_is_survived(records: Simulator, clerk: Clerk, kind: str) -> None:
    for operation in ("list-instances", "list-templates", "get-operation", "get-instance", "list-security-groups"):
        records.fault(operation, kind, times=4)
    heals_through = clerk.run("provision", "--no-wait", "--json").ended(0)
    assert [seen.id for seen in records.instances()] == [heals_through.json["id"]]
    assert sum(call.fault is not None for call in records.calls) == 20


def test_a_failure_that_stays_ends_after_five_attempts_with_its_words(records: Simulator, clerk: Clerk) -> None:
    records.fault("list-instances", "503", times=ALWAYS, message="Maintenance until noon")
    clerk.run("provision").ended(1, "GET /instance: Maintenance until noon (503)")
    assert len(records.calls) == 5


def test_a_retry_after_of_a_day_is_capped_and_named_where_it_stays(records: Simulator, clerk: Clerk) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(0.002)

    records.options.at_once = True  # no wait but those that are asked for
    records.fault("list-instances", "429", times=2, retry_after=86400)
    records.fault("create-instance", "429", retry_after=86400)
    provision.run(clerk.settings(), wait=False, sleep=sleep)
    assert max(slept) <= 1  # the ticker speaks once a second
    assert 90 <= sum(slept) < 120  # three waits of at most thirty seconds
    assert len(records.instances()) == 1
    records.fault("list-instances", "429", times=ALWAYS, retry_after=86400)
    clerk.run("provision").ended(1, "(429)", "asks to come back after 86400 s")


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("garbage", {}, "the answer is no JSON object but"),
        ("html", {"status": 200}, "Is http://127.0.0.1:"),
        ("html", {}, "HTTP 502 without a message"),
        ("404", {"body": "<html>nothing</html>", "content_type": "text/html"}, "404"),
    ],
    ids=["malformed JSON", "HTML with 200", "HTML with 502", "HTML with 404"],
)
def test_an_answer_that_is_no_json_is_shown_and_nothing_is_created(
    records: Simulator, clerk: Clerk, kind: str, options: dict[str, object], words: str
) -> None:
    for verb in ("provision", "generate", "status", "reap"):
        records.fault("list-instances", kind, times=ALWAYS, **options)
        clerk.run(*VERBS[verb]).ended(1, words)
    assert changes(records) == []
    clerk.heals()


@pytest.mark.parametrize("verb", VERBS)
def test_an_api_that_hangs_is_given_up_in_time(
    records: Simulator, clerk: Clerk, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.api, "TIMEOUT_S", 0.05)
    records.fault("list-instances", "hang", times=ALWAYS)
    began = time.monotonic()
    clerk.run(*VERBS[verb]).ended(1, "no answer", "after 5 attempts", "EXOSCALE_API_ENDPOINT")
    assert time.monotonic() - began < 10
    monkeypatch.setattr(client.api, "TIMEOUT_S", 20)
    clerk.heals()


def test_nobody_at_the_endpoint_is_told_with_what_to_check(clerk: Clerk) -> None:
    nobody = "http://127.0.0.1:9/{zone}/v2"
    clerk.run("provision", EXOSCALE_API_ENDPOINT=nobody).ended(1, "cannot connect", "EXOSCALE_API_ENDPOINT")
    clerk.run("generate", "why?", EXOSCALE_API_ENDPOINT=nobody).ended(1, "cannot connect", "EXOSCALE_API_ENDPOINT")
