"""The command line as a process: signals, closed pipes, and no site-packages."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import API_KEY, API_SECRET, KEY

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXOSCALE_API_KEY", API_KEY)
    monkeypatch.setenv("EXOSCALE_API_SECRET", API_SECRET)
    monkeypatch.setenv("EXOSCALE_OLLAMA_KEY", KEY)


@pytest.fixture
def silent_api() -> Iterator[socket.socket]:
    """An API that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        yield server


def start(silent: socket.socket, *arguments: str, **env: str) -> subprocess.Popen[str]:
    endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/{{zone}}/v2"
    return subprocess.Popen(
        [sys.executable, "-m", "client", *arguments],
        cwd=ROOT,
        env=os.environ | {"EXOSCALE_API_ENDPOINT": endpoint} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        (["provision"], {}),
        (["generate", "why?", "--no-provision"], {}),
        (["logs", "--follow"], {}),
        (["reap"], {}),
        (["reap"], {"EXOSCALE_ZONES": "ch-gva-2,de-fra-1"}),
    ],
    ids=["provision", "generate", "logs", "reap", "reap in threads"],
)
def test_a_signal_ends_a_verb_soon_with_its_code_and_without_a_traceback(
    silent_api: socket.socket, sent: signal.Signals, code: int, arguments: list[str], env: dict[str, str]
) -> None:
    process = start(silent_api, *arguments, **env)
    try:
        waiting, _ = silent_api.accept()
        with waiting:
            waiting.recv(1)  # the request is under way
            process.send_signal(sent)
            _, err = process.communicate(timeout=15)  # an answer would be waited for much longer
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code
    assert "Traceback" not in err
    assert API_SECRET not in err


PRINTING = """
import sys
from client import cli, verbs
verbs._VERBS = {"status": lambda *_: [print("x" * 100_000, flush=FLUSH), 0][1]}
sys.exit(cli.main(["status"]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", PRINTING.replace("FLUSH", "True")],
        ["-c", PRINTING.replace("FLUSH", "False")],
        ["-m", "client", "--help"],
        ["-m", "client", "--version"],
        ["-m", "client", "status", "--help"],
    ],
    ids=["while printing", "at the end", "help", "version", "a verb's help"],
)
def test_a_closed_pipe_is_no_traceback(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.stderr == ""
    assert done.returncode in (0, 1)


RAISING = """
import sys
from client import cli, errors, verbs
def fail(*_):
    raise errors.NoInstance("there is none")
verbs._VERBS = {"status": fail, "reap": fail}
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["status"], 3), (["reap", "--json"], 3), (["status", "--nonsense"], 2), (["no-verb"], 2)],
    ids=["an error", "as json", "usage", "no verb"],
)
def test_with_standard_error_closed_the_code_is_as_ever_and_standard_output_has_results_alone(
    arguments: list[str], code: int
) -> None:
    shell = ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-X", "dev", "-c", RAISING, *arguments]
    done = subprocess.run(shell, cwd=ROOT, stdout=subprocess.PIPE, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (code, b"")


def test_help_works_from_a_checkout_without_site_packages() -> None:
    command = [sys.executable, "-S", "-m", "client", "--help"]
    assert "usage: " in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout
