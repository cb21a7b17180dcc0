"""What each IAM policy of deploy/iam is for: jobs with the very operations that they call, and what they bear to lack.

Neighbours: test_least_privilege.py runs each under its policy, whole and with one operation taken out. A job asserts
what its user sees and what it leaves, never which calls were made: those are recorded. situations.py has the zone, with
the one real machine behind its instances.
"""

from __future__ import annotations

import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

import client
from client.settings import Settings
from tests.simulator import Seen
from tests.system.serving import PROMPT
from tests.system.situations import IDLE_S, PROVISION_ENV, Impatient, World
from tests.system.verbs import Done, plant

OTHER_MODEL = "tinyllama:1.1b"


class Stage:
    """One zone and one user, who has the environment `role` beside what a job sets, and hears what is said."""

    def __init__(self, world: World, clerk: Impatient, caplog: pytest.LogCaptureFixture) -> None:
        self.world = world
        self.simulator = world.simulator
        self.role: Mapping[str, str] = {}
        self._clerk = clerk
        self._caplog = caplog
        self._heard = ""

    def begin(self) -> None:
        """Nothing is there, and nothing was said."""
        self.simulator.options.machines = True
        self.world.sweep()
        self._caplog.clear()
        self._caplog.set_level(logging.WARNING)
        self._heard = ""

    def run(self, *argv: str, **env: str) -> Done:
        """Run a verb; `-v` among its words shows, as ever, what it logs."""
        if "-v" in argv:
            self._caplog.set_level(logging.INFO)
        done = self._clerk.run(*argv, **{**self.role, **env})
        self._heard += done.said
        return done

    @property
    def settings(self) -> Settings:
        return Settings.from_env(self.role)

    @property
    def said(self) -> str:
        """Everything that a user of this job has seen, warnings included."""
        return self._heard + self._caplog.text

    def hear(self, words: str) -> None:
        self._heard += words

    def used(self, seen: Seen) -> bool:
        """Whether its activity label was written since."""
        now = self.simulator.instance(seen.id)
        return now.labels["exollama-activity"] > seen.labels["exollama-activity"]

    def in_use_label(self) -> Seen:
        """A running instance whose label is old enough to be written again."""
        return self.world.plant(used_ago_s=1000)

    def plant_elsewhere(self, **edits: Any) -> Seen:
        """One of ours at an address where nobody answers."""
        seen = plant(self.simulator, **edits)
        self.simulator._record(seen.id).ip = self.simulator._addresses.take()
        return seen

    def called(self) -> set[str]:
        """The operations that were called with a signature."""
        return {call.operation_id for call in self.simulator.calls if call.signed}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What somebody does with a policy's key. `do` asserts that all of it was done.

    It `calls` exactly these operations; all of them but those that it `bears` to lack are missed by its user.
    """

    policy: str
    do: Callable[[Stage], None]
    calls: Iterable[str]
    bears: Iterable[str] = field(default=())

    @property
    def needs(self) -> list[str]:
        return [operation for operation in self.calls if operation not in self.bears]


# -- the client's


def generate(stage: Stage) -> None:
    up = stage.in_use_label()
    done = stage.run("generate", "--no-provision", "why?").ended(0)
    assert done.out.strip()
    assert stage.used(up)
    assert "not recorded" not in stage.said


def logs(stage: Stage) -> None:
    up = stage.in_use_label()
    assert "boot          ready" in stage.run("logs").ended(0).out
    assert not stage.used(up)


def env(stage: Stage) -> None:
    up = stage.in_use_label()
    done = stage.run("env", "--json").ended(0)
    assert done.json["key"] == PROVISION_ENV["EXOSCALE_OLLAMA_KEY"]
    assert stage.used(up)
    assert "not recorded" not in stage.said


def serve(stage: Stage) -> None:
    """As `serve --no-provision` does, within this process."""
    up = stage.in_use_label()
    with client.forward(stage.settings, hold_s=20) as url:
        request = urllib.request.Request(f"{url}/api/generate", json.dumps(PROMPT).encode())
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                words = answer.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                words = refusal.read().decode()
    stage.hear(words)
    assert '"done":true' in words.replace(" ", "")
    assert stage.used(up)
    assert "not recorded" not in stage.said


# -- the reaper's


def _idle(stage: Stage, **edits: Any) -> Seen:
    seen = stage.world.plant(**edits)
    stage.world.lodging.ask("GET", "status")  # whatever was done before, the agent has seen it now
    stage.simulator.advance(IDLE_S)
    return seen


def reap(stage: Stage) -> None:
    _idle(stage)
    stage.run("reap").ended(0)
    assert stage.world.left() == "gone"


def reap_and_stop(stage: Stage) -> None:
    _idle(stage, exollama_action="stop", exollama_retention="s315360000")
    stage.run("reap").ended(0)
    assert stage.world.left() == "stopped"


def reap_what_is_busy(stage: Stage) -> None:
    _idle(stage)
    stage.simulator.fault("delete-instance", "busy")
    stage.run("reap").ended(1, "busy")
    assert stage.world.left() == "open", "it takes requests again"


def status(stage: Stage) -> None:
    seen = stage.in_use_label()
    shown = stage.run("status").ended(0).out
    assert seen.id in shown
    assert " standard.micro " in shown, "its type, and so its cost, take no permission"


def probe(stage: Stage) -> None:
    stage.in_use_label()
    [shown] = stage.run("status", "--probe", "--json").ended(0).json["instances"]
    assert shown["said"]["boot"]["phase"] == "ready"


def check(stage: Stage) -> None:
    _idle(stage)
    stage.run("status", "--check").ended(1, "should be gone: idle for")
    assert "not asked" not in stage.said


def stop(stage: Stage) -> None:
    stage.world.plant()
    stage.run("stop").ended(0)
    assert stage.world.left() == "gone"


def stop_and_keep_the_disk(stage: Stage) -> None:
    stage.world.plant(exollama_action="stop")
    stage.run("stop", "--keep-disk").ended(0)
    assert stage.world.left() == "stopped"


# -- the provisioner's


def create(stage: Stage) -> None:
    done = stage.run("provision", "--json", **PROVISION_ENV).ended(0)
    assert done.json["phase"] == "ready"
    assert stage.world.left() == "open"
    group = list(stage.world.lodging.zone.groups.values())[-1]
    assert [rule["network"] for rule in group["rules"]] == ["0.0.0.0/0", "::/0"]


def start(stage: Stage) -> None:
    seen = stage.world.plant("stopped", used_ago_s=3600, exollama_action="stop")
    assert stage.run("provision", "--json").ended(0).json["id"] == seen.id
    assert stage.world.left() == "open"


def find(stage: Stage) -> None:
    """One that runs, with another type and another model."""
    up = stage.in_use_label()
    wanted = {"EXOSCALE_OLLAMA_MODEL": OTHER_MODEL, "EXOSCALE_INSTANCE_TYPE": "standard.huge"}
    done = stage.run("provision", "--json", **wanted).ended(0, f"pulling {OTHER_MODEL}", "set: standard.huge")
    assert done.json["id"] == up.id
    assert stage.used(up)
    assert "Warning" not in done.err


def lose(stage: Stage) -> None:
    """While this run's instance is being made another one turns up that is older: this one's goes."""
    stage.simulator.options.machines = False
    older: list[Seen] = []

    def turn_up() -> None:
        older.append(stage.plant_elsewhere(created_ago_s=20, exollama_activity=_now(stage)))

    stage.simulator.fault("create-instance", "slow", seconds=0, then=turn_up)
    done = stage.run("provision", "--no-wait", "--json").ended(0, "Another run made", "was destroyed")
    assert [seen.id for seen in stage.simulator.instances()] == [done.json["id"]] == [older[0].id]


def tidy(stage: Stage) -> None:
    up = stage.world.plant(used_ago_s=0)
    stage.plant_elsewhere(exollama_name="nother", state="error")
    kept = stage.plant_elsewhere(exollama_name="nthird", exollama_action="stop", exollama_retention="s315360000")
    stage.run("provision", "-v").ended(0, "was destroyed on the way", "was stopped on the way")
    assert {seen.id: seen.state for seen in stage.simulator.instances()} == {up.id: "running", kept.id: "stopped"}


def _now(stage: Stage) -> str:
    return time.strftime("t%Y%m%dT%H%M%SZ", time.gmtime(stage.simulator.clock.now()))


_USE = ("list-instances", "get-instance", "update-instance", "get-operation")
_END = ("list-instances", "get-instance", "delete-instance", "get-operation")
_STOP = ("list-instances", "get-instance", "stop-instance", "get-operation")
_CREATE = (
    *("list-instances", "get-instance", "get-operation", "list-templates", "list-instance-types"),
    *("list-security-groups", "get-security-group", "create-security-group", "add-rule-to-security-group"),
    "create-instance",
)
_TOLD = ("get-operation",)
"""How a deed that succeeded ended is seen on the instance, too."""

JOBS: Mapping[str, Job] = {
    "generate": Job(policy="client", do=generate, calls=_USE),
    "logs": Job(policy="client", do=logs, calls=("list-instances", "get-instance")),
    "env": Job(policy="client", do=env, calls=_USE),
    "serve --no-provision": Job(policy="client", do=serve, calls=_USE),
    "reap": Job(policy="reaper", do=reap, calls=_END, bears=_TOLD),
    "reap, action stop": Job(policy="reaper", do=reap_and_stop, calls=_STOP, bears=_TOLD),
    "reap, busy": Job(policy="reaper", do=reap_what_is_busy, calls=_END),
    "status": Job(policy="reaper", do=status, calls=("list-instances",)),
    "status --probe": Job(policy="reaper", do=probe, calls=("list-instances", "get-instance")),
    "status --check": Job(policy="reaper", do=check, calls=("list-instances", "get-instance")),
    "stop": Job(policy="reaper", do=stop, calls=_END, bears=_TOLD),
    "stop --keep-disk": Job(policy="reaper", do=stop_and_keep_the_disk, calls=_STOP, bears=_TOLD),
    "provision, nothing there": Job(policy="provisioner", do=create, calls=_CREATE),
    "provision, stopped": Job(policy="provisioner", do=start, calls=(*_USE, "start-instance")),
    "provision, running": Job(policy="provisioner", do=find, calls=(*_USE, "list-instance-types")),
    "provision, one too many": Job(policy="provisioner", do=lose, calls=(*_CREATE, "delete-instance")),
    "provision, tidying": Job(policy="provisioner", do=tidy, calls=(*_END, "stop-instance"), bears=_TOLD),
}
