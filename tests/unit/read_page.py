"""A page taken apart: strict about its shape, and about which elements and attributes there are."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link"}
ELEMENTS = set(
    """html head meta title link style body header h1 h2 h3 p main article section div span svg path rect ol ul li b dl
    dt dd details summary pre meter time a noscript script strong""".split()
)
ATTRIBUTES = set(
    """lang charset name content rel href id role class data-every data-news data-failed data-left aria-labelledby
    aria-label aria-hidden viewbox fill-rule d preserveaspectratio x y width height min max value tabindex open
    datetime""".split()
)


class Read(HTMLParser):
    """What stands in a page, by element."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.attributes: dict[str, list[dict[str, str | None]]] = {}
        assert html.startswith("<!doctype html>\n<html lang=")
        self.feed(html)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ELEMENTS, tag
        assert {name for name, _ in attrs} <= ATTRIBUTES, attrs
        given = dict(attrs)
        assert len(given) == len(attrs), "an attribute twice"
        self.attributes.setdefault(tag, []).append(given)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if "href" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    @property
    def said(self) -> str:
        """All that is to be read."""
        code = {"style", "script"}
        return " ".join(text for where, texts in self.texts.items() if where not in code for text in texts)
