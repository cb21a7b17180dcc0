"""What a person sees on stderr: whole sentences, and a live line while something long is under way.

The live line (phase, percent, seconds) is drawn on a terminal only; in a pipe or a log there are the sentences alone.
"""

import shutil
import sys
from typing import TextIO


class Terminal:
    """Notes and progress on one stream; a note first clears the live line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._drawn = False

    def note(self, sentence: str) -> None:
        """Print one sentence."""
        self.clear()
        print(f"exollama: {sentence}", file=self._stream, flush=True)

    def progress(self, phase: str, percent: float | None, elapsed_s: float) -> None:
        """Redraw the live line. A `client.boot.Progress`."""
        if not self._live:
            return
        share = "" if percent is None else f" {percent:.0f} %"
        line = f"exollama: {phase}{share}, {elapsed_s:.0f} s"
        width = shutil.get_terminal_size().columns
        self._stream.write(f"\r\x1b[K{line[: width - 1]}")
        self._stream.flush()
        self._drawn = True

    def clear(self) -> None:
        """Remove the live line, before something else is printed."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False
