"""`client.forward`: the forwarder beside other code, from its start to its end."""

import http.client
import json
import socket
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

import client
from client import running
from client.boot import Board
from client.errors import ExollamaError, SettingsError
from client.running import by_credentials, is_loopback
from client.settings import Secret
from tests.fakes import settings
from tests.keeping import Script

TOKEN = "planted-serve-token_0123456789abcdef"


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """What forwarders here ask instead of the API."""
    one = Script()
    monkeypatch.setattr(running, "by_credentials", lambda *_, **__: one)
    return one


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("exollama-forwarder")]


def ask(url: str, path: str, method: str = "GET", **fields: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in fields.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_it_answers_on_a_port_of_its_own_for_as_long_as_the_block_takes_and_its_thread_ends() -> None:
    with client.forward(settings(model="a:1b")) as url, client.forward(settings(model="b:2b")) as other:
        assert urlsplit(url).hostname == "127.0.0.1"
        assert url != other
        assert len(threads()) == 2
        names = [json.loads(ask(one, "/api/tags")[1])["models"][0]["name"] for one in (url, other)]
        assert names == ["a:1b", "b:2b"]
        assert json.loads(ask(url, "/.exollama/status")[1])["state"] == "asleep"
    assert threads() == []
    with pytest.raises(ConnectionRefusedError):
        ask(url, "/")


def test_an_exception_inside_the_block_ends_it_and_goes_on() -> None:
    with pytest.raises(KeyError, match="mine"), client.forward(settings()):
        raise KeyError("mine")
    assert threads() == []


def test_a_connection_that_is_left_open_does_not_keep_it() -> None:
    with client.forward(settings(), drain_s=5) as url:
        idle = socket.create_connection(("127.0.0.1", urlsplit(url).port or 0))
    assert threads() == []
    with idle:
        assert idle.recv(1) == b""


def test_a_wake_that_does_not_end_does_not_keep_it(script: Script) -> None:
    script.gate.clear()
    with client.forward(settings(), drain_s=0.1) as url:
        waiting = socket.create_connection(("127.0.0.1", urlsplit(url).port or 0))
        waiting.sendall(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        while script.count("wake") == 0:
            pass
    assert threads() == []
    waiting.close()
    script.gate.set()


def test_a_request_that_waits_longer_than_the_hold_is_answered_with_503(script: Script) -> None:
    script.gate.clear()
    with client.forward(settings(), hold_s=0.1, drain_s=1) as url:
        status, body = ask(url, "/api/generate", "POST")
        script.gate.set()
    assert status == 503
    assert set(json.loads(body)) == {"error", "phase", "percent", "seconds"}


def test_a_port_in_use_is_told_with_what_to_do_and_leaves_no_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ExollamaError, match=rf"127\.0\.0\.1:{port} is taken.*--listen 127\.0\.0\.1:11436.*OLLAMA_"):
            client.forward(settings(), port=port).__enter__()
    assert threads() == []


def test_an_address_that_is_not_this_machines_is_told() -> None:
    with (
        pytest.raises(ExollamaError, match=r"Nothing can listen on 192\.0\.2\.7:0: .*Choose another"),
        client.forward(settings(), host="192.0.2.7", token=Secret(TOKEN)),
    ):
        pass
    assert threads() == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "box.example", ""])
def test_beyond_loopback_it_demands_a_token_before_anything_is_begun(host: str) -> None:
    with pytest.raises(SettingsError, match="EXOLLAMA_SERVE_TOKEN"), client.forward(settings(), host=host):
        pass
    assert threads() == []


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("localhost.evil.example", False),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_with_a_token_it_lets_in_who_has_it() -> None:
    with client.forward(settings(), token=Secret(TOKEN)) as url:
        assert ask(url, "/api/tags")[0] == 401
        assert ask(url, "/.exollama/status")[0] == 401
        assert ask(url, "/api/tags", Authorization=f"Bearer {TOKEN}")[0] == 200


def test_origins_are_those_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_ORIGINS", "https://env.example")
    with client.forward(settings(), origins=("https://a.example",)) as url:
        assert ask(url, "/api/tags", Origin="https://a.example")[0] == 200
        assert ask(url, "/api/tags", Origin="https://env.example")[0] == 403


def test_an_ipv6_listener_has_a_url_that_programs_can_read() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with client.forward(settings(), host="::1") as url:
        assert url.startswith("http://[::1]:")
        assert ask(url, "/")[0] == 200


# -- waking


def test_what_wakes_is_given_a_progress_where_it_takes_one_and_else_nothing() -> None:
    given: list[Any] = []
    board = Board()

    def plain() -> Mapping[str, Any]:
        given.append("plain")
        return {"id": "a"}

    def telling(*, progress: Any) -> Mapping[str, Any]:
        progress("model", 41.0, 7.0)
        given.append("telling")
        return {"id": "a"}

    def bound(name: str, *, note: Any = None, progress: Any = None) -> Mapping[str, Any]:
        progress("image", None, 1.0)
        given.append(name)
        return {"id": "a"}

    mine: list[tuple[str, float | None, float]] = []

    def told(phase: str, percent: float | None, elapsed_s: float) -> None:
        mine.append((phase, percent, elapsed_s))

    for wake in (plain, partial(bound, "x"), partial(bound, "y", progress=told), telling):
        source = by_credentials(settings(), wake, board)
        assert source.wakes
        assert source.session._wake
        assert source.session._wake() == {"id": "a"}
    assert given == ["plain", "x", "y", "telling"]
    assert mine == [("image", None, 1.0)], "what was bound hears of it as well"
    assert (board.phase, board.percent) == ("model", 41.0)


def test_without_a_wake_none_is_ever_created() -> None:
    source = by_credentials(settings(), None, Board())
    assert not source.wakes
    assert source.session._wake is None
