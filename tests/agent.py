"""cloudinit/'s programs as modules: they are data to the rest of the project, and no package holds them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[1] / "cloudinit"


def load(name: str = "agent") -> ModuleType:
    """A fresh copy of one."""
    spec = importlib.util.spec_from_file_location(f"cloudinit_{name}", FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
