"""Where a reaper is set up on a machine, and that nothing else is told of it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from functions import reapers

ROOT = Path(__file__).parents[2]
TIMERS = """\
Thu 2026-11-26 06:20:00 UTC 4min Thu 2026-11-26 06:10:00 UTC 5min ago exollama-reap.timer exollama-reap.service
Thu 2026-11-26 07:07:00 UTC 51min - - exollama-check.timer exollama-check.service
- - - - apt-daily.timer apt-daily.service
"""


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("*/10 * * * * exollama reap", True),
        ('*/10 * * * *  set -a; . "$HOME/.exollama.env" && "$HOME/.local/bin/exollama" reap --quiet', True),
        ("*/5 * * * * root cd /srv && python -m functions.reap_idle", True),
        ("*/5 * * * * python3 -m client reap --quiet", True),
        ("*/5 * * * * garuda-exoscale reap", True),
        ("0 * * * * MSG='#1' exollama reap", True),
        ("# */10 * * * * exollama reap", False),
        ("  # exollama reap", False),
        ("7 * * * * exollama status --check", False),
        ("7 * * * * exollama reaper", False),
        ("*/10 * * * * exollama reap --dry-run", False),
        ("0 3 * * * /usr/bin/reap-logs", False),
        ("", False),
    ],
)
def test_a_line_of_cron_is_a_reaper_if_it_runs_one(line: str, is_one: bool) -> None:
    assert reapers.reaps(f"MAILTO=root\n{line}\n@daily true\n") is is_one


PROGRAM, FILE = "the program", "the file with the settings"


@pytest.mark.parametrize(
    ("line", "lacking"),
    [
        ('*/10 * * * *  set -a; . "$HOME/env" && "$HOME/bin/exollama" reap --quiet', []),
        ("*/10 * * * *  set -a; . ~/env && ~/bin/exollama reap --quiet", []),
        ("@hourly ${HOME}/bin/exollama reap", []),
        ('*/10 * * * *  set -a; . "$HOME/gone" && "$HOME/bin/exollama" reap --quiet', [FILE]),
        ('*/10 * * * *  set -a; . "$HOME/env" && "$HOME/.local/bin/exollama" reap --quiet', [PROGRAM]),
        ("*/10 * * * *  set -a; source ~/gone; ~/gone reap --quiet; exollama", []),  # no reaper of ours
        ("*/10 * * * *  set -a;source ~/gone;~/gone/exollama reap --quiet", [FILE, PROGRAM]),
        ("*/10 * * * * '/no such/exollama' reap", [PROGRAM]),
        ("@hourly ${HOME}/gone/exollama reap", [PROGRAM]),
        ("*/10 * * * * SECRET=hush /gone/python -m client reap", [PROGRAM]),
        ("# */10 * * * * /gone/exollama reap", []),
        ("*/10 * * * * exollama reap", []),
        ("*/10 * * * * cd ~/nowhere && bin/exollama reap", []),
        ('*/10 * * * * "$WHERE/exollama" reap', []),
        ("*/10 * * * * ssh there /gone/exollama reap", []),
        ("*/10 * * * * /gone/exollama reap '", []),
    ],
)
def test_what_a_line_names_and_is_not_there_is_told_without_the_line(
    line: str, lacking: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    program(tmp_path / "env", "")
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin/exollama", "")
    assert reapers.lacks(f"MAILTO=root\n{line}\n@daily true\n") == lacking


def test_the_line_to_add_runs_the_program_that_runs_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "my 100%/exollama"
    script.parent.mkdir()
    program(script, "")
    monkeypatch.chdir(script.parent)
    monkeypatch.setattr(sys, "argv", ["./exollama", "doctor"])
    line = reapers.cron_line()
    assert line.endswith(f" && '{tmp_path}/my 100\\%/exollama' reap --quiet")
    deployed = line.replace(f"'{tmp_path}/my 100\\%/exollama'", '"$HOME/.local/bin/exollama"')
    assert deployed in (ROOT / "deploy/cron/crontab").read_text().splitlines()
    monkeypatch.setattr(sys, "argv", [__file__])
    run = reapers.cron_line().partition(" && ")[2].replace("reap --quiet", "--version")
    done = subprocess.run(run, shell=True, cwd="/", capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.startswith("exollama ")


def test_the_crontab_of_the_deploy_folder_is_one() -> None:
    assert reapers.reaps((ROOT / "deploy/cron/crontab").read_text())


def test_of_what_systemd_lists_the_timers_that_reap_are_named() -> None:
    assert reapers.timer_names(TIMERS) == ["exollama-reap.timer"]
    assert (ROOT / "deploy/systemd/exollama-reap.timer").is_file()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)


def test_what_is_set_up_is_told_by_its_place_alone_and_asked_for_without_our_environment(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXOSCALE_API_SECRET", "planted")
    seen = tmp_path / "seen"
    program(
        programs / "crontab", f'echo "$*:${{EXOSCALE_API_SECRET-none}}" >> {seen}', "echo '* * * * * exollama reap'"
    )
    program(programs / "systemctl", f'echo "$1" >> {seen}', f"printf '%s' '{TIMERS}'")
    table = tmp_path / "cron.d"
    table.mkdir()
    (table / "ours").write_text("* * * * * root SECRET=hush exollama reap\n")
    (table / "theirs").write_text("* * * * * root true\n")
    (table / "folder").mkdir()
    found, lacking = reapers.here((table, tmp_path / "nowhere"))
    timers = ["exollama-reap.timer", "exollama-reap.timer"]  # the system's, and this user's
    assert found == ["this user's crontab", str(table / "ours"), *timers]
    assert lacking == []
    assert seen.read_text().splitlines() == ["-l:none", "list-timers", "--user"]


@pytest.mark.parametrize("lines", [["exit 1"], ["echo no crontab for you >&2", "exit 1"], None])
def test_where_there_is_no_cron_and_no_systemd_nothing_is_seen(programs: Path, lines: list[str] | None) -> None:
    for name in ("crontab", "systemctl"):
        if lines is not None:
            program(programs / name, *lines)
    assert reapers.here(()) == ([], [])


def test_a_command_that_hangs_is_not_waited_for(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reapers, "_PATIENCE_S", 0.1)
    program(programs / "crontab", "exec /bin/sleep 30")
    began = time.monotonic()
    assert reapers.here(()) == ([], [])
    assert time.monotonic() - began < 10


def test_what_cannot_be_read_is_passed_over_and_a_pipe_is_not_waited_for(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = tmp_path / "refused"
    refused.write_text("* * * * * root exollama reap\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert reapers.here((tmp_path,)) == ([str(refused)], [])

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert reapers.here((tmp_path,)) == ([], [])
