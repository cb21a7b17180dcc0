"""What OpenFaaS's template python3-http runs: Flask behind waitress, and the handler's package `function` beside it.

Of the same shape as openfaas/python-flask-template's template/python3-http/index.py of 2026: an event with body,
headers, method, query and path, a context with the host's name; an answer is a dictionary with statusCode, body and
headers.
"""

import os
import sys
from dataclasses import dataclass
from typing import Any

from flask import Flask, Request, jsonify, request
from function import handler
from waitress import serve

METHODS = ["GET", "PUT", "POST", "PATCH", "DELETE"]
app = Flask(__name__)


class Event:
    """One request."""

    def __init__(self, asked: Request) -> None:
        self.body = asked.get_data()
        self.headers = asked.headers
        self.method = asked.method
        self.query = asked.args
        self.path = asked.path


@dataclass
class Context:
    """Where it runs."""

    hostname: str


@app.route("/", defaults={"path": ""}, methods=METHODS)
@app.route("/<path:path>", methods=METHODS)
def call(path: str) -> Any:
    said = handler.handle(Event(request), Context(os.environ.get("HOSTNAME", "localhost")))
    if not isinstance(said, dict):
        return said if said is not None else ("", 200)
    body = said.get("body", "")
    shown = jsonify(body) if isinstance(body, dict) else str(body)
    return shown, said.get("statusCode", 200), list(said.get("headers", {}).items())


if __name__ == "__main__":
    serve(app, host="127.0.0.1", port=int(sys.argv[1]))
