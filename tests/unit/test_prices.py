"""About what an hour costs, from a dated price list."""

import re

import pytest

from client import prices


@pytest.mark.parametrize(
    ("instance_type", "disk", "cost"),
    [
        ("standard.medium", 50, 0.05366),
        ("standard.large", 50, 0.10033),
        ("standard.huge", 400, 0.42934),
        ("standard.extra-large", 100, 0.20067),
        ("gpu3.medium", 19, 2.09366),
        ("gpua30.small", 100, 1.24),
        ("gpurtx6000pro.huge", 50, 15.979),
        ("gpu9.small", 50, None),
        ("odd", 50, None),
    ],
)
def test_an_hour_costs_what_the_price_list_says_with_its_disk(
    instance_type: str, disk: int, cost: float | None
) -> None:
    assert prices.hourly_cost(instance_type, disk) == cost  # to the digit: a limit is written so


def test_the_price_list_says_where_and_when_it_is_from() -> None:
    listed = prices.listed()
    assert re.fullmatch(r"20\d\d-\d\d", listed["as_of"])
    assert "exoscale.com" in listed["source"]
    assert all(price > 0 for price in listed["types"].values())


def test_every_family_with_graphics_cards_has_prices_a_card_with_memory_and_zones() -> None:
    priced = {name.partition(".")[0] for name in prices.listed()["types"] if name.startswith("gpu")}
    assert set(prices.listed()["gpu_families"]) == priced
    for name in priced:
        family = prices.gpu_family(name)
        assert family
        assert family["card_gib"] >= 12
        assert all(re.fullmatch(r"[a-z]{2}-[a-z]{2,3}-[1-9]", zone) for zone in family["zones"])
    assert prices.gpu_family("standard") is None
