"""How long after its process was started does AWS Lambda's runtime answer a scheduled reap? The account is empty.

From before the process is made to the arrival of the answer, on a runtime API on this machine. What is bound is
measured against an endpoint over plain http; over TLS, as in earnest, everybody reads first whom the system trusts,
which says more of the machine than of the code. That is measured beside it.
"""

import queue
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.measure import by_turns
from tests.lambda_api import RuntimeApi

EVENT = {"action": "reap"}
REAP, SDK = "functions.faas.invoke", "tests.benchmarks.sdk_pass.invoke"
URLLIB3, EMPTY = "tests.benchmarks.handlers.only_urllib3.invoke", "tests.benchmarks.handlers.empty.invoke"
HANDLERS = {
    REAP: "the reap handler",
    SDK: "the same with the official SDK",
    URLLIB3: "a handler that only imports urllib3",
    EMPTY: "a handler that imports nothing",
}
SDK_FACTOR = 0.5
"""The reap handler may take so many times what the same with the official SDK does."""
OVER_URLLIB3_S = 0.015
"""And so much longer than importing urllib3 alone."""
CALL_S = 55.0
"""What the platform gives a call, as it tells the runtime."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStarts:
    """Seconds of each handler's cold starts, in the order in which they were measured."""

    samples: Mapping[str, list[float]]

    def median_s(self, handler: str) -> float:
        return statistics.median(self.samples[handler])

    @property
    def ratio(self) -> float:
        return self.median_s(REAP) / self.median_s(SDK)

    @property
    def over_urllib3_s(self) -> float:
        return self.median_s(REAP) - self.median_s(URLLIB3)

    @property
    def met(self) -> bool:
        return self.ratio <= SDK_FACTOR and self.over_urllib3_s <= OVER_URLLIB3_S


def cold_start(handler: str, *, cwd: Path, env: Mapping[str, str]) -> float:
    """The seconds from the start of a runtime's process to its answer. Raises RuntimeError where that is an error."""
    api, outcome = RuntimeApi(time.time), None
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "awslambdaric", handler],
        cwd=cwd,
        env={**env, "AWS_LAMBDA_RUNTIME_API": api.address},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            outcome = api.invoke(EVENT, CALL_S)
        except queue.Empty:  # it never asked, or never answered
            pass
        finally:
            process.kill()
            said = process.communicate()[0]
            api.close()
    if outcome is None or outcome.kind != "response" or outcome.said.get("instances", []):
        raise RuntimeError(f"{handler} answered {outcome or 'nothing'}:\n{said}")
    return outcome.at - started


def measured(handlers: Iterable[str], rounds: int, *, cwd: Path, env: Mapping[str, str]) -> ColdStarts:
    """Start each handler by turns, `rounds` times after one warm-up."""
    return ColdStarts(samples=by_turns(tuple(handlers), lambda handler: cold_start(handler, cwd=cwd, env=env), rounds))


def trusted(folder: Path) -> tuple[ssl.SSLContext, dict[str, str]]:
    """TLS for an endpoint on loopback, and an environment that trusts it besides all whom the system trusts."""
    key, cert, bundle = folder / "key.pem", folder / "cert.pem", folder / "bundle.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=loopback"
    name = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*make.split(), *name], check=True, capture_output=True)
    system = ssl.get_default_verify_paths().cafile
    bundle.write_text((Path(system).read_text() if system else "") + cert.read_text())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, {"SSL_CERT_FILE": str(bundle), "REQUESTS_CA_BUNDLE": str(bundle)}


def report(plain: ColdStarts, tls: ColdStarts) -> None:
    """Print what was measured against its bounds."""
    print(f"\n{'cold start in AWS Lambda, to the answer':<40}{'ms':>8}{'middle half':>18}")
    for found, how in ((plain, ""), (tls, ", over TLS")):
        for handler, samples in found.samples.items():
            half = sorted(samples)[len(samples) // 4 : len(samples) - len(samples) // 4]
            spread = f"{half[0] * 1e3:.1f} to {half[-1] * 1e3:.1f}"
            print(f"{HANDLERS[handler] + how:<40}{found.median_s(handler) * 1e3:>8.1f}{spread:>18}")
    print(
        f"the reap handler takes {plain.ratio:.3f} times what it does with the official SDK (at most {SDK_FACTOR}"
        f"{'' if plain.ratio <= SDK_FACTOR else '  MISSED'}; over TLS {tls.ratio:.3f}),\n"
        f"{plain.over_urllib3_s * 1e3:.1f} ms more than importing urllib3 alone (at most {OVER_URLLIB3_S * 1e3:.0f}"
        f"{'' if plain.over_urllib3_s <= OVER_URLLIB3_S else '  MISSED'})"
    )
