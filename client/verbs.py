"""The verbs of the command line: settings in, one result out, on stdout; everything else on stderr.

Neighbours: `client.cli` parses and maps exit codes; `client.session` does the client's work; provision, status and
reap are `functions.*.run`, imported lazily, since they need urllib3.
"""

import argparse
import json
import logging
import os
import shlex
import ssl
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from client.api import Api
from client.errors import ExollamaError, SettingsError
from client.model import Instance
from client.session import Session, void
from client.settings import Settings, model_name
from client.terminal import Terminal
from client.transport import http_client_send

MAX_PROMPT = 16 << 20  # bytes


def run(args: argparse.Namespace) -> int:
    """Run the verb that was parsed. Prints an error as one message and returns its exit code."""
    terminal = Terminal()
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.ERROR,
        stream=sys.stderr,
        format="exollama: %(name)s: %(message)s",
    )
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    try:
        settings = Settings.from_env(os.environ)
        return _VERBS[args.verb](args, settings, terminal)
    except SettingsError as error:
        terminal.clear()
        for problem in error.problems:
            print(f"exollama: {problem}", file=sys.stderr)
        return error.exit_code
    except ExollamaError as error:
        terminal.note(str(error))
        return error.exit_code
    finally:
        terminal.clear()


def _functions() -> None:
    """Raise where urllib3, which the functions need, is missing or too old to be of use."""
    try:
        import urllib3  # noqa: F401
    except ImportError:
        raise SettingsError(
            "Provisioning, status and reaping need urllib3, which is not installed. Run: python -m pip install "
            "'urllib3>=2.6.3,<3'"
        ) from None


def _provision(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    _functions()
    from functions import provision

    result = provision.run(
        settings, wait=not args.no_wait, keep_failed=args.keep_failed, note=terminal.note, progress=terminal.progress
    )
    terminal.clear()
    if args.json:
        print(json.dumps({**result, "key": "***"}))
    else:
        print(
            f"{result['url'] or 'no address yet'}  {result['model']}  {result['id']} in {result['zone']}, "
            f"{result['phase']}"
        )
        terminal.note('Use it with: exollama generate "…", or for other programs: eval "$(exollama env)"')
    return 0


def _status(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    _functions()
    from functions import status

    result = status.run(settings, probe=args.probe)
    print(json.dumps(result) if args.json else status.text(result))
    for problem in result["failed"]:
        terminal.note(problem)
    return 1 if result["failed"] else 0


def _reap(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    _functions()
    from functions import reap_idle

    result = reap_idle.run(settings, dry_run=args.dry_run)
    failed = [item for item in result["instances"] if item["outcome"] == "failed"]
    if args.json:
        print(json.dumps(result))
    elif not args.quiet:
        print(reap_idle.text(result))
    for item in failed:
        terminal.note(f"{item['zone']} {item['id']} ({item['name']}): {item['reason']}")
    for problem in result["failed"]:
        terminal.note(problem)
    return 1 if failed or result["failed"] else 0


def _session(settings: Settings, terminal: Terminal, *, provision: bool) -> Session:
    api = Api(settings, settings.zone, http_client_send)

    def wake() -> Mapping[str, Any]:
        _functions()
        from functions import provision

        return provision.run(settings, note=terminal.note, progress=terminal.progress)

    return Session(settings, api, wake=wake if provision else None, note=terminal.note, progress=terminal.progress)


def _generate(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    payload = _payload(args, settings)
    session = _session(settings, terminal, provision=not args.no_provision)
    whole = args.no_stream or args.json

    def show(piece: str) -> None:
        terminal.clear()
        sys.stdout.write(piece)
        sys.stdout.flush()

    answer = session.generate(payload, void if whole else show)
    if args.json:
        print(json.dumps(answer))
    elif whole:
        print(answer["response"])
    else:
        print()
    instance = session.find()
    if instance:
        terminal.note(goes(instance, session.api))
    return 0


def _payload(args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """Ollama's request for the arguments. Raises SettingsError, every problem at once, before anything is created."""
    problems: list[str] = []

    def read(what: str, parse: Callable[[str], Any], value: str) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            problems.append(f"{what} is {value[:100]!r}: {error}")
            return None

    payload: dict[str, Any] = {
        "model": settings.model if args.model is None else read("--model", model_name, args.model),
        "prompt": read("The prompt", _prompt, args.prompt),
        "stream": True,
    }
    if args.system:
        payload["system"] = args.system
    if args.option:
        payload["options"] = dict(filter(None, (read("--option", _option, option) for option in args.option)))
    if args.format:
        payload["format"] = read("--format", _format, args.format)
    if problems:
        raise SettingsError(*problems)
    return payload


def _prompt(value: str) -> str:
    if value == "-":
        value = sys.stdin.buffer.read(MAX_PROMPT + 1).decode("utf-8", "replace")
    if len(value.encode("utf-8", "replace")) > MAX_PROMPT:
        raise ValueError(f"over {MAX_PROMPT >> 20} MiB, more than any model reads. Shorten it.")
    if not value.strip():
        raise ValueError("empty. Give one as an argument, or - and text on standard input.")
    return value


def _option(value: str) -> tuple[str, Any]:
    name, equals, text = value.partition("=")
    if not name.strip() or not equals:
        raise ValueError("NAME=VALUE is expected, like temperature=0.")
    try:
        return name.strip(), json.loads(text)
    except ValueError:
        return name.strip(), text


def _format(value: str) -> Any:
    if value == "json":
        return value
    try:
        schema = json.loads(value)
    except ValueError as error:
        raise ValueError(f"the word json or a JSON schema is expected: {error}.") from None
    if not isinstance(schema, dict):
        raise ValueError("the word json or a JSON schema (an object) is expected.")
    return schema


def goes(instance: Instance, api: Api) -> str:
    """When an instance goes if nobody uses it again, and who will see to it."""
    idle = timedelta(seconds=instance.policy.idle_s)
    now = api.now()
    left = (
        f"about {idle // timedelta(minutes=1)} minutes"
        if idle >= timedelta(minutes=2)
        else f"{instance.policy.idle_s} seconds"
    )
    off = now + idle + timedelta(minutes=15)
    return (
        f"{instance.zone} {instance.id} goes {left} after its last use, from {now + idle:%H:%M} UTC on, when a "
        "reaper next looks "
        f"(exollama reap, from cron); with none it powers itself off at {off:%H:%M} UTC and then costs its disk "
        "until one does."
    )


def _env(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    session = _session(settings, terminal, provision=False)
    _instance, endpoint, _ = session.ready()
    key = session.key(_instance)
    assert endpoint.certificate
    path = _certificate_file(_instance.id, endpoint.certificate)
    result = {"url": endpoint.url, "key": key.reveal(), "cacert": str(path), "fingerprint": endpoint.fingerprint}
    if args.no_key:
        del result["key"]
    if args.json:
        print(json.dumps(result))
        return 0
    values = {"EXOLLAMA_URL": endpoint.url, "EXOLLAMA_CACERT": str(path)}
    if not args.no_key:
        values["EXOSCALE_OLLAMA_KEY"] = key.reveal()
    for name, value in values.items():
        print(f"export {name}={shlex.quote(value)}")
    terminal.note(
        'Then: curl --cacert "$EXOLLAMA_CACERT" -H "X-Ollama-Key: $EXOSCALE_OLLAMA_KEY" "$EXOLLAMA_URL/api/tags"'
    )
    return 0


def _certificate_file(instance_id: str, certificate: bytes) -> Path:
    """Write a verified certificate (DER) as PEM where only this user can, and return the path."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exollama"
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = base / f"{Path(instance_id).name}.pem"
    with tempfile.NamedTemporaryFile("w", dir=base, delete=False) as file:
        file.write(ssl.DER_cert_to_PEM_cert(certificate))
    Path(file.name).replace(path)
    return path


_VERBS: Mapping[str, Callable[[argparse.Namespace, Settings, Terminal], int]] = {
    "provision": _provision,
    "status": _status,
    "reap": _reap,
    "generate": _generate,
    "env": _env,
}
