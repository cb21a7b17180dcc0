"""The pass of `functions.reap_idle` as one would write it with the official SDK: a program and a Lambda handler."""

import json
import os
from typing import Any

from exoscale.api.v2 import Client


def owned() -> list[dict[str, Any]]:
    key, secret = os.environ["EXOSCALE_API_KEY"], os.environ["EXOSCALE_API_SECRET"]
    url, home = os.environ["EXOSCALE_API_ENDPOINT"], os.environ["EXOSCALE_ZONE"]
    found = []
    for zone in Client(key, secret, url=url.format(zone=home)).list_zones()["zones"]:
        client = Client(key, secret, url=url.format(zone=zone["name"]))
        instances = client.list_instances()["instances"]
        found += [instance for instance in instances if instance.get("labels", {}).get("exollama") == "v1"]
    return found


def invoke(event: object, context: object) -> dict[str, Any]:
    return {"instances": owned()}


if __name__ == "__main__":
    print(json.dumps({"instances": owned()}))
