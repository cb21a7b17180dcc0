"""The worked month: its numbers against some that were computed by hand, and what has to stand in it."""

import pytest

from tests import costs

CPU, GPU = costs.PLANS


def test_the_end_comes_as_late_as_labels_and_reaper_let_it_on_average() -> None:
    assert costs.tail_min(30) == 38.75  # 30, an eighth of it (3.75) for the labels, half of ten minutes
    assert costs.tail_min(10) == 16.25


@pytest.mark.parametrize(
    ("computed", "by_hand"),
    [
        (CPU.hour, 0.10033),  # 0.09333 + 50 * 0.00014
        (GPU.hour, 1.24),  # 1.226 + 100 * 0.00014
        (costs.use_alone(CPU), 4.41452),  # 66 sessions * 40 min = 44 h
        (costs.destroyed(CPU, 30), 9.353264),  # 66 * (6 + 40 + 38.75) min = 93.225 h
        (costs.destroyed(CPU, 10), 6.870096),  # 66 * (6 + 40 + 16.25) min = 68.475 h
        (costs.destroyed(GPU, 30), 121.055),  # 66 * (10 + 40 + 38.75) min = 97.625 h
        # 4.4 weeks: 4.4 boots of 10 min, 61.6 starts of 2 min, 66 * 78.75 min: 89.411666 h running; there for
        # 4.4 * (4 * 24 + 9 + 0.5 + 24) = 569.8 h, so stopped for 480.388333 h at 0.014.
        (costs.stopped(GPU), 117.5959),
    ],
)
def test_the_numbers_are_those_computed_by_hand(computed: float, by_hand: float) -> None:
    assert computed == pytest.approx(by_hand, rel=1e-5)


def test_the_table_says_about_whose_prices_and_what_is_assumed_and_is_short() -> None:
    text = costs.table()
    for words in ("a month, about", "what may go wrong, about", "at the prices of 20", "assumed", "CHF, EUR or USD"):
        assert words in text
    assert "| **destroyed when idle** (default) | **9.35** | **121** |" in text
    assert "| running all month (730 h) | 73.24 | 905 |" in text
    assert "from then its disk, a day | 0.17 | 0.34 |" in text
    assert "runs on, a day | 2.41 | 29.76 |" in text
    assert len(text.splitlines()) <= 25
    assert all(line.count("|") == 4 for line in text.splitlines() if line.startswith("|"))
