"""Programs are sent without what is only there to be read: whatever they look like, they do the same."""

import ast
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.userdata import bare

PROGRAMS = sorted((Path(__file__).parents[2] / "cloudinit").glob("*.py"))


def undocumented(source: str) -> str:
    """What a program does, as text; nothing of it stands in a string that is only there to be read."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body: Any = getattr(node, "body", None)
        several = isinstance(body, list) and len(body) > 1
        if several and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del body[0]
    return ast.dump(tree)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_a_program_is_sent_without_comments_and_docstrings_and_does_the_same(program: Path) -> None:
    source = program.read_text()
    short = bare(source)
    assert len(short) < len(source) * 0.95
    assert undocumented(short) == undocumented(source)


def test_what_only_looks_like_a_comment_or_a_docstring_is_left() -> None:
    text = 'A = """\n# one\n\n"""  # of two\n\n# gone\nclass B(Exception):\n    """C"""\n\n\nD = 1\n'
    assert bare(text) == 'A = """\n# one\n\n"""  # of two\nclass B(Exception):\n    """C"""\nD = 1\n'


DOCSTRINGS = [
    "",
    '"d"\n',
    '"d"  # c\n',
    '"d"; x\n',
    '"d" \\\n\n',
    '"""d\n# d\n\n"""\n',
    "\"\"\"d\n\"\"\"; x = '''\n# a'''\n",
    '("d"\n# c\n)\n',
    "# c\n\n'd'\n",
]
STATEMENTS = [
    "x = 1\n",
    "x = (\n'''a\n# b'''\n)\n",
    "x = ['''a\n\n#''' \n# c\n\n, 1]\n",
    "x = '''\n# a\n\n'''  # c\n",
    "x = 1 + \\\n2\n",
    "x = 1 \\\n\n",
    "x = f'''{1}\n# a\n\n'''\n",
    "x = '\x0c', '\x1c'\n",
    "# c\n",
    "\n",
    "    # c\n",
    "pass; x = '#'\n",
    "if x: pass  # c\n",
]
HEADS = ["class A:", "def f():", "async def f(\n# c\n\n):", "@d\n# c\n\nclass A(B):", "if x:"]
ONE_LINE = ["x\n", '"d"\n', '"d"; x\n', '"d"; \\\n x\n', '\\\n "d"; x\n', '\\\n "d"; \\\n x\n']


def indented(text: str) -> str:
    """One level deeper; what lies in strings as well."""
    return "".join(f"    {line}\n" if line else "\n" for line in text[:-1].split("\n"))


def bodies(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("{}{}x\n".format, st.sampled_from(DOCSTRINGS), st.lists(inner, max_size=4).map("".join))


def blocks(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    heads = st.sampled_from(HEADS)
    deep = st.builds("{}\n{}".format, heads, bodies(inner).map(indented))
    return deep | st.builds("{} {}".format, heads, st.sampled_from(ONE_LINE))


@given(bodies(st.recursive(st.sampled_from(STATEMENTS), blocks, max_leaves=6)))
def test_whatever_a_program_looks_like_it_does_the_same(source: str) -> None:
    assert undocumented(bare(source)) == undocumented(source)
