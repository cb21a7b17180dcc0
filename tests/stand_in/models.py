"""What the stand-in keeps in its state directory, as the container's volume does: models by name, blobs by digest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Body = dict[str, Any]
SIZE = 4_900_000_000


class Models:
    """The models that were pulled, by full name, with the time of it; and which digests were uploaded."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "models.json"
        self._blobs = directory / "blobs"
        self._lock = threading.Lock()
        self.loaded: set[str] = set()

    def names(self) -> dict[str, str]:
        try:
            names: dict[str, str] = json.loads(self._path.read_text(encoding="utf-8"))
        except OSError:
            return {}
        return names

    def add(self, name: str) -> None:
        with self._lock:
            self._keep({**self.names(), self.full(name): now()})

    def remove(self, name: str) -> None:
        with self._lock:
            self.loaded.discard(self.full(name))
            self._keep({kept: when for kept, when in self.names().items() if kept != self.full(name)})

    def _keep(self, names: dict[str, str]) -> None:
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(names), encoding="utf-8")
        os.replace(draft, self._path)

    @staticmethod
    def full(name: str) -> str:
        return name if ":" in name.rpartition("/")[2] else name + ":latest"

    # -- blobs, of which only the digest is kept

    def has_blob(self, digest: str) -> bool:
        return self._blob(digest).exists()

    def add_blob(self, digest: str) -> None:
        self._blobs.mkdir(exist_ok=True)
        self._blob(digest).touch()

    def _blob(self, digest: str) -> Path:
        return self._blobs / digest.replace(":", "-")


def is_digest(text: str) -> bool:
    return re.fullmatch(r"sha256:[0-9a-f]{64}", text) is not None


def entry(name: str, modified: str, about: Body | None) -> Body:
    """A model as the lists show it; `about` the one that runs, where one does."""
    details = {
        "parent_model": "",
        "format": "gguf",
        "family": "simulator",
        "families": ["simulator"],
        "parameter_size": "0B",
        "quantization_level": "none",
    }
    about = about or {"size": SIZE, "details": {}}
    digest = hashlib.sha256(name.encode()).hexdigest()
    shown = {"name": name, "model": name, "modified_at": modified, "size": about["size"], "digest": digest}
    return {**shown, "details": {**details, **about["details"]}}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def unix(moment: str) -> int:
    """The same moment as OpenAI's API writes it."""
    return int(datetime.fromisoformat(moment).timestamp())
