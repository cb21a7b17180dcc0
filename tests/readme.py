"""`python -m tests.readme` writes the generated part of README.md, the help texts; a test checks that it is current."""

from __future__ import annotations

import os
import re
from pathlib import Path

from client.cli import VERBS, overview, parser

README = Path(__file__).resolve().parents[1] / "README.md"
_PART = re.compile(r"(<!-- help: begin -->\n).*?(<!-- help: end -->)", re.DOTALL)


def helps() -> str:
    """The help text of the command and of each of its verbs, as Markdown."""
    os.environ["COLUMNS"] = "100"  # argparse wraps to the terminal's width
    blocks = [_block("exollama", overview())]
    # What every verb's help ends with stands once, in the first block.
    for verb in VERBS:
        text = parser(f"exollama {verb}", verb).format_help()
        blocks.append(_block(f"exollama {verb}", text.partition("\n\nSettings are")[0]))
    return "\n".join(blocks)


def _block(prog: str, text: str) -> str:
    return f"```\n$ {prog} --help\n{text.rstrip()}\n```\n"


def generated(text: str) -> str:
    """README.md's text with its generated parts as they should be."""
    return _PART.sub(lambda part: f"{part[1]}{helps()}{part[2]}", text)


if __name__ == "__main__":
    README.write_text(generated(README.read_text()))
