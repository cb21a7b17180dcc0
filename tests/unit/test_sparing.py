"""A pass that finds nothing leaves urllib3 alone; what acts goes over its pool."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from client.transport import Request, Response, Send
from functions import transport
from tests.benchmarks.endpoint import endpoint

ROOT = Path(__file__).parents[2]
BASE = "https://api-ch-gva-2.exoscale.com/v2"


@pytest.mark.parametrize(
    ("method", "path", "over"),
    [
        ("GET", "/zone", "http.client"),
        ("GET", "/instance", "http.client"),
        ("GET", "/instance-type", "http.client"),
        ("GET", "/instance/i-1", "urllib3"),
        ("DELETE", "/instance/i-1", "urllib3"),
        ("PUT", "/instance/i-1:stop", "urllib3"),
        ("POST", "/instance", "urllib3"),
        ("GET", "/operation/o-1", "urllib3"),
    ],
)
def test_the_lists_go_one_by_one_and_all_else_over_one_pool(
    method: str, path: str, over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[str] = []
    asked: list[str] = []

    def sending(name: str) -> Send:
        def send(request: Request) -> Response:
            asked.append(name)
            return Response(200, {}, b"")

        return send

    def pool() -> Send:
        pools.append("urllib3")
        return sending("urllib3")

    monkeypatch.setattr(transport, "urllib3_send", pool)
    monkeypatch.setattr(transport, "http_client_send", sending("http.client"))
    send = transport.sparing_send()
    assert not pools
    threads = [threading.Thread(target=send, args=(Request(method, BASE + path, {}, b"", 1.0),)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [over] * 5
    assert len(pools) == (over == "urllib3")


def test_where_urllib3_is_missing_that_is_said_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'urllib3"):
        transport.sparing_send()


@pytest.mark.parametrize("instances", [0, 2], ids=["nothing", "all in use"])
def test_a_reaping_pass_that_acts_on_nothing_imports_only_what_it_needs(instances: int) -> None:
    code = "import sys; from functions import faas; faas.invoke({'action': 'reap'}); print(*sys.modules)"
    with endpoint(instances=instances) as url:
        env = {"EXOSCALE_API_KEY": "EXOtest", "EXOSCALE_API_SECRET": "not-a-secret", "EXOSCALE_API_ENDPOINT": url}
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
    assert run.returncode == 0, run.stderr
    modules = set(run.stdout.split())
    assert "urllib3" not in modules
    assert ("functions.protocol" in modules) is bool(instances)
    assert modules.isdisjoint({"dataclasses", "inspect"}) is not bool(instances)
