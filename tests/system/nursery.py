"""Processes that run one verb each, forked from one that has imported everything: hundreds can be killed in no time.

    python -m tests.simulator.timeshift OFFSETFILE -m tests.system.nursery

A line of JSON on stdin, {"argv": [...], "env": {...}}, starts one; a line on stdout says its process id, the next its
exit status (negative for a signal), the last what it wrote, as JSON. Neighbour: test_kills_everywhere.py.
"""

import json
import os
import sys
import tempfile
from typing import IO, Any

from client import cli, verbs
from functions import provision, reap_idle, status, stop

import urllib3  # noqa: F401 isort: skip - what a child would import later

FUNCTIONS = (provision, reap_idle, status, stop, verbs)


def main() -> None:
    """Serve until the end of stdin."""
    for line in sys.stdin:
        order = json.loads(line)
        with tempfile.TemporaryFile("w+") as output:
            child = os.fork()
            if child == 0:
                live(order, output)
            say(child)
            _, status_ = os.waitpid(child, 0)
            say(os.waitstatus_to_exitcode(status_))
            output.seek(0)
            say(output.read())


def live(order: dict[str, Any], output: IO[str]) -> None:
    """Run the verb, and end."""
    os.environ.update(order["env"])
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    sys.stdin = open(os.devnull)  # noqa: SIM115 - for as long as the process lives
    code = cli.main(order["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
