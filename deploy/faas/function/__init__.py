"""Knative functions (func-python): the scaffolding imports a package `function`, whose `handle` is an ASGI application.

So it stands in knative/func, templates/python/scaffolding/instanced-http/service/main.py.
"""

from typing import Any

from functions.faas import asgi


async def handle(scope: Any, receive: Any, send: Any) -> None:
    """One HTTP request."""
    await asgi(scope, receive, send)
