"""Prometheus' text format, 0.0.4: who asks for it, and how a family of samples is written in it.

Neighbours: `client.report` tells a forwarder's numbers in it, `functions.shown` those of the instances. No I/O.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ACCEPTED: Final = re.compile(r"(?i)openmetrics|version=0\.0\.4")
Sample = tuple[Mapping[str, str], float]


def accepted(accept: str) -> bool:
    """Whether an Accept header is that of a Prometheus: nobody else names this format."""
    return bool(_ACCEPTED.search(accept))


def family(name: str, samples: Iterable[Sample], *, kind: str = "gauge", about: str = "") -> str:
    """A family of metrics, as lines; empty without a sample. `about` says in words what it measures."""
    lines = [f"{name}{_labels(labels)} {value}\n" for labels, value in samples]
    told = [f"# HELP {name} {about}\n"] if about else []
    return "".join([*told, f"# TYPE {name} {kind}\n", *lines]) if lines else ""


def _labels(labels: Mapping[str, str]) -> str:
    """`{name="value",…}`, or nothing where there are none."""
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
