"""Prometheus' text format, read back by its own client."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parsed

from client import metrics

values = st.text(st.characters(codec="utf-8"))
labels = st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,9}", fullmatch=True), values, max_size=3)
numbers = st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(labels, numbers), min_size=1, max_size=4), st.sampled_from(["", "Something, in seconds."]))
def test_what_is_written_is_read_back_whatever_is_in_a_label(samples: Any, about: str) -> None:
    (read,) = parsed(metrics.family("exollama_some_seconds", samples, about=about))
    assert (read.name, read.type, read.documentation) == ("exollama_some_seconds", "gauge", about)
    assert [(one.labels, one.value) for one in read.samples] == [(given, float(value)) for given, value in samples]


def test_a_counter_is_one_and_a_family_without_samples_is_nothing() -> None:
    (read,) = parsed(metrics.family("exollama_wakes_total", [({}, 3)], kind="counter"))
    assert (read.type, read.samples[0].value) == ("counter", 3)
    assert metrics.family("exollama_some_seconds", [], about="Something.") == ""


@pytest.mark.parametrize(
    ("accept", "asked"),
    [
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("application/openmetrics-text;version=1.0.0", True),
        ("text/plain", False),
        ("text/html,*/*;q=0.8", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_only_a_prometheus_asks_for_it(accept: str, asked: bool) -> None:
    assert metrics.accepted(accept) is asked
