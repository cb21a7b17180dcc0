"""The instance's nginx.conf as it was rendered: the key, what goes through, and the agent's paths."""

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.endpoint import Endpoint
from client.errors import Draining, KeyRejected, Untrusted
from client.settings import Secret
from tests.simulator import userdata as cloud
from tests.system.instance import KEY, OTHER, OWNER, Instance, Upstream, until

# -- the key


KEYS = [
    ({"X-Ollama-Key": KEY}, 200),
    ({"x-ollama-key": KEY}, 200),
    ({"Authorization": f"Bearer {KEY}"}, 200),
    ({"authorization": f"bearer {KEY}"}, 200),
    ({"Authorization": f"Bearer {KEY}", "X-Ollama-Key": "other"}, 200),
    ({}, 401),
    ({"X-Ollama-Key": ""}, 401),
    ({"X-Ollama-Key": KEY.lower()}, 401),
    ({"X-Ollama-Key": KEY.upper()}, 401),
    ({"X-Ollama-Key": KEY.swapcase()}, 401),
    ({"X-Ollama-Key": KEY[:-1]}, 401),
    ({"X-Ollama-Key": KEY + "x"}, 401),
    ({"X-Ollama-Key": "x" + KEY}, 401),
    ({"X-Ollama-Key": f"x, {KEY}"}, 401),
    ({"X-Ollama-Key": f"Bearer {KEY}"}, 401),
    ({"X_Ollama_Key": KEY}, 401),
    ({"Authorization": KEY}, 401),
    ({"Authorization": f"Basic {KEY}"}, 401),
    ({"Authorization": f"Bearer{KEY}"}, 401),
    ({"Authorization": f"Bearer {KEY} x"}, 401),
    ({"Authorization": f"Bearer {KEY.swapcase()}"}, 401),
    ({"Authorization": f"Bearer x Bearer {KEY}"}, 401),
    ({"Cookie": f"X-Ollama-Key={KEY}"}, 401),
]


def test_the_key_opens_in_both_forms_and_nothing_else_does(instance: Instance) -> None:
    for headers, expected in KEYS:
        for method, path in (("GET", "/api/tags"), ("POST", "/api/generate"), ("GET", "/.exollama/status")):
            answer = instance.ask(method, path, key=None, headers=headers)
            assert answer.status == expected, (headers, method, path)
            if expected == 401:
                assert "X-Ollama-Key" in answer.json()["error"]
                assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert {method for method, _, _ in instance.upstream.seen} == {"GET", "POST"}
    refused_or_agent = len(instance.upstream.seen) - 2 * sum(status == 200 for _, status in KEYS)
    assert refused_or_agent == 0, "the upstream saw a request that it should not have seen"


def test_the_key_stays_with_nginx_and_other_headers_pass(instance: Instance) -> None:
    given = {"Authorization": f"Bearer {KEY}", "X-Ollama-Key": KEY, "X-Own": "kept", "Accept": "text/plain"}
    assert instance.ask("POST", "/api/chat", key=None, headers=given, body=b"{}").status == 200
    (_, path, headers), *more = instance.upstream.seen
    assert not more
    assert path == "/api/chat"
    assert KEY not in json.dumps(headers)
    passed = {"host", "connection", "content-length", "accept-encoding", "x-own", "accept"}
    assert {name.lower() for name in headers} == passed
    assert headers["Connection"] == "close"
    assert headers["X-Own"] == "kept"


def test_the_key_is_in_no_log_and_in_no_argument(instance: Instance) -> None:
    for headers, _ in KEYS:
        instance.ask("POST", "/api/generate", key=None, headers=headers)
    instance.upstream.shutdown()
    instance.upstream.server_close()
    instance.ask("POST", "/api/generate")
    instance.stop_agent()
    instance.ask("GET", "/.exollama/status")
    logs = [file for file in instance.log.rglob("*") if file.is_file()]
    assert instance.log / "activity" in logs
    for file in logs:
        assert KEY.lower() not in file.read_text().lower(), file
    assert instance.nginx
    assert KEY not in Path(f"/proc/{instance.nginx.pid}/cmdline").read_text()
    instance.start_agent()
    instance.thread = threading.Thread(target=lambda: None)
    instance.thread.start()


# -- what goes through


def test_a_stream_arrives_chunk_by_chunk_while_the_upstream_still_works(instance: Instance) -> None:
    with instance.asking("POST", "/api/generate?chunks=3", body=b"{}") as response:
        for number in range(3):
            instance.upstream.gate.release()
            assert json.loads(response.readline()) == {"number": number}
            assert instance.upstream.finished == (0 if number < 2 else instance.upstream.finished)
        assert response.read() == b""
        assert response.headers["X-Exollama"] is None


def test_an_upload_reaches_the_upstream_while_the_client_still_sends(instance: Instance) -> None:
    part, parts = b"x" * 65536, 64

    def body() -> Iterator[bytes]:
        for number in range(1, parts + 1):
            yield part
            if number % 16 == 0:
                until(lambda sent=number: instance.upstream.received >= sent * len(part) * 0.9, "the upload so far")  # type: ignore[misc]

    for headers in ({"Content-Length": str(len(part) * parts)}, {}):  # without a length: chunked
        instance.upstream.received = 0
        path = "/api/blobs/sha256:0" if headers else "/api/create"
        with instance.asking("POST", path, headers=headers, body=body()) as response:
            assert response.status == 200
        assert instance.upstream.received == len(part) * parts
    assert not list(instance.run.glob("nginx-*/**/[0-9]*")), "a body was buffered in a file"


def test_the_path_and_query_go_through_as_they_came(instance: Instance) -> None:
    for path in ("/", "/api/show?a=b&c=%20", "/v1/models/x%2Fy", "/api//tags", "/api/x/../tags"):
        instance.ask("GET", path)
        assert instance.upstream.seen[-1][1] == path


@pytest.mark.parametrize("status", [400, 404, 500, 502, 503])
def test_the_upstreams_own_errors_go_through(instance: Instance, status: int) -> None:
    answer = instance.ask("POST", f"/api/generate?status={status}")
    assert (answer.status, answer.body) == (status, b"xx")
    assert answer.headers["X-Exollama"] is None, "only the fence may say so"


def test_without_an_upstream_the_answer_is_502_and_json(instance: Instance) -> None:
    instance.upstream.shutdown()
    instance.upstream.socket.close()
    answer = instance.ask("POST", "/api/generate")
    assert answer.status == 502
    assert "Ollama" in answer.json()["error"]
    assert answer.headers["X-Exollama"] is None
    instance.upstream = Upstream(instance.address)
    instance.thread = threading.Thread(target=instance.upstream.serve_forever)
    instance.thread.start()


def test_nginx_does_not_say_which_one_it_is_and_takes_tls_1_3_only(instance: Instance) -> None:
    assert instance.ask("GET", "/", key=None).headers["Server"] == "nginx"
    with instance.connect() as connection:
        assert connection.version() == "TLSv1.3"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((instance.address, 11435), 5) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain)


# -- the agent's paths


def test_paths_below_exollama_are_never_ollamas(instance: Instance) -> None:
    for end in ("", "/", "/x", "/status/x", "%2fx", "/../.exollama/x"):
        path = f"/.exollama{end}"
        assert instance.ask("GET", path).status == 404, path
        assert instance.ask("GET", path, key=None).status == 401, path
    # What nginx reads as the proof's path needs no key, so it must be the proof's for the agent too.
    for path in ("/status/../proof", "/x%2f..%2fproof", "//proof", "/proof?a=/status"):
        answer = instance.ask("GET", f"/.exollama{path}", key=None)
        assert (answer.status, sorted(answer.json())) == (200, ["mac", "nonce"]), path
    for path in ("/.exollama/proof/../status", "/.exollama/proof%2f..%2fstatus", "/.exollama/status?/../proof"):
        assert instance.ask("GET", path, key=None).status == 401, path
    assert instance.upstream.seen == []


def test_methods_and_bodies_that_the_agent_does_not_know_are_refused_as_json(instance: Instance) -> None:
    for method, path, status in (
        ("POST", "/.exollama/proof", 405),
        ("DELETE", "/.exollama/status", 405),
        ("BREW", "/.exollama/status", 405),
        ("PATCH", f"/.exollama/fence/{OWNER}", 405),
        ("PUT", "/.exollama/fence/nobody", 400),
        ("PUT", f"/.exollama/fence/{OWNER.upper()}", 400),
        ("PUT", f"/.exollama/fence/{OWNER}/", 404),
    ):
        answer = instance.ask(method, path)
        assert (answer.status, list(answer.json())) == (status, ["error"]), (method, path)
    assert instance.ask("POST", "/.exollama/touch", body=b"x" * 4096).status == 204
    large = instance.ask("POST", "/.exollama/touch", body=b"x" * 4097)
    assert (large.status, list(large.json())) == (413, ["error"])
    assert instance.ask("GET", "/.exollama/proof", body=b"x" * 4097, key=None).status == 413


def test_a_dead_agent_is_502_and_json_and_ollama_still_answers(instance: Instance) -> None:
    instance.stop_agent()
    for path, key in (("/.exollama/status", KEY), ("/.exollama/proof", None)):
        answer = instance.ask("GET", path, key=key)
        assert answer.status == 502
        assert "agent" in answer.json()["error"]
    assert instance.ask("POST", "/api/generate").status == 200
    instance.start_agent()


def test_a_fence_and_the_idle_time_outlive_the_agents_restart(instance: Instance) -> None:
    instance.ask("POST", "/api/generate")
    until(lambda: instance.requests() == 1, "its line, which the fence must not come before")
    instance.ask("PUT", f"/.exollama/fence/{OWNER}")
    time.sleep(1.2)
    before = instance.status()
    instance.stop_agent()
    assert instance.ask("POST", "/api/show").status == 503, "nginx looks at the file, not at the agent"
    instance.start_agent()
    after = instance.status()
    assert 1.0 <= before["idle_s"] <= after["idle_s"]
    assert after["fence"]["lease_s"] < before["fence"]["lease_s"]
    assert instance.ask("PUT", f"/.exollama/fence/{OTHER}").status == 409
    assert instance.ask("POST", f"/.exollama/fence/{OWNER}/commit").status == 200
    instance.stop_agent()
    instance.start_agent()
    assert instance.status()["fence"]["committed"] is True
    assert instance.ask("POST", f"/.exollama/fence/{OWNER}/commit").status == 200, "repeated, as after a lost answer"
    assert instance.ask("DELETE", f"/.exollama/fence/{OWNER}").status == 204


def test_the_client_binds_to_the_certificate_by_the_proof(instance: Instance) -> None:
    good = Endpoint(instance.address, Secret(KEY))
    assert good.status()["boot"]["phase"] == "ready"
    wrong = Endpoint(instance.address, Secret("y" * 40))
    with pytest.raises((Untrusted, KeyRejected)):
        wrong.status()
    instance.ask("PUT", f"/.exollama/fence/{OWNER}")
    with pytest.raises(Draining):
        good.touch()
    good.close()
    wrong.close()


def test_two_proofs_have_two_nonces(instance: Instance) -> None:
    proofs = [instance.ask("GET", "/.exollama/proof", key=None).json() for _ in range(2)]
    assert proofs[0]["nonce"] != proofs[1]["nonce"]
    assert len(bytes.fromhex(proofs[0]["nonce"])) == 16


# -- the configuration itself


def test_the_configuration_loads_without_a_warning_as_it_goes_to_the_instance(instance: Instance) -> None:
    """IPv6 included; where the test is no root, nginx remarks that `user` has no meaning."""
    conf = cloud.place("/etc/exollama/nginx.conf", instance.root)
    source = next(file for file in cloud.read(instance.user_data).files if file.path == "/etc/exollama/nginx.conf")
    assert source.mode == 0o600
    text = source.content.decode()
    assert text.count("listen 11435 ") == text.count("listen [::]:11435 ") == 1
    moved = text.replace("/var/lib/exollama", str(instance.tls.parent))
    for prefix in ("/var/log/exollama", "/run/exollama"):
        moved = moved.replace(prefix, str(cloud.place(prefix, instance.root)))
    conf.write_text(moved)
    done = subprocess.run(instance.nginx_argv("-t"), capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "successful" not in line and "syntax is ok" not in line]
    assert done.returncode == 0, done.stderr
    assert [line for line in said if '"user" directive' not in line] == []
