"""The end of `exollama serve`: what is in flight, within a bound; activity, once; the instance, where it is asked."""

import http.client
import json
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from tests.simulator import Seen, Simulator
from tests.simulator.driver import Answer, status
from tests.system.serving import PROMPT, Served, refused, serving, whole
from tests.system.verbs import Clerk, User, changes


@pytest.fixture
def up(cloud: Simulator, here: Clerk) -> Seen:
    """One instance, ready, whatever the test before left."""
    cloud.ollama(hold_after=None)
    here.run("provision", "--json").ended(0)
    cloud.api.calls.clear()
    return cloud.instance()


@pytest.fixture(autouse=True)
def flowing(cloud: Simulator) -> Iterator[None]:
    yield
    cloud.ollama(hold_after=None)


class Streaming(threading.Thread):
    """A program in the middle of a stream; `answer` is all it got, `trouble` how it broke."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served = served
        self.begun = threading.Event()
        self.answer: Answer | None = None
        self.trouble: Exception | None = None

    def run(self) -> None:
        try:
            with self.served.asking("POST", "/api/generate", PROMPT) as response:
                first = response.readline()
                self.begun.set()
                rest = response.read()
                self.answer = Answer(status=response.status, headers=dict(response.getheaders()), body=first + rest)
        except (OSError, http.client.HTTPException) as error:
            self.trouble = error


@contextmanager
def streaming(cloud: Simulator, served: Served) -> Iterator[Streaming]:
    """A program whose stream stands still after its third token."""
    cloud.ollama(hold_after=3)
    program = Streaming(served)
    program.start()
    assert program.begun.wait(20)
    try:
        yield program
    finally:
        cloud.ollama(hold_after=None)
        program.join(20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_stream_in_flight_is_finished_and_its_use_is_written_down_once(
    cloud: Simulator, user: User, up: Seen, number: signal.Signals
) -> None:
    cloud.advance(600)  # the label is old enough
    with serving(user) as served:
        with streaming(cloud, served) as program:
            served.tell(number)
            served.run.until(lambda: "Finishing 1 request(s), for at most 30 s" in served.run.err, "it says so")
            with pytest.raises(ConnectionRefusedError):
                served.ask("GET", "/")
            assert served.run.process.poll() is None
            cloud.ollama(hold_after=None)
            program.join(20)
        assert program.answer
        assert whole(program.answer).endswith("why?")
        done = served.run.end(10).ended(0)
    assert "were cut" not in done.err
    assert changes(cloud).count("update-instance") in (1, 2)
    assert cloud.called("update-instance")[-1].body["labels"]["exollama-activity"] > up.labels["exollama-activity"]
    assert [seen.id for seen in cloud.instances()] == [up.id], "kept"


def test_a_second_signal_cuts_what_is_in_flight(cloud: Simulator, user: User, up: Seen) -> None:
    with serving(user) as served, streaming(cloud, served) as program:
        served.tell()
        served.run.until(lambda: "once more cuts them" in served.run.err, "it says so")
        assert served.end(signal.SIGINT).ended(1, "1 request(s) were cut.").out.count("\n") == 1
        program.join(20)
        assert program.trouble
    cloud.wait(lambda: status(up)["in_flight"] == 0, "the instance is free")


def test_the_bound_cuts_what_takes_longer(cloud: Simulator, user: User, up: Seen) -> None:
    with serving(user, "--drain", "1") as served, streaming(cloud, served) as program:
        began = time.monotonic()
        served.end().ended(1, "for at most 1 s", "1 request(s) were cut.")
        assert 1 <= time.monotonic() - began < 20, "the stream would have stood still for good"
        program.join(20)
        assert program.trouble


def test_nothing_in_flight_ends_at_once_with_nothing_to_say(user: User, up: Seen) -> None:
    with serving(user) as served:
        assert served.ask("GET", "/api/tags").status == 200
        began = time.monotonic()
        done = served.end(signal.SIGINT).ended(0)
        assert time.monotonic() - began < 10
        assert "Finishing" not in done.err
        assert "last use" not in done.err, "nobody used it here"


def test_whoever_still_waits_for_a_boot_is_told_so_and_the_boot_goes_on(cloud: Simulator, user: User) -> None:
    for seen in cloud.instances():
        cloud.remove(seen.id)
    cloud.ollama(pull_hold_percent=40)
    with serving(user, "--drain", "1") as served:
        program = Streaming(served)
        program.start()
        served.run.until(lambda: (served.status()["percent"] or 0) > 39, "it boots")
        served.end().ended(0, "Finishing 1 request(s)", "still being started", "exollama stop")
        program.join(20)
        assert program.answer
        said = refused(program.answer)
        assert said["phase"] == "model"
        assert "the forwarder ends while the instance is being started: model 40 %" in said["error"]
    cloud.ollama(pull_hold_percent=None)
    [seen] = cloud.instances()
    assert json.loads(user.run("provision", "--json").ended(0).out)["id"] == seen.id


# -- what becomes of the instance


def test_kept_it_is_said_when_it_goes_and_how_to_end_it_now(cloud: Simulator, user: User, up: Seen) -> None:
    with serving(user) as served:
        whole(served.generate())
        served.end(signal.SIGINT).ended(0, "after its last use", "To end it now: exollama stop")
    with serving(user) as served:
        whole(served.generate())
        cloud.remove(up.id)
        served.run.until(lambda: served.status()["state"] == "asleep", "somebody looks, and it is gone")
        assert "last use" not in served.end(signal.SIGINT).ended(0).err


@pytest.mark.parametrize("used", [True, False])
def test_on_exit_destroy_ends_it_through_its_fence(cloud: Simulator, user: User, up: Seen, used: bool) -> None:
    with serving(user, "--on-exit", "destroy") as served:
        if used:
            whole(served.generate())
        served.end().ended(0, "destroyed", up.id)
    assert cloud.instances() == []


def test_on_exit_destroy_is_content_where_there_is_none(cloud: Simulator, user: User) -> None:
    for seen in cloud.instances():
        cloud.remove(seen.id)
    with serving(user, "--on-exit", "destroy") as served:
        served.end().ended(0)
    assert "create-instance" not in changes(cloud)


def test_on_exit_stop_keeps_its_disk_and_the_next_use_starts_it(cloud: Simulator, user: User, here: Clerk) -> None:
    for seen in cloud.instances():
        cloud.remove(seen.id)
    stops = {"EXOSCALE_REAP_ACTION": "stop"}
    with serving(user, "--on-exit", "stop", **stops) as served:
        whole(served.generate())
        served.end().ended(0, "stopped")
    [seen] = cloud.instances()
    assert seen.state == "stopped"
    with serving(user, "--on-exit", "destroy", **stops) as served:
        whole(served.generate())
        served.end().ended(0, "destroyed", seen.id)
    assert cloud.instances() == []


def test_an_instance_that_somebody_else_uses_is_kept_and_what_to_do_is_told(
    cloud: Simulator, user: User, up: Seen
) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with serving(user, "--on-exit", "destroy") as served, ExitStack() as stack:
        whole(served.generate())
        cloud.ollama(hold_after=3)
        other = stack.enter_context(closing(http.client.HTTPSConnection(up.ip or "", 11435, context=context)))
        other.request("POST", "/api/generate", json.dumps(PROMPT), {"X-Ollama-Key": up.key})
        answer = other.getresponse()
        first = answer.readline()
        done = served.end().ended(1, "kept", f"{up.id}: in use: 1 request(s) in flight")
        assert "goes once nobody uses it" in done.err
        assert "exollama stop" in done.err
        cloud.ollama(hold_after=None)
        whole(Answer(status=200, headers={}, body=first + answer.read()))
    assert [seen.id for seen in cloud.instances()] == [up.id]


# -- activity


def test_use_is_written_into_the_label_at_most_once_a_quarter_of_the_idle_timeout(cloud: Simulator, user: User) -> None:
    for seen in cloud.instances():
        cloud.remove(seen.id)
    with serving(user, EXOSCALE_IDLE_TIMEOUT="8") as served:
        whole(served.generate())
        began = time.monotonic()
        with streaming(cloud, served):
            while time.monotonic() - began < (5 if len(cloud.called("update-instance")) > 1 else 30):
                assert served.ask("POST", "/api/embed", {"model": PROMPT["model"], "input": "a"}).status == 200
                time.sleep(0.02)
        writes = [call.at for call in cloud.called("update-instance")]
        assert len(writes) >= 2, "the stream and hundreds of requests in five seconds"
        assert len(writes) <= (writes[-1] - writes[0]) / 2 + 2, "the first and the last may have been held up"
        assert served.end().code == 0


def test_a_label_that_cannot_be_written_fails_no_request(cloud: Simulator, user: User, up: Seen) -> None:
    cloud.advance(600)
    cloud.fault("update-instance", "403-iam", times=1 << 30)
    with serving(user) as served:
        whole(served.generate())
        served.run.until(lambda: "activity not recorded" in served.run.err, "it is told")
        whole(served.generate())
        served.end().ended(0, "activity not recorded")
    cloud.clear_faults()
