"""`showtell demo`: draws a data set, trains on it, scores, captions and explains. Offline, minutes on two cores."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from showtell.captioner import Captioner
from showtell.config import Recipe
from showtell.data.annotations import CaptionedImage
from showtell.errors import DataError
from showtell.evaluation import evaluate_captioner
from showtell.progress import Progress, silent
from showtell.recipe import load_recipe
from showtell.scores import Evaluation

if TYPE_CHECKING:
    from showtell.captioning import Caption

_MARK = ".showtell-demo"  # marks a folder that a demo made, whose contents may be deleted


@dataclass(frozen=True)
class Explained:
    """A held-out picture, its caption, and the drawing of where the model looked."""

    image: CaptionedImage
    caption: Caption
    drawing: Path


@dataclass(frozen=True)
class DemoResult:
    """Where everything is, and the scores on the test split."""

    out: Path
    data: Path
    bundle: Path
    page: Path
    test: Evaluation

    def lines(self) -> Iterator[str]:
        """The end of the demo's output: what was made, then CIDEr against its floors."""
        yield f"data      {self.data}"
        yield f"bundle    {self.bundle}"
        yield f"report    {self.page}"
        yield f"try       showtell caption {self.bundle} {self.data / 'images'}"
        yield f"          showtell explain {self.bundle} {self.test.images[0].path}"
        yield f"          showtell trace {self.bundle} {self.test.images[0].path}"
        cider, floors = self.test.report.scores["cider"], self.test.floors
        constant, shuffled = floors["constant"].scores["cider"], floors["shuffled"].scores["cider"]
        times = f"{cider / constant:.1f} times" if constant else "above"
        yield f"test CIDEr {100 * cider:.1f}, {times} the constant caption's {100 * constant:.1f}"
        verdict = "looks at" if cider > 2 * shuffled else "hardly looks at"
        yield f"with the images shuffled CIDEr is {100 * shuffled:.1f}: the captioner {verdict} its image"


def run_demo(
    out: Path,
    *,
    images: int | None = None,
    overrides: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda text: None,
    note: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> DemoResult:
    """Runs the whole demo once, below `out`; an earlier demo there is replaced.

    `say` gets results, `note` progress notes. Raises `DataError` where `out` holds something else.
    """
    recipe = load_recipe("scenes", overrides)
    _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()
    from showtell.data.scenes import draw_scenes

    note(f"drawing scenes into {out / 'scenes'}")
    data = draw_scenes(out / "scenes") if images is None else draw_scenes(out / "scenes", images=images)
    bundle = _train(recipe, data=data, out=out / "run", say=say, note=note, progress=progress)
    note("scoring the test split")
    captioner = Captioner.load(bundle)
    test = evaluate_captioner(captioner, data, progress=progress, note=note)
    say("")
    for line in test.lines():
        say(line)
    say("")
    explained = _explain(captioner, test.images[:3], out / "attention")
    for item in explained:
        say(f"{item.image.image_id}: {item.caption.text}")
        say(f"    where it looked: {item.drawing}")
    say("")
    from showtell.report.collect import collect
    from showtell.report.page import write_page

    page = out / "report.html"
    write_page(page, [collect(out / "run", data, evaluation=test)], title="showtell: drawn scenes")
    return DemoResult(out, data, bundle, page, test)


def _clear(out: Path) -> None:
    """Removes what an earlier demo left, and nothing else."""
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not _is_a_demos(out)):
        raise DataError(f"'{out}' is not an earlier demo's folder; name an empty or a new one with --out")
    for part in ("scenes", "run", "attention"):
        shutil.rmtree(out / part, ignore_errors=True)


def _is_a_demos(out: Path) -> bool:
    """Whether a demo made the folder; earlier versions left no mark, but exactly these files."""
    parts = {"scenes", "run", "attention", "report.html"}
    unmarked = {path.name for path in out.iterdir()} == parts and (out / "scenes" / "captions.jsonl").is_file()
    return (out / _MARK).is_file() or unmarked


def _train(
    recipe: Recipe,
    *,
    data: Path,
    out: Path,
    say: Callable[[str], None],
    note: Callable[[str], None],
    progress: Progress,
) -> Path:
    note(f"training the recipe '{recipe.name}': a small CNN from scratch, together with the LSTM")
    from showtell.training.run import train

    return train(
        recipe, data=data, out=out, report=lambda epoch: say(epoch.line()), note=note, progress=progress
    ).bundle


def _explain(captioner: Captioner, images: tuple[CaptionedImage, ...], folder: Path) -> list[Explained]:
    from showtell.images import open_image
    from showtell.report.attention import draw_caption

    folder.mkdir(parents=True, exist_ok=True)
    captions = captioner.caption([image.path for image in images])
    explained = []
    for image, caption in zip(images, captions, strict=True):
        drawing = folder / f"{image.path.stem}.png"
        draw_caption(open_image(image.path), caption, captioner.transform).save(drawing)
        explained.append(Explained(image, caption, drawing))
    return explained
