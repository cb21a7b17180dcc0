"""An Exoscale cloud on this machine: the API over HTTP, and instances that run the user-data they were given.

    with Simulator() as simulator:
        environment = simulator.env

What is real: HTTP, signatures, the OpenAPI document, the user-data's nginx.conf under nginx, its agent and its
bootstrap. What is played: systemd, apt, Docker and the like (commands.py, services.py), and Ollama (tests/stand_in).
`python -m tests.simulator --help` says how to use it by hand. What stands here is imported when it is first used, since
timeshift.py, in the same package, begins each verb that a test runs as a process, and needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulator.commands import PHASES, BootPlan
    from tests.simulator.faults import ALWAYS
    from tests.simulator.records import Call, Options
    from tests.simulator.simulator import Seen, Simulator

__all__ = ["ALWAYS", "PHASES", "BootPlan", "Call", "Options", "Seen", "Simulator"]

_PLACES = {
    "commands": {"PHASES", "BootPlan"},
    "faults": {"ALWAYS"},
    "records": {"Call", "Options"},
    "simulator": {"Seen", "Simulator"},
}


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"tests.simulator.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
