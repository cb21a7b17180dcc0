"""Whatever an instance answers, the reaper deletes nothing upon nonsense: kept, reported, and no traceback."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from client.endpoint import Endpoint
from client.errors import Unreachable
from client.settings import Secret
from tests import fakes
from tests.simulator import Simulator
from tests.system.impostor import KEY, NONCE, Impostor, http
from tests.system.verbs import Clerk, changes, plant

IDLE = fakes.status(idle_s=99_999.0)
HTML = b"<!doctype html><html><body><h1>It works!</h1></body></html>"
BRACKETS = b"[" * 1_000_000


def said(**changes: Any) -> bytes:
    return http(200, json.dumps({**IDLE, **changes}).encode())


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


ANYTHING = {
    "HTML": http(200, HTML, Content_Type="text/html"),
    "nothing": http(200),
    "204": http(204),
    "302": http(302, b"", Location="https://example.com/"),
    "404": http(404, HTML),
    "500": http(500, b'{"error":"the agent failed: KeyError"}'),
    "418 with escapes": http(418, b'{"error":"\\u001b[31m\\ud800 red \\u0007"}'),
    "a megabyte of [": http(200, BRACKETS),
    "objects nested without end": http(200, b'{"a":' * 150_000),
    "more than a megabyte": http(200, b'"' + b"x" * 3_000_000 + b'"'),
    "null": http(200, b"null"),
    "a list": http(200, b"[]"),
    "an empty object": http(200, b"{}"),
    "not UTF-8": http(200, b'{"idle_s": 1, "\xff\xfe": 2}'),
    "a number too long to read": http(200, b'{"idle_s":' + b"9" * 5000 + b"}"),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "no HTTP version that there is": b"HTTP/7.x 200 OK\r\n\r\n{}",
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
    "a header too long": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
}
PROOFS = {
    "without its mac": http(200, json.dumps({"nonce": NONCE}).encode()),
    "numbers": http(200, b'{"nonce": 1, "mac": 2}'),
    "a mac that is no text": http(200, json.dumps({"nonce": NONCE, "mac": "\ud800"}).encode()),
    "a nonce that is no text": http(200, json.dumps({"nonce": "\udcff", "mac": "0" * 64}).encode()),
    "a mac that is nested": http(200, json.dumps({"nonce": NONCE, "mac": nested(400)}).encode()),
    "another's": http(200, json.dumps({"nonce": NONCE, "mac": "ab" * 32}).encode()),
}
STATUSES = {
    "idle for less than nothing": said(idle_s=-1),
    "idle for longer than there are computers": said(idle_s=1e30),
    "idle for ever": http(200, json.dumps(IDLE).replace("99999.0", "1e999").encode()),
    "idle for no number": http(200, json.dumps(IDLE).replace("99999.0", "NaN").encode()),
    "idle by hearsay": said(idle_s="99999"),
    "idle truly": said(idle_s=True),
    "idle, it does not know": said(idle_s=None),
    "fewer than no requests": said(in_flight=-1),
    "requests by hearsay": said(in_flight="0"),
    "half a request": said(in_flight=0.5),
    "none at all, truly": said(in_flight=False),
    "requests, it does not know": said(in_flight=None),
    "no boot": said(boot=None),
    "a boot that is a list": said(boot=["ready"]),
    "a phase that is a number": said(boot={"phase": 7}),
    "a phase that is no text": said(boot={"phase": "\ud800\u001b[2J", "error": None}, in_flight="x"),
    "a log that is a text": said(boot={"phase": "ready", "log": "all is well"}),
    "a fence that is a text": said(fence="up"),
    "nested as deep as is read": said(in_flight=nested(300)),
    "nested deeper": said(in_flight=nested(490)),
    "nested deeper still": said(in_flight=nested(900)),
}


FENCES = {
    "200": http(200, b'{"lease_s": 120.0, "committed": false}'),
    "201 and HTML": http(201, HTML),
    "201 and a list": http(201, b"[]"),
    "draining": http(503, b'{"error":"draining"}', X_Exollama="draining"),
    "another key": http(401, b'{"error":"missing or wrong key"}'),
}
COMMITS = {
    "201": http(201, b'{"lease_s": 120.0, "committed": true}'),
    "202": http(202, b'{"lease_s": 120.0, "committed": true}'),
    "not committed": http(200, b'{"lease_s": 120.0, "committed": false}'),
    "committed by hearsay": http(200, b'{"lease_s": 120.0, "committed": "true"}'),
    "committed once": http(200, b'{"lease_s": 120.0, "committed": 1}'),
    "200 and an error": http(200, b'{"error": "1 in flight"}'),
    "a status": said(),
    "draining": http(503, b'{"error":"draining"}', X_Exollama="draining"),
    "another key": http(401, b'{"error":"missing or wrong key"}'),
}
SHUT = http(201, b'{"lease_s": 120.0, "committed": false}')


def reaped(records: Simulator, clerk: Clerk, folder: Path, **answers: bytes | list[bytes]) -> tuple[str, str]:
    """What a pass says of an instance, idle by its label for months, that has these answers; and what it asked.

    An answer is named by what it is to; of a list of them each is given once.
    """
    seen = plant(records, key=KEY)
    assert seen.ip

    def answer(asked: str) -> bytes | None:
        method, _, path = asked.partition(" ")
        what = {"PUT": "fence", "POST": "commit", "DELETE": "lift"}.get(method, path.rpartition("/")[2])
        given = answers.get(what)
        return given.pop(0) if isinstance(given, list) else given

    with Impostor(seen.ip, folder, KEY, answers=answer) as one:
        done = clerk.run("reap").ended(1)
        heard = one.heard.decode("latin-1")
    assert changes(records) == [], done.said
    assert KEY not in done.said
    assert "Please report this" not in done.said
    assert done.said.replace("\n", "").isprintable(), "a terminal would obey the rest"
    return done.said, heard


@pytest.mark.parametrize("name", [*ANYTHING, *PROOFS])
def test_an_instance_whose_proof_is_nonsense_is_kept_and_reported_and_gets_no_key(
    records: Simulator, clerk: Clerk, tmp_path: Path, name: str
) -> None:
    text, heard = reaped(records, clerk, tmp_path, proof={**ANYTHING, **PROOFS}[name])
    assert "cannot be asked: " in text
    assert "GET /.exollama/proof" in heard
    assert KEY not in heard


@pytest.mark.parametrize("name", [*ANYTHING, *STATUSES])
def test_an_instance_whose_status_is_nonsense_is_kept_and_reported(
    records: Simulator, clerk: Clerk, tmp_path: Path, name: str
) -> None:
    text, heard = reaped(records, clerk, tmp_path, status={**ANYTHING, **STATUSES}[name])
    assert "cannot be asked: " in text
    assert "PUT " not in heard


@pytest.mark.parametrize("name", [*ANYTHING, *FENCES])
def test_an_instance_whose_answer_to_the_fence_is_nonsense_is_kept_and_reported(
    records: Simulator, clerk: Clerk, tmp_path: Path, name: str
) -> None:
    text, heard = reaped(records, clerk, tmp_path, status=said(), fence={**ANYTHING, **FENCES}[name], lift=http(204))
    assert text.count("failed ") == 1
    assert "PUT /.exollama/fence/" in heard
    assert "/commit" not in heard
    assert "DELETE /.exollama/fence/" in heard, "it may stand all the same"


@pytest.mark.parametrize("name", [*ANYTHING, *STATUSES])
def test_an_instance_whose_status_is_nonsense_once_it_is_fenced_is_kept_and_opened_again(
    records: Simulator, clerk: Clerk, tmp_path: Path, name: str
) -> None:
    statuses = [said(), {**ANYTHING, **STATUSES}[name], {**ANYTHING, **STATUSES}[name]]
    text, heard = reaped(records, clerk, tmp_path, status=statuses, fence=SHUT, lift=http(204))
    assert text.count("failed ") == 1
    assert "/commit" not in heard
    assert "DELETE /.exollama/fence/" in heard


@pytest.mark.parametrize("name", [*ANYTHING, *COMMITS])
def test_an_instance_whose_answer_to_the_commit_is_nonsense_is_kept_and_opened_again(
    records: Simulator, clerk: Clerk, tmp_path: Path, name: str
) -> None:
    commit = {**ANYTHING, **COMMITS}[name]
    text, heard = reaped(records, clerk, tmp_path, status=said(), fence=SHUT, commit=commit, lift=http(204))
    assert text.count("failed ") == 1
    assert "/commit" in heard
    assert "DELETE /.exollama/fence/" in heard


@pytest.mark.parametrize("name", ANYTHING)
def test_a_fence_whose_lifting_is_answered_with_nonsense_is_told_and_lapses(
    records: Simulator, clerk: Clerk, tmp_path: Path, name: str
) -> None:
    text, heard = reaped(records, clerk, tmp_path, status=said(), fence=SHUT, commit=http(200), lift=ANYTHING[name])
    assert text.count("failed ") == 1
    assert "DELETE /.exollama/fence/" in heard


def test_an_instance_that_shows_another_certificate_after_its_status_is_not_fenced_and_gets_no_key(
    records: Simulator, clerk: Clerk, tmp_path: Path
) -> None:
    seen = plant(records, key=KEY)
    assert seen.ip

    def answer(asked: str) -> bytes | None:
        if asked != "GET /.exollama/status":
            return None
        one.certify()
        one.heard.clear()
        return said().replace(b"HTTP/1.1 200 x", b"HTTP/1.1 200 x\r\nConnection: close")

    with Impostor(seen.ip, tmp_path, KEY, answers=answer) as one:
        clerk.run("reap").ended(1, "is not vouched for by our key")
    assert bytes(one.heard).startswith(b"GET /.exollama/proof")
    assert KEY.encode() not in one.heard
    assert changes(records) == []


def test_with_answers_that_make_sense_the_same_instance_is_destroyed(
    records: Simulator, clerk: Clerk, tmp_path: Path
) -> None:
    """So that what was kept above was kept because of the nonsense."""
    seen = plant(records, key=KEY)
    assert seen.ip
    committed = http(200, b'{"lease_s": 120.0, "committed": true}')
    answers = {"GET /.exollama/status": said(), "PUT ": SHUT, "POST ": committed}
    with Impostor(
        seen.ip, tmp_path, KEY, answers=lambda asked: next((v for k, v in answers.items() if asked.startswith(k)), None)
    ):
        clerk.run("reap").ended(0)
    assert changes(records) == ["delete-instance"]


@pytest.mark.parametrize("what", ["proof", "status"])
def test_an_answer_that_comes_a_byte_at_a_time_holds_nobody_up(records: Simulator, tmp_path: Path, what: str) -> None:
    seen = plant(records, key=KEY)
    assert seen.ip
    with Impostor(seen.ip, tmp_path, KEY, answers=lambda asked: said() if "status" in asked else None) as one:
        endpoint = Endpoint(seen.ip, Secret(KEY))
        if what == "status":
            endpoint.status()
        endpoint.timeout_s = 0.5
        one.drip_s = 0.1  # never a timeout between two bytes, and half a minute for all of them
        began = time.monotonic()
        with pytest.raises(Unreachable):
            endpoint.status()
        assert time.monotonic() - began < 15
        endpoint.close()


@pytest.mark.parametrize("kept", [0, 1, -1])
def test_an_answer_that_ends_early_is_told_and_no_silence(records: Simulator, tmp_path: Path, kept: int) -> None:
    seen = plant(records, key=KEY)
    assert seen.ip
    head, _, body = said().replace(b"Content-Length", b"content-length").partition(b"\r\n\r\n")  # one closes behind it
    with Impostor(
        seen.ip, tmp_path, KEY, answers=lambda a: head + b"\r\n\r\n" + body[:kept] if "status" in a else None
    ):
        endpoint = Endpoint(seen.ip, Secret(KEY), timeout_s=5)
        with pytest.raises(Unreachable, match="stopped answering") as caught:
            endpoint.status()
        endpoint.close()
    assert not caught.value.silent, "whoever begins an answer is there, and three of these condemn nothing"
