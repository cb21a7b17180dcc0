"""The label codec: what is written can be read again and is allowed, and whatever is read never raises."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import labels

ALLOWED = re.compile(r"[A-Za-z][A-Za-z0-9*+!\-_?]{0,127}")  # Exoscale's documentation
READERS = [labels.read_time, labels.read_seconds, labels.read_nonce, labels.read_text]
nonces = st.text("0123456789abcdef", min_size=32, max_size=32)
# Times of another millennium are a slip or a forgery, and nobody could compute with them safely.
moments = st.datetimes(
    min_value=datetime(2000, 1, 2),  # noqa: DTZ001
    max_value=datetime(2999, 12, 30),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def by_kind(letter: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return values.map(lambda value: letter + value)


almost = st.one_of(
    st.text(),
    by_kind("t", st.from_regex(r"[0-9]{8}T[0-9]{6}Z?", fullmatch=True)),
    by_kind("t", st.from_regex(r"\d{8}T\d{6}Z", fullmatch=True)),
    by_kind("s", st.text("0123456789-+.e²٣", max_size=14)),
    by_kind("r", st.text("0123456789abcdefABCDEF", min_size=30, max_size=34)),
    by_kind("n", st.text("abzAFZ019!-_*+?é", max_size=140)),
)


@given(moments)
def test_a_time_is_read_again_to_the_second(moment: datetime) -> None:
    written = labels.time(moment)
    assert ALLOWED.fullmatch(written)
    assert labels.read_time(written) == moment.replace(microsecond=0)


@given(moments, st.integers(-14 * 60, 14 * 60))
def test_a_time_of_another_timezone_is_written_in_utc(moment: datetime, minutes: int) -> None:
    elsewhere = moment.astimezone(timezone(timedelta(minutes=minutes)))
    assert labels.time(elsewhere) == labels.time(moment)


@given(st.integers(0, labels.MAX_SECONDS))
def test_seconds_are_read_again(value: int) -> None:
    written = labels.seconds(value)
    assert ALLOWED.fullmatch(written)
    assert labels.read_seconds(written) == value


@given(nonces)
def test_a_nonce_is_read_again(value: str) -> None:
    written = labels.nonce(value)
    assert ALLOWED.fullmatch(written)
    assert labels.read_nonce(written) == value


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_a_text_is_read_again_or_refused_for_its_length(value: str) -> None:
    length = 1 + sum(1 if re.fullmatch(r"[A-Za-z0-9_-]", c) else 3 * len(c.encode()) for c in value)
    if length > 128:
        with pytest.raises(ValueError, match="128 are allowed"):
            labels.text(value)
        return
    written = labels.text(value)
    assert len(written) == length
    assert ALLOWED.fullmatch(written)
    assert labels.read_text(written) == (value if value.isprintable() else None)  # nothing that a terminal obeys


@given(almost | st.none(), st.sampled_from(READERS))
def test_reading_never_raises_whatever_a_hand_has_written(
    label: str | None, read: Callable[[str | None], object]
) -> None:
    value = read(label)
    assert value is None or label is not None


@given(almost)
def test_a_label_is_read_as_one_kind_at_most(label: str) -> None:
    assert sum(read(label) is not None for read in READERS) <= 1


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (labels.time(datetime(2026, 11, 23, 18, 15, tzinfo=UTC)), "t20261123T181500Z"),
        (labels.seconds(1800), "s1800"),
        (labels.nonce("0" * 32), "r" + "0" * 32),
        (labels.text("granite3.1-dense:8b"), "ngranite3!2E1-dense!3A8b"),
        (labels.text("hf.co/ü"), "nhf!2Eco!2F!C3!BC"),
        (labels.text(""), "n"),
        (labels.text("x" * 127), "n" + "x" * 127),
    ],
    ids=["time", "seconds", "nonce", "text", "utf-8", "empty text", "the longest text"],
)
def test_values_are_written_as_the_contract_has_them(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    "label",
    [
        None,
        "",
        "t",
        "20261123T181500Z",
        "T20261123T181500Z",
        "t20261123T181500",
        "t20261123T181500Z\n",
        "t20260231T000000Z",
        "t20261123T246000Z",
        "t00000101T000000Z",
        "t00010101T000000Z",
        "t99991231T235959Z",
        "t\u0662\u0660261123T181500Z",
    ],
    ids=lambda label: ascii(label)[:30],
)
def test_what_is_no_time_is_none(label: str | None) -> None:
    assert labels.read_time(label) is None


@pytest.mark.parametrize(
    "label", ["s", "s-1", "s+1", "s1.5", "1800", "S1800", "s٣", "s9999999999", "s1800 "], ids=ascii
)
def test_what_is_no_sane_number_of_seconds_is_none(label: str) -> None:
    assert labels.read_seconds(label) is None


@pytest.mark.parametrize("label", ["r", "r" + "0" * 31, "r" + "0" * 33, "r" + "F" * 32, "0" * 33], ids=ascii)
def test_what_is_no_nonce_is_none(label: str) -> None:
    assert labels.read_nonce(label) is None


@pytest.mark.parametrize("label", ["x", "n!", "n!4", "n!2e", "n!FF", "n*", "n!C3", "nü", "n a"], ids=ascii)
def test_what_is_no_text_or_no_utf8_is_none(label: str) -> None:
    assert labels.read_text(label) is None


@pytest.mark.parametrize("value", [-1, labels.MAX_SECONDS + 1])
def test_seconds_that_are_no_policy_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="seconds cannot be a label"):
        labels.seconds(value)


@pytest.mark.parametrize("value", ["", "0" * 31, "G" * 32, "A" * 32, "0" * 32 + "\n"], ids=ascii)
def test_what_is_no_nonce_is_not_written(value: str) -> None:
    with pytest.raises(ValueError, match="32 lower-case hex digits"):
        labels.nonce(value)


def test_the_keys_are_those_of_the_contract() -> None:
    keys = {v for k, v in vars(labels).items() if k.isupper() and isinstance(v, str) and v.startswith("exollama")}
    names = "name model request activity idle boot retention deadline action reach".split()
    assert keys == {"exollama", *(f"exollama-{name}" for name in names)}
    assert labels.VERSION == "v1"
