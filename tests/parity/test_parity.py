"""The table of what the original had: each row is shown by tests that run, or has its reason; the page is current."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.parity import document, table
from tests.parity.__main__ import PAGE, page
from tests.parity.collected import collect
from tests.parity.table import ROOT, Row
from tests.parity.taken_out import MUTATIONS, Mutation, mutated

TABLE = table.load()
ROWS = {row.id: row for row in TABLE}


@pytest.fixture(scope="session")
def collected() -> dict[str, bool]:
    """Each test of the files that the table names, and whether it may be skipped."""
    files = {test.partition("::")[0] for row in TABLE for test in row.tests}
    return collect(file for file in files if (ROOT / file).exists())


@pytest.mark.parametrize("row", TABLE, ids=ROWS)
def test_a_row_is_shown_by_tests_that_run_or_says_why_not(row: Row, collected: dict[str, bool]) -> None:
    assert row.original
    assert bool(row.tests) != bool(row.reason), "either tests or a reason"
    assert bool(row.here) == bool(row.tests), "what there is here stands beside tests, and a reason alone"
    assert row.tests or len(row.reason.split()) >= 8, "a reason is a sentence"
    for test in row.tests:
        named = [one for one in collected if one == test or one.startswith(f"{test}[")]
        assert named, f"there is no test {test}"
        assert not any(collected[one] for one in named), f"{test} may be skipped or fail, and shows nothing then"


def test_no_two_rows_have_one_name() -> None:
    assert [name for name, count in Counter(row.id for row in TABLE).items() if count > 1] == []


def test_each_place_of_the_document_is_claimed_once() -> None:
    claimed = Counter(place for row in TABLE for place in row.at)
    assert [place for place, count in claimed.items() if count > 1] == []
    assert [place for place in claimed if not re.fullmatch("[0-9a-f]{8}", place)] == []
    assert [row.id for row in TABLE if not row.at] == []


def test_no_place_that_was_claimed_is_claimed_no_more() -> None:
    assert table.fingerprint(TABLE) == table.PLACES, (
        "a row has lost a place, or has another: run python -m tests.parity --document with the original's text"
    )


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(TABLE), "run: python -m tests.parity"


def test_a_document_is_compared_line_by_line() -> None:
    text = "# One\n\nAn offer.\n```sh\nrun  it\n```\nAnother\n## Two\nAn offer.\n"
    there = list(document.places(text))
    assert [(place.number, place.text) for place in there] == [
        (1, "# One"),
        (3, "An offer."),
        (5, "run  it"),
        (7, "Another"),
        (8, "## Two"),
        (9, "An offer."),
    ]
    assert len({place.digest for place in there}) == 6, "the same line under another heading is another place"
    assert document.digest("# One", " run it ") == there[2].digest
    row = Row(id="r", part="p", original="o", at=(*(place.digest for place in there[:-1]), "00000000"))
    assert document.differences(text, [row]) == [
        "line 9 is in no row: An offer.",
        "r claims 00000000, which is no place of the document",
    ]


def test_words_of_the_document_are_found_in_a_row() -> None:
    text = "It stops the instance once nobody has used it.\n"
    at = tuple(place.digest for place in document.places(text))
    copied = Row(id="r", part="p", original="Stops the instance once nobody has used anything.", at=at)
    [problem] = document.differences(text, [copied])
    assert problem == "r has words of the document: stops the instance once nobody has used"
    own = Row(id="r", part="p", original="Ends what nobody uses any more.", at=at)
    assert document.differences(text, [own]) == []


# -- what is taken out


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_what_is_taken_out_is_there_once(mutation: Mutation) -> None:
    assert mutation.row in ROWS
    assert ROWS[mutation.row].tests
    assert mutated(mutation, (ROOT / mutation.file).read_text()) != (ROOT / mutation.file).read_text()


def test_features_of_at_least_twenty_rows_are_taken_out() -> None:
    assert len({mutation.row for mutation in MUTATIONS}) >= 20
