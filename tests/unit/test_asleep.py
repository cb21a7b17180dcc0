"""What is answered while no instance runs, which requests are uses of a model, and whose paths are whose."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from client import asleep
from client.exchange import Reply

ROOT = Path(__file__).parents[2]
MODEL = "granite3.1-dense:8b"


def answer(method: str, path: str, body: object = b"", model: str = MODEL) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asleep.answer(method.encode(), path.encode(), raw, model=model, version="0.32.15")


def said(reply: Reply) -> Any:
    return json.loads(reply.body)


# -- what is passive


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/api/tags", "/api/version", "/api/ps", "/v1/models", f"/v1/models/{MODEL}"])
def test_what_a_program_looks_at_first_is_answered_for_the_configured_model(method: str, path: str) -> None:
    assert answer(method, path).status == 200


def test_the_answers_are_those_of_an_ollama_that_has_this_one_model() -> None:
    assert answer("GET", "/").body == b"Ollama is running"
    assert answer("GET", "/").content_type.startswith(b"text/plain")
    assert said(answer("GET", "/api/version")) == {"version": "0.32.15"}
    assert said(answer("GET", "/api/ps")) == {"models": []}
    [tag] = said(answer("GET", "/api/tags"))["models"]
    assert (tag["name"], tag["model"], tag["size"]) == (MODEL, MODEL, 0)
    assert re.fullmatch("[0-9a-f]{64}", tag["digest"])
    assert re.fullmatch(r"[0-9-]{10}T[0-9:]{8}Z", tag["modified_at"])
    listed = said(answer("GET", "/v1/models"))
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == [MODEL]
    assert said(answer("GET", f"/v1/models/{MODEL}")) == listed["data"][0]
    assert said(answer("GET", "/v1/models/granite3.1-dense%3A8b"))["id"] == MODEL


@pytest.mark.parametrize(
    ("model", "family", "parameters", "quantisation"),
    [
        ("granite3.1-dense:8b", "granite3.1-dense", "8B", ""),
        ("llama3.2:1b-instruct-q4_K_M", "llama3.2", "1B", "Q4_K_M"),
        ("hf.co/somebody/model:7b-fp16", "model", "7B", "FP16"),
        ("mixtral:8x7b", "mixtral", "8X7B", ""),
        ("nomic-embed-text", "nomic-embed-text", "", ""),
    ],
)
def test_what_a_models_name_tells_is_in_its_details(
    model: str, family: str, parameters: str, quantisation: str
) -> None:
    [tag] = said(answer("GET", "/api/tags", model=model))["models"]
    details = tag["details"]
    assert (details["family"], details["parameter_size"], details["quantization_level"]) == (
        family,
        parameters,
        quantisation,
    )
    assert said(answer("POST", "/api/show", {"model": model}, model=model))["details"] == details


@pytest.mark.parametrize(
    ("model", "capabilities"), [(MODEL, ["completion", "tools"]), ("nomic-embed-text", ["embedding"])]
)
def test_a_model_is_shown_with_what_it_is_likely_to_be_capable_of(model: str, capabilities: list[str]) -> None:
    assert said(answer("POST", "/api/show", {"model": model}, model=model))["capabilities"] == capabilities


@pytest.mark.parametrize(
    ("model", "body", "status"),
    [
        (MODEL, {"model": MODEL}, 200),
        (MODEL, {"name": MODEL}, 200),
        (MODEL, {"model": MODEL, "verbose": True}, 200),
        (MODEL, {}, 200),
        (MODEL, b"", 200),
        (MODEL, b"{nonsense", 200),
        (MODEL, b"[" * 100_000, 200),
        (MODEL, [1], 200),
        ("nomic-embed-text", {"model": "nomic-embed-text:latest"}, 200),
        ("nomic-embed-text:latest", {"model": "nomic-embed-text"}, 200),
        (MODEL, {"model": "granite3.1-dense"}, 404),
        (MODEL, {"model": "another:8b"}, 404),
        (MODEL, {"model": {"a": 1}}, 404),
    ],
)
def test_show_answers_for_the_configured_model_and_says_that_any_other_is_not_there(
    model: str, body: object, status: int
) -> None:
    reply = answer("POST", "/api/show", body, model=model)
    assert reply.status == status
    if status == 404:
        assert re.fullmatch("model '.*' not found", said(reply)["error"])


@pytest.mark.parametrize("asked", ["another", "another:8b", "granite3.1-dense", "%C3%A9", "%ff", "a/b", ""])
def test_an_unknown_model_is_404_in_the_words_of_openais_programs(asked: str) -> None:
    reply = answer("GET", f"/v1/models/{asked}")
    assert reply.status == 404
    error = said(reply)["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, None)
    assert "not found" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/api/delete", 503),
        ("POST", "/api/copy", 503),
        ("POST", "/api/show/", 503),
        ("POST", "/", 503),
        ("GET", "/api/generate", 503),
        ("GET", "/v1/chat/completions", 503),
        ("DELETE", "/v1/models/x", 503),
        ("GET", "/favicon.ico", 503),
        ("HEAD", "/api/blobs/sha256:00", 404),
        ("GET", "/api/blobs/sha256:00", 404),
    ],
)
def test_anything_else_says_that_no_instance_runs_and_what_wakes_one(method: str, path: str, status: int) -> None:
    reply = answer(method, path)
    assert reply.status == status
    error = said(reply)["error"]
    message = error["message"] if path.startswith("/v1/") else error
    assert "no instance is running" in message
    assert status == 404 or "the first generate, chat, embed, pull or create does" in message


# -- what is a use


def nginx_counts(method: str, path: str) -> bool:
    """What nginx.conf's map of $activity makes of an authenticated request."""
    text = (ROOT / "cloudinit/nginx.conf").read_text()
    block = re.search(r'map "\$key_ok \$asked" \$activity \{(.*?)\}', text, re.DOTALL)
    assert block
    patterns = re.findall(r'"~(\S.*?)" 1;', block[1])
    assert len(patterns) == 3
    return any(re.search(pattern, f"1 {method} {path}") for pattern in patterns)


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "post")
PATHS = {
    "/api/generate": True,
    "/api/chat": True,
    "/api/embed": True,
    "/api/embeddings": True,
    "/api/pull": True,
    "/api/create": True,
    "/api/blobs/sha256:00": True,
    "/api/blobs/": True,
    "/api/blobs/a/b": True,
    "/v1/chat/completions": True,
    "/v1/embeddings": True,
    "/v1/responses": True,
    "/v1/": True,
    "/": False,
    "/v1": False,
    "/V1/chat/completions": False,
    "/api/blobs": False,
    "/api/generate/": False,
    "/api/generatex": False,
    "/API/generate": False,
    "/x/api/generate": False,
    "/x/v1/chat": False,
    "/api/show": False,
    "/api/tags": False,
    "/api/ps": False,
    "/api/push": False,
    "/api/copy": False,
    "/api/delete": False,
    "/api/version": False,
    "/.exollama/touch": False,
    "/v1 x": False,
}


@pytest.mark.parametrize("path", PATHS)
def test_the_same_requests_are_uses_here_and_on_the_instance(path: str) -> None:
    for method in METHODS:
        expected = method == "POST" and PATHS[path]
        found = (asleep.is_use(method.encode(), path.encode()), nginx_counts(method, path))
        assert found == (expected, expected), method


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/%67enerate", True),
        ("/%61pi/chat", True),
        ("/v1%2fchat", True),
        ("/api/generate%0a", False),
        ("/api/%2567enerate", False),
        ("/api/generate%3fx", False),
        ("/api/%zz", False),
    ],
)
def test_escapes_are_read_once_as_the_instance_reads_them(path: str, expected: bool) -> None:
    assert asleep.is_use(b"POST", path.encode()) is expected


def test_nothing_that_is_a_use_is_answered_here_as_if_it_were_none() -> None:
    for method, path in itertools.product(("GET", "HEAD", "POST"), PATHS):
        if asleep.is_use(method.encode(), path.encode()):
            assert answer(method, path).status == 503


@pytest.mark.parametrize(
    ("path", "said", "expected"),
    [
        ("/api/generate", {"model": "a", "keep_alive": 0}, {"response": ""}),
        ("/api/generate", {"model": "a", "keep_alive": "0s", "prompt": ""}, {"response": ""}),
        (
            "/api/chat",
            {"model": "a", "keep_alive": 0, "messages": []},
            {"message": {"role": "assistant", "content": ""}},
        ),
        ("/api/generate", {"model": "a", "keep_alive": 0, "prompt": "and then unload"}, None),
        ("/api/chat", {"model": "a", "keep_alive": 0, "messages": [{"role": "user", "content": "x"}]}, None),
        ("/api/generate", {"model": "a"}, None),
        ("/api/generate", {"model": "a", "keep_alive": 300}, None),
        ("/api/generate", {"model": "a", "keep_alive": False}, None),
        ("/api/embed", {"model": "a", "keep_alive": 0}, None),
    ],
)
def test_a_request_that_only_unloads_a_model_is_answered_without_one(
    path: str, said: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    reply = asleep.unloaded(path.encode(), json.dumps(said).encode())
    if expected is None:
        assert reply is None
    else:
        assert reply
        answered = json.loads(reply.body)
        assert answered.items() >= ({"model": "a", "done": True, "done_reason": "unload"} | expected).items()


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"[" * 9999])
def test_a_body_that_cannot_be_read_unloads_nothing(body: bytes) -> None:
    assert asleep.unloaded(b"/api/generate", body) is None


# -- whose paths are whose


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/.exollama/status", True),
        ("/.exollama", True),
        ("/.exollama/fence/0123456789abcdef0123456789abcdef/commit", True),
        ("/%2eexollama/status", True),
        ("/%2Eexollama/touch", True),
        ("/.%65xollama/touch", True),
        ("/%2e%65%78%6f%6c%6c%61%6d%61/touch", True),
        ("//.exollama/touch", True),
        ("/./.exollama/touch", True),
        ("/api/../.exollama/touch", True),
        ("/api/..%2f.exollama/touch", True),
        ("/api/%2e%2e/%2eexollama/touch", True),
        ("/x/.exollama", True),
        ("/.EXOLLAMA/status", True),
        ("/.eXollama/status", True),
        ("/.exollama%00", True),
        ("/.exollamas", True),
        ("/exollama/status", False),
        ("/exollama/.status", False),
        ("/%252eexollama/status", False),  # what is escaped twice is nobody's
        ("/api/tags", False),
        ("/", False),
    ],
)
def test_no_spelling_of_the_agents_paths_leads_to_the_instance(path: str, expected: bool) -> None:
    assert asleep.is_ours(path.encode()) is expected
