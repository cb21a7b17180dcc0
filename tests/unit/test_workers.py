"""Workers keep to themselves as a whole run does, and what they counted and left running is the run's."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import os, subprocess, sys, threading, warnings
import pytest
from tests.tally import TALLY

def test_development_mode_is_on_and_a_warning_an_error():
    assert sys.flags.dev_mode
    with pytest.raises(UserWarning):
        warnings.warn("noticed")

def test_it_is_isolated_as_a_process_of_its_own():
    assert "exollama-home-" in os.environ["HOME"]
    TALLY.searched.append("so much")
    TALLY.raced.append("so many")
    TALLY.gaps["here"] = 3
    TALLY.faults.append(("here", "GET 1", "500", "1, gone; then made"))
    TALLY.fuzzed["good"] += 2

def test_something_is_left_running():
    threading.Thread(target=threading.Event().wait, name="straggler", daemon=True).start()
    subprocess.Popen(["sleep", "90"], start_new_session=True, stdout=-3, stderr=-3).returncode = 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")
def test_what_workers_counted_is_told_once_for_all_and_what_one_left_running_fails_the_run(tmp_path: Path) -> None:
    head, *tests = TESTS.split("\ndef ")
    for number, test in enumerate(tests):  # a file each, and one more than there are workers
        (tmp_path / f"test_{number}.py").write_text(f"{head}\ndef {test}")
    command = [sys.executable, "-X", "dev", "-m", "pytest", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]
    command += ["-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    counted, _, left = done.stdout.partition("left running after the tests:")
    try:
        assert "thread straggler" in left, done.stdout + done.stderr
        assert "sleep 90" in left
        assert done.returncode == 1
        assert "3 passed" in done.stdout
        for line in ("so much", "so many", "        2 good", "1 faults in 1 calls of 1 situations", "(here: 3)"):
            assert (counted + left).count(line) == 1, line
    finally:
        for pid in left.split("process ")[1:]:
            os.kill(int(pid.partition(":")[0]), signal.SIGKILL)
