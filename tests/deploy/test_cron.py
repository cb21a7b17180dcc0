"""deploy/cron/crontab under Debian's cron, as it is shipped: what it does, and what it mails.

The daemon runs in namespaces of its own, with no other crontab and a home of its own for root. libfaketime sets its
clock, and no other's, to five seconds before the minute that is waited for; cron gives its jobs a clean environment.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.tools import DEPLOY, SETTINGS, as_root, children, filled_in, in_namespaces, needed, stand_in, until
from tests.simulator import Simulator
from tests.system.verbs import ROOT, User, let_pass, plant

REAP, CHECK = "09:55", "06:55"
"""Five seconds before each line's minute: a daemon that is not up by then would wait for the next one."""

# Everything that cron reads or writes is private. What would deliver mail is a file's writer instead.
SCRIPT = """
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir -p {work}/etc {work}/spool/crontabs {work}/sbin
cp {cron} {work}/sbin/cron
printf '#!/bin/sh\\ncat >{work}/mail.part && mv {work}/mail.part {work}/mail\\n' >{work}/sbin/sendmail
chmod +x {work}/sbin/sendmail
sed 's|^\\(root:[^:]*:[^:]*:[^:]*:[^:]*\\):[^:]*:.*|\\1:{home}:/bin/sh|' /etc/passwd >{work}/passwd
mount --bind {work}/passwd /etc/passwd
mount --bind {work}/etc /etc/cron.d
mount --bind {work}/spool /var/spool/cron
[ ! -e /etc/crontab ] || mount --bind /dev/null /etc/crontab
mount --bind {work}/sbin /usr/sbin
crontab {crontab}
exec {faketime} -f '@2026-01-01 00:{minute}' /usr/sbin/cron -f
"""


class Daemon:
    """A cron that runs; `mail` is what it sent last."""

    def __init__(self, process: subprocess.Popen[str], work: Path) -> None:
        self.process = process
        self._work = work

    @property
    def mail(self) -> str:
        path = self._work / "mail"
        return path.read_text() if path.exists() else ""

    def mails(self) -> str:
        until(self.process, lambda: self.mail, "mail was sent")
        return self.mail

    def rests(self) -> None:
        """Wait until every job has ended, its mail included."""
        [faketime] = children(self.process.pid)
        [cron] = children(faketime)
        until(self.process, lambda: not children(cron), "its jobs have ended")


@contextmanager
def cron(work: Path, home: Path, minute: str) -> Iterator[Daemon]:
    """A daemon that has the shipped crontab, shortly before a minute."""
    as_root()
    script = work / "script"
    script.write_text(
        SCRIPT.format(
            work=shlex.quote(str(work)),
            home=home,
            cron=needed("cron", "cron"),
            faketime=needed("faketime", "faketime"),
            crontab=shlex.quote(str(DEPLOY / "cron/crontab")),
            minute=minute,
        )
    )
    with in_namespaces(script) as process:
        yield Daemon(process, work)


def entries(text: str) -> list[tuple[str, str]]:
    """The lines of a crontab that run something: when, and what."""
    found = re.findall(r"^((?:[\d*/]+ ){4}\*) +(.*)$", text, re.MULTILINE)
    return [(when, re.sub(r"\S+/bin/exollama\b\"?", "exollama", what)) for when, what in found]


def test_the_crontab_and_the_documentation_have_the_same_two_lines_and_mail_goes_to_root() -> None:
    text = (DEPLOY / "cron/crontab").read_text()
    source = 'set -a; . "$HOME/.exollama.env" &&'
    assert entries(text) == [
        ("*/10 * * * *", f"{source} exollama reap --quiet"),
        ("7 * * * *", f"{source} exollama status --check"),
    ]
    for page in ("README.md", "docs/production.md"):
        assert entries((ROOT / page).read_text()) == entries(text)
    assert re.findall(r"^MAILTO=(.*)$", text, re.MULTILINE) == ["root"]


def test_a_shell_reads_the_example_of_settings_as_all_others_do_whichever_lines_are_used(tmp_path: Path) -> None:
    used = re.findall(r"^#?([A-Z_]+)=(.*)$", SETTINGS.read_text(), re.MULTILINE)
    (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in used))
    done = subprocess.run(
        ["sh", "-ec", f"set -a; . '{tmp_path}/env' && env"], env={}, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert dict(used).items() <= dict(line.split("=", 1) for line in done.stdout.splitlines()).items()


@pytest.fixture
def home(cloud: Simulator, tmp_path: Path) -> Path:
    """The home of who has the crontab: program and settings are where its comment says."""
    stand_in(tmp_path / "home/.local/bin/exollama", cloud)
    filled_in(tmp_path / "home/.exollama.env", cloud.env)
    return tmp_path / "home"


def test_cron_fires_the_reaper_which_removes_an_idle_instance_and_mails_nothing(
    cloud: Simulator, user: User, tmp_path: Path, home: Path
) -> None:
    user.run("provision").ended(0)
    let_pass(cloud, 40 * 60)
    with cron(tmp_path, home, REAP) as daemon:
        until(daemon.process, lambda: not cloud.instances(), "the instance is gone")
        daemon.rests()
        assert daemon.mail == ""
    assert len(cloud.called("delete-instance")) == 1


def test_cron_mails_why_a_pass_failed(cloud: Simulator, tmp_path: Path, home: Path) -> None:
    filled_in(home / ".exollama.env", cloud.env | {"EXOSCALE_API_SECRET": "wrong-secret"})
    with cron(tmp_path, home, REAP) as daemon:
        mail = daemon.mails()
    assert "To: root\n" in mail
    assert "Subject: Cron <root@" in mail
    assert "Invalid request signature" in mail
    assert "wrong-secret" not in mail
    assert "Traceback" not in mail


def test_cron_mails_that_a_reaper_is_missing(cloud: Simulator, tmp_path: Path, home: Path) -> None:
    seen = plant(cloud)
    with cron(tmp_path, home, CHECK) as daemon:
        assert f"{seen.id} (exollama) should be gone" in daemon.mails()
    assert cloud.called("delete-instance") == []
