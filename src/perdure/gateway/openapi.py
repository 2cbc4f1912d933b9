"""The OpenAPI document, made from the operations and their types, and a page that shows it without any download."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from perdure import __version__
from perdure.gateway.calls import Operation
from perdure.gateway.problems import Problem
from perdure.lifecycle.ids import ID_PATTERN

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
_STREAM = (
    "Server-Sent Events: frames of the lines `id: EPOCH:SEQ`, `event: METHOD` and `data: JSON`, where the JSON is one "
    "of the objects that `events` holds in the form `application/json`."
)
_HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "Idempotency-Key": {
        "description": "Makes a retry safe: within 24 hours the same key and body give the first answer again.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    },
    "Prefer": {
        "description": "`wait=N`: answer when the task ends or waits for an answer, after N seconds at the latest.",
        "schema": {"type": "string"},
        "example": "wait=10",
    },
    "Last-Event-ID": {
        "description": "The id of the last event that was seen; the stream goes on after it.",
        "schema": {"type": "string", "pattern": r"^([A-Za-z0-9]{1,32}:)?(-1|[0-9]{1,15})$"},
    },
}
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c22}
code,pre{font:14px/1.45 ui-monospace,monospace;background:#f3f3f6;border-radius:4px}code{padding:.1em .3em}
pre{padding:.8em;overflow:auto}summary{cursor:pointer;padding:.3em 0}b{display:inline-block;min-width:4.5em}
@media(prefers-color-scheme:dark){body{background:#16161b;color:#e6e6ea}code,pre{background:#26262d}a{color:#8ab4ff}}"""


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """OpenAPI 3.1 for these operations."""
    types = [Problem, *(kind for operation in operations for kind in (operation.body, operation.answer) if kind)]
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PARAMETER.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Perdure",
            "version": __version__,
            "description": "Durable LangGraph agents: accepted at once, streamed, alive after their workers are not.",
        },
        "paths": paths,
        "components": {
            "schemas": dict(components),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def page(spec: dict[str, Any]) -> str:
    """The document as one HTML page; it holds all that it shows."""
    parts = []
    for path, methods in spec["paths"].items():
        for method, what in methods.items():
            parts.append(
                f"<details><summary><b>{method.upper()}</b> <code>{html.escape(path)}</code> "
                f"{html.escape(what['summary'])}</summary>{_details(what)}</details>"
            )
    types = "".join(
        f"<details id='{html.escape(name)}'><summary><code>{html.escape(name)}</code> "
        f"{html.escape(schema.get('description', '').split(chr(10))[0])}</summary>{_json(schema)}</details>"
        for name, schema in sorted(spec["components"]["schemas"].items())
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Perdure: HTTP API</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style><h1>Perdure: HTTP API</h1>"
        f"<p>{html.escape(spec['info']['description'])} "
        "The same as a document: <a href='/openapi.json'>openapi.json</a>.</p>"
        "<p>Where keys are set, send one as <code>Authorization: Bearer KEY</code> or <code>x-api-key: KEY</code>. "
        "Errors are <code>application/problem+json</code>. Every POST takes an <code>Idempotency-Key</code>.</p>"
        f"<h2>Calls</h2>{''.join(parts)}<h2>Types</h2>{types}</html>"
    )


def _described(operation: Operation) -> dict[str, Any]:
    names = _PARAMETER.findall(operation.path)
    ids = {"type": "string", "pattern": ID_PATTERN}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": ids if name != "name" else {"type": "string"}}
        for name in names
    ]
    parameters += [{"name": name, "in": "query", "schema": _query_schema(operation, name)} for name in operation.query]
    headers = list(operation.headers)
    if operation.method == "POST" and operation.role is not None:
        headers.append("Idempotency-Key")
    parameters += [{"name": name, "in": "header", **_HEADERS[name]} for name in headers]
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method.lower()}_{re.sub(r'[^a-z0-9]+', '_', operation.path).strip('_')}",
        "tags": [operation.path.split("/")[2] if operation.path.startswith("/v1/") else "health"],
        "responses": {
            str(operation.status): {"description": "Done", **_content(operation)},
            **{str(status): {"description": "Done", **_json_of(kind)} for status, kind in operation.also.items()},
            "default": {
                "description": "A problem",
                "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}},
            },
        },
    }
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        schema = {"$ref": _REF.format(name=operation.body.__name__)}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if operation.role is not None:
        described["security"] = [{"bearer": []}, {"key": []}]
        described["x-role"] = str(operation.role)
    return described


def _content(operation: Operation) -> dict[str, Any]:
    if operation.status == 204:
        return {}
    content: dict[str, Any] = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": {"$ref": _REF.format(name=operation.answer.__name__)}}
    if operation.media_type == "text/event-stream":
        content[operation.media_type] = {"schema": {"type": "string", "description": _STREAM}}
        content["text/plain"] = {"schema": {"type": "string", "description": "The events as lines for people."}}
    elif operation.media_type != "application/json":
        content[operation.media_type] = {"schema": {"type": "string"}}
    return {"content": content}


def _json_of(kind: Any) -> dict[str, Any]:
    if kind is None:
        return {}
    return {"content": {"application/json": {"schema": {"$ref": _REF.format(name=kind.__name__)}}}}


def _query_schema(operation: Operation, name: str) -> dict[str, Any]:
    if name != "limit":
        return {"type": "string"}
    return {"type": "integer", "minimum": 1, "maximum": operation.limit_max}


def _details(what: dict[str, Any]) -> str:
    rows = [f"<p>role: <code>{html.escape(what['x-role'])}</code></p>"] if "x-role" in what else []
    for parameter in what.get("parameters", ()):
        rows.append(f"<p><code>{html.escape(parameter['name'])}</code> ({parameter['in']})</p>")
    for label, content in [("body", what.get("requestBody", {})), *what["responses"].items()]:
        for kind, media in content.get("content", {}).items():
            name = media["schema"].get("$ref", "").rsplit("/", 1)[-1]
            link = f"<a href='#{html.escape(name)}'>{html.escape(name)}</a>" if name else "text"
            rows.append(f"<p>{label}: <code>{html.escape(kind)}</code> {link}</p>")
    return "".join(rows)


def _json(schema: dict[str, Any]) -> str:
    return f"<pre>{html.escape(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())}</pre>"
