"""Instances for tables: ours, a day old, running, with labels as given."""

from datetime import datetime, timedelta
from typing import Any

from client.model import Instance
from functions.policy import Verb
from tests.fakes import NOW, instance, label_map

KEEP, ASK, DESTROY, STOP = Verb.KEEP, Verb.ASK, Verb.DESTROY, Verb.STOP


def ago(**units: float) -> datetime:
    return NOW - timedelta(**units)


def seen(*, state: str = "running", created: datetime | None = ago(days=1), **given: Any) -> Instance:  # noqa: B008
    return instance(state=state, created=created, labels=label_map(**given))
