"""A handler that imports nothing."""


def invoke(event: object, context: object) -> dict[str, object]:
    return {}
