"""What every runtime's process begins with: the simulator's clock, and nothing but the bundle of ours to import.

Python imports this by itself where its folder is on the path. The tests' environment has a urllib3 beside the
runtimes, as a platform would not: out of it and of the checkout nothing of the bundle's is taken. Where each was found
is noted, for the tests to read. Standard library only.
"""

import os
import runpy
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

BUNDLED = frozenset({"client", "function", "functions", "urllib3"})


class Bundled:
    """Finds what the bundle brings where the platform puts the bundle, never among what is installed."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in BUNDLED:
            return None
        spec = PathFinder.find_spec(name, [entry for entry in sys.path if "site-packages" not in entry])
        if spec is None:
            raise ModuleNotFoundError(f"the bundle's {name} is not on the path: {sys.path}", name=name)
        with open(os.environ["EXOLLAMA_TEST_ORIGINS"], "a", encoding="utf-8") as origins:
            origins.write(f"{name} {spec.origin}\n")
        return spec


if "EXOLLAMA_TEST_ORIGINS" in os.environ:
    timeshift = runpy.run_path(os.environ["EXOLLAMA_TEST_TIMESHIFT"])
    timeshift["install"](os.environ["EXOLLAMA_TEST_OFFSET"])
    timeshift["settle"]()
    sys.meta_path.insert(0, Bundled)
