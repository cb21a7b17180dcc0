"""A program that has an adapter, run as a process by tests/system/test_adapter_ends.py; its arguments say what it does.

`waits` until it is ended, or `returns`. Before: `boots` has another thread bring the instance up; `handles` SIGTERM
itself, by exiting with 7; `forks` a child that waits for a signal, and one that exits; `hits` a child with a signal
within the fork. It says a line for each step.
"""

import os
import signal
import sys
import threading
from typing import NoReturn

from functions import ExoscaleOllamaAdapter


def say(*words: object) -> None:
    print(*words, flush=True)


def wait() -> None:
    for _ in range(120):  # a signal that comes just before one of these begins is heard at its end
        threading.Event().wait(0.5)  # sleeps are cut


def exit_7(*_: object) -> NoReturn:
    sys.exit(7)


def child(adapter: ExoscaleOllamaAdapter, *, waits: bool) -> int:
    """Fork, and return how the child ended. It has its parent's adapter, and may use it."""
    ready, told = os.pipe()
    if pid := os.fork():
        if waits:
            os.read(ready, 1)  # a signal that comes within the fork is forgotten
            os.kill(pid, signal.SIGTERM)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if waits:
        os.write(told, b".")
        wait()
    assert adapter.proxy_request({"model": "granite3.1-dense:8b", "prompt": "why?"})
    adapter.shutdown()
    sys.exit(5)


def main(what: list[str]) -> None:
    if "handles" in what:
        signal.signal(signal.SIGTERM, exit_7)
    if "hits" in what:  # before the adapter hears of the fork, since it comes later
        os.register_at_fork(after_in_child=lambda: signal.raise_signal(signal.SIGTERM))
    adapter = ExoscaleOllamaAdapter.from_env()
    adapter.start_idle_monitor()
    if "boots" in what:
        threading.Thread(target=adapter.ensure_instance, daemon=True).start()
    else:
        say("url", adapter.ensure_instance())
    if "forks" in what:
        say("children", child(adapter, waits=False), child(adapter, waits=True))
    if "hits" in what:
        say("child", child(adapter, waits=False))
    say("waits")
    if "waits" in what:
        wait()


if __name__ == "__main__":
    main(sys.argv[1:])
