"""`status --watch`: look again and again; redrawn on a terminal, in a pipe one block or JSON line after another.

A look that fails is shown, and followed by the next. Neighbours: `functions.status` looks, `functions.shown` draws.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TextIO

from client.api import retry_after_s
from client.errors import ExollamaError
from client.settings import Settings
from client.transport import Request, Response, Send
from functions import shown, status
from functions.transport import urllib3_send
from functions.zones import failures

MOST_S: Final = 600.0
"""The longest pause between two looks, where the API asks again and again to come back later."""


class Pace:
    """How long to wait between looks: as long as was asked for, longer after a look that the API limited (429)."""

    def __init__(self, every_s: float, send: Send) -> None:
        self.every_s = every_s
        self.pause_s = every_s
        self._send = send
        self._asked: list[float] = []

    def send(self, request: Request) -> Response:
        """Send, and notice where the API asks to slow down."""
        response = self._send(request)
        if response.status == 429:
            self._asked.append(retry_after_s(response, 0.0))
        return response

    def settle(self) -> float:
        """Seconds until the next look: twice as many as before where the last was limited."""
        asked, self._asked = self._asked, []
        self.pause_s = min(max(2 * self.pause_s, *asked), max(MOST_S, self.every_s)) if asked else self.every_s
        return self.pause_s


def watch(
    settings: Settings,
    every_s: float,
    out: TextIO,
    *,
    probe: bool = False,
    as_json: bool = False,
    send: Send | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> NoReturn:
    """Look every so many seconds, over connections that are kept, until Ctrl-C or SIGTERM ends it."""
    pace = Pace(every_s, send or urllib3_send())
    redraws = out.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb") and not as_json
    if redraws:
        out.write("\x1b[2J")
    while True:  # a person ends it
        try:
            result = status.run(settings, probe=probe, send=pace.send)
        except ExollamaError as error:
            result = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "error": str(error)}
        pause_s = pace.settle()
        if as_json:
            out.write(json.dumps(result) + "\n")
        elif redraws:
            columns, rows = shutil.get_terminal_size()
            # The last column stays free: what is written there is cleared with the rest of the line by some.
            out.write(_redrawn(_block(result, pace, columns - 1), columns - 1, rows))
        else:
            out.write("\n".join([*_block(result, pace, None), "", ""]))
        out.flush()
        sleep(pause_s)


def _block(result: dict[str, Any], pace: Pace, width: int | None) -> list[str]:
    """One look as lines, under its time."""
    when = datetime.fromisoformat(result["time"])
    slower = f", next in {pace.pause_s:.0f} s since the API asks to slow down" if pace.pause_s > pace.every_s else ""
    head = f"{when:%Y-%m-%d %H:%M:%S} UTC, every {pace.every_s:.0f} s{slower}"
    if "error" in result:
        return [head, *shown.wrapped([result["error"]], width)]
    said = shown.text(result, width).splitlines()
    return [head, *said, *shown.wrapped([*shown.ending(result), *failures(result)], width)]


def _redrawn(lines: list[str], columns: int, rows: int) -> str:
    """What draws lines over the ones before, without clearing first: that would flicker."""
    fitting = [line[:columns] for line in lines[: rows - 1]]
    return "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in fitting) + "\x1b[J"
