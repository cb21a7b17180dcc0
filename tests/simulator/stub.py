"""What the instance's programs find on their PATH: each command asks the simulator what it prints and how it ends.

Run as `stub.py SOCKET MACHINE NAME [ARGUMENT ...]`. Standard library only; imports as little as it can.
"""

import json
import os
import socket
import sys


def main() -> int:
    path, machine, name, *arguments = sys.argv[1:]
    given = "" if os.isatty(0) else sys.stdin.buffer.read().decode("latin-1")
    question = {"machine": int(machine), "argv": [os.path.basename(name), *arguments], "stdin": given}
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        link.sendall(json.dumps(question).encode() + b"\n")
        raw = b""
        while data := link.recv(1 << 16):
            raw += data
    if not raw:  # the machine was switched off meanwhile
        return 137
    answer = json.loads(raw)
    sys.stdout.write(answer["out"])
    sys.stderr.write(answer["err"])
    return int(answer["code"])


if __name__ == "__main__":
    sys.exit(main())
