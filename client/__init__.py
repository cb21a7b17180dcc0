"""The client of exollama: the contract both sides share, and everything that talks to a running instance.

Standard library only. Import what you need from its modules: `client.session` for finding an instance and generating,
`client.settings` for the settings, `client.errors` for what can go wrong. It never imports `functions`, but for the
command line, lazily, to provision.
"""

__version__ = "0.1.0"
