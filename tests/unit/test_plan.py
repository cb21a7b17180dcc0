"""What is settled before anything is charged: type, template, disk, cost, security group, labels and user-data."""

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from client import labels
from client.errors import ApiError, ExollamaError, OutOfTime
from client.model import Instance
from client.settings import Secret
from client.transport import Request, Response
from functions.cloud import Cloud
from functions.plan import find_template, find_type, owned_labels, security_group
from tests.fakes import API_SECRET, KEY, NONCE, NOW, ZONE, settings
from tests.scripted import reply
from tests.unit.account import GIB, TEMPLATE, Account, a_rule, a_type

# -- type


@pytest.mark.parametrize(
    ("model", "taken"),
    [("llama3.2:1b", "medium"), ("granite3.1-dense:8b", "large"), ("gemma2:27b", "huge"), ("llama3.2", "medium")],
)
def test_without_a_set_type_the_smallest_standard_one_that_the_model_fits_is_taken_and_said(
    model: str, taken: str
) -> None:
    account = Account()
    assert find_type(account.cloud, settings(model=model), account.notes.append)["id"] == f"type-standard.{taken}"
    (said,) = account.notes
    assert model in said
    assert f"standard.{taken}" in said


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("llama3.1:70b", ["standard.mega is not known here; it is higher than that of standard.huge, about 0.380 per"]),
        ("gemma2:27b", []),
    ],
)
def test_where_the_price_of_what_was_taken_is_not_known_it_is_said_what_it_is_more_than(
    model: str, told: list[str]
) -> None:
    sizes = {"large": 8, "huge": 32, "mega": 64}
    account = Account(types={ZONE: [a_type(f"standard.{size}", gib) for size, gib in sizes.items()]})
    find_type(account.cloud, settings(model=model), account.notes.append)
    said = account.notes[1:]
    assert len(said) == len(told)
    assert all(words in sentence for words, sentence in zip(told, said, strict=True))


def test_an_unknown_size_is_said_to_be_unknown() -> None:
    account = Account()
    find_type(account.cloud, settings(model="llama3.2"), account.notes.append)
    assert "does not tell its size" in account.notes[0]


def test_a_type_that_is_not_authorised_is_never_taken_by_itself() -> None:
    account = Account(types={ZONE: [a_type("standard.large", 8, authorized=False), a_type("standard.huge", 32)]})
    assert find_type(account.cloud, settings(), account.notes.append)["id"] == "type-standard.huge"


def test_a_type_of_other_zones_only_is_never_taken() -> None:
    account = Account(types={ZONE: [a_type("standard.large", 8, zones=["de-fra-1"]), a_type("standard.huge", 32)]})
    assert find_type(account.cloud, settings(), account.notes.append)["id"] == "type-standard.huge"


def test_a_model_that_fits_no_type_is_refused_with_the_largest_named() -> None:
    with pytest.raises(
        ExollamaError, match=r"fits llama3\.1:70b, which needs about .* \(the largest is standard\.huge\)"
    ):
        find_type(Account().cloud, settings(model="llama3.1:70b"), print)


def test_a_set_type_is_obeyed_with_a_warning_that_names_the_estimate() -> None:
    account = Account()
    chosen = find_type(account.cloud, settings(instance_type="standard.medium"), account.notes.append)
    assert chosen["id"] == "type-standard.medium"
    assert "needs about 6.0 GiB of memory by its tag, and standard.medium has 4.0" in account.notes[0]


def test_a_set_type_that_is_large_enough_is_taken_without_a_word() -> None:
    account = Account()
    assert find_type(account.cloud, settings(instance_type="standard.huge"), account.notes.append)["memory"] == 32 * GIB
    assert account.notes == []


@pytest.mark.parametrize(
    ("types", "words"),
    [
        (
            {ZONE: [a_type("standard.huge", 32, authorized=False), a_type("standard.large", 8)]},
            r"standard\.huge is not authorised for this account\. Ask Exoscale's support for it\. .*: standard\.large",
        ),
        (
            {ZONE: [a_type("standard.large", 8)], "de-fra-1": [a_type("standard.huge", 32)]},
            r"no type standard\.huge in ch-gva-2\. It exists in de-fra-1\. Authorised here: standard\.large",
        ),
        (
            {ZONE: [a_type("standard.large", 8)], "de-fra-1": [a_type("standard.large", 8)]},
            r"no type standard\.huge in ch-gva-2\. No other zone lists it either",
        ),
        (
            {
                zone: [a_type("standard.huge", 32, zones=["de-fra-1"]), a_type("standard.large", 8)]
                for zone in (ZONE, "at-vie-1", "de-fra-1")
            },
            r"no type standard\.huge in ch-gva-2\. It exists in de-fra-1\. Authorised here: standard\.large",
        ),
    ],
    ids=["not authorised", "elsewhere", "nowhere", "each zone lists all"],
)
def test_a_set_type_that_cannot_be_had_is_refused_with_what_there_is(types: dict[str, Any], words: str) -> None:
    account = Account(types=types)
    with pytest.raises(ExollamaError, match=words):
        account.draft(instance_type="standard.huge")
    assert account.changes == []


# -- template


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [(TEMPLATE, "t-new"), ("t-old", "t-old"), ("Linux Debian 13", "t-debian")],
    ids=["newest of its name", "by id", "another"],
)
def test_a_template_is_found_by_name_or_id(wanted: str, taken: str) -> None:
    assert find_template(Account().cloud, settings(template=wanted))["id"] == taken


def test_an_unknown_template_is_refused_with_what_exists_here_and_the_zones_that_have_it() -> None:
    account = Account()
    account.templates["de-fra-1"] = [{"id": "x", "name": "Mine"}]
    with pytest.raises(
        ExollamaError,
        match=r"'Mine' in ch-gva-2\. It exists in de-fra-1\. .*: Linux Ubuntu 22\.04 LTS 64-bit; Linux Ubuntu 24",
    ) as refusal:
        account.draft(template="Mine")
    assert "Debian" not in str(refusal.value)
    assert account.changes == []


def test_that_the_zones_cannot_be_listed_does_not_hide_what_is_missing() -> None:
    account = Account()
    account.faults["GET /zone"] = lambda: reply({"message": "down"}, 400)
    with pytest.raises(ExollamaError, match=r"no template 'Mine' in ch-gva-2\. Ubuntu templates here"):
        account.draft(template="Mine")


def test_other_zones_are_asked_at_once_and_one_that_does_not_answer_hides_no_other() -> None:
    account, both = Account(), threading.Barrier(2, timeout=30)
    account.templates |= {"at-vie-1": [], "de-fra-1": [{"id": "x", "name": "Mine"}]}

    def send(request: Request) -> Response:
        if "at-vie-1" in request.url or ("de-fra-1" in request.url and "public" in request.url):
            both.wait()
        if "at-vie-1" in request.url:
            raise OutOfTime("the time is over")
        return account.send(request)

    cloud = Cloud(settings(), ZONE, send, clock=NOW.timestamp, sleep=lambda _: None)
    with pytest.raises(ExollamaError, match=r"no template 'Mine' in ch-gva-2\. It exists in de-fra-1\."):
        find_template(cloud, settings(template="Mine"))
    account.templates["de-fra-1"] = []
    with pytest.raises(ExollamaError, match=r"no template 'Mine' in ch-gva-2\. Ubuntu templates here") as refusal:
        find_template(cloud, settings(template="Mine"))
    assert "No other zone" not in str(refusal.value), "which nobody knows"


def test_nothing_is_said_of_other_zones_where_the_endpoint_is_that_of_one() -> None:
    account, one = Account(), settings(endpoint=f"https://api-{ZONE}.exoscale.com/v2", template="Mine")
    account.templates["de-fra-1"] = []
    cloud = Cloud(one, ZONE, account.send, clock=NOW.timestamp, sleep=lambda _: None)
    with pytest.raises(ExollamaError, match=r"no template 'Mine' in ch-gva-2\. Ubuntu templates here"):
        find_template(cloud, one)


# -- disk


def test_a_disk_that_is_too_small_is_refused_before_anything_is_made() -> None:
    account = Account()
    with pytest.raises(ExollamaError, match=r"A disk of 14 GiB is too small .* EXOSCALE_DISK_SIZE=15 or more"):
        account.draft(disk_gib=14)
    assert account.changes == []
    assert account.draft(disk_gib=15).body["disk-size"] == 15


# -- security group


def test_a_group_is_made_with_one_rule_per_network_and_then_found_again() -> None:
    account = Account()
    group = security_group(account.cloud, ("0.0.0.0/0", "::/0"), account.notes.append)
    (made,) = account.groups
    assert made["id"] == group
    assert [rule["network"] for rule in made["rules"]] == ["0.0.0.0/0", "::/0"]
    assert made["rules"][0] == a_rule("0.0.0.0/0", description="exollama")
    changes = len(account.changes)
    assert security_group(account.cloud, ("0.0.0.0/0", "::/0"), account.notes.append) == group
    assert len(account.changes) == changes


def test_other_networks_have_a_group_of_their_own() -> None:
    account = Account()
    first = security_group(account.cloud, ("0.0.0.0/0",), account.notes.append)
    assert security_group(account.cloud, ("203.0.113.0/24",), account.notes.append) != first
    assert [len(group["rules"]) for group in account.groups] == [1, 1]


@pytest.mark.parametrize(
    "rules",
    [
        [],
        [a_rule("::/0")],
        [a_rule("::/0"), a_rule("0.0.0.0/0", **{"start-port": 22, "end-port": 22})],
        [a_rule("::/0"), a_rule("0.0.0.0/0", **{"flow-direction": "egress"})],
        [a_rule("::/0"), a_rule("0.0.0.0/0", protocol="udp")],
    ],
    ids=["no rule", "one missing", "another port", "egress", "another protocol"],
)
def test_a_half_made_group_is_healed(rules: list[dict[str, Any]]) -> None:
    account = Account()
    security_group(account.cloud, ("0.0.0.0/0", "::/0"), account.notes.append)
    account.groups[0]["rules"] = list(rules)
    security_group(account.cloud, ("0.0.0.0/0", "::/0"), account.notes.append)
    right = [
        r
        for r in account.groups[0]["rules"]
        if r | {"description": ""} in (a_rule("0.0.0.0/0", description=""), a_rule("::/0", description=""))
    ]
    assert sorted(rule["network"] for rule in right) == ["0.0.0.0/0", "::/0"]


def test_somebody_else_making_the_group_at_the_same_time_is_survived() -> None:
    account = Account()

    def taken() -> Response:
        account.groups.append({"id": "theirs", "name": account.changes[-1][2]["name"], "rules": []})
        return reply({"message": "already exists"}, 409)

    account.faults["POST /security-group"] = taken
    assert security_group(account.cloud, ("0.0.0.0/0",), account.notes.append) == "theirs"
    assert [rule["network"] for rule in account.groups[0]["rules"]] == ["0.0.0.0/0"]


def test_of_two_groups_of_one_name_everybody_takes_the_same() -> None:
    account = Account()
    security_group(account.cloud, ("0.0.0.0/0",), account.notes.append)
    account.groups += [account.groups[0] | {"id": "a"}, account.groups[0] | {"id": "z"}]
    assert security_group(account.cloud, ("0.0.0.0/0",), account.notes.append) == "a"


def test_a_rule_that_appeared_in_between_is_survived() -> None:
    account = Account()
    account.faults["POST /security-group/g-0/rules"] = lambda: reply({"message": "duplicate rule"}, 409)
    assert security_group(account.cloud, ("0.0.0.0/0",), account.notes.append) == "g-0"


def test_a_group_that_may_not_be_made_is_not_survived() -> None:
    account = Account()
    account.faults["POST /security-group"] = lambda: reply({"message": "Forbidden by role policy for compute"}, 403)
    with pytest.raises(ApiError, match="POST /security-group: Forbidden by role policy"):
        account.draft()


def test_a_group_that_somebody_widened_by_hand_is_reported() -> None:
    account = Account()
    security_group(account.cloud, ("203.0.113.0/24",), account.notes.append)
    account.groups[0]["rules"].append(a_rule("0.0.0.0/0"))
    security_group(account.cloud, ("203.0.113.0/24",), account.notes.append)
    assert "also lets in 0.0.0.0/0" in account.notes[-1]


# -- the create call


def test_the_create_call_carries_everything_and_its_labels_and_user_data_agree() -> None:
    account = Account()
    order = account.draft(key=Secret(KEY), idle_s=600)
    body = json.loads(order.call().reveal())
    made = Instance.from_api(ZONE, {"id": "x", "labels": body["labels"], "user-data": body["user-data"]})
    header = made.header()
    assert header
    assert (header.request, header.key) == (order.request, Secret(KEY))
    assert made.request == order.request
    assert (made.owned, made.owned_name, made.model, made.policy.idle_s) == (
        True,
        "exollama",
        "granite3.1-dense:8b",
        600,
    )
    assert made.activity(NOW) == NOW
    assert made.policy.deadline == NOW + timedelta(days=7)
    assert (body["instance-type"], body["template"]) == ({"id": "type-standard.large"}, {"id": "t-new"})
    assert (body["disk-size"], body["security-groups"], body["public-ip-assignment"]) == (50, [{"id": "g-0"}], "inet4")
    assert "Creating a standard.large in ch-gva-2, about 0.100 per hour" in order.sentence()


def test_each_draft_has_a_nonce_and_a_generated_key_of_its_own() -> None:
    account = Account()
    headers = [Instance(id="x", zone=ZONE, user_data=account.draft().user_data).header() for _ in range(2)]
    keys = {header.key.reveal() for header in headers if header}
    assert len(keys) == 2
    assert all(len(bytes.fromhex(key)) == 32 for key in keys)
    assert len({header.request for header in headers if header}) == 2


def test_a_key_that_was_handed_out_with_another_instance_is_not_given_to_a_new_one() -> None:
    account = Account()
    order = account.draft(key=Secret(KEY), key_handed_out=True)
    assert KEY not in order.call().reveal()
    header = Instance(id="x", zone=ZONE, user_data=order.user_data).header()
    assert header
    assert len(bytes.fromhex(header.key.reveal())) == 32
    assert "unset EXOLLAMA_KEY_MARK" in account.notes[-1]
    assert KEY not in "".join(account.notes)


def test_the_key_is_in_the_user_data_only_and_the_user_data_in_no_repr() -> None:
    order = Account().draft(key=Secret(KEY))
    assert KEY not in repr(order.body)
    assert order.user_data.reveal() not in repr(order)
    assert order.user_data.reveal() in order.call().reveal()
    assert order.user_data.reveal() not in repr(order.call())
    assert API_SECRET not in repr(order)


@pytest.mark.parametrize(
    ("cidrs", "reach"),
    [
        (("0.0.0.0/0", "::/0"), "any"),
        (("0.0.0.0/0",), "any"),
        (("203.0.113.0/24", "::/0"), "any"),
        (("203.0.113.0/24",), "limited"),
    ],
)
def test_the_labels_say_who_may_reach_it(cidrs: tuple[str, ...], reach: str) -> None:
    assert owned_labels(settings(allowed_cidrs=cidrs), NONCE, NOW, None)[labels.REACH] == reach


def test_the_labels_of_the_create_call_are_those_of_the_contract() -> None:
    given = owned_labels(settings(reap_action="stop"), NONCE, NOW, datetime(2026, 12, 1, tzinfo=UTC))
    assert given == {
        "exollama": "v1",
        "exollama-name": "nexollama",
        "exollama-model": "ngranite3!2E1-dense!3A8b",
        "exollama-request": f"r{NONCE}",
        "exollama-activity": "t20261124T120000Z",
        "exollama-idle": "s1800",
        "exollama-boot": "s1800",
        "exollama-retention": "s86400",
        "exollama-deadline": "t20261201T000000Z",
        "exollama-action": "stop",
        "exollama-reach": "any",
    }
    assert owned_labels(settings(), NONCE, NOW, None)["exollama-deadline"] == "none"
