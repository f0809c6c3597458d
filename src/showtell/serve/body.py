"""Reads what a request asks for from its body, a form or JSON, up to the limits."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request

from showtell.errors import ShowtellError
from showtell.serve.asked import LISTS, OPTIONS, Asked, check_together
from showtell.serve.limits import Limits
from showtell.serve.problems import refusal

_MANY = 10_000  # separators in a JSON body; 32 images and their options need a few hundred, attacks have millions
_FIELD_BYTES = 400  # of an option in a form: a hundred characters
_NAME_LENGTH = 255
_EXPECTED = {
    "model_type": "expected an object with 'images'",
    "model_attributes_type": "expected an object with 'images'",
    "too_short": "expected at least one image",
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
}  # of pydantic's types of errors


class JsonImage(BaseModel):
    """One image: its bytes in base64 (or a data: URL), or where to fetch it."""

    model_config = ConfigDict(extra="forbid")
    data: str | None = Field(None, description="the file in base64")
    url: str | None = Field(None, max_length=2048, description="http or https; only where the server allows URLs")
    name: str | None = Field(None, description="what the answer calls it")


class JsonBody(Asked):
    """A request in JSON."""

    images: list[str | JsonImage] = Field(min_length=1, description="base64 text, or an object")


@dataclass(frozen=True, slots=True)
class Upload:
    """An image as it was sent: bytes, base64 text, or a URL."""

    name: str
    data: bytes | str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request's images and options."""

    images: list[Upload]
    options: Asked


class Memory:
    """The bytes that all requests together hold until they are answered; used only on the event loop."""

    def __init__(self, size: int) -> None:
        self.size, self.used = size, 0

    @contextlib.contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A function that takes a number of bytes or refuses ("busy"); all are given back at the end."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if self.used + count > self.size:
                raise refusal("busy", "the memory set aside for requests is used up; try again later")
            self.used += count
            taken += count

        try:
            yield take
        finally:
            self.used -= taken


async def read_wanted(request: Request, limits: Limits, take: Callable[[int], None]) -> Wanted:
    """The request's images and options. Refuses what is too large, too slow, of another type or malformed."""
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isdecimal() else 0
    if kind not in (b"multipart/form-data", b"application/json"):
        found = kind.decode("latin-1")[:60] or "nothing"
        raise refusal("wrong_type", f"the content type is '{found}', expected multipart/form-data or application/json")
    if length > limits.request_bytes:
        raise _too_large("the request", limits.request_bytes)
    query = _query(request.query_params)
    chunks = _chunks(request, limits, take)
    try:
        async with asyncio.timeout(limits.body_seconds):
            if kind == b"application/json":
                return _from_json(b"".join([chunk async for chunk in chunks]), query, limits)
            form = _Form(parameters.get(b"boundary", b""), limits)
            async for chunk in chunks:
                form.write(chunk)
    except TimeoutError:
        raise refusal("slow_body", f"the body took more than {limits.body_seconds:g} s to arrive") from None
    return form.wanted(query)


async def _chunks(request: Request, limits: Limits, take: Callable[[int], None]) -> AsyncIterator[bytes]:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limits.request_bytes:
            raise _too_large("the request", limits.request_bytes)
        take(len(chunk))
        yield chunk


def _query(parameters: QueryParams) -> dict[str, Any]:
    """What the query says, unknown names included; of an option that is not a list, the last value."""
    return {name: parameters.getlist(name) if name in LISTS else value for name, value in parameters.items()}


def _from_json(body: bytes, query: dict[str, Any], limits: Limits) -> Wanted:
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > _MANY:
        raise refusal("malformed", f"the JSON has more than {_MANY} elements, expected images and options")
    try:
        asked = JsonBody.model_validate_json(body)
    except ValidationError as error:
        _explain(error)
    _count(len(asked.images), limits)
    given = asked.model_dump(exclude={"images"}, exclude_unset=True, by_alias=True)
    options = _options({**query, **given})
    return Wanted([_upload(item, place, limits) for place, item in enumerate(asked.images, 1)], options)


def _upload(item: str | JsonImage, place: int, limits: Limits) -> Upload:
    image = JsonImage(data=item) if isinstance(item, str) else item
    name = clean_name(image.name or "") or f"image-{place}"
    if (image.data is None) == (image.url is None):
        raise refusal("malformed", f"{name}: expected either 'data' or 'url'")
    if image.url is not None:
        return Upload(name, url=image.url)
    if len(image.data or "") * 3 // 4 > limits.image_bytes + 2 * 1024:  # a data: URL begins with its type
        raise _too_large(name, limits.image_bytes)
    return Upload(name, data=image.data)


@dataclass
class _Part:
    """A part of a form while it arrives."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    header: tuple[bytes, bytes] = (b"", b"")
    name: str = ""
    filename: str = ""
    data: bytearray = field(default_factory=bytearray)


class _Form:
    """A multipart body, parsed as it arrives, in memory: no photo is ever written to a temporary file."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        self._limits, self._part, self._ended = limits, _Part(), False
        self._images: list[Upload] = []
        self._options: dict[str, Any] = {}
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header(data[start:end], b""),
            "on_header_value": lambda data, start, end: self._header(b"", data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        if not boundary:
            raise refusal("malformed", "the content type multipart/form-data names no boundary")
        with _form_errors():
            self._parser = MultipartParser(boundary, callbacks, max_header_count=8, max_header_size=2048)

    def write(self, chunk: bytes) -> None:
        """Parses the next bytes of the body."""
        with _form_errors():
            self._parser.write(chunk)

    def wanted(self, query: dict[str, Any]) -> Wanted:
        """The request, once the body has ended."""
        if not self._ended:
            raise refusal("malformed", "the form ends before its last boundary")
        if not self._images:
            raise refusal("malformed", "the form has no field 'images'")
        return Wanted(self._images, _options({**query, **self._options}))

    def _begin(self) -> None:
        self._part = _Part()

    def _header(self, name: bytes, value: bytes) -> None:
        part = self._part
        part.header = (part.header[0] + name, part.header[1] + value)

    def _end_header(self) -> None:
        name, value = self._part.header
        self._part.headers[name.strip().lower()] = value
        self._part.header = (b"", b"")

    def _end_headers(self) -> None:
        _, values = parse_options_header(self._part.headers.get(b"content-disposition"))
        name = values.get(b"name", b"").decode("utf-8", "replace")
        if name not in ("images", *OPTIONS):
            raise refusal("wrong_option", f"the form has a field '{name[:40]}', expected images, {', '.join(OPTIONS)}")
        if name == "images":
            _count(len(self._images) + 1, self._limits)
        self._part.name = name
        self._part.filename = clean_name(values.get(b"filename", b"").decode("utf-8", "replace"))

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        part.data += data[start:end]
        if part.name == "images":
            if len(part.data) > self._limits.image_bytes:
                raise _too_large(part.filename or "an image", self._limits.image_bytes)
        elif len(part.data) > _FIELD_BYTES:
            raise refusal("wrong_option", f"the form's field '{part.name}' has more than {_FIELD_BYTES} bytes")

    def _end(self) -> None:
        part = self._part
        if part.name == "images":
            name = part.filename or f"image-{len(self._images) + 1}"
            self._images.append(Upload(name, data=bytes(part.data)))
        else:
            self._set(part.name, part.data.decode("utf-8", "replace"))
        self._part = _Part()

    def _set(self, name: str, text: str) -> None:
        if name not in LISTS:
            self._options[name] = text
        elif len(texts := self._options.setdefault(name, [])) < LISTS[name]:
            texts.append(text)
        else:
            raise refusal("wrong_option", f"the form has more than {LISTS[name]} fields '{name}'")

    def _finish(self) -> None:
        self._ended = True


@contextlib.contextmanager
def _form_errors() -> Iterator[None]:
    try:
        yield
    except (HTTPException, ShowtellError):
        raise
    except Exception as error:  # the parser's own errors, and others that bad input causes
        raise refusal("malformed", f"the form cannot be read: {str(error)[:120]}") from None


def clean_name(name: str) -> str:
    """A file's name without folders and control characters, shortened. It is only echoed, never opened."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in last if c.isprintable())[:_NAME_LENGTH]


def _options(values: dict[str, Any]) -> Asked:
    try:
        asked = Asked.model_validate(values)
    except ValidationError as error:
        _explain(error)
    check_together(asked)
    return asked


def _explain(error: ValidationError) -> NoReturn:
    """Refuses with the most telling of pydantic's errors."""
    errors = error.errors(include_url=False)
    first = next((e for e in errors if "str" not in e["loc"] or isinstance(e["input"], int | float | list)), errors[0])
    where = ".".join(str(x) for x in first["loc"] if not isinstance(x, str) or x not in ("str", "JsonImage"))
    if first["type"] == "json_invalid":
        raise refusal("malformed", f"the body is not JSON: {first['ctx']['error']}") from None
    if first["type"] == "extra_forbidden":
        if where == "images":  # no body has it unknown
            raise refusal("wrong_option", "'images' is in the query, expected in the body alone") from None
        option = not re.match(r"images\.\d+\.", where)
        expected = f"images, {', '.join(OPTIONS)}" if option else "data, url, name"
        raise refusal(
            "wrong_option" if option else "malformed", f"'{where[:60]}' is unknown, expected {expected}"
        ) from None
    if first["type"] == "missing":
        raise refusal("malformed", f"'{where}' is missing") from None
    found = json.dumps(first["input"], ensure_ascii=False, default=str)[:40]
    expected = _EXPECTED.get(first["type"], re.sub(r"^\w+ should ", "expected to ", first["msg"].lower()))
    if first["type"] == "list_type":
        expected = f"expected a list of {'images' if where == 'images' else 'texts'}"
    if first["type"] == "too_long":
        expected = f"expected at most {first['ctx']['max_length']} texts"
    if where.removeprefix("images.").isdigit():
        expected = "expected base64 text, or an object with 'data' or 'url'"
    code = "wrong_option" if where.partition(".")[0] in OPTIONS else "malformed"
    raise refusal(code, f"{where or 'the body'} is {found}: {expected}") from None


def _count(images: int, limits: Limits) -> None:
    if images > limits.images:
        raise refusal("too_many_images", f"more than {limits.images} images in one request; send them in several")


def _too_large(what: str, limit: int) -> HTTPException:
    return refusal("too_large", f"{what} has more bytes than the {limit:,} that are allowed")


def decode_base64(name: str, text: str, limits: Limits) -> bytes:
    """The bytes of base64 text or of a data: URL; whitespace is ignored."""
    content = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode("".join(content.split()), validate=True)
    except ValueError:  # binascii.Error is one
        raise refusal("bad_image", f"{name}: not base64") from None
    if len(data) > limits.image_bytes:
        raise _too_large(name, limits.image_bytes)
    return data
