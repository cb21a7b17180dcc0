"""What a test may turn while the stand-in runs: the control file, read again at each request and token."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(kw_only=True)
class Controls:
    """What a test may turn. Seconds are real ones; counts are of tokens within one answer."""

    token_s: float = 0.01
    load_s: float = 0.0  # before the first token
    tokens: int | None = None  # length of an answer, by repetition or cut; None: as it comes
    hold_after: int | None = None  # stand still after so many, until this is changed
    cut_after: int | None = None  # close the connection after so many, in the middle of the stream
    error_after: int | None = None  # an {"error": …} line after so many, as Ollama reports a runner that died
    pull_s: float = 0.2
    pull_hold_percent: float | None = None  # a pull stands still there
    fail_pull: str | None = None  # message
    fail_generate: str | None = None  # message, status 500
    unpullable: str = "^(no-such|missing|nonexistent)"  # models that the registry does not have
    runner: list[str] | None = None  # the command behind which a model runs; None: the words are canned
    about: dict[str, Any] | None = (
        None  # of that model: its size in bytes, its parameters, its details as lists have them
    )
    silent: bool = False  # connections are accepted, nothing is answered

    @classmethod
    def read(cls, path: Path) -> Controls:
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            given = {}
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in given.items() if name in known})
