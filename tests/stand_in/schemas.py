"""Values of the types that a JSON schema asks for: the arguments of a tool's call, an answer in a given format."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def plausible(schema: Schema, defs: Schema | None = None) -> Any:
    """A value that the schema admits, as far as type, enum, const, default, anyOf, properties and items say."""
    defs = schema.get("$defs", defs) or {}
    if "$ref" in schema:
        return plausible(defs.get(str(schema["$ref"]).rpartition("/")[2], {}), defs)
    for name in ("const", "default"):
        if schema.get(name) is not None:
            return schema[name]
    if schema.get("enum"):
        return schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return plausible(_not_null(schema[name]), defs)
    return _of_type(schema, defs)


def _of_type(schema: Schema, defs: Schema) -> Any:
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    match kind:
        case "object":
            return {name: plausible(one, defs) for name, one in (schema.get("properties") or {}).items()}
        case "array":
            return [plausible(schema.get("items") or {}, defs)]
        case "integer":
            return int(schema.get("minimum", 1))
        case "number":
            return float(schema.get("minimum", 1.5))
        case "boolean":
            return True
        case "null":
            return None
    return "something"


def _not_null(options: list[Schema]) -> Schema:
    return next((one for one in options if one.get("type") != "null"), options[0])
