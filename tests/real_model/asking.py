"""What the tests ask, and how they read a stream: every value with the moment when it came."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.real_model import MODEL
from tests.system.serving import Served

PROMPT = "Tell me a story."
PATIENCE_S = 100
"""For one answer, on a machine that is busy."""

Value = dict[str, Any]


def options(**changes: Any) -> Value:
    """Few tokens, and temperature 0, so that chance has no part in what is counted."""
    return {"num_predict": 16, "temperature": 0, **changes}


def asked(prompt: str = PROMPT, /, *, stream: bool = True, **changes: Any) -> Value:
    """The body of a request to /api/generate."""
    return {"model": MODEL, "prompt": prompt, "stream": stream, "options": options(**changes)}


def whole(served: Served, path: str, body: Value, status: int = 200) -> Value:
    """An answer without streaming."""
    answer = served.ask("POST", path, body, timeout_s=PATIENCE_S)
    assert answer.status == status, answer
    value: Value = answer.json
    return value


def streamed(served: Served, path: str, body: Value) -> list[tuple[float, Value]]:
    """The values of a stream, of whichever dialect, each with the seconds from the request to it."""
    began = time.monotonic()
    values = []
    with served.asking("POST", path, body, timeout_s=PATIENCE_S) as answer:
        assert answer.status == 200, answer.read()
        for line in answer:
            text = line.strip().removeprefix(b"data: ")
            if text and text != b"[DONE]":
                values.append((time.monotonic() - began, json.loads(text)))
    return values


def pieces(values: list[tuple[float, Value]]) -> list[str]:
    """The words of a stream from /api/generate."""
    return [value["response"] for _, value in values[:-1]]
