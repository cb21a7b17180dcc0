"""The agent's pure parts: fence, watchdog, what it reads from files and from the kernel. No process, no socket."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent import FOLDER, load

A, B, C = "a" * 32, "b" * 32, "c" * 32


agent, rules = load(), load("rules")
LEASE = rules.LEASE_S
Fence = rules.Fence


def play(*steps: tuple[Any, ...]) -> list[int]:
    """The statuses of a sequence of (operation, owner, now[, mark[, in_flight]])."""
    fence, statuses = Fence(), []
    for operation, owner, now, *rest in steps:
        if operation == "delete":
            fence, answer = fence.delete(owner, now)
        elif operation == "put":
            fence, answer = fence.put(owner, now, *(rest or [(0, 0)]))
        else:
            fence, answer = fence.commit(owner, now, *(rest or [(0, 0)])[:1], *(rest[1:] or [0]))
        statuses.append(answer[0])
    return statuses


@pytest.mark.parametrize(
    ("steps", "statuses"),
    [
        ([("put", A, 0)], [201]),
        ([("put", A, 0), ("put", A, 1)], [201, 201]),
        ([("put", A, 0), ("put", B, 1)], [201, 409]),
        ([("put", A, 0), ("put", B, LEASE - 0.1), ("put", B, LEASE)], [201, 409, 201]),
        ([("put", A, 0), ("put", A, 100), ("put", B, LEASE)], [201, 201, 201]),  # a repeated PUT renews nothing
        ([("put", A, 0), ("commit", A, 1)], [201, 200]),
        ([("put", A, 0), ("commit", A, 1), ("commit", A, 9999, (5, 5), 5)], [201, 200, 200]),
        ([("put", A, 0), ("commit", A, LEASE)], [201, 409]),
        ([("commit", A, 0)], [409]),
        ([("put", A, 0), ("commit", B, 1)], [201, 409]),
        ([("put", A, 0), ("commit", A, 1, (0, 0), 1)], [201, 409]),
        ([("put", A, 0), ("commit", A, 1, (0, 0), 1), ("commit", A, 2)], [201, 409, 200]),
        ([("put", A, 0), ("commit", A, 1, (1, 0))], [201, 409]),
        ([("put", A, 0), ("commit", A, 1, (0, 1))], [201, 409]),
        ([("put", A, 0, (7, 3)), ("put", A, 1, (8, 3)), ("commit", A, 2, (8, 3))], [201, 201, 409]),
        ([("put", A, 0, (7, 3)), ("commit", A, 2, (7, 3))], [201, 200]),
        ([("delete", A, 0)], [204]),
        ([("put", A, 0), ("delete", A, 1), ("put", B, 1)], [201, 204, 201]),
        ([("put", A, 0), ("delete", B, 1), ("put", B, 1)], [201, 409, 409]),
        ([("put", A, 0), ("delete", B, LEASE)], [201, 204]),
        ([("put", A, 0), ("commit", A, 1), ("put", B, 9999), ("delete", B, 9999)], [201, 200, 409, 409]),
        ([("put", A, 0), ("commit", A, 1), ("delete", A, 9999), ("put", B, 9999)], [201, 200, 204, 201]),
    ],
)
def test_the_fence_answers_as_the_contract_says(steps: list[tuple[Any, ...]], statuses: list[int]) -> None:
    assert play(*steps) == statuses


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "commit", "delete", "restart"]),
        st.sampled_from([A, B, C]),
        st.sampled_from([0.0, 0.5, 30.0, 59.5, 60.0, LEASE, 1000.0]),
        st.integers(0, 1),  # requests or touches meanwhile
        st.integers(0, 1),  # in flight
    ),
    max_size=30,
)


@given(OPERATIONS)
def test_a_commit_means_one_owners_lease_with_nothing_asked_for_since_and_only_that_owner_lifts_it(
    operations: list[tuple[str, str, float, int, int]],
) -> None:
    fence, now, asked = Fence(), 0.0, 0
    holder: str | None = None  # the model: who, since when, how much had been asked then, whether it is committed
    since, then, committed = 0.0, 0, False
    for operation, owner, seconds, more, in_flight in operations:
        now, asked = now + seconds, asked + more
        if holder and not committed and now - since >= LEASE:
            holder = None
        if operation == "put":
            fence, (status, body) = fence.put(owner, now, (asked, 0))
            if holder is None:
                holder, since, then, committed = owner, now, asked, False
            assert status == (201 if holder == owner else 409)
            assert committed or math.isclose(body["lease_s"], LEASE - (now - since), abs_tol=0.1)
        elif operation == "commit":
            fence, (status, body) = fence.commit(owner, now, (asked, 0), in_flight)
            committed_now = holder == owner and (committed or (not in_flight and asked == then))
            committed = committed or committed_now
            assert status == (200 if committed_now else 409)
            assert ("error" in body) == (status == 409)
        elif operation == "delete":
            fence, (status, _) = fence.delete(owner, now)
            assert status == (204 if holder in (None, owner) else 409)
            if holder == owner:
                holder, committed = None, False
        else:
            fence = fence.expire(now)
        assert (fence.expire(now).owner, fence.expire(now).committed is not None) == (holder, committed)


@given(OPERATIONS)
def test_a_fence_on_file_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, str, float, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("fence") / "fence"
    fence, now = Fence(), 0.0
    for operation, owner, seconds, _, in_flight in operations:
        now += seconds
        if operation == "put":
            fence, _ = fence.put(owner, now, (3, 4))
        elif operation == "commit":
            fence, _ = fence.commit(owner, now, (3, 4), in_flight)
        elif operation == "delete":
            fence, _ = fence.delete(owner, now)
    fence.save(path)
    assert path.exists() == (fence.owner is not None), "nginx looks at the file's existence"
    assert Fence.load(path, now) == fence


WHOLE = {"owner": A, "until": 150.0, "mark": [1, 2], "committed": None}


@pytest.mark.parametrize(
    ("text", "until", "owner"),
    [
        (json.dumps(WHOLE), 150.0, A),
        (json.dumps({**WHOLE, "until": 1e9}), 100 + LEASE, "unreadable"),
        (json.dumps({**WHOLE, "until": "soon"}), 100 + LEASE, "unreadable"),
        ("", 100 + LEASE, "unreadable"),
        ("{", 100 + LEASE, "unreadable"),
        ("[]", 100 + LEASE, "unreadable"),
        ("\x00" * 64, 100 + LEASE, "unreadable"),
        (json.dumps({**WHOLE, "owner": "x"}), 100 + LEASE, "unreadable"),
        (json.dumps({**WHOLE, "owner": None}), 100 + LEASE, "unreadable"),
        (json.dumps({**WHOLE, "mark": None}), 100 + LEASE, "unreadable"),
        (json.dumps({**WHOLE, "until": math.nan}), 100 + LEASE, "unreadable"),
        (json.dumps({**WHOLE, "until": -math.inf}), 100 + LEASE, "unreadable"),
    ],
)
def test_a_fence_file_that_anything_happened_to_stands_and_lapses(
    tmp_path: Path, text: str, until: float, owner: str
) -> None:
    path = tmp_path / "fence"
    path.write_text(text)
    fence = Fence.load(path, 100.0)
    assert (fence.owner, fence.until) == (owner, until)
    assert fence.put(B, 101.0, (0, 0))[1][0] == 409
    assert fence.expire(100.0 + LEASE).owner is None


def test_a_committed_fence_on_file_never_lapses(tmp_path: Path) -> None:
    path = tmp_path / "fence"
    path.write_text(json.dumps({**WHOLE, "committed": 90.0}))
    fence = Fence.load(path, 100.0)
    assert fence.committed == 90.0
    assert fence.expire(1e9) == fence


def test_a_fence_on_file_with_an_odd_mark_stands_and_cannot_be_committed(tmp_path: Path) -> None:
    path = tmp_path / "fence"
    path.write_text(json.dumps({**WHOLE, "mark": [1, "2", 3]}))
    assert Fence.load(path, 100.0).commit(A, 101.0, (1, 2), 0)[1][0] == 409


# -- the watchdog


def watchdog(**changes: Any) -> Any:
    policy = {
        "idle_s": 1800,
        "boot_s": 1800,
        "retention_s": 86400,
        "deadline": 10_000,
        "grace_s": 3600,
        "keep_failed": False,
    }
    return rules.Watchdog({**policy, **changes})


def boot(phase: str = "ready", elapsed_s: float = 100.0, failed_s: float | None = None) -> Any:
    return {"phase": "failed" if failed_s is not None else phase, "elapsed_s": elapsed_s, "failed_s": failed_s}


@pytest.mark.parametrize(
    ("policy", "seen", "forced"),
    [
        ({}, {}, None),
        ({}, {"idle_s": 2699}, None),
        ({}, {"idle_s": 2700}, False),
        ({"idle_s": 60}, {"idle_s": 960}, False),
        ({}, {"wall": 13_599}, None),
        ({}, {"wall": 13_600}, True),
        ({"deadline": None}, {"wall": 1e12}, None),
        ({}, {"boot": boot("model", 2699)}, None),
        ({}, {"boot": boot("model", 2700)}, True),
        ({}, {"boot": boot("starting", 2700)}, True),
        ({}, {"boot": boot("model", 100), "idle_s": 9999}, None),
        ({}, {"boot": boot(failed_s=899)}, None),
        ({}, {"boot": boot(failed_s=900)}, True),
        ({"keep_failed": True}, {"boot": boot(failed_s=86_399)}, None),
        ({"keep_failed": True}, {"boot": boot(failed_s=86_400)}, True),
        ({"keep_failed": True}, {"boot": boot(failed_s=0), "wall": 13_600}, True),
        ({}, {"committed_s": 599, "idle_s": 9999, "wall": 1e12}, None),
        ({}, {"committed_s": 600}, True),
        ({}, {"committed_s": 600, "boot": boot("model", 5)}, True),
    ],
)
def test_the_watchdog_waits_for_the_reaper_and_no_longer(
    policy: dict[str, Any], seen: dict[str, Any], forced: bool | None
) -> None:
    verdict = watchdog(**policy).decide(**{"idle_s": 0.0, "boot": boot(), "committed_s": None, "wall": 0.0, **seen})
    assert (None if verdict is None else verdict[1]) == forced


@given(
    idle_s=st.floats(0, 1e6),
    elapsed_s=st.floats(0, 1e6),
    wall=st.floats(0, 1e6),
    phase=st.sampled_from(["starting", "model", "ready"]),
    policy=st.fixed_dictionaries({"idle_s": st.integers(1, 10**5), "boot_s": st.integers(1, 10**5)}),
)
def test_the_watchdog_never_acts_early_and_names_its_reason(
    idle_s: float, elapsed_s: float, wall: float, phase: str, policy: dict[str, int]
) -> None:
    dog = watchdog(**policy)
    verdict = dog.decide(idle_s=idle_s, boot=boot(phase, elapsed_s), committed_s=None, wall=wall)
    late = wall >= 13_600
    slow = phase != "ready" and elapsed_s >= policy["boot_s"] + 900
    unused = phase == "ready" and idle_s >= policy["idle_s"] + 900
    assert (verdict is not None) == (late or slow or unused)
    if verdict:
        reason, forced = verdict
        assert reason
        assert forced == (late or slow), "only an idle machine asks its fence first"


# -- what it reads


def report(**changes: Any) -> str:
    whole = {"phase": "model", "started": 10.0, "phase_started": 60.0, "done": [["nginx", 20.0]], "percent": 4}
    return json.dumps({**whole, "error": None, **changes})


@pytest.mark.parametrize(
    ("text", "phase", "elapsed_s", "failed_s"),
    [
        (report(), "model", 90.0, None),
        (report(phase="ready"), "ready", 50.0, None),
        (report(error={"phase": "model", "message": "x"}), "failed", 50.0, 40.0),
        (None, "starting", 95.0, None),
        ("", "starting", 95.0, None),
        ("nonsense", "starting", 95.0, None),
        ("[1]", "starting", 95.0, None),
    ],
)
def test_the_boot_is_read_from_whatever_is_there(
    tmp_path: Path, text: str | None, phase: str, elapsed_s: float, failed_s: float | None
) -> None:
    path = tmp_path / "boot.json"
    if text is not None:
        path.write_text(text)
    found = rules.read_boot(path, 100.0, 5.0)
    assert (found["phase"], found["elapsed_s"], found["failed_s"]) == (phase, elapsed_s, failed_s)


def row(local: str, remote: str, state: str, unsent: int = 0) -> list[str]:
    return ["0:", local, remote, state, f"{unsent:08X}:00000000", "00:00000000", "00000000", "33", "0", "1"]


def test_requests_are_the_connections_to_ollama_that_nginx_still_has_open() -> None:
    ollama, other = "0100007F:2CAA", "0200007F:2CAA"
    table = [row(f"0100007F:90{state:02X}", ollama, f"{state:02X}") for state in range(1, 12)]
    assert len(agent.requests_open(table, "127.0.0.1:11434")) == 3, "established, connecting, closed by Ollama alone"
    assert agent.requests_open([row("0100007F:9000", other, "01")], "127.0.0.1:11434") == set()
    assert agent.requests_open([row(ollama, "0100007F:9000", "01")], "127.0.0.1:11434") == set(), "Ollama's own side"


def test_unread_answers_are_the_clients_connections_with_bytes_to_send() -> None:
    public, v6 = "0A0B0C0D:2CAB", "0000000000000000FFFF00000A0B0C0D:2CAB"
    for local in (public, v6):
        for state in ("01", "04", "08", "09"):
            assert agent.answers_unread([row(local, "01020304:9000", state, 4097)], "11435") == 1
    assert agent.answers_unread([row(public, "01020304:9000", "01", 4096)], "11435") == 0, "what a keyless one may get"
    assert agent.answers_unread([row(public, "01020304:9000", "01", 9999)], "127.0.0.2:11435") == 0
    assert agent.answers_unread([row("0200007F:2CAB", "0100007F:9000", "01", 9999)], "127.0.0.2:11435") == 1
    assert agent.answers_unread([row("01020304:9000", public, "01", 9999)], "11435") == 0


def test_the_log_tail_is_short_and_printable(tmp_path: Path) -> None:
    path = tmp_path / "boot.log"
    assert agent.log_tail(path) == []
    path.write_bytes(
        b"\n".join(b"line %d" % n for n in range(5000)) + b"\n\n  \n\xff\x1b[31mred\n" + b"y" * 5000 + b"\n"
    )
    tail = agent.log_tail(path)
    assert len(tail) == 60
    assert tail[0] == "line 4942"
    assert tail[-2].endswith("[31mred")
    assert tail[-1] == "y" * 300
    assert all(line.isprintable() for line in tail)


def test_importing_the_agent_does_nothing_and_needs_the_standard_library_only() -> None:
    before = set(FOLDER.iterdir())
    module = load()
    assert module.Handler.__mro__
    assert {path for path in set(FOLDER.iterdir()) - before if path.name != "__pycache__"} == set()
