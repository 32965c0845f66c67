"""`GET /docs`: what the API can do, as a page to read, made of its own OpenAPI document.

The page has no script and loads nothing: it works without a network, and its policy forbids
everything but its own style. The same operations are a page of the documents (`docs/reference`).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 56rem; padding: 1rem; }
h2 { border-bottom: 1px solid #8888; margin-top: 2.5rem; }
code { background: #8882; border-radius: 3px; overflow-wrap: anywhere; padding: .1em .3em; }
summary { cursor: pointer; padding: .35rem 0; }
details { border-bottom: 1px solid #8884; }
details > *:not(summary) { margin-left: 1rem; }
b.method { display: inline-block; min-width: 4.5rem; }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; frame-ancestors 'none'"
"""The page's content security policy."""


@dataclass(frozen=True)
class DocumentedParameter:
    """A parameter of an operation, or a field of its body."""

    name: str
    place: str
    """`path`, `query`, `header` or `body`."""
    told: str
    is_required: bool


@dataclass(frozen=True)
class DocumentedOperation:
    """One way to call the API."""

    group: str
    method: str
    path: str
    told: str
    needs_key: bool
    parameters: Sequence[DocumentedParameter]
    statuses: Sequence[str]


def operations(document: Mapping[str, Any]) -> list[DocumentedOperation]:
    """All operations of an OpenAPI document, by group, in its order."""
    found = [
        _operation(document, method, path, one)
        for path, item in document["paths"].items()
        for method, one in item.items()
        if method in METHODS
    ]
    order = list(dict.fromkeys(one.group for one in found))
    return sorted(found, key=lambda one: order.index(one.group))


def as_page(document: Mapping[str, Any]) -> str:
    """The document as HTML."""
    info = document["info"]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        "<p>Every path of this API. For programs: <a href='openapi.json'>openapi.json</a>.</p>",
        "<main>",
    ]
    for group, members in groupby(operations(document), key=lambda one: one.group):
        parts.append(f"<h2>{escape(group)}</h2>")
        parts += map(_as_details, members)
    return "".join([*parts, "</main></body></html>"])


def _as_details(one: DocumentedOperation) -> str:
    rows = "".join(
        f"<li><code>{escape(p.name)}</code> ({p.place}{', required' if p.is_required else ''})"
        f"{': ' + escape(p.told) if p.told else ''}</li>"
        for p in one.parameters
    )
    key = "Needs a key." if one.needs_key else "Needs no key."
    return (
        f"<details><summary><b class='method'>{one.method}</b> <code>{escape(one.path)}</code>"
        f"</summary><p>{escape(one.told)} {key}</p>"
        f"{f'<ul>{rows}</ul>' if rows else ''}"
        f"<p>Answers: {', '.join(one.statuses)}.</p></details>"
    )


def _operation(
    document: Mapping[str, Any], method: str, path: str, one: Mapping[str, Any]
) -> DocumentedOperation:
    security = one.get("security", document.get("security", []))
    return DocumentedOperation(
        group=(one.get("tags") or ["other"])[0],
        method=method.upper(),
        path=path,
        told=" ".join(str(one.get("description") or one.get("summary", "")).split()),
        needs_key=bool(security) and {} not in security,
        parameters=[*_parameters(one), *_body(document, one)],
        statuses=sorted(one.get("responses", {})),
    )


def _parameters(one: Mapping[str, Any]) -> Iterator[DocumentedParameter]:
    for told in one.get("parameters", ()):
        text = told.get("description") or told.get("schema", {}).get("description", "")
        yield DocumentedParameter(told["name"], told["in"], text, bool(told.get("required")))


def _body(document: Mapping[str, Any], one: Mapping[str, Any]) -> Iterator[DocumentedParameter]:
    for content in one.get("requestBody", {}).get("content", {}).values():
        schema = content.get("schema", {})
        if reference := schema.get("$ref"):
            schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        required = set(schema.get("required", ()))
        for name, field in schema.get("properties", {}).items():
            yield DocumentedParameter(name, "body", field.get("description", ""), name in required)
