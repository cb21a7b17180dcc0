"""What is settled of money and of graphics cards before anything is created or started."""

import base64
import gzip

import pytest

from client.errors import ExollamaError
from client.model import Instance
from functions.plan import check_start, find_type
from tests.fakes import ZONE, settings
from tests.unit.account import Account, a_type

# -- money


def test_a_type_that_is_too_dear_is_refused_before_anything_is_made() -> None:
    account = Account()
    with pytest.raises(
        ExollamaError, match=r"costs about 0\.10033 per hour, and EXOSCALE_MAX_HOURLY_COST is 0\.1\. Raise it, or set"
    ):
        account.draft(max_hourly_cost=0.1)
    assert account.changes == []
    assert account.draft(max_hourly_cost=0.11).hourly_cost == pytest.approx(0.10033)


@pytest.mark.parametrize(
    ("type_id", "disk", "limit", "refused"),
    [
        ("type-standard.huge", 50, 0.3, r"standard\.huge costs about 0\.38034 per hour"),
        ("type-standard.huge", 50, 0.38034, None),
        ("type-standard.huge", 51, 0.38034, r"costs about 0\.38048 per hour"),  # its disk runs as well
        ("type-memory.large", 50, 9.0, r"no price known here, and .* is 9\.0\. Unset it, or"),
        (None, 50, 9.0, "its type has no price known here"),
        ("type-standard.huge", 50, None, None),
    ],
)
def test_a_stopped_instance_that_is_too_dear_is_not_started(
    type_id: str | None, disk: int, limit: float | None, refused: str | None
) -> None:
    account, stopped = Account(), Instance(id="x", zone=ZONE, type_id=type_id, disk_gib=disk)
    if refused is None:
        check_start(account.cloud, settings(max_hourly_cost=limit), stopped)
        return
    with pytest.raises(
        ExollamaError, match=rf"Instance x is stopped, and was not started: .*{refused}.*`exollama stop`"
    ):
        check_start(account.cloud, settings(max_hourly_cost=limit), stopped)


def test_a_type_without_a_known_price_is_refused_where_a_limit_was_set() -> None:
    account = Account(types={ZONE: [a_type("memory.large", 16)]})
    unset = r"no price known here.* Unset it, or set EXOSCALE_INSTANCE_TYPE to a type with a known price\. Nothing was"
    with pytest.raises(ExollamaError, match=unset):
        account.draft(instance_type="memory.large", max_hourly_cost=5.0)
    assert "a price that is not known here" in account.draft(instance_type="memory.large").sentence()


# -- graphics cards


def test_a_gpu_type_is_taken_where_it_is_authorised_and_its_driver_is_in_the_user_data() -> None:
    account = Account()
    order = account.draft(instance_type="gpua30.small", template="Linux Ubuntu 24.04 LTS 64-bit")
    assert order.instance_type == "gpua30.small"
    unpacked = gzip.decompress(base64.b64decode(order.user_data.reveal())).decode()
    assert r"\"gpu\": \"580-server\"" in unpacked
    assert "/opt/exollama/gpu.py" in unpacked
    assert account.notes == [], "the cards hold the model"


def test_auto_fit_never_takes_a_gpu_type() -> None:
    account = Account(types={ZONE: [a_type("gpua30.small", 56)]})
    with pytest.raises(ExollamaError, match="No authorised type of the standard family"):
        account.draft()


def test_cards_that_do_not_hold_the_model_are_warned_of_whatever_the_instances_memory() -> None:
    account = Account(types={ZONE: [a_type("gpua30.small", 999, gpus=1)]})
    find_type(account.cloud, settings(instance_type="gpua30.small", model="llama3.1:70b"), account.notes.append)
    (said,) = account.notes
    assert "needs about 44 GiB by its tag, and gpua30.small has 1 x A30 with 24 GiB in all: part of it will" in said


@pytest.mark.parametrize(
    ("template", "name"), [("t-debian", "Linux Debian 13"), ("Linux Debian 13", "Linux Debian 13")]
)
def test_a_template_without_a_known_driver_is_refused_with_a_gpu_type(template: str, name: str) -> None:
    account = Account()
    with pytest.raises(ExollamaError, match=rf"No GPU driver is known for the template '{name}', .* Set EXOSCALE_TEMP"):
        account.draft(instance_type="gpua30.small", template=template)
    assert account.changes == []


def test_a_gpu_types_driver_needs_disk() -> None:
    with pytest.raises(ExollamaError, match="EXOSCALE_DISK_SIZE=19 or more"):
        Account().draft(instance_type="gpua30.small", disk_gib=18)
