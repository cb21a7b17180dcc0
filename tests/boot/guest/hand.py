"""Runs what the test asks for on the second serial port, a JSON list a line, and answers `[status, output]`.

Part of the test's disk image, not of what an instance of the project has.
"""

import json
import os
import subprocess
import termios
import tty

port = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
tty.setraw(port, termios.TCSANOW)
with open(port, "r+b", buffering=0) as line:
    received = b""
    while piece := line.read(4096):
        *whole, received = (received + piece).split(b"\n")
        for asked in whole:
            try:
                done = subprocess.run(
                    json.loads(asked),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=300,
                    check=False,
                )
                answer = [done.returncode, done.stdout.decode(errors="replace")]
            except (OSError, ValueError, subprocess.TimeoutExpired) as error:
                answer = [-1, repr(error)]
            sent = json.dumps(answer).encode() + b"\n"
            while sent:
                sent = sent[line.write(sent) or 0 :]
