"""Instances that older versions of the project made, as recorded with their own code; README.md says how."""

import base64
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from client.labels import REQUEST

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the create call of one version sent. `user_data` is base64, as the API takes it."""

    commit: str
    version: str
    name: str
    template: str
    type: str
    labels: dict[str, str]
    user_data: str

    @property
    def text(self) -> str:
        """The user-data as cloud-init reads it."""
        return gzip.decompress(base64.b64decode(self.user_data)).decode()

    @property
    def request(self) -> str:
        """The create call's nonce, as the label has it."""
        return self.labels[REQUEST].removeprefix("r")

    @property
    def key(self) -> str:
        """The endpoint's key, which opens nothing any more."""
        header: dict[str, str] = json.loads(self.text.splitlines()[1].removeprefix("# exollama "))
        return header["key"]


def recorded() -> list[Recorded]:
    """All that was recorded."""
    return [Recorded(**json.loads(path.read_text("utf-8"))) for path in sorted(FOLDER.glob("*.json"))]
