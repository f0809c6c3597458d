"""Images of all requests, captioned in batches by one thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from showtell.captioner import Captioner
from showtell.captioning import Caption
from showtell.errors import DataError
from showtell.serve.asked import Way
from showtell.serve.problems import refusal

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    seen: Any  # what the captioner's `see` gave
    way: Way
    place: int  # among the images of its request
    answer: asyncio.Future[Caption]
    loop: asyncio.AbstractEventLoop
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Owns the thread that runs the captioner.

    A batch is the image that has waited longest and those behind it that are captioned in the same way, at most `size`
    in all, or fewer where each weighs more. The thread waits for more, at most `wait` seconds, only while requests are being read or decoded: a lone one is served
    at once.
    """

    def __init__(
        self,
        captioner: Captioner,
        *,
        size: int,
        wait: float,
        capacity: int,
        observe: Callable[[int, float], None] = lambda images, seconds: None,
    ) -> None:
        self._captioner, self._size, self._wait, self._observe = captioner, size, wait, observe
        self.capacity = capacity
        self.reserved = 0  # the weight of images accepted and not yet answered; used only on the event loop
        self._arriving = 0
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._warm = False
        self.failure: BaseException | None = None  # why the model failed to warm up
        self._thread = threading.Thread(target=self._run, name="captioner", daemon=True)

    def start(self) -> None:
        """Starts the thread, which warms up on blank images: the first request is then as fast as any, and memory use
        has levelled off."""
        self._thread.start()

    def close(self) -> None:
        """Finishes what is queued and ends the thread; nothing may be submitted afterwards."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def ready(self) -> bool:
        """Whether the model has warmed up and the thread takes images."""
        return self._warm and self._thread.is_alive() and not self._closing

    @contextlib.contextmanager
    def arriving(self) -> Iterator[None]:
        """Marks a request as being read or decoded, so that a batch may wait for it."""
        self._add_arriving(1)
        try:
            yield
        finally:
            self._add_arriving(-1)

    def need_room(self, weight: int) -> None:
        """Refuses ("busy") if the queue has no room for so many ordinary images more."""
        if self.reserved + weight > self.capacity:
            raise refusal("busy", f"{self.reserved} images wait, room is for {self.capacity}; try again later")

    @contextlib.contextmanager
    def reserve(self, weight: int) -> Iterator[None]:
        """Reserves room for a request's images until it is answered; refuses ("busy") if there is none."""
        self.need_room(weight)
        self.reserved += weight
        try:
            yield
        finally:
            self.reserved -= weight

    async def caption(self, seen: Any, way: Way, place: int = 0) -> Caption:
        """The best caption of one image, the others as its alternatives; `seen` is what the captioner's `see` gave for
        the options of `way`, and `place` the image's among those of its request. An image cancelled in the queue is not
        captioned. Refuses ("no_caption") where a search finds none that is as was asked."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(seen, way, place, loop.create_future(), loop)
        with self._changed:
            self._queue.append(waiting)
            self._changed.notify()
        return await waiting.answer

    def _add_arriving(self, change: int) -> None:
        with self._changed:
            self._arriving += change
            self._changed.notify()

    def _run(self) -> None:
        try:
            self._warm_up()
        except BaseException as error:
            self.failure = error
            _log.exception("the model does not run; the server ends")
            os.kill(os.getpid(), signal.SIGTERM)  # an exit is noticed, a server that never gets ready is not
            return
        while batch := self._next():
            self._answer(batch)

    def _answer(self, batch: list[_Waiting]) -> None:
        """Captions a batch; where one of its images has no caption as was asked, each by itself."""
        started, way = time.monotonic(), batch[0].way
        try:
            captions = self._captioner.caption_seen(
                [item.seen for item in batch],
                way.options,
                sampling=way.sampling,
                places=[item.place for item in batch],
            )
        except BaseException as error:  # whatever a runtime raises: these requests fail, the next ones do not
            if isinstance(error, DataError) and len(batch) > 1:
                for item in batch:
                    self._answer([item])
            else:
                _deliver(batch, error)
        else:
            self._observe(len(batch), time.monotonic() - started)  # first: answered clients find it counted
            _deliver(batch, captions)

    def _warm_up(self) -> None:
        options = self._captioner.options()
        blank = self._captioner.see(Image.new("RGB", (8, 8), "gray"), options)
        for images in sorted({1, self._size}):
            self._captioner.caption_seen([blank] * images, options)
        self._warm = True

    def _next(self) -> list[_Waiting]:
        """The next batch; empty when closing and nothing is left."""
        with self._changed:
            while True:
                self._drop_cancelled()
                if not self._queue:
                    if self._closing:
                        return []
                    self._changed.wait()
                    continue
                batch = self._gather()
                left = self._wait - (time.monotonic() - self._queue[0].since)
                if len(batch) == self._room(batch[0]) or left <= 0 or not self._arriving or self._closing:
                    for item in batch:
                        self._queue.remove(item)
                    return batch
                self._changed.wait(left)

    def _gather(self) -> list[_Waiting]:
        first = self._queue[0]
        return [item for item in self._queue if item.way == first.way][: self._room(first)]

    def _room(self, item: _Waiting) -> int:
        """How many images of its weight make up a batch."""
        return max(1, self._size // item.way.weight)

    def _drop_cancelled(self) -> None:
        if any(item.answer.cancelled() for item in self._queue):
            self._queue = deque(item for item in self._queue if not item.answer.cancelled())


def _deliver(batch: list[_Waiting], result: list[Caption] | BaseException) -> None:
    for place, item in enumerate(batch):
        value = result if isinstance(result, BaseException) else result[place]
        with contextlib.suppress(RuntimeError):  # its loop has closed
            item.loop.call_soon_threadsafe(_settle, item.answer, value)


def _settle(answer: asyncio.Future[Caption], value: Caption | BaseException) -> None:
    if answer.done():  # cancelled meanwhile
        return
    if isinstance(value, DataError):
        answer.set_exception(refusal("no_caption", str(value)))
    elif isinstance(value, BaseException):
        answer.set_exception(RuntimeError(f"the captioner failed: {type(value).__name__}: {value}"))
    else:
        answer.set_result(value)
