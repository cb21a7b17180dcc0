"""The instance's own word on what it is doing, and the net under a reaper that never comes.

A small HTTP server on a Unix socket behind nginx, which does TLS and checks the key; paths and answers are
the instance contract (v1). What it sees goes to rules.py, which decides. Standard library only, Python 3.10.
Durations are CLOCK_BOOTTIME seconds, as wall clocks jump; only the deadline is wall time.
"""

import contextlib
import hashlib
import hmac
import http.server
import json
import platform
import re
import secrets
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # which python3 -I leaves out
from rules import COMMIT_MARGIN_S, OWNER, Answer, Fence, Mark, Watchdog, read_boot, read_json, write_atomically

ETC = Path("/etc/exollama")
RUN = Path("/run/exollama")
LOG = Path("/var/log/exollama")
TLS = Path("/var/lib/exollama/tls")

# Once the fence file is there, for a worker between its look at the file and its connect(): this long, and on a machine
# whose processors are taken, as by a model, until it has slept; so many looks at most.
SETTLE_S = 0.1
LOOK_S, LOOKS = 0.005, 400
BODY_LIMIT = 4096
# Connecting; established; closed by Ollama while nginx still has bytes to pass on, as to a slow reader.
TCP_OPEN = {"02", "01", "08"}
# The last of an answer waits in the client's connection alone. Without a key nobody gets that many bytes, and a
# reader that has stood still for so long is gone, as it is for nginx (send_timeout).
UNREAD_BYTES = 4096
UNREAD_S = 3600.0

# What a listing takes at most: a dashboard that polls must not pass for somebody who waits for a model.
LISTING_S = 0.9


def boottime() -> float:
    """Seconds since power-on, as bootstrap counts them too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def sockets() -> list[list[str]]:
    """The kernel's TCP sockets: [slot, local, remote, state, unsent:unread, ...], in hex."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        lines += Path("/proc/net/tcp6").read_text().splitlines()[1:]
    return [line.split() for line in lines]


def kernel_address(address: str) -> str:
    """`[HOST:]PORT` as the kernel writes it, little-endian; without a host, what every one ends with."""
    host, _, port = address.rpartition(":")
    return f"{socket.inet_aton(host)[::-1].hex() if host else ''}:{int(port):04x}".upper()


def requests_open(table: list[list[str]], upstream: str) -> set[str]:
    """Connections to Ollama: nginx opens one for each request that it lets through, and keeps none."""
    remote = kernel_address(upstream)
    return {row[1] for row in table if row[2] == remote and row[3] in TCP_OPEN}


def answers_unread(table: list[list[str]], listen: str) -> int:
    """Connections from clients that hold the end of an answer which they have not taken yet."""
    local = kernel_address(listen)
    return sum(row[1].endswith(local) and int(row[4].split(":")[0], 16) > UNREAD_BYTES for row in table)


def awake() -> set[str]:
    """Those of nginx's workers that run or wait for a processor: none of the others has begun anything."""
    found = set()
    with contextlib.suppress(OSError):
        master = (RUN / "nginx.pid").read_text().strip()
        for worker in Path(f"/proc/{master}/task/{master}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                state = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0]
                if state in ("R", "D"):
                    found.add(worker)
    return found


def settle() -> None:
    """Until each worker has slept since the fence stands: whatever it looks at from then on, it sees the fence."""
    time.sleep(SETTLE_S)
    busy = awake()
    for _ in range(LOOKS):
        if not busy:
            break
        time.sleep(LOOK_S)
        busy &= awake()


def log_tail(path: Path, lines: int = 60) -> list[str]:
    """The last lines of a log, printable and of bearable length: whoever waits for a boot asks twice a second."""
    if not path.exists():
        return []
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - 8192))
        text = log.read().decode(errors="replace")
    shown = ("".join(c if c.isprintable() else " " for c in line).rstrip() for line in text.splitlines())
    return [line[:300] for line in shown if line][-lines:]


class Agent:
    """The state behind the endpoints: changed under one lock, and on file before it is answered."""

    def __init__(self) -> None:
        self.policy = json.loads((ETC / "policy.json").read_text())
        self.watchdog = Watchdog(self.policy)
        found = re.search(r"listen ([0-9.:]*11435)", (ETC / "nginx.conf").read_text())
        self.listen = found[1] if found else "11435"
        self.lock = threading.RLock()
        now = boottime()
        self.fence = Fence.load(RUN / "fence", now)
        kept = {"size": -1, "touches": 0, "active_at": now, "since": now, **read_json(RUN / "activity.json")}
        self.size, self.touches = kept["size"], kept["touches"]
        self.active_at, self.since = kept["active_at"], kept["since"]
        self.retry_at = 0.0
        self.open: dict[str, float] = {}
        self.keep()

    def keep(self) -> None:
        names = ("size", "touches", "active_at", "since")
        write_atomically(RUN / "activity.json", json.dumps({name: getattr(self, name) for name in names}))

    def change(self, fence: Fence, answer: Answer) -> Answer:
        """On file before it is so, and so before it is said."""
        if fence != self.fence:
            fence.save(RUN / "fence")
            self.fence = fence
        return answer

    def boot(self) -> dict[str, Any]:
        return read_boot(RUN / "boot.json", boottime(), self.since)

    def mark(self) -> Mark:
        """What the machine has been asked for so far: its requests, at two bytes each, and the touches."""
        activity = LOG / "activity"
        size = activity.stat().st_size if activity.exists() else 0
        if size != self.size:
            self.size, self.active_at = size, boottime()
            self.keep()
        return size // 2, self.touches

    def in_flight(self) -> int:
        """How many requests are under way. One that takes long is activity, too; a short one is once nginx logs it."""
        table, now = sockets(), boottime()
        self.open = {one: self.open.get(one, now) for one in requests_open(table, self.policy["upstream"])}
        long = any(now - began >= LISTING_S for began in self.open.values())
        if long or self.boot()["phase"] not in ("ready", "failed"):
            self.active_at = now
            self.keep()
        slow = now - self.active_at < UNREAD_S
        return max(len(self.open), answers_unread(table, self.listen) if slow else 0)

    def sample(self) -> int:
        """Note what goes on, once a second and at each question; returns the number in flight."""
        with self.lock:
            count = self.in_flight()
            self.mark()
            self.change(self.fence.expire(boottime()), (200, None))
            return count

    def put(self, owner: str) -> Answer:
        with self.lock:
            answer = self.change(*self.fence.put(owner, boottime(), self.mark()))
        settle()
        return answer

    def commit(self, owner: str) -> Answer:
        with self.lock:
            count = self.in_flight()
            # nginx closes its connection to Ollama just before it logs the request's end.
            time.sleep(SETTLE_S / 2)
            return self.change(*self.fence.commit(owner, boottime(), self.mark(), count))

    def delete(self, owner: str) -> Answer:
        with self.lock:
            return self.change(*self.fence.delete(owner, boottime()))

    def seize(self, owner: str) -> None:
        """Shut for good: whoever comes back to a commit of its own must not open a machine that is going down.

        As old as an abandoned commit at least, so that a power-off that fails is tried again; and no younger for being
        seized again, so that a reaper sees what does not go.
        """
        now = boottime()
        committed = now - COMMIT_MARGIN_S
        if self.fence.committed is not None:
            committed = min(committed, self.fence.committed)
        self.change(Fence(owner, now, self.mark(), committed), (200, None))

    def touch(self) -> Answer:
        """Somebody wants this machine. Behind a fence it counts too: as after a refused POST, no commit."""
        with self.lock:
            self.touches += 1
            self.active_at = boottime()
            self.keep()
            shut = self.fence.expire(boottime()).owner is not None
        return (503, {"error": "this instance is draining"}) if shut else (204, None)

    def proof(self) -> Answer:
        """That one machine holds both the key and the certificate; no key leaves, no nonce comes twice."""
        key = (ETC / "key").read_text().strip().encode()
        certificate = ssl.PEM_cert_to_DER_cert((TLS / "cert.pem").read_text())
        nonce = secrets.token_hex(16)
        said = f"exollama-tls-v1\n{nonce}\n{hashlib.sha256(certificate).hexdigest()}"
        return 200, {"nonce": nonce, "mac": hmac.new(key, said.encode(), hashlib.sha256).hexdigest()}

    def status(self) -> Answer:
        with self.lock:
            count, now, boot = self.sample(), boottime(), self.boot()
            del boot["failed_s"]
            return 200, {
                "v": 1,
                "idle_s": round(max(0.0, now - self.active_at), 1),
                "in_flight": count,
                "requests": self.size // 2,
                "boot": {**boot, "log": log_tail(LOG / "boot.log")},
                "fence": self.fence.view(now) if self.fence.owner else None,
                "policy": {k: v for k, v in self.policy.items() if k not in ("request", "upstream")},
                "versions": {"agent": 1, "exollama": self.policy["version"], "python": platform.python_version()},
            }

    def tick(self) -> None:
        """Look, and power off when the watchdog says so."""
        with self.lock:  # from the look to the commit: whoever touches this machine comes before or behind all of it
            self.sample()
            now = boottime()
            verdict = self.watchdog.decide(
                idle_s=now - self.active_at,
                boot=self.boot(),
                committed_s=None if self.fence.committed is None else now - self.fence.committed,
                wall=time.time(),
            )
            if verdict is None or now < self.retry_at:
                return
            reason, forced = verdict
            owner = secrets.token_hex(16)
            if not forced:  # fence and commit, like any other reaper
                self.put(owner)
                if self.commit(owner)[0] != 200:
                    self.delete(owner)
                    return
            self.seize(owner)
        print(f"powering off: {reason}", file=sys.stderr, flush=True)
        self.retry_at = now + 30
        subprocess.run(["systemctl", "poweroff"], timeout=25, check=True)


ROUTES: dict[str, dict[str, Any]] = {
    "proof": {"GET": Agent.proof},
    "status": {"GET": Agent.status},
    "touch": {"POST": Agent.touch},
    "fence/([^/]+)": {"PUT": Agent.put, "DELETE": Agent.delete},
    "fence/([^/]+)/commit": {"POST": Agent.commit},
}


class Handler(http.server.BaseHTTPRequestHandler):
    """One request on one connection, as nginx makes them."""

    agent: Agent
    timeout = 10

    def answer(self) -> None:
        try:
            status, body = self.route(self.path.partition("?")[0])
        except Exception as error:  # noqa: BLE001 - whatever it is, the asker is told and the agent goes on
            print(f"{self.command}: {error!r}", file=sys.stderr, flush=True)
            status, body = 500, {"error": f"the agent failed: {type(error).__name__}"}
        self.reply(status, body)

    do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the library's names

    def route(self, path: str) -> Answer:
        length = self.headers.get("Content-Length", "0")
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > BODY_LIMIT:
            return 413, {"error": f"a body is at most {BODY_LIMIT} bytes"}
        self.rfile.read(int(length))
        for pattern, methods in ROUTES.items():
            if found := re.fullmatch(r"/\.exollama/" + pattern, path):
                if self.command not in methods:
                    return 405, {"error": f"{path} takes {' and '.join(methods)}"}
                if not all(map(OWNER.fullmatch, found.groups())):
                    return 400, {"error": "OWNER is 32 lowercase hex digits"}
                answer: Answer = methods[self.command](self.agent, *found.groups())
                return answer
        return 404, {"error": "no such path under /.exollama/"}

    def reply(self, status: int, body: dict[str, Any] | None) -> None:
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if status == 503:
            self.send_header("X-Exollama", "draining")
            self.send_header("Retry-After", "5")
        if body is not None:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What the library refuses by itself: 501 is its word for a method that it does not know."""
        self.reply(405 if code == 501 else code, {"error": message or "refused"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: a request line is no log's business."""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A thread per request; systemd's TasksMax is their bound."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: whoever asked has gone."""


def main() -> None:
    """Serve, and look once a second."""
    Handler.agent = agent = Agent()
    path = RUN / "agent.sock"
    path.unlink(missing_ok=True)
    with Server(str(path), Handler) as server:
        with contextlib.suppress(LookupError, OSError):  # no root, no such group: a test
            shutil.chown(path, group="www-data")
        path.chmod(0o660)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while True:
            try:
                agent.tick()
            except Exception as error:  # noqa: BLE001 - the watchdog outlives whatever it trips over
                print(f"tick: {error!r}", file=sys.stderr, flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
