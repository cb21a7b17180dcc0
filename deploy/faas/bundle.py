"""Builds the zip that every function platform takes as it is: `nox -s bundle`. Nothing in it has to be built.

At its root stand the packages client, functions (with the instance's templates, as in the wheel) and urllib3, and the
few files that platforms look for by their names. The same files, urllib3's included, give the same bytes, whoever
builds them and when: sorted names, one time (1980, or SOURCE_DATE_EPOCH), one mode, one compression. Standard library
only.
"""

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
DEFAULT: Final = ROOT / "dist/exollama-faas.zip"
LIMIT: Final = 1_500_000
"""Bytes. AWS takes 50 MB and Scaleway 100 MB; but what is small starts sooner."""
SHIMS: Final = (
    "function/__init__.py",
    "function_app.py",
    "handler.py",
    "host.json",
    "main.py",
    "pyproject.toml",
    "requirements.txt",
)
SUFFIXES: Final = (".py", ".json", ".css", ".js", ".conf", ".yaml", "py.typed")
"""How the names of the project's own files end. Whatever else lies in a folder, an .env perhaps, stays out."""
_EARLIEST: Final = 315532800
"""1980-01-01 in Unix time: the format knows nothing before."""
_LATEST: Final = 4354819198
_FILE: Final = 0o100644 << 16


def contents() -> dict[str, bytes]:
    """Each name in the zip, with what is in it."""
    files = _below("client") | _below("functions") | _below("cloudinit", "functions/cloudinit/")
    files |= {shim: (ROOT / "deploy/faas" / shim).read_bytes() for shim in SHIMS}
    return files | _urllib3() | {"LICENSE": (ROOT / "LICENSE").read_bytes()}


def packed(files: dict[str, bytes], at: int = _EARLIEST) -> bytes:
    """The zip; `at` is the Unix time that its files carry."""
    moment = time.gmtime(min(max(at, _EARLIEST), _LATEST))[:6]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, moment)
            entry.create_system = 3  # Unix, on every system: else the mode means nothing
            entry.external_attr = _FILE
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name], compresslevel=9)
    return buffer.getvalue()


def main() -> int:
    """Build it, and say where it is, how large, and its SHA-256."""
    parser = argparse.ArgumentParser(
        prog="nox -s bundle --",
        description="Build the zip that every function platform takes as it is; the same bytes of the same files.",
        epilog="example:\n  nox -s bundle -- exollama.zip",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT, help="where to (dist/exollama-faas.zip)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    args = parser.parse_args()
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or str(_EARLIEST)
    if not (epoch.isascii() and epoch.isdigit()):
        parser.error(f"SOURCE_DATE_EPOCH is {epoch!r}: whole seconds since 1970 are expected")
    raw = packed(contents(), int(epoch))
    if len(raw) > LIMIT:
        print(f"The bundle has {len(raw)} bytes, over {LIMIT}. What came into it?", file=sys.stderr)
        return 1
    path: Path = args.file.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    except OSError as error:
        print(f"{path} cannot be written: {error.strerror}. Name another file.", file=sys.stderr)
        return 1
    said = {"path": str(path), "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    print(json.dumps(said) if args.json else f"{said['path']}\n{said['bytes']} bytes\nSHA-256 {said['sha256']}")
    return 0


def _below(folder: str, to: str = "") -> dict[str, bytes]:
    """The files of a folder of the checkout, under their own names or under `to`."""
    base = ROOT / folder
    found = (path for path in base.rglob("*") if path.name.endswith(SUFFIXES) and path.is_file())
    return {(to or f"{folder}/") + path.relative_to(base).as_posix(): path.read_bytes() for path in found}


def _urllib3() -> dict[str, bytes]:
    """The installed urllib3, which is Python only, with its licence."""
    files = {}
    for file in importlib.metadata.files("urllib3") or ():
        if file.parts[0] == "urllib3" and "__pycache__" not in file.parts:
            files[file.as_posix()] = file.read_binary()
        elif file.name.startswith("LICENSE"):
            files[f"urllib3/{file.name}"] = file.read_binary()
    if not {"urllib3/__init__.py", "urllib3/LICENSE.txt"} <= files.keys():
        raise SystemExit("urllib3 is not installed here with its licence: build the bundle with nox -s bundle.")
    return files


if __name__ == "__main__":
    sys.exit(main())
