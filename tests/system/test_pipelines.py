"""Pipelines at once, over real sockets: however many provision one name, all are given the one instance that is left.

Boots stand still in the middle until all runs have settled: no loser's instance gets ready, so all of them are deleted.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from functions import provision
from functions.zones import side_by_side
from tests.simulator import Seen, Simulator
from tests.simulator.driver import ask, ready, status
from tests.system.verbs import Clerk, Running, User, changes, let_pass

EVERYWHERE = {"0.0.0.0/0", "::/0"}
LOOK_S = 0.1
"""While a boot is waited for the list is looked at so often here, instead of every ten seconds."""


@pytest.fixture(autouse=True)
def swept(cloud: Simulator) -> Iterator[None]:
    """Every test here starts with no security group of ours and boots that stand still, and leaves no instance."""
    for zone in cloud.zones.values():
        zone.groups = dict(list(zone.groups.items())[:1])
    cloud.ollama(pull_hold_percent=1.0)
    yield
    cloud.ollama(pull_hold_percent=None)
    for seen in cloud.instances():
        cloud.remove(seen.id)


def go_on(cloud: Simulator) -> None:
    """Let the boots go on, once one instance is left."""
    cloud.wait(lambda: len(cloud.instances()) == 1, "one instance is left")
    cloud.ollama(pull_hold_percent=None)


class Threads:
    """Runs in this process, all begun at once; `results` and `notes` are theirs."""

    def __init__(self, user: User, number: int, monkeypatch: pytest.MonkeyPatch, **env: str) -> None:
        monkeypatch.setattr("client.boot.LOOK_S", LOOK_S)
        self._settings = user.settings(**env)
        self.notes: list[str] = []
        self.results: list[dict[str, Any]] = []
        self.waiting: set[int] = set()
        self._all = threading.Thread(
            target=lambda: self.results.extend(side_by_side(self._run, range(number), at_once=number)), daemon=True
        )
        self._all.start()

    def _run(self, which: int) -> dict[str, Any]:
        def progress(phase: str, _percent: float | None, _elapsed_s: float) -> None:
            if phase == "model":
                self.waiting.add(which)

        return provision.run(self._settings, note=self.notes.append, progress=progress)

    def end(self) -> list[dict[str, Any]]:
        self._all.join(60)
        return self.results


def left(cloud: Simulator, results: list[dict[str, Any]], number: int) -> Seen:
    """The one instance that is left, which every run was given, ready."""
    [seen] = cloud.instances()
    assert [(one["id"], one["url"], one["phase"]) for one in results] == [(seen.id, seen.url, "ready")] * number
    assert status(seen)["boot"]["phase"] == "ready"
    deeds = changes(cloud)
    assert deeds.count("create-instance") - deeds.count("delete-instance") == 1
    return seen


@pytest.mark.parametrize(
    ("number", "list_lag_s", "unique"),
    [(8, 0.0, True), (8, 0.6, False), (3, 0.6, True)],
    ids=["eight", "eight, lagging lists, groups of one name", "three, lagging lists"],
)
def test_however_many_provision_at_once_one_instance_is_left_and_all_are_given_it(
    cloud: Simulator, here: Clerk, monkeypatch: pytest.MonkeyPatch, number: int, list_lag_s: float, unique: bool
) -> None:
    cloud.options.list_lag_s, cloud.options.unique_group_names = list_lag_s, unique
    runs = Threads(here, number, monkeypatch)
    cloud.wait(lambda: len(runs.waiting) == number, "all wait for a boot")
    go_on(cloud)
    seen = left(cloud, runs.end(), number)
    made = [note for note in runs.notes if "is being created" in note]
    gave_way = [note for note in runs.notes if "first: using that one" in note]
    assert len(made) == changes(cloud).count("create-instance") == len(gave_way) + 1
    zone = cloud.zones[seen.zone]
    [group] = zone.instances[seen.id].groups
    assert {rule["network"] for rule in zone.groups[group]["rules"]} == EVERYWHERE
    ours = [one for one in zone.groups.values() if one["name"].startswith("exollama-")]
    assert len(ours) == 1 or not unique
    cloud.api.calls.clear()
    late = Threads(here, 1, monkeypatch).end()
    assert ([one["id"] for one in late], changes(cloud)) == ([seen.id], [])


# -- processes, one of which is killed


class Watchful(User):
    """Somebody whose processes look at the list as often as the threads above, and log every call."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        super().__init__(simulator)
        self.script = folder / "watchful.py"
        self.script.write_text(
            f"import client.boot, sys\nclient.boot.LOOK_S = {LOOK_S}\nfrom client.cli import main\nsys.exit(main())\n"
        )

    def command(self, module: str, *arguments: str) -> list[str]:
        return [*super().command(module)[:-2], str(self.script), *arguments, "-v"]


@pytest.fixture
def watchful(cloud: Simulator, tmp_path: Path) -> Watchful:
    return Watchful(cloud, tmp_path)


def test_where_the_process_that_made_the_instance_is_killed_the_others_are_given_it_all_the_same(
    cloud: Simulator, watchful: Watchful
) -> None:
    with ExitStack() as stack:
        runs = [stack.enter_context(watchful.running("provision", "--json")) for _ in range(3)]
        for run in runs:
            run.until(lambda run=run: "GET /instance/" in run.err, "has chosen")  # type: ignore[misc]
        cloud.wait(lambda: len(cloud.instances()) == 1, "one instance is left")
        [seen] = cloud.instances()
        maker = next(run for run in runs if f"Instance {seen.id} is being created" in run.err)
        assert kill(maker) == ""
        go_on(cloud)
        results = [run.end().ended(0).json for run in runs if run is not maker]
    left(cloud, results, 2)


def kill(run: Running) -> str:
    """Kill it, as an out-of-memory killer does, and return what it had printed."""
    run.process.send_signal(signal.SIGKILL)
    done = run.end()
    assert done.code == -signal.SIGKILL
    return done.out


def test_where_a_process_is_killed_while_it_gives_way_its_instance_is_reaped_and_the_one_in_use_is_not(
    cloud: Simulator, watchful: Watchful, here: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.boot.LOOK_S", LOOK_S)
    # What the list says before the decision was right when it was asked for, and is old news when it arrives.
    arrives = threading.Event()
    cloud.fault("list-instances", "slow", seconds=0, skip=1, then=lambda: arrives.wait(30))
    cloud.fault("delete-instance", "hang", seconds=60)
    with watchful.running("provision") as late:
        late.until(lambda: len(cloud.called("list-instances")) == 2, "looks for an instance")
        first = here.run("provision", "--no-wait", "--json").ended(0).json
        time.sleep(1.1)  # instances are told apart by the second in which they were made
        arrives.set()
        late.until(lambda: cloud.called("delete-instance"), "gives way to it")
        assert len(cloud.instances()) == 2
        kill(late)
    cloud.ollama(pull_hold_percent=None)
    assert here.run("provision", "--json").ended(0).json["id"] == first["id"]
    [leftover] = [seen for seen in cloud.instances() if seen.id != first["id"]]
    ready(cloud, leftover)
    let_pass(cloud, 40 * 60)
    ask(cloud.instance(first["id"]), "POST", "/api/generate", {"model": "granite3.1-dense:8b", "prompt": "why?"})
    done = here.run("reap", "--json").ended(0).json["instances"]
    assert {one["id"]: one["outcome"] for one in done} == {first["id"]: "kept", leftover.id: "destroyed"}
    assert [seen.id for seen in cloud.instances()] == [first["id"]]


# -- one that is stopped


def test_two_at_once_that_find_a_stopped_instance_start_it_once_and_are_both_given_it(
    cloud: Simulator, here: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.ollama(pull_hold_percent=None)
    keeps = {"EXOSCALE_REAP_ACTION": "stop"}
    first = here.run("provision", "--json", **keeps).ended(0).json
    here.run("stop", "--keep-disk").ended(0)
    assert cloud.instance(first["id"]).state == "stopped"
    cloud.api.calls.clear()
    cloud.fault("update-instance", "slow", seconds=0.5, times=2)  # both have found it stopped before either starts it
    results = Threads(here, 2, monkeypatch, **keeps).end()
    assert [(one["id"], one["phase"]) for one in results] == [(first["id"], "ready")] * 2
    assert [seen.id for seen in cloud.instances()] == [first["id"]]
    assert len([call for call in cloud.called("start-instance") if call.status == 200]) == 1
    assert "create-instance" not in changes(cloud)
    assert status(cloud.instance(first["id"]))["boot"]["phase"] == "ready"
