"""What is read of an instance: its labels with defaults for what is amiss, and the second line of its user-data."""

import base64
import gzip
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import labels
from client.model import Instance, Policy, owned_live, read_header
from client.settings import Secret
from tests.fakes import KEY, NONCE, NOW, ZONE, instance, label_map, user_data

DATA: dict[str, Any] = {
    "id": "an-id",
    "name": "its-name",
    "state": "running",
    "created-at": "2026-11-24T11:00:00Z",
    "public-ip": "198.51.100.7",
    "labels": label_map(),
    "instance-type": {"id": "a-type"},
    "disk-size": 50,
    "user-data": user_data(),
}


def test_an_answer_of_the_api_is_read_whole() -> None:
    seen = Instance.from_api(ZONE, DATA)
    assert (seen.id, seen.zone, seen.name, seen.state) == ("an-id", ZONE, "its-name", "running")
    assert (seen.created, seen.address) == (datetime(2026, 11, 24, 11, tzinfo=UTC), "198.51.100.7")
    assert (seen.type_id, seen.disk_gib, seen.managed) == ("a-type", 50, False)
    assert (seen.owned, seen.owned_name, seen.model) == (True, "exollama", "granite3.1-dense:8b")
    assert seen.request == NONCE


@pytest.mark.parametrize("kind", ["a-type", {}, {"id": ["a-type"]}])
def test_a_type_of_another_shape_is_none(kind: object) -> None:
    seen = Instance.from_api("ch-gva-2", DATA | {"instance-type": kind})
    assert (seen.type_id, seen.type) == (None, None)


def test_the_user_data_does_not_show_in_the_repr_of_an_instance() -> None:
    assert user_data() not in repr(Instance.from_api(ZONE, DATA))


@pytest.mark.parametrize("data", [{}, {"id": 1}, [], None], ids=["empty", "numeric id", "list", "null"])
def test_an_instance_without_an_id_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="without an id"):
        Instance.from_api(ZONE, data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
odd_labels = st.dictionaries(
    st.sampled_from([v for k, v in vars(labels).items() if k.isupper() and isinstance(v, str)]),
    st.text(max_size=40)
    | st.sampled_from("v1 none stop any t99991231T235959Z t00010101T000000Z s0 s9999999999 n".split()),
)


odd_answers = st.dictionaries(st.sampled_from(sorted(DATA)), json_values).map(lambda odd: DATA | odd | {"id": "x"})


@given(odd_answers, odd_labels)
def test_no_answer_of_the_api_makes_reading_raise(data: dict[str, Any], odd: dict[str, str]) -> None:
    for given_labels in (data["labels"], odd):
        seen = Instance.from_api(ZONE, {**data, "labels": given_labels})
        for read in ("owned", "owned_name", "model", "request", "policy", "age_key"):
            getattr(seen, read)
        seen.activity(NOW)
        seen.header()


@pytest.mark.parametrize(
    ("changes", "owned"),
    [
        ({}, True),
        ({"labels": {}}, False),
        ({"labels": label_map(owner="v2")}, False),
        ({"labels": label_map(owner="V1")}, False),
        ({"managed": True}, False),
    ],
    ids=["ours", "no labels", "another version", "another case", "a pool's"],
)
def test_only_what_carries_the_ownership_label_and_is_no_pools_is_ours(changes: dict[str, Any], owned: bool) -> None:
    assert instance(**changes).owned is owned


def test_a_pools_instance_is_recognised_by_its_manager() -> None:
    assert Instance.from_api(ZONE, DATA | {"manager": {"id": "p", "type": "instance-pool"}}).managed


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (labels.time(NOW - timedelta(minutes=5)), NOW - timedelta(minutes=5)),
        (labels.time(NOW + timedelta(seconds=60)), NOW + timedelta(seconds=60)),
        (labels.time(NOW + timedelta(seconds=61)), None),
        ("t99991231T235959Z", None),
        ("yesterday", None),
        ("", None),
    ],
    ids=["past", "a minute ahead", "further ahead", "far future", "unreadable", "missing"],
)
def test_an_activity_label_in_the_future_or_unreadable_counts_for_nothing(
    label: str, expected: datetime | None
) -> None:
    assert instance(labels=label_map(activity=label)).activity(NOW) == expected


def test_the_policy_is_read_from_the_labels() -> None:
    given_labels = label_map(idle="s60", boot="s61", retention="s62", action="stop", reach="any", deadline=NOW)
    assert instance(labels=given_labels).policy == Policy(
        idle_s=60, boot_s=61, retention_s=62, deadline=NOW, action="stop", reach="any"
    )


def test_every_default_stands_where_a_label_is_missing_or_absurd() -> None:
    for odd in ("", "s0", "s99999999999", "x"):
        seen = instance(labels=label_map(deadline="none", idle=odd, boot=odd, retention=odd, action=odd, reach=odd))
        assert seen.policy == Policy(
            idle_s=1800, boot_s=1800, retention_s=86400, deadline=None, action="destroy", reach="limited"
        )


@pytest.mark.parametrize("label", ["", "tomorrow", "t20260231T000000Z"], ids=["missing", "unreadable", "no such day"])
def test_a_missing_deadline_is_a_week_after_the_creation(label: str) -> None:
    assert instance(labels=label_map(deadline=label)).policy.deadline == NOW - timedelta(hours=1) + timedelta(days=7)


def test_no_deadline_has_to_be_said_in_words() -> None:
    assert instance(labels=label_map(deadline="none")).policy.deadline is None


def test_the_name_is_the_instances_own_where_the_label_cannot_be_read() -> None:
    assert instance(name="shown", labels=label_map(name="!!")).owned_name == "shown"


def test_of_several_the_oldest_comes_first_and_the_id_breaks_a_tie() -> None:
    listed = [
        instance(id="unknown", created=None),
        instance(id="b"),
        instance(id="young", created=NOW),
        instance(id="a"),
        instance(id="other", labels=label_map(name="nother")),
        instance(id="going", state="destroying"),
        instance(id="gone", state="destroyed"),
        instance(id="foreign", labels={}),
    ]
    assert [i.id for i in owned_live(listed, "exollama")] == ["a", "b", "young", "unknown"]


# -- the user-data


def packed(text: str, *, zipped: bool = False) -> str:
    raw = text.encode()
    return base64.b64encode(gzip.compress(raw) if zipped else raw).decode()


def header_line(**changes: object) -> str:
    return f"#cloud-config\n# exollama {json.dumps({'v': 1, 'request': NONCE, 'key': KEY} | changes)}\nrest: 1\n"


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
def test_nonce_and_key_are_read_back_from_the_second_line(zipped: bool) -> None:
    header = read_header(packed(header_line(), zipped=zipped))
    assert header
    assert (header.request, header.key) == (NONCE, Secret(KEY))
    assert KEY not in repr(header)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#!/bin/sh\necho\n",
        header_line(v=2),
        header_line(request="G" * 32),
        header_line(request=None),
        header_line(key="short"),
        header_line(key=['"']),
        header_line().replace("#cloud-config", "#cloud-boothook"),
        header_line().replace("# exollama", "\n# exollama"),
        "#cloud-config\n# exollama {not json}\nrest\n",
        "#cloud-config\n# exollama []\nrest\n",
        "#cloud-config\n# exollama " + '{"a":' + "[" * 1900 + "]" * 1900 + "}\nrest\n",
        '#cloud-config\n# exollama {"v":' + "1" * 3000 + "}\nrest\n",
    ],
    ids=[
        "empty",
        "a script",
        "another version",
        "no nonce",
        "nonce missing",
        "short key",
        "key of another type",
        "another kind",
        "third line",
        "no JSON",
        "no object",
        "nested deeply",
        "a huge number",
    ],
)
def test_a_user_data_of_somebody_else_has_no_header(text: str) -> None:
    assert read_header(packed(text)) is None


@pytest.mark.parametrize(
    "user_data",
    ["%", "é", packed("x", zipped=True)[:-8], base64.b64encode(b"\x1f\x8b garbage").decode()],
    ids=["no base64", "no ASCII", "cut off", "no gzip"],
)
def test_what_cannot_be_unpacked_has_no_header(user_data: str) -> None:
    assert read_header(user_data) is None


def test_a_bomb_of_a_user_data_is_not_unpacked_whole() -> None:
    bomb = base64.b64encode(gzip.compress(header_line().encode() + bytes(64 << 20), 1)).decode()
    tracemalloc.start()
    try:
        read_header(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: base64.b64encode(raw).decode()))
def test_reading_a_user_data_never_raises(user_data: str) -> None:
    assert read_header(user_data) is None
