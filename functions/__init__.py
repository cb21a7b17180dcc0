"""The functions of exollama: provision, status and reap_idle, stateless, for cron, CI and any FaaS.

Each is a module with `run(settings, …) -> dict`. They depend on `client` and urllib3, nothing else.
"""
