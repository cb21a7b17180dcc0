"""Who asks in earnest: PyPI's ollama as programs use it, so many requests at a time. Printed as one JSON object.

`python -m tests.benchmarks.forwarding.programs PORT --connections N --seconds S [--direct] [--tls]`, as for `calls`:
`--direct` says that nobody in between adds the key, `--tls` that the port speaks TLS.
"""

import argparse
import asyncio
import json
from time import monotonic

import ollama

from tests.benchmarks.forwarding.answers import KEY

WARM_UP_S = 0.5
PROMPT = "Why is the sky blue? Explain it to somebody who knows no physics, in three sentences at most. " * 2


async def rate(args: argparse.Namespace) -> float:
    """Answers per second, after a moment in which connections are made."""
    scheme, headers = ("https" if args.tls else "http"), {"X-Ollama-Key": KEY.decode()} if args.direct else {}
    client = ollama.AsyncClient(f"{scheme}://127.0.0.1:{args.port}", headers=headers, verify=False)
    began = monotonic() + WARM_UP_S
    ends = began + args.seconds

    async def ask() -> int:
        answered = 0
        while (now := monotonic()) < ends:
            answer = await client.generate("llama3.2:3b", PROMPT, stream=False)
            if not answer.response:
                raise RuntimeError(f"no answer: {answer}")
            answered += now >= began
        return answered

    try:
        answered = await asyncio.gather(*(ask() for _ in range(args.connections)))
    finally:
        await client._client.aclose()  # its own close() has no types
    return sum(answered) / float(args.seconds)


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks.forwarding.programs", allow_abbrev=False)
    options.add_argument("port", type=int)
    options.add_argument("--connections", type=int, required=True)
    options.add_argument("--seconds", type=float, required=True)
    options.add_argument("--direct", action="store_true")
    options.add_argument("--tls", action="store_true")
    args = options.parse_args()
    print(json.dumps({"per_second": asyncio.run(rate(args))}))


if __name__ == "__main__":
    main()
