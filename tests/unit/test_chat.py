"""A conversation: what goes along with each prompt, what a line means, and what becomes of an answer without an end."""

import io
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from client import chat, cli, session, use
from client.errors import BootFailed, ExollamaError, NoInstance, OllamaError, SettingsError, StreamCut
from client.terminal import Terminal
from tests.fakes import DAY, NOW, World, label_map, settings
from tests.sessions import NOT_FOUND, PULLED, Lines, Use, machine

Message = dict[str, str]


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


class Model:
    """Answers `re: PROMPT` in two pieces; `asked` has the messages of every request. A script may end it otherwise."""

    def __init__(self, *script: BaseException | None) -> None:
        self.asked: list[list[Message]] = []
        self.given: list[Mapping[str, Any]] = []
        self.script = list(script)
        self.pieces = 2
        self.left = 0

    def __call__(self, payload: Mapping[str, Any], on_text: Callable[[str], None]) -> dict[str, Any]:
        self.given.append(payload)
        self.asked.append(payload["messages"])
        end = self.script.pop(0) if self.script else None
        pieces = ["re: ", payload["messages"][-1]["content"]]
        for piece in pieces[: 2 if end is None else self.pieces]:
            on_text(piece)
        if end:
            raise end
        return {"message": said("assistant", "".join(pieces)), "done": True}

    def leave(self) -> None:
        self.left += 1


class Chat:
    """One run of the verb over lines of a pipe."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Model, *arguments: str) -> None:
        self._monkeypatch = monkeypatch
        self.model = model
        self.arguments = arguments
        self.err = io.StringIO()
        monkeypatch.setattr(chat, "answerer", lambda *_: (model, model.leave))

    def __call__(self, typed: str | bytes) -> int:
        raw = typed if isinstance(typed, bytes) else typed.encode()
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
        args = cli.parser("exollama chat", "chat").parse_args(self.arguments)
        return chat.chat(args, settings(model="the-model"), Terminal(self.err))


@pytest.fixture
def model() -> Model:
    return Model()


# -- the context


def test_each_prompt_takes_along_what_was_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Model
) -> None:
    assert Chat(monkeypatch, model)("one\ntwo\n") == 0
    assert model.asked == [
        [said("user", "one")],
        [said("user", "one"), said("assistant", "re: one"), said("user", "two")],
    ]
    assert capsys.readouterr().out == "re: one\nre: two\n"
    assert model.left == 1


def test_a_system_message_and_options_go_first_and_stay_when_the_rest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    arguments = ["--system", "be brief", "--model", "qwen3:8b", "--option", "temperature=0"]
    Chat(monkeypatch, model, *arguments)("one\n/clear\ntwo\n")
    system = said("system", "be brief")
    assert model.asked == [[system, said("user", "one")], [system, said("user", "two")]]
    assert [{name: value for name, value in one.items() if name != "messages"} for one in model.given] == [
        {"model": "qwen3:8b", "stream": True, "options": {"temperature": 0}}
    ] * 2


def test_every_problem_of_the_arguments_is_named_at_once(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    with pytest.raises(SettingsError) as refusal:
        Chat(monkeypatch, model, "--model", "no such!", "--option", "x")("one\n")
    assert [problem.split()[0] for problem in refusal.value.problems] == ["--model", "--option"]


# -- what a line means


@pytest.mark.parametrize(
    ("typed", "prompts"),
    [
        ("", []),
        ("\n  \n\t\n", []),
        ("one", ["one"]),
        ("  one  \r\n\ntwo\n", ["one", "two"]),
        ('"""\none\n\n  two\n"""\nthree\n', ["one\n\n  two", "three"]),
        ('"""one\ntwo"""\n', ["one\ntwo"]),
        ('"""one"""\n', ["one"]),
        ('"""\none\n', ["one"]),
        ('"""\n"""\n', []),
        ("one\n/bye\ntwo\n", ["one"]),
        ("/help\n/?\n/clear\none\n", ["one"]),
        ("/etc/hosts is what?\n/unknown\n", ["/etc/hosts is what?", "/unknown"]),
        ("grüße 🎉\n", ["grüße 🎉"]),
        (b"\xff one\n", ["\ufffd one"]),
    ],
    ids=[
        "nothing", "blank", "no newline", "two", "several lines", "on the quotes' lines", "in one",
        "unended", "empty quotes", "bye", "commands", "paths", "unicode", "odd bytes",
    ],
)  # fmt: skip
def test_each_line_of_a_pipe_is_a_prompt(
    monkeypatch: pytest.MonkeyPatch, model: Model, typed: str | bytes, prompts: list[str]
) -> None:
    assert Chat(monkeypatch, model)(typed) == 0
    asked = [messages[-1]["content"] for messages in model.asked]
    assert asked == prompts


def test_in_a_pipe_no_prompt_is_printed_and_nothing_is_said_beside_the_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Model
) -> None:
    run = Chat(monkeypatch, model)
    run("one\n")
    assert (capsys.readouterr().out, run.err.getvalue()) == ("re: one\n", "")


def test_help_lists_what_can_be_typed(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    run = Chat(monkeypatch, model)
    run("/help\n")
    assert [word for word in ("/clear", "/bye", '"""', "Ctrl-C", "Ctrl-D") if word not in run.err.getvalue()] == []


def test_as_json_there_is_one_object_for_each_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Model
) -> None:
    Chat(monkeypatch, model, "--json")("one\ntwo\n")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["message"] for line in lines] == [said("assistant", "re: one"), said("assistant", "re: two")]


@pytest.mark.parametrize("lines", ["{}\n", '"""\nx\n{}\n"""\n'], ids=["a line", "several"])
def test_a_prompt_that_no_model_reads_is_refused(monkeypatch: pytest.MonkeyPatch, model: Model, lines: str) -> None:
    monkeypatch.setattr(chat, "MAX_PROMPT", 1 << 20)
    with pytest.raises(ExollamaError, match="over 1 MiB"):
        Chat(monkeypatch, model)(lines.format("x" * (1 << 20) + "x"))
    assert model.asked == []


def test_with_standard_input_closed_there_is_nothing_to_ask(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    run = Chat(monkeypatch, model)
    monkeypatch.setattr(sys, "stdin", None)
    assert chat.chat(cli.parser("exollama chat", "chat").parse_args([]), settings(), Terminal(run.err)) == 0


# -- answers that do not end


@pytest.mark.parametrize(
    "end", [OllamaError("500: out of memory", status=500), NoInstance("none"), KeyboardInterrupt()], ids=repr
)
def test_in_a_pipe_whatever_goes_wrong_ends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: BaseException
) -> None:
    model = Model(None, end)
    with pytest.raises(type(end)):
        Chat(monkeypatch, model)("one\ntwo\nthree\n")
    assert len(model.asked) == 2
    assert capsys.readouterr().out == "re: one\nre: two\n", "what had arrived stands on a line of its own"


@pytest.fixture
def typing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A person at a terminal, who types these things one after the other."""

    def types(*typed: str | BaseException) -> None:
        left = list(typed)

        def line(mark: str = "") -> str:
            assert mark == "", "what reads the answers would find it among them"
            one = left.pop(0) if left else EOFError()
            if isinstance(one, BaseException):
                raise one
            return one

        monkeypatch.setattr("builtins.input", line)
        monkeypatch.setattr(chat.Prompts, "__init__", prepared)

    def prepared(self: chat.Prompts, terminal: Terminal) -> None:
        self.typed, self._terminal, self._warned, self._open, self._line_so_far = True, terminal, False, False, str
        self._screen = sys.stderr

    return types


CTRL_C = KeyboardInterrupt()


@pytest.mark.parametrize(
    ("end", "pieces", "context"),
    [
        (KeyboardInterrupt(), 1, [said("user", "two"), said("assistant", "re: ")]),
        (KeyboardInterrupt(), 0, []),
        (StreamCut("the stream ended"), 1, [said("user", "two"), said("assistant", "re: ")]),
        (OllamaError("500: out of memory", status=500), 0, []),
    ],
    ids=["Ctrl-C in the middle", "Ctrl-C before a word", "cut", "refused"],
)
def test_at_a_terminal_the_conversation_outlives_an_answer_that_does_not_end_and_keeps_what_had_arrived(
    monkeypatch: pytest.MonkeyPatch,
    typing: Callable[..., None],
    end: BaseException,
    pieces: int,
    context: list[Message],
) -> None:
    model = Model(None, end)
    model.pieces = pieces
    run = Chat(monkeypatch, model)
    typing("one", "two", "three")
    assert run("") == 0
    assert model.asked[2] == [said("user", "one"), said("assistant", "re: one"), *context, said("user", "three")]
    assert model.left == 1


def test_at_a_terminal_an_error_before_any_answer_ends_it_with_its_code(
    monkeypatch: pytest.MonkeyPatch, typing: Callable[..., None]
) -> None:
    run = Chat(monkeypatch, Model(NoInstance("There is none.")), "--no-provision")
    typing("one", "two")
    run.model.pieces = 0
    with pytest.raises(NoInstance):
        run("")


def test_what_went_wrong_has_its_own_lines(monkeypatch: pytest.MonkeyPatch, typing: Callable[..., None]) -> None:
    run = Chat(monkeypatch, Model(None, BootFailed("The boot failed.", phase="docker", log=("no space left",))))
    typing("one", "two")
    assert run("") == 0
    assert "  | no space left\nexollama: The conversation so far is kept" in run.err.getvalue()


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ([CTRL_C, "one"], 1),
        ([CTRL_C, CTRL_C, "one"], 0),
        (["one", CTRL_C, CTRL_C, "two"], 1),
        ([CTRL_C, "one", CTRL_C, "two"], 2),
        (['"""', "one", CTRL_C, CTRL_C, "two"], 1),
        (['"""', CTRL_C, CTRL_C, CTRL_C, "two"], 0),
        (["/bye", "one"], 0),
        (["/nonsense", "one"], 1),
        ([], 0),
    ],
    ids=["once", "twice", "twice later", "apart", "in quotes", "in quotes, then twice", "bye", "no command", "Ctrl-D"],
)
def test_a_second_ctrl_c_at_an_empty_prompt_ends_the_chat(
    monkeypatch: pytest.MonkeyPatch, typing: Callable[..., None], typed: list[Any], asked: int
) -> None:
    model = Model()
    run = Chat(monkeypatch, model)
    typing(*typed)
    assert run("") == 0
    assert len(model.asked) == asked


def test_a_prompt_in_quotes_that_ctrl_d_ends_is_dropped_and_told(
    monkeypatch: pytest.MonkeyPatch, typing: Callable[..., None], model: Model
) -> None:
    run = Chat(monkeypatch, model)
    typing('"""', "half a", EOFError(), "two")
    assert run("") == 0
    assert model.asked == [[said("user", "two")]]
    assert "is dropped" in run.err.getvalue()


def test_a_person_is_told_that_the_conversation_was_cleared_and_a_pipe_is_not(
    monkeypatch: pytest.MonkeyPatch, typing: Callable[..., None], model: Model
) -> None:
    run = Chat(monkeypatch, model)
    run("/clear\n")
    assert run.err.getvalue() == ""
    typing("/clear")
    run("")
    assert "The conversation begins anew." in run.err.getvalue()


# -- over a session


def chunk(content: str, **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content}, "done": False, **more}


TALK: Lines = [
    {"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
    chunk("Hel"),
    chunk("lo"),
    {"message": {"role": "assistant", "content": ""}, "done": True, "eval_count": 2},
]
ASKED = {"model": "m", "messages": [said("user", "why?")], "stream": True}


def talk(used: Use) -> dict[str, Any]:
    def show(piece: str) -> None:
        used.text += piece

    return used.session.generate(ASKED, show)


def test_a_payload_with_messages_is_a_chat_whose_thinking_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    used = Use(monkeypatch, World(machine()), TALK)
    assert talk(used) == {"message": said("assistant", "Hello"), "done": True, "eval_count": 2}
    assert used.text == "Hello"
    assert used.asked == [("/api/chat", ASKED)]


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        ([chunk("Hel")], StreamCut, "cut off after 3 characters"),
        ([chunk("Hel"), {"error": "out of memory"}], OllamaError, "out of memory"),
        ([{"message": "odd", "done": False}, {"response": "of another kind"}], StreamCut, "after 0 characters"),
    ],
    ids=["cut", "error", "odd"],
)
def test_a_chat_that_breaks_is_told_as_any_answer(
    monkeypatch: pytest.MonkeyPatch, lines: Lines, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        talk(Use(monkeypatch, World(machine()), lines))


def test_a_model_that_is_not_there_is_pulled_for_a_chat_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    used = Use(monkeypatch, World(machine()), NOT_FOUND, PULLED, TALK)
    talk(used)
    assert [path for path, _ in used.asked] == ["/api/chat", "/api/pull", "/api/chat"]


def test_one_that_went_meanwhile_is_replaced_and_the_whole_context_goes_to_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = Use(monkeypatch, World(machine()), TALK, wake=True)
    talk(used)
    used.world.machines.clear()
    assert talk(used)["message"]["content"] == "Hello"
    assert used.woken == 1
    assert [payload for _, payload in used.asked] == [ASKED, ASKED]


def test_between_two_prompts_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = machine(created=NOW - DAY, labels=label_map(activity=NOW - DAY / 2, idle="s4"))  # a beat each second
    used = Use(monkeypatch, World(idle), TALK)
    talk(used)
    assert "exollama-heartbeat" not in {thread.name for thread in threading.enumerate()}
    assert len(used.world.named("put_labels")) == 1


def test_a_stream_is_closed_at_once_where_a_piece_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    used = Use(monkeypatch, World(machine()), TALK)
    closed: list[str] = []

    lines = session._lines

    def watched(*arguments: Any) -> Iterator[dict[str, Any]]:
        try:
            yield from lines(*arguments)
        finally:
            closed.append("closed")

    monkeypatch.setattr(session, "_lines", watched)

    def interrupted(_piece: str) -> None:
        raise KeyboardInterrupt

    caught: BaseException | None = None
    try:
        used.session.generate(ASKED, interrupted)
    except KeyboardInterrupt as interrupt:
        caught = interrupt  # and with it the frames that hold the stream
    assert caught
    assert closed == ["closed"]


# -- what reaches a terminal


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "shown"), [(Tty, "a[2Jb\tc\n"), (io.StringIO, "a\x1b[2J\x07b\tc\r\n")], ids=["terminal", "pipe"]
)
def test_what_a_model_says_is_not_obeyed_by_a_terminal_and_reaches_a_pipe_as_it_is(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], shown: str
) -> None:
    out = stream()
    monkeypatch.setattr(sys, "stdout", out)
    use.shower(Terminal(io.StringIO()), whole=False)("a\x1b[2J\x07b\tc\r\n")
    assert out.getvalue() == shown
