"""Estimates: the memory and disk that a model needs, from its tag.

Everything here is "about": a tag says how many parameters and which quantisation, not how a model is built.
Neighbours: `functions.plan` chooses the type with it, `client.prices` has what that costs. No I/O.
"""

import re
from typing import Final

GIB: Final = 1 << 30
SYSTEM_BYTES: Final = 1 * GIB
"""Ubuntu, Docker, nginx and Ollama itself, beside the model."""
CONTEXT_SHARE: Final = 0.1
"""Key-value cache and buffers at Ollama's default context, as a share of the weights."""
IMAGE_GIB: Final = 10
"""Ubuntu with Docker (about 4) and Ollama's unpacked image, which carries CUDA libraries (about 6)."""
GPU_GIB: Final = 4
"""Driver, its libraries and firmware, the container toolkit, and a compiler where a module has to be built. A guess on
the safe side, not measured: Ubuntu's ready-made module says 0.2 when installed."""

# Bits per weight, a little over the quantisation's name for its scales (llama.cpp's table). Untagged is q4_K_M.
_BITS: Final = {
    "q2": 3.0,
    "q3": 3.9,
    "q4": 4.9,
    "q5": 5.7,
    "q6": 6.6,
    "q8": 8.5,
    "fp16": 16.0,
    "f16": 16.0,
    "bf16": 16.0,
    "fp32": 32.0,
}
_SIZE_RE: Final = re.compile(r"(?:^|[^a-z0-9.])(?:(\d{1,2})x)?(\d{1,4}(?:\.\d{1,3})?)([bm])(?![a-z0-9])")


def weights_bytes(model: str) -> int | None:
    """The size of a model's weights in bytes, estimated from its tag; None where the tag does not tell."""
    name, _, tag = model.lower().rpartition("/")[2].partition(":")
    size = _SIZE_RE.search(tag) or _SIZE_RE.search(name)
    if not size:
        return None
    parameters = float(size[2]) * (1e9 if size[3] == "b" else 1e6) * int(size[1] or 1)
    quantisation = re.search(r"(?:^|[^a-z0-9])(bf16|fp?16|fp32|i?q[2-8])", f"{name}-{tag}")
    bits = _BITS.get(quantisation[1].removeprefix("i"), 4.9) if quantisation else 4.9
    return int(parameters * bits / 8)


def memory_bytes(model: str) -> int | None:
    """The memory of an instance that a model needs, in bytes, or None where the tag does not tell."""
    weights = weights_bytes(model)
    return None if weights is None else int(weights * (1 + CONTEXT_SHARE)) + SYSTEM_BYTES


def disk_gib(model: str, *, gpu: bool = False) -> int:
    """The least disk in GiB for the system, the container image and the model (as far as its tag tells)."""
    return IMAGE_GIB + GPU_GIB * gpu + -(-(weights_bytes(model) or 0) // GIB)
