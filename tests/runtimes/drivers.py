"""One class for each runtime: how its platform starts it on the bundle, and how it is asked.

Sources of what is done here: each runtime's own code as installed, knative/func's scaffolding, OpenFaaS' template
(hosts/openfaas_index.py), AWS' documentation (lambda_api.py). Neighbours: conftest.py starts each once.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from tests.lambda_api import RuntimeApi
from tests.machine import hold_port
from tests.runtimes.events import function_url
from tests.simulator import Simulator
from tests.simulator.driver import Answer

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
TOKEN = "planted-function-token-0123456789-abcdefgh"
KEY = "planted-endpoint-key-0123456789-ABCDEFGH"
"""The endpoint key of every instance: they lodge in one machine."""
BEARER = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
LIMIT_S = 12
"""EXOLLAMA_FUNCTION_TIMEOUT in each runtime."""


class Runtime(ABC):
    """A runtime's process, started on the bundle with the simulator's credentials; `close` ends it."""

    name: ClassVar[str]
    package: ClassVar[str]
    """What PyPI calls it."""
    how: ClassVar[str]
    """What was started, for the table."""
    prefix: ClassVar[str] = ""
    rooted: ClassVar[bool] = False
    """Whether requests come at the root only, so that the action cannot stand in the path."""

    def __init__(self, bundle: Path, folder: Path, cloud: Simulator) -> None:
        self.cloud = cloud
        self.folder = folder
        self._held = hold_port()
        self.port: int = self._held.getsockname()[1]
        self.bundle = self.unpacked(bundle, folder / "code")
        self.log = folder / "log"
        self._origins = folder / "origins"
        self._origins.touch()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.cwd,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._until_it_listens()
        except BaseException:
            self.close()
            raise

    # -- what differs

    @abstractmethod
    def command(self) -> list[str]:
        """What its platform starts, in `cwd`."""

    @property
    def cwd(self) -> Path:
        return self.bundle

    @property
    def path(self) -> list[Path]:
        """What its platform puts on the path, beside what Python does by itself."""
        return []

    def unpacked(self, bundle: Path, folder: Path) -> Path:
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(folder)
        return folder

    def extra(self) -> dict[str, str]:
        """Further variables."""
        return {}

    # -- what is the same

    @property
    def row(self) -> str:
        """Its name and release, for the table."""
        return f"{self.name} {version(self.package)}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}/"

    @property
    def said(self) -> str:
        """All that its process wrote."""
        return self.log.read_text(errors="replace")

    @property
    def origins(self) -> dict[str, Path]:
        """Where its process found each of the bundle's packages."""
        lines = (line.split(maxsplit=1) for line in self._origins.read_text().splitlines())
        return {name: Path(origin) for name, origin in lines}

    def ask(
        self, method: str, path: str = "/", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One HTTP request to the function; header names of the answer are lower case."""
        return self.http(method, self.prefix + path, body, headers or {})

    def http(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The same to whatever path; several bodies are sent as chunks of one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=fields, body=response.read())
        finally:
            connection.close()

    def do(self, action: str, **params: object) -> Answer:
        """Ask for an action as whoever has the token does."""
        return self.ask("POST", "/", json.dumps({"action": action, **params}).encode(), BEARER)

    def close(self) -> None:
        self._held.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "EXOLLAMA_TEST_RUN") if name in os.environ}
        own = {
            "EXOLLAMA_FUNCTION_TOKEN": TOKEN,
            "EXOLLAMA_FUNCTION_TIMEOUT": str(LIMIT_S),
            "EXOSCALE_OLLAMA_KEY": KEY,
            "EXOSCALE_INSTANCE_NAME": f"in-{self.package}",
            "EXOLLAMA_SIMULATED_PATIENCE_S": "0.03",
            "EXOLLAMA_TEST_ORIGINS": str(self._origins),
            "EXOLLAMA_TEST_OFFSET": str(self.cloud.offset_file),
            "EXOLLAMA_TEST_TIMESHIFT": str(HERE.parent / "simulator/timeshift.py"),
            "PYTHONPATH": os.pathsep.join(str(entry) for entry in (HERE / "start", *self.path)),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return {**kept, **self.cloud.env, **own, **self.extra()}

    def _until_it_listens(self) -> None:
        deadline = time.monotonic() + 30
        while not self._listens():
            assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}:\n{self.said}"
            assert time.monotonic() < deadline, f"{self.name} does not listen:\n{self.said}"
            time.sleep(0.02)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        except OSError:
            return False
        return True


class AwsLambda(Runtime):
    """The runtime polls its API for invocations; the code lies in the working directory, as in /var/task."""

    name = "AWS Lambda"
    package = "awslambdaric"
    how = "`python -m awslambdaric functions.faas.invoke`, behind a local runtime API"

    def __init__(self, bundle: Path, folder: Path, cloud: Simulator) -> None:
        self.api = RuntimeApi(cloud.clock.now)
        super().__init__(bundle, folder, cloud)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "awslambdaric", "functions.faas.invoke"]

    def extra(self) -> dict[str, str]:
        return {"AWS_LAMBDA_RUNTIME_API": self.api.address, "AWS_LAMBDA_FUNCTION_NAME": "exollama"}

    def ask(
        self, method: str, path: str = "/", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The same through a function URL."""
        binary = body is not None and not body.isascii()
        return self.answer(function_url(method, path, body, headers or {}, binary=binary))

    def answer(self, event: object, remaining_s: float = 30) -> Answer:
        """The answer to an event that is an HTTP request."""
        outcome = self.api.invoke(event, remaining_s)
        assert outcome.kind == "response", outcome
        said = outcome.said
        assert said["isBase64Encoded"] is False
        several = {name: ", ".join(values) for name, values in said.get("multiValueHeaders", {}).items()}
        fields = {name.lower(): value for name, value in (said.get("headers") or several).items()}
        return Answer(status=said["statusCode"], headers=fields, body=said["body"].encode())

    def close(self) -> None:
        super().close()
        self.api.close()

    def _listens(self) -> bool:
        """It asks; nobody connects to it. An invocation's time is not to pass before it is up."""
        return self.api.asked.is_set()


class Google(Runtime):
    """Google Cloud Functions, and functions on Cloud Run."""

    name = "Google functions-framework"
    package = "functions-framework"
    how = "`functions-framework --target exollama --source main.py`"

    def command(self) -> list[str]:
        words = ["--target", "exollama", "--source", "main.py", "--host", "127.0.0.1", "--port", str(self.port)]
        return [str(BIN / "functions-framework"), *words]


class Scaleway(Runtime):
    """Scaleway's own emulation of its runtime; requests come at the root only."""

    name = "Scaleway Functions"
    package = "scaleway-functions-python"
    how = "`local.serve_handler(functions.faas.invoke)`"
    rooted = True

    def command(self) -> list[str]:
        serve = (
            "from scaleway_functions_python import local; from functions import faas; "
            f"local.serve_handler(faas.invoke, port={self.port}, debug=False)"
        )
        return [sys.executable, "-c", serve]


class Knative(Runtime):
    """Knative's scaffolding imports the package `function` and serves its `handle`."""

    name = "Knative func-python"
    package = "func-python"
    how = "`func_python.http.serve(function.handle)`"

    def command(self) -> list[str]:
        return [
            sys.executable,
            "-c",
            "from func_python.http import serve; from function import handle; serve(handle)",
        ]

    def extra(self) -> dict[str, str]:
        return {"LISTEN_ADDRESS": f"127.0.0.1:{self.port}"}


class OpenFaas(Runtime):
    """The template copies the code into a folder `function` beside its index.py, and that alone is on the path."""

    name = "OpenFaaS python3-http shape"
    package = "waitress"
    how = "waitress, an index.py of that template's shape, `function/handler.py`"

    def unpacked(self, bundle: Path, folder: Path) -> Path:
        return super().unpacked(bundle, folder / "function")

    def command(self) -> list[str]:
        index = self.bundle.parent / "index.py"
        index.write_bytes((HERE / "hosts/openfaas_index.py").read_bytes())
        (self.bundle / "__init__.py").touch()
        return [sys.executable, "index.py", str(self.port)]

    @property
    def cwd(self) -> Path:
        return self.bundle.parent


class Wsgi(Runtime):
    """Any WSGI server; here with the zip itself on the path."""

    name = "WSGI, gunicorn"
    package = "gunicorn"
    how = "`gunicorn functions.faas:wsgi`, the zip itself on the path"

    def unpacked(self, bundle: Path, folder: Path) -> Path:
        folder.mkdir()
        return bundle

    @property
    def cwd(self) -> Path:
        return self.folder / "code"

    @property
    def path(self) -> list[Path]:
        return [self.bundle]

    def command(self) -> list[str]:
        return [
            *(str(BIN / "gunicorn"), "--bind", f"127.0.0.1:{self.port}", "--threads", "4", "--access-logfile", "-"),
            *("--no-control-socket", "functions.faas:wsgi"),
        ]


class Asgi(Runtime):
    """Any ASGI server."""

    name = "ASGI, uvicorn"
    package = "uvicorn"
    how = "`uvicorn functions.faas:asgi --lifespan on`"

    def command(self) -> list[str]:
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--lifespan", "on", "functions.faas:asgi"]
        return [str(BIN / "uvicorn"), *words]


class Azure(Runtime):
    """Azure's library; its worker does not install here."""

    name = "Azure Functions, its types"
    package = "azure-functions"
    how = "`function_app.py` through azure.functions' own types and converters; not its worker"
    prefix = "/api"

    @property
    def path(self) -> list[Path]:
        return [self.bundle]

    def command(self) -> list[str]:
        return [sys.executable, str(HERE / "hosts/azure_host.py"), str(self.port)]


RUNTIMES: tuple[type[Runtime], ...] = (AwsLambda, Google, Scaleway, Knative, OpenFaas, Wsgi, Asgi, Azure)
