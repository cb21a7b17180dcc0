"""HTML as text that is escaped unless it was made here. Pure; imports nothing of the project."""

from html import escape
from typing import Final

_VOID: Final = frozenset({"link", "meta"})


class Markup(str):
    """Text that is HTML already; every other text is escaped on its way into a tag."""

    __slots__ = ()


def tag(name: str, /, *inside: str, **attributes: object) -> Markup:
    """An element, with names like `class_` and `data_left`. What is inside is escaped unless it is Markup.

    An attribute's value is always escaped; one that is None or False is left out, True stands alone.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*inside)}</{name}>")


def join(*parts: str) -> Markup:
    """One after the other."""
    return Markup("".join(one if isinstance(one, Markup) else escape(one) for one in parts))
