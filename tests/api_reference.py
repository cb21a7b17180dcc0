"""The API reference of docs/api.md, from the signatures and docstrings in the source.

Read as syntax, without importing anything, so that it is the same for every Python. Neighbours: `tests.readme` puts it
where it belongs, `tests/unit/test_docs_generated.py` checks that it is current.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SEAMS: Final = frozenset({"send", "clock", "sleep", "monotonic"})
"""Keywords by which tests bring their own network and time; left out."""

# What each heading shows: a function, or a class with these of its methods (None: all public ones).
PUBLIC: Final[dict[str, tuple[tuple[str, str, tuple[str, ...] | None], ...]]] = {
    "Settings": (("client/settings.py", "Settings", ("from_env",)), ("client/settings.py", "Secret", None)),
    "A forwarder beside your code": (("client/running.py", "forward", None),),
    "One prompt, without a forwarder": (("client/session.py", "Session", ("__init__", "ready", "generate")),),
    "The functions": (
        ("functions/provision.py", "run", None),
        ("functions/reap_idle.py", "run", None),
        ("functions/stop.py", "run", None),
        ("functions/status.py", "run", None),
        ("functions/doctor.py", "run", None),
    ),
    "Behind a FaaS": tuple(
        ("functions/faas.py", name, None)
        for name in ("handle", "invoke", "wsgi", "asgi", "google", "openfaas", "azure", "azure_timer")
    ),
    "The original's class": (("functions/adapter.py", "ExoscaleOllamaAdapter", None),),
}
SHOWN_AS: Final = {"client.running.forward": "client.forward"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def reference() -> str:
    """Every public name with its signature and docstring, and the errors, as Markdown."""
    parts = []
    for heading, names in PUBLIC.items():
        parts += [f"### {heading}\n", *(_entry(*name) for name in names)]
    return "\n".join([*parts, "### Errors\n", _errors()])


def _entry(path: str, name: str, methods: tuple[str, ...] | None) -> str:
    tree = _tree(path)
    module = path.removesuffix(".py").replace("/", ".")
    shown = SHOWN_AS.get(f"{module}.{name}", f"{module}.{name}")
    found = next(node for node in tree.body if isinstance(node, Function | ast.ClassDef) and node.name == name)
    if isinstance(found, Function):
        return _function(shown, found)
    members = [node for node in found.body if isinstance(node, Function)]
    start = next((node for node in members if node.name == "__init__"), None)
    told = [
        node
        for node in members
        if (node.name in methods if methods else not node.name.startswith("_")) and node.name != "__init__"
    ]
    title = f"#### `{shown}`\n\n"
    if start:
        title += f"```py\n{_signature(name, start, method=True, returns=False)}\n```\n\n"
    body = [_function(node.name, node, level=5, method=True) for node in told]
    return "\n".join([f"{title}{ast.get_docstring(found) or ''}\n", *body])


def _function(shown: str, node: Function, *, level: int = 4, method: bool = False) -> str:
    words = ast.get_docstring(node) or ""
    signature = _signature(node.name, node, method=method)
    return f"{'#' * level} `{shown}`\n\n```py\n{signature}\n```\n\n{words}\n"


def _signature(name: str, node: Function, *, method: bool = False, returns: bool = True) -> str:
    decorators = {ast.unparse(one) for one in node.decorator_list}
    bound = method and "staticmethod" not in decorators
    arguments = list(_arguments(node.args, bound=bound))
    after = f" -> {ast.unparse(node.returns)}" if returns and node.returns else ""
    decorators_shown = "".join(f"@{ast.unparse(one)}\n" for one in node.decorator_list)
    lead = "async def " if isinstance(node, ast.AsyncFunctionDef) else "def " if returns else ""
    lead = decorators_shown + lead
    line = f"{lead}{name}({', '.join(arguments)}){after}"
    if max(map(len, line.splitlines())) <= 100:
        return line
    return "\n".join([f"{lead}{name}(", *(f"    {one}," for one in arguments), f"){after}"])


def _arguments(args: ast.arguments, *, bound: bool) -> Iterator[str]:
    """The arguments but for `self` and the seams."""
    plain = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    yield from (_argument(*one) for one in list(zip(plain, defaults, strict=True))[bound:])
    keywords = [
        _argument(*one) for one in zip(args.kwonlyargs, args.kw_defaults, strict=True) if one[0].arg not in SEAMS
    ]
    if args.vararg:
        yield f"*{args.vararg.arg}"
    elif keywords:
        yield "*"
    yield from keywords
    if args.kwarg:
        yield f"**{args.kwarg.arg}"


def _argument(one: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(one.annotation)}" if one.annotation else ""
    equals = "" if default is None else f" = {ast.unparse(default)}" if kind else f"={ast.unparse(default)}"
    return f"{one.arg}{kind}{equals}"


def _errors() -> str:
    """The tree of `client.errors` as a table, with the exit code of each."""
    codes: dict[str, str] = {}
    rows = ["| error | is a | exit code | says |", "|---|---|---|---|"]
    for node in _tree("client/errors.py").body:
        if isinstance(node, ast.ClassDef):
            base = ast.unparse(node.bases[0])
            own = (one.value for one in node.body if isinstance(one, ast.Assign) and _names(one) == ["exit_code"])
            codes[node.name] = next(map(ast.unparse, own), codes.get(base, ""))
            says = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
            rows.append(f"| `{node.name}` | `{base}` | {codes[node.name]} | {says.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def _names(assignment: ast.Assign) -> list[str]:
    return [ast.unparse(target) for target in assignment.targets]


def _tree(path: str) -> ast.Module:
    """A module in which constants, its own and those it imports from this project, stand as themselves as defaults."""
    tree = _parsed(path)
    constants = _constants(tree)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("client.", "functions.")):
            theirs = _constants(_parsed(f"{str(node.module).replace('.', '/')}.py"))
            constants |= {one.name: theirs[one.name] for one in node.names if one.name in theirs}
    for part in ast.walk(tree):
        if isinstance(part, ast.arguments):
            part.kw_defaults = [one and constants.get(ast.unparse(one), one) for one in part.kw_defaults]
            part.defaults = [constants.get(ast.unparse(one), one) for one in part.defaults]
    return tree


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            found |= dict.fromkeys(_names(node), node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant):
            found[ast.unparse(node.target)] = node.value
    return found


def _parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))
