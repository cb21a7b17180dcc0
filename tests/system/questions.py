"""What the programs ask of a model, and how they tell a right answer from a wrong one.

Neighbours: programs_ollama.py and programs_openai.py ask, programs.py has the table of both.
"""

from __future__ import annotations

from collections.abc import Mapping

import pydantic
from openai.types.chat import ChatCompletionToolParam

PROMPT = "Why is the sky blue?"
TIMEOUT_S = 30.0  # for a first request that has to wake an instance

SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city"],
}
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "weather", "description": "What the weather will be", "parameters": SCHEMA},
}


def weather(city: str, days: int) -> str:
    """What the weather will be.

    Args:
      city: Where.
      days: For how many days.
    """
    return f"{days} sunny days in {city}"


class Forecast(pydantic.BaseModel):
    """The answer that a program wants instead of prose."""

    city: str
    days: int
    sunny: bool


def said(model: str, prompt: str) -> str:
    """What the stand-in answers."""
    return f"No model answers here: this is the simulator's stand-in for Ollama. You asked {model}: {prompt}"


def right(arguments: Mapping[str, object], *names: str) -> None:
    """The arguments of a call are these, of the types that the tool's schema says."""
    kinds = {"city": str, "days": int, "unit": str}
    assert {name: type(value) for name, value in arguments.items()} == {name: kinds[name] for name in names}
