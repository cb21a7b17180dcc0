"""The pictures of docs/pictures: well-formed, described in words, loading nothing, showing commands that there are."""

from __future__ import annotations

import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest

from client import cli
from tests.pictures import COLUMNS, PICTURE, SESSION, drawn
from tests.readme import ROOT

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = sorted((ROOT / "docs/pictures").glob("*.svg"))


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_described_in_words_and_loads_nothing(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    described = {name: root.findtext(f"{SVG}{name}") or "" for name in ("title", "desc")}
    assert all(len(words) > 20 for words in described.values())
    assert (root.get("aria-labelledby") or "").split() == ["title", "desc"]
    text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    for loader in ("<script", "<image", "<use", "href", "@import", "http:", "https:", "url(http"):
        assert loader not in text, loader


@pytest.mark.parametrize("name", ["flow.svg", "reap.svg"])
def test_a_drawing_can_be_read_in_light_and_dark(name: str) -> None:
    text = (ROOT / "docs/pictures" / name).read_text(encoding="utf-8")
    light, _, dark = text.partition("@media (prefers-color-scheme: dark)")
    classes = {line.split()[0] for line in light.splitlines() if line.strip().startswith(".") and "fill" in line}
    assert {one for one in classes if one not in dark} <= {".head", ".way", ".prompt", ".last"}
    assert ".card" in classes, "a ground of its own, whatever it is shown on"


def test_the_session_that_is_drawn_types_verbs_and_flags_that_there_are_and_has_room_for_every_line() -> None:
    told = (ElementTree.parse(PICTURE).getroot().findtext(f"{SVG}desc") or "").splitlines()
    typed = [line.removeprefix("$ ") for line in told if line.startswith("$ ")]
    assert typed == [words for _, words in SESSION], "run: python -m tests.pictures"
    for line in typed:
        program, verb, *words = shlex.split(line)
        assert program == "exollama"
        known = {flag for action in cli.parser("exollama", verb)._actions for flag in action.option_strings}
        assert {word for word in words if word.startswith("-")} <= known
    assert max(map(len, told)) <= COLUMNS + 2
    assert "nothing runs, nothing costs" in told[-1]


def test_what_is_drawn_is_escaped() -> None:
    root = ElementTree.fromstring(drawn([("typed", 'exollama generate "a < b & c"'), ("out", ""), ("note", "<b>")]))
    assert [node.get("class") for node in root.iter(f"{SVG}text")] == ["typed", "note"]
    assert root.findtext(f"{SVG}desc") == '$ exollama generate "a < b & c"\n\n<b>'
