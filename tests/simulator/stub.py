"""What the instance's programs find on their PATH: each command asks the simulator what it prints and how it ends.

Run as `stub.py SOCKET MACHINE NAME [ARGUMENT ...]`, some thirty times per boot, so it imports next to nothing: the
modules `socket` and `json` take as long as Python itself to begin. The question is a Python literal in one line; the
answer, a line with the exit status and the length of what goes to standard output, then that, then standard error's.
"""

import sys
from _socket import AF_UNIX
from _socket import socket as Socket  # noqa: N812 - a class in lower case


def main() -> int:
    path, machine, name, *arguments = sys.argv[1:]
    given = "" if sys.stdin.isatty() else sys.stdin.buffer.read().decode("latin-1")
    link = Socket(AF_UNIX)
    link.connect(path)
    link.sendall(ascii((int(machine), [name.rpartition("/")[2], *arguments], given)).encode() + b"\n")
    raw = b""
    while data := link.recv(1 << 16):
        raw += data
    link.close()
    if not raw:  # the machine was switched off meanwhile
        return 137
    head, _, said = raw.partition(b"\n")
    code, size = map(int, head.split())
    sys.stdout.buffer.write(said[:size])
    sys.stderr.buffer.write(said[size:])
    return code


if __name__ == "__main__":
    sys.exit(main())
