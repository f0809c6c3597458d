"""What browsers see: the page at `/` and the reference at `/docs`. Neither loads anything from another host."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from typing import Any

from starlette.responses import HTMLResponse

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: .9em }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0 }
th, td { border-bottom: 1px solid #8884 } section { margin: 2.5rem 0 } h2 code { font-size: 1em }
"""


def page_response(html: str) -> HTMLResponse:
    """A self-contained page that may only run its own inline scripts and styles, show what the visitor chose, and
    talk to its own server."""
    scripts, styles = _hashes(html, "script"), _hashes(html, "style")
    policy = {
        "default-src": "'none'", "script-src": scripts, "style-src": styles, "img-src": "'self' blob: data:",
        "media-src": "blob:", "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'",
        "frame-ancestors": "'none'",
    }  # fmt: skip
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    return HTMLResponse(html, headers=headers)


def reference_page(schema: dict[str, Any]) -> HTMLResponse:
    """The OpenAPI description as a page to read. The usual viewers load megabytes of scripts from other hosts; this
    one needs neither scripts nor a network."""
    operations = [
        _operation(method, path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    title = escape(f"{schema['info']['title']} {schema['info']['version']}")
    html = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}: the API</title><style>{_STYLE}</style><h1>{title}</h1>"
        f'<p>The API. For programs: <a href="openapi.json">openapi.json</a>. For people: <a href="./">the page</a>.</p>'
        f"{''.join(operations)}</html>"
    )
    return page_response(html)


def _hashes(html: str, tag: str) -> str:
    """The CSP sources that allow exactly the inline elements of this page."""
    found = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", html, re.S | re.I)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found if text]
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<h2><code>{escape(f'{method.upper()} {path}')}</code></h2>",
        f"<p>{escape(operation.get('summary', ''))}. ",
    ]
    parts.append(f"{_code(operation.get('description', ''))}</p>")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts += [f"<h3><code>{escape(kind)}</code></h3>", _table(("field", "type", ""), _fields(content["schema"]))]
    if "parameters" in operation:
        rows = [(p["name"], _type(p["schema"]), p.get("description", "")) for p in operation["parameters"]]
        parts += ["<h3>In the query</h3>", _table(("name", "type", ""), rows)]
    answers = [(status, answer.get("description", "")) for status, answer in operation["responses"].items()]
    parts += ["<h3>Answers</h3>", _table(("status", ""), answers)]
    return f"<section>{''.join(parts)}</section>"


def _fields(schema: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(name, _type(field), field.get("description", "")) for name, field in schema["properties"].items()]


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(item) for item in schema["anyOf"] if item.get("type") != "null")
    if schema.get("type") == "array":
        most = f"at most {schema['maxItems']} " if "maxItems" in schema else ""
        return f"list of {most}{_type(schema['items'])}"
    if schema.get("type") == "object":
        return f"{{{', '.join(schema['properties'])}}}"
    keys = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
    limits = [f"{'not ' * key.startswith('exclusive')}{schema[key]}" for key in keys if key in schema]
    if "maxLength" in schema:
        limits = [f"of {schema['maxLength']} characters at most"]
    return " ".join(filter(None, [schema.get("format") or schema.get("type", ""), " … ".join(limits)]))


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{_code(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{lines}</table>"


def _code(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
