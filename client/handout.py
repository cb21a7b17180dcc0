"""What other programs are handed of an instance, as variables: for a shell, a GitHub job's steps, later GitLab jobs.

Neighbours: `client.use` prints `env` with it; `client.verbs` prepares a Handout before `provision` creates anything,
and gives it the result. A key goes only where the format says so.
"""

import argparse
import os
import shlex
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from client.boot import REACH_S, wait_ready
from client.endpoint import PORT, Endpoint
from client.errors import ExollamaError, SettingsError
from client.settings import Secret, key_handed_out, key_mark

CURL = 'Then: curl --cacert "$EXOLLAMA_CACERT" -H "X-Ollama-Key: $EXOSCALE_OLLAMA_KEY" "$EXOLLAMA_URL/api/tags"'
KEYLESS = 'Then, with the key in the header X-Ollama-Key: curl --cacert "$EXOLLAMA_CACERT" "$EXOLLAMA_URL/api/tags"'
_GITHUB = ("GITHUB_ENV", "GITHUB_OUTPUT")
"""Where a runner of GitHub Actions names the files that it reads after each step."""


def variables(endpoint: Endpoint, instance_id: str, key: Secret | None) -> dict[str, str]:
    """URL, the path of the verified certificate, and the key if it is given. The endpoint's proof is through.

    Raises ExollamaError where the certificate cannot be written.
    """
    assert endpoint.certificate
    path = certificate_folder() / f"{Path(instance_id).name}.pem"
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(ssl.DER_cert_to_PEM_cert(endpoint.certificate))
        Path(file.name).replace(path)
    except OSError as error:
        raise _unwritable(error) from None
    values = {"EXOLLAMA_URL": endpoint.url, "EXOLLAMA_CACERT": str(path)}
    return values | ({"EXOLLAMA_INSTANCE_ID": instance_id} | _key_variables(key) if key else {})


def _key_variables(key: Secret) -> dict[str, str]:
    """A key and, unless it is the user's own, the mark by which no other instance is given it."""
    own = os.environ.get("EXOSCALE_OLLAMA_KEY", "").strip() == key.reveal() and not key_handed_out(os.environ)
    return {"EXOSCALE_OLLAMA_KEY": key.reveal()} | ({} if own else {"EXOLLAMA_KEY_MARK": key_mark(key)})


def certificate_folder() -> Path:
    """Where verified certificates are written: only this user can. Raises ExollamaError where nobody can."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exollama"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise _unwritable(error) from None


def _unwritable(error: Exception) -> ExollamaError:
    return ExollamaError(f"The certificate cannot be written: {error}. Set XDG_CACHE_HOME to a folder where it can.")


def exports(values: Mapping[str, str]) -> str:
    """Lines for a shell's `eval`."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Handout:
    """How `provision` hands its result on: text, json, env, github or gitlab.

    `with_key`: the key is to be in GitLab's artifact, too. `files`: GitHub's, by their variables.
    """

    format: str
    with_key: bool = False
    files: Mapping[str, Path]

    @classmethod
    def prepare(cls, args: argparse.Namespace, env: Mapping[str, str]) -> "Handout":
        """What the arguments ask for, tried as far as it can be. Raises SettingsError with every problem at once."""
        chosen = args.format or ("json" if args.json else "text")
        problems = list(_contradictions(args, chosen))
        files = {name: Path(env[name]) for name in _GITHUB if env.get(name)} if chosen == "github" else {}
        if chosen == "github":
            problems += _untouchable(files)
        if chosen in ("env", "github"):
            try:
                certificate_folder()
            except ExollamaError as error:
                problems.append(str(error))
        if problems:
            raise SettingsError(*problems)
        return cls(format=chosen, with_key=args.with_key, files=files)

    @property
    def hint(self) -> str:
        """What to do next, for a person; empty where that goes without saying."""
        if self.format == "env":
            return CURL
        if self.format == "gitlab" and not self.with_key:
            return (
                "The key is left out. A later job with the same credentials finds the instance by itself; one without "
                "them needs EXOSCALE_OLLAMA_KEY as a masked variable."
            )
        return ""

    def give(self, result: Mapping[str, Any]) -> Iterator[str]:
        """Hand provision's result on, and yield what belongs on stdout, piece by piece, each to be flushed.

        Raises ExollamaError.
        """
        if self.format == "gitlab":
            yield _lines(self._for_later_jobs(result))
            return
        id_, key = result["id"], result["key"]
        where = urlsplit(result["url"])
        endpoint = Endpoint(str(where.hostname), key, port=where.port or PORT)
        wait_ready(endpoint, budget_s=REACH_S)  # it is; this proves its certificate, and outlasts a lost connection
        endpoint.close()
        values = variables(endpoint, id_, key)
        if self.format == "env":
            yield exports(values)
            return
        yield f"::add-mask::{key.reveal()}\n"  # before anything else could show it
        outputs = {"url": endpoint.url, "id": id_, "model": result["model"]}
        for name, lines in zip(_GITHUB, (_lines(values), _lines(outputs)), strict=True):
            try:
                with self.files[name].open("a", encoding="utf-8") as file:
                    file.write(lines)
            except OSError as error:
                raise ExollamaError(f"{name} cannot be written any more: {error}. Instance {id_} is ready.") from None
        yield f"{endpoint.url}  {result['model']}  {id_} in {result['zone']}, {result['phase']}\n"

    def _for_later_jobs(self, result: Mapping[str, Any]) -> dict[str, str]:
        """No path, since they run elsewhere; what `exollama` there needs to find the same instance by itself."""
        values = {
            "EXOLLAMA_URL": result["url"],
            "EXOLLAMA_INSTANCE_ID": result["id"],
            "EXOSCALE_ZONE": result["zone"],
            "EXOSCALE_INSTANCE_NAME": result["name"],
            "EXOSCALE_OLLAMA_MODEL": result["model"],
        }
        return values | (_key_variables(result["key"]) if self.with_key else {})


def _contradictions(args: argparse.Namespace, chosen: str) -> Iterator[str]:
    if args.json and chosen != "json":
        yield f"--json and --format {chosen} contradict each other. Leave one out."
    if args.no_wait and chosen in ("env", "github", "gitlab"):
        yield (
            f"--format {chosen} hands on an instance that is ready, and --no-wait does not wait for that. "
            "Leave one out, or use --format json."
        )
    if args.with_key and chosen != "gitlab":
        yield "--with-key is for --format gitlab: env and github always have the key, text and json never."


def _untouchable(files: Mapping[str, Path]) -> Iterator[str]:
    """GitHub's files that are not named, or that cannot be appended to."""
    missing = [name for name in _GITHUB if name not in files]
    if missing:
        yield (
            f"--format github is for a step of GitHub Actions, and {' and '.join(missing)}, which its runner sets, "
            f"{'is' if len(missing) == 1 else 'are'} not set. For a shell there is --format env, for GitLab --format "
            "gitlab, for programs --format json."
        )
    for name, path in files.items():
        try:
            path.open("ab").close()
        except OSError as error:
            yield f"{name} names a file that cannot be written: {error}."


def _lines(values: Mapping[str, str]) -> str:
    """`NAME=value` lines, as GitHub and GitLab read them: what follows the first `=` is the value, as it stands."""
    for name, value in values.items():
        if not value.isprintable():
            raise ExollamaError(f"{name} cannot be handed on in one line: {value!r}.")
    return "".join(f"{name}={value}\n" for name, value in values.items())
