"""A planted API secret and endpoint key, searched for wherever output, logs, labels or arguments could carry them.

Only `env`, whose purpose it is, and the user-data may have the endpoint key; nothing has the API secret. Each kind of
search is shown to find what it looks for.
"""

import base64
import copy
import json
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from client.api import Api
from client.errors import ExollamaError
from client.session import Session, void
from client.settings import Secret, Settings
from client.transport import http_client_send
from functions import provision, status
from tests.simulator import ALWAYS, Seen, Simulator, driver
from tests.system.verbs import ROOT, Clerk, User, plant

KEY = "PLANTED-endpoint-key-0123456789-abcdefghij"


@pytest.fixture
def owner(cloud: Simulator) -> User:
    """A user who brings an endpoint key along."""
    return User(cloud, EXOSCALE_OLLAMA_KEY=KEY)


@pytest.fixture
def up(cloud: Simulator, owner: User) -> Seen:
    if not cloud.instances():
        owner.run("provision").ended(0)
    return cloud.instance()


def forms(secret: str) -> Iterator[str]:
    """How a secret may look somewhere: itself, in hex, and in base64 at each of the three alignments."""
    yield secret
    yield secret.encode().hex()
    for skip in range(3):
        whole = len(secret) - (len(secret) - skip) % 3
        yield base64.b64encode(secret[skip:whole].encode()).decode()


def found(places: Mapping[str, str], simulator: Simulator, *more: str) -> list[str]:
    """The places in which a secret or a user-data stands, by name."""
    data = [seen.user_data for seen in simulator.instances() if seen.user_data]
    needles = [form for secret in (simulator.secret, KEY, *more) for form in forms(secret)] + data
    return [name for name, text in places.items() if any(needle in text for needle in needles)]


class Arguments:
    """The argument lists of all processes, looked at again and again while the block runs."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Arguments":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.003):
            for entry in os.listdir("/proc"):
                if entry.isdigit():
                    try:
                        self.seen.add(Path(f"/proc/{entry}/cmdline").read_bytes().decode("utf-8", "replace"))
                    except OSError:
                        pass  # it ended


VERBS = (
    ["provision"],
    ["provision", "--json"],
    ["status", "--probe"],
    ["status", "--probe", "--json"],
    ["reap", "--dry-run"],
    ["reap", "--json"],
    ["generate", "why?"],
    ["generate", "--json", "why?"],
    ["chat"],
    ["chat", "--json"],
    ["logs"],
    ["logs", "--json"],
    ["env", "--no-key"],
    ["env", "--json", "--no-key"],
)


def test_no_verb_shows_a_secret_when_all_goes_well_and_only_env_shows_the_key(
    cloud: Simulator, owner: User, up: Seen
) -> None:
    places: dict[str, str] = {}
    with Arguments() as arguments:
        for verb in VERBS:
            done = owner.run(*verb, "-v", stdin="why?\n").ended(0)
            assert "GET /instance" in done.err  # it is verbose
            places[" ".join(verb)] = done.said
    places["arguments"] = "\n".join(arguments.seen)
    assert "generate" in places["arguments"]
    assert found(places, cloud) == []
    for words in (["env"], ["env", "--json"]):
        done = owner.run(*words, "-v").ended(0)
        assert found({"stdout": done.out, "stderr": done.err}, cloud) == ["stdout"]
        assert cloud.secret not in done.said


def test_no_verb_shows_a_secret_when_things_go_wrong(cloud: Simulator, owner: User, up: Seen) -> None:
    places: dict[str, str] = {}

    def fails(what: str, *verb: str, code: int = 1, **env: Any) -> None:
        places[what] = owner.run(*verb, "-v", **env).ended(code).said
        cloud.clear_faults()

    wrong = "WRONG-but-secret-all-the-same-0123456789"
    fails("a wrong API secret", "provision", EXOSCALE_API_SECRET=wrong)
    fails("a wrong API secret with a comma", "status", EXOSCALE_API_SECRET=f"{wrong},", code=2)
    fails("a malformed key", "generate", "why?", EXOSCALE_OLLAMA_KEY=f"{wrong}!", code=2)
    cloud.fault("get-instance", "403-iam", times=ALWAYS)
    fails("a wrong key", "generate", "--no-provision", "why?", EXOSCALE_OLLAMA_KEY=wrong)
    cloud.fault("get-instance", "garbage", times=ALWAYS)
    fails("a garbled instance", "generate", "--no-provision", "why?")
    cloud.fault("get-instance", "garbage", times=ALWAYS)
    fails("a garbled instance, looked at", "logs")
    cloud.fault("get-instance", "403-iam", times=ALWAYS)
    fails("a wrong key, looking", "logs", EXOSCALE_OLLAMA_KEY=wrong)
    cloud.fault("get-instance", "html", times=ALWAYS, status=200)
    fails("a proxy's page", "env")
    cloud.fault("create-instance", "quota")
    fails("a used-up quota", "provision", EXOSCALE_ZONE="de-fra-1")
    cloud.fault("create-instance", "lost", times=ALWAYS)
    cloud.fault("list-instances", "403-iam", skip=3, times=ALWAYS)
    fails("a lost create", "provision", EXOSCALE_ZONE="de-fra-1")
    cloud.ollama(cut_after=2)
    fails("a cut stream", "generate", "why?")
    cloud.ollama(cut_after=None, fail_generate="out of memory")
    fails("an error of Ollama's", "generate", "why?")
    assert found(places, cloud, wrong) == []
    for seen in cloud.instances("de-fra-1"):
        cloud.remove(seen.id)


def test_argument_lists_that_carry_a_key_are_found(cloud: Simulator) -> None:
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()", KEY]
    with Arguments() as arguments, subprocess.Popen(waits, stdin=subprocess.PIPE) as process:
        assert process.stdin
        with process.stdin:
            cloud.wait(lambda: any(KEY in line for line in list(arguments.seen)), "it is seen")
    assert found({"arguments": "\n".join(arguments.seen)}, cloud) == ["arguments"]


def test_neither_labels_urls_nor_anything_the_instance_says_or_logs_has_the_key(
    cloud: Simulator, owner: User, up: Seen
) -> None:
    owner.run("generate", "why?").ended(0)
    assert driver.ask(up, "GET", "/api/tags", key="a-wrong-key").status == 401
    assert up.key == KEY
    assert up.root
    here = ("run/exollama/boot.json", "etc/exollama/policy.json", "var/log/exollama/boot.log")
    places = {name: (up.root / name).read_text() for name in here} | {
        "labels": json.dumps([seen.labels for seen in cloud.instances()]),
        "URLs": json.dumps([f"{call.path}?{call.query}" for call in cloud.calls]),
        "its commands": json.dumps(cloud.instance().commands),
        "its logs": cloud.logs(),
        "its status": driver.ask(up, "GET", "/.exollama/status").body.decode(),
        "its proof": driver.ask(up, "GET", "/.exollama/proof", key="").body.decode(),
        "its refusal": driver.ask(up, "GET", "/api/tags", key="").body.decode(),
        "Ollama's answer": driver.ask(up, "POST", "/api/show", {"model": "granite3.1-dense:8b"}).body.decode(),
    }
    assert all(places.values())
    assert found(places, cloud) == []
    assert found({"the user-data": up.user_data or "", "the key file": up.key}, cloud) == [
        "the user-data",
        "the key file",
    ]


def test_only_the_create_call_and_get_instance_carry_the_key_over_the_api(records: Simulator, clerk: Clerk) -> None:
    clerk.run("provision", "--no-wait", EXOSCALE_OLLAMA_KEY=KEY).ended(0)
    carrying = {call.operation_id for call in records.calls if "user-data" in json.dumps(call.body)}
    assert carrying == {"create-instance"}
    rest = [call for call in records.calls if call.operation_id != "create-instance"]
    assert found({"the other bodies": json.dumps([call.body for call in rest])}, records) == []


def test_settings_give_no_secret_away_in_any_of_the_usual_ways(cloud: Simulator, owner: User) -> None:
    settings = owner.settings()
    ways: dict[str, Callable[[], object]] = {
        "repr": lambda: repr(settings),
        "str": lambda: str(settings),
        "format": lambda: f"{settings} {settings.key} {settings.key!r} {settings.api_secret:>50}",
        "asdict": settings._asdict,
        "astuple": lambda: tuple(settings),
        "deepcopy": lambda: repr(copy.deepcopy(settings)),
        "json": lambda: json.dumps(settings, default=str),
        "pickle": lambda: pickle.dumps(settings).decode("latin-1"),
        "pickle of the key": lambda: pickle.dumps(settings.key).decode("latin-1"),
        "percent": lambda: "%s %r" % (settings.key, settings.api_secret),  # noqa: UP031 - one of the usual ways
    }
    places = {}
    for name, way in ways.items():
        try:
            places[name] = str(way())
        except TypeError as error:  # a refusal is an answer, too
            places[name] = str(error)
    assert found(places, cloud) == []
    assert settings.key
    assert settings.key.reveal() == KEY


# -- tracebacks


def told(deed: Callable[[], object]) -> str:
    """The traceback of what a deed raises, with every local variable, as error trackers show it."""
    try:
        deed()
    except (ExollamaError, RuntimeError) as error:
        return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    raise AssertionError("nothing was raised")


def session(settings: Settings) -> Session:
    return Session(settings, Api(settings, settings.zone, http_client_send, sleep=lambda seconds: None))


def failures(simulator: Simulator, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Tracebacks with locals from everywhere that a secret passes through."""
    places = {}
    monkeypatch.setattr("client.boot.REACH_S", 0.1)

    def provisions() -> object:
        return provision.run(settings, wait=False, sleep=lambda seconds: None)

    for operation, kind in (
        ("add-rule-to-security-group", "op-failure"),  # first: once there is a group, none is made
        ("create-instance", "quota"),
        ("create-instance", "500"),
        ("create-instance", "reset"),
        ("create-instance", "403-iam"),
        ("create-instance", "op-failure"),
        ("list-instances", "403-signature"),
        ("list-instances", "garbage"),
    ):
        simulator.fault(operation, kind, times=ALWAYS)
        places[f"{operation} {kind}"] = told(provisions)
        simulator.clear_faults()
    plant(simulator, key=KEY)
    prompt = {"model": "m", "prompt": "why?"}
    places["an unreachable instance"] = told(lambda: session(settings).generate(prompt, void))
    simulator.fault("get-instance", "garbage", times=ALWAYS)
    places["a garbled instance"] = told(lambda: session(settings).generate(prompt, void))
    simulator.clear_faults()
    with monkeypatch.context() as patch:
        broken = RuntimeError("a bug that nobody thought of")
        patch.setattr("functions.plan.owned_labels", lambda *_: (_ for _ in ()).throw(broken))
        simulator.remove()
        places["a bug in the plan"] = told(provisions)
    return places


def test_no_traceback_shows_a_secret_even_with_its_local_variables(
    records: Simulator, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = clerk.settings(EXOSCALE_OLLAMA_KEY=KEY)
    places = failures(records, settings, monkeypatch)
    carried = [call.body["user-data"] for call in records.called("create-instance")]
    assert carried
    assert found(places, records, *carried) == []


def test_with_the_redaction_taken_out_the_tracebacks_are_found_to_show_it(
    records: Simulator, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Secret, "__repr__", Secret.reveal)
    settings = clerk.settings(EXOSCALE_OLLAMA_KEY=KEY)
    places = failures(records, settings, monkeypatch)
    assert set(found(places, records)) == set(places)


BROKEN = """
import sys
from client import cli, settings, verbs
{redaction}
def broken(args, settings, terminal):
    raise RuntimeError(f"an internal error, with {{settings}}")
verbs._VERBS = {{"status": broken}}
sys.exit(cli.main(["status", "-v"]))
"""


@pytest.mark.parametrize(
    ("redaction", "places"),
    [("", []), ("settings.Secret.__repr__ = settings.Secret.__str__ = settings.Secret.reveal", ["stderr"])],
    ids=["as it is", "with the redaction taken out"],
)
def test_an_internal_error_that_names_the_settings_shows_a_secret_only_without_the_redaction(
    cloud: Simulator, owner: User, redaction: str, places: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN.format(redaction=redaction)],
        cwd=ROOT,
        env=owner.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "RuntimeError: an internal error, with Settings(api_key=" in done.stderr
    assert found({"stdout": done.stdout, "stderr": done.stderr}, cloud) == places


def test_results_handed_to_other_code_redact_the_key_until_it_is_revealed(
    cloud: Simulator, owner: User, here: Clerk, up: Seen
) -> None:
    result = provision.run(owner.settings())
    probed = status.run(owner.settings(), probe=True)
    assert found({"provision": str(result), "status": json.dumps(probed)}, cloud) == []
    assert result["key"].reveal() == KEY
