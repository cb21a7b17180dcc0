"""`exollama serve` without credentials: a runtime's URL wakes the instance for it."""

from collections.abc import Callable

from tests.runtimes.drivers import KEY, TOKEN, Asgi, Runtime
from tests.simulator import Simulator
from tests.system.serving import serving, whole
from tests.system.verbs import User, changes


def test_a_prompt_wakes_one_instance_through_a_runtime(
    started: Callable[[type[Runtime]], Runtime], cloud: Simulator
) -> None:
    runtime = started(Asgi)
    stranger = User(cloud, EXOLLAMA_PROVISION_URL=runtime.url, EXOLLAMA_FUNCTION_TOKEN=TOKEN)
    stranger.env = {name: value for name, value in stranger.env.items() if not name.startswith("EXOSCALE_")}
    with serving(stranger) as served:
        assert served.ask("GET", "/api/tags").status == 200
        assert changes(cloud) == [], "looking wakes nobody"
        assert whole(served.generate())
        assert changes(cloud).count("create-instance") == 1
        assert served.status()["instance"]["id"] == cloud.instance().id
        done = served.end().ended(0)
    assert [secret for secret in (TOKEN, KEY) if secret in done.said + runtime.said] == []
