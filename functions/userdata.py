"""The user-data of a new instance: cloudinit/ rendered strictly, packed, and measured.

Nothing reaches a template that was not checked against the pattern of its kind, so nothing needs escaping in
nginx, YAML or JSON. Neighbours: `client.model.read_header` reads the second line back. Imports `client` only.
"""

import ast
import base64
import functools
import gzip
import importlib.resources
import io
import json
import re
import tokenize
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from client.errors import ExollamaError
from client.settings import IMAGE_RE, KEY_RE, MODEL_RE, NAME_RE, Secret

LIMIT: Final = 32768
"""Exoscale's limit on user-data, in base64 characters."""
UPSTREAM: Final = "127.0.0.1:11434"
GRACE_S: Final = 3600

_REQUEST_RE: Final = re.compile(r"[0-9a-f]{32}")
_ACTION_RE: Final = re.compile(r"destroy|stop")
_DRIVER_RE: Final = re.compile(r"[0-9]{3}-server(-open)?")
_VERSION_RE: Final = re.compile(r"[0-9A-Za-z.+-]{1,64}")
_PLACEHOLDER_RE: Final = re.compile(r"@@([a-z_]+)@@")
_LONGEST_S: Final = 10 * 366 * 86400


def render(
    *,
    name: str,
    model: str,
    key: Secret,
    request: str,
    image: str,
    idle_s: int,
    boot_s: int,
    retention_s: int,
    deadline: int | None,
    action: str,
    keep_failed: bool = False,
    gpu_driver: str | None = None,
    version: str,
) -> str:
    """The user-data as create-instance takes it: base64 of gzip, the same bytes for the same arguments.

    Durations are seconds, `deadline` is Unix time or None, `request` the create call's nonce, 32 hex digits,
    `gpu_driver` what `functions.gpu.driver` says, None for a type without graphics cards.
    Raises ExollamaError where a value is malformed, a template not as expected, or the result too long.
    """
    policy = {
        "v": 1,
        "request": _matching(_REQUEST_RE, "request", request),
        "name": _matching(NAME_RE, "name", name),
        "model": _matching(MODEL_RE, "model", model),
        "image": _matching(IMAGE_RE, "image", image),
        "idle_s": _whole("idle_s", idle_s),
        "boot_s": _whole("boot_s", boot_s),
        "retention_s": _whole("retention_s", retention_s),
        "deadline": None if deadline is None else _whole("deadline", deadline, 1 << 33),
        "grace_s": GRACE_S,
        "action": _matching(_ACTION_RE, "action", action),
        "keep_failed": bool(keep_failed),
        "gpu": None if gpu_driver is None else _matching(_DRIVER_RE, "GPU driver", gpu_driver),
        "upstream": UPSTREAM,
        "version": _matching(_VERSION_RE, "version", version),
    }
    if not KEY_RE.fullmatch(key.reveal()):
        raise ExollamaError("The endpoint key is not 32 to 128 of A-Z a-z 0-9 _ -.")
    folder = templates()
    files = {
        "key_file": key.reveal() + "\n",
        "policy": json.dumps(policy) + "\n",
        "nginx_conf": fill("nginx.conf", _read(folder, "nginx.conf"), {"key": key.reveal()}),
    }
    for program in ("agent", "bootstrap", "commands", "door", "rules"):
        files[f"{program}_py"] = _program(folder, f"{program}.py")
    # A JSON string is a YAML one as well, as long as it is ASCII.
    values = {name: json.dumps(text) for name, text in files.items()}
    values |= {"key": key.reveal(), "request": request, "gpu_file": ""}
    if gpu_driver is not None:
        source = json.dumps(_program(folder, "gpu.py"))
        values["gpu_file"] = f'- path: /opt/exollama/gpu.py\n  permissions: "0644"\n  content: {source}\n'
    text = fill("user-data.yaml", _read(folder, "user-data.yaml"), values)
    packed = base64.b64encode(gzip.compress(text.encode("ascii"), 9, mtime=0)).decode("ascii")
    if len(packed) > LIMIT:
        raise ExollamaError(f"The user-data has {len(packed)} base64 characters; Exoscale takes {LIMIT}.")
    return packed


def templates() -> Traversable:
    """The folder of the templates: in the installed package (in a zip too), else beside it in a checkout."""
    package = importlib.resources.files("functions")
    folder = package.joinpath("cloudinit")
    if not folder.is_dir() and isinstance(package, Path):
        folder = package.parent / "cloudinit"
    if not folder.is_dir():
        raise ExollamaError("The user-data's templates are missing: neither functions/cloudinit nor cloudinit.")
    return folder


def fill(template: str, text: str, values: Mapping[str, str]) -> str:
    """Replace each `@@name@@` of a template; one without a value, and a value without one, is an error."""
    wanted = _PLACEHOLDER_RE.findall(text)
    if text.count("@@") != 2 * len(wanted):
        raise ExollamaError(f"{template}: an @@ that belongs to no placeholder.")
    if odd := set(wanted) ^ set(values):
        raise ExollamaError(f"{template}: placeholder without a value, or the reverse: {', '.join(sorted(odd))}.")
    return _PLACEHOLDER_RE.sub(lambda found: values[found[1]], text)


@functools.cache
def bare(source: str) -> str:
    """A program without comments, docstrings and blank lines: a fifth of the user-data, of no use on the instance."""
    lines, blank, busy = list(io.StringIO(source)), set[int](), set[int]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NL:
            blank.add(token.start[0])
        elif token.type != tokenize.COMMENT:
            busy.update(range(token.start[0], token.end[0] + 1))
    blank -= busy
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if len(node.body) > 1 and ast.get_docstring(node) is not None:
            first = node.body[0]
            last = first.end_lineno or 0
            before, behind = lines[first.lineno - 1][: first.col_offset], lines[last - 1][first.end_col_offset :]
            if not (before + behind.partition("#")[0]).strip():  # alone on its lines
                blank.update(range(first.lineno, last + 1))
    return "".join(line for number, line in enumerate(lines, 1) if number not in blank)


def _program(folder: Traversable, name: str) -> str:
    return bare(fill(name, _read(folder, name), {}))


def _read(folder: Traversable, name: str) -> str:
    text = folder.joinpath(name).read_text("utf-8")
    if not text.isascii():
        raise ExollamaError(f"{name}: a template has to be ASCII.")
    return text


def _matching(pattern: re.Pattern[str], what: str, value: str) -> str:
    if not pattern.fullmatch(value):
        raise ExollamaError(f"The user-data cannot carry this {what}: {value!r}.")
    return value


def _whole(what: str, value: int, most: int = _LONGEST_S) -> int:
    if type(value) is not int or not 0 < value <= most:
        raise ExollamaError(f"The user-data cannot carry this {what}: {value!r}.")
    return value
