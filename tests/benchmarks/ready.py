"""How long after an instance was ready does provision hand it out? On the simulator, in seconds."""

import json
import time
from pathlib import Path

from client.settings import Settings
from functions import provision
from tests.simulator import Simulator

AT_MOST_S = 1.0


def lags(rounds: int) -> list[float]:
    """From the moment the bootstrap noted `ready` to provision's return, for `rounds` fresh instances, sorted."""
    measured = []
    with Simulator(zones=("ch-gva-2",)) as simulator:
        for turn in range(rounds):
            # Boots of different lengths, so that polling meets readiness at every phase of its pause.
            simulator.boot(delay_s=0.11 * (turn % 5))
            settings = Settings.from_env({**simulator.env, "EXOSCALE_INSTANCE_NAME": f"ready-{turn}"})
            made = provision.run(settings)
            returned = time.clock_gettime(time.CLOCK_BOOTTIME)
            (seen,) = (one for one in simulator.instances() if one.id == made["id"])
            boot = json.loads((Path(seen.root or "") / "run/exollama/boot.json").read_text())
            measured.append(returned - boot["phase_started"])
            simulator.remove(made["id"])
    return sorted(measured)
