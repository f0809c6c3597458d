"""Batches across requests: who shares one, who waits, and that nobody gets another's caption."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from stand_in import StandIn

from showtell.captioner import Captioner
from showtell.captioning import Caption, Pixels
from showtell.decoding import Sampling, SearchOptions
from showtell.images import ImageTransform

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
from starlette.exceptions import HTTPException

from showtell.serve.asked import Way
from showtell.serve.batching import Batcher

ONE, TWO = Way(SearchOptions(n=1, beam=3)), Way(SearchOptions(n=2, beam=3))


class Gated(StandIn):
    """Tells a photo's value and how many it shared its batch with; after the warm-up it waits at a gate."""

    transform = ImageTransform(
        size=2, resize=2, crop_mode="squash", mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear"
    )
    defaults = SearchOptions()
    recipe: dict[str, Any] = {}  # noqa: RUF012 (as every engine has it)
    grid = None

    def __init__(self) -> None:
        self.gate, self.batches = threading.Event(), list[tuple[int, int]]()
        self.running, self.places = threading.Event(), list[list[int]]()

    def search(
        self, seen: Sequence[Pixels], places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Caption]]:
        pixels = np.stack(seen)
        if pixels.max() > 0.5:  # the warm-up's image is gray
            self.running.set()
            assert self.gate.wait(20)
            self.batches.append((len(pixels), options.n))
            self.places.append(list(places))
            if pixels.max() > 99:
                raise MemoryError("too much")
        return [[Caption(f"{image[0, 0, 0]:g}", 0.0, 0.0, ())] * options.n for image in pixels]


@pytest.fixture
def captioner() -> Iterator[Gated]:
    captioner = Gated()
    yield captioner
    captioner.gate.set()


def started(captioner: Gated, **settings: Any) -> Batcher:
    batcher = Batcher(Captioner(captioner), **{"size": 4, "wait": 0.0, "capacity": 99, **settings})
    batcher.start()
    while not batcher.ready:
        pass
    return batcher


def image(value: float) -> Pixels:
    return np.full((3, 2, 2), value, np.float32)


async def occupied(captioner: Gated, batcher: Batcher) -> asyncio.Task[Caption]:
    """A task that the model is busy with, so that what comes now must queue."""
    first = asyncio.create_task(batcher.caption(image(1), ONE))
    await asyncio.to_thread(captioner.running.wait, 20)
    return first


def test_what_queues_shares_batches_by_options(captioner: Gated) -> None:
    batcher = started(captioner)

    async def run() -> list[str]:
        first = await occupied(captioner, batcher)
        asked = [(value, TWO if value % 3 == 0 else ONE) for value in range(2, 13)]
        rest = [asyncio.create_task(batcher.caption(image(value), options)) for value, options in asked]
        await asyncio.sleep(0)
        captioner.gate.set()
        return [caption.text for caption in await asyncio.gather(first, *rest)]

    assert asyncio.run(run()) == [str(value) for value in range(1, 13)]
    assert captioner.batches == [(1, 1), (4, 1), (4, 2), (3, 1)]  # oldest first, four at most, equal options alone
    batcher.close()


def test_wide_searches_make_smaller_batches(captioner: Gated) -> None:
    batcher = started(captioner)
    two, whole = Way(SearchOptions(n=3), weight=2), Way(SearchOptions(n=4), weight=16)

    async def run() -> None:
        first = await occupied(captioner, batcher)
        asked = [two, whole, two, two, whole]
        rest = [asyncio.create_task(batcher.caption(image(5), way)) for way in asked]
        await asyncio.sleep(0)
        captioner.gate.set()
        await asyncio.gather(first, *rest)

    asyncio.run(run())
    assert captioner.batches == [(1, 1), (2, 3), (1, 4), (1, 3), (1, 4)]
    batcher.close()


def test_equal_options_drawn_otherwise_share_no_batch(captioner: Gated) -> None:
    batcher = started(captioner)
    ways = [Way(ONE.options, sampling) for sampling in (None, Sampling(seed=1), Sampling(seed=2), Sampling(seed=1))]

    async def run() -> None:
        first = await occupied(captioner, batcher)
        rest = [asyncio.create_task(batcher.caption(image(place + 2), way, place)) for place, way in enumerate(ways)]
        await asyncio.sleep(0)
        captioner.gate.set()
        await asyncio.gather(first, *rest)

    asyncio.run(run())
    assert captioner.places == [[0], [0], [1, 3], [2]]
    batcher.close()


def test_one_who_comes_alone_does_not_wait(captioner: Gated) -> None:
    captioner.gate.set()
    batcher = started(captioner, wait=60.0)

    async def run() -> str:
        return (await asyncio.wait_for(batcher.caption(image(7), ONE), 20)).text

    assert asyncio.run(run()) == "7"
    batcher.close()


def test_a_batch_waits_for_those_who_arrive(captioner: Gated) -> None:
    captioner.gate.set()
    batcher = started(captioner, wait=60.0)

    async def run() -> None:
        with batcher.arriving():
            first = asyncio.create_task(batcher.caption(image(1), ONE))
            await asyncio.sleep(0.05)
            assert not captioner.batches
            second = asyncio.create_task(batcher.caption(image(2), ONE))
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(first, second), 20)

    asyncio.run(run())
    assert captioner.batches == [(2, 1)]
    batcher.close()


def test_a_wait_ends(captioner: Gated) -> None:
    captioner.gate.set()
    batcher = started(captioner, wait=0.02)

    async def run() -> None:
        with batcher.arriving():
            await asyncio.wait_for(batcher.caption(image(1), ONE), 20)

    asyncio.run(run())
    batcher.close()


def test_who_gave_up_is_not_run(captioner: Gated) -> None:
    batcher = started(captioner)

    async def run() -> None:
        first = await occupied(captioner, batcher)
        given_up, kept = (asyncio.create_task(batcher.caption(image(value), ONE)) for value in (2, 3))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        captioner.gate.set()
        assert [c.text for c in await asyncio.gather(first, kept)] == ["1", "3"]

    asyncio.run(run())
    assert captioner.batches == [(1, 1), (1, 1)]
    batcher.close()


def test_a_failed_batch_fails_alone(captioner: Gated) -> None:
    captioner.gate.set()
    batcher = started(captioner)

    async def run() -> str:
        with pytest.raises(RuntimeError, match="MemoryError"):
            await batcher.caption(image(100), ONE)
        return (await batcher.caption(image(5), ONE)).text

    assert asyncio.run(run()) == "5"
    batcher.close()


def test_closing_finishes_what_is_queued(captioner: Gated) -> None:
    batcher = started(captioner)

    async def run() -> list[str]:
        tasks = [await occupied(captioner, batcher)]
        tasks += [asyncio.create_task(batcher.caption(image(value), ONE)) for value in range(2, 9)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        captioner.gate.set()
        texts = [caption.text for caption in await asyncio.gather(*tasks)]
        await closing
        return texts

    assert asyncio.run(run()) == [str(value) for value in range(1, 9)]
    assert not batcher.ready


def test_room_is_given_back(captioner: Gated) -> None:
    batcher = Batcher(captioner, size=4, wait=0.0, capacity=3)
    with batcher.reserve(2), pytest.raises(HTTPException), batcher.reserve(2):
        pass
    with batcher.reserve(3):
        assert batcher.reserved == 3
    assert batcher.reserved == 0
