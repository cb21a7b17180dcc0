"""One use of the model: the instance found or woken, the key, the heartbeat, and what a stream can come to."""

from collections.abc import Callable

import pytest

from client.endpoint import Endpoint
from client.errors import (
    Denied,
    Draining,
    ExollamaError,
    KeyRejected,
    NoInstance,
    OllamaError,
    SettingsError,
    StreamCut,
    Unreachable,
    Untrusted,
)
from client.model import Instance
from client.settings import Secret
from tests.fakes import DAY, KEY, NOW, Machine, World, instance, label_map
from tests.sessions import HELLO, NOT_FOUND, PROMPT, PULLED, Lines, Use, machine

# -- finding and waking


def test_the_oldest_running_instance_of_our_name_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(
        machine(id="young", created=NOW),
        machine(id="old", address="127.0.0.8"),
        machine(id="stopped", state="stopped", created=NOW - 2 * DAY),
        machine(id="no address", address=None, created=NOW - 2 * DAY),
        machine(id="another", labels=label_map(name="nother"), created=NOW - 2 * DAY),
        machine(id="foreign", labels={}, created=NOW - 2 * DAY),
    )
    instance, _, said = Use(monkeypatch, world).session.ready()
    assert (instance.id, said["boot"]["phase"]) == ("old", "ready")


@pytest.mark.parametrize(
    "machines",
    [[], [machine(state="stopped")], [machine(labels=label_map(name="nother"))]],
    ids=["none", "stopped", "another name"],
)
def test_with_no_instance_and_no_waking_it_says_so_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, machines: list[Machine]
) -> None:
    with pytest.raises(NoInstance, match="no running instance named exollama in ch-gva-2") as none:
        Use(monkeypatch, World(*machines)).generate()
    assert none.value.exit_code == 3
    named = any(one.labels.get("exollama-name") == "nother" for one in machines)
    assert ("Others of yours in this zone: other." in str(none.value)) is named


@pytest.mark.parametrize(
    "machines",
    [
        [],
        [machine(state="stopped")],
        [machine(reachable=False)],
        [machine(ready_at=60.0)],
        [machine(fence={"committed": True})],
        [machine(failed="docker")],
    ],
    ids=["none", "stopped", "unreachable", "booting", "fenced", "failed boot"],
)
def test_with_none_that_is_ready_one_is_woken_and_used(
    monkeypatch: pytest.MonkeyPatch, machines: list[Machine]
) -> None:
    use = Use(
        monkeypatch,
        World(*[Machine(**{n: getattr(m, n) for n in m.__dataclass_fields__}) for m in machines]),
        wake=True,
    )
    assert use.generate()["response"] == "Hello"
    assert use.woken == 1


def test_a_ready_one_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()), wake=True)
    use.generate()
    assert use.woken == 0


def test_a_woken_instance_that_lists_lag_behind_with_is_used_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(), wake=True)
    use.listed_at = 60.0
    assert use.generate()["response"] == "Hello"


def test_one_that_is_booting_is_waited_for_where_nothing_may_be_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.boot.UNSAID_S", 0.0)
    booting = machine(ready_at=1.0, created=NOW)
    use = Use(monkeypatch, World(booting))
    use.world.before["status"] = lambda: setattr(use.world, "elapsed_s", use.world.elapsed_s + 0.3)
    assert use.generate()["response"] == "Hello"
    assert use.notes == ["Instance a is not ready yet (model); waiting for it."], "all that is seen in a pipe"


@pytest.mark.parametrize("error", [Untrusted("not vouched for"), KeyRejected("401")], ids=["certificate", "key"])
def test_a_wrong_certificate_or_key_wakes_nobody_and_is_told(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    use = Use(monkeypatch, World(machine()), wake=True)
    use.world.fail("status", error)
    with pytest.raises(type(error)):
        use.generate()
    assert use.woken == 0
    assert use.asked == []


# -- the key


def test_the_key_of_the_user_data_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()))
    use.generate()
    assert use.keys == [Secret(KEY)]
    assert use.notes == []


def test_a_configured_key_that_differs_is_reported_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()), key=Secret("another-key_0123456789-abcdefghijk"))
    use.generate()
    assert use.keys == [Secret(KEY)]
    assert "EXOSCALE_OLLAMA_KEY differs" in use.notes[0]
    assert KEY not in use.notes[0]
    assert "another-key" not in use.notes[0]


def test_a_key_that_was_handed_out_with_an_instance_before_is_not_reported_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stale = Secret("another-key_0123456789-abcdefghijk")
    use = Use(monkeypatch, World(machine()), key=stale, key_handed_out=True)
    use.generate()
    assert (use.keys, use.notes) == ([Secret(KEY)], [])


def test_where_the_user_data_may_not_be_read_the_configured_key_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Secret("another-key_0123456789-abcdefghijk")
    use = Use(monkeypatch, World(machine()), key=mine)
    use.world.fail("get_instance", *[Denied("GET", "/instance/a", 403, "Forbidden by role policy")] * 5)
    use.generate()
    assert use.keys == [mine]


def test_without_either_both_remedies_are_named_and_it_is_a_matter_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()))
    use.world.fail("get_instance", Denied("GET", "/instance/a", 403, "Forbidden by role policy"))
    with pytest.raises(SettingsError, match="set EXOSCALE_OLLAMA_KEY, or allow the operation get-instance") as told:
        use.generate()
    assert told.value.exit_code == 2


def test_a_user_data_that_is_not_ours_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExollamaError, match="user-data of instance a is not this project's"):
        Use(monkeypatch, World(machine(request=None))).generate()


def test_one_that_is_removed_while_its_key_is_read_is_no_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()))
    use.world.before["get_instance"] = use.world.machines.clear
    with pytest.raises(NoInstance, match="was removed just now"):
        use.generate()


# -- generating


def test_pieces_are_passed_on_as_they_arrive_and_the_whole_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()))
    answer = use.generate()
    assert use.text == "Hello"
    assert answer == {"response": "Hello", "done": True, "eval_count": 2}
    assert use.asked == [("/api/generate", PROMPT)]


@pytest.mark.parametrize(
    ("lines", "shown", "words"),
    [
        ([{"response": "Hel"}], "Hel", "cut off after 3 characters.*run this again"),
        ([], "", "cut off after 0 characters"),
        ([{"response": "Hel"}, b'{"respon'], "Hel", "no JSON object"),
        ([{"response": "Hel"}, StreamCut("ended in the middle of the answer")], "Hel", "in the middle"),
        ([[1, 2]], "", "no JSON object"),
        ([b"[" * 100_000], "", "no JSON object"),
    ],
    ids=["in the middle", "at once", "in a line", "by the connection", "no object", "nested too deeply"],
)
def test_a_stream_that_is_cut_is_told_with_what_had_arrived_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, lines: Lines, shown: str, words: str
) -> None:
    use = Use(monkeypatch, World(machine()), lines)
    with pytest.raises(StreamCut, match=words):
        use.generate()
    assert use.text == shown
    assert len(use.asked) == 1


def test_an_error_inside_a_stream_is_ollamas_own(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()), [{"response": "Hel"}, {"error": "out of \x1b[2Jmemory"}])
    with pytest.raises(OllamaError, match=r"out of \[2Jmemory"):
        use.generate()
    assert len(use.asked) == 1


def test_a_model_that_is_not_there_is_pulled_and_the_request_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()), NOT_FOUND, PULLED, HELLO)
    assert use.generate()["response"] == "Hello"
    assert [path for path, _ in use.asked] == ["/api/generate", "/api/pull", "/api/generate"]
    assert use.asked[1][1] == {"model": "m", "stream": True}
    assert "m is not on the instance yet; pulling it" in use.notes[0]


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (
            [{"error": "pull model manifest: file\ndoes not exist"}],
            OllamaError,
            "pulled: pull model manifest: file does",
        ),
        ([{"digest": "d", "total": "much", "completed": [1]}], StreamCut, "ended before it said success"),
        ([{"status": "pulling"}], StreamCut, "ended before it said success"),
        (OllamaError("answered 500: disk full", status=500), OllamaError, "disk full"),
    ],
    ids=["unknown", "odd", "cut", "refused"],
)
def test_a_pull_that_fails_is_told_in_ollamas_words(
    monkeypatch: pytest.MonkeyPatch, lines: Lines, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        Use(monkeypatch, World(machine()), NOT_FOUND, lines).generate()


def test_a_model_that_stays_missing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()), *[NOT_FOUND, PULLED] * 20)
    with pytest.raises(ExollamaError):
        use.generate()
    assert len(use.asked) <= 8


@pytest.mark.parametrize(("status", "message"), [(400, "option not found"), (404, "page missing"), (500, "bad option")])
def test_any_other_refusal_is_raised_and_nothing_pulled(
    monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    use = Use(monkeypatch, World(machine()), OllamaError(f"answered: {message}", status=status))
    with pytest.raises(OllamaError, match=message):
        use.generate()
    assert len(use.asked) == 1


def test_a_request_that_met_a_fence_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()), Draining("fenced"), HELLO)
    assert use.generate()["response"] == "Hello"
    assert len(use.asked) == 2


def test_a_fence_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()), Draining("fenced"))
    with pytest.raises(Draining, match="Run this again in a few minutes"):
        use.generate()
    assert len(use.asked) <= 8


def test_an_instance_without_an_address_is_not_reachable_yet() -> None:
    with pytest.raises(Unreachable, match="address"):
        Endpoint.of(instance(address=None), Secret(KEY))


# -- what is reaped on the way


def test_what_is_overdue_is_reaped_beside_a_use_but_not_the_one_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine(id="mine"), machine(id="other", created=NOW)))
    use.generate()
    assert use.tidied == [(["mine", "other"], "mine")]
    assert use.finished == 0
    use.session.finish()
    assert use.finished == 1


@pytest.mark.parametrize(
    "answers",
    [[Draining("fenced"), HELLO], [NOT_FOUND, PULLED, HELLO]],
    ids=["fenced", "pulled"],
)
def test_a_use_that_needs_a_second_try_reaps_once(monkeypatch: pytest.MonkeyPatch, answers: list[Lines]) -> None:
    use = Use(monkeypatch, World(machine()), *answers)
    use.generate()
    assert len(use.tidied) == 1


def test_one_that_went_before_it_took_the_request_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(machine())
    use = Use(monkeypatch, world, Unreachable("gave no answer"), HELLO, wake=True)

    def go() -> None:
        if len(world.named("status")) > 1:  # once it was found ready
            world.machines.pop("a", None)

    world.before["status"] = go
    assert use.generate()["response"] == "Hello"
    assert use.woken == 1


def test_one_that_is_still_there_is_not_asked_for_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()), Unreachable("gave no answer: timed out"), HELLO)
    with pytest.raises(Unreachable, match="timed out"):
        use.generate()
    assert len(use.asked) == 1


def test_where_every_try_meets_a_fence_the_last_word_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()), Draining("somebody is about to remove it"))
    with pytest.raises(Draining, match=r"No instance took the request in 4 tries.*somebody is about to remove it"):
        use.generate()


@pytest.mark.parametrize("answers", [[HELLO], [Draining("fenced"), HELLO]], ids=["at once", "at a second try"])
def test_one_that_was_woken_was_tidied_up_by_provision_and_is_not_again(
    monkeypatch: pytest.MonkeyPatch, answers: list[Lines]
) -> None:
    use = Use(monkeypatch, World(machine(id="other", state="stopped")), *answers, wake=True)
    use.generate()
    assert use.woken == 1
    assert use.tidied == []
    use.session.finish()


def test_nothing_is_reaped_before_the_label_says_that_the_instance_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()))
    writes: list[int] = []
    tidy = use._tidy

    def looking(listed: list[Instance], spare: str) -> Callable[[], None]:
        writes.append(len(use.world.named("put_labels")))
        return tidy(listed, spare)

    use.session._tidy = looking
    use.generate()
    assert writes == [1]


def test_a_use_that_finds_no_instance_reaps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine(labels=label_map(name="nother"))))
    with pytest.raises(NoInstance):
        use.generate()
    assert use.tidied == []


def test_whoever_only_looks_for_the_instance_reaps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()))
    use.session.ready()
    assert use.tidied == []


def test_a_session_that_may_not_reap_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Use(monkeypatch, World(machine()), tidies=False)
    assert use.generate()["response"] == "Hello"
    assert use.tidied == []
    use.session.finish()
