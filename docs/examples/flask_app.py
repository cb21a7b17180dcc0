"""A small Flask app whose Ollama is an Exoscale instance for as long as the app runs.

    python flask_app.py      or      gunicorn flask_app:app      (without --preload: each worker has an adapter)

With EXOSCALE_API_KEY and EXOSCALE_API_SECRET set, it brings an instance up beside its start, so that it answers at once
and asks OLLAMA_URL, this machine's own, until the other one is ready; where that fails, the log says why. The instance
goes once idle, a later request brings it back, and it goes with the app, be that ended by Ctrl-C, SIGTERM or a server.
"""

import json
import logging
import os
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from flask import Flask, request

from functions import ExoscaleOllamaAdapter


@dataclass
class Settings:
    """What the app knows of Ollama: nothing else of it changes with where that is."""

    ollama_url: str = os.environ.get("OLLAMA_URL", "http://127.0.0.1:11434")
    ollama_model: str = "granite3.1-dense:8b"


app = Flask(__name__)
settings = Settings()


@app.post("/ask")
def ask() -> tuple[dict[str, Any], int]:
    """Answer `{"prompt": …}` with `{"response": …}`."""
    body = {"model": settings.ollama_model, "prompt": request.get_json()["prompt"], "stream": False}
    try:
        with urllib.request.urlopen(  # noqa: S310 - the URL is the app's own
            f"{settings.ollama_url}/api/generate", json.dumps(body).encode(), timeout=1800
        ) as answer:
            return {"response": json.load(answer)["response"], "from": settings.ollama_url}, 200
    except urllib.error.HTTPError as error:  # which says why: how far a boot is, that there is no such model
        return {"error": f"Ollama at {settings.ollama_url}: {error.read().decode('utf-8', 'replace')}"}, error.code
    except OSError as error:
        return {"error": f"Ollama at {settings.ollama_url}: {error}"}, 503


def start() -> None:
    """Have an instance, where there are credentials."""
    if not (os.environ.get("EXOSCALE_API_KEY") and os.environ.get("EXOSCALE_API_SECRET")):
        return
    logging.basicConfig()
    for name in ("adapter", "provision"):  # what is created, about what it costs, and its end
        logging.getLogger(f"exollama.{name}").setLevel(logging.INFO)
    adapter = ExoscaleOllamaAdapter.from_env()
    adapter.start_idle_monitor()  # in the main thread: from here on, the end of the process shuts the adapter down

    def connect() -> None:
        if url := adapter.ensure_instance():
            settings.ollama_url = url

    threading.Thread(target=connect, name="ollama", daemon=True).start()


start()

if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
