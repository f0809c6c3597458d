"""`showtell caption`: caption files, folders, patterns and standard input."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from showtell.commands.beside import TextFiles, with_own_texts
from showtell.commands.inputs import Input, list_inputs, shard, sources
from showtell.commands.rows import CaptionFile, Printer, check_caption_file
from showtell.commands.several import (
    DIVERSE,
    DIVERSITY,
    SAMPLE,
    SEED,
    TEMPERATURE,
    TOP_P,
    N,
    spelt,
)
from showtell.commands.terminal import BATCH, CONSENSUS, DEVICE, ENSEMBLE, VIEWS, WORKERS, need_bundle, note
from showtell.decoding import BATCH_SIZE, Wishes, sampling_asked
from showtell.errors import DataError, ImageError, check_place

if TYPE_CHECKING:
    from showtell.captioner import Captioner
    from showtell.captioning import Caption
    from showtell.decoding import Sampling


def caption(
    bundle: Annotated[
        Path,
        typer.Argument(
            help="A bundle, e.g. runs/flickr8k-attention/bundle, an exported folder, or user/name on the hub."
        ),
    ],
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Files, folders, patterns; '-' reads stdin: paths, or one image."),
    ],
    format: Annotated[
        Literal["text", "jsonl", "csv"] | None, typer.Option(help="The output format [default: text].")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Append the captions to this .jsonl or .csv as they come; images already in it are skipped.",
        ),
    ] = None,
    beside: Annotated[
        bool,
        typer.Option(
            "--beside",
            help="Write the captions of photo.jpg into photo.txt beside it, and so on; images that have one are skipped.",
        ),
    ] = False,
    part: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Every N-th image from number I on: 0/4, 1/4, 2/4, 3/4.")
    ] = "",
    device: DEVICE = None,
    batch: BATCH = None,
    workers: WORKERS = None,
    n: N = 1,
    beam: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="Beams per image [default: the bundle's, or n if larger; 20 or more with --max-length].",
        ),
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Draw where the model looked: a .png for one image, a folder for several."),
    ] = None,
    sample: SAMPLE = False,
    temperature: TEMPERATURE = None,
    top_p: TOP_P = None,
    seed: SEED = None,
    required: Annotated[
        list[str] | None,
        typer.Option(
            "--with", metavar="WORD", help="A word that must occur; 'dog|dogs': either of them. May be repeated."
        ),
    ] = None,
    excluded: Annotated[
        list[str] | None, typer.Option("--without", metavar="WORD", help="A word that must not occur. May be repeated.")
    ] = None,
    diverse: DIVERSE = False,
    diversity: DIVERSITY = None,
    begins: Annotated[
        str, typer.Option(metavar="WORDS", help="Words that every caption begins with: 'a photo of'.")
    ] = "",
    min_length: Annotated[
        int, typer.Option(min=0, max=100, help="Words (or pieces of words) that a caption has at least.")
    ] = 0,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="Words (or pieces) that a caption has at most: it is searched for among those that end by then, with 20 beams or more. "
            "[default: the bundle's, at which a caption is cut off]",
            show_default=False,
        ),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            min=0, help="Captions are ranked by log-probability / length to the power of this [default: the bundle's]."
        ),
    ] = None,
    no_repeat: Annotated[
        int | None,
        typer.Option(
            min=0, help="So many words in a row are said once at most; 0: no such rule [default: the bundle's]."
        ),
    ] = None,
    consensus: CONSENSUS = None,
    views: VIEWS = None,
    ensemble: ENSEMBLE = None,
) -> None:
    """Caption images. A broken one is reported on stderr and skipped (exit code 1)."""
    wishes = Wishes(
        tuple(required or ()), tuple(excluded or ()), diverse, consensus=consensus, views=views, diversity=diversity,
        begins=begins, min_tokens=min_length, max_tokens=max_length, length_penalty=length_penalty, no_repeat_ngram=no_repeat,
    )  # fmt: skip
    sampling = sampling_asked(
        wishes, n=n, beam=beam, sample=sample, temperature=temperature, top_p=top_p, seed=seed, spelt=spelt
    )
    _refuse_outputs(out, beside=beside, printed=format is not None or attention is not None, sample=sample, part=part)
    if out is not None:
        check_caption_file(out, n)
    if attention is not None:
        check_place(attention.parent if _one_drawing(attention) else attention, option="--attention")
    folder, *others = (need_bundle(name) for name in (bundle, *(ensemble or ())))
    unread = Counter[str]()
    listed = list_inputs(images, unread)
    inputs = with_own_texts(listed) if beside else listed
    inputs = shard(inputs, part) if part else inputs
    inputs = inputs if attention is None else _drawable(attention, inputs)
    texts = TextFiles(inputs, n) if beside else None
    if texts is not None:
        if not texts.left and (texts.before or part):
            typer.echo(texts.told())
            _tell_unread(unread)
            return
        inputs = iter(texts.left)
    from showtell.captioner import Captioner
    from showtell.images import decoding_threads

    captioner = Captioner.load(folder, ensemble=others, device=device)
    with nullcontext() if out is None else CaptionFile(out, n) as file:
        draw = _drawer(attention, captioner, sampling) if attention is not None else None
        names: deque[Input] = deque()
        results = captioner.caption_each(
            sources(inputs if file is None else file.left(inputs), names), beam=beam, n=n, sampling=sampling,
            wishes=wishes if wishes != Wishes() else None, batch_size=batch or BATCH_SIZE, workers=workers or decoding_threads(),
        )  # fmt: skip
        done, failed = _write_all(results, names, file or texts or Printer(format or "text", n), draw)
        before = len(file.done) if file is not None else texts.before if texts is not None else 0
    if not done and not before and (failed or not part):  # a shard of few images may be empty
        raise DataError(f"no image was captioned: {_how_many(failed)}")
    if out is not None:
        typer.echo(f"{out}: {done} images captioned, {before} were there already")
    if texts is not None:
        typer.echo(texts.told())
    _tell_unread(unread)
    if failed:
        note(f"{done} captioned, {failed} failed")
        raise typer.Exit(1)


def _tell_unread(unread: Counter[str]) -> None:
    from showtell.images import told_unread

    if unread:
        note(told_unread(unread))


def _refuse_outputs(out: Path | None, *, beside: bool, printed: bool, sample: bool, part: str) -> None:
    """Raises `BadParameter` for several places to write to, and for samples that a place would change."""
    if out is not None and beside:
        raise typer.BadParameter("--out is one file, and --beside writes one for each image; leave out one")
    if (out is not None or beside) and printed:
        where = "--beside writes files" if beside else "--out is a file"
        raise typer.BadParameter(f"--format and --attention go with what is printed, and {where}; leave out one")
    if sample and (out is not None or beside or part):
        raise typer.BadParameter(
            "--sample draws by an image's place among all, which --out, --beside and --shard change; leave out one"
        )


def _one_drawing(out: Path) -> bool:
    """Whether `--attention` names the file of one drawing, not a folder for several."""
    return out.suffix.lower() == ".png"


def _drawable(out: Path, inputs: Iterator[Input]) -> Iterator[Input]:
    """The inputs; `DataError` for several images where `out` is the file of one drawing."""
    if not _one_drawing(out):
        return inputs
    first = list(itertools.islice(inputs, 2))
    if len(first) > 1:
        raise DataError(
            f"--attention {out} holds one drawing and there is a second image, {first[1][0]}; give a folder"
        )
    return iter(first)


def _how_many(failed: int) -> str:
    return f"all {failed} failed" if failed > 1 else "the only one failed" if failed else "none was given"


def _write_all(
    results: Iterable[Caption | ImageError],
    names: deque[Input],
    output: Printer | CaptionFile | TextFiles,
    draw: Callable[[str, Path | bytes, Caption], None] | None,
) -> tuple[int, int]:
    """Writes captions as they come. Returns how many images were captioned and how many failed."""
    done = failed = 0
    try:
        for result in results:
            name, source = names.popleft()
            if isinstance(result, ImageError):
                failed += 1
                note(str(result))
                continue
            done += 1
            if draw is not None:
                draw(name, source, result)
            output.write(name, result)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted after {done} captioned images; what was written is whole") from None
    return done, failed


def _drawer(out: Path, captioner: Captioner, sampling: Sampling | None) -> Callable[[str, Path | bytes, Caption], None]:
    """A function that saves a drawing of a caption: as `out` if that is a .png (one image only), else in a folder."""
    if sampling is not None or captioner.grid is None:
        why, instead = "sampled captions keep none", "search for it"
        if captioner.grid is None:
            why, instead = (
                "its decoder has none",
                "showtell explain  finds which part of a photo a word needs, for every decoder",
            )
        raise DataError(f"--attention: there is no attention to draw, {why}; {instead}")
    from showtell.images import SUFFIXES

    single = _one_drawing(out)
    if not single and out.suffix.lower() in SUFFIXES:
        raise DataError(f"--attention {out}: drawings are PNG files; name one .png, or a folder for them")
    (out.parent if single else out).mkdir(parents=True, exist_ok=True)
    taken: set[Path] = set()

    def draw(name: str, source: Path | bytes, caption: Caption) -> None:
        from showtell.images import open_image
        from showtell.report.attention import draw_caption

        stem = Path(name).stem if name != "-" else "stdin"
        names = (out / f"{stem}{suffix}.png" for suffix in ("", *(f"-{k}" for k in range(2, 100_000))))
        target = out if single else next(path for path in names if path not in taken)
        taken.add(target)
        draw_caption(open_image(source), caption, captioner.transform).save(target)

    return draw
