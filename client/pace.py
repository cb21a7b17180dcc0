"""How long something has been going on, and may go on, in few words: what a live line says of a `client.boot.Progress`.

Pure: seconds and percent in, words out. Neighbours: `client.terminal` draws it.
"""

import math
from collections.abc import Mapping
from typing import Final

USUALLY: Final[Mapping[str, str]] = {
    "creating": "under a minute",
    "starting": "under a minute",
    "nginx": "under a minute",
    "docker": "under two minutes",
    "gpu": "a few minutes",
    "image": "a few minutes",
    "container": "under a minute",
    "warmup": "under a minute",
    "draining": "under two minutes",
    "ending the instance": "under a minute",
}
"""How long phases without a percentage take, roughly. None of it was measured on Exoscale: a fence's lease is two
minutes at most, a boot's first signs are planned for its first minute, and the rest is what such a step fetches (some
packages, an image of a few GB) or starts, on a server's connection."""

SEEN_S: Final = 5.0
GAINED: Final = 2.0
"""How many seconds, and how much of a percentage, a rate has to rest on before anything is said by it."""
_SMOOTHED_S: Final = 15.0
_LONGEST_S: Final = 4 * 3600.0


class Pace:
    """The pace of whatever is under way. A phase's seconds count from when it was first told of."""

    def __init__(self) -> None:
        self._phase = ""
        self._began_s = self._told_s = 0.0
        self._since = (0.0, 0.0)
        self._last: tuple[float, float] | None = None
        self._rate = 0.0

    def words(self, phase: str, percent: float | None, elapsed_s: float) -> str:
        """`model 42 %, 75 s, about 100 s left`, or `docker, 12 s (usually under two minutes)`."""
        anew = elapsed_s < self._told_s - 1
        if phase != self._phase or anew:
            # What is told of first has been going on for all of its seconds; what follows it, since now.
            self._began_s = elapsed_s if self._phase and not anew else 0.0
            self._phase, self._last = phase, None
        self._told_s = elapsed_s
        spent = f"{elapsed_s - self._began_s:.0f} s"
        if percent is None:
            usual = USUALLY.get(phase)
            return f"{phase}, {spent}" + (f" (usually {usual})" if usual else "")
        left_s = self._left_s(percent, elapsed_s)
        return f"{phase} {percent:.0f} %, {spent}" + (f", about {_rounded(left_s)} left" if left_s else "")

    def _left_s(self, percent: float, elapsed_s: float) -> float | None:
        """Seconds to 100 % at the smoothed rate; None while that means nothing."""
        if self._last is None or percent < self._last[1]:  # a total that grew: what was seen before says nothing
            self._since = self._last = (elapsed_s, percent)
            self._rate = 0.0
            return None
        step_s = elapsed_s - self._last[0]
        if step_s >= 1.0:
            rate = (percent - self._last[1]) / step_s
            share = 1 - math.exp(-step_s / _SMOOTHED_S) if self._rate else 1.0
            self._rate += share * (rate - self._rate)
            self._last = (elapsed_s, percent)
        seen_s, gained = elapsed_s - self._since[0], percent - self._since[1]
        if seen_s < SEEN_S or gained < GAINED or self._rate <= 0 or percent >= 100:
            return None
        left_s = (100 - percent) / self._rate
        return left_s if left_s < _LONGEST_S else None


def _rounded(seconds: float) -> str:
    """As exact as an estimate deserves."""
    if seconds >= 180:
        return f"{seconds / 60:.0f} min"
    return f"{max(1, round(seconds, -1 if seconds >= 20 else 0)):.0f} s"
