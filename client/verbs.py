"""The verbs of the command line: settings in, one result out, on stdout; everything else on stderr.

Neighbours: `client.cli` parses and maps exit codes; `client.use` has the verbs that use an instance; provision, stop,
status and reap are `functions.*.run`. All are imported by the verb that runs, so that each costs only what it needs.
"""

import argparse
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from client.errors import ExollamaError, SettingsError
from client.settings import Settings
from client.terminal import Terminal


def run(args: argparse.Namespace) -> int:
    """Run the verb that was parsed. Prints an error as one message and returns its exit code."""
    terminal = Terminal()
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        stream=sys.stderr,
        format="exollama: %(name)s: %(message)s",
    )
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    try:
        settings = _settings(args)
        return _VERBS[args.verb](args, settings, terminal)
    except ExollamaError as error:
        for problem in error.problems if isinstance(error, SettingsError) else (str(error),):
            terminal.note(problem)
        return error.exit_code
    finally:
        terminal.clear()


def _settings(args: argparse.Namespace) -> Settings:
    """The settings. Raises SettingsError; what is wrong with the arguments of `serve` and `provision` is in there."""
    if args.verb == "provision":
        return _handing_on(args)
    if args.verb != "serve":
        return Settings.from_env(os.environ)
    from client import serve

    problems: list[str] = []
    try:
        settings = Settings.from_env(os.environ, credentials=not serve.needs_no_credentials(os.environ))
    except SettingsError as error:
        problems += error.problems
        settings = None
        if not serve.has_credentials(os.environ):
            problems.append(
                "Or set EXOLLAMA_PROVISION_URL and EXOLLAMA_FUNCTION_TOKEN, where a function provisions for you."
            )
    try:
        args.options = serve.Options.read(args, os.environ)
    except SettingsError as error:
        problems += error.problems
    if problems or settings is None:
        raise SettingsError(*problems)
    return settings


def _handing_on(args: argparse.Namespace) -> Settings:
    """The settings of `provision`, whose `args.handout` is prepared before anything is created."""
    from client.handout import Handout

    problems: list[str] = []
    try:
        args.handout = Handout.prepare(args, os.environ)
    except SettingsError as error:
        problems += error.problems
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        raise SettingsError(*error.problems, *problems) from None
    if problems:
        raise SettingsError(*problems)
    return settings


def has_urllib3() -> bool:
    """Whether urllib3, which the functions need, is installed."""
    return importlib.util.find_spec("urllib3") is not None


def need_urllib3() -> None:
    """Raise SettingsError where urllib3 is missing."""
    if not has_urllib3():
        raise SettingsError(
            "Provisioning, stop, status and reaping need urllib3, which is not installed. "
            "Run: python -m pip install 'urllib3>=2.6.3,<3'"
        )


def _provision(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    need_urllib3()
    from functions import provision

    result = provision.run(
        settings, wait=not args.no_wait, keep_failed=args.keep_failed, note=terminal.note, progress=terminal.progress
    )
    terminal.clear()
    handout = args.handout
    if handout.format == "json":
        print(json.dumps({**result, "key": "***"}))
    elif handout.format == "text":
        print(
            f"{result['url'] or 'no address yet'}  {result['model']}  {result['id']} in {result['zone']}, "
            f"{result['phase']}"
        )
        if result["phase"] == "ready":
            terminal.note('Use it with: exollama generate "…", or for other programs: eval "$(exollama env)"')
    else:
        for piece in handout.give(result):
            print(piece, end="", flush=True)
        if handout.hint:
            terminal.note(handout.hint)
    return 0


def _status(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    need_urllib3()
    from functions import status

    result = status.run(settings, probe=args.probe, check=args.check)
    overdue = [item for item in result["instances"] if item["overdue"]]
    if args.json:
        print(json.dumps(result))
    elif not args.check or overdue:
        print(status.text({**result, "instances": overdue} if args.check else result))
    for item in result["instances"]:
        if item["deadline_s"] is not None and item["deadline_s"] < 86400 and not args.check:
            terminal.note(f"{item['zone']} {item['id']} reaches its deadline at {item['deadline']}.")
    for item in overdue:
        terminal.note(
            f"{item['zone']} {item['id']} ({item['name']}) should be gone: {item['overdue']}. Does a reaper run "
            "(cron), and can it reach port 11435? Try: exollama reap"
        )
    return 1 if _failures(result, terminal) or overdue else 0


def _reap(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    need_urllib3()
    from functions import reap_idle

    result = reap_idle.run(settings, dry_run=args.dry_run)
    if args.json:
        print(json.dumps(result))
    elif not args.quiet:
        print(reap_idle.text(result))
    return 1 if _failures(result, terminal) else 0


def _stop(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    need_urllib3()
    from functions import reap_idle, stop

    result = stop.run(settings, force=args.force, keep_disk=args.keep_disk)
    print(json.dumps(result) if args.json else reap_idle.text(result))
    kept = [item for item in result["instances"] if item["outcome"] == "kept"]
    if kept:
        terminal.note("What was kept goes once nobody uses it; --force ends it all the same.")
    return 1 if _failures(result, terminal) or kept else 0


def _failures(result: Mapping[str, Any], terminal: Terminal) -> bool:
    """Tell what of a result failed: instances that were acted upon, and zones that could not be looked at."""
    failed = [item for item in result["instances"] if item.get("outcome") == "failed"]
    for item in failed:
        terminal.note(f"{item['zone']} {item['id']} ({item['name']}): {item['reason']}")
    for problem in result.get("failed", ()):
        terminal.note(problem)
    return bool(failed or result.get("failed"))


def _generate(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from client import use

    return use.generate(args, settings, terminal)


def _env(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from client import use

    return use.env(args, settings, terminal)


def _serve(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from client import serve

    return serve.serve(args, settings, terminal)


_VERBS: Mapping[str, Callable[[argparse.Namespace, Settings, Terminal], int]] = {
    "provision": _provision,
    "status": _status,
    "stop": _stop,
    "reap": _reap,
    "generate": _generate,
    "serve": _serve,
    "env": _env,
}
