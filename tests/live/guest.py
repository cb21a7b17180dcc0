"""The machine's side: a cloud-config that switches it off by itself, and tells what it sees of its surroundings.

It serves a few facts, none of them secret, on the port that the group opens. The nonce in its second line is what any
reaper of the project looks for before it removes the machine. Imports functions only.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from typing import Any, Final

from client.endpoint import PORT
from client.errors import ExollamaError
from client.settings import Secret
from client.transport import Disconnected, Request, http_client_send
from functions.userdata import fill

CLOSED: Final = PORT + 1
"""Where it listens as well, and no rule opens."""
# In bootcmd: at every boot, so after :start as well, and before anything that could fail. A process of its own, since a
# timer of systemd-run waits, --no-block or not, for the very stage of the boot in which bootcmd runs (systemd 252, seen
# by `nox -s boot`). runcmd's shutdown is a second net.
_CONFIG: Final = """\
#cloud-config
# exollama {"v":1,"request":"@@request@@","key":"@@key@@"}
package_update: false
package_upgrade: false
bootcmd:
- "setsid sh -c 'sleep @@off_s@@; systemctl poweroff' </dev/null >/dev/null 2>&1 &"
write_files:
- path: /opt/exollama-live/look.py
  permissions: "0644"
  content: @@look@@
runcmd:
- [shutdown, -P, "+@@off_min@@"]
- [systemd-run, --no-block, python3, -I, /opt/exollama-live/look.py]
"""
_LOOK: Final = """\
import hashlib, http.server, json, pathlib, platform, subprocess, threading, urllib.error, urllib.request

METADATA = "http://169.254.169.254/latest/"
WORLD = {
    "download.docker.com": "https://download.docker.com/linux/ubuntu/gpg",
    "nvidia.github.io": "https://nvidia.github.io/libnvidia-container/gpgkey",
    "registry-1.docker.io": "https://registry-1.docker.io/v2/",
    "registry.ollama.ai": "https://registry.ollama.ai/v2/library/smollm/manifests/135m",
}

def get(url):
    try:
        with urllib.request.urlopen(url, timeout=15) as answer:
            return answer.status, answer.read(1 << 20)
    except urllib.error.HTTPError as error:
        return error.code, b""
    except Exception as error:
        return type(error).__name__, b""

def out(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()[:200]
    except Exception as error:
        return type(error).__name__

def name(path):
    try:
        return pathlib.Path(path).read_text().strip()[:100]
    except OSError as error:
        return type(error).__name__

facts = {
    "user_data": hashlib.sha256(get(METADATA + "user-data")[1]).hexdigest(),
    "address": get(METADATA + "meta-data/public-ipv4")[1].decode("ascii", "replace").strip()[:60],
    "cloud": out("cloud-id"),
    "vendor": name("/sys/class/dmi/id/sys_vendor") + " " + name("/sys/class/dmi/id/product_name"),
    "system": platform.freedesktop_os_release().get("PRETTY_NAME", "?"),
    "python": platform.python_version(),
    "kernel": platform.release(),
    "uptime_s": float(name("/proc/uptime").split()[0]),
    "reached": {host: get(url)[0] for host, url in WORLD.items()},
}
answer = json.dumps(facts).encode()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

closed = http.server.ThreadingHTTPServer(("", @@closed@@), Handler)
threading.Thread(target=closed.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("", @@port@@), Handler).serve_forever()
"""


def user_data(request: str, key: Secret, off_s: int) -> str:
    """What create-instance takes: as the project's own, gzip in base64; off after `off_s` seconds of each boot."""
    look = json.dumps(fill("look.py", _LOOK, {"port": str(PORT), "closed": str(CLOSED)}))
    off = {"off_s": str(off_s), "off_min": str(math.ceil(off_s / 60))}
    values = {"request": request, "key": key.reveal(), **off, "look": look}
    text = fill("cloud-config", _CONFIG, values)
    return base64.b64encode(gzip.compress(text.encode("ascii"), 9, mtime=0)).decode("ascii")


def facts(address: str) -> dict[str, Any]:
    """What the machine at this address tells. Raises ExollamaError where nobody answers, or with something else."""
    try:
        answer = http_client_send(Request("GET", f"http://{address}:{PORT}/", {}, b"", 5.0))
        told = json.loads(answer.body)
    except (Disconnected, ValueError) as error:
        raise ExollamaError(f"port {PORT} of the machine: {type(error).__name__}") from None
    if not isinstance(told, dict) or not isinstance(told.get("reached"), dict):
        raise ExollamaError(f"port {PORT} of the machine answers with something else")
    return told
