"""cloudinit/agent.py as a module: it is data to the rest of the project, and no package holds it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SOURCE = Path(__file__).parents[1] / "cloudinit/agent.py"


def load() -> ModuleType:
    """A fresh copy of it."""
    spec = importlib.util.spec_from_file_location("cloudinit_agent", SOURCE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
