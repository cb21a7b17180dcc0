"""The client of exollama: the contract both sides share, and everything that talks to a running instance.

Standard library only. `client.forward(settings, wake=…)` runs a forwarder beside other code (see `client.running`).
Import everything else from its module: `client.session` for finding an instance and generating, `client.settings` for
the settings, `client.errors` for what can go wrong. It never imports `functions`, but for the command line, lazily, to
provision.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing's own constant costs the import of typing
    from client.running import forward as forward

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "forward":  # only whoever wants it pays for asyncio
        from client.running import forward

        return forward
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
