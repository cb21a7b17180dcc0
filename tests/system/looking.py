"""The live run as somebody with an account types it, on a cloud of records, for test_live.py and test_live_ends.py."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.live import __main__ as live
from tests.live import checks
from tests.system.verbs import Clerk, Done

Env = Mapping[str, str | None]
BUDGET = ("--budget", "0.20")


class Look:
    """Runs it inside this process, with the clerk's clock and short sleeps."""

    def __init__(self, clerk: Clerk, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.simulator = clerk.simulator
        self.output = folder / "found.json"
        monkeypatch.setattr(checks, "LOOKS", 2)

    def run(self, *arguments: str, limit_s: float | None = None, env: Env = MappingProxyType({})) -> Done:
        """With these arguments, its findings to a file of the test's own."""
        out, err = io.StringIO(), io.StringIO()
        merged = {**self.simulator.env, **env}
        environment = {name: value for name, value in merged.items() if value is not None}
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = live.main([*arguments, "--output", str(self.output)], environment, limit_s)
            except SystemExit as end:
                code = int(end.code or 0)
        return Done(code, out.getvalue(), err.getvalue())

    @property
    def found(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = json.loads(self.output.read_text())
        return found

    def verdicts(self, *ids: str) -> dict[str, str]:
        """Of all findings, or of these."""
        return {id_: one["verdict"] for id_, one in self.found.items() if not ids or id_ in ids}

    def power_off_the_second(self) -> None:
        """It does so by itself, on a real machine; here when the first is asked to stop."""

        def off() -> None:
            self.simulator.poweroff(self.simulator.instances()[-1].id)

        self.simulator.fault("stop-instance", "slow", seconds=0, then=off)

    def left(self) -> list[Any]:
        """The instances, and the groups but for the account's first."""
        groups = [group["name"] for zone in self.simulator.zones.values() for group in zone.groups.values()]
        return [*self.simulator.instances(), *(name for name in groups if name != "default")]
