"""Imports go tests, functions, client, standard library, never back; and start-up stays cheap."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STANDARD = sys.stdlib_module_names
LAZY = {
    "client/cli.py",
    "client/serve.py",
    "client/use.py",
    "client/verbs.py",
}  # may reach functions/, inside a function
TOGETHER = {  # they lie in one folder
    ("cloudinit/agent.py", "rules"),
    *(("cloudinit/bootstrap.py", name) for name in ("commands", "door", "gpu")),
    *(("cloudinit/gpu.py", name) for name in ("bootstrap", "commands")),
}
CHEAP = {"__future__", "collections.abc"}  # beside argparse; each addition is a decision


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """Yield each imported module's full name and whether it is imported inside a function.

    What stands under `if TYPE_CHECKING:` is imported too, as far as the layers are concerned.
    """

    def visit(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level) + (node.module or ""), lazy
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "import_module",
            "importlib.import_module",
        }:
            literal = node.args[0]
            yield str(literal.value) if isinstance(literal, ast.Constant) else ast.unparse(literal), lazy
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(source), False)


def violations(path: str, source: str) -> list[str]:
    """Name the imports of the file at `path` (relative to the checkout) that its layer does not admit."""
    layer = path.split("/", 1)[0]
    found = []
    for name, lazy in imports(source):
        top = name.split(".", 1)[0]
        allowed = (
            top in STANDARD
            or (top == layer and layer != "cloudinit")
            or (name.startswith(".") and layer != "cloudinit")
            or (layer == "client" and top == "functions" and lazy and path in LAZY)
            or (layer == "functions" and top == "client")
            or (layer == "functions" and top == "urllib3" and lazy and path == "functions/transport.py")
            or (path, name) in TOGETHER
            or layer == "tests"
        )
        if not allowed:
            found.append(f"{path}: {name}{' (inside a function)' if lazy else ''}")
    return found


def sources(layer: str) -> list[Path]:
    return sorted(path for path in (ROOT / layer).rglob("*.py") if "__pycache__" not in path.parts)


@pytest.mark.parametrize("layer", ["client", "functions", "cloudinit"])
def test_no_file_imports_what_its_layer_may_not(layer: str) -> None:
    files = sources(layer)
    assert files
    found = [
        violation for path in files for violation in violations(path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert not found


@pytest.mark.parametrize(
    ("path", "source", "allowed"),
    [
        ("client/api.py", "import json\nfrom client import labels", True),
        ("client/api.py", "import urllib3", False),
        ("client/api.py", "from functions import reap_idle", False),
        ("client/api.py", "def f():\n    import functions.reap_idle", False),
        ("client/api.py", "import importlib\nimportlib.import_module('functions.reap_idle')", False),
        ("client/cli.py", "def f():\n    from functions import reap_idle", True),
        ("client/cli.py", "from functions import reap_idle", False),
        ("client/cli.py", "if TYPE_CHECKING:\n    from functions import reap_idle", False),
        ("functions/reap_idle.py", "from client.api import Api\nfrom functions import policy", True),
        ("functions/reap_idle.py", "def f():\n    import urllib3", False),
        ("functions/transport.py", "def f():\n    import urllib3", True),
        ("functions/transport.py", "import urllib3", False),
        ("functions/policy.py", "from tests import simulator", False),
        ("cloudinit/agent.py", "import http.server", True),
        ("cloudinit/agent.py", "from client import labels", False),
        ("cloudinit/agent.py", "from . import bootstrap", False),
    ],
)
def test_the_rules_tell_right_from_wrong(path: str, source: str, allowed: bool) -> None:
    assert (violations(path, source) == []) is allowed


@pytest.mark.parametrize("layer", ["client", "functions"])
def test_both_packages_are_marked_as_typed(layer: str) -> None:
    assert (ROOT / layer / "py.typed").is_file()
    assert (ROOT / layer / "__init__.py").is_file()


def test_what_runs_on_the_instance_is_no_package() -> None:
    assert not (ROOT / "cloudinit" / "__init__.py").exists()


def test_help_needs_no_site_packages() -> None:
    run = subprocess.run(
        [sys.executable, "-S", "-m", "client", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "generate" in run.stdout


def modules_after(code: str) -> set[str]:
    """Run `code` in a bare interpreter and return the names of the modules that it leaves loaded."""
    report = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
    command = [sys.executable, "-S", "-c", report + code]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stderr.split())


@pytest.mark.parametrize(
    ("code", "baseline"),
    [
        ("import client.cli", "import argparse"),
        (
            "import client.cli; client.cli.main(['--help'])",
            "import argparse; argparse.ArgumentParser().parse_args(['--help'])",
        ),
    ],
)
def test_the_command_line_costs_argparse_only(code: str, baseline: str) -> None:
    extra = modules_after(code) - modules_after(baseline)
    assert {name for name in extra if name.split(".")[0] != "client"} <= CHEAP


def test_the_functions_import_without_urllib3() -> None:
    assert "urllib3" not in modules_after("import functions.reap_idle, functions.provision, functions.status")
