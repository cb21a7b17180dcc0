"""generate on the command line: its arguments, what it reaps on the way, and what a person sees."""

import io
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from client import cli, use, verbs
from client.errors import SettingsError
from client.terminal import Terminal
from tests.fakes import NOW, instance, label_map, settings

# -- generate's arguments


def parsed(*arguments: str) -> dict[str, Any]:
    return use.payload(cli.parser("exollama generate", "generate").parse_args(arguments), settings(model="the-model"))


def test_a_prompt_alone_is_asked_of_the_configured_model() -> None:
    assert parsed("why?") == {"model": "the-model", "prompt": "why?", "stream": True}


def test_every_argument_reaches_ollama() -> None:
    schema = '{"type": "object"}'
    options = ["--option", "temperature=0", "--option", "stop=[1]", "--option", "name=a=b", "--option", "seed=x"]
    assert parsed("why?", "--model", "qwen3:8b", "--system", "be brief", "--format", schema, *options) == {
        "model": "qwen3:8b",
        "prompt": "why?",
        "stream": True,
        "system": "be brief",
        "format": {"type": "object"},
        "options": {"temperature": 0, "stop": [1], "name": "a=b", "seed": "x"},
    }
    assert parsed("why?", "--format", "json")["format"] == "json"


@pytest.mark.parametrize(
    "given", [b"from a pipe\n", "gr\u00fc\u00df".encode(), b"\xff not utf-8"], ids=["pipe", "utf-8", "odd"]
)
def test_a_dash_reads_the_prompt_from_standard_input(monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert parsed("-")["prompt"] == given.decode("utf-8", "replace")


def test_every_problem_of_the_arguments_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as refusal:
        parsed(" ", "--model", "no such!", "--option", "x", "--option", "=1", "--format", "[]")
    assert [problem.partition(" is ")[0] for problem in refusal.value.problems] == [
        "--model",
        "The prompt",
        "--option",
        "--option",
        "--format",
    ]


@pytest.mark.parametrize("value", ["[1]", "{", "yaml", "1"])
def test_a_format_that_is_no_schema_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="the word json or a JSON schema"):
        parsed("why?", "--format", value)


def test_a_prompt_that_no_model_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use, "MAX_PROMPT", 1 << 20)
    with pytest.raises(SettingsError, match="over 1 MiB"):
        parsed("x" * (1 << 20) + "x")


# -- what generate reaps on the way


def test_generate_waits_for_what_it_reaps_once_the_answer_is_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out: list[str] = []
    session = SimpleNamespace(
        generate=lambda *_: {"response": "blue"}, finish=lambda: out.append(capsys.readouterr().out), used=None
    )
    monkeypatch.setattr(use, "_session", lambda *_, **__: session)
    monkeypatch.setenv("EXOSCALE_API_KEY", "EXOexample")
    monkeypatch.setenv("EXOSCALE_API_SECRET", "example-secret")
    assert cli.main(["generate", "why?", "--no-stream"]) == 0
    assert out == ["blue\n"]


@pytest.mark.parametrize("arguments", [["--no-stream"], []], ids=["whole", "in pieces"])
def test_what_a_model_says_is_obeyed_by_no_terminal_in_one_piece_either(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    def generate(_: object, on_text: Callable[[str], None]) -> dict[str, str]:
        on_text("blue\x1b[2J")
        return {"response": "blue\x1b[2J"}

    session = SimpleNamespace(generate=generate, finish=lambda: None, used=None)
    monkeypatch.setattr(use, "_session", lambda *_, **__: session)
    monkeypatch.setenv("EXOSCALE_API_KEY", "EXOexample")
    monkeypatch.setenv("EXOSCALE_API_SECRET", "example-secret")
    out = Tty()
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["generate", "why?", *arguments]) == 0
    assert out.getvalue() == "blue[2J\n"


@pytest.mark.parametrize("installed", [True, False], ids=["with urllib3", "without"])
def test_generate_reaps_where_urllib3_is_installed_and_else_does_without(
    monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    import functions.reap_idle

    given: list[object] = []

    def tidy(*arguments: object, **_: object) -> Callable[[], None]:
        given.extend(arguments[1:])
        return lambda: None

    monkeypatch.setattr(functions.reap_idle, "tidy", tidy)
    monkeypatch.setattr(verbs, "has_urllib3", lambda: installed)
    session = use._session(settings(), Terminal(io.StringIO()), provision=False)
    listed = [instance()]
    assert session._tidy
    session._tidy(listed, "spared")()
    assert given == ([listed, "spared"] if installed else [])


# -- what a person sees


@pytest.mark.parametrize(
    ("idle", "words"),
    [
        ("s1800", "goes about 30 minutes after its last use, between 12:30 and 12:37 UTC, by the next"),
        ("s60", "goes 60 seconds after its last use, at 12:01 UTC, by the next"),
        ("s7200", "between 14:00 and 14:15 UTC"),  # then it is off
    ],
)
def test_it_is_said_when_the_instance_goes_and_who_sees_to_it(idle: str, words: str) -> None:
    said = use.goes(instance(labels=label_map(idle=idle)), NOW)
    assert words in said
    assert "by the next `exollama reap` (cron)" in said
    assert "powers itself off at" in said
    assert "its disk costs on. To end it now: exollama stop" in said


def test_that_a_function_takes_long_is_said_where_no_live_line_is_seen() -> None:
    pipe = io.StringIO()
    progress = use.awaiting(Terminal(pipe))
    for second in range(5):
        progress("image", None, float(second))
    assert pipe.getvalue() == "exollama: The provision function is getting an instance ready (image).\n"
