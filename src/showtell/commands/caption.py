"""`showtell caption`: captions as they come, of files, folders, patterns and standard input."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from showtell.commands.terminal import CONSENSUS, ENSEMBLE, VIEWS, need_bundle, note
from showtell.errors import DataError, ImageError

if TYPE_CHECKING:
    from showtell.captioning import BaseCaptioner, Caption
    from showtell.decoding import Sampling

Input = tuple[str, Path | bytes]  # what it is called in the output, and what is opened

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a")  # the other formats have a NUL, which no path has


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
    format: Annotated[Literal["text", "jsonl", "csv"], typer.Option(help="What is printed.")] = "text",
    n: Annotated[int, typer.Option("--n", min=1, max=100, help="Captions an image.")] = 1,
    beam: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Beams an image [default: the bundle's, or n where that is more]."),
    ] = None,
    attention: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Draw where the model looked: a .png for one image, else a folder of them."),
    ] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Draw the captions instead of searching for them.")] = False,
    temperature: Annotated[float, typer.Option(help="With --sample: below 1 plainer, above 1 wilder.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="With --sample: draw among the likeliest words of this share.")] = 0.9,
    seed: Annotated[int, typer.Option(help="With --sample: the same seed, the same captions.")] = 0,
    required: Annotated[
        list[str] | None,
        typer.Option(
            "--with", metavar="WORD", help="A word that must occur; 'dog|dogs': one of them. May be repeated."
        ),
    ] = None,
    excluded: Annotated[
        list[str] | None, typer.Option("--without", metavar="WORD", help="A word that must not. May be repeated.")
    ] = None,
    diverse: Annotated[
        bool, typer.Option("--diverse", help="With --n: captions that say it with other words.")
    ] = False,
    diversity: Annotated[
        float, typer.Option(help="With --diverse: how far they shun each other's words, in nats.")
    ] = 0.5,
    consensus: CONSENSUS = None,
    views: VIEWS = None,
    ensemble: ENSEMBLE = None,
) -> None:
    """Caption images. A broken one is reported on stderr and the rest go on (exit code 1)."""
    if (diverse and n < 2) or (diversity != 0.5 and not diverse):
        raise typer.BadParameter("--diverse needs --n 2 or more, and --diversity needs --diverse")
    if sample and (required or excluded or diverse or consensus):
        raise typer.BadParameter(
            "--with, --without, --diverse and --consensus search, and --sample does not; leave out one"
        )
    if sample and beam is not None:
        raise typer.BadParameter("--beam searches, and --sample does not; leave out one")
    if beam is not None and n > beam:
        raise typer.BadParameter(f"--n {n} captions need --beam {n} or more, found {beam}")
    if not sample and (temperature, top_p, seed) != (1.0, 0.9, 0):
        raise typer.BadParameter("--temperature, --top-p and --seed go with --sample, which is missing")
    folder, *others = (need_bundle(name) for name in (bundle, *(ensemble or ())))
    inputs = list_inputs(images)
    from showtell.decoding import Sampling, Wishes
    from showtell.loading import load_captioner

    sampling = Sampling(temperature, top_p, seed) if sample else None
    wishes = Wishes(tuple(required or ()), tuple(excluded or ()), diverse, diversity, consensus, views)
    captioner = load_captioner(folder, ensemble=others)
    draw = _drawer(attention, captioner, sampling) if attention is not None else None
    names: deque[Input] = deque()
    results = captioner.caption_each(
        _sources(inputs, names), beam=beam, n=n, sampling=sampling, wishes=wishes if wishes != Wishes() else None
    )
    done, failed = _print_all(results, names, format, n, draw)
    if not done:
        raise DataError(f"no image was captioned: {_how_many(failed)}")
    if failed:
        note(f"{done} captioned, {failed} failed")
        raise typer.Exit(1)


def _how_many(failed: int) -> str:
    return f"all {failed} failed" if failed > 1 else "the only one failed" if failed else "none was given"


def _print_all(
    results: Iterable[Caption | ImageError],
    names: deque[Input],
    format: str,
    n: int,
    draw: Callable[[str, Path | bytes, Caption], None] | None,
) -> tuple[int, int]:
    """Prints captions as they come; how many there were, and how many images failed."""
    done = failed = 0
    try:
        for line in _header(format):
            typer.echo(line)
        for result in results:
            name, source = names.popleft()
            if isinstance(result, ImageError):
                failed += 1
                note(one_line(str(result)))
                continue
            done += 1
            if draw is not None:
                draw(name, source, result)
            for line in _FORMATS[format](name, result, n):
                typer.echo(line)
            sys.stdout.flush()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted after {done} captioned images; what was printed is whole") from None
    return done, failed


def list_inputs(arguments: Iterable[str]) -> Iterator[Input]:
    """Every image that the arguments name. Wrong ones raise `DataError` here, before anything is loaded."""
    from showtell.images import find_images

    parts: list[Callable[[], Iterator[Input]]] = []
    for argument in arguments:
        if argument == "-":
            parts.append(read_stdin)
        else:
            found: list[Input] = [(str(path), path) for path in find_images([argument])]
            parts.append(lambda found=found: iter(found))  # type: ignore[misc]
    return (item for part in parts for item in part())


def read_stdin() -> Iterator[Input]:
    """Paths, one a line; or, where standard input starts like an image file, that image, called '-'."""
    stream = sys.stdin.buffer
    head = stream.read(16)
    if head.startswith(_MAGIC) or b"\0" in head or head[8:12] == b"WEBP":
        yield "-", head + stream.read()
        return
    begun = head if head.endswith(b"\n") else head + stream.readline()
    for lines in (io.BytesIO(begun), stream):
        for line in lines:
            name = os.fsdecode(line.rstrip(b"\r\n"))
            if name.strip():
                yield name, Path(name)


def one_line(text: str) -> str:
    """Text whose line breaks (a file's name may have some) are written out."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _drawer(
    out: Path, captioner: BaseCaptioner, sampling: Sampling | None
) -> Callable[[str, Path | bytes, Caption], None]:
    """Saves a drawing of each caption: the first one as `out` itself where that is a .png, else all in that folder."""
    if sampling is not None or captioner.grid is None:
        why = "sampled captions keep none" if sampling is not None else "its decoder has none"
        raise DataError(
            f"--attention: there is no attention to draw, {why}; expected a search with an attention decoder"
        )
    from showtell.images import SUFFIXES

    single = out.suffix.lower() == ".png"
    if not single and out.suffix.lower() in SUFFIXES:
        raise DataError(f"--attention {out}: drawings are PNG files; name one .png, or a folder for them")
    (out.parent if single else out).mkdir(parents=True, exist_ok=True)
    taken: set[Path] = set()

    def draw(name: str, source: Path | bytes, caption: Caption) -> None:
        from showtell.images import open_image
        from showtell.report.attention import draw_caption

        if single and taken:
            raise DataError(f"--attention {out} holds one drawing and there is a second image, {name}; give a folder")
        stem = Path(name).stem if name != "-" else "stdin"
        names = (out / f"{stem}{suffix}.png" for suffix in ("", *(f"-{k}" for k in range(2, 100_000))))
        target = out if single else next(path for path in names if path not in taken)
        taken.add(target)
        draw_caption(open_image(source), caption, captioner.transform).save(target)

    return draw


def _sources(inputs: Iterable[Input], names: deque[Input]) -> Iterator[Path | bytes]:
    """What the captioner opens; it reads ahead, so the names wait in `names`."""
    for name, source in inputs:
        names.append((name, source))
        yield source


def _header(format: str) -> list[str]:
    return ["image,rank,caption,log_prob"] if format == "csv" else []


def _ranked(best: Caption, n: int) -> list[Caption]:
    return [best, *best.alternatives][:n]


def _text(name: str, best: Caption, n: int) -> Iterator[str]:
    yield f"{one_line(name)}: {best.text}"
    for other in _ranked(best, n)[1:]:
        yield f"    {other.text}  ({other.log_prob:.2f})"


def _jsonl(name: str, best: Caption, n: int) -> Iterator[str]:
    value = {"image": name, **_values(best), "words": [{"text": w.text, "log_prob": w.log_prob} for w in best.words]}
    if n > 1:
        value["alternatives"] = [_values(other) for other in _ranked(best, n)[1:]]
    yield json.dumps(value, ensure_ascii=False)


def _csv(name: str, best: Caption, n: int) -> Iterator[str]:
    for rank, item in enumerate(_ranked(best, n), start=1):
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow([name, rank, item.text, f"{item.log_prob:.6f}"])
        yield row.getvalue()


def _values(item: Caption) -> dict[str, object]:
    return {"caption": item.text, "log_prob": item.log_prob, "score": item.score}


_FORMATS: dict[str, Callable[[str, Caption, int], Iterator[str]]] = {"text": _text, "jsonl": _jsonl, "csv": _csv}
