"""`status` as people and Prometheus use it, on a simulated zone: what goes when, what it costs, and watching it."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from client import prices
from tests.simulator import Simulator
from tests.system.verbs import ROOT, Clerk, Running, User, plant

HEAD = re.compile(r"^20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC, every 5 s$", re.MULTILINE)


@contextmanager
def terminal(user: User, *arguments: str, **env: str) -> Iterator[Running]:
    """A verb on a terminal of 80 columns, whatever it writes on it."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    reading, writing = os.pipe()
    process = subprocess.Popen(
        user.command("client", *arguments),
        cwd=ROOT,
        env=user.environment(COLUMNS=None, LINES=None, **env),
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)

    def drain() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            try:
                while data := os.read(ours, 65536):
                    pipe.write(data)
            except OSError:  # EIO: nobody has the terminal any more
                pass
        os.close(ours)

    drainer = threading.Thread(target=drain)
    drainer.start()
    process.stdout = os.fdopen(reading, "rb")
    process.stderr = open(os.devnull, "rb")  # noqa: SIM115 - closed by its reader
    run = Running(process)
    try:
        yield run
    finally:
        process.kill()
        run.end()
        drainer.join(10)


def blocks(out: str) -> list[str]:
    """The looks that are whole."""
    return out.split("\n\n")[:-1]


def test_a_watch_in_a_pipe_outlives_failing_looks_of_all_kinds_and_ends_with_130(records: Simulator) -> None:
    seen = plant(records)
    with User(records).running("status", "--watch") as run:

        def shows(*words: str, after: Callable[[], object] = lambda: None) -> None:
            """A look that ends from now on has all of these words."""
            before = len(blocks(run.out))
            after()
            run.until(lambda: any(all(w in one for w in words) for one in blocks(run.out)[before:]), f"{words}")

        def fault(operation: str, kind: str, **how: Any) -> Callable[[], object]:
            return lambda: records.fault(operation, kind, **how)

        shows(seen.id)
        shows("GET /zone", "(503)", after=fault("list-zones", "503", times=5))
        shows(seen.id)
        shows(seen.id, "de-fra-1 was not", after=fault("list-instances", "503", times=5, zone="de-fra-1"))
        slower = "every 5 s, next in 10 s since the API asks to slow down"
        shows(seen.id, slower, after=fault("list-instances", "429", retry_after=1))
        shows(seen.id)
        run.process.send_signal(signal.SIGINT)
        done = run.end().ended(130, "interrupted")
    assert "\x1b" not in done.out
    assert all(HEAD.match(block.splitlines()[0]) for block in blocks(done.out) if "next in" not in block)


def test_a_watch_on_a_terminal_draws_over_itself_and_leaves_it_clean(records: Simulator) -> None:
    seen = plant(records)
    with terminal(User(records), "status", "--watch", TERM="xterm", NO_COLOR="1") as run:
        run.until(lambda: run.out.count("\x1b[H") > 2, "looks")
        records.fault("list-zones", "503", times=5)
        run.until(lambda: "(503)" in run.out, "a look that failed")
        frames = run.out.count("\x1b[H")
        run.until(lambda: run.out.count("\x1b[H") > frames + 2, "the next")
        run.process.send_signal(signal.SIGINT)
        done = run.end()
    assert done.code == 130
    assert set(re.findall(r"\x1b\[[0-9;?]*[a-zA-Z]", done.out)) == {"\x1b[2J", "\x1b[H", "\x1b[K", "\x1b[J"}
    assert done.out.count("\x1b[2J") == 1
    last = done.out.split("\x1b[H")[-1].replace("\r", "").replace("\x1b[K", "")
    screen, _, rest = last.partition("\x1b[J")
    assert screen.splitlines()[2].startswith("exollama  running  ch-gva-2")
    assert seen.id in screen
    assert max(len(line) for line in screen.splitlines()) < 80
    assert rest.startswith("\nexollama: interrupted.")


def test_a_watch_on_a_dumb_terminal_prints_blocks(records: Simulator) -> None:
    plant(records)
    with terminal(User(records), "status", "--watch", "3600", TERM="dumb") as run:
        run.until(lambda: run.out.count("every 3600 s\r\n") > 1, "looks")
        run.process.send_signal(signal.SIGTERM)
        done = run.end()
    assert done.code == 143
    assert "\x1b" not in done.out


def test_a_watch_as_json_is_one_object_to_a_line(records: Simulator) -> None:
    seen = plant(records)
    records.fault("list-zones", "503", times=5)
    with User(records).running("status", "--watch", "1", "--json") as run:
        run.until(lambda: run.out.count("\n") > 2, "looks")
        run.process.send_signal(signal.SIGINT)
        lines = run.end().ended(130).out.splitlines()
    failed, *looks = [json.loads(line) for line in lines]
    assert "(503)" in failed["error"]
    assert {item["id"] for look in looks for item in look["instances"]} == {seen.id}


def moment(records: Simulator) -> str:
    return time.strftime("t%Y%m%dT%H%M%SZ", time.gmtime(records.clock.now()))


def test_a_reaper_keeps_it_for_as_long_as_status_says_that_it_has_and_no_longer(
    records: Simulator, clerk: Clerk
) -> None:
    plant(records, state="stopped", exollama_action="stop", exollama_activity=moment(records))
    [one] = clerk.run("status", "--json").ended(0).json["instances"]
    assert 88_190 < one["goes_in_s"] <= 88_200
    records.advance(one["goes_in_s"] - 60)
    assert re.search(r" (60|5[0-9])s ", clerk.run("status").ended(0).out)
    clerk.run("reap").ended(0)
    assert len(records.instances()) == 1
    records.advance(61)
    assert " now " in clerk.run("status").ended(0).out
    clerk.run("reap").ended(0)
    assert records.instances() == []


def test_the_table_says_what_it_is_when_it_goes_and_what_it_costs(records: Simulator, clerk: Clerk) -> None:
    seen = plant(records, created_ago_s=7200, exollama_activity=moment(records))
    head, row, more, total = clerk.run("status").ended(0).out.splitlines()
    assert head.split("  ")[-1] == "cost, about"
    assert re.fullmatch(
        r"exollama  running  ch-gva-2  standard.micro  granite3.1-dense:8b  2h 0m  [0-9]s    37m      0.015", row
    )
    assert re.fullmatch(rf"  {seen.id}  by its label used [0-9] s ago", more)
    assert total.startswith("1 running, about 0.007 per hour, about 0.015 so far (CHF, EUR or USD; prices of 20")
    micro = prices.hourly_cost("standard.micro", 50)
    [one] = clerk.run("status", "--json", "--probe").ended(0).json["instances"]
    assert (one["type"], one["disk_gib"], one["hourly_cost"]) == ("standard.micro", 50, pytest.approx(micro))


def test_types_are_listed_only_where_there_is_one_of_ours(records: Simulator, clerk: Clerk) -> None:
    clerk.run("status").ended(0)
    assert records.called("list-instance-types") == []
    plant(records, zone="de-fra-1")
    clerk.run("status").ended(0)
    assert [call.zone for call in records.called("list-instance-types")] == ["de-fra-1"]


def test_metrics_for_a_textfile_tell_of_what_was_seen_and_which_zone_was_not(records: Simulator, clerk: Clerk) -> None:
    seen = plant(records, created_ago_s=7200, exollama_activity=moment(records))
    records.fault("list-instances", "503", times=5, zone="de-fra-1")
    done = clerk.run("status", "--format", "prometheus").ended(1, "de-fra-1 was not looked at")
    read = {family.name: family.samples for family in parsed(done.out)}
    assert {one.labels["zone"]: one.value for one in read["exollama_zone_up"]} == {"ch-gva-2": 1, "de-fra-1": 0}
    (info,) = read["exollama_instance_info"]
    assert (info.labels["id"], info.labels["type"]) == (seen.id, "standard.micro")
    assert [one.value for one in read["exollama_instance_age_seconds"]] == [pytest.approx(7200, abs=10)]
    assert [one.value for one in read["exollama_instance_overdue"]] == [0]
