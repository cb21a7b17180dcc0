"""A machine below one folder for the bootstrap to boot: the programs that it calls, and what Ollama answers."""

import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.unit.machine import PYTHON, ROOT

PHASES = ["starting", "docker", "nginx", "image", "container", "model", "warmup"]
IMAGE, MODEL, ADDRESS = "ollama/ollama:1.2.3", "tiny:1b", "192.0.2.7"
PREFIXES = ("/etc/", "/run/exollama", "/var/log/exollama", "/var/lib/exollama")
DOCKER_KEY = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
PRESENT = ("ca-certificates", "curl", "gpg")  # in every cloud's image
KEY_LINES = (
    "pub:-:4096:1:8D81803C0EBFCD88::::::",
    f"fpr:::::::::{DOCKER_KEY}:",
    "sub:-:4096:1:7EA0::::::",
    "fpr:::::::::AA:",
)
GOOD_KEYS = "\n".join(KEY_LINES) + "\n"


def layer(name: str, completed: int, total: int) -> dict[str, Any]:
    return {"status": f"pulling {name}", "digest": f"sha256:{name}", "completed": completed, "total": total}


PULL = [
    {"status": "pulling manifest"},
    {"status": "pulling a", "digest": "sha256:a", "total": 900},
    layer("a", 450, 900),
    layer("a", 900, 900),
    layer("b", 0, 100),
    layer("b", 100, 100),
    {"status": "verifying sha256 digest"},
    {"status": "success"},
]


class Ollama(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.present = False
        self.pulls: list[list[Any]] = [PULL]  # one a pull; the last one again and again
        self.answers: dict[str, tuple[int, Any]] = {"/api/generate": (200, {"response": "x", "done": True})}
        self.pause: Callable[[int], None] = lambda line: None
        super().__init__(("127.0.0.1", 0), Handler)

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Ollama

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body: Any) -> None:
        self.server.asked.append((self.path, body))
        if self.path == "/api/pull":
            lines = self.server.pulls.pop(0) if len(self.server.pulls) > 1 else self.server.pulls[0]
            self.send_response(200)
            self.end_headers()
            for number, line in enumerate(lines):
                self.wfile.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
                self.wfile.flush()
                self.server.pause(number)
            self.server.present = lines[-1] == {"status": "success"}
            return
        found = {
            "/api/version": (200, {}),
            "/api/show": (200 if self.server.present else 404, {}),
            **self.server.answers,
        }
        status, answer = found.get(self.path, (404, {"error": "no such path"}))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


class Machine:
    """An instance's files below a folder, stubs on PATH that note how they were called, and Ollama's stand-in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ollama = Ollama()
        self.thread = threading.Thread(target=self.ollama.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.upstream = f"127.0.0.1:{self.ollama.server_address[1]}"
        self.bin, self.state = root / "bin", root / "state"
        for folder in (self.bin, self.state, self.place("/etc/exollama")):
            folder.mkdir(parents=True)
        for package in PRESENT:
            (self.state / package).touch()
        policy = {"image": IMAGE, "model": MODEL, "upstream": self.upstream}
        self.place("/etc/exollama/policy.json").write_text(json.dumps(policy))
        for name in ("bootstrap", "commands", "door"):
            text = (ROOT / f"cloudinit/{name}.py").read_text()
            for prefix in PREFIXES:
                text = text.replace(f'"{prefix}', f'"{root}{prefix}')
            (root / f"{name}.py").write_text(text)
        self.program = root / "bootstrap.py"
        self.calls_log = root / "calls"
        self.boots: list[dict[str, Any]] = []
        for command in ("openssl", "sh", "touch", "cat", "sleep", "grep"):
            (self.bin / command).symlink_to(str(shutil.which(command)))
        self.stub("curl", 'case "$*" in *169.254*) echo ' + ADDRESS + ' ;; *) touch "${11}" ;; esac')
        self.stub("systemctl", f'case "$*" in *start*nginx*) touch {self.place("/run/exollama")}/nginx.pid ;; esac')
        self.stub("dpkg-query", f'[ -e {self.state}/"$4" ] && printf installed || exit 1')
        self.stub("apt-get", f'[ "$1" = install ] || exit 0\nfor p; do touch {self.state}/"$p" 2>/dev/null; done')
        self.stub("dpkg", "echo amd64")
        self.stub("gpg", f"case \"$*\" in *show-keys*) printf '%s' '{GOOD_KEYS}' ;; esac")
        self.stub(
            "docker",
            f"""case "$1 $2" in
            "image inspect") [ -e {self.state}/image ] ;;
            "pull -q") touch {self.state}/image ;;
            "container inspect") cat {self.state}/container 2>/dev/null ;;
            "run -d") for last; do :; done; echo "$last" > {self.state}/container ;;
            esac""",
        )

    def place(self, path: str) -> Path:
        return self.root / path[1:]

    def stub(self, name: str, script: str) -> None:
        note = f'printf "%s\\n" "{name}${{*:+ $*}}" >> {self.calls_log}'  # whole lines: some run beside each other
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/bin/sh\n{note}\n{script}\n")
        (self.bin / name).chmod(0o755)

    def fail(self, name: str, when: str, said: str = "it went wrong", times: int = 99) -> None:
        """Let a stub fail where its arguments match a shell pattern, so many times."""
        body = (self.bin / name).read_text().partition("\n")[2].partition("\n")[2]
        counter = self.state / f"failures-of-{name}"
        check = f'n=$(cat {counter} 2>/dev/null || echo 0); [ "$n" -lt {times} ]'
        fail = f'echo $((n+1)) > {counter}; echo first line; echo "{said}" >&2; exit 7'
        self.stub(name, f'case "$*" in {when}) if {check}; then {fail}; fi ;; esac\n{body}')

    def start(self) -> subprocess.Popen[bytes]:
        env = {"PATH": str(self.bin), "EXOLLAMA_RETRY_S": "0.01", "HOME": str(self.root)}
        return subprocess.Popen([PYTHON, "-I", str(self.program)], env=env)

    def boot(self) -> int:
        self.calls_log.unlink(missing_ok=True)
        with self.start() as process:
            return process.wait(60)

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.place("/run/exollama/boot.json").read_text())
        return found

    def calls(self, *starts: str) -> list[str]:
        lines = self.calls_log.read_text().splitlines() if self.calls_log.exists() else []
        return [line for line in lines if not starts or line.startswith(starts)]

    def log(self) -> str:
        return self.place("/var/log/exollama/boot.log").read_text()

    def close(self) -> None:
        self.ollama.shutdown()
        self.ollama.server_close()
        self.thread.join(10)
