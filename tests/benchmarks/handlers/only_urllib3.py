"""A handler that does nothing but import urllib3."""

import urllib3  # noqa: F401 - that is what is measured


def invoke(event: object, context: object) -> dict[str, object]:
    return {}
