"""An Exoscale cloud on this machine: the API over HTTP, and instances that run the user-data they were given.

    with Simulator() as simulator:
        environment = simulator.env

What is real: HTTP, signatures, the OpenAPI document, the user-data's nginx.conf under nginx, its agent and its
bootstrap. What is played: systemd, apt, Docker and the like (commands.py, services.py), and Ollama (tests/stand_in).
`python -m tests.simulator --help` says how to use it by hand.
"""

from tests.simulator.commands import PHASES, BootPlan
from tests.simulator.faults import ALWAYS
from tests.simulator.records import Call, Options
from tests.simulator.simulator import Seen, Simulator

__all__ = ["ALWAYS", "PHASES", "BootPlan", "Call", "Options", "Seen", "Simulator"]
