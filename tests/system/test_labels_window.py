"""Two writers of one label map: what is kept, what is repaired once, and the window that remains.

PUT replaces the whole map and there is no ETag (the simulator does the same), so what somebody else writes between
our read and our write is lost. These tests hold both sides of that: what is promised, and what is not.
"""

import threading
from collections.abc import Callable, Mapping

import pytest

from client import activity, labels
from client.api import Api
from client.errors import Conflict, OperationFailed
from client.model import Instance
from client.transport import http_client_send
from functions.cloud import Cloud
from tests.simulator import ALWAYS, Seen, Simulator
from tests.simulator.driver import call
from tests.system.verbs import Clerk, changes, plant

IDLE_LONG = "t20260101T000000Z"


class Writer(Api):
    """Our side over the real API; `before_put` is what somebody else does between our read and our write."""

    before_put: Callable[[], None] | None = None
    after_put: Callable[[], None] | None = None

    def put_labels(self, instance_id: str, labels: Mapping[str, str]) -> None:
        if self.before_put:
            self.before_put()
        super().put_labels(instance_id, labels)
        if self.after_put:
            self.after_put()


@pytest.fixture
def ours(records: Simulator, clerk: Clerk) -> Writer:
    settings = clerk.settings()
    return Writer(settings, settings.zone, http_client_send, clock=records.clock.now, sleep=clerk.nap)


@pytest.fixture
def seen(records: Simulator) -> Seen:
    return plant(records, team="blue")


def theirs(records: Simulator, seen: Seen, **changed: str | None) -> None:
    """Somebody else's write through the API: the whole map as it is now, changed."""
    given = {**records.instance(seen.id).labels, **changed}
    body = {"labels": {name: value for name, value in given.items() if value is not None}}
    assert call(records, "PUT", f"/instance/{seen.id}", body).status == 200


def puts(records: Simulator) -> int:
    return len(records.called("update-instance"))


def now_label(records: Simulator, seen: Seen) -> bool:
    """Whether the activity label says now."""
    moment = labels.read_time(records.instance(seen.id).labels.get(labels.ACTIVITY))
    return moment is not None and abs(moment.timestamp() - records.clock.now()) < 10


def test_a_foreign_key_is_kept_through_our_write(records: Simulator, ours: Writer, seen: Seen) -> None:
    before = records.instance(seen.id).labels
    theirs(records, seen, cost_centre="n42", team="green")
    assert activity.record(ours, seen.id)
    after = records.instance(seen.id).labels
    assert now_label(records, seen)
    assert (after["cost_centre"], after["team"]) == ("n42", "green")
    changed = {labels.ACTIVITY, "team", "cost_centre"}
    assert {k: v for k, v in after.items() if k not in changed} == {k: v for k, v in before.items() if k not in changed}
    assert puts(records) == 2  # theirs and ours


def test_what_somebody_writes_between_our_read_and_our_write_is_lost(
    records: Simulator, ours: Writer, seen: Seen
) -> None:
    """The window that remains: no test_and_set exists. Nothing of ours depends on a foreign key's survival."""
    ours.before_put = lambda: theirs(records, seen, team="green", cost_centre="n42")
    assert activity.record(ours, seen.id)
    after = records.instance(seen.id).labels
    assert now_label(records, seen)
    assert after["team"] == "blue"
    assert "cost_centre" not in after


def test_in_that_window_even_a_withdrawn_ownership_comes_back(records: Simulator, ours: Writer, seen: Seen) -> None:
    ours.before_put = lambda: theirs(records, seen, exollama=None)
    assert activity.record(ours, seen.id)
    assert records.instance(seen.id).labels[labels.OWNER] == "v1"
    theirs(records, seen, exollama=None)
    ours.before_put = None
    before = puts(records)
    assert not activity.record(ours, seen.id)  # the next read sees it
    assert puts(records) == before
    assert labels.OWNER not in records.instance(seen.id).labels


def test_our_label_that_somebody_overwrote_is_repaired(records: Simulator, ours: Writer, seen: Seen) -> None:
    def overwrite() -> None:
        ours.after_put = None
        theirs(records, seen, **{labels.ACTIVITY: IDLE_LONG})

    ours.after_put = overwrite
    assert activity.record(ours, seen.id)
    assert puts(records) == 3  # ours, theirs, ours again
    assert now_label(records, seen)
    assert records.instance(seen.id).labels["team"] == "blue"


def test_the_repair_happens_once_and_no_more(records: Simulator, ours: Writer, seen: Seen) -> None:
    written: list[int] = []

    def overwrite() -> None:
        written.append(1)
        theirs(records, seen, **{labels.ACTIVITY: IDLE_LONG})

    ours.after_put = overwrite
    assert activity.record(ours, seen.id)
    assert len(written) == 2  # our write and one repair, each overwritten
    assert puts(records) == 4
    assert records.instance(seen.id).labels[labels.ACTIVITY] == IDLE_LONG


def test_a_newer_time_of_somebody_else_is_not_set_back(records: Simulator, ours: Writer, seen: Seen) -> None:
    ahead = labels.time(ours.now().replace(microsecond=0))
    records.edit_labels(seen.id, exollama_activity=ahead)
    assert activity.record(ours, seen.id, always=True)
    assert records.instance(seen.id).labels[labels.ACTIVITY] >= ahead


@pytest.mark.parametrize(("kind", "raised"), [("409", Conflict), ("busy", OperationFailed)])
def test_a_busy_instance_is_written_after_reading_it_again(
    records: Simulator, clerk: Clerk, ours: Writer, seen: Seen, kind: str, raised: type[Exception]
) -> None:
    records.fault("update-instance", kind)
    edits = iter([{"team": "green"}])
    ours.sleep = lambda seconds: records.edit_labels(seen.id, **next(edits, {})) if seconds >= 1 else clerk.nap(seconds)
    assert activity.record(ours, seen.id)
    assert now_label(records, seen)
    assert records.instance(seen.id).labels["team"] == "green"  # edited while we waited, so read again
    records.edit_labels(seen.id, exollama_activity=IDLE_LONG)
    records.fault("update-instance", kind, times=ALWAYS)
    with pytest.raises(raised):
        activity.record(ours, seen.id)
    assert records.instance(seen.id).labels[labels.ACTIVITY] == IDLE_LONG


def test_many_clients_at_once_leave_one_valid_map_and_write_a_few_times_at_most(
    records: Simulator, clerk: Clerk, seen: Seen
) -> None:
    settings = clerk.settings()

    def one() -> None:
        api = Api(settings, settings.zone, http_client_send, clock=records.clock.now, sleep=clerk.nap)
        activity.record(api, seen.id)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert now_label(records, seen)
    assert {**records.instance(seen.id).labels, labels.ACTIVITY: ""} == {**seen.labels, labels.ACTIVITY: ""}
    assert 1 <= puts(records) <= 16  # each at most once and one repair
    written = puts(records)
    one()
    assert puts(records) == written


def test_the_reapers_reading_of_an_instance_that_changed_meanwhile_is_not_acted_upon(
    records: Simulator, clerk: Clerk, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label that was written between the reaper's list and its second look keeps the instance."""
    records.set_state(seen.id, "error")
    get_instance = Cloud.get_instance

    def after_a_write(self: Cloud, instance_id: str) -> Instance:
        theirs(records, seen, team="green")
        return get_instance(self, instance_id)

    monkeypatch.setattr(Cloud, "get_instance", after_a_write)
    done = clerk.run("reap").ended(0)
    assert done.out.endswith("its labels or its state changed while it was looked at\n")
    assert "delete-instance" not in changes(records)
