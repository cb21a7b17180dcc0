"""Every link and picture in the Markdown files leads somewhere in this repository, anchors included.

Addresses elsewhere are not asked: tests reach no network.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.readme import ROOT

PAGES = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not {".venv", ".nox", "node_modules", ".pytest_cache"} & set(path.relative_to(ROOT).parts)
]
LINK = re.compile(r"\]\(([^)\s]+)\)|\b(?:src|srcset|href)=\"([^\"]+)\"")


def prose(path: Path) -> str:
    """A page without its code, in which brackets mean something else."""
    text = re.sub(r"^(```+).*?^\1", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def links() -> list[tuple[str, str]]:
    found = []
    for path in PAGES:
        targets = {one or other for one, other in LINK.findall(prose(path))}
        found += [(path.relative_to(ROOT).as_posix(), target) for target in sorted(targets)]
    return [(page, target) for page, target in found if not re.match(r"[a-z]+:", target)]


LINKS = links()


@cache
def anchors(path: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^(```+).*?^\1", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.*?) *$", text, re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        again = sum(1 for one in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", one))
        found.append(f"{slug}-{again}" if again else slug)
    return frozenset(found)


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_a_link_leads_somewhere(page: str, target: str) -> None:
    place, _, anchor = target.partition("#")
    path = (ROOT / page).parent / place if place else ROOT / page
    assert path.resolve().is_relative_to(ROOT), "outside of the repository"
    assert path.exists(), f"{page} links to {target}, which is not there"
    if anchor:
        assert path.suffix == ".md"
        assert anchor in anchors(path.resolve()), f"{page} links to {target}: {path.name} has no such heading"


def test_links_pictures_and_anchors_are_found() -> None:
    kinds = {Path(target.partition("#")[0]).suffix for _, target in LINKS}
    assert {".md", ".svg", ".png", ".json", ""} <= kinds
    assert len([target for _, target in LINKS if "#" in target]) > 20
    assert "the-tls-binding" in anchors(ROOT / "docs/security.md")
    assert "no-such-heading" not in anchors(ROOT / "docs/security.md")


def test_every_page_of_the_documentation_is_linked_from_readme() -> None:
    linked = {target.partition("#")[0] for page, target in LINKS if page == "README.md"}
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= linked
