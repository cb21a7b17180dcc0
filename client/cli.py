"""The command line: verbs, help texts, and the one place that maps what happened to an exit code.

Importing this costs next to nothing, so that --help is quick; argparse and everything else is imported for the verb
that runs (`client.verbs`), and the functions (with urllib3) by the verbs that need them.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing's own constant costs the import of typing
    import argparse

EXIT_CODES = """\
exit codes:
  0  done
  1  failed, in use (stop), overdue (status --check) or cut short (serve); the message says what to do
  2  wrong usage or settings; every problem is named at once
  3  no instance, and none was to be created
  130, 143  interrupted (Ctrl-C, SIGTERM)"""

_SETTINGS = """\
Settings are environment variables: EXOSCALE_API_KEY and EXOSCALE_API_SECRET are required, the
others have defaults (see docs/settings.md)."""


class Terminated(BaseException):
    """SIGTERM arrived; unwinds like KeyboardInterrupt, so that whatever is under way is left in order."""


class _Verb:
    """One verb: what it does, how it is called, and its flags with their help."""

    def __init__(self, does: str, example: str, flags: Mapping[str, str]) -> None:
        self.does = does
        self.example = example
        self.flags = flags


VERBS: Mapping[str, _Verb] = {
    "provision": _Verb(
        "find, start or create the instance and wait until it is ready",
        '--format env    (in a shell: eval "$(exollama provision --format env)")',
        {
            "--no-wait": "return as soon as the instance is created or found",
            "--keep-failed": "keep an instance whose boot failed, to look at it",
            "--with-key": "with --format gitlab: the key, too, for whoever may read the job's artifacts",
        },
    ),
    "status": _Verb(
        "show the owned instances of all zones, when they go and about what they cost",
        "--probe",
        {
            "--probe": "ask each running instance itself, too (needs its port 11435)",
            "--check": "print only what a reaper should have removed by now, and exit 1 where there is any",
        },
    ),
    "stop": _Verb(
        "end the instance now, unless requests are in flight",
        "--json",
        {
            "--force": "end it all the same, and cut them",
            "--keep-disk": "stop it instead of destroying it (made with EXOSCALE_REAP_ACTION=stop only)",
        },
    ),
    "logs": _Verb(
        "show the instance in detail, with its boot's phases and log; looking never counts as use",
        "--follow",
        {"--follow": "go on with what is new until the boot is through or has failed"},
    ),
    "reap": _Verb(
        "remove instances that nobody uses; for cron",
        "--dry-run",
        {
            "--dry-run": "say what would be done, and do nothing",
            "--quiet": "print failures only, so that cron mails only those",
        },
    ),
    "generate": _Verb(
        "answer one prompt, token by token",
        '"Why is the sky blue?"',
        {
            "--no-stream": "print the answer only once it is whole",
            "--no-provision": "never create an instance; exit 3 where there is none",
        },
    ),
    "chat": _Verb(
        "talk with the model: what was said goes along with each prompt (/help there lists more)",
        '--system "Answer briefly."',
        {"--no-provision": "never create an instance; exit 3 where there is none"},
    ),
    "serve": _Verb(
        "forward Ollama's port on this machine to the instance, for every program, unchanged",
        "--on-exit destroy    (then, in another terminal: ollama run …, or any program)",
        {"--no-provision": "never create an instance: 503 where there is none (what is overdue is reaped still)"},
    ),
    "env": _Verb(
        "print what other programs need: URL, key and certificate",
        '--json    (in a shell: eval "$(exollama env)")',
        {"--no-key": "leave the key out"},
    ),
    "doctor": _Verb(
        "check everything that can be without changing anything, and say what to do",
        "--json",
        {},
    ),
}
ALIASES: Mapping[str, str] = {"start": "provision"}
GARUDA = "garuda-exoscale"
"""The name under which the original offered four verbs."""


def overview(prog: str = "exollama") -> str:
    """The help of the command itself: which verbs there are. Plain text, so that it does not wait for argparse."""
    if prog == GARUDA:
        names = {"provision": "start"} | {name: name for name in ("status", "stop", "logs")}
        more, example = "Every other verb of `exollama --help` works here, too.", f"{prog} start"
    else:
        names = {name: name + "".join(f" ({alias})" for alias, of in ALIASES.items() if of == name) for name in VERBS}
        more, example = f"`{prog} VERB --help` tells more of each.", f'{prog} generate "Why is the sky blue?"'
    verbs = "\n".join(f"  {names[name]:<20} {VERBS[name].does}" for name in names)
    return f"""usage: {prog} VERB [options]
       {prog} --version

A private Ollama on Exoscale that exists only while somebody uses it.

verbs:
{verbs}
  {more}

example:
  {example}

{_SETTINGS}

{EXIT_CODES}
"""


def parser(prog: str, verb: str) -> argparse.ArgumentParser:
    """The parser of one verb."""
    import argparse

    does = VERBS[verb].does
    one = argparse.ArgumentParser(
        prog=prog,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=f"example:\n  {prog} {VERBS[verb].example}\n\n{_SETTINGS}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if verb == "generate":
        one.add_argument("prompt", help="the prompt, or - to read it from standard input")
    if verb in ("generate", "chat"):
        _model_arguments(one)
    if verb == "generate":
        one.add_argument(
            "--format", metavar="json|SCHEMA", help='"json", or a JSON schema that the answer has to follow'
        )
    if verb == "serve":
        _serve_arguments(one)
    if verb == "status":
        _status_arguments(one)
    if verb == "provision":
        one.add_argument(
            "--format",
            choices=("text", "json", "env", "github", "gitlab"),
            help="how to hand the result on: text, or json with the key masked; env: lines for a shell's eval; github: "
            "into the job's environment and the step's outputs; gitlab: lines for a dotenv report",
        )
    for flag, help_text in VERBS[verb].flags.items():
        one.add_argument(flag, action="store_true", help=help_text)
    one.add_argument("--json", action="store_true", help="print the result as one JSON object")
    one.add_argument("-v", "--verbose", action="store_true", help="log every API call on stderr")
    one.set_defaults(verb=verb)
    return one


def _model_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument("--model", metavar="NAME", help="another model than EXOSCALE_OLLAMA_MODEL; pulled if need be")
    one.add_argument("--system", metavar="TEXT", help="a system message")
    one.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an option of Ollama, such as temperature=0; repeatable",
    )


def _status_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--format", choices=("text", "prometheus"), default="text", help="a table, or metrics for Prometheus (text)"
    )
    one.add_argument(
        "--watch", nargs="?", const="5", metavar="SECONDS", help="look again and again, every 5 seconds or so many"
    )


def _serve_arguments(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--listen", metavar="HOST:PORT", default="127.0.0.1:11434", help="where to listen (127.0.0.1:11434)"
    )
    one.add_argument(
        "--hold", metavar="SECONDS", default="900", help="how long a request waits for an instance to be ready (900)"
    )
    one.add_argument("--drain", metavar="SECONDS", default="30", help="how long requests under way get at the end (30)")
    one.add_argument(
        "--on-exit",
        choices=("keep", "stop", "destroy"),
        default="keep",
        help="what becomes of the instance at the end, unless others use it; kept, it goes once idle (keep)",
    )


def main(argv: Sequence[str] | None = None, *, prog: str = "exollama", verb: str | None = None) -> int:
    """Run one verb and return its exit code. With `verb`, the arguments are that verb's own."""
    words = list(sys.argv[1:] if argv is None else argv)
    creates = (verb or next(iter(words), "")) in ("provision", "start", "generate", "chat", "serve")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed (>&-, 2>&-): what is printed goes nowhere, as it was asked
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model answers in any script, a terminal shows what it can
    try:
        code = _dispatch(words, prog, verb)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output left, as `head` does; keep the interpreter from complaining while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk behind stdout, say
        print(f"exollama: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Terminated) as end:
        kept = " Whatever was created stays owned, and goes once nobody uses it." if creates else ""
        print(f"\nexollama: interrupted.{kept}", file=sys.stderr)
        return 130 if isinstance(end, KeyboardInterrupt) else 143


def _dispatch(words: list[str], prog: str, verb: str | None) -> int:
    if verb is None:
        first = words.pop(0) if words else ""
        verb = ALIASES.get(first, first)
        if verb not in VERBS:
            return _no_verb(first, prog)
        prog = f"{prog} {first}"
    args = parser(prog, verb).parse_args(words)
    from client import verbs
    from client.interrupts import arriving

    with arriving(Terminated, ctrl_c=verb not in ("chat", "serve")):
        return verbs.run(args)


def _no_verb(word: str, prog: str) -> int:
    if word in ("-h", "--help", "help"):
        print(overview(prog), end="")
        return 0
    if word == "--version":
        from client import __version__

        print(f"exollama {__version__}")
        return 0
    if " " in word:
        print(f'{prog}: that is no verb. Did you mean: {prog} generate "{word[:100]}"', file=sys.stderr)
    elif word:
        print(f"{prog}: there is no verb {word[:100]!r}; `{prog} --help` lists them.", file=sys.stderr)
    else:
        print(overview(prog), end="", file=sys.stderr)
    return 2


def garuda(argv: Sequence[str] | None = None) -> int:
    """`garuda-exoscale`: the same under the original's name, whose help shows the original's verbs."""
    return main(argv, prog=GARUDA)
