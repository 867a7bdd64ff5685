"""The description of the door, made from the table: OpenAPI 3.1. Pure.

Source: OpenAPI Specification 3.1.0; JSON Schema 2020-12.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from bus.http import problems
from bus.http.bodies import is_list
from bus.messages import Question, Rule, Table
from enjin import __version__
from enjin.names import Text

ENVELOPE_MEDIA: Final = "application/vnd.enjin.envelope"
JOIN_PATH: Final = "/v1/join"
RESERVED: Final = ("/v1/envelope", "/v1/follow", JOIN_PATH)
_SECURITY: Final[list[dict[str, list[str]]]] = [{"token": []}]
_SIGNED: Final[list[dict[str, list[str]]]] = [{"token": []}, {"envelope": []}]


def path_of(kind: str) -> str:
    """Return the path of *kind*: its dots are slashes."""
    return "/v1/" + kind.replace(".", "/")


def _schema_of(shape: type) -> dict[str, Any]:
    if issubclass(shape, Text):
        return {"type": "string", "pattern": f"^{shape.PATTERN.pattern}$".replace(r"\Z", "$")}
    raise TypeError(f"{shape} has no schema")


def describe(table: Table, name: str, *, blobs: bool, join: bool = False) -> dict[str, Any]:
    """Return the OpenAPI document of a door to *table*.

    Args:
        table: The closed table.
        name: Of the daemon: ``ring 1``.
        blobs: Whether the door takes blobs.
        join: Whether it takes requests to join.
    """
    shapes = [rule.command for rule in table.rules()] + [question.query for question in table.questions()]
    _, components = msgspec.json.schema_components(shapes, schema_hook=_schema_of, ref_template="#/components/schemas/{name}")
    names = dict(zip(shapes, _names(shapes, components), strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for rule in table.rules():
        paths.setdefault(path_of(rule.command.KIND), {})["post"] = _command(rule, names[rule.command])
    for question in table.questions():
        paths.setdefault(path_of(question.query.KIND), {})["get"] = _query(question, components[names[question.query]], components)
    paths |= _fixed(blobs)
    if join:
        paths[JOIN_PATH] = _join()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"enjin {name}",
            "version": __version__,
            "description": "Commands are POSTed, queries are GETs; both stem from one closed table.",
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "security": _SECURITY,
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": components | {"Problem": _problem(), "Done": _done()},
            "responses": {
                "Problem": {
                    "description": "What went wrong.",
                    "content": {problems.MEDIA: {"schema": {"$ref": "#/components/schemas/Problem"}}},
                }
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "enjin_<id>_<secret>"},
                "envelope": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`Enjin ` and a signed envelope in base64url.",
                },
            },
        },
    }


def _names(shapes: list[Any], components: dict[str, Any]) -> list[str]:
    references, _ = msgspec.json.schema_components(shapes, schema_hook=_schema_of, ref_template="{name}")
    return [reference["$ref"] for reference in references]


def _command(rule: Rule, name: str) -> dict[str, Any]:
    return {
        "operationId": rule.command.KIND,
        "summary": rule.summary,
        "description": f"Needs the role {rule.allow.name.lower()}.",
        "parameters": [
            _header("Idempotency-Key", "UUIDv7 of the wish; the same key and body give the stored answer."),
            _header("Enjin-Reason", "Why, for the journal."),
        ],
        "requestBody": {"required": False, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}},
        "responses": _responses("The wish is decided and on disk.", {"$ref": "#/components/schemas/Done"}),
    }


def _query(question: Question, schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    required = set(schema.get("required", ()))
    lists = {field.encode_name for field in msgspec.structs.fields(question.query) if is_list(field.type)}
    parameters = []
    for name, shape in schema.get("properties", {}).items():
        parameter = {"name": name, "in": "query", "required": name in required, "schema": shape}
        parameters.append(parameter | ({"style": "form", "explode": True} if name in lists else {}))
    return {
        "operationId": question.query.KIND,
        "summary": question.summary,
        "description": f"Needs the role {question.allow.name.lower()}.",
        "parameters": parameters,
        "responses": _responses("The answer.", {}),
    }


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}


def _responses(description: str, schema: dict[str, Any], media: str = "application/json", status: str = "200") -> dict[str, Any]:
    return {
        status: {"description": description, "content": {media: {"schema": schema}}},
        "default": {"$ref": "#/components/responses/Problem"},
    }


def _join() -> dict[str, Any]:
    binary: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}
    post = {
        "operationId": "join",
        "summary": "Use a join token: hand in a signed request; the answer is signed by the key that the token names.",
        "security": [],
        "requestBody": {"required": True, "content": {ENVELOPE_MEDIA: {"schema": binary}}},
        "responses": _responses("The signed answer.", binary, ENVELOPE_MEDIA),
    }
    summary, answer = "Which cloud can be joined here.", _responses("Its id.", {"type": "object"})
    return {"post": post, "get": {"operationId": "join.cloud", "summary": summary, "security": [], "responses": answer}}


def _fixed(blobs: bool) -> dict[str, Any]:
    binary: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}
    prefix = {
        "name": "prefix",
        "in": "query",
        "required": False,
        "description": "Whole words of a subject.",
        "schema": {"type": "string", "default": "seen"},
    }
    found: dict[str, Any] = {
        "/healthz": {
            "get": {
                "operationId": "healthz",
                "summary": "Whether this daemon answers, and cloud time.",
                "security": [],
                "responses": _responses("It does.", {"type": "object"}),
            }
        },
        "/openapi.json": {
            "get": {
                "operationId": "openapi",
                "summary": "This document.",
                "security": [],
                "responses": _responses("OpenAPI 3.1.", {"type": "object"}),
            }
        },
        "/v1/envelope": {
            "post": {
                "operationId": "envelope",
                "summary": "Hand in a signed command or query; the answer is a signed envelope.",
                "security": [],
                "requestBody": {"required": True, "content": {ENVELOPE_MEDIA: {"schema": binary}}},
                "responses": _responses("The signed answer.", binary, ENVELOPE_MEDIA),
            }
        },
        "/v1/follow": {
            "get": {
                "operationId": "follow",
                "summary": "Follow observations and logs as server-sent events.",
                "security": _SIGNED,
                "parameters": [prefix, _header("Last-Event-ID", "Go on after this event.")],
                "responses": _responses("Events as they happen.", {"type": "string"}, "text/event-stream"),
            }
        },
    }
    if blobs:
        found["/v1/blobs/{digest}"] = {
            "put": {
                "operationId": "blob.put",
                "summary": "Upload a blob under its SHA-256.",
                "security": _SIGNED,
                "parameters": [
                    {"name": "digest", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}
                ],
                "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": binary}}},
                "responses": _responses("It was there before.", {"type": "object"})
                | {"201": {"description": "It is stored.", "content": {"application/json": {"schema": {"type": "object"}}}}},
            }
        }
    return found


def _problem() -> dict[str, Any]:
    text = {"type": "string"}
    properties: dict[str, Any] = dict.fromkeys(("type", "title", "detail", "code", "hint"), text) | {"status": {"type": "integer"}}
    return {"type": "object", "required": ["type", "title", "status", "detail", "code"], "properties": properties}


def _done() -> dict[str, Any]:
    properties: dict[str, Any] = {
        "request": {"type": "string"},
        "number": {"type": "integer"},
        "repeated": {"type": "boolean"},
        "result": {},
    }
    return {"type": "object", "required": ["request", "number", "repeated", "result"], "properties": properties}
