"""What tests ask of the machine that they run on: a port that nobody else is given, and how a process is."""

import socket
from pathlib import Path


def hold_port(host: str = "127.0.0.1") -> socket.socket:
    """A socket bound to a free port: while it is open nobody is given that one, and whoever means it can listen."""
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, 0))
    return held


def process_state(pid: int) -> str:
    """As the kernel has it: R, S for one that waits, T for one that stands still, Z for one that has ended.

    Raises OSError where there is no such process any more.
    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return process_state(pid) != "Z"
    except OSError:
        return False
