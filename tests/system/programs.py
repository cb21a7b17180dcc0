"""The programs that people point at an Ollama, by name: the real `ollama` and `openai` packages, used as they are.

Each is given a base URL and a model's name and asserts what it got. test_stand_in.py runs them against Ollama's
stand-in itself, test_programs.py through the forwarder, so that a failure tells which of the two is at fault.
Neighbours: programs_ollama.py and programs_openai.py are the programs, questions.py is what they ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping

from tests.system import programs_ollama, programs_openai


def _run(program: Callable[[str, str], Coroutine[None, None, None]]) -> Callable[[str, str], None]:
    return lambda url, model: asyncio.run(program(url, model))


PROGRAMS: Mapping[str, Callable[[str, str], None]] = {
    **{program.__name__: program for module in (programs_ollama, programs_openai) for program in module.PLAIN},
    **{program.__name__: _run(program) for module in (programs_ollama, programs_openai) for program in module.ASYNC},
}
