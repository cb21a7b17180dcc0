"""Knative functions (func-python): func.py is the file; a function named `handle` is an ASGI application."""

from typing import Any

from functions.faas import asgi


async def handle(scope: Any, receive: Any, send: Any) -> None:
    """One HTTP request."""
    await asgi(scope, receive, send)
