"""The official SDK drives the simulator: each operation that the project uses, as somebody else wrote it."""

import base64
import time
from collections.abc import Iterator
from typing import Any

import exoscale.api.v2
import pytest
from exoscale.api.exceptions import (
    ExoscaleAPIAuthException,
    ExoscaleAPIClientException,
    ExoscaleAPIServerException,
)
from exoscale.api.v2 import Client

from tests.simulator import Simulator

USER_DATA = base64.b64encode(b"#cloud-config\n{}\n").decode()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(machines=False, operation_s=0.01, start_s=0.02) as running:
        yield running
        assert [v for v in running.violations if "no body" not in v] == []


@pytest.fixture
def client(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(exoscale.api.v2, "_sleep", lambda _: time.sleep(0.005))  # it polls every three seconds
    sdk = Client(simulator.key, simulator.secret, url=simulator.endpoint())
    yield sdk
    sdk.http_client.close()


def create(client: Any, **more: Any) -> str:
    template = client.list_templates(visibility="public")["templates"][0]
    kinds = client.list_instance_types()["instance-types"]
    kind = next(k for k in kinds if (k["family"], k["size"]) == ("standard", "medium"))
    body = {"name": "sdk", "disk_size": 50, "user_data": USER_DATA, "labels": {"owner": "sdk"}, **more}
    done = client.wait(
        client.create_instance(template={"id": template["id"]}, instance_type={"id": kind["id"]}, **body)["id"]
    )
    assert done["reference"]["command"] == "get-instance"
    return str(done["reference"]["id"])


def until(client: Any, id_: str, state: str) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for _ in range(500):
        shown = client.get_instance(id=id_)
        if shown["state"] == state:
            return shown
        time.sleep(0.005)
    raise AssertionError(f"{shown['state']} instead of {state}")


def test_zones_are_listed_without_a_signature(simulator: Simulator, client: Any) -> None:
    assert [zone["name"] for zone in client.list_zones()["zones"]] == ["ch-gva-2", "de-fra-1"]
    assert not simulator.called("list-zones")[0].signed


def test_templates_hold_two_of_one_name_with_different_ages(client: Any) -> None:
    wanted = [t for t in client.list_templates()["templates"] if t["name"] == "Linux Ubuntu 22.04 LTS 64-bit"]
    assert len(wanted) == len({t["created-at"] for t in wanted}) == 2
    assert client.get_template(id=wanted[0]["id"])["name"] == wanted[0]["name"]


def test_a_signed_list_of_types_omits_what_may_not_be_used(simulator: Simulator, client: Any) -> None:
    kinds = client.list_instance_types()["instance-types"]
    assert {k["family"] for k in kinds if "gpus" in k} == set()
    medium = next(k for k in kinds if (k["family"], k["size"]) == ("standard", "medium"))
    assert medium["memory"] == 4 << 30
    assert medium["authorized"] is True
    simulator.options.list_unauthorized = True
    assert {k["authorized"] for k in client.list_instance_types()["instance-types"] if "gpus" in k} == {False}


def test_an_instance_lives_through_create_stop_start_and_delete(client: Any) -> None:
    id_ = create(client)
    shown = until(client, id_, "running")
    assert shown["user-data"] == USER_DATA
    assert shown["disk-size"] == 50
    assert shown["public-ip"].startswith("127.")
    assert client.wait(client.stop_instance(id=id_)["id"])["state"] == "success"
    until(client, id_, "stopped")
    # start-instance documents a body, and the SDK leaves an empty one out: the netboot profile makes it send one.
    with pytest.raises(ExoscaleAPIClientException, match="no body"):
        client.start_instance(id=id_)
    started = client._call_operation("start-instance", parameters={"id": id_}, body={})
    assert client.wait(started["id"])["state"] == "success"
    until(client, id_, "running")
    client.wait(client.delete_instance(id=id_)["id"])
    with pytest.raises(ExoscaleAPIClientException, match="404"):
        client.get_instance(id=id_)
    assert client.list_instances() == {"instances": []}


def test_a_list_lacks_user_data_and_disk_size_and_is_not_filtered(client: Any) -> None:
    create(client)
    for listed in (client.list_instances(), client.list_instances(labels="owner=somebody-else")):
        [item] = listed["instances"]
        assert item["labels"] == {"owner": "sdk"}
        assert item.keys().isdisjoint({"user-data", "disk-size"})


def test_labels_are_replaced_as_a_whole(client: Any) -> None:
    id_ = create(client)
    client.wait(client.update_instance(id=id_, labels={"other": "value"})["id"])
    assert client.get_instance(id=id_)["labels"] == {"other": "value"}


def test_a_security_group_gets_its_rule_and_cannot_go_while_in_use(client: Any) -> None:
    made = client.wait(client.create_security_group(name="exollama-test", description="11435")["id"])
    group = made["reference"]["id"]
    rule = {"flow_direction": "ingress", "protocol": "tcp", "start_port": 11435, "end_port": 11435}
    done = client.wait(client.add_rule_to_security_group(id=group, network="0.0.0.0/0", **rule)["id"])
    assert done["reference"]["id"] == group
    [shown] = client.get_security_group(id=group)["rules"]
    assert (shown["network"], shown["start-port"]) == ("0.0.0.0/0", 11435)
    assert "exollama-test" in {g["name"] for g in client.list_security_groups()["security-groups"]}
    with pytest.raises(ExoscaleAPIClientException, match="409"):
        client.create_security_group(name="exollama-test")
    id_ = create(client, security_groups=[{"id": group}])
    with pytest.raises(ExoscaleAPIClientException, match="412"):
        client.delete_security_group(id=group)
    client.wait(client.delete_instance(id=id_)["id"])
    client.wait(client.delete_security_group(id=group)["id"])


def test_the_sdk_tells_a_wrong_signature_from_a_forbidden_call(simulator: Simulator, client: Any) -> None:
    stranger = Client(simulator.key, "another-secret", url=simulator.endpoint())
    with pytest.raises(ExoscaleAPIAuthException, match="Invalid request signature"):
        stranger.list_instances()
    stranger.http_client.close()
    simulator.fault("list-instances", "403-iam")
    with pytest.raises(ExoscaleAPIAuthException, match="Forbidden by role policy"):
        client.list_instances()


def test_the_sdk_sees_a_failed_operation_with_its_reason(simulator: Simulator, client: Any) -> None:
    id_ = create(client)
    simulator.fault("delete-instance", "busy")
    with pytest.raises(ExoscaleAPIServerException, match="busy"):
        client.wait(client.delete_instance(id=id_)["id"])
    assert client.get_instance(id=id_)["state"] in ("starting", "running")


def test_refusals_come_as_the_api_words_them(simulator: Simulator, client: Any) -> None:
    id_ = create(client)
    until(client, id_, "running")
    client.wait(client.stop_instance(id=id_)["id"])
    with pytest.raises(ExoscaleAPIClientException, match="Only running instances can be stopped"):
        client.stop_instance(id=id_)
    simulator.protect(id_)
    with pytest.raises(ExoscaleAPIClientException, match="protected"):
        client.delete_instance(id=id_)
    simulator.options.instance_quota = 1
    with pytest.raises(ExoscaleAPIClientException, match="Quota exceeded"):
        create(client)
