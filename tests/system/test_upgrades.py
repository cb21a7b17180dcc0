"""Instances of older versions under today's verbs: read, used, never cut, reaped, stopped.

Each boots, in the simulator, from the labels and the user-data that its own version's provision wrote: its own
bootstrap, agent and nginx.conf answer here. tests/upgrades/README.md says which versions, and how to add one.
"""

import json

import pytest

from client import labels
from tests.simulator import ALWAYS, Seen, Simulator
from tests.simulator.driver import ask, ready, status
from tests.system.serving import PROMPT, serving
from tests.system.verbs import Clerk, User, changes, let_pass
from tests.upgrades import Recorded, recorded

VERSIONS = [pytest.param(one, id=one.commit[:7]) for one in recorded()]
OLDEST = [one for one in VERSIONS if one.id == "aa524d5"]
IDLE = 40 * 60


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest) -> Recorded:
    """What one version made."""
    version: Recorded = request.param
    return version


@pytest.fixture
def up(empty: Simulator, old: Recorded) -> Seen:
    """Its instance, ready; its label was written long ago."""
    empty.advance(IDLE)
    id_ = empty.plant(name=old.name, labels=old.labels, user_data=old.user_data, machine=True)
    return ready(empty, empty.instance(id_))


def test_it_is_found_read_and_used_never_cut_and_reaped_once_idle(
    empty: Simulator, here: Clerk, user: User, up: Seen, old: Recorded
) -> None:
    assert here.run("provision", "--json").ended(0).json["id"] == up.id
    assert changes(empty) == ["update-instance"], "the activity label, and no second instance"
    [now] = empty.instances()
    assert now.labels == {**old.labels, labels.ACTIVITY: now.labels[labels.ACTIVITY]}
    assert now.labels[labels.ACTIVITY] >= old.labels[labels.ACTIVITY]

    [seen] = here.run("status", "--probe", "--json").ended(0).json["instances"]
    assert (seen["id"], seen["state"], seen["model"]) == (up.id, "running", "granite3.1-dense:8b")
    assert (seen["said"]["boot"]["phase"], seen["reap"]["decision"]) == ("ready", "keep")
    assert 2150 < seen["goes_in_s"] <= 2250, "a quarter more than the timeout, by its label"
    shown = here.run("logs").ended(0).out
    assert up.id in shown
    assert "boot          ready, after " in shown

    empty.ollama(hold_after=3)
    with serving(user, "--no-provision") as served, served.asking("POST", "/api/generate", PROMPT) as answer:
        assert answer.status == 200, "its key was read from its user-data"
        first = answer.readline()
        # The forwarder writes a use down within a second: the label is to stay old.
        empty.fault("update-instance", "403-iam", times=ALWAYS)
        let_pass(empty, IDLE)
        before = empty.instance(up.id).labels
        kept = here.run("reap", "--json").ended(0).json["instances"]
        assert [(one["outcome"], one["reason"]) for one in kept] == [("kept", "1 request(s) in flight")]
        assert empty.instance(up.id).labels == before
        empty.ollama(hold_after=None)
        lines = [json.loads(line) for line in (first, *answer)]
        assert lines[-1]["done"] is True

    assert "used" in here.run("reap").ended(0).out, "its own word counts, however old its label is"
    let_pass(empty, IDLE)
    assert here.run("reap").ended(0).out.startswith(f"destroyed ch-gva-2 exollama {up.id}: idle for")
    assert empty.instances() == []


@pytest.mark.parametrize("old", OLDEST, indirect=True)
def test_stop_waits_for_what_is_in_flight_and_ends_it_then(empty: Simulator, here: Clerk, user: User, up: Seen) -> None:
    empty.ollama(hold_after=3)
    with user.running("generate", "--no-provision", "why?") as run:
        run.until(lambda: status(up)["in_flight"] == 1, "in flight")
        kept = here.run("stop", "--json").ended(1).json["instances"]
        assert [(one["outcome"], one["reason"]) for one in kept] == [("kept", "in use: 1 request(s) in flight")]
        assert status(up)["fence"] is None
        empty.ollama(hold_after=None)
        run.end().ended(0)
    assert here.run("stop").ended(0).out.startswith(f"destroyed ch-gva-2 exollama {up.id}: as asked")
    assert empty.instances() == []


@pytest.mark.parametrize("old", OLDEST, indirect=True)
def test_one_that_is_shut_for_good_by_a_reaper_that_died_then_goes_though_it_does_not_tell_since_when(
    empty: Simulator, here: Clerk, up: Seen
) -> None:
    owner = "5" * 32
    let_pass(empty, IDLE)
    assert ask(up, "PUT", f"/.exollama/fence/{owner}").status == 201
    assert ask(up, "POST", f"/.exollama/fence/{owner}/commit").status == 200
    assert status(up)["fence"] == {"lease_s": pytest.approx(120, abs=20), "committed": True}
    assert "kept      ch-gva-2" in here.run("reap").ended(0).out
    let_pass(empty, 11 * 60)
    empty.wait(lambda: empty.instance(up.id).state == "stopped", "powered off by itself")
    assert "stopped: it powered itself off" in here.run("reap").ended(0).out
    assert empty.instances() == []
