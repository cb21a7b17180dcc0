"""`python -m tests.upgrades COMMIT`: record what that version's provision makes of a simulated zone of its time.

The commit is unpacked into a temporary directory and its own code runs there; what its create call sent becomes
tests/upgrades/COMMIT.json, and tests/system/test_upgrades.py takes it up by itself. Key and nonce are that run's own.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.upgrades import FOLDER

LIFETIME_S = 10 * 365 * 86400
"""The deadline is recorded with the rest, and has to lie ahead for as long as the tests are run."""
THEN = f"""
import json
from client import __version__
from client.settings import Settings
from functions import provision
from tests.simulator import Simulator

with Simulator(machines=False, operation_s=0.01, start_s=0.0) as simulator:
    settings = Settings.from_env({{**simulator.env, "EXOSCALE_MAX_LIFETIME": "{LIFETIME_S}"}})
    provision.run(settings, wait=False)
    seen = simulator.instance()
    zone = simulator.zones[seen.zone]
    kind = zone.types[zone.instances[seen.id].type_id]
    print(json.dumps({{
        "version": __version__,
        "name": seen.name,
        "template": zone.templates[zone.instances[seen.id].template_id]["name"],
        "type": f"{{kind['family']}}.{{kind['size']}}",
        "labels": seen.labels,
        "user_data": seen.user_data,
    }}))
"""


def record(commit: str) -> Path:
    """Record one version, and return the file. Raises CalledProcessError where git or that version's code fails."""
    full = _git("rev-parse", "--verify", f"{commit}^{{commit}}").decode().strip()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EXO", "PYTHON"))}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["tar", "-x", "-C", folder], input=_git("archive", full), check=True)
        command = [sys.executable, "-B", "-c", THEN]
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=True
        )
    path = FOLDER / f"{full[:7]}.json"
    path.write_text(json.dumps({"commit": full, **json.loads(done.stdout)}, indent=1) + "\n", "utf-8")
    return path


def _git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(FOLDER.parents[1]), *words], stdout=subprocess.PIPE, check=True).stdout


if __name__ == "__main__":
    for one in sys.argv[1:] or sys.exit("usage: python -m tests.upgrades COMMIT ..."):
        print(record(one).name)
