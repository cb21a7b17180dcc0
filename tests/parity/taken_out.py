"""Takes features of the original out, one at a time, in a copy of this project: a test of their row has to fail.

`python -m tests.parity.taken_out [ROW...]`, as `nox -s parity`. In mutations/ is what is taken out, and for which row:
in `file`, `old`, which stands there once, becomes `new`. First the copy as it is has to pass; then a mutation that no
test of its row notices, or that keeps the tests from being run, fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.parity import table
from tests.parity.table import HERE, ROOT

LIMIT_S = 300
_FAILED = re.compile(r"^FAILED (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """In `file`, `old` becomes `new`, and what the row offers is there no more."""

    name: str
    row: str
    file: str
    old: str
    new: str


MUTATIONS = tuple(
    Mutation(**given)
    for file in sorted((HERE / "mutations").glob("*.toml"))
    for given in tomllib.loads(file.read_text())["mutation"]
)


def mutated(mutation: Mutation, text: str) -> str:
    """The file's text without the feature. Raises ValueError where what is to be replaced is not there exactly once."""
    if (times := text.count(mutation.old)) != 1:
        raise ValueError(f"{mutation.name}: {mutation.file} has this {times} times, not once: {mutation.old!r}")
    return text.replace(mutation.old, mutation.new)


def copied(folder: Path) -> None:
    """Copy what git has, or would add, and nothing that lies beside it."""
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def tested(folder: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Pytest's exit code over these tests in the copy, and what it printed."""
    argv = [sys.executable, "-X", "dev", "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    # No bytecode: a mutation of the same length within the same second would run what was compiled before.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return done.returncode, done.stdout + done.stderr


def noticed(folder: Path, mutation: Mutation, tests: Sequence[str]) -> str | None:
    """The test that failed with the feature taken out; None, with pytest's words on stderr, where none did."""
    file = folder / mutation.file
    before = file.read_text()
    file.write_text(mutated(mutation, before))
    try:
        code, said = tested(folder, tests)
    finally:
        file.write_text(before)
    failed = _FAILED.findall(said)
    if code == 1 and failed:
        return str(failed[0])
    print(f"{mutation.name}: pytest ended with {code}, and no test failed:\n{said[-3000:]}", file=sys.stderr)
    return None


def main(chosen: Sequence[str]) -> int:
    """Print a line for each mutation (of the chosen rows); exit code 1 where one was not noticed."""
    rows = {row.id: row.tests for row in table.load()}
    if unknown := set(chosen) - {mutation.row for mutation in MUTATIONS}:
        print(f"nothing is taken out for: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    mutations = [mutation for mutation in MUTATIONS if not chosen or mutation.row in chosen]
    began, missed = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="exollama-parity-") as place:
        folder = Path(place)
        copied(folder)
        code, said = tested(folder, list(dict.fromkeys(test for mutation in mutations for test in rows[mutation.row])))
        if code:
            print(f"with nothing taken out, pytest ended with {code}:\n{said[-3000:]}", file=sys.stderr)
            return 1
        print(f"with nothing taken out: {said.strip().splitlines()[-1]}\n", flush=True)
        for mutation in mutations:
            started = time.monotonic()
            failed = noticed(folder, mutation, rows[mutation.row])
            missed += failed is None
            took_s = time.monotonic() - started
            print(f"{mutation.row:<24} {took_s:5.1f} s  {mutation.name}\n{'':34}{failed or 'NOT NOTICED'}", flush=True)
    print(
        f"\n{len(mutations)} features of {len({mutation.row for mutation in mutations})} rows taken out, {missed} not "
        f"noticed, {time.monotonic() - began:.0f} s"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
