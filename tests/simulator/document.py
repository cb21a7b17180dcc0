"""The official OpenAPI document, as judge of both sides of every exchange.

The document is the one that PyPI's `exoscale` ships (exoscale/openapi.json, OpenAPI 3.0.0). It is read more strictly
than it is written: a property that it does not list is a violation, since a misspelt key would otherwise pass
unseen. Read-only and write-only marks are ignored: the document marks a security group's rules as write-only, yet
get-security-group returns them.

Imports nothing of the project.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from openapi_schema_validator import OAS30Validator, oas30_format_checker

Schema = dict[str, Any]

# From Exoscale's documentation of labels; the OpenAPI document says only "string".
LABEL_VALUE = re.compile(r"[A-Za-z][A-Za-z0-9*+!\-_?]{0,127}")


class Violation(Exception):
    """A message that the document does not allow; the text says where and why."""


@cache
def load() -> Document:
    """The document, read once per process."""
    spec = importlib.util.find_spec("exoscale")  # found, not imported: its import generates a class of 700 methods
    if spec is None or spec.origin is None:
        raise RuntimeError("PyPI's 'exoscale' is needed for its OpenAPI document. Run: nox -s simulator")
    return Document(json.loads(Path(spec.origin).with_name("openapi.json").read_text(encoding="utf-8")))


class Document:
    """Matches requests to operations and checks bodies against their schemas."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._components = {"schemas": {k: _closed(v) for k, v in document["components"]["schemas"].items()}}
        self._routes: list[tuple[str, re.Pattern[str], str]] = []
        self._operations: dict[str, dict[str, Any]] = {}
        self._validators: dict[tuple[str, str], Any] = {}
        self._seen: set[tuple[str, bytes]] = set()
        for path, item in document["paths"].items():
            # A literal path wins over one with a parameter in the same place, hence the sorting below.
            pattern = re.compile(re.sub(r"\\\{[^}]*\\\}", "([^/:]+)", re.escape(path)))
            for method, operation in item.items():
                self._routes.append((method.upper(), pattern, operation["operationId"]))
                self._operations[operation["operationId"]] = operation
        self._routes.sort(key=lambda route: route[1].groups)

    def match(self, method: str, path: str) -> tuple[str, tuple[str, ...]] | None:
        """The operation's id and its path parameters, in order; None for what is not in the document."""
        for verb, pattern, operation_id in self._routes:
            found = pattern.fullmatch(path) if verb == method else None
            if found:
                return operation_id, tuple(unquote(value) for value in found.groups())
        return None

    def zones(self) -> list[str]:
        """The zones that the document names."""
        return list(self._components["schemas"]["zone-name"]["enum"])

    def operations(self) -> list[str]:
        """The ids of all operations."""
        return list(self._operations)

    def parameters(
        self, operation_id: str, params: tuple[str, ...], fields: Mapping[str, str], body: Any
    ) -> dict[str, Any]:
        """What a request that was checked gives in path, query and body, its names as in IAM policies."""
        in_path = [p["name"] for p in self._operations[operation_id].get("parameters", []) if p["in"] == "path"]
        given = {**dict(zip(in_path, params, strict=True)), **fields, **(body or {})}
        return {name.replace("-", "_"): value for name, value in given.items()}

    def body_parameters(self, operation_id: str) -> list[str]:
        """The names of what the body of an operation may give, as in IAM policies."""
        content = self._operations[operation_id]["requestBody"]["content"]
        return [name.replace("-", "_") for name in content["application/json"]["schema"]["properties"]]

    def check_policy(self, policy: Any) -> None:
        """Raises Violation where it is no IAM policy."""
        self._check("policy", {"$ref": "#/components/schemas/iam-policy"}, policy)

    def check_request(
        self, operation_id: str, params: tuple[str, ...], query: str, body: bytes, content_type: str
    ) -> tuple[dict[str, str], Any]:
        """The query and the body, read. Raises Violation."""
        operation = self._operations[operation_id]
        described = operation.get("parameters", [])
        in_path = [p for p in described if p["in"] == "path"]
        for parameter, value in zip(in_path, params, strict=True):
            self._check(f"{operation_id} path {parameter['name']}", parameter["schema"], value)
        pairs = parse_qsl(query, keep_blank_values=True)
        if len(dict(pairs)) != len(pairs) or any(not value for _, value in pairs):
            raise Violation(f"{operation_id}: repeated or blank query parameter in {query!r}")
        known = {p["name"]: p for p in described if p["in"] == "query"}
        for name, value in pairs:
            if name not in known:
                raise Violation(f"{operation_id}: unknown query parameter {name!r}")
            self._check(f"{operation_id} query {name}", known[name]["schema"], value)
        missing = {n for n, p in known.items() if p.get("required")} - dict(pairs).keys()
        if missing:
            raise Violation(f"{operation_id}: missing query parameters {sorted(missing)}")
        return dict(pairs), self._body(operation_id, operation, body, content_type)

    def _body(self, operation_id: str, operation: dict[str, Any], body: bytes, content_type: str) -> Any:
        described = operation.get("requestBody")
        if described is None:
            if body:
                raise Violation(f"{operation_id}: a body where none is documented")
            return None
        if not body:
            if described.get("required"):
                raise Violation(f"{operation_id}: no body, at least {{}} is required")
            return None
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise Violation(f"{operation_id}: Content-Type {content_type!r} instead of application/json")
        try:
            value = json.loads(body)
        except ValueError as error:
            raise Violation(f"{operation_id}: the body is no JSON: {error}") from None
        self._check(f"{operation_id} request", described["content"]["application/json"]["schema"], value)
        for key, label in (value.get("labels") or {}).items():
            if not LABEL_VALUE.fullmatch(label):
                raise Violation(f"{operation_id}: label {key} has the value {label!r}, which Exoscale refuses")
        return value

    def check_answer(self, operation_id: str, status: int, body: bytes) -> None:
        """Raises Violation where a 200 of ours is not what the document promises; errors have no schema there."""
        if status != 200 or (operation_id, body) in self._seen:
            return
        responses = self._operations[operation_id]["responses"]
        schema = responses["200"]["content"]["application/json"]["schema"]
        self._check(f"{operation_id} answer", schema, json.loads(body))
        if len(self._seen) < 512:  # the catalogues repeat themselves, and checking them is what costs time
            self._seen.add((operation_id, body))

    def _check(self, what: str, schema: Schema, value: object) -> None:
        key = (what, str(sorted(schema)))
        if key not in self._validators:
            root = {"allOf": [_closed(schema)], "components": self._components}
            self._validators[key] = OAS30Validator(root, format_checker=oas30_format_checker)
        for error in self._validators[key].iter_errors(value):
            where = "/".join(str(step) for step in error.absolute_path)
            raise Violation(f"{what}: {where or 'value'}: {error.message[:300]}")


def _closed(schema: Schema) -> Schema:
    """The schema with every object closed to properties that it does not list."""
    closed = dict(schema)
    if "properties" in closed:
        closed["properties"] = {name: _closed(inner) for name, inner in closed["properties"].items()}
        closed.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(closed.get(key), dict):
            closed[key] = _closed(closed[key])
    return closed
