"""What is particular about GPU types, as tables: driver, template, whether the cards hold a model, what is said."""

import pytest

from client import prices
from client.errors import ExollamaError
from functions import gpu


@pytest.mark.parametrize(
    ("name", "driver"),
    [
        ("standard.large", None),
        ("memory.mega", None),
        ("gpu.small", "580-server"),
        ("gpu2.small", "580-server"),  # Volta: the open modules cannot drive it
        ("gpu3.huge", "580-server"),
        ("gpua30.small", "580-server"),
        ("gpua5000.small", "580-server"),
        ("gpu3080ti.large", "580-server"),
        ("gpurtx6000pro.small", "580-server-open"),  # Blackwell: no others can
        ("gpu9.small", "580-server-open"),
    ],
)
def test_each_family_has_the_driver_that_its_cards_need(name: str, driver: str | None) -> None:
    assert gpu.driver(name) == driver


def test_every_family_of_the_price_list_was_decided_upon() -> None:
    blackwell = {"gpurtx6000pro"}
    assert set(prices.listed()["gpu_families"]) <= gpu._PROPRIETARY | blackwell


@pytest.mark.parametrize(
    ("template", "taken"),
    [
        ({"name": "Linux Ubuntu 22.04 LTS 64-bit", "visibility": "public"}, True),
        ({"name": "Linux Ubuntu 24.04 LTS 64-bit"}, True),
        ({"name": "Linux Ubuntu 26.04 LTS 64-bit"}, True),
        ({"name": "Linux Ubuntu 20.04 LTS 64-bit"}, False),
        ({"name": "Linux Ubuntu 25.10 64-bit"}, False),
        ({"name": "Linux Debian 13 (Trixie) 64-bit", "visibility": "public"}, False),
        ({"name": "Windows Server 2022"}, False),
        ({"name": None}, False),
        ({"name": "ours", "visibility": "private"}, True),  # the boot tells
    ],
)
def test_a_public_template_has_to_be_one_with_a_known_driver(template: dict[str, str], taken: bool) -> None:
    gpu.check_template(template, "standard.large")
    if taken:
        gpu.check_template(template, "gpua30.small")
    else:
        with pytest.raises(ExollamaError, match=r"No GPU driver is known .*Ubuntu 24\.04.* Nothing was created"):
            gpu.check_template(template, "gpua30.small")


@pytest.mark.parametrize(
    ("name", "cards", "model", "fits"),
    [
        ("gpua30.small", 1, "granite3.1-dense:8b", True),
        ("gpua30.small", 1, "llama3.1:8b-instruct-fp16", True),
        ("gpu2.small", 1, "llama3.1:8b-instruct-fp16", False),
        ("gpua30.small", 1, "llama3.1:70b", False),
        ("gpua30.medium", 2, "llama3.1:70b", True),
        ("gpu3.small", 1, "llama3.1:70b", True),
        ("gpurtx6000pro.huge", 8, "deepseek-r1:671b", True),
        ("gpua30.small", 0, "llama3.1:70b", True),  # nothing tells how many cards
        ("gpu9.small", 1, "llama3.1:70b", True),  # nor how large
        ("gpua30.small", 1, "llama3.3", True),  # nor how large the model is
    ],
)
def test_cards_too_small_for_a_model_are_warned_of(name: str, cards: int, model: str, fits: bool) -> None:
    warning = gpu.misfit({"gpus": cards}, name, model)
    assert (warning is None) == fits
    assert fits or "part of it will run on the processor" in str(warning)


def test_how_to_ask_names_the_certificate_for_the_cards_that_need_one() -> None:
    assert "support raises them on request" in gpu.quota("gpua30.small")
    assert "Certificate" not in gpu.quota("gpua30.small")
    assert "GPU End-User Certificate" in gpu.quota("gpurtx6000pro.small")
