"""The shell and Python blocks of README.md, docs/ and deploy/ do what they say, on the simulator.

Each page is gone through in order, as a reader pastes it: a block's exported variables stay for the next ones. What is
on PATH is this checkout's `exollama`; Ollama's port is another one here, since this machine's may be taken. A comment
in the line above a block says more: `<!-- live -->` wants an account or other infrastructure, is not run, and listed
below; `<!-- background -->` runs until the page ends. README's first two blocks are what .ci/run runs itself. A block
that is written in any other way than these is an error, lest it be overlooked.
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
import yaml

from functions.calls import Request, from_request
from functions.faas import HTTP_S
from tests.deploy.tools import filled_in, needed, stand_in
from tests.readme import PARTS
from tests.simulator import Simulator
from tests.system.verbs import PATIENCE_S, ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
MARK = re.compile(r"<!-- (\w+) -->")
RAN = ("sh", "python")
SHOWN = ("yaml", "")  # no commands: CI files, and lines of a crontab, which tests/deploy/test_cron.py has fired
LIVE = {
    "README.md": ["export EXOSCALE_API_KEY=EXO…", "export EXOSCALE_INSTANCE_TYPE=gpua30.small"],
    "deploy/README.md": ["python3 -m", "sudo python3", "[ -e", "docker build"],
    "deploy/faas/README.md": [
        "nox -s", "aws lambda", "python3 -m", "az functionapp", "func create", "faas-cli new",
        "PYTHONPATH=dist/exollama-faas.zip gunicorn",
    ],
    "deploy/iam/README.md": ["exo iam"],
    "docs/getting-started.md": ["exo iam", "exo iam", "python3 -m"],
    "docs/unproven.md": ["export EXOSCALE_API_KEY=EXO…"],
}  # fmt: skip
"""How the blocks of each page begin that are not run: no other may hide among them."""

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
    """One block: `how` is run, ci, live, background or shown."""

    where: str
    how: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in their order, but for those of its generated parts."""
    text = page.read_text(encoding="utf-8")
    for part in (name for name, (file, _) in PARTS.items() if file == page):
        made = re.compile(rf"<!-- {part}: begin -->.*?<!-- {part}: end -->", re.DOTALL)
        text = made.sub(lambda found: "\n" * found[0].count("\n"), text)
    return blocks_of(page.relative_to(ROOT).as_posix(), text)


def blocks_of(name: str, text: str) -> list[Block]:
    """The blocks of a page's text. Fails where one is fenced, marked or set in otherwise than they are here."""
    by_ci = set(re.findall(r'^(?:demo|tests)="(.*)"$', (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE))
    found: list[Block] = []
    lines = ["", *text.splitlines()]
    at = 1
    while at < len(lines):
        line, where = lines[at], f"{name}:{at + 1}"
        if "```" not in line and "~~~" not in line:
            assert not re.match(r" {4}|\t|.*<pre\b", line), f"{where} looks like code without a fence: {line}"
            at += 1
            continue
        language = line.removeprefix("```")
        assert line.startswith("```"), f"{where}: a fence stands at the margin, on a line of its own: {line}"
        assert language in (*RAN, *SHOWN), f"{where}: {language!r} is none of {RAN} and {SHOWN}"
        assert "```" in lines[at + 1 :], f"{where} does not end"
        end = lines.index("```", at + 1)
        inside = "".join(f"{one}\n" for one in lines[at + 1 : end])
        mark = MARK.fullmatch(lines[at - 1])
        how = mark[1] if mark else "shown" if language in SHOWN else "ci" if inside.strip() in by_ci else "run"
        assert how in ("run", "ci", "live", "background", "shown"), f"{where} has a mark that nobody knows: {how}"
        found.append(Block(where=where, how=how, language=language, text=inside))
        at = end + 1
    return found


def statements(block: Block) -> list[str]:
    """A shell block's statements, each whole by itself, as bash reads them: one that fails must not pass for another.

    Fails where the last one is not whole, as a here-document without its end, or goes on in the background.
    """
    found, rest = [], ""
    for line in block.text.splitlines(keepends=True):
        rest += line
        read = subprocess.run(["bash", "-n", "-c", rest], capture_output=True, text=True, timeout=10, check=False)
        if not (read.returncode or read.stderr or rest.endswith("\\\n")):
            assert not re.search(r"[^&>]&\s*(?:#.*)?$", rest), f"{block.where}: mark it background, without &: {rest}"
            found.append(rest)
            rest = ""
    assert not rest, f"{block.where} does not end:\n{rest}"
    return found


RUN = [page for page in PAGES if any(block.how in ("run", "background") for block in blocks(page))]


class Reader:
    """Somebody who pastes one page's blocks, in a folder that looks like a checkout."""

    def __init__(self, simulator: Simulator, folder: Path, port: int) -> None:
        self._simulator, self._port = simulator, port
        self.checkout, self._home = folder / "checkout", folder / "home"
        self.checkout.mkdir()
        for entry in ROOT.iterdir():
            if not entry.name.startswith("."):
                (self.checkout / entry.name).symlink_to(entry)
        filled_in(_made(self._home / ".exollama.env"), simulator.env)
        # An error's status is a failure for curl as well, and nothing waits for ever.
        (self._home / ".curlrc").write_text("fail\nmax-time = 30\n")
        verbs = stand_in(folder / "programs/verbs", simulator)
        program = _made(folder / "bin/exollama")
        self._failed = folder / "failed"
        program.write_text(
            f'#!/bin/sh\n[ "$1" != serve ] || {{ shift; exec {verbs} serve --listen 127.0.0.1:{self._port} "$@"; }}\n'
            # What fails within $(…) is no failure to a shell.
            f'{verbs} "$@" || {{ code=$?; echo "exollama $*: $code" >>{self._failed}; exit $code; }}\n'
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
        for left in (after, self._failed):
            left.unlink(missing_ok=True)
        if block.language == "sh":
            # Not by -e alone: that lets `false && true` pass, and can be switched off.
            each = "".join(f"{one}(exit $?) || exit\n" for one in statements(block))
            command = ["bash", "-e", "-o", "pipefail", "-c", f"{self._here(each)}env -0 >{after}\n"]
        else:
            command = self.shifted("-c", self._here(block.text))
        done = subprocess.run(
            command, cwd=self.checkout, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=45, check=False,
        )  # fmt: skip
        said = f"{block.where} ended with {done.returncode}:\n{block.text}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, said
        assert "Traceback" not in done.stderr, said
        assert not self._failed.exists(), f"{said}\n{self._failed.read_text(encoding='utf-8')}"
        if block.language == "sh":
            assert after.exists(), f"{block.where} leaves the shell before its end:\n{said}"
            pairs = (line.partition("=") for line in after.read_text(encoding="utf-8").split("\0") if line)
            self.environment = {name: value for name, _, value in pairs if name not in ("_", "SHLVL", "PWD", "OLDPWD")}

    @contextmanager
    def leaves_running(self, block: Block) -> Iterator[None]:
        """Start a block that serves, wait until it does, and end it with the page; it has to end well."""
        assert block.text.count("\n") == 1, f"{block.where}: only one line can go on until the page ends"
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
def test_the_blocks_of_a_page_work_one_after_the_other(page: Path, empty: Simulator, tmp_path: Path, port: int) -> None:
    needed("curl", "curl")
    found = blocks(page)
    reader = Reader(empty, tmp_path, port)
    with ExitStack() as running:
        if any("EXOLLAMA_PROVISION_URL" in block.text for block in found if block.how == "run"):
            running.enter_context(reader.function())
        for block in found:
            if block.how == "run":
                reader.pastes(block)
            elif block.how == "background":
                running.enter_context(reader.leaves_running(block))


def test_the_blocks_that_are_not_run_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    found = [block for page in PAGES for block in blocks(page)]
    ways = Counter(block.how for block in found)
    with capsys.disabled():
        print(f"\n{sum(ways.values())} blocks: {', '.join(f'{count} {how}' for how, count in sorted(ways.items()))}")
    live: dict[str, list[str]] = {}
    for block in (block for block in found if block.how == "live"):
        live.setdefault(block.where.partition(":")[0], []).append(" ".join(block.text.split()[:2]))
    assert live == LIVE
    assert ways["ci"] == 2, "README's demo and tests, word for word as in .ci/run"


def test_what_is_shown_without_a_language_is_the_crontab_that_is_tested() -> None:
    crontab = (ROOT / "deploy/cron/crontab").read_text(encoding="utf-8").splitlines()
    shown = [block for page in PAGES for block in blocks(page) if block.language == ""]
    assert len(shown) == 2
    for block in shown:
        lines = block.text.replace("/path/to/.venv/bin/exollama", '"$HOME/.local/bin/exollama"').splitlines()
        assert set(lines) <= set(crontab), block.where


def test_what_prometheus_is_told_to_ask_the_function_for_is_metrics() -> None:
    [block] = [block for page in PAGES for block in blocks(page) if "scrape_configs" in block.text]
    [job] = yaml.safe_load(block.text)["scrape_configs"]
    query = {name: value for name, [value] in job["params"].items()}
    token = secrets.token_hex(32)
    headers = {"Authorization": f"Bearer {token}"}  # what `authorization` sends unless it names another type
    asked = Request(method="GET", path=job["metrics_path"], query=query, headers=headers)
    call = from_request(asked, {"EXOLLAMA_FUNCTION_TOKEN": token})
    assert (call.action, call.format) == ("status", "prometheus")
    assert int(job["scrape_timeout"].rstrip("s")) > HTTP_S


def test_every_shell_block_is_whole_whether_it_is_run_or_not() -> None:
    for block in (block for page in PAGES for block in blocks(page) if block.language == "sh"):
        assert statements(block), block.where


@pytest.mark.parametrize(
    "text",
    [
        "```bash\ntrue\n```\n",
        "```console\n$ true\n```\n",
        "``` sh\ntrue\n```\n",
        "```sh title\ntrue\n```\n",
        "````sh\ntrue\n````\n",
        "~~~sh\ntrue\n~~~\n",
        "- a list\n\n  ```sh\n  true\n  ```\n",
        "> ```sh\n> true\n> ```\n",
        "```sh\ntrue\n",
        "as follows:\n\n    true\n",
        "<pre>true</pre>\n",
        "<!-- later -->\n```sh\ntrue\n```\n",
    ],
)
def test_a_block_that_is_written_otherwise_is_not_overlooked(text: str) -> None:
    assert [block.how for block in blocks_of("x.md", "words\n\n```sh\ntrue\n```\n")] == ["run"]
    with pytest.raises(AssertionError, match=r"x\.md:"):
        blocks_of("x.md", text)


def test_a_block_that_fails_is_not_passed_over(empty: Simulator, tmp_path: Path, port: int) -> None:
    reader = Reader(empty, tmp_path, port)
    reader.pastes(Block(where="x.md:0", how="run", language="sh", text="exollama status\n[ -e no ] || \\\n true\n"))
    for language, text in (
        ("sh", "exollama status\nexollama env\ntrue\n"),
        ("sh", "exollama env && true\ntrue\n"),
        ("sh", "set +e\nfalse\ntrue\n"),
        ("sh", 'eval "$(exollama env)"\n'),
        ("sh", "exit 0\nfalse\n"),
        ("sh", "cat <<END\nfalse\n"),
        ("sh", "false &\n"),
        ("sh", "true \\\n"),
        ("python", "import nothing_of_that_name\n"),
    ):
        with pytest.raises(AssertionError, match=r"x\.md:1"):
            reader.pastes(Block(where="x.md:1", how="run", language=language, text=text))
    assert shutil.which("exollama", path=reader.environment["PATH"])
