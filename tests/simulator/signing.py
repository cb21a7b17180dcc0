"""The server's half of EXO2-HMAC-SHA256, written from Exoscale's documentation and not from the project's signer.

The message is five lines: `METHOD path`, the body, the values of the signed query parameters joined without a
separator in the order of their names, an empty line for headers, and the expiry. Imports nothing of the project.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl

SCHEME = "EXO2-HMAC-SHA256"


class Denied(Exception):
    """A request that is not let in; the text is for the simulator's own record and never sent."""


def signature(secret: str, method: str, path: str, query: str, body: bytes, expires: str) -> str:
    """The base64 signature of one request; path and query as sent."""
    values = "".join(value for _, value in sorted(parse_qsl(query, keep_blank_values=True)))
    message = b"\n".join([f"{method} {path}".encode(), body, values.encode(), b"", expires.encode()])
    return base64.b64encode(hmac.new(secret.encode(), message, hashlib.sha256).digest()).decode()


def verify(
    header: str | None,
    *,
    secrets: Mapping[str, str],
    method: str,
    path: str,
    query: str,
    body: bytes,
    now: float,
) -> str:
    """The API key that signed the request. Raises Denied."""
    if not header:
        raise Denied("unsigned")
    scheme, _, rest = header.partition(" ")
    fields = dict(part.partition("=")[::2] for part in rest.split(","))
    if scheme != SCHEME or not {"credential", "expires", "signature"} <= fields.keys():
        raise Denied(f"malformed Authorization header with scheme {scheme!r}")
    if fields.keys() - {"credential", "expires", "signature", "signed-query-args"}:
        raise Denied(f"unknown fields in the Authorization header: {sorted(fields)}")
    secret = secrets.get(fields["credential"])
    if secret is None:
        raise Denied(f"unknown key {fields['credential']!r}")
    names = sorted(name for name, _ in parse_qsl(query, keep_blank_values=True))
    if fields.get("signed-query-args", "") != ";".join(names):
        raise Denied(f"signed-query-args is {fields.get('signed-query-args')!r}, the query has {names}")
    if not hmac.compare_digest(
        signature(secret, method, path, query, body, fields["expires"]).encode(), fields["signature"].encode()
    ):
        raise Denied("the signature does not match")
    if not fields["expires"].isdigit() or int(fields["expires"]) < now:
        raise Denied(f"expired at {fields['expires']}, and it is {now:.0f}")
    return fields["credential"]
