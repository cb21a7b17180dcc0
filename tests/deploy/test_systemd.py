"""deploy/systemd: its units as systemd-analyze reads and rates them, without installing them. No systemd runs here."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from client import cli
from tests.deploy.tools import DEPLOY, optional

UNITS = DEPLOY / "systemd"
SERVICES = ["exollama-check.service", "exollama-reap.service", "exollama-serve.service"]
TIMERS = ["exollama-check.timer", "exollama-reap.timer"]
EXPOSURE = 15
"""In tenths. What is left is the network, and the host's files to read: 1.2 by systemd 252."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with systemd's own units, ours, and something in the program's place."""
    library = Path("/lib/systemd/system")
    if not library.is_dir():
        pytest.skip("not run: systemd is not installed")
    shutil.copytree(library, tmp_path / "lib/systemd/system", symlinks=True)
    shutil.copytree(UNITS, tmp_path / "etc/systemd/system")
    (tmp_path / "opt/exollama/bin").mkdir(parents=True)
    shutil.copy("/bin/true", tmp_path / "opt/exollama/bin/exollama")
    return tmp_path


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    command = [optional("systemd-analyze"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_finds_nothing_wrong_with_the_units(root: Path) -> None:
    assert sorted(path.name for path in UNITS.iterdir() if path.is_file()) == sorted([*SERVICES, *TIMERS])
    done = analyze("verify", f"--root={root}", *SERVICES, *TIMERS)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_would_find_what_is_wrong_in_what_the_services_share(root: Path) -> None:
    shared = root / "etc/systemd/system/exollama-.service.d/hardening.conf"
    shared.write_text(shared.read_text().replace("PrivateTmp=", "PrivateTemp="))
    assert "'PrivateTemp'" in analyze("verify", f"--root={root}", *SERVICES).stderr


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_exposes_little_by_systemds_own_rating(root: Path, unit: str) -> None:
    offline = ("security", "--no-pager", "--offline=true", f"--root={root}")
    done = analyze(*offline, f"--threshold={EXPOSURE}", unit)
    assert done.returncode == 0, done.stdout
    assert f"exposure level for {unit}" in done.stdout
    assert analyze(*offline, "--threshold=5", unit).returncode != 0


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_starts_a_verb_that_there_is(unit: str) -> None:
    [words] = re.findall(r"^ExecStart=/opt/exollama/bin/exollama (.*)$", (UNITS / unit).read_text(), re.MULTILINE)
    verb, *flags = words.split()
    cli.parser("exollama", verb).parse_args(flags)  # exits otherwise


LINES = {
    # Without its settings a service fails and says so: a minus sign before the path would let it start without.
    "exollama-.service.d/hardening.conf": ["EnvironmentFile=/etc/exollama.env"],
    # Ten minutes is what README.md promises; a timer that nothing wants is never started by `enable`.
    "exollama-reap.timer": ["OnCalendar=*:0/10", "Persistent=yes", "WantedBy=timers.target"],
    # Hourly, and between two passes.
    "exollama-check.timer": ["OnCalendar=*:07", "Persistent=yes", "WantedBy=timers.target"],
    "exollama-serve.service": ["WantedBy=multi-user.target"],
}


@pytest.mark.parametrize("unit", LINES)
def test_a_unit_has_the_lines_that_no_tool_would_miss(unit: str) -> None:
    names = {line.partition("=")[0] for line in LINES[unit]}
    lines = [line for line in (UNITS / unit).read_text().splitlines() if line.partition("=")[0] in names]
    assert lines == LINES[unit]


def test_serve_is_left_more_time_to_end_than_requests_get() -> None:
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)$", (UNITS / "exollama-serve.service").read_text(), re.MULTILINE)
    assert int(seconds) > float(cli.parser("exollama", "serve").parse_args([]).drain)
