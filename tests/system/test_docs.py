"""The shell and Python blocks of README.md, docs/ and deploy/ do what they say, on the simulator.

Each page is gone through in order, as a reader pastes it: a block's exported variables stay for the next ones. What is
on PATH is this checkout's `exollama`; Ollama's port is another one here, since this machine's may be taken. A comment
in the line above a block says more: `<!-- live -->` wants an account or other infrastructure, is not run, and counted;
`<!-- background -->` runs until the page ends. README's first two blocks are what .ci/run runs itself.
"""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.tools import filled_in, needed, stand_in
from tests.simulator import Simulator
from tests.system.verbs import PATIENCE_S, ROOT

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")])
BLOCK = re.compile(r"^(?:<!-- (\w+) -->\n)?```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LIVE = {
    "README.md": 2,  # with an account; on a GPU
    "deploy/README.md": 4,  # cron, systemd, compose, Kubernetes
    "deploy/faas/README.md": 7,  # the bundle, five platforms, other servers
    "deploy/iam/README.md": 1,
    "docs/getting-started.md": 3,  # role, key, installing
}
"""How many blocks of each page are not run: none may be hidden among them."""

# What answers under EXOLLAMA_PROVISION_URL, where a page asks it.
FUNCTION = """
from wsgiref.simple_server import WSGIRequestHandler, make_server
from functions import faas
WSGIRequestHandler.log_message = lambda *args: None
with make_server("127.0.0.1", 0, faas.wsgi) as server:
    print(server.server_port, flush=True)
    server.serve_forever(0.05)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block: `how` is run, ci, live or background."""

    where: str
    how: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    by_ci = set(re.findall(r'^(?:demo|tests)="(.*)"$', (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE))
    found = []
    for match in BLOCK.finditer(text):
        how = match[1] or ("ci" if match[3].strip() in by_ci else "run")
        assert how in ("run", "ci", "live", "background"), f"{name} has a mark that nobody knows: {how}"
        where = f"{name}:{text.count(chr(10), 0, match.start(3)) + 1}"
        found.append(Block(where=where, how=how, language=match[2], text=match[3]))
    return found


RUN = [page for page in PAGES if any(block.how in ("run", "background") for block in blocks(page))]


class Reader:
    """Somebody who pastes one page's blocks, in a folder that looks like a checkout."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        self._simulator = simulator
        self.checkout, self._home = folder / "checkout", folder / "home"
        self.checkout.mkdir()
        for entry in ROOT.iterdir():
            if not entry.name.startswith("."):
                (self.checkout / entry.name).symlink_to(entry)
        filled_in(_made(self._home / ".exollama.env"), simulator.env)
        # An error's status is a failure for curl as well, and nothing waits for ever.
        (self._home / ".curlrc").write_text("fail\nmax-time = 30\n")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._port = listener.getsockname()[1]
        verbs = stand_in(folder / "programs/verbs", simulator)
        program = _made(folder / "bin/exollama")
        program.write_text(
            '#!/bin/sh\n[ "$1" != serve ] || { shift; set -- serve --listen 127.0.0.1:' + str(self._port) + ' "$@"; }\n'
            f'exec {verbs} "$@"\n'
        )
        program.chmod(0o755)
        self.environment = {
            "PATH": f"{program.parent}:{Path(needed('curl', 'curl')).parent}:/usr/bin:/bin",
            "HOME": str(self._home),
            "PYTHONPATH": str(ROOT),
            "EXOLLAMA_SIMULATED_PATIENCE_S": PATIENCE_S,
            **simulator.env,
        }

    def pastes(self, block: Block) -> None:
        """Run a block to its end, and go on with the variables that it exported."""
        after = self._home / "environment"
        if block.language == "sh":
            command = ["bash", "-e", "-o", "pipefail", "-c", f"{self._here(block.text)}\nenv -0 >{after}\n"]
        else:
            command = self.shifted("-c", self._here(block.text))
        done = subprocess.run(
            command, cwd=self.checkout, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=45, check=False,
        )  # fmt: skip
        said = f"{block.where} ended with {done.returncode}:\n{block.text}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, said
        assert "Traceback" not in done.stderr, said
        if block.language == "sh":
            pairs = (line.partition("=") for line in after.read_text(encoding="utf-8").split("\0") if line)
            self.environment = {name: value for name, _, value in pairs if name not in ("_", "SHLVL", "PWD", "OLDPWD")}

    @contextmanager
    def leaves_running(self, block: Block) -> Iterator[None]:
        """Start a block that serves, wait until it does, and end it with the page; it has to end well."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {self._here(block.text).strip()}"], cwd=self.checkout, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            self._waits_for(process, block)
            yield
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=20)
            assert process.returncode == 0, f"{block.where}:\n{said}"
        finally:
            process.kill()
            process.communicate(timeout=10)

    @contextmanager
    def function(self) -> Iterator[None]:
        """A provision function of the same account, named in the environment."""
        token = secrets.token_hex(32)
        environment = {**self.environment, "EXOLLAMA_FUNCTION_TOKEN": token}
        process = subprocess.Popen(
            self.shifted("-c", FUNCTION), cwd=ROOT, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert process.stdout
            url = f"http://127.0.0.1:{int(process.stdout.readline())}/"
            self.environment = {**environment, "EXOLLAMA_PROVISION_URL": url}
            yield
        finally:
            process.kill()
            process.communicate(timeout=10)

    def shifted(self, *words: str) -> list[str]:
        """A Python under the simulator's clock."""
        code = self._home / f"{secrets.token_hex(4)}.py"
        code.write_text(words[-1], encoding="utf-8")
        return [sys.executable, "-m", "tests.simulator.timeshift", str(self._simulator.offset_file), str(code)]

    def _here(self, text: str) -> str:
        return text.replace("127.0.0.1:11434", f"127.0.0.1:{self._port}")

    def _waits_for(self, process: subprocess.Popen[str], block: Block) -> None:
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        process.kill()
        pytest.fail(f"{block.where} does not listen:\n{process.communicate(timeout=10)[0]}")


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_work_one_after_the_other(page: Path, empty: Simulator, tmp_path: Path) -> None:
    needed("curl", "curl")
    found = blocks(page)
    reader = Reader(empty, tmp_path)
    with ExitStack() as running:
        if any("EXOLLAMA_PROVISION_URL" in block.text for block in found if block.how == "run"):
            running.enter_context(reader.function())
        for block in found:
            if block.how == "run":
                reader.pastes(block)
            elif block.how == "background":
                running.enter_context(reader.leaves_running(block))


def test_the_blocks_that_are_not_run_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    live = Counter(block.where.partition(":")[0] for page in PAGES for block in blocks(page) if block.how == "live")
    ways = Counter(block.how for page in PAGES for block in blocks(page))
    with capsys.disabled():
        print(f"\n{sum(ways.values())} blocks: {', '.join(f'{count} {how}' for how, count in sorted(ways.items()))}")
    assert dict(live) == LIVE
    assert ways["ci"] == 2, "README's demo and tests, word for word as in .ci/run"


def test_no_block_of_a_shell_or_of_python_is_overlooked() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"<!-- (help|api): begin -->.*?<!-- \1: end -->", "", text, flags=re.DOTALL)
        fences = re.findall(r"^ *```(\w*)", text, re.MULTILINE)[::2]
        assert len(blocks(page)) >= fences.count("sh") + fences.count("python"), page
        assert not {"bash", "shell", "console", "py"} & set(fences), f"{page}: write ```sh or ```python"


def test_a_block_that_fails_is_not_passed_over(empty: Simulator, tmp_path: Path) -> None:
    reader = Reader(empty, tmp_path)
    for language, text in (
        ("sh", "exollama status\nexollama env\ntrue\n"),
        ("python", "import nothing_of_that_name\n"),
    ):
        with pytest.raises(AssertionError, match=r"x\.md:1 ended with"):
            reader.pastes(Block(where="x.md:1", how="run", language=language, text=text))
    assert shutil.which("exollama", path=reader.environment["PATH"])
