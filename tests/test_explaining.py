"""What words need of a photo: exact where the model is known, and the captioner's own numbers where it is not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import refused, run
from PIL import Image
from stand_in import StandIn
from torch import Tensor

from showtell import Captioner, explain
from showtell.commands.explain import _lines, _percent, _where
from showtell.commands.terminal import columns
from showtell.data.vocabulary import Vocabulary
from showtell.errors import BundleError, DataError
from showtell.explaining import Evidence, Explanation
from showtell.images import ImageTransform
from showtell.inference import BundleEngine
from showtell.model.contract import Output
from showtell.report.attention import draw_explanation

WORDS = Vocabulary.train(["a dog"], min_count=1)
A, DOG = (WORDS.encode(word)[1] for word in ("a", "dog"))
PLACE = (slice(0, 8), slice(24, 32))  # of 32 pixels: the two cells at the top right, and the two below them


class Seer:
    """Says "a dog": the brighter the top right of the image, the likelier the dog, whatever else there is."""

    def __call__(self, features: Tensor, tokens: Tensor) -> Output:
        logits = torch.zeros(*tokens.shape, len(WORDS))  # (N,K,T,V)
        logits[..., 1, DOG] = features[:, 0, :1]
        return Output(logits, None)


def seer() -> Captioner:
    transform = ImageTransform(
        size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resize=32, crop_mode="squash", interpolation="bilinear"
    )
    engine = object.__new__(BundleEngine)  # without a bundle on disk
    vars(engine).update(
        bundle=SimpleNamespace(vocabulary=WORDS, decoder=Seer()), transform=transform, device=torch.device("cpu"),
        features=lambda images: 9 * images[:, :, *PLACE].mean((1, 2, 3))[:, None, None],  # (N,1,1)
    )  # fmt: skip
    return Captioner(engine)


def photo(bright: tuple[slice, slice] = PLACE) -> Image.Image:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[bright] = 255
    return Image.fromarray(pixels)


def log_prob(brightness: float) -> float:
    return 9 * brightness - math.log(math.exp(9 * brightness) + len(WORDS) - 1)


def test_a_word_needs_what_it_was_made_from() -> None:
    found = explain(seer(), photo(), "A dog")
    assert found.text == "a dog"
    a, dog = found.words
    mean = 64 / 1024  # the image's, which covers
    assert a.log_prob == a.unseen == pytest.approx(-math.log(len(WORDS)))
    assert np.allclose(a.cells, 0)
    assert dog.log_prob == pytest.approx(log_prob(1), abs=1e-6)
    assert dog.unseen == pytest.approx(log_prob(mean), rel=1e-5)
    assert found.log_prob == pytest.approx(dog.log_prob - 2 * math.log(len(WORDS)))
    # Of the four squares that cover a cell of the place, one covers all of it, two a half and one a quarter.
    left = [log_prob(1 - share * (1 - mean)) for share in (1, 1 / 2, 1 / 2, 1 / 4)]
    assert np.allclose(dog.cells[:2, 6:], log_prob(1) - np.mean(left), rtol=1e-5)
    assert dog.cells.max() == dog.cells[:2, 6:].max()
    assert np.allclose(dog.cells[3:], 0)
    assert np.allclose(dog.cells[:, :5], 0)


def test_what_speaks_against_a_word_is_negative() -> None:
    dark = explain(seer(), photo((slice(0, 32), slice(0, 16))), "a dog").words[1]
    assert dark.cells.min() < -0.1  # the mean of the image is brighter than its right half
    assert dark.cells.max() == pytest.approx(0, abs=1e-6)


def test_what_only_captions_explains_nothing() -> None:
    with pytest.raises(BundleError, match=r"^an exported captioner only captions; ask the bundle that it came from$"):
        explain(Captioner(StandIn()), photo(), "a dog")  # type: ignore[arg-type]


def test_drawings_are_bright_where_most_is_lost() -> None:
    captioner = seer()
    found = explain(captioner, photo(), "a dog")
    drawn = np.asarray(draw_explanation(Image.new("RGB", (32, 32), (200, 200, 200)), found, captioner.transform))
    tiles = [drawn[8:188, x : x + 180].astype(int).mean(-1) for x in (8, 196, 384)]  # photo, "a", "dog"
    assert tiles[0].min() == 200
    assert tiles[1].max() < 60
    assert tiles[2][2:10, 170:178].mean() > 150 > 60 > tiles[2][120:, :60].mean()


def test_its_own_caption_has_its_own_probability(tiny_bundle: Path, scenes: Path) -> None:
    captioner, image = Captioner.load(tiny_bundle), sorted((scenes / "images").iterdir())[0]
    found = explain(captioner, image, "a red circle")
    assert [word.text for word in found.words] == ["a", "red", "circle"]
    assert all(word.cells.shape == (8, 8) and np.isfinite(word.cells).all() for word in found.words)
    assert any(np.abs(word.cells).max() > 1e-4 for word in found.words)
    for empty in (" ", "...", "\0"):
        with pytest.raises(DataError, match=r"^the caption has 0 words; expected 1 to 100$"):
            explain(captioner, image, empty)
    for marked in ("<start> a red circle <end>", "a red circle <pad>", "a <end> circle"):
        with pytest.raises(DataError, match=r"^the caption has the marker <\w+>; expected words alone$"):
            explain(captioner, image, marked)
    with pytest.raises(DataError, match=r"^the captioner does not know 'Zebra', 'yak'; expected a caption in its own"):
        explain(captioner, image, "a Zebra a yak a Zebra")
    with pytest.raises(DataError, match=r"^the caption has 101 words; expected 1 to 100$"):
        explain(captioner, image, "a " * 101)
    own = captioner.caption(image)[0]
    again = explain(captioner, image)
    assert again.text == own.text
    assert again.log_prob == pytest.approx(own.log_prob, abs=1e-4)


def test_what_speaks_against_a_word_is_told() -> None:
    cells = np.full((8, 8), -0.5, np.float32)
    assert _where(Evidence("dog", -9.0, -5.0, cells)) == "- (the photo speaks against it)"
    assert _where(Evidence("a", -0.002, -0.001, cells)) == "-"
    cells[7, 4] = 2.0
    assert _where(Evidence("dog", -1.0, -5.0, cells)) == "bottom centre (5.0 % where that is covered)"
    assert [_percent(math.log(p)) for p in (0.714, 0.0123, 0.00456)] == ["71.4 %", "1.2 %", "0.46 %"]


def test_words_of_all_scripts_stand_in_columns() -> None:
    cells = np.zeros((8, 8), np.float32)
    texts = ("dog", "一只狗", "नमस्ते", "cafe\u0301", "ｶﾞ", "コーヒー")
    assert [columns(text) for text in texts] == [3, 6, 4, 4, 2, 8]
    found = Explanation(" ".join(texts), tuple(Evidence(text, -0.5, -0.5, cells) for text in texts), -0.1)
    header, *rows = list(_lines(found))[2:]
    ends = {columns(row[: row.index("%") + 1]) for row in rows}
    assert ends == {columns(header[: header.index("probability") + len("probability")])}


def test_by_command(tiny_bundle: Path, scenes: Path, tmp_path: Path) -> None:
    image, out = sorted((scenes / "images").iterdir())[0], tmp_path / "explained.png"
    told = run("explain", tiny_bundle, image, "--caption", "a red circle", "--out", out)
    assert told.exit_code == 0, told.output
    lines = told.stdout.splitlines()
    assert lines[0].startswith("a red circle  (log-probability -")
    assert [line.split()[0] for line in lines[3:]] == ["a", "red", "circle"]
    assert Image.open(out).size[0] > 4 * 180
    found = json.loads(run("explain", tiny_bundle, image, "--caption", "a red circle", "--json").stdout)
    assert found["log_prob"] == pytest.approx(sum(word["log_prob"] for word in found["words"]) + found["end"])
    assert np.array(found["words"][2]["cells"]).shape == (8, 8)
    for wrong in (tmp_path / "explained.jpg", tmp_path, out / "explained.png"):
        refused(run("explain", tiny_bundle, image, "--out", wrong), "--out")
    refused(run("explain", tiny_bundle, scenes / "captions.jsonl"), "captions.jsonl")
    refused(run("explain", scenes, image), "scenes")
