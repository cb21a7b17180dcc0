"""`exollama serve` from zero: one instance for however many ask, waited for within bounds; looking wakes nobody."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.simulator import Simulator
from tests.simulator.driver import Answer
from tests.system.serving import MODEL, Served, eventually, refused, serving, whole
from tests.system.verbs import User, changes, plant


@pytest.fixture(autouse=True)
def cold(cloud: Simulator) -> Iterator[Simulator]:
    """No instance at first, and none is left."""
    for seen in cloud.instances():
        cloud.remove(seen.id)
    yield cloud
    for seen in cloud.instances():
        cloud.remove(seen.id)


def created(cloud: Simulator) -> int:
    return changes(cloud).count("create-instance")


def test_three_forwarders_that_several_programs_ask_at_once_wake_one_instance_and_answer_all(
    cloud: Simulator, user: User
) -> None:
    def ask(number: int, one: Served) -> Answer:
        return one.chat() if number % 2 else one.generate()

    cloud.boot(delay_s=0.1)
    with ExitStack() as stack, ThreadPoolExecutor(12) as programs:
        forwarders = [stack.enter_context(serving(user)) for _ in range(3)]
        answers = list(programs.map(ask, range(12), forwarders * 4))
        assert [answer.status for answer in answers] == [200] * 12, answers
        assert created(cloud) == 1
        assert "delete-instance" not in changes(cloud)
        [seen] = cloud.instances()
        for one in forwarders:
            status = one.status()
            assert (status["state"], status["instance"]["id"], status["wakes"]) == ("ready", seen.id, 1)
            assert (status["requests"]["forwarded"], status["held"], status["in_flight"]) == (4, 0, 0)
            assert one.end().ended(0, f"Instance {seen.id} in ch-gva-2 is ready after").code == 0


def test_who_is_held_for_longer_than_the_hold_is_told_how_far_it_is_and_answered_later(
    cloud: Simulator, user: User
) -> None:
    cloud.ollama(pull_hold_percent=40)
    with serving(user, "--hold", "1") as served, serving(user, "--hold", "1") as other:
        for one in (served, other):  # the other one shows what the first is doing
            one.run.until(lambda one=one: (refused(one.generate())["percent"] or 0) > 38, "the model is pulled")  # type: ignore[misc]
        answers = [served.generate(), other.generate()]
        for said in map(refused, answers):
            assert (said["phase"], said["percent"]) == ("model", pytest.approx(40, abs=2))
            assert said["seconds"] >= 1
            assert "the instance is being started: model 40 %" in said["error"]
        openai = refused(served.chat())
        assert (openai["error"]["type"], openai["phase"]) == ("server_error", "model")
        assert "the instance is being started: model 40 %" in openai["error"]["message"]
        status = served.status()
        assert (status["state"], status["phase"], status["held"]) == ("waking", "model", 0)
        cloud.ollama(pull_hold_percent=None)
        assert whole(eventually(served))
        assert whole(eventually(other))
    assert created(cloud) == 1


def test_a_boot_that_fails_is_told_by_its_phase_and_no_second_instance_is_made_at_once(
    cloud: Simulator, user: User
) -> None:
    phase = "docker"
    cloud.boot(fail=phase)
    with serving(user) as served:
        for _ in range(3):
            answer = served.generate()
            said = refused(answer)
            assert said["phase"] == "failed"
            assert f"The boot failed in phase {phase}" in said["error"]
            assert "\n" not in said["error"]
            assert 20 < int(answer.headers["Retry-After"]) <= 30
        assert served.status()["state"] == "failed"
        assert f"The boot failed in phase {phase}" in served.status()["error"]
        assert created(cloud) == 1
        assert served.end().ended(0, f"No instance: The boot failed in phase {phase}", "  | ").out.count("\n") == 1


def test_where_none_may_be_created_it_says_so_and_finds_the_one_that_somebody_creates(
    cloud: Simulator, user: User
) -> None:
    with serving(user, "--no-provision", EXOSCALE_OLLAMA_MODEL="another:1b") as served:
        answer = served.generate()
        assert "no running instance named exollama in ch-gva-2. Run `exollama provision`." in refused(answer)["error"]
        assert changes(cloud) == []
        user.run("provision").ended(0)
        served.run.until(lambda: MODEL in served.ask("GET", "/api/tags").body.decode(), "what it has is seen")
        assert served.status()["idle_s"] is None, "looking is no use"
        assert whole(eventually(served))
        assert created(cloud) == 1
        assert "The first prompt wakes" not in served.end().ended(0).err


PASSIVE = [
    ("GET", "/", None),
    ("HEAD", "/", None),
    ("GET", "/api/tags", None),
    ("GET", "/api/version", None),
    ("GET", "/api/ps", None),
    ("GET", "/v1/models", None),
    ("GET", f"/v1/models/{MODEL}", None),
    ("POST", "/api/show", {"model": MODEL}),
    ("GET", "/.exollama/status", None),
    ("GET", "/.exollama/status?format=prometheus", None),
]


def test_programs_that_only_look_wake_nobody_and_find_the_configured_model(cloud: Simulator, user: User) -> None:
    with serving(user) as served:
        for method, path, body in PASSIVE:
            assert served.ask(method, path, body).status == 200, path
        assert MODEL in served.ask("GET", "/api/tags").body.decode()
        assert served.ask("POST", "/api/show", {"model": "another"}).status == 404
        assert served.status()["state"] == "asleep"
        assert changes(cloud) == []
        assert cloud.instances() == []
        lists = len(cloud.called("list-instances"))
        for _ in range(20):
            served.ask("GET", "/api/tags")
        assert len(cloud.called("list-instances")) <= lists + 2, "what is not there is not looked for each time"


def test_what_brings_a_model_wakes_one(cloud: Simulator, user: User) -> None:
    with serving(user) as served:
        pulled = served.ask("POST", "/api/pull", {"model": MODEL, "stream": False})
        assert (pulled.status, pulled.json["status"]) == (200, "success")
    assert created(cloud) == 1


def test_a_port_in_use_is_told_with_what_to_do(user: User) -> None:
    with serving(user) as served:
        listen = f"127.0.0.1:{served.port}"
        done = user.run("serve", "--listen", listen)
        done.ended(1, f"{listen} is taken, perhaps by an Ollama", "--listen 127.0.0.1:11436", "OLLAMA_HOST=")
        assert done.out == ""


def test_pages_and_foreign_names_get_nowhere(cloud: Simulator, user: User) -> None:
    with serving(user, OLLAMA_ORIGINS="https://chat.example.org") as served:
        for fields in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
            assert served.generate(**fields).status == 403, fields
        assert served.generate(Sec_Fetch_Site="cross-site").status == 403
        assert served.ask("GET", "/.exollama/status", Origin="https://evil.example").status == 403
        assert changes(cloud) == []
        answer = served.ask("GET", "/api/tags", Origin="https://chat.example.org")
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "https://chat.example.org")


def test_what_is_overdue_in_the_zone_goes_beside_all_that(cloud: Simulator, user: User) -> None:
    left = plant(cloud, state="error")
    with serving(user) as served:
        served.run.until(lambda: left.id not in [seen.id for seen in cloud.instances()], "it was reaped")
        served.run.until(lambda: f"Instance {left.id} (exollama) was destroyed on the way" in served.run.err, "told")
        assert served.end().code == 0
