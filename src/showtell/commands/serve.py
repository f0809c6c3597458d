"""`showtell serve`: captions over HTTP, and a page for people."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from showtell.commands.terminal import DEVICE, need_bundle
from showtell.errors import DataError, MissingExtraError

_TOKEN = "SHOWTELL_TOKEN"  # noqa: S105 (the variable's name)
_MIB = 2**20


def serve(
    bundle: Annotated[Path, typer.Argument(help="A bundle, an exported folder, or user/name on the hub.")],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    device: DEVICE = None,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Images that go through the model at once.")] = 16,
    wait_ms: Annotated[
        int, typer.Option(min=0, max=10_000, help="How long a batch waits for images that are still arriving.")
    ] = 50,
    token: Annotated[
        str | None, typer.Option(help=f"Require this bearer token. Better set ${_TOKEN}: others can see command lines.")
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch images from public http and https URLs.")
    ] = False,
    max_image_mb: Annotated[int, typer.Option(min=1, help="Largest image, in MiB.")] = 16,
    max_request_mb: Annotated[int, typer.Option(min=1, help="Largest request, in MiB.")] = 64,
    max_pixels: Annotated[int, typer.Option(min=1, help="Most pixels of an image.")] = 40_000_000,
    max_images: Annotated[int, typer.Option(min=1, help="Most images in a request.")] = 32,
    queue: Annotated[int, typer.Option(min=1, help="Most images waiting; further requests are refused.")] = 128,
    timeout: Annotated[float, typer.Option(help="Seconds until an answer is due.")] = 60.0,
    body_timeout: Annotated[float, typer.Option(help="Seconds until a request's body must have arrived.")] = 30.0,
) -> None:
    """Serve captions: POST /v1/captions, the page at /, /docs, /healthz, /readyz, /metrics."""
    folder = need_bundle(bundle)
    secret = _token(token)
    _at_most("--max-image-mb", max_image_mb, "--max-request-mb", max_request_mb)
    _at_most("--max-images", max_images, "--queue", queue)
    from showtell.captioner import Captioner
    from showtell.serve.limits import Limits

    limits = Limits(
        image_bytes=max_image_mb * _MIB, request_bytes=max_request_mb * _MIB, held_bytes=4 * max_request_mb * _MIB,
        pixels=max_pixels, images=max_images, queue=queue, answer_seconds=timeout, body_seconds=body_timeout,
    )  # fmt: skip
    try:
        from showtell.serve.app import Settings
        from showtell.serve.run import digest_of, serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("showtell"):
            raise
        raise MissingExtraError("serving", "serve") from None
    settings = Settings(
        limits=limits, batch=batch, wait=wait_ms / 1000, token=secret, allow_urls=allow_urls, digest=digest_of(folder)
    )
    serve(Captioner.load(folder, device=device), settings, host=host, port=port)


def _at_most(name: str, value: int, other: str, most: int) -> None:
    if value > most:
        raise DataError(f"{name} {value} is more than {other} {most}, expected at most as much; raise {other}")


def _token(given: str | None) -> str:
    """The required token, or "" for none. An empty one is a mistake that must not open the server to all."""
    token = given if given is not None else os.environ.get(_TOKEN)
    if token is None:
        return ""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise DataError(f"the token (--token or {_TOKEN}) is empty or has other than plain letters, digits and signs")
    return token
