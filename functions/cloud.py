"""What provisioning and reaping need on top of the client's operations: create, start, stop, delete, the catalogue.

Each is one call of the OpenAPI document; what may be repeated after which failure is `client.api`'s and
`functions.deeds`' and `functions.creating`'s matter. Neighbours: extends `client.api.Api`.
"""

from collections.abc import Mapping
from typing import Any

from client.api import Api
from client.settings import Secret

Operation = Mapping[str, Any]


class Cloud(Api):
    """One zone of Exoscale, with everything that the functions do to it."""

    def create_instance(self, body: Secret) -> Operation:
        """Ask for an instance, with JSON that carries its key; `reference.id` of the operation is its id, if there."""
        return self.call("POST", "/instance", body=body, operation="create-instance")

    def delete_instance(self, instance_id: str) -> Operation:
        """Ask for its destruction, running or not."""
        return self.call("DELETE", f"/instance/{instance_id}", operation="delete-instance")

    def start_instance(self, instance_id: str) -> Operation:
        """Ask a stopped instance to start. The body is required, if only `{}`."""
        return self.call("PUT", f"/instance/{instance_id}:start", body={}, operation="start-instance")

    def stop_instance(self, instance_id: str) -> Operation:
        """Ask a running instance to stop; its disk stays, and costs."""
        return self.call("PUT", f"/instance/{instance_id}:stop", operation="stop-instance")

    def list_templates(self) -> list[dict[str, Any]]:
        """The zone's templates, public and private."""
        both: list[Any] = []
        for visibility in ("public", "private"):
            answer = self.call("GET", "/template", query={"visibility": visibility}, operation="list-templates")
            both += answer.get("templates") or ()
        return [template for template in both if isinstance(template, dict)]

    def list_instance_types(self) -> list[dict[str, Any]]:
        """All types: family, size, cpus, memory in bytes, authorized, zones. Signed, it omits what may not be used."""
        types = self.call("GET", "/instance-type", operation="list-instance-types").get("instance-types")
        return [one for one in types or () if isinstance(one, dict)]

    def list_security_groups(self) -> list[dict[str, Any]]:
        """The account's own security groups: id and name."""
        query = {"visibility": "private"}
        answer = self.call("GET", "/security-group", query=query, operation="list-security-groups")
        return [group for group in answer.get("security-groups") or () if isinstance(group, dict)]

    def get_security_group(self, group_id: str) -> dict[str, Any]:
        """One security group with its rules."""
        return self.call("GET", f"/security-group/{group_id}", operation="get-security-group")

    def create_security_group(self, name: str, description: str) -> None:
        """Create a group (no ingress, all egress) and wait for it. Raises Conflict where the name is taken."""
        body = {"name": name, "description": description}
        operation = self.call("POST", "/security-group", body=body, operation="create-security-group")
        self.wait(operation, f"creating the security group {name}", 60.0)

    def allow(self, group_id: str, network: str, port: int) -> None:
        """Add an ingress rule for one TCP port and wait for it."""
        rule = {
            "flow-direction": "ingress",
            "protocol": "tcp",
            "network": network,
            "start-port": port,
            "end-port": port,
            "description": "exollama",
        }
        path = f"/security-group/{group_id}/rules"
        operation = self.call("POST", path, body=rule, operation="add-rule-to-security-group")
        self.wait(operation, f"adding {network} to the security group {group_id}", 60.0)
