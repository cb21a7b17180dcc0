"""Verbs as the command line runs them, in this process."""

from collections.abc import Callable

import pytest

from client import cli, verbs


def verb_that(monkeypatch: pytest.MonkeyPatch, does: Callable[[], int], name: str = "status") -> None:
    monkeypatch.setattr(verbs, "_VERBS", {name: lambda *_: does()})


def raising(error: BaseException) -> Callable[[], int]:
    def does() -> int:
        raise error

    return does


def words(*arguments: str, prog: str = "exollama", verb: str | None = None) -> int:
    """The exit code of one call in this process."""
    try:
        return cli.main(list(arguments), prog=prog, verb=verb)
    except SystemExit as leaving:  # argparse
        return int(leaving.code or 0)
