"""The verb `chat`: a conversation whose context is kept here and goes along with every prompt, whoever answers it.

So an instance that was reaped at a long pause costs the next prompt a boot, and nothing of what was said. Nothing is
recorded while somebody sits at the prompt. Neighbours: `client.use` answers, for `generate` too; standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
from collections.abc import Callable
from typing import Any, Final

from client.errors import ExollamaError
from client.settings import Settings
from client.terminal import Terminal
from client.use import MAX_PROMPT, Answerer, answerer, payload, shower

HELP: Final = '''\
  /clear   forget what was said so far
  /bye     end, as Ctrl-D does
  """      begins and ends a prompt of several lines
  Ctrl-C   ends an answer, and what had arrived of it stays; once more, at the prompt, ends the chat'''
_QUOTES: Final = '"""'


def chat(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    """Talk until /bye, Ctrl-D or a second Ctrl-C; or until the end of a standard input that is no terminal.

    There, and as long as nothing has been answered, what goes wrong ends it: raises what `client.session.generate`
    raises. Later it is told, and the conversation goes on.
    """
    asked = payload(args, settings)
    prompts = Prompts(terminal)
    answer_to, leave = answerer(args, settings, terminal)
    talk = _Conversation(asked, answer_to, terminal, as_json=args.json)
    if prompts.typed:
        terminal.note(f"Chatting with {asked['model']}; /help lists what can be typed, Ctrl-D ends.")
    while (prompt := prompts.read()) not in (None, "/bye"):
        try:
            if not talk.obeys(prompt, typed=prompts.typed):
                talk.ask(prompt)
        except KeyboardInterrupt:
            if not prompts.typed:
                raise
            prompts.warn(talk.kept)
        except ExollamaError as error:
            if not prompts.typed or not talk.answered:
                raise
            terminal.note(str(error))
            terminal.note("The conversation so far is kept; type the prompt again.")
    leave()
    return 0


class _Conversation:
    """What was said, in Ollama's messages, and how the next answer is shown."""

    def __init__(self, asked: dict[str, Any], answer_to: Answerer, terminal: Terminal, *, as_json: bool) -> None:
        system = asked.pop("system", None)
        self._asked = asked
        self._first = [{"role": "system", "content": system}] if system else []
        self._messages = self._first
        self._answer_to = answer_to
        self._terminal = terminal
        self._as_json = as_json
        self.kept = ""
        """What became of the answer that did not end, in words."""

    @property
    def answered(self) -> bool:
        """Whether there is anything to lose."""
        return len(self._messages) > len(self._first)

    def obeys(self, line: str, *, typed: bool) -> bool:
        """Whether that was a command, which is carried out. What looks like one and is none is told who typed it."""
        if line == "/clear":
            self._messages = self._first
            if typed:
                self._terminal.note("The conversation begins anew.")
        elif line in ("/help", "/?"):
            self._terminal.note(f"What can be typed beside prompts:\n{HELP}")
        elif typed and re.fullmatch(r"/[a-z?]*", line):
            self._terminal.note(f"There is no {line}. What can be typed beside prompts:\n{HELP}")
        else:
            return False
        return True

    def ask(self, prompt: str) -> None:
        """Show an answer and keep both; of one that does not end, what had arrived. Without a word, it is not asked."""
        messages = [*self._messages, {"role": "user", "content": prompt}]
        pieces: list[str] = []
        show = shower(self._terminal, whole=self._as_json)

        def on_text(piece: str) -> None:
            pieces.append(piece)
            show(piece)

        self.kept = (
            "Nothing had arrived: as if it had not been asked. An instance that is being started goes on, until nobody "
            "uses it. "
        )
        try:
            answer = self._answer_to({**self._asked, "messages": messages}, on_text)
            self._terminal.clear()
            print(json.dumps(answer) if self._as_json else "", flush=True)
        except BaseException:
            if pieces:
                self.kept = "What had arrived stays in the conversation. "
                if not self._as_json:
                    print(flush=True)
            raise
        finally:
            if pieces:
                self._messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]


class Prompts:
    """Prompts from standard input. `typed`: by a person, who can edit lines; they are never written to a file."""

    def __init__(self, terminal: Terminal) -> None:
        self.typed = sys.stdin is not None and sys.stdin.isatty()
        self._terminal = terminal
        self._warned = False
        self._open = False  # between the quotes of a prompt of several lines
        self._screen = sys.stdout if sys.stdout.isatty() else sys.stderr
        self._line_so_far: Callable[[], str] = str
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        if self.typed:
            with contextlib.suppress(ImportError):  # from here on input() edits lines, and keeps them in memory
                import readline

                self._line_so_far = readline.get_line_buffer

    def warn(self, words: str = "") -> None:
        """Ctrl-C was pressed; the next one, where nothing is typed yet, ends the chat."""
        self._warned = True
        self._terminal.note(f"{words}Ctrl-C again ends the chat, as Ctrl-D and /bye do.")

    def read(self) -> str | None:
        """The next prompt that is not empty; None at the end. Raises ExollamaError for one that no model reads."""
        while True:
            try:
                words = self._read()
            except KeyboardInterrupt:
                if not self.typed:
                    raise
                print(file=self._screen, flush=True)  # behind what was typed
                if self._open or self._line_so_far():
                    self._warned = False
                elif self._warned:
                    return None
                else:
                    self.warn()
                continue
            if words is None and self.typed:
                print(file=self._screen, flush=True)
            if words != "":
                self._warned = False
                return words

    def _read(self) -> str | None:
        """One prompt, perhaps an empty one."""
        self._open = False
        line = self._line(">>> ")
        if line is None or not line.strip().startswith(_QUOTES):
            return line and line.strip()
        self._open = True
        return self._several(line.strip().removeprefix(_QUOTES))

    def _several(self, text: str) -> str:
        size = 0
        lines = [text]
        while not lines[-1].rstrip().endswith(_QUOTES):
            line = self._line("... ")
            if line is None and self.typed:
                print(file=self._screen, flush=True)
                self._terminal.note(f"Without its closing {_QUOTES} the prompt is dropped.")
                return ""
            if line is None:
                break
            size += len(line)
            if size > MAX_PROMPT:
                raise _too_long()
            lines.append(line)
        return "\n".join(lines).rstrip().removesuffix(_QUOTES).strip()

    def _line(self, mark: str) -> str | None:
        if self.typed:
            if self._screen is not sys.stdout:  # whose lines go elsewhere
                print(mark, end="", file=self._screen, flush=True)
                mark = ""
            try:
                return input(mark)
            except EOFError:
                return None
        line = sys.stdin.readline(MAX_PROMPT + 1) if sys.stdin else ""
        if len(line) > MAX_PROMPT:
            raise _too_long()
        return line.removesuffix("\n") if line else None


def _too_long() -> ExollamaError:
    return ExollamaError(f"A prompt has over {MAX_PROMPT >> 20} MiB, more than any model reads. Shorten it.")
