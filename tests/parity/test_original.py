"""What the original's documentation says of settings, zones, types, commands and files, and no other test here does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from client import cli, labels, prices
from client.errors import SettingsError
from client.settings import Settings
from functions import userdata
from functions.plan import owned_labels
from tests.deploy.composed import PARSERS, resolved
from tests.deploy.tools import filled_in
from tests.fakes import API_KEY, API_SECRET, NONCE, NOW, settings
from tests.parity.table import ROOT
from tests.unit.booting import MODEL, Machine

REQUIRED = {"EXOSCALE_API_KEY": API_KEY, "EXOSCALE_API_SECRET": API_SECRET}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# -- settings


@pytest.mark.parametrize("variable", REQUIRED)
def test_a_required_setting_is_read_and_demanded(variable: str) -> None:
    read = Settings.from_env(REQUIRED)
    assert (read.api_key, read.api_secret.reveal()) == (API_KEY, API_SECRET)
    with pytest.raises(SettingsError, match=rf"^{variable} is not set"):
        Settings.from_env({**REQUIRED, variable: ""})


DEFAULTS: dict[str, tuple[str, object, str]] = {
    "EXOSCALE_ZONE": ("zone", "ch-gva-2", "at-vie-1"),
    "EXOSCALE_TEMPLATE": ("template", "Linux Ubuntu 22.04 LTS 64-bit", "Linux Ubuntu 24.04 LTS 64-bit"),
    "EXOSCALE_DISK_SIZE": ("disk_gib", 50, "100"),
    "EXOSCALE_IDLE_TIMEOUT": ("idle_s", 1800, "600"),
    "GARUDA_OLLAMA_MODEL": ("model", "granite3.1-dense:8b", "llama2:7b"),
}


@pytest.mark.parametrize("variable", DEFAULTS)
def test_an_unset_setting_has_the_default_of_the_original(variable: str) -> None:
    field, default, another = DEFAULTS[variable]
    assert getattr(Settings.from_env(REQUIRED), field) == default
    assert str(getattr(Settings.from_env({**REQUIRED, variable: another}), field)) == another


@pytest.mark.parametrize("seconds", [600, 3600, 86400])
def test_an_idle_timeout_that_the_original_recommends_is_taken_and_travels_with_the_instance(seconds: int) -> None:
    read = Settings.from_env({**REQUIRED, "EXOSCALE_IDLE_TIMEOUT": str(seconds)})
    assert owned_labels(read, NONCE, NOW, None)[labels.IDLE] == f"s{seconds}"


@pytest.mark.parametrize("zone", ["ch-gva-2", "de-fra-1", "at-vie-1", "de-muc-1", "bg-sof-1"])
def test_a_zone_that_the_original_names_is_taken(zone: str) -> None:
    read = Settings.from_env({**REQUIRED, "EXOSCALE_ZONE": zone, "EXOSCALE_ZONES": zone})
    assert (read.zone, read.zones) == (zone, (zone,))


@pytest.mark.parametrize("name", ["standard.medium", "standard.large", "gpu2.medium", "gpu2.large"])
def test_a_type_that_the_original_names_is_taken_and_has_a_price(name: str) -> None:
    assert Settings.from_env({**REQUIRED, "EXOSCALE_INSTANCE_TYPE": name}).instance_type == name
    assert prices.hourly_cost(name, settings().disk_gib)


# -- the instance


def test_nginx_listens_on_every_address_at_the_port_of_the_original() -> None:
    text = userdata.templates().joinpath("nginx.conf").read_text("utf-8")
    assert re.findall(r"^ +listen ([^ ]+) ssl\b", text, re.MULTILINE) == ["11435", "[::]:11435"]


def test_the_boot_pulls_the_configured_model_before_it_is_ready(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    try:
        assert machine.boot() == 0
        assert machine.report()["phase"] == "ready"
        assert ("/api/pull", {"model": MODEL}) in machine.ollama.asked
    finally:
        machine.close()


# -- the command


def test_the_originals_command_is_installed_beside_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert PROJECT["scripts"] == {"exollama": "client.cli:main", "garuda-exoscale": "client.cli:garuda"}
    assert cli.garuda(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: garuda-exoscale VERB")


@pytest.mark.parametrize("verb", ["status", "start", "stop", "logs"])
def test_the_originals_command_has_its_verbs(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        cli.garuda([verb, "--help"])
    assert leaving.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: garuda-exoscale {verb} ")


def test_no_option_of_the_command_takes_a_credential() -> None:
    for verb in cli.VERBS:
        taking = [action for action in cli.parser("exollama", verb)._actions if action.nargs != 0]
        names = {name for action in taking for name in (*action.option_strings, action.dest)}
        assert not {name for name in names if re.search(r"key|secret|token|credential|password", name)}, verb


# -- the adapter


def test_the_adapter_is_imported_from_the_functions() -> None:
    from functions import ExoscaleOllamaAdapter  # here, so that it is this test that fails without it

    assert ExoscaleOllamaAdapter.__name__ == "ExoscaleOllamaAdapter"


# -- files


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """compose.yaml's services with an .env in which each variable of the original has a value of its own."""
    folder = tmp_path_factory.mktemp("composed")
    filled_in(folder / ".env", {variable: f"set-{variable}" for variable in COMPOSED})
    return resolved(PARSERS[0], folder)


COMPOSED = [*REQUIRED, "EXOSCALE_ZONE", "EXOSCALE_INSTANCE_TYPE", "EXOSCALE_IDLE_TIMEOUT"]


@pytest.mark.parametrize("variable", COMPOSED)
def test_compose_passes_a_variable_of_the_original_on(composed: dict[str, Any], variable: str) -> None:
    for service in composed.values():
        assert service["environment"][variable] == f"set-{variable}"


@pytest.mark.parametrize("file", [".env", "/deploy/kubernetes/exollama.env"])
def test_git_ignores_a_file_that_holds_credentials(file: str) -> None:
    assert file in (ROOT / ".gitignore").read_text().splitlines()


def test_the_licence_is_the_originals() -> None:
    assert PROJECT["license"] == "GPL-3.0-or-later"
    assert re.match(r"\s+GNU GENERAL PUBLIC LICENSE\s+Version 3,", (ROOT / "LICENSE").read_text())
