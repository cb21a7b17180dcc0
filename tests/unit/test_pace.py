"""What a live line says of a wait: how long so far, and how long it may take, as far as that is known."""

import pytest

from client.pace import USUALLY, Pace


@pytest.mark.parametrize(
    ("phase", "percent", "elapsed_s", "words"),
    [
        ("docker", None, 12.4, "docker, 12 s (usually under two minutes)"),
        ("gpu", None, 0.0, "gpu, 0 s (usually a few minutes)"),
        ("creating", None, 0.0, "creating, 0 s (usually under a minute)"),
        ("waiting for the first token", None, 3.0, "waiting for the first token, 3 s"),
        ("model", 41.6, 75.0, "model 42 %, 75 s"),
    ],
    ids=["docker", "gpu", "creating", "no idea", "a first percentage"],
)
def test_at_first_there_is_what_it_usually_takes_or_nothing(
    phase: str, percent: float | None, elapsed_s: float, words: str
) -> None:
    assert Pace().words(phase, percent, elapsed_s) == words


def test_a_phases_seconds_are_its_own() -> None:
    pace = Pace()
    said = [
        pace.words(phase, None, at)
        for phase, at in (("nginx", 20.0), ("nginx", 30.0), ("docker", 31.0), ("docker", 43.0))
    ]
    assert [words.partition(" (")[0] for words in said] == ["nginx, 20 s", "nginx, 30 s", "docker, 0 s", "docker, 12 s"]


def test_a_new_wait_counts_from_its_own_beginning() -> None:
    pace = Pace()
    pace.words("model", 99.0, 300.0)
    assert pace.words("model", 10.0, 2.0) == "model 10 %, 2 s"
    assert pace.words("draining", None, 1.5).startswith("draining, 0 s")
    assert pace.words("image", None, 0.0).startswith("image, 0 s")


def steady(pace: Pace, rate: float, until_s: int, start: float = 0.0) -> str:
    """The last words of a pull that gains so many percent a second, told twice a second."""
    words = ""
    for half in range(2 * until_s + 1):
        words = pace.words("model", start + rate * half / 2, half / 2)
    return words


@pytest.mark.parametrize(
    ("rate", "until_s", "words"),
    [
        (0.5, 3, "model 2 %, 3 s"),
        (0.1, 10, "model 1 %, 10 s"),
        (0.5, 75, "model 38 %, 75 s, about 120 s left"),
        (0.1, 75, "model 8 %, 75 s, about 15 min left"),
        (1.0, 90, "model 90 %, 90 s, about 10 s left"),
        (1.0, 99, "model 99 %, 99 s, about 1 s left"),
        (1.0, 100, "model 100 %, 100 s"),
    ],
    ids=["too soon", "too little", "seconds", "minutes", "near the end", "at the end", "over"],
)
def test_what_is_left_is_told_by_its_own_rate_once_that_means_something(rate: float, until_s: int, words: str) -> None:
    assert steady(Pace(), rate, until_s) == words


def test_one_who_comes_in_the_middle_judges_by_what_was_seen_since() -> None:
    assert steady(Pace(), 1.0, 40, start=50.0) == "model 90 %, 40 s, about 10 s left"


def test_a_pull_that_stands_still_is_not_promised_an_end_soon() -> None:
    pace = Pace()
    steady(pace, 1.0, 50)
    left = [pace.words("model", 50.0, 50.0 + second) for second in (15, 30, 60)]
    assert "about 140 s left" in left[0]
    assert "about 6 min left" in left[1]
    assert "about 45 min left" in left[2]
    assert "left" not in pace.words("model", 50.0, 400.0)


def test_a_total_that_grew_starts_the_estimate_anew() -> None:
    pace = Pace()
    steady(pace, 1.0, 50)
    assert pace.words("model", 20.0, 51.0) == "model 20 %, 51 s"


def test_whatever_is_said_to_be_usual_is_short_and_no_measurement() -> None:
    assert {"nginx", "docker", "gpu", "image", "container", "warmup"} <= set(USUALLY), "a boot's, but for the model"
    assert all(len(words) <= 18 and not any(c.isdigit() for c in words) for words in USUALLY.values())
