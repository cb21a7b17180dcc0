"""`python -m tests.pictures` writes docs/pictures/terminal.svg: a session at a terminal, recorded on the simulator.

The verbs run as they are, under the simulator's clock. Ids and addresses are replaced, so that a new recording differs
only where the verbs do; the times of day are of the day it was made.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from tests.simulator import Simulator

ROOT: Final = Path(__file__).resolve().parents[1]
PICTURE: Final = ROOT / "docs/pictures/terminal.svg"
SESSION: Final = (
    ("", 'exollama generate "Why is the sky blue?"'),
    ("", "exollama status --probe"),
    ("forty minutes in which nobody asks anything", "exollama reap"),
    ("", "exollama status"),
)
"""What happens before, in words, and what is typed. After words, time passes."""
COLUMNS: Final = 118
_IDS: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ADDRESSES: Final = re.compile(r"127\.\d+\.\d+\.\d+(?=:11435)")
_LINE, _CHARACTER, _EDGE = 18, 7.3, 20

_STYLE: Final = """
    rect { fill: #0d1117; stroke: #30363d }
    circle { fill: #30363d }
    text { font: 12px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre }
    .typed { fill: #e6edf3; font-weight: 600 }
    .out { fill: #e6edf3 }
    .note { fill: #9da7b3 }
    .aside { fill: #d29922; font-style: italic }
    .prompt { fill: #58a6ff }"""


def recorded() -> list[tuple[str, str]]:
    """The lines of the session, each with what it is: typed, out, note (standard error) or aside."""
    lines: list[tuple[str, str]] = []
    with Simulator(("ch-gva-2",), operation_s=0.05) as simulator:
        for before, typed in SESSION:
            if lines:
                lines.append(("out", ""))
            if before:
                simulator.advance(40 * 60)
                lines += [("aside", f"… {before} …"), ("out", "")]
            lines.append(("typed", typed))
            lines += (
                ("note" if one.startswith("exollama: ") else "out", piece)
                for one in _run(simulator, typed).splitlines()
                for piece in textwrap.wrap(one, COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
            )
        if simulator.instances():
            raise SystemExit("The machine was not reaped, so this is no picture of its life; nothing was written.")
    return lines


def _run(simulator: Simulator, typed: str) -> str:
    words = shlex.split(typed)
    shifted = [sys.executable, "-m", "tests.simulator.timeshift", str(simulator.offset_file), "-m", "client"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EXOSCALE_", "GARUDA_"))}
    done = subprocess.run(
        [*shifted, *words[1:]],
        cwd=ROOT,
        env={**clean, **simulator.env, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=True,
    )
    said = _IDS.sub("7d8cf74a-1c0e-4d35-9b1f-0b6ab0a2c8b1", done.stdout)
    return _ADDRESSES.sub("203.0.113.7", said)


def drawn(lines: list[tuple[str, str]]) -> str:
    """The lines as a picture of a terminal, its whole text as the description."""
    width, height = round(COLUMNS * _CHARACTER) + 2 * _EDGE, len(lines) * _LINE + 72
    told = "\n".join(f"$ {text}" if kind == "typed" else text for kind, text in lines)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"',
            f'  height="{height}" role="img" aria-labelledby="title desc">',
            '  <title id="title">A machine\'s life at a terminal, on the simulated zone</title>',
            f'  <desc id="desc">{escape(told)}</desc>',
            f"  <style>{_STYLE}\n  </style>",
            f'  <rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="10"/>',
            *(f'  <circle cx="{_EDGE + 4 + 18 * at}" cy="22" r="5.5"/>' for at in range(3)),
            *_texts(lines),
            "</svg>\n",
        ]
    )


def _texts(lines: list[tuple[str, str]]) -> Iterator[str]:
    for at, (kind, text) in enumerate(lines):
        if text:
            prompt = '<tspan class="prompt">$ </tspan>' if kind == "typed" else ""
            yield f'  <text class="{kind}" x="{_EDGE}" y="{58 + at * _LINE}">{prompt}{escape(text)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(drawn(recorded()), encoding="utf-8")
