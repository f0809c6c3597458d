"""`Captioner`: the same caption whatever the batch, the order and the kind of source."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from showtell import Captioner, Sampling
from showtell.data.annotations import read_annotations
from showtell.errors import DataError, ImageError


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.load(tiny_bundle)


@pytest.fixture(scope="module")
def photos(scenes: Path) -> list[Path]:
    return [image.path for image in read_annotations(scenes).images[:9]]


def test_batch_and_order_change_nothing(captioner: Captioner, photos: list[Path]) -> None:
    alone = [captioner.caption([photo])[0] for photo in photos]
    for size in (2, 4, 32):
        together = captioner.caption(photos, batch_size=size)
        assert [c.text for c in together] == [c.text for c in alone]
        assert [c.log_prob for c in together] == pytest.approx([c.log_prob for c in alone], abs=5e-2)
    backwards = captioner.caption(photos[::-1])
    assert [c.text for c in backwards[::-1]] == [c.text for c in alone]


def test_n_best(captioner: Captioner, photos: list[Path]) -> None:
    for best in captioner.caption(photos, beam=4, n=4):
        ranked = [best, *best.alternatives]
        assert len({caption.text for caption in ranked}) == 4
        ended = [caption for caption in ranked if len(caption.words) < 6]  # those cut off at max_length follow behind
        assert ranked[: len(ended)] == ended
        assert all(one.score >= other.score for one, other in itertools.pairwise(ended))
        for caption in ranked:
            assert all(word.log_prob <= 0 for word in caption.words)
            assert caption.log_prob <= sum(word.log_prob for word in caption.words) + 1e-4
            for word in caption.words:
                assert word.attention is not None
                assert word.attention.shape == captioner.bundle.grid
                assert float(np.sum(word.attention)) == pytest.approx(1.0, abs=1e-4)


def test_samples_depend_on_the_seed(captioner: Captioner, photos: list[Path]) -> None:
    def texts(seed: int) -> list[list[str]]:
        sampling = Sampling(temperature=3.0, top_p=1.0, seed=seed)
        drawn = captioner.caption(photos, n=3, sampling=sampling)
        return [[best.text, *(other.text for other in best.alternatives)] for best in drawn]

    first = texts(1)
    assert [len(row) for row in first] == [3] * len(photos)
    assert texts(1) == first != texts(2)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}])
def test_sampling_refuses_nonsense(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(wrong))} is"):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_every_kind_of_source(captioner: Captioner, photos: list[Path]) -> None:
    path = photos[0]
    with path.open("rb") as stream:
        texts = {captioner.caption(s)[0].text for s in (path, str(path), path.read_bytes(), stream, Image.open(path))}
    assert len(texts) == 1


def test_a_broken_image(captioner: Captioner, photos: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no")
    with pytest.raises(ImageError, match="broken"):
        captioner.caption([photos[0], broken])
    results = list(captioner.caption_each([photos[0], broken, photos[1]]))
    assert [isinstance(result, ImageError) for result in results] == [False, True, False]
