"""Takes the pictures of the status page: `python -m tests.screenshots`, into docs/pictures.

Numbers as they are on a good day, addresses from those kept for documentation (RFC 5737); nothing is asked of anybody.
Where pngquant is installed the pictures are made small with it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from client import page
from tests.browser import browser

FOLDER = Path(__file__).parents[1] / "docs/pictures"
BOOTED = {"starting": 1.2, "docker": 31.4, "nginx": 6.2, "image": 47.7, "container": 2.1, "model": 74.6, "warmup": 9.3}
POLICY = {"idle_timeout_s": 1800, "deadline": "2026-12-03T08:12:00+00:00"}
LOG = [
    "== starting", "certificate made for 192.0.2.17", "== docker", "Docker 29.1.3 installed from download.docker.com",
    "== nginx", "== image", "ollama/ollama pulled in 53.9 s", "== container", "== model", "pulling granite3.1-dense:8b",
]  # fmt: skip


def ready() -> dict[str, Any]:
    """An instance that was used a while ago."""
    boot = {
        "phase": "ready",
        "percent": None,
        "elapsed_s": 172.5,
        "phases": [{"phase": name, "seconds": seconds} for name, seconds in BOOTED.items()],
        "error": None,
        "log": [*LOG, "== warmup", "== ready"],
    }
    return {
        "id": "3f0e6c1a-7a52-4a53-9d0e-5b8f3b1f7c11",
        "name": "exollama",
        "zone": "ch-gva-2",
        "state": "running",
        "model": "granite3.1-dense:8b",
        "address": "192.0.2.17",
        "created": "2026-11-26T08:12:00+00:00",
        "activity": "2026-11-26T11:06:30+00:00",
        "age_s": 11520,
        "idle_s": 1050,
        "reap": {"decision": "keep", "reason": "by its label used 17 min ago"},
        "said": {"idle_s": 1050.0, "in_flight": 0, "requests": 214, "boot": boot, "fence": None},
        "type": "standard.large",
        "disk_gib": 50,
        "hourly_cost": 0.10033,
        "cost": 0.321,
        "goes_in_s": 750,
        **POLICY,
    }


def booting() -> dict[str, Any]:
    """Another one, whose model is being pulled."""
    done = {name: BOOTED[name] for name in ("starting", "docker", "nginx", "image", "container")}
    boot = {
        "phase": "model",
        "percent": 41.0,
        "elapsed_s": 120.4,
        "phases": [{"phase": name, "seconds": seconds} for name, seconds in done.items()],
        "error": None,
        "log": LOG,
    }
    return {
        **ready(),
        "id": "b81d5f0e-11c9-4c39-8a56-0f6d2b3a9c20",
        "name": "ci-8241",
        "zone": "de-fra-1",
        "model": "qwen2.5-coder:14b",
        "address": "192.0.2.48",
        "age_s": 165,
        "idle_s": 0,
        "reap": {"decision": "keep", "reason": "by its label used 2 min ago"},
        "said": {"idle_s": 0.0, "in_flight": 0, "requests": 0, "boot": boot, "fence": None},
        "type": "standard.extra-large",
        "hourly_cost": 0.19367,
        "cost": 0.0089,
        "goes_in_s": None,
        "activity": "2026-11-26T11:21:15+00:00",
    }


def result(*instances: dict[str, Any]) -> dict[str, Any]:
    """What `functions.status.run` returns of them."""
    return {
        "zones": ["ch-gva-2", "de-fra-1"],
        "instances": list(instances),
        "failed": [],
        "time": "2026-11-26T11:24:00+00:00",
        "prices_as_of": "2026-10",
    }


def main() -> None:
    """Take them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    pictures = {
        "status-page-light": ("light", result(ready())),
        "status-page-dark": ("dark", result(ready())),
        "status-page-booting": ("light", result(booting())),
    }
    with browser() as chromium:
        for name, (scheme, shown) in pictures.items():
            sheet = chromium.new_page(
                color_scheme=scheme,  # type: ignore[arg-type]
                viewport={"width": 860, "height": 300},
                device_scale_factor=2,
                reduced_motion="reduce",
            )
            sheet.set_content(page.html(shown))
            path = FOLDER / f"{name}.png"
            sheet.screenshot(path=path, full_page=True)
            sheet.close()
            if shutil.which("pngquant"):
                subprocess.run(["pngquant", "--force", "--speed", "1", "--output", path, "64", path], check=True)
            print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
