"""Heads for the tests of client/http1.py, written line by line."""

import pytest

from client.http1 import BadMessage, parse_request, parse_response

HOP = b"Host: up\r\nAuthorization: Bearer ours\r\n"


def request(
    *fields: bytes, method: bytes = b"POST", target: bytes = b"/api/chat", version: bytes = b"HTTP/1.1"
) -> bytes:
    """A request's head with Host and these lines."""
    return b"\r\n".join([b" ".join([method, target, version]), b"Host: localhost", *fields, b"", b""])


def hostless(*fields: bytes, target: bytes = b"/", version: bytes = b"HTTP/1.1") -> bytes:
    """A request's head with these lines only."""
    return b"\r\n".join([b"GET " + target + b" " + version, *fields, b"", b""])


def answer(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """An answer's head."""
    return b"\r\n".join([line, *fields, b"", b""])


def refused(raw: bytes) -> int:
    """What a request that is refused is answered with."""
    with pytest.raises(BadMessage) as caught:
        parse_request(raw)
    return caught.value.status


def refused_answer(raw: bytes) -> str:
    """Why an answer is refused."""
    with pytest.raises(BadMessage) as caught:
        parse_response(raw)
    if caught.value.status != 502:
        raise AssertionError(f"{caught.value.status}: an answer that cannot be read is a bad gateway's")
    return caught.value.reason
