"""`serve`, `generate` and `provision` without credentials: the functions' own WSGI application wakes the instance."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from functions import faas
from tests.simulator import Simulator
from tests.system.functioning import TOKEN, Function, functioning
from tests.system.serving import refused, serving, whole
from tests.system.verbs import User, changes


@pytest.fixture
def function(empty: Simulator, user: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[Function]:
    """One that has the credentials and little time for each answer, in an environment that only it sees."""
    monkeypatch.setattr(faas, "PATIENCE_S", 0.3)
    impatient = {**(faas.handle.__kwdefaults__ or {}), "sleep": lambda seconds: time.sleep(0.03)}
    monkeypatch.setattr(faas.handle, "__kwdefaults__", impatient)
    with functioning(user, monkeypatch) as function:
        yield function


@pytest.fixture
def stranger(cloud: Simulator, function: Function) -> User:
    """Somebody without credentials, who knows the function's URL and token."""
    one = User(cloud, EXOLLAMA_PROVISION_URL=f"{function.url}/provision", EXOLLAMA_FUNCTION_TOKEN=TOKEN)
    one.env = {name: value for name, value in one.env.items() if not name.startswith("EXOSCALE_")}
    return one


def test_the_function_wakes_one_instance_for_all_and_is_asked_until_it_is_ready(
    cloud: Simulator, stranger: User, function: Function
) -> None:
    cloud.ollama(pull_hold_percent=40)
    with serving(stranger, "-v") as served, ThreadPoolExecutor(6) as programs:
        assert served.ask("GET", "/api/tags").status == 200
        assert function.asked == [], "looking wakes nobody"
        answers = [programs.submit(served.generate) for _ in range(6)]
        served.run.until(lambda: served.status()["phase"] == "model", "its phase is shown")
        cloud.ollama(pull_hold_percent=None)
        for answer in answers:
            assert whole(answer.result())
        assert changes(cloud).count("create-instance") == 1
        assert function.answers.count(200) == 1
        assert set(function.answers) == {202, 200}
        assert set(function.asked) == {(f"Bearer {TOKEN}", b'{"action":"provision"}')}
        [seen] = cloud.instances()
        assert served.status()["instance"]["id"] == seen.id
        assert whole(served.generate())
        assert function.answers.count(200) == 1
        places = [served.run.out, str(served.status()), served.ask("GET", "/api/tags").body.decode()]
        done = served.end().ended(0, "to what the provision function wakes")
    assert [place for place in (*places, done.said) if TOKEN in place or seen.key in place] == []


def test_an_instance_that_went_is_replaced_through_the_function(
    cloud: Simulator, stranger: User, function: Function
) -> None:
    with serving(stranger) as served:
        assert whole(served.generate())
        cloud.remove()
        assert whole(served.generate())
        assert changes(cloud).count("create-instance") == 2
        assert served.status()["wakes"] == 2


def test_a_wrong_token_is_told_by_the_name_of_its_variable_and_creates_nothing(
    cloud: Simulator, stranger: User, function: Function
) -> None:
    wrong = "another-secret-that-is-not-the-functions-own"
    with serving(stranger, EXOLLAMA_FUNCTION_TOKEN=wrong) as served:
        said = refused(served.generate())
        assert "refuses EXOLLAMA_FUNCTION_TOKEN (401)" in said["error"]
        done = served.end().ended(0, "refuses EXOLLAMA_FUNCTION_TOKEN (401)")
    assert [place for place in (done.said, str(said)) if TOKEN in place or wrong in place] == []
    assert function.answers == [401]
    assert changes(cloud) == []


def test_what_fails_behind_the_function_is_told_in_its_words(
    cloud: Simulator, stranger: User, function: Function
) -> None:
    cloud.fault("create-instance", "quota", times=1 << 30)
    with serving(stranger) as served:
        said = refused(served.generate())
        assert "The provision function failed (500): " in said["error"]
        assert "quota" in said["error"]
    cloud.clear_faults()
    assert cloud.instances() == []


def test_a_function_that_is_not_there_is_told_with_what_to_look_at(cloud: Simulator, stranger: User) -> None:
    with serving(stranger, EXOLLAMA_PROVISION_URL="http://127.0.0.1:9/provision") as served:
        said = refused(served.generate())
        assert "The provision function does not answer: cannot connect to 127.0.0.1:9" in said["error"]
        assert "Is EXOLLAMA_PROVISION_URL right" in said["error"]


def test_settings_that_need_credentials_are_refused_before_anything_is_asked(
    stranger: User, function: Function
) -> None:
    done = stranger.run("serve", "--no-provision", "--on-exit", "destroy")
    done.ended(2, "--no-provision needs EXOSCALE_API_KEY", "--on-exit destroy needs EXOSCALE_API_KEY")
    stranger.run("serve", EXOLLAMA_FUNCTION_TOKEN=None).ended(2, "EXOLLAMA_FUNCTION_TOKEN is not set")
    assert function.asked == []


# -- the other verbs that need an instance


def test_generate_and_provision_wake_through_it_too_and_hand_on_what_works(
    cloud: Simulator, stranger: User, function: Function
) -> None:
    done = stranger.run("generate", "why?").ended(0)
    assert done.out.strip()
    again = stranger.run("generate", "why?", "--json").ended(0)
    assert again.err == "", "what is ready says nothing"
    talk = stranger.run("chat", stdin="one\ntwo\n").ended(0)
    assert [line.rpartition(" ")[2] for line in talk.out.splitlines()] == ["one", "two"]
    assert again.json["done"] is True
    [seen] = cloud.instances()
    for_shell = stranger.run("provision", "--format", "env").ended(0)
    assert f"export EXOLLAMA_URL={seen.url}\n" in for_shell.out
    assert f"export EXOSCALE_OLLAMA_KEY={seen.key}\n" in for_shell.out
    shown = stranger.run("provision", "--json").ended(0)
    assert shown.json == shown.json | {"id": seen.id, "url": seen.url, "phase": "ready", "key": "***"}
    assert changes(cloud).count("create-instance") == 1
    said = [done.said, again.said, talk.said, for_shell.err, shown.said]
    assert [text for text in said if TOKEN in text or seen.key in text] == []


@pytest.mark.parametrize(
    ("words", "env", "told"),
    [
        (["generate", "why?", "--no-provision"], {}, ["--no-provision needs EXOSCALE_API_KEY"]),
        (["chat", "--no-provision"], {}, ["--no-provision needs EXOSCALE_API_KEY"]),
        (
            ["provision", "--no-wait", "--keep-failed", "--format", "github"],
            {},
            ["--no-wait needs EXOSCALE_API_KEY", "--keep-failed needs EXOSCALE_API_KEY", "GITHUB_ENV"],
        ),
        (["generate", "why?"], {"EXOLLAMA_FUNCTION_TOKEN": None}, ["EXOLLAMA_FUNCTION_TOKEN is not set"]),
        (["provision"], {"EXOLLAMA_PROVISION_URL": "http://functions.example.org/x"}, ["plain http is for"]),
        (["status"], {}, ["EXOSCALE_API_KEY is not set"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_needs_credentials_or_is_missing_is_told_before_the_function_is_asked(
    stranger: User, function: Function, words: list[str], env: dict[str, Any], told: list[str]
) -> None:
    stranger.run(*words, **env).ended(2, *told)
    assert function.asked == []


def test_a_token_that_the_function_refuses_is_told_with_its_reason(stranger: User, function: Function) -> None:
    done = stranger.run("generate", "why?", EXOLLAMA_FUNCTION_TOKEN="x" * 40)
    done.ended(2, "refuses EXOLLAMA_FUNCTION_TOKEN (401)", "It says: That is not this function's token.")
