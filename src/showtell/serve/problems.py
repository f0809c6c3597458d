"""What a refusal consists of: a status, a stable code and one sentence."""

from __future__ import annotations

from typing import Any

import starlette.exceptions
from fastapi import HTTPException

RETRY_AFTER = "2"  # seconds

CODES: dict[str, tuple[int, str]] = {
    "malformed": (400, "the request is not HTTP, its body is not what its type says, or has another shape"),
    "bad_token": (401, "the bearer token is missing or wrong"),
    "not_found": (404, "there is nothing at this path"),
    "wrong_method": (405, "this path has other methods; the header Allow names them"),
    "slow_body": (408, "headers or body did not arrive in time"),
    "too_large": (413, "an image or the whole request has too many bytes"),
    "too_many_images": (413, "the request holds too many images"),
    "wrong_type": (415, "the body is neither multipart/form-data nor application/json"),
    "wrong_option": (422, "an option is unknown, out of range, or asks for what this captioner cannot do"),
    "no_caption": (422, "no caption of an image was found that is as the options ask"),
    "bad_image": (422, "an image cannot be decoded, is cut off, or has too many pixels"),
    "url_refused": (422, "a URL that this server does not fetch"),
    "url_failed": (422, "a URL that did not give an image"),
    "headers_too_large": (431, "the headers have too many bytes"),
    "internal": (500, "a bug of ours; the log has its traceback under the request's id"),
    "busy": (503, "the queue or the memory set aside for requests is full; Retry-After says when to come back"),
    "draining": (503, "the server is starting or shutting down"),
    "timeout": (504, "the captions were not ready in time"),
}
OF_IMAGES = {"too_large", "no_caption", "bad_image", "url_refused", "url_failed", "busy"}  # may befall single images
BY_STATUS = {404: "not_found", 405: "wrong_method"}  # what Starlette raises by itself


def refusal(code: str, message: str) -> HTTPException:
    """The exception to raise for `code`, with its status and headers."""
    status = CODES[code][0]
    return HTTPException(status, {"code": code, "message": message}, headers_of(status))


def headers_of(status: int) -> dict[str, str]:
    """The headers that a refusal with this status has beside those of every answer."""
    return {503: {"Retry-After": RETRY_AFTER}, 401: {"WWW-Authenticate": "Bearer"}}.get(status, {})


def body(code: str, message: str) -> dict[str, Any]:
    """The JSON of a refusal."""
    return {"error": {"code": code, "message": message}}


def body_of(error: starlette.exceptions.HTTPException) -> dict[str, Any]:
    """The JSON of an exception that we or Starlette raised."""
    if isinstance(error.detail, dict):
        return {"error": error.detail}
    code = BY_STATUS.get(error.status_code, "malformed")
    return body(code, CODES[code][1])
