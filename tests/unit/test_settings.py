"""Settings: every variable, good and bad; every problem at once; and no way for a secret to get out."""

import copy
import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import SettingsError
from client.settings import (
    DEFAULT_IMAGE,
    Reader,
    Secret,
    Settings,
    endpoint_key,
    instance_name,
    key_mark,
    model_name,
    web_address,
)
from tests.fakes import API_KEY, API_SECRET, KEY, settings

GOOD = {"EXOSCALE_API_KEY": API_KEY, "EXOSCALE_API_SECRET": API_SECRET}
VARIABLES = {
    "EXOSCALE_API_KEY": "api_key",
    "EXOSCALE_API_SECRET": "api_secret",
    "EXOSCALE_ZONE": "zone",
    "EXOSCALE_ZONES": "zones",
    "EXOSCALE_API_ENDPOINT": "endpoint",
    "EXOSCALE_INSTANCE_NAME": "name",
    "EXOSCALE_INSTANCE_TYPE": "instance_type",
    "EXOSCALE_TEMPLATE": "template",
    "EXOSCALE_DISK_SIZE": "disk_gib",
    "EXOSCALE_OLLAMA_MODEL": "model",
    "EXOSCALE_OLLAMA_KEY": "key",
    "EXOSCALE_OLLAMA_IMAGE": "image",
    "EXOSCALE_IDLE_TIMEOUT": "idle_s",
    "EXOSCALE_MAX_LIFETIME": "max_lifetime_s",
    "EXOSCALE_BOOT_TIMEOUT": "boot_s",
    "EXOSCALE_REAP_ACTION": "reap_action",
    "EXOSCALE_STOPPED_RETENTION": "retention_s",
    "EXOSCALE_ALLOWED_CIDRS": "allowed_cidrs",
    "EXOSCALE_MAX_HOURLY_COST": "max_hourly_cost",
}


def read(**changes: str) -> Settings:
    return Settings.from_env(GOOD | changes)


def test_with_nothing_but_credentials_the_defaults_of_the_contract_stand() -> None:
    assert Settings.from_env(GOOD) == Settings(
        api_key=API_KEY,
        api_secret=Secret(API_SECRET),
        zone="ch-gva-2",
        zones=None,
        endpoint="https://api-{zone}.exoscale.com/v2",
        name="exollama",
        instance_type=None,
        template="Linux Ubuntu 22.04 LTS 64-bit",
        disk_gib=50,
        model="granite3.1-dense:8b",
        key=None,
        image=DEFAULT_IMAGE,
        idle_s=1800,
        max_lifetime_s=604800,
        boot_s=1800,
        reap_action="destroy",
        retention_s=86400,
        allowed_cidrs=("0.0.0.0/0", "::/0"),
        max_hourly_cost=None,
    )


def test_the_image_is_pinned_to_a_version() -> None:
    name, _, tag = DEFAULT_IMAGE.partition(":")
    assert name == "ollama/ollama"
    assert tag.count(".") == 2


ACCEPTED: list[tuple[str, str, Any]] = [
    ("EXOSCALE_ZONE", "de-fra-1", "de-fra-1"),
    ("EXOSCALE_ZONE", "xx-new-12", "xx-new-12"),
    ("EXOSCALE_ZONES", "ch-gva-2", ("ch-gva-2",)),
    ("EXOSCALE_ZONES", "de-fra-1, ch-gva-2,de-fra-1", ("de-fra-1", "ch-gva-2")),
    ("EXOSCALE_API_ENDPOINT", "https://api.example/{zone}/v2/", "https://api.example/{zone}/v2"),
    ("EXOSCALE_API_ENDPOINT", "http://127.0.0.1:8080/{zone}/v2", "http://127.0.0.1:8080/{zone}/v2"),
    ("EXOSCALE_API_ENDPOINT", "http://localhost:1/v2", "http://localhost:1/v2"),
    ("EXOSCALE_API_ENDPOINT", "http://[::1]:1/v2", "http://[::1]:1/v2"),
    ("EXOSCALE_INSTANCE_NAME", "a", "a"),
    ("EXOSCALE_INSTANCE_NAME", "Team-7", "Team-7"),
    ("EXOSCALE_INSTANCE_TYPE", "standard.large", "standard.large"),
    ("EXOSCALE_INSTANCE_TYPE", "standard.extra-large", "standard.extra-large"),
    ("EXOSCALE_TEMPLATE", "Linux Ubuntu 24.04 LTS 64-bit", "Linux Ubuntu 24.04 LTS 64-bit"),
    ("EXOSCALE_DISK_SIZE", "10", 10),
    ("EXOSCALE_DISK_SIZE", "51200", 51200),
    ("EXOSCALE_OLLAMA_MODEL", "llama3.2", "llama3.2"),
    ("EXOSCALE_OLLAMA_MODEL", "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", None),
    ("EXOSCALE_OLLAMA_KEY", KEY, Secret(KEY)),
    ("EXOSCALE_OLLAMA_IMAGE", "registry.example:5000/ollama/ollama:0.5", None),
    ("EXOSCALE_IDLE_TIMEOUT", "1", 1),
    ("EXOSCALE_IDLE_TIMEOUT", " 60 ", 60),
    ("EXOSCALE_MAX_LIFETIME", "none", None),
    ("EXOSCALE_MAX_LIFETIME", "3600", 3600),
    ("EXOSCALE_BOOT_TIMEOUT", "600", 600),
    ("EXOSCALE_REAP_ACTION", "stop", "stop"),
    ("EXOSCALE_REAP_ACTION", "destroy", "destroy"),
    ("EXOSCALE_STOPPED_RETENTION", "7200", 7200),
    ("EXOSCALE_ALLOWED_CIDRS", "203.0.113.0/24, 2001:db8::/32", ("2001:db8::/32", "203.0.113.0/24")),
    ("EXOSCALE_ALLOWED_CIDRS", "198.51.100.7", ("198.51.100.7/32",)),
    ("EXOSCALE_ALLOWED_CIDRS", "::/0,0.0.0.0/0,::/0", ("0.0.0.0/0", "::/0")),
    ("EXOSCALE_MAX_HOURLY_COST", "0.25", 0.25),
]


@pytest.mark.parametrize(("variable", "value", "expected"), ACCEPTED, ids=[f"{v}={x}" for v, x, _ in ACCEPTED])
def test_a_good_value_is_taken(variable: str, value: str, expected: object) -> None:
    taken = getattr(read(**{variable: value}), VARIABLES[variable])
    assert taken == (value if expected is None and variable != "EXOSCALE_MAX_LIFETIME" else expected)


REFUSED = [
    ("EXOSCALE_API_KEY", "EXO key", "no Exoscale key has"),
    ("EXOSCALE_API_KEY", "EXO,a=b", "no Exoscale key has"),
    ("EXOSCALE_API_SECRET", "sécret", "no Exoscale key has"),
    ("EXOSCALE_API_KEY", '"EXOkey"', "without quotes"),
    ("EXOSCALE_API_SECRET", "'secret'", "without quotes"),
    ("EXOSCALE_API_SECRET", "secret`", "without quotes"),
    ("EXOSCALE_ZONE", "CH-GVA-2", "a zone is named like"),
    ("EXOSCALE_ZONE", "../v2", "a zone is named like"),
    ("EXOSCALE_ZONE", "evil.example/", "a zone is named like"),
    ("EXOSCALE_ZONES", "ch-gva-2,,de-fra-1", "a zone is named like"),
    ("EXOSCALE_ZONES", "ch-gva-2 de-fra-1", "a zone is named like"),
    ("EXOSCALE_API_ENDPOINT", "api.exoscale.com", "an endpoint looks like"),
    ("EXOSCALE_API_ENDPOINT", "ftp://api.exoscale.com/v2", "an endpoint looks like"),
    ("EXOSCALE_API_ENDPOINT", "https://api.exoscale.com/v2?a=b", "an endpoint looks like"),
    ("EXOSCALE_API_ENDPOINT", "https://me@api.exoscale.com/v2", "an endpoint looks like"),
    ("EXOSCALE_API_ENDPOINT", "https://api.exoscale.com:port/v2", "EXOSCALE_API_ENDPOINT"),
    ("EXOSCALE_API_ENDPOINT", "https://api.exoscale.com:99999/v2", "EXOSCALE_API_ENDPOINT"),
    ("EXOSCALE_API_ENDPOINT", "https://api exoscale com/v2", "EXOSCALE_API_ENDPOINT"),
    ("EXOSCALE_API_ENDPOINT", "https://[::1/v2", "EXOSCALE_API_ENDPOINT"),
    ("EXOSCALE_API_ENDPOINT", "http://api.exoscale.com/v2", "use https"),
    ("EXOSCALE_API_ENDPOINT", "http://127.evil.example/v2", "use https"),
    ("EXOSCALE_INSTANCE_NAME", "-a", "1 to 63 letters"),
    ("EXOSCALE_INSTANCE_NAME", "a" * 64, "1 to 63 letters"),
    ("EXOSCALE_INSTANCE_NAME", "a\nb", "1 to 63 letters"),
    ("EXOSCALE_INSTANCE_TYPE", "medium", "family.size"),
    ("EXOSCALE_TEMPLATE", "a\nb", "a template is a name"),
    ("EXOSCALE_DISK_SIZE", "9", "from 10 to 51200"),
    ("EXOSCALE_DISK_SIZE", "51201", "from 10 to 51200"),
    ("EXOSCALE_DISK_SIZE", "50GB", "whole number of GiB"),
    ("EXOSCALE_OLLAMA_MODEL", "granite'; rm -rf", "a model is named like"),
    ("EXOSCALE_OLLAMA_MODEL", "a/../b", "a model is named like"),
    ("EXOSCALE_OLLAMA_MODEL", "--help", "a model is named like"),
    ("EXOSCALE_OLLAMA_MODEL", "x/" + "y" * 130, "128 are allowed"),
    ("EXOSCALE_OLLAMA_KEY", "a1" * 15, "30 characters"),
    ("EXOSCALE_OLLAMA_KEY", "0123456789" * 13, "130 characters"),
    ("EXOSCALE_OLLAMA_KEY", "abcdefghi" * 4, "fewer than 10 distinct"),
    ("EXOSCALE_OLLAMA_KEY", KEY + '"', "not allowed"),
    ("EXOSCALE_OLLAMA_IMAGE", "ollama/ollama latest", "an image is named like"),
    ("EXOSCALE_OLLAMA_IMAGE", "-v", "an image is named like"),
    ("EXOSCALE_IDLE_TIMEOUT", "0", "whole number of seconds from 1"),
    ("EXOSCALE_IDLE_TIMEOUT", "-1", "whole number of seconds from 1"),
    ("EXOSCALE_IDLE_TIMEOUT", "30m", "whole number of seconds"),
    ("EXOSCALE_IDLE_TIMEOUT", "1e3", "whole number of seconds"),
    ("EXOSCALE_IDLE_TIMEOUT", "٣٠", "whole number of seconds"),
    ("EXOSCALE_IDLE_TIMEOUT", "9" * 30, "whole number of seconds"),
    ("EXOSCALE_MAX_LIFETIME", "0", "Or the word none"),
    ("EXOSCALE_MAX_LIFETIME", "never", "Or the word none"),
    ("EXOSCALE_BOOT_TIMEOUT", "0", "whole number of seconds"),
    ("EXOSCALE_REAP_ACTION", "delete", "destroy or stop"),
    ("EXOSCALE_STOPPED_RETENTION", "-5", "whole number of seconds"),
    ("EXOSCALE_ALLOWED_CIDRS", "203.0.113.1/24", "has host bits set"),
    ("EXOSCALE_ALLOWED_CIDRS", "office", "comma-separated, are expected"),
    ("EXOSCALE_ALLOWED_CIDRS", "0.0.0.0/0,", "comma-separated, are expected"),
    ("EXOSCALE_MAX_HOURLY_COST", "0", "above 0"),
    ("EXOSCALE_MAX_HOURLY_COST", "nan", "above 0"),
    ("EXOSCALE_MAX_HOURLY_COST", "-1", "above 0"),
]


@pytest.mark.parametrize(("variable", "value", "reason"), REFUSED, ids=[ascii(f"{v}={x[:40]}") for v, x, _ in REFUSED])
def test_a_bad_value_is_refused_naming_variable_and_reason(variable: str, value: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as refusal:
        read(**{variable: value})
    (problem,) = refusal.value.problems
    assert problem.startswith(variable)
    assert refusal.value.exit_code == 2


def test_every_problem_is_named_at_once() -> None:
    bad = dict.fromkeys(VARIABLES, "\x00")
    with pytest.raises(SettingsError) as refusal:
        Settings.from_env(bad)
    assert {problem.split()[0] for problem in refusal.value.problems} == set(VARIABLES)
    assert len(refusal.value.problems) == len(VARIABLES)


@pytest.mark.parametrize("nothing", [{}, {"EXOSCALE_API_KEY": "", "EXOSCALE_API_SECRET": " "}], ids=["unset", "empty"])
def test_missing_credentials_are_both_named_with_where_to_get_them(nothing: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="make a key under IAM") as refusal:
        Settings.from_env(nothing)
    assert [p.split()[0] for p in refusal.value.problems] == ["EXOSCALE_API_KEY", "EXOSCALE_API_SECRET"]


@pytest.mark.parametrize("empty", ["", "  "], ids=["empty", "blank"])
def test_an_empty_variable_is_an_unset_one(empty: str) -> None:
    rest = {variable: empty for variable in VARIABLES if variable not in GOOD}
    assert read(**rest) == read()


def test_the_model_of_the_original_module_is_taken_where_ours_is_unset() -> None:
    assert read(GARUDA_OLLAMA_MODEL="llama3.2").model == "llama3.2"


@pytest.mark.parametrize("empty", ["", " "], ids=["empty", "blank"])
def test_an_empty_model_variable_leaves_the_originals_in_force(empty: str) -> None:
    assert read(GARUDA_OLLAMA_MODEL="llama3.2", EXOSCALE_OLLAMA_MODEL=empty).model == "llama3.2"


def test_our_model_variable_wins_over_the_originals() -> None:
    assert read(GARUDA_OLLAMA_MODEL="llama3.2", EXOSCALE_OLLAMA_MODEL="qwen3:8b").model == "qwen3:8b"


def test_a_bad_model_of_the_original_module_is_blamed_on_its_variable() -> None:
    with pytest.raises(SettingsError, match=r"^GARUDA_OLLAMA_MODEL is 'no such!'"):
        read(GARUDA_OLLAMA_MODEL="no such!")


@pytest.mark.parametrize(
    ("env", "handed_out"),
    [
        ({}, False),
        ({"EXOLLAMA_KEY_MARK": " "}, False),
        ({"EXOLLAMA_INSTANCE_ID": "an-id"}, False),
        ({"EXOLLAMA_KEY_MARK": key_mark(Secret(KEY[::-1]))}, False),
        ({"EXOLLAMA_KEY_MARK": key_mark(Secret(KEY))}, True),
    ],
    ids=["the user's own", "an empty mark", "beside an id", "another's mark", "with its mark"],
)
def test_a_key_is_the_users_own_unless_it_came_with_an_instance(env: dict[str, str], handed_out: bool) -> None:
    taken = read(EXOSCALE_OLLAMA_KEY=KEY, **env)
    assert (taken.key, taken.key_handed_out) == (Secret(KEY), handed_out)


SECRET_ADDRESSES = [
    ("functions.example.org", "EXOLLAMA_PROVISION_URL is no https address: one looks like https://"),
    ("https://f.example.org:s3cr3t/", "EXOLLAMA_PROVISION_URL is no https address: one looks like https://"),
    ("https://f.example.org:99999/?code=s3cr3t", "EXOLLAMA_PROVISION_URL is no https address: one looks like https://"),
    ("https://[s3cr3t", "EXOLLAMA_PROVISION_URL is no https address: one looks like https://"),
    ("http://f.example.org/?code=s3cr3t", "EXOLLAMA_PROVISION_URL begins with http: plain http is for this machine's"),
]


@pytest.mark.parametrize(
    ("value", "problem"), SECRET_ADDRESSES, ids=["no scheme", "a bad port", "a high port", "a bracket", "plain http"]
)
def test_what_is_wrong_with_an_address_that_may_carry_a_key_is_a_sentence_without_it(value: str, problem: str) -> None:
    reader = Reader({"EXOLLAMA_PROVISION_URL": value})
    assert reader.get("EXOLLAMA_PROVISION_URL", web_address, None, secret=True) is None
    [said] = reader.problems
    assert said.startswith(problem)
    assert "s3cr3t" not in said
    assert "f.example.org" not in said


@pytest.mark.parametrize("chosen", [{}, {"EXOSCALE_ZONE": "at-vie-1"}], ids=["default zone", "chosen zone"])
def test_zones_that_leave_out_the_zone_of_provision_are_refused(chosen: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="would never be looked at by the reaper"):
        read(EXOSCALE_ZONES="de-fra-1", **chosen)


@given(st.dictionaries(st.sampled_from(sorted(VARIABLES)), st.text(max_size=60)))
def test_any_environment_gives_settings_or_problems_and_nothing_else(env: dict[str, str]) -> None:
    try:
        Settings.from_env(GOOD | env)
    except SettingsError as refusal:
        assert refusal.problems  # noqa: PT017


@given(st.text(max_size=140))
def test_what_passes_as_a_name_a_model_or_a_key_has_nothing_to_escape(value: str) -> None:
    parsers: list[Callable[[str], object]] = [instance_name, model_name, endpoint_key]
    for parse in parsers:
        try:
            parse(value)
        except ValueError:
            continue
        assert not set(value) & set(" \t\r\n'\"\\$`;{}()<>|&#%@*?!~^,")
        assert not value.startswith("-") or parse is endpoint_key


# -- secrets

WAYS_OUT: list[tuple[str, Callable[[Any], object]]] = [
    ("str", str),
    ("repr", repr),
    ("format", lambda s: f"{s}"),
    ("percent", lambda s: "%s %r" % (s, s)),  # noqa: UP031
    ("list", lambda s: str([s, {"k": s}])),
    ("dir", lambda s: [getattr(s, name) for name in dir(s) if not name.startswith("_") and name != "reveal"]),
]


@pytest.mark.parametrize(("way", "shown"), WAYS_OUT, ids=[way for way, _ in WAYS_OUT])
@pytest.mark.parametrize("holder", [Secret(API_SECRET), settings(key=Secret(KEY))], ids=["secret", "settings"])
def test_a_secret_does_not_show(way: str, shown: Callable[[Any], object], holder: object) -> None:
    out = repr(shown(holder))
    assert API_SECRET not in out
    assert KEY not in out


def test_a_secret_does_not_come_out_of_asdict() -> None:
    out = settings(key=Secret(KEY))._asdict()
    assert out["key"] == Secret(KEY)
    assert API_SECRET not in repr(out)
    assert KEY not in repr(out)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_of_settings_holds_its_secrets_as_closed(copied: Callable[[Settings], Settings]) -> None:
    again = copied(settings(key=Secret(KEY)))
    assert again.key == Secret(KEY)
    assert KEY not in repr(again)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("holder", [Secret(API_SECRET), settings()], ids=["secret", "settings"])
def test_a_secret_is_not_pickled(protocol: int, holder: object) -> None:
    with pytest.raises(TypeError, match="not pickled") as refusal:
        pickle.dumps(holder, protocol)
    assert API_SECRET not in str(refusal.value)


def test_a_secret_is_not_serialised_as_json() -> None:
    with pytest.raises(TypeError, match="not JSON serializable") as refusal:
        json.dumps({"key": Secret(KEY)})
    assert KEY not in str(refusal.value)


def test_a_secret_does_not_show_among_the_local_variables_of_a_traceback() -> None:
    def fails(held: Settings) -> None:
        key = held.key
        raise RuntimeError(f"failed with {held} and {key}")

    with pytest.raises(RuntimeError) as failure:
        fails(settings(key=Secret(KEY)))
    shown = "".join(traceback.TracebackException.from_exception(failure.value, capture_locals=True).format())
    assert "Secret('***')" in shown
    assert API_SECRET not in shown
    assert KEY not in shown


@pytest.mark.parametrize(
    ("variable", "value"),
    [("EXOSCALE_OLLAMA_KEY", KEY + "$"), ("EXOSCALE_API_SECRET", API_SECRET + "é"), ("EXOSCALE_OLLAMA_KEY", KEY[:31])],
    ids=["key", "secret", "short key"],
)
def test_a_refused_secret_is_not_repeated_in_the_message(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        read(**{variable: value})
    assert value[:12] not in str(refusal.value)
    assert value[:12] not in "".join(traceback.format_exception(refusal.value))


def test_secrets_are_equal_by_value_and_to_nothing_else() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
