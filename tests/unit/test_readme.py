"""README.md and docs/ say what the code does: generated parts, settings, exit codes, messages, verbs and paths."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import cli
from client.boot import REACH_S
from client.settings import Settings
from tests.fakes import settings_read
from tests.readme import PARTS, README, ROOT, SETTINGS, generated

CLI = ROOT / "docs/cli.md"
TABLE = SETTINGS.read_text(encoding="utf-8")
FIRST = TABLE.partition("\n## ")[0]
ROWS = dict(re.findall(r"^\| `(EXOSCALE_[A-Z_]+)`[^|]*\| ([^|]+) \|", FIRST, re.MULTILINE))
REQUIRED = {"EXOSCALE_API_KEY": "EXOexample", "EXOSCALE_API_SECRET": "example-secret"}
PAGES = sorted([README, *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")])


@pytest.mark.parametrize("part", PARTS)
def test_a_generated_part_is_that_of_the_code(part: str) -> None:
    text, should_be = generated(part)
    assert should_be.split() == text.split(), "run: python -m tests.readme"


# -- settings and exit codes


def test_every_setting_that_is_read_stands_in_the_table_and_no_other() -> None:
    asked = settings_read()
    documented = set(re.findall(r"`((?:EXOSCALE|GARUDA)_[A-Z_]+)`", TABLE))
    assert asked - documented == {"EXOLLAMA_KEY_MARK"}, "no setting: provision hands it out"
    assert documented <= asked


def test_every_variable_of_our_own_that_the_code_names_is_explained_with_the_settings_and_no_other() -> None:
    files = [path for folder in ("client", "functions") for path in (ROOT / folder).glob("*.py")]
    named = {name for path in files for name in re.findall(r"\bEXOLLAMA_[A-Z_]+\b", path.read_text(encoding="utf-8"))}
    assert set(re.findall(r"`(EXOLLAMA_[A-Z_]+)`", TABLE)) == named


@pytest.mark.parametrize("variable", sorted(ROWS))
def test_a_default_in_the_table_is_the_default(variable: str) -> None:
    default = ROWS[variable].strip("`")
    if default in ("required", "every zone", "smallest that fits", "generated", "none"):
        return
    assert Settings.from_env({**REQUIRED, variable: default}) == Settings.from_env(REQUIRED)


def test_the_floor_under_the_boot_timeout_stands_beside_it() -> None:
    [row] = re.findall(r"^\| `EXOSCALE_BOOT_TIMEOUT`.*$", FIRST, re.MULTILINE)
    assert f"{REACH_S:.0f} seconds at least" in row


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "130, 143"])
def test_the_exit_codes_of_help_and_documentation_are_the_same(code: str) -> None:
    assert re.search(rf"^  {code}  ", cli.EXIT_CODES, re.MULTILINE)
    assert f"| {code} | " in CLI.read_text(encoding="utf-8")


# -- messages


def messages(*folders: str) -> str:
    """Every text in the sources but docstrings, one a line, with … for what is filled in."""
    found = []
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in docstrings:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = (str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
                found.append(node.value if isinstance(node.value, str) else node.value.decode("latin-1"))
    return "\n".join(" ".join(one.split()) for one in found)


SCRIPT = re.sub(r"\$\{[^}]*\}", "…", (ROOT / "client/page.js").read_text(encoding="utf-8"))
OURS = f"{messages('client', 'functions', 'cloudinit')}\n{SCRIPT}"
THEIRS = {  # Exoscale's own words, which the simulator says after it
    "Invalid request signature": messages("tests/simulator"),
    "Forbidden by role policy": messages("tests/simulator"),
}
COMPUTED = {
    # What is printed, and what the source has of it.
    "EXOSCALE_API_KEY is not set": "… is not set: make a key",
    "127.0.0.1:11434 is taken": "… is taken",
    "kept … in use: …": "in use: …",
}


def quoted(path: Path) -> Iterator[str]:
    """The phrases in the first column of tables that begin with `you see`."""
    table = False
    for line in path.read_text(encoding="utf-8").splitlines():
        table = line.startswith("| you see |") or (table and line.startswith("|"))
        first = line.split("|")[1].strip() if table else ""
        if first.startswith("`") and first.endswith("`") and first.count("`") == 2:
            yield first.strip("`")


def said(phrase: str, texts: str) -> bool:
    """Whether a text has this phrase; … stands for anything, on either side."""
    pattern = r"[^\n]*".join(re.escape(part.strip()) for part in phrase.split("…"))
    return re.search(pattern, texts) is not None


PHRASES = [(path.name, phrase) for path in (README, ROOT / "docs/troubleshooting.md") for phrase in quoted(path)]


@pytest.mark.parametrize(("page", "phrase"), PHRASES)
def test_a_message_that_troubleshooting_quotes_is_one_of_the_code(page: str, phrase: str) -> None:
    assert said(COMPUTED.get(phrase, phrase), THEIRS.get(phrase, OURS)), f"{page} quotes what nothing says"


def test_phrases_are_found_in_both_tables_and_none_that_nothing_says() -> None:
    assert {page for page, _ in PHRASES} == {"README.md", "troubleshooting.md"}
    assert len(PHRASES) > 60
    assert {*THEIRS, *COMPUTED} <= {phrase for _, phrase in PHRASES}
    assert not said("The moon is … made of cheese", OURS)


def test_readme_quotes_no_symptom_that_the_longer_page_lacks() -> None:
    longer = set(quoted(ROOT / "docs/troubleshooting.md"))
    assert set(quoted(README)) <= longer


# -- verbs, flags and paths


def typed() -> set[tuple[str, str]]:
    """Every `exollama VERB …` in a page, with the page's name."""
    words = r"[a-z]+(?: +(?:--[a-z-]+|-(?=\W)|\"[^\"]*\"|[a-z]+(?=[ `])))*"
    pattern = rf"(?:exollama|garuda-exoscale|python -m client) +({words})"
    found = set()
    for path in PAGES:
        text = re.sub(
            r"<!-- (help|api): begin -->.*?<!-- \1: end -->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        code = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
        found |= {(path.relative_to(ROOT).as_posix(), words) for one in code for words in re.findall(pattern, one)}
    return found


TYPED = sorted(typed())


def flags(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}


@pytest.mark.parametrize(("page", "words"), TYPED)
def test_a_command_that_a_page_shows_has_a_verb_and_flags_that_there_are(page: str, words: str) -> None:
    verb, *rest = words.split()
    verb = cli.ALIASES.get(verb, verb)
    assert verb in cli.VERBS, page
    assert {word for word in rest if word.startswith("--")} <= flags(cli.parser("exollama", verb)), page


def test_every_verb_is_shown_somewhere_beside_its_help() -> None:
    assert {words.split()[0] for _, words in TYPED} >= set(cli.VERBS)


def test_every_metric_that_a_page_names_is_one_of_the_code() -> None:
    named = {name for path in PAGES for name in re.findall(r"\bexollama(_[a-z_]+)\b", path.read_text(encoding="utf-8"))}
    assert {"_state", "_instance_overdue"} <= named
    whole = set(OURS.splitlines())
    for name in named:  # either as it is, or put together of its family's beginning and what differs
        assert {f"exollama{name}", name.removeprefix("_instance_"), name.removeprefix("_")} & whole, name


def test_every_path_of_the_agent_stands_in_the_api_reference_and_no_other() -> None:
    tree = ast.parse((ROOT / "cloudinit/agent.py").read_text(encoding="utf-8"))
    [routes] = [
        node.value for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ROUTES"
    ]
    assert isinstance(routes, ast.Dict)
    served = set()
    for path, methods in zip(routes.keys, routes.values, strict=True):
        assert isinstance(path, ast.Constant)
        assert isinstance(methods, ast.Dict)
        names = [ast.literal_eval(method) for method in methods.keys if method]
        served |= {f"{name} /.exollama/{str(path.value).replace('([^/]+)', 'OWNER')}" for name in names}
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    section = text.partition("## HTTP: the instance")[2].partition("\n## ")[0]
    assert set(re.findall(r"`((?:GET|POST|PUT|DELETE) /[^`]+)`", section)) == served
