"""The functions of exollama: provision, status and reap_idle, stateless, for cron, CI and any FaaS.

Each is a module with `run(settings, …) -> dict`. They depend on `client` and urllib3, nothing else. In between them and
a Python program stands `ExoscaleOllamaAdapter` (see `functions.adapter`).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing's own constant costs the import of typing
    from functions.adapter import ExoscaleOllamaAdapter as ExoscaleOllamaAdapter


def __getattr__(name: str) -> object:
    if name == "ExoscaleOllamaAdapter":  # only whoever wants it pays for asyncio
        from functions.adapter import ExoscaleOllamaAdapter

        return ExoscaleOllamaAdapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
