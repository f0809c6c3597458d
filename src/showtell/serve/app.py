"""The HTTP application: `build_app(captioner, …)`. Only `showtell.images` and the captioner touch photos."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException  # the base class of fastapi's own
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

import showtell
from showtell.captioner import Captioner
from showtell.decoding import SearchOptions, Wishes
from showtell.errors import DataError, ImageError
from showtell.images import open_sized, pixels_decoded
from showtell.serve import problems
from showtell.serve.answers import AllRefused, Answer, Refusal, result_of
from showtell.serve.asked import Asked, Way, way_of
from showtell.serve.batching import Batcher
from showtell.serve.body import JsonBody, Memory, Upload, Wanted, decode_base64, read_wanted
from showtell.serve.fetch import Judge, fetch, is_public
from showtell.serve.gate import Gate
from showtell.serve.limits import Limits
from showtell.serve.monitoring import Numbers
from showtell.serve.pages import page_response, reference_page
from showtell.serve.problems import refusal

_PAGE = Path(__file__).parent / "page" / "index.html"
_LARGE = 10_000_000  # pixels: photos with more are decoded one at a time, as they take up to 32 bytes for each
_FETCHES = 8  # URLs fetched at once
_READ = ["GET", "HEAD"]  # monitors ask with HEAD
_BEARER = HTTPBearer(auto_error=False, description="only where the server was started with a token")

T = TypeVar("T")
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """A server's settings. A batch has at most `batch` images and waits for them at most `wait` seconds; `judge` says
    which addresses and ports URLs may lead to."""

    limits: Limits = field(default_factory=Limits)
    batch: int = 16
    wait: float = 0.05
    token: str = ""
    allow_urls: bool = False
    digest: str = ""
    judge: Judge = is_public


class Service:
    """The state of a running server: the captioner behind its batcher, decoding threads, counters."""

    def __init__(self, captioner: Captioner, settings: Settings) -> None:
        self.captioner, self.settings, self.limits = captioner, settings, settings.limits
        self.draining = False
        self.memory = Memory(self.limits.held_bytes)
        self.numbers = Numbers(lambda: self.batcher.reserved, lambda: self.ready)
        self.batcher = Batcher(
            captioner, size=settings.batch, wait=settings.wait, capacity=self.limits.queue,
            observe=self.numbers.observe_batch,
        )  # fmt: skip
        self._pool = ThreadPoolExecutor(min(2, os.cpu_count() or 1), "decode")  # few: each may hold `_LARGE` pixels
        self._large = ThreadPoolExecutor(
            1, "decode-large"
        )  # a thread, as a lock would hold up the small ones behind it
        self._fetching = asyncio.Semaphore(_FETCHES)

    @property
    def ready(self) -> bool:
        """Whether requests for captions are accepted."""
        return self.batcher.ready and not self.draining

    @property
    def model(self) -> dict[str, str]:
        """The captioner's `Model`, as JSON."""
        name = str(self.captioner.recipe.get("name", ""))
        return {"name": name, "version": showtell.__version__, "digest": self.settings.digest}

    def close(self) -> None:
        """Accepts no more requests and finishes those accepted."""
        self.draining = True
        self.batcher.close()
        self._pool.shutdown(cancel_futures=True)
        self._large.shutdown(cancel_futures=True)

    async def answer(self, request: Request) -> tuple[int, dict[str, Any]]:
        """The status and JSON that answer a request for captions; refusals are raised."""
        if not self.ready:
            raise refusal("draining", problems.CODES["draining"][1])
        with self.memory.share() as take, contextlib.ExitStack() as room:
            with self.batcher.arriving():
                self.batcher.need_room(1)  # a full queue refuses before reading the body
                wanted = await read_wanted(request, self.limits, take)
                loop = asyncio.get_running_loop()
                way = await loop.run_in_executor(self._pool, way_of, self.captioner, wanted.options)
            request.state.images = len(wanted.images)
            room.enter_context(self.batcher.reserve(self._weight(wanted, way)))
            work = self._results(wanted, way, take)
            try:
                async with asyncio.timeout(self.limits.answer_seconds):
                    results = await _unless_gone(request, work)
            except TimeoutError:
                message = f"no captions within {self.limits.answer_seconds:g} s; ask for fewer images, or later"
                raise refusal("timeout", message) from None
        return self._status(results), {"model": self.model, "results": results, **_all_failed(results)}

    def _status(self, results: list[dict[str, Any]]) -> int:
        failed = sum("error" in result for result in results)
        self.numbers.images.labels("captioned").inc(len(results) - failed)
        self.numbers.images.labels("refused").inc(failed)
        if failed < len(results):
            return 200
        statuses = {problems.CODES[result["error"]["code"]][0] for result in results}
        return statuses.pop() if len(statuses) == 1 else 422

    def _weight(self, wanted: Wanted, way: Way) -> int:
        """The room that a request's images take in the queue; refuses more than it ever has."""
        weight = len(wanted.images) * way.weight
        if weight > self.limits.queue:
            raise refusal(
                "wrong_option",
                f"with such a search, {len(wanted.images)} images need the room of {weight}, and the queue has {self.limits.queue}; "
                "send them in several requests",
            )
        return weight

    async def _results(self, wanted: Wanted, way: Way, take: Callable[[int], None]) -> list[dict[str, Any]]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._result(upload, place, wanted.options, way, take))
                for place, upload in enumerate(wanted.images)
            ]
        return [task.result() for task in tasks]

    async def _result(
        self, upload: Upload, place: int, asked: Asked, way: Way, take: Callable[[int], None]
    ) -> dict[str, Any]:
        """One image's captions, or why it has none."""
        try:
            with self.batcher.arriving():
                data = await self._bytes(upload, take)
                loop = asyncio.get_running_loop()
                content, pixels = await loop.run_in_executor(self._pool, self._measured, upload.name, data)
                pool = self._large if pixels > _LARGE else self._pool
                seen, size = await loop.run_in_executor(pool, self._load, upload.name, content, way.options)
            best = await self.batcher.caption(seen, way, place)
        except HTTPException as error:
            return {"name": upload.name, **problems.body_of(error)}
        return result_of(
            upload.name, size, best, n=asked.n, attention=asked.attention, transform=self.captioner.transform
        )

    async def _bytes(self, upload: Upload, take: Callable[[int], None]) -> bytes | str:
        if upload.url is None:
            return upload.data or b""
        if not self.settings.allow_urls:
            raise refusal("url_refused", "this server fetches no URLs; send the image itself")
        async with self._fetching:
            return await fetch(upload.url, self.limits, take, self.settings.judge)

    def _measured(self, name: str, data: bytes | str) -> tuple[bytes, int]:
        """Runs in a thread. Returns a file's content, and how many pixels will be decoded of it."""
        content = decode_base64(name, data, self.limits) if isinstance(data, str) else data
        return content, pixels_decoded(content, enough=self.captioner.enough)

    def _load(self, name: str, content: bytes, options: SearchOptions) -> tuple[Any, tuple[int, int]]:
        """Runs in a thread. Returns what the captioner sees, and the upright photo's (width, height)."""
        try:
            image, size = open_sized(content, max_pixels=self.limits.pixels, name=name, enough=self.captioner.enough)
        except ImageError as error:
            raise refusal("bad_image", str(error)) from None
        return self.captioner.see(image, options), size


def build_app(captioner: Captioner, settings: Settings | None = None) -> FastAPI:
    """The application; `app.state.service` is its `Service`."""
    service = Service(captioner, settings or Settings())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="showtell", version=showtell.__version__, description="Captions of photos.", lifespan=lifespan,
        docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.service = service
    app.add_exception_handler(HTTPException, _refuse)
    _add_captions(app, service)
    _add_operations(app, service)
    _add_pages(app, words=_takes_words(captioner))
    app.add_middleware(Gate, router=app.router, numbers=service.numbers, limits=service.limits)
    return app


def _add_captions(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/captions", response_model=Answer, responses=_refusals(), openapi_extra=_request_schema(),
        dependencies=[Depends(_token_check(service.settings.token))], summary="Caption one or many images",
    )  # fmt: skip
    async def captions(request: Request) -> Response:
        """Results are in the order of the images. A broken image has an `error` in its place; if all are broken, the
        status is that of their errors, or 422 if these differ. Options go in the body or in the query."""
        status, content = await service.answer(request)
        return JSONResponse(content, status, problems.headers_of(status))


def _add_operations(app: FastAPI, service: Service) -> None:
    @_get(app, "/healthz", summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @_get(app, "/readyz", summary="Are captions to be had?", responses={503: {"model": Refusal}})
    async def readyz() -> dict[str, str]:
        if not service.ready:
            raise refusal("draining", problems.CODES["draining"][1])
        return {"status": "ready"}

    @_get(
        app, "/metrics", summary="Numbers for Prometheus", response_class=Response,
        dependencies=[Depends(_token_check(service.settings.token))],
    )  # fmt: skip
    async def metrics() -> Response:
        return Response(service.numbers.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _get(app: FastAPI, path: str, **described: Any) -> Callable[[Endpoint], Endpoint]:
    """A decorator for what answers GET and HEAD; the description has GET alone, as HEAD says nothing else."""

    def add(endpoint: Endpoint) -> Endpoint:
        needed = described.get("dependencies")
        app.add_api_route(path, endpoint, methods=_READ, dependencies=needed, include_in_schema=False)
        app.add_api_route(path, endpoint, methods=["GET"], **described)  # never reached: for the description
        return endpoint

    return add


def _takes_words(captioner: Captioner) -> bool:
    """Whether wishes about words and differing captions can be met; not by exported captioners."""
    try:
        captioner.options(n=2, wishes=Wishes(diverse=True))
    except DataError:
        return False
    return True


def _add_pages(app: FastAPI, *, words: bool) -> None:
    """The page, without the settings about words where these cannot be met, and the reference."""
    html = _PAGE.read_text(encoding="utf-8") if _PAGE.is_file() else ""
    page = page_response(html if words else html.replace("<body>", '<body class="plain">')) if html else None

    @app.api_route("/", methods=_READ, include_in_schema=False)
    async def index() -> Response:
        if page is None:
            raise refusal("not_found", "this installation has no page")
        return page

    @app.api_route("/docs", methods=_READ, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return reference_page(app.openapi())


def _token_check(token: str) -> Callable[..., Coroutine[Any, Any, None]]:
    """A dependency that refuses requests without the token, compared in constant time."""

    async def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        brought = given.credentials if given is not None else ""
        if token and not hmac.compare_digest(brought.encode("utf-8", "replace"), token.encode()):
            raise refusal("bad_token", "expected the header  Authorization: Bearer TOKEN  with this server's token")

    return check


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(problems.body_of(error), error.status_code, error.headers)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; if the client leaves first, `work` is cancelled and `ClientDisconnect` raised."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _all_failed(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The request's `error` if none of its images can be captioned (the first image's), else nothing."""
    if any("error" not in result for result in results):
        return {}
    first = results[0]["error"]
    if len(results) == 1:
        return {"error": first}
    return {
        "error": {"code": first["code"], "message": f"none of {len(results)} images can be used; {first['message']}"}
    }


def _refusals() -> dict[int | str, dict[str, Any]]:
    """The answers other than 200, for the OpenAPI description."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code, (status, meaning) in problems.CODES.items():
        if status in (404, 405):
            continue
        known = by_status.setdefault(status, {"model": Refusal, "description": ""})
        if code in problems.OF_IMAGES:
            known["model"] = AllRefused | Refusal
        known["description"] = "; ".join(filter(None, [known["description"], f"`{code}`: {meaning}"]))
    return by_status


def _request_schema() -> dict[str, Any]:
    """The body and the query in the OpenAPI description; `body.read_wanted` reads them."""
    options = Asked.model_json_schema()["properties"]
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "the files"}
    form = {"type": "object", "required": ["images"], "properties": {"images": files, **options}}
    definitions = JsonBody.model_json_schema(ref_template="#/components/schemas/{model}")
    image = definitions.pop("$defs")["JsonImage"]
    definitions["properties"]["images"]["items"] = {"anyOf": [{"type": "string", "format": "byte"}, image]}
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema, "description": schema["description"]}
            for name, schema in options.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": form}, "application/json": {"schema": definitions}},
        },
    }
