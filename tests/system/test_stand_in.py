"""Ollama's stand-in by itself, without an instance around it: every program's answers, and how a request ends.

test_programs.py runs the same programs through the forwarder.
"""

import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.addresses import Addresses
from tests.stand_in.schemas import plausible
from tests.system.programs import PROGRAMS
from tests.system.verbs import ROOT

MODEL = "granite3.1-dense:8b"
PORT = 11434
PIECES = 48
MIB = 1 << 20


@dataclass(frozen=True)
class StandIn:
    """The script, at an address that is nobody else's."""

    address: str
    pid: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://{self.address}:{PORT}"

    def control(self, **controls: Any) -> None:
        draft = self.folder / "control.new"
        draft.write_text(json.dumps(controls))
        os.replace(draft, self.folder / "control.json")

    def ends(self, id_: str) -> list[str]:
        """How the requests with this id ended."""
        log = self.folder / "requests.log"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [f"{path} {end}" for found, path, end in lines if found == id_]

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.address, PORT, timeout=10)


@pytest.fixture(scope="module")
def module_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    folder = tmp_path_factory.mktemp("stand-in")
    addresses = Addresses()
    address = addresses.take()
    script = [sys.executable, "-I", "-S", str(ROOT / "tests/stand_in/__main__.py"), address, str(PORT)]
    with subprocess.Popen([*script, str(folder / "state"), str(folder / "control.json"), "0.12.0"]) as process:
        try:
            until(lambda: _listens(address), "it listens")
            with closing(http.client.HTTPConnection(address, PORT, timeout=10)) as connection:
                connection.request("POST", "/api/pull", json.dumps({"model": MODEL, "stream": False}))
                assert connection.getresponse().read() == b'{"status": "success"}'
            yield StandIn(address, process.pid, folder)
        finally:
            process.kill()
            addresses.close()


@pytest.fixture
def stand_in(module_stand_in: StandIn) -> StandIn:
    module_stand_in.control(token_s=0.001, pull_s=0.02)
    return module_stand_in


def _listens(address: str) -> bool:
    try:
        socket.create_connection((address, PORT), timeout=1).close()
    except OSError:
        return False
    return True


def until(so: Callable[[], object], what: str, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not so():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s: {what}"
        time.sleep(0.005)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gets_the_answers_that_ollama_would_give(stand_in: StandIn, name: str) -> None:
    PROGRAMS[name](stand_in.url, MODEL)


# -- how a request ends

ASKED: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "Why?"},
    "/api/chat": {"messages": [{"role": "user", "content": "Why?"}]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Why?"}], "stream": True},
    "/v1/completions": {"prompt": "Why?", "stream": True},
    "/v1/responses": {"input": "Why?", "stream": True},
}


@pytest.mark.parametrize("held", [{"hold_after": 1}, {"token_s": 60}], ids=["held", "slow"])
@pytest.mark.parametrize("path", ASKED)
def test_a_stream_ends_soon_after_its_client_has_gone(stand_in: StandIn, path: str, held: dict[str, float]) -> None:
    id_ = f"gone{path}-{held}".replace(" ", "")
    stand_in.control(**held)
    connection = stand_in.connect()
    connection.request("POST", path, json.dumps({"model": MODEL, **ASKED[path]}), {"X-Request-Id": id_})
    response = connection.getresponse()
    response.readline()
    assert stand_in.ends(id_) == []
    response.close()
    connection.close()
    until(lambda: stand_in.ends(id_), "it noticed")  # it takes a millisecond where the machine is idle
    assert stand_in.ends(id_) == [f"{path} left"]


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_client_that_leaves_before_the_first_token_is_noticed(stand_in: StandIn, streamed: bool) -> None:
    stand_in.control(load_s=60)
    id_ = f"early-{streamed}"
    connection = stand_in.connect()
    body = json.dumps({"model": MODEL, "prompt": "Why?", "stream": streamed})
    connection.request("POST", "/api/generate", body, {"X-Request-Id": id_})
    time.sleep(0.05)  # in which an answer would have begun
    connection.close()
    until(lambda: stand_in.ends(id_), "it noticed")
    assert stand_in.ends(id_) == ["/api/generate left"]


def test_the_log_tells_an_answer_that_was_whole_from_one_that_was_cut(stand_in: StandIn) -> None:
    body = json.dumps({"model": MODEL, "prompt": "Why?"})
    with closing(stand_in.connect()) as connection:
        connection.request("POST", "/api/generate", body, {"X-Request-Id": "whole"})
        connection.getresponse().read()
        connection.request("POST", "/api/generate", '{"model": "absent"}', {"X-Request-Id": "refused"})
        assert connection.getresponse().read() == b'{"error": "model \'absent\' not found"}'
    stand_in.control(cut_after=2)
    for path, asked in ASKED.items():
        with closing(stand_in.connect()) as connection:
            connection.request("POST", path, json.dumps({"model": MODEL, **asked}), {"X-Request-Id": "cut"})
            with pytest.raises(http.client.IncompleteRead):
                connection.getresponse().read()
    until(lambda: len(stand_in.ends("cut")) == len(ASKED), "all are logged")
    assert stand_in.ends("whole") == stand_in.ends("refused") == ["/api/generate done"]
    assert sorted(stand_in.ends("cut")) == sorted(f"{path} cut" for path in ASKED)


@pytest.mark.parametrize("path", ASKED)
def test_a_runner_that_dies_in_the_middle_of_a_stream_is_an_error_in_it(stand_in: StandIn, path: str) -> None:
    stand_in.control(error_after=2)
    with closing(stand_in.connect()) as connection:
        connection.request("POST", path, json.dumps({"model": MODEL, **ASKED[path]}))
        response = connection.getresponse()
        assert response.status == 200
        assert b"llama runner process has terminated" in response.read().splitlines()[-2 if "v1" in path else -1]
    stand_in.control(error_after=0)
    with closing(stand_in.connect()) as connection:
        connection.request("POST", path, json.dumps({"model": MODEL, **ASKED[path]}))
        assert connection.getresponse().status == 500


# -- what is uploaded


def _pieces() -> Iterator[bytes]:
    return (bytes([number]) * MIB for number in range(PIECES))


def _peak_kib(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def test_a_blob_is_kept_where_its_digest_is_right_and_is_never_held_in_memory(stand_in: StandIn) -> None:
    sum_ = hashlib.sha256()
    for piece in _pieces():
        sum_.update(piece)
    digest = f"sha256:{sum_.hexdigest()}"
    before = _peak_kib(stand_in.pid)
    with closing(stand_in.connect()) as connection:
        for method, wished, status in (
            ("HEAD", digest, 404),
            ("POST", "sha256:" + "0" * 64, 400),
            ("HEAD", digest, 404),
            ("POST", digest, 201),
            ("HEAD", digest, 200),
            ("POST", digest, 200),
            ("POST", "sha256:00", 400),
        ):
            connection.request(method, f"/api/blobs/{wished}", _pieces() if method == "POST" else None)
            response = connection.getresponse()
            said = response.read()
            assert (response.status, b"mismatch" in said) == (status, wished.endswith("0" * 64)), (method, said)
    assert _peak_kib(stand_in.pid) - before < PIECES * 1024 / 4


def test_an_upload_that_breaks_off_is_not_kept(stand_in: StandIn) -> None:
    digest = f"sha256:{hashlib.sha256(b'whole').hexdigest()}"
    with socket.create_connection((stand_in.address, PORT), timeout=10) as raw:
        raw.sendall(
            f"POST /api/blobs/{digest} HTTP/1.1\r\nHost: x\r\nX-Request-Id: broken\r\n"
            "Transfer-Encoding: chunked\r\n\r\n5\r\nwho".encode()
        )
    until(lambda: stand_in.ends("broken"), "it noticed")
    assert stand_in.ends("broken") == [f"/api/blobs/{digest} left"]
    with closing(stand_in.connect()) as connection:
        connection.request("HEAD", f"/api/blobs/{digest}")
        assert connection.getresponse().status == 404


# -- schemas


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "something"),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "number"}, 1.5),
        ({"type": "boolean"}, True),
        ({"type": ["null", "integer"]}, 1),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, True),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": 7}, 7),
        ({"type": "string", "default": "given"}, "given"),
        ({"type": "array", "items": {"type": "number"}}, [1.5]),
        ({"properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": {"type": "integer"}}}, {"x": 1}),
        ({"type": "object"}, {}),
        ({"type": "null"}, None),
        ({}, "something"),
    ],
    ids=str,
)
def test_a_value_is_of_the_type_that_its_schema_asks_for(schema: dict[str, Any], value: object) -> None:
    assert plausible(schema) == value
