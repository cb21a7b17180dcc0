"""`python -m tests.live`: what only an account can show. It costs a few cents, and removes all that it made.

The refusals come first: nothing is asked or made without credentials and a budget that covers the worst case.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from client import prices
from client.errors import ExollamaError, SettingsError
from client.settings import Secret, Settings
from functions import permissions
from functions.transport import urllib3_send
from tests import readme
from tests.live import checks, findings
from tests.live.account import BOOT_LIMIT_S, LIMIT_S, OFF_S, Account, worst_cost
from tests.live.ending import Ended, Ending
from tests.live.findings import AS_ASSUMED, DIFFERENT, Finding
from tests.live.unproven import load as questions

REMOVE_S = 900
"""Wall clock for removing what was made."""
DEAREST = 100.0
"""A larger budget than this is a slip of the hand."""
EXAMPLE = """\
example, with the credentials of an account:
  export EXOSCALE_API_KEY=EXO… EXOSCALE_API_SECRET=…
  nox -s live -- --budget 0.50
Two machines with a disk of 10 GiB are made and removed, within half an hour; with --boot also a whole exollama, within
an hour and a quarter. The security group of --boot stays, as after any use; it costs nothing.
EXOLLAMA_LIVE_CLIENT_KEY and _SECRET (REAPER, PROVISIONER) are further keys, whose roles have deploy/iam's policies.
Nothing that this did not make is touched; what a killed run left behind is removed by the next one once its deadline is
over, or at once with --clean.
Exit codes: 0 done, 1 a check broke or something is left, 2 usage, 130 and 143 interrupted."""


def parser() -> argparse.ArgumentParser:
    one = argparse.ArgumentParser(
        prog="python -m tests.live", description=__doc__, epilog=EXAMPLE, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    one.add_argument("--budget", metavar="AMOUNT", help=f"what it may cost at most, in {prices.CURRENCIES}; required")
    one.add_argument("--zone", help="where (EXOSCALE_ZONE, else ch-gva-2)")
    one.add_argument("--type", default="standard.small", help="of the two machines (standard.small)")
    one.add_argument(
        "--boot", action="store_true", help=f"also boot a whole one: {checks.BOOT_TYPE}, {checks.BOOT_MODEL}"
    )
    one.add_argument("--clean", action="store_true", help="only remove what earlier runs left, running ones included")
    one.add_argument("--output", type=Path, metavar="FILE", help="for the findings, instead of docs/live-findings.json")
    one.add_argument("--json", action="store_true", help="the findings as JSON on standard output")
    return one


def main(argv: Sequence[str] | None = None, env: Mapping[str, str] = os.environ, limit_s: float | None = None) -> int:
    """Run it; `limit_s` is another limit of wall clock, in seconds, for the checks."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.CRITICAL)
    try:
        settings, cost = _settled(args, env)
        roles = _roles(env)
        if not args.output:
            findings.load()
        elif not args.output.absolute().parent.is_dir():
            raise ExollamaError(f"--output is {args.output}, and there is no such folder. Nothing was made.")
    except (ExollamaError, ValueError) as error:  # before it costs: what was found could not be written
        _say(f"{error}")
        return 2
    limit_s = limit_s or _limit_s(args)
    account = Account(settings, urllib3_send(), note=_say, lifetime_s=limit_s + OFF_S)
    run = checks.Run(account=account, roles=roles, boot=args.boot)
    private = [settings.api_key, settings.api_secret.reveal()]
    private += [value for key, secret in roles.values() for value in (key, secret.reveal())]
    made: list[Finding] = []
    with Ending(_say) as ending:
        code, left, earlier = 0, ["what was made is not known"], list[str]()
        try:
            ending.arm(limit_s, by_signals=True)
            earlier = _remove_earlier(account, at_once=args.clean)
            if not args.clean:
                _say(f"Looking at {settings.zone} as {account.name}, for {cost:.2f} at the very most.")
                code = _check_all(run, made, private)
            ending.disarm()
        except Ended as end:
            _say(f"It ends here: {end}.")
            code = end.code
        except Exception as error:  # noqa: BLE001 - whatever it is, what was made is removed, and what is left told
            ending.disarm()
            _say(findings.scrubbed(f"{type(error).__name__}: {error}", private))
            code = 1
        finally:
            ending.disarm()
            left = earlier + _tidied(account, ending)
    for one in left:
        _say(f"LEFT BEHIND: {one}. Run this with --clean, or delete it in the portal; it costs.")
    if not args.clean:
        _write(made, args.output, settings, as_json=args.json)
        as_of = prices.listed()["as_of"]
        _say(f"Spent so far: about {account.spent():.3f} ({prices.CURRENCIES}; prices of {as_of}).")
    return code or (1 if left else 0)


def _limit_s(args: argparse.Namespace) -> float:
    return LIMIT_S + BOOT_LIMIT_S * float(args.boot)


def _settled(args: argparse.Namespace, env: Mapping[str, str]) -> tuple[Settings, float]:
    """The settings, and the worst case's cost. Raises ExollamaError for whatever keeps the run from beginning."""
    if not (env.get("EXOSCALE_API_KEY") and env.get("EXOSCALE_API_SECRET")):
        raise ExollamaError("Set EXOSCALE_API_KEY and EXOSCALE_API_SECRET to an API key of the account that is to pay.")
    zone = {"EXOSCALE_ZONE": args.zone} if args.zone else {}
    chosen = {"EXOSCALE_INSTANCE_TYPE": args.type, "EXOSCALE_TEMPLATE": checks.UBUNTU[1]}
    ours = ("EXOSCALE_API_KEY", "EXOSCALE_API_SECRET", "EXOSCALE_API_ENDPOINT", "EXOSCALE_ZONE")
    try:
        settings = Settings.from_env({name: env[name] for name in ours if name in env} | zone | chosen)
    except SettingsError as error:
        raise ExollamaError(str(error)) from None
    if not findings.is_exoscales(settings.endpoint) and not (args.output or args.clean):
        raise ExollamaError(
            f"EXOSCALE_API_ENDPOINT is {settings.endpoint}, not Exoscale's own, so that nothing found there says "
            "anything of Exoscale. Name a file of its own with --output, or unset it. Nothing was made."
        )
    if not findings.is_exoscales(settings.endpoint) and args.output and args.output.resolve() == findings.FILE:
        raise ExollamaError(f"{findings.FILE.name} is for what was found at Exoscale itself. Name another --output.")
    if args.clean:
        return settings, 0.0
    disk_gib = checks.boot_settings(settings).disk_gib
    cost = worst_cost(args.type, _limit_s(args), (checks.BOOT_TYPE, disk_gib) if args.boot else None)
    say_so = f"Say so with --budget {math.ceil(cost * 100) / 100:.2f} or more."
    most = (
        f"At most it costs about {cost:.2f} ({prices.CURRENCIES}), if this is killed at the worst moment and nobody "
        "removes the disks for a day; usually a tenth of that"
    )
    if args.budget is None:
        raise ExollamaError(f"There is no budget. {most}. {say_so} Nothing was made.")
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", args.budget) or not 0 < float(args.budget) <= DEAREST:
        raise ExollamaError(
            f"--budget is {args.budget[:40]!r}: an amount above 0 and up to {DEAREST:.0f}, without a currency, is "
            f"expected. {say_so} Nothing was made."
        )
    if float(args.budget) < cost:
        raise ExollamaError(f"--budget is {args.budget}, which is not enough. {most}. {say_so} Nothing was made.")
    return settings, cost


def _roles(env: Mapping[str, str]) -> dict[str, tuple[str, Secret]]:
    """The keys for single roles that were given."""
    given = {}
    for role in permissions.ROLES:
        key, secret = (env.get(f"EXOLLAMA_LIVE_{role.upper()}_{part}", "").strip() for part in ("KEY", "SECRET"))
        if bool(key) != bool(secret):
            raise ExollamaError(f"EXOLLAMA_LIVE_{role.upper()}_KEY and _SECRET belong together, and one is not set.")
        if key:
            given[role] = (key, Secret(secret))
    return given


def _remove_earlier(account: Account, *, at_once: bool) -> list[str]:
    """Remove what is left of runs that are over; what still is, in words."""
    still: list[str] = []
    earlier = account.earlier()
    now = (
        account.cloud.now()
    )  # the API's, now that it has answered: by a clock that is wrong another's run would be over
    for name, until in earlier.items():
        if at_once or now >= until:
            left = account.remove(name)
            still += left
            _say(f"Of an earlier run, {name}: {'not all of it was removed' if left else 'removed'}.")
        else:
            soon = timedelta(seconds=round((until - now).total_seconds()))
            _say(f"{name} may be a run of somebody else's, for another {soon}; it is left alone. --clean removes it.")
    return still


def _check_all(run: checks.Run, made: list[Finding], private: list[str]) -> int:
    """Make every check; 1 where one broke."""
    asked, code = questions(), 0
    for ids, check in checks.CHECKS:
        left = list(ids)
        try:
            for one in checks.run_one(run, ids, check):
                told = Finding(id=one.id, verdict=one.verdict, seen=findings.scrubbed(one.seen, private))
                made.append(told)
                left.remove(one.id)
                depends = f"  ({asked[one.id].guard})" if one.verdict == DIFFERENT else ""
                _say(f"{told.verdict:<17} {asked[one.id].what}\n{'':<18}{told.seen}{depends}")
        except Exception as error:  # noqa: BLE001 - a check that is broken is no reason to leave the others undone
            why = findings.scrubbed(f"the check is broken: {type(error).__name__}: {error}", private)
            made += [findings.unseen(id_, why) for id_ in left]
            _say(why)
            code = 1
    return code


def _tidied(account: Account, ending: Ending) -> list[str]:
    """Remove what this run made; what is left, in words."""
    try:
        ending.arm(REMOVE_S, by_signals=False)
        left = account.remove(account.name)
        ending.disarm()
    except Ended as end:
        return [f"what carries the name {account.name} ({end})"]
    finally:
        ending.disarm()
    return left


def _write(made: Sequence[Finding], output: Path | None, settings: Settings, *, as_json: bool) -> None:
    path = output or findings.FILE
    where = {"zone": settings.zone, "endpoint": settings.endpoint}
    text = findings.written(made, {} if output else findings.load(), **where)
    if made:
        path.write_text(text, encoding="utf-8")
        count = sum(one.verdict == AS_ASSUMED for one in made)
        different = [one.id for one in made if one.verdict == DIFFERENT]
        unseen = len(made) - count - len(different)
        _say(
            f"{count} of {len(made)} as assumed; different: {', '.join(different) or 'none'}; could not be seen: "
            f"{unseen}. Written to {path.name}."
        )
        if not output:
            part = readme.PARTS["unproven"][0]
            part.write_text(readme.generated("unproven")[1], encoding="utf-8")
            _say(f"docs/{part.name} shows them.")
    if as_json:
        print(json.dumps({"findings": json.loads(text), "name": "live"}), flush=True)


def _say(text: str) -> None:
    with suppress(OSError):  # a terminal that was closed keeps nothing from being removed and written
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
