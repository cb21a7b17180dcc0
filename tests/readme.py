"""`python -m tests.readme` writes the generated parts of README.md and docs/; a test checks that they are current.

A part stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` in one file; PARTS says where, and what makes it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Final

from client import prices
from client.cli import VERBS, overview, parser
from client.settings import Secret, Settings
from tests.api_reference import reference
from tests.live import unproven

ROOT: Final = Path(__file__).resolve().parents[1]
README: Final = ROOT / "README.md"
SETTINGS: Final = ROOT / "docs/settings.md"
MOST_USED: Final = (
    "EXOSCALE_API_KEY",
    "EXOSCALE_ZONE",
    "EXOSCALE_INSTANCE_NAME",
    "EXOSCALE_INSTANCE_TYPE",
    "EXOSCALE_OLLAMA_MODEL",
    "EXOSCALE_IDLE_TIMEOUT",
    "EXOSCALE_MAX_LIFETIME",
    "EXOSCALE_REAP_ACTION",
    "EXOSCALE_ALLOWED_CIDRS",
    "EXOSCALE_MAX_HOURLY_COST",
)
"""The settings of docs/settings.md that README.md shows, too."""


def helps() -> str:
    """The help text of the command and of each of its verbs, as Markdown."""
    os.environ["COLUMNS"] = "100"  # argparse wraps to the terminal's width
    blocks = [_block("exollama", overview())]
    # What every verb's help ends with stands once, in the first block.
    for verb in VERBS:
        text = parser(f"exollama {verb}", verb).format_help()
        blocks.append(f"### {verb}\n\n" + _block(f"exollama {verb}", text.partition("\n\nSettings are")[0]))
    return "\n".join(blocks)


def _block(prog: str, text: str) -> str:
    return f"```\n$ {prog} --help\n{text.rstrip()}\n```\n"


def settings() -> str:
    """The most used rows of docs/settings.md's table, their links as from the top."""
    text = re.sub(r"\]\((?=[a-z-]+\.md)", "](docs/", SETTINGS.read_text(encoding="utf-8"))
    rows = re.findall(r"^\| .*$", text, re.MULTILINE)
    chosen = [next(row for row in rows if row.startswith(f"| `{name}`")) for name in MOST_USED]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *chosen]) + "\n"


def priced() -> str:
    """About what the usual types cost."""
    disk_gib = Settings("", Secret("")).disk_gib
    fits = "standard.large"  # README's "what the default model takes"; tests/unit/test_plan.py holds that
    costs_of = {name: prices.hourly_cost(name, disk_gib) for name in ("standard.medium", fits, "standard.extra-large")}
    shown = [
        f"{name} {cost:.3f}{' (what the default model takes)' * (name == fits)}" for name, cost in costs_of.items()
    ]
    disk = prices.disk_hourly_cost(disk_gib)
    text = (
        f"About, as of {prices.listed()['as_of']}, per hour, the same figure in {prices.CURRENCIES}, {disk_gib} GiB of "
        f"disk ({disk:.3f}) included: {', '.join(shown)}."
    )
    return textwrap.fill(text, 150) + "\n"


def costs() -> str | None:
    """What tests/costs.py works out from the prices; None leaves what stands there, where that module is missing."""
    if importlib.util.find_spec("tests.costs") is None:
        return None
    made: str = importlib.import_module("tests.costs").table()
    return made.rstrip("\n") + "\n"


PARTS: Final[dict[str, tuple[Path, Callable[[], str | None]]]] = {
    "settings": (README, settings),
    "prices": (README, priced),
    "costs": (README, costs),
    "help": (ROOT / "docs/cli.md", helps),
    "api": (ROOT / "docs/api.md", reference),
    "unproven": (ROOT / "docs/unproven.md", unproven.table),
}


def generated(name: str) -> tuple[str, str]:
    """The text of the file that has this part, as it is and as it should be."""
    path, make = PARTS[name]
    text = path.read_text(encoding="utf-8")
    marked = re.compile(rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    if len(marked.findall(text)) != 1:
        raise ValueError(f"{path.name} has to have the markers of {name} once")
    made = make()
    return text, text if made is None else marked.sub(lambda part: f"{part[1]}{made}{part[2]}", text)


if __name__ == "__main__":
    for part, (file, _) in PARTS.items():
        file.write_text(generated(part)[1], encoding="utf-8")
