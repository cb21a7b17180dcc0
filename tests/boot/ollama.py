"""The container image that a machine pulls for Ollama's: Python and the simulator's stand-in, in one layer.

Written as a registry's files (Docker's image manifest version 2, schema 2), so that `docker pull` really pulls.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

STAND_IN = Path(__file__).parents[1] / "stand_in"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def publish(python: Path, registry: Path, image: str) -> None:
    """Write the image, NAME:TAG, below `registry`; `python` is a tree with a Python of its own."""
    name, _, tag = image.rpartition(":")
    content = _tar(python)
    layer = gzip.compress(content, 5, mtime=0)
    program = f"/usr/bin/{next((python / 'usr/bin').iterdir()).name}"
    start = [program, "/opt/tests/stand_in/__main__.py", "0.0.0.0", "11434", "/root/.ollama", "/controls.json", tag]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": start, "Env": ["PATH=/usr/bin", "PYTHONUNBUFFERED=1"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(content)]},
        "history": [{"created_by": "exollama's boot test"}],
    }
    blobs = {CONFIG: json.dumps(config).encode(), LAYER: layer}
    described = {kind: {"mediaType": kind, "size": len(blob), "digest": _digest(blob)} for kind, blob in blobs.items()}
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described[CONFIG], "layers": [described[LAYER]]}
    raw = json.dumps(manifest).encode()
    files = {f"blobs/{_digest(blob)}": (blob, kind) for kind, blob in blobs.items()}
    files |= {f"manifests/{reference}": (raw, MANIFEST) for reference in (tag, _digest(raw))}
    for path, (body, kind) in files.items():
        file = registry / "v2" / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
        Path(f"{file}.type").write_text(kind)
    (registry / "v2/index").write_text("{}")


def _tar(python: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:

        def add(file: Path, name: str) -> None:
            tar.add(file, name, recursive=False, filter=_root)

        for file in sorted(python.rglob("*")):
            add(file, str(file.relative_to(python)))
        for script in sorted(STAND_IN.glob("*.py")):
            add(script, f"opt/tests/stand_in/{script.name}")
        for folder in ("tmp", "root", "etc"):
            add(python, folder)
    return packed.getvalue()


def _root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = "root"
    return entry


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
