"""The list of what is not proven: whole, answered by the live run's checks, and without what is an account's own."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.live import findings
from tests.live.checks import CHECKS
from tests.live.findings import Finding, found, unseen
from tests.live.unproven import BY, HERE, Question, load, table
from tests.readme import ROOT

QUESTIONS = list(load().values())
EXOSCALE = "https://api-{zone}.exoscale.com/v2"
AT = {"date": "2026-12-01", "zone": "ch-gva-2", "endpoint": EXOSCALE}


def test_each_question_has_an_id_of_its_own_and_the_live_runs_are_those_of_its_checks() -> None:
    document = tomllib.loads((HERE / "unproven.toml").read_text())
    assert sum(len(part["question"]) for part in document["part"]) == len(QUESTIONS)
    answered = [id_ for ids, _ in CHECKS for id_ in ids]
    assert sorted(answered) == sorted(one.id for one in QUESTIONS if one.by == "live")


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
def test_a_question_says_what_matters_what_guards_it_where_and_who_could_prove_it(question: Question) -> None:
    assert question.by in BY
    assert question.what
    assert question.matters
    assert question.guard.endswith(".")
    assert question.files or question.guard.startswith("None.")
    assert all((ROOT / file).is_file() for file in question.files)


def test_the_page_shows_what_was_found_and_what_was_not() -> None:
    told = {
        "clock": {"verdict": "as assumed", "seen": "Date | is there", **AT},
        "address": {"verdict": "different", "seen": "none", **AT},
        "boot": {"verdict": "could not be seen", "seen": "not asked for (--boot)", **AT},
    }
    text = table(told)
    assert "has looked at 2 so far" in text
    assert "| as assumed (2026-12-01, ch-gva-2): Date \\| is there |" in text
    assert "| **different** (2026-12-01, ch-gva-2): none |" in text
    assert "| could not be seen (2026-12-01, ch-gva-2): not asked for (--boot) |" in text
    untold = table({})
    assert untold.count("| not run |") == sum(one.by == "live" for one in QUESTIONS)
    assert "has looked at 0 so far" in untold


@pytest.mark.parametrize(
    ("endpoint", "is_so"),
    [
        (EXOSCALE, True),
        ("https://api-ch-gva-2.exoscale.com/v2", True),
        ("http://api-ch-gva-2.exoscale.com/v2", False),
        ("https://api-ch-gva-2.exoscale.com.example.org/v2", False),
        ("https://api-ch-gva-2.exoscale.com@example.org/v2", False),
        ("https://ppapi-ch-gva-2.exoscale.com/v2", False),
        ("http://127.0.0.1:8000/{zone}/v2", False),
        ("", False),
    ],
)
def test_only_what_was_found_at_exoscale_itself_is_shown(tmp_path: Path, endpoint: str, is_so: bool) -> None:
    assert findings.is_exoscales(endpoint) is is_so
    path = tmp_path / "found.json"
    path.write_text(findings.written([found("clock", True, "there")], {}, zone="ch-gva-2", endpoint=endpoint))
    if is_so:
        assert findings.load(path)["clock"]["verdict"] == "as assumed"
    else:
        with pytest.raises(ValueError, match=r"clock was found at .* which is not Exoscale's own API"):
            findings.load(path)


@pytest.mark.parametrize(
    ("new", "seen"),
    [
        (found("clock", False, "new"), "new"),
        (found("clock", True, "new"), "new"),
        (unseen("clock", "why"), "old"),
        (unseen("address", "why"), "old"),
    ],
)
def test_what_could_not_be_seen_replaces_nothing_that_was(new: Finding, seen: str) -> None:
    before = {"clock": {"verdict": "as assumed", "seen": "old", **AT}}
    merged = json.loads(findings.written([new], before, zone="de-fra-1", endpoint=EXOSCALE))
    assert merged["clock"]["seen"] == seen
    assert merged["clock"]["zone"] == ("ch-gva-2" if seen == "old" else "de-fra-1")
    assert merged.get("address", {}).get("seen") == ("why" if new.id == "address" else None)


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("instance 0e65d790-d66b-43e1-aaaf-b11a1582d3c6 is gone", "instance <id> is gone"),
        ("exollama-live-0123456789ab exists", "<id> exists"),
        ("from 203.0.113.9 on", "from <address> on"),
        ("169.254.169.254 answers", "169.254.169.254 answers"),
        ("key EXOmine, secret s3cr3t", "key ***, secret ***"),
        ("Python 3.12.3, 6.8.0-31", "Python 3.12.3, 6.8.0-31"),
        ("a\x1b[2Jb\nc" + "d" * 2000, "a [2Jb c" + "d" * 992),
    ],
)
def test_what_belongs_to_one_account_is_not_published(text: str, published: str) -> None:
    assert findings.scrubbed(text, ["EXOmine", "s3cr3t"]) == published
