"""The verbs of the command line: settings in, one result out, on stdout; everything else on stderr.

Neighbours: `client.cli` parses and maps exit codes; `client.use` has the verbs that use an instance; provision, stop,
status and reap are `functions.*.run`. All are imported by the verb that runs, so that each costs only what it needs.
"""

import argparse
import importlib.util
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from client import misspelt
from client.errors import ExollamaError, SettingsError
from client.settings import Reader, Settings, by_function, has_credentials, whole
from client.terminal import Notes, Terminal, is_coloured


def run(args: argparse.Namespace) -> int:
    """Run the verb that was parsed. Prints an error as one message and returns its exit code."""
    terminal = Terminal()
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        handlers=[Notes(terminal)],
        format="%(name)s: %(message)s",
    )
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    if not (getattr(args, "quiet", False) or getattr(args, "check", False)):  # cron would mail it each time
        for warning in misspelt.warnings(os.environ):
            terminal.note(warning)
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
    """The settings; what the arguments ask for is read as well. Raises SettingsError with the problems of both."""
    by_url = args.verb in _BY_URL and by_function(os.environ)
    problems: list[str] = []
    settings = None
    try:
        settings = Settings.from_env(os.environ, credentials=not by_url)
    except SettingsError as error:
        problems += error.problems
        if args.verb in _BY_URL and not by_url and not has_credentials(os.environ):
            problems.append(
                "Or set EXOLLAMA_PROVISION_URL and EXOLLAMA_FUNCTION_TOKEN, where a function provisions for you."
            )
        elif args.verb not in _BY_URL and by_function(os.environ):
            problems.append(
                "Without them there are generate, chat, serve and provision (its --format env prints URL and key), "
                "through EXOLLAMA_PROVISION_URL."
            )
    try:
        if args.verb == "serve":
            from client import serve

            args.options = serve.Options.read(args, os.environ)
        elif args.verb == "provision":
            from client.handout import Handout

            args.handout = Handout.prepare(args, os.environ)
        elif args.verb == "status":
            problems += _status_options(args)
    except SettingsError as error:
        problems += error.problems
    if by_url and args.verb != "serve":  # whose own options tell
        from client.function import ONLY_WITH_CREDENTIALS

        problems += [needs for flag, needs in ONLY_WITH_CREDENTIALS.items() if getattr(args, flag, False)]
    if problems or settings is None:
        raise SettingsError(*problems)
    return settings


def has_urllib3() -> bool:
    """Whether urllib3, which the functions need, is installed."""
    return importlib.util.find_spec("urllib3") is not None


def need_urllib3() -> None:
    """Raise SettingsError where urllib3 is missing."""
    if not has_urllib3():
        raise SettingsError(
            "Provisioning, stop, status, doctor and reaping need urllib3, which is not installed. "
            "Run: python -m pip install 'urllib3>=2.6.3,<3'"
        )


def _provision(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    result = _provisioned(args, settings, terminal)
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
            variables = "provision --format env" if by_function(os.environ) else "env"
            terminal.note(f'Use it with: exollama generate "…", or for other programs: eval "$(exollama {variables})"')
    else:
        for piece in handout.give(result):
            print(piece, end="", flush=True)
        if handout.hint:
            terminal.note(handout.hint)
    return 0


def _provisioned(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> dict[str, Any]:
    if by_function(os.environ):
        from client.function import Function
        from client.use import awaiting

        return Function.from_env(os.environ, awaiting(terminal)).provision().result
    need_urllib3()
    from functions import provision

    return provision.run(
        settings, wait=not args.no_wait, keep_failed=args.keep_failed, note=terminal.note, progress=terminal.progress
    )


def _status(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    need_urllib3()
    from functions import shown, status

    metrics = args.format == "prometheus"
    if args.watch_s:
        from functions import watch

        watch.watch(settings, args.watch_s, sys.stdout, probe=args.probe, as_json=args.json)
    result = status.run(settings, probe=args.probe, check=args.check or metrics)
    overdue = status.overdue(result) if args.check else []
    if args.json:
        print(json.dumps(result))
    elif metrics:
        print(shown.prometheus(result), end="")
    elif not args.check or overdue:
        late = [item for item in result["instances"] if item["overdue"]]
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(shown.text({**result, "instances": late} if args.check else result, width))
    for sentence in overdue if args.check else shown.ending(result):
        terminal.note(sentence)
    return 1 if _failures(result, terminal) or overdue else 0


def _status_options(args: argparse.Namespace) -> Iterator[str]:
    """Read what the arguments of status ask for, and say what is wrong with them."""
    reader = Reader({})
    asked = args.watch is not None
    args.watch_s = reader.read("--watch", whole("seconds", 1, 3600), args.watch, None) if asked else None
    yield from reader.problems
    if args.json and args.format == "prometheus":
        yield "--json and --format prometheus contradict each other. Leave one out."
    if asked and args.check:
        yield "--watch goes on until it is interrupted, and --check ends with an exit code. Leave one out."
    if asked and args.format == "prometheus":
        yield "--watch goes on until it is interrupted, and Prometheus looks by itself. Leave one out."


def _reap(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    need_urllib3()
    from functions import reap_idle

    terminal.progress("reaping", None, 0.0)
    result = reap_idle.run(settings, dry_run=args.dry_run)
    terminal.clear()
    if args.json:
        print(json.dumps(result))
    elif not args.quiet:
        print(reap_idle.text(_hushed(result)))
    return 1 if _failures(result, terminal) else 0


def _stop(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    need_urllib3()
    from functions import reap_idle, stop

    terminal.progress("ending the instance", None, 0.0)
    result = stop.run(settings, force=args.force, keep_disk=args.keep_disk)
    terminal.clear()
    print(json.dumps(result) if args.json else reap_idle.text(_hushed(result)))
    kept = [item for item in result["instances"] if item["outcome"] == "kept"]
    if kept:
        terminal.note("What was kept goes once nobody uses it; --force ends it all the same.")
    return 1 if _failures(result, terminal) or kept else 0


def _doctor(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    need_urllib3()
    from functions import doctor, findings

    result = doctor.run(settings, progress=terminal.progress)
    terminal.clear()
    print(json.dumps(result) if args.json else findings.text(result["findings"], colour=is_coloured(sys.stdout)))
    return 1 if result["failed"] else 0


def _hushed(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result for stdout: why something failed is told once, on stderr."""
    told = {"reason": "the message says why"}
    return {**result, "instances": [one | told if one["outcome"] == "failed" else one for one in result["instances"]]}


def _failures(result: Mapping[str, Any], terminal: Terminal) -> bool:
    """Tell what of a result failed, and whether anything did."""
    from functions import zones

    failed = zones.failures(result)
    for sentence in failed:
        terminal.note(sentence)
    return bool(failed)


def _generate(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from client import use

    return use.generate(args, settings, terminal)


def _chat(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from client import chat

    return chat.chat(args, settings, terminal)


def _logs(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from client import logs

    return logs.logs(args, settings, terminal)


def _env(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from client import use

    return use.env(args, settings, terminal)


def _serve(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    from client import serve

    return serve.serve(args, settings, terminal)


_BY_URL = frozenset({"provision", "generate", "chat", "serve"})
"""Verbs that need no credentials where a function provisions (EXOLLAMA_PROVISION_URL)."""
_VERBS: Mapping[str, Callable[[argparse.Namespace, Settings, Terminal], int]] = {
    "provision": _provision,
    "status": _status,
    "stop": _stop,
    "reap": _reap,
    "logs": _logs,
    "generate": _generate,
    "chat": _chat,
    "serve": _serve,
    "env": _env,
    "doctor": _doctor,
}
