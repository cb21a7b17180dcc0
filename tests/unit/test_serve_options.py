"""What the arguments and the environment say about serving: values, contradictions, and every problem at once."""

from typing import Any

import pytest

import client.serve
from client import cli
from client.errors import SettingsError
from client.forwarder import Address
from client.serve import Options
from client.settings import Secret
from tests.fakes import API_KEY, API_SECRET

TOKEN = "planted-serve-token_0123456789abcdef"
CREDENTIALS = {"EXOSCALE_API_KEY": API_KEY, "EXOSCALE_API_SECRET": API_SECRET}
FUNCTION = {"EXOLLAMA_PROVISION_URL": "https://functions.example.org/p", "EXOLLAMA_FUNCTION_TOKEN": "a-token"}


def read(*words: str, **env: str) -> Options:
    return Options.read(cli.parser("exollama serve", "serve").parse_args(words), env)


def problems(*words: str, **env: str) -> list[str]:
    try:
        read(*words, **env)
    except SettingsError as error:
        return list(error.problems)
    return []


def test_without_any_it_listens_on_ollamas_port_of_this_machine_and_keeps_the_instance() -> None:
    options = read(**CREDENTIALS)
    assert options.address == Address(host="127.0.0.1", port=11434)
    assert (options.hold_s, options.drain_s, options.on_exit, options.provision) == (900.0, 30.0, "keep", True)
    assert (options.provision_url, options.function_token) == (None, None)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("127.0.0.1:0", Address(host="127.0.0.1", port=0)),
        ("localhost:65535", Address(host="localhost", port=65535)),
        ("[::1]:11434", Address(host="::1", port=11434)),
    ],
)
def test_a_listener_is_a_host_and_a_port(given: str, address: Address) -> None:
    assert read("--listen", given).address == address


@pytest.mark.parametrize("given", [":8080", "0.0.0.0:8080", "[::]:8080", "192.0.2.7:8080", "box.example:8080"])
def test_beyond_loopback_a_token_is_demanded_and_how_to_make_one_is_told(given: str) -> None:
    [problem] = problems("--listen", given)
    assert "lets other machines in" in problem
    assert "EXOLLAMA_SERVE_TOKEN (openssl rand -hex 32)" in problem
    assert problems("--listen", given, EXOLLAMA_SERVE_TOKEN=TOKEN) == []


BAD: list[tuple[list[str], dict[str, str], str]] = [
    *[(["--listen", value], {}, "HOST:PORT is expected") for value in ("", "11434", "localhost", "::1:11434", "a b:1")],
    *[(["--listen", value], {}, "HOST:PORT is expected") for value in ("127.0.0.1:65536", "127.0.0.1:x", "[x]:1")],
    *[(["--hold", value], {}, "from 1 to 86400") for value in ("", "0", "-1", "1.5", "86401", "soon", "1e3", "٣")],
    *[(["--drain", value], {}, "from 1 to 86400") for value in ("", "0", "9" * 40)],
    ([], {"EXOLLAMA_SERVE_TOKEN": "tiny"}, "openssl rand -hex 32"),
    ([], {"EXOLLAMA_SERVE_TOKEN": "a" * 64}, "too plain"),
    ([], {"EXOLLAMA_SERVE_TOKEN": TOKEN + "!"}, "32 to 128 of A-Z a-z 0-9 _ - are expected"),
    (["--listen", "0.0.0.0:1"], {"EXOLLAMA_SERVE_TOKEN": "tiny"}, "EXOLLAMA_SERVE_TOKEN is too short"),
    ([], {"OLLAMA_ORIGINS": "example.org"}, "OLLAMA_ORIGINS is 'example.org': origins like"),
    ([], {**FUNCTION, "EXOLLAMA_PROVISION_URL": "http://functions.example.org"}, "loopback only; use https"),
    ([], {**FUNCTION, "EXOLLAMA_PROVISION_URL": "functions.example.org"}, "https://functions.example.org/provision"),
    ([], {**FUNCTION, "EXOLLAMA_PROVISION_URL": "https://a:b@functions.example.org"}, "looks like"),
    ([], {**FUNCTION, "EXOLLAMA_FUNCTION_TOKEN": ""}, "EXOLLAMA_FUNCTION_TOKEN is not set"),
    ([], {**FUNCTION, "EXOLLAMA_FUNCTION_TOKEN": "two\nlines"}, "EXOLLAMA_FUNCTION_TOKEN has characters"),
    ([], {**FUNCTION, "EXOLLAMA_FUNCTION_TOKEN": "é"}, "EXOLLAMA_FUNCTION_TOKEN has characters"),
    (["--no-provision"], FUNCTION, "can only be found by waking it"),
    (["--on-exit", "destroy"], FUNCTION, "--on-exit destroy needs EXOSCALE_API_KEY and EXOSCALE_API_SECRET"),
    (["--on-exit", "destroy", "--no-provision"], CREDENTIALS, "would end what others made. Leave one out"),
    (["--on-exit", "stop"], CREDENTIALS, "needs EXOSCALE_REAP_ACTION=stop"),
    (["--on-exit", "stop"], {**CREDENTIALS, "EXOSCALE_REAP_ACTION": "destroy"}, "needs EXOSCALE_REAP_ACTION=stop"),
]


@pytest.mark.parametrize(("words", "env", "told"), BAD)
def test_what_cannot_be_is_told_in_one_sentence_with_what_to_do(
    words: list[str], env: dict[str, str], told: str
) -> None:
    [problem] = problems(*words, **env)
    assert told in problem
    for name in ("EXOLLAMA_SERVE_TOKEN", "EXOLLAMA_FUNCTION_TOKEN"):
        assert not env.get(name) or env[name] == "a-token" or env[name] not in problem


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (["--on-exit", "stop"], {**CREDENTIALS, "EXOSCALE_REAP_ACTION": "stop"}),
        (["--on-exit", "destroy"], CREDENTIALS),
        (["--on-exit", "destroy"], {**CREDENTIALS, **FUNCTION}),
        (["--no-provision"], {**CREDENTIALS, **FUNCTION}),
        ([], {**FUNCTION, "EXOLLAMA_PROVISION_URL": "http://127.0.0.1:8080/p"}),
        ([], {**FUNCTION, "EXOLLAMA_PROVISION_URL": "http://localhost:8080/p"}),
        ([], {**CREDENTIALS, "EXOLLAMA_SERVE_TOKEN": "  "}),
    ],
)
def test_what_goes_together_is_no_problem(words: list[str], env: dict[str, str]) -> None:
    assert problems(*words, **env) == []


@pytest.mark.parametrize(
    ("env", "by_url"),
    [
        (FUNCTION, True),
        ({**FUNCTION, "EXOSCALE_API_KEY": " "}, True),
        ({**FUNCTION, **CREDENTIALS}, False),
        ({**FUNCTION, "EXOSCALE_API_KEY": API_KEY}, False),
        (CREDENTIALS, False),
    ],
)
def test_the_function_is_asked_only_where_there_are_no_credentials(env: dict[str, str], by_url: bool) -> None:
    options = read(**env)
    assert (options.provision_url, options.function_token) == (
        (FUNCTION["EXOLLAMA_PROVISION_URL"], Secret("a-token")) if by_url else (None, None)
    )
    assert "a-token" not in repr(options)


EVERYTHING = {
    "EXOSCALE_API_SECRET": API_SECRET,
    "EXOSCALE_ZONE": "nowhere",
    "EXOSCALE_IDLE_TIMEOUT": "0",
    "EXOLLAMA_SERVE_TOKEN": "tiny",
    "OLLAMA_ORIGINS": "example.org",
}


def test_every_problem_of_settings_and_arguments_is_named_at_once_and_nothing_is_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def begins(*_: Any) -> None:
        raise AssertionError("it was begun")

    monkeypatch.setattr(client.serve, "_run", begins)
    for name, value in EVERYTHING.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["serve", "--listen", "here", "--hold", "0", "--drain", "x", "--on-exit", "stop"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sorted(line.split()[1] for line in err.splitlines()) == [
        "--drain",
        "--hold",
        "--listen",
        "--on-exit",
        "EXOLLAMA_SERVE_TOKEN",
        "EXOSCALE_API_KEY",
        "EXOSCALE_IDLE_TIMEOUT",
        "EXOSCALE_ZONE",
        "OLLAMA_ORIGINS",
    ]


@pytest.mark.parametrize("words", [["--on-exit", "burn"], ["--port", "1"], ["surplus"], ["--lis", "x"]])
def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.main(["serve", *words])
    assert leaving.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_without_credentials_or_a_function_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve"]) == 2
    err = capsys.readouterr().err
    assert "EXOSCALE_API_KEY" in err
    assert "EXOSCALE_API_SECRET" in err
    assert "EXOLLAMA_PROVISION_URL" in err
