"""Where the words of an answer come from: what a source of them is asked, and what it tells besides.

A source gives pieces, each a token's text or a message's other fields, then what they cost; it raises Died where it
breaks off. There are two: canned.py, which says that it is no model, and runner.py, behind which one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.stand_in.exchange import Exchange
from tests.stand_in.models import Body


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request for words, in whatever dialect it came."""

    model: str
    prompt: str
    system: str = ""
    messages: Sequence[Body] = ()  # a conversation, of which the prompt is the last message
    tool: Body | None = None  # the one to call instead of answering in words
    format: Any = None
    limit: int | None = None  # tokens at most
    options: Mapping[str, Any] = field(default_factory=dict)  # by Ollama's names, which OpenAI's are too
    load: bool = False  # nothing is asked: the model is loaded, or unloaded where it is to be kept for no time
    keep: bool = True

    def conversation(self) -> list[Body]:
        """All of it as messages of words, the system's first."""
        if self.messages:
            return [{"role": said.get("role"), "content": text_of(said)} for said in self.messages]
        spoken = [("system", self.system), ("user", self.prompt)]
        return [{"role": role, "content": text} for role, text in spoken if text]


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What an answer cost: tokens that were read and said, nanoseconds that each step took."""

    limited: bool  # it ended where it may be no longer
    load_ns: int
    read: int
    reading_ns: int
    said: int
    saying_ns: int


class Died(Exception):
    """The source broke off; a client hears this message."""


Source = Callable[[Exchange, Asked], Iterator[str | Body | Spent]]


def text_of(message: Mapping[str, Any]) -> str:
    """The words of a message, whose content is words or, with OpenAI, parts of which some are words."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(str(part["text"]) for part in content if "text" in part)
