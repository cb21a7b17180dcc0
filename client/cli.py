"""The command line: verbs, help texts, and the one place that maps what happened to an exit code.

Importing this costs argparse only, so that --help is quick; everything else is imported by the verb that runs
(`client.verbs`), and the functions (with urllib3) by the verbs that need them.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

EXIT_CODES = """\
exit codes:
  0  done
  1  failed; the message says what and what to do
  2  wrong usage or settings; every problem is named at once
  3  no instance, and none was to be created
  130, 143  interrupted (Ctrl-C, SIGTERM)"""

_SETTINGS = """\
Settings are environment variables: EXOSCALE_API_KEY and EXOSCALE_API_SECRET are required, the
others have defaults (see README.md)."""


class Terminated(BaseException):
    """SIGTERM arrived; unwinds like KeyboardInterrupt, so that whatever is under way is left in order."""


def parser(prog: str = "exollama") -> argparse.ArgumentParser:
    """The parser of all verbs."""
    top = argparse.ArgumentParser(
        prog=prog,
        description="A private Ollama on Exoscale that exists only while somebody uses it.",
        epilog=f'example:\n  {prog} generate "Why is the sky blue?"\n\n{_SETTINGS}\n\n{EXIT_CODES}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = top.add_subparsers(dest="verb", metavar="VERB")

    def verb(name: str, help_text: str, example: str, *, alias: str | None = None) -> argparse.ArgumentParser:
        one = verbs.add_parser(
            name,
            help=help_text,
            description=f"{help_text[0].upper()}{help_text[1:]}.",
            epilog=f"example:\n  {prog} {example}\n\n{_SETTINGS}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            aliases=[alias] if alias else [],
            allow_abbrev=False,
        )
        one.set_defaults(verb=name)
        one.add_argument("--json", action="store_true", help="print the result as one JSON object")
        one.add_argument("-v", "--verbose", action="store_true", help="log every API call on stderr")
        return one

    provision = verb(
        "provision", "find, start or create the instance and wait until it is ready", "provision --json", alias="start"
    )
    provision.add_argument("--no-wait", action="store_true", help="return as soon as the instance is created or found")
    provision.add_argument(
        "--keep-failed", action="store_true", help="keep an instance whose boot failed, to look at it"
    )

    status = verb("status", "show the owned instances of all zones", "status --json")
    status.add_argument(
        "--probe", action="store_true", help="ask each running instance itself, too (needs its port 11435)"
    )

    reap = verb("reap", "remove instances that nobody uses (for cron: python -m functions.reap_idle)", "reap --dry-run")
    reap.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    reap.add_argument("--quiet", action="store_true", help="print failures only, so that cron mails only those")

    generate = verb("generate", "answer one prompt, token by token", 'generate "Why is the sky blue?"')
    generate.add_argument("prompt", help="the prompt, or - to read it from standard input")
    generate.add_argument("--model", metavar="NAME", help="another model than EXOSCALE_OLLAMA_MODEL; pulled if need be")
    generate.add_argument("--system", metavar="TEXT", help="a system message")
    generate.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an option of Ollama, such as temperature=0; repeatable",
    )
    generate.add_argument(
        "--format", metavar="json|SCHEMA", help='"json", or a JSON schema that the answer has to follow'
    )
    generate.add_argument("--no-stream", action="store_true", help="print the answer only once it is whole")
    generate.add_argument(
        "--no-provision", action="store_true", help="never create an instance; exit 3 where there is none"
    )

    env = verb("env", "print what other programs need: URL, key and certificate", 'env  # eval "$(exollama env)"')
    env.add_argument("--no-key", action="store_true", help="leave the key out")
    return top


def main(argv: Sequence[str] | None = None, *, prog: str = "exollama") -> int:
    """Run one verb and return its exit code."""
    options = parser(prog)
    args = options.parse_args(argv)
    if args.version:
        from client import __version__

        print(f"exollama {__version__}")
        return 0
    if not args.verb:
        options.print_help(sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _terminate)
    try:
        from client import verbs

        code = verbs.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output left, as `head` does; keep the interpreter from complaining while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except Terminated:
        return 143


def garuda(argv: Sequence[str] | None = None) -> int:
    """`garuda-exoscale`: the name under which the original offered its verbs."""
    return main(argv, prog="garuda-exoscale")


def _terminate(_signum: int, _frame: FrameType | None) -> None:
    raise Terminated
