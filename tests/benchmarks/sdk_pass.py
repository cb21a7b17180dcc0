"""The pass of `functions.reap_idle` as one would write it with the official SDK."""

import json
import os

from exoscale.api.v2 import Client


def main() -> None:
    key, secret = os.environ["EXOSCALE_API_KEY"], os.environ["EXOSCALE_API_SECRET"]
    url, home = os.environ["EXOSCALE_API_ENDPOINT"], os.environ["EXOSCALE_ZONE"]
    owned = []
    for zone in Client(key, secret, url=url.format(zone=home)).list_zones()["zones"]:
        client = Client(key, secret, url=url.format(zone=zone["name"]))
        instances = client.list_instances()["instances"]
        owned += [instance for instance in instances if instance.get("labels", {}).get("exollama") == "v1"]
    print(json.dumps({"instances": owned}))


if __name__ == "__main__":
    main()
