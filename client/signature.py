"""EXO2-HMAC-SHA256, the signature of Exoscale's API v2, as one pure function.

Source: https://openapi-v2.exoscale.com/topic/topic-api-request-signature and PyPI's `requests-exoscale-auth`, whose
golden vectors the tests use. Neighbours: `client.api` signs every attempt afresh with it. Imports nothing of the
project.
"""

import base64
import hashlib
import hmac
from urllib.parse import parse_qsl, urlsplit

VALIDITY_S = 600
"""How long a signature holds, as every official client has it."""


def sign(key: str, secret: str, method: str, url: str, body: bytes = b"", *, expires: int) -> str:
    """Return the value of the Authorization header for one request.

    `url` is signed as sent: its path keeps its percent-escapes and a suffix such as `:start`. `expires` is Unix time
    in seconds. Raises ValueError for repeated or blank query parameters, on which the official signers disagree.
    """
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = dict(pairs)
    if len(query) != len(pairs) or not all(query.values()):
        raise ValueError(f"repeated or blank query parameters cannot be signed: {parts.query!r}")
    names = sorted(query)
    message = b"\n".join(
        (
            f"{method} {parts.path}".encode(),
            body,
            "".join(query[name] for name in names).encode(),
            b"",  # signed headers: none
            str(expires).encode(),
        )
    )
    signature = base64.b64encode(hmac.digest(secret.encode(), message, hashlib.sha256)).decode()
    signed_args = f",signed-query-args={';'.join(names)}" if names else ""
    return f"EXO2-HMAC-SHA256 credential={key}{signed_args},expires={expires},signature={signature}"
