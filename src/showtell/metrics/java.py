"""METEOR and SPICE, Java programs from pycocoevalcap (the extra `java`); skipped with a reason where they cannot run.

Denkowski and Lavie, "Meteor Universal", 2014 (METEOR 1.5, English, as coco-caption calls it); Anderson et al., "SPICE:
Semantic Propositional Image Caption Evaluation", 2016. A program that does not answer is killed; none is left behind.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_UTF8 = "-Dfile.encoding=UTF-8"
_METEOR = ("java", "-jar", "-Xmx2G", _UTF8, "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm")
_SPICE = ("java", "-jar", "-Xmx8G", _UTF8, "spice-1.0.jar")
_MODELS = "stanford-corenlp-3.6.0-models.jar"
_SECONDS = {"meteor": (180, 0.1), "spice": (900, 5.0)}  # to start, and per caption: generous but finite

# METEOR's English parameters: weights of exact, stem, synonym and paraphrase matches, and α, β, γ, δ.
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75


@dataclass(frozen=True, slots=True)
class JavaScore:
    """A score as a fraction, of the corpus and of each image.

    `tallies` (images,23) are METEOR's counts: its corpus score is that of their sum (see `score_meteor`), not the mean
    of the images' scores. None for SPICE, whose corpus score is the mean.
    """

    corpus: float
    each: list[float]
    tallies: Floats | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why a metric was not computed."""

    reason: str


class _NoAnswerError(Exception):
    """A Java program ended, or was killed, without an answer."""


def meteor(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> JavaScore | Skipped:
    """METEOR of tokenised candidates (one per image) against tokenised references."""
    folder = _folder("meteor", "meteor-1.5.jar")
    if isinstance(folder, Skipped):
        return folder
    lines = [
        " ||| ".join(("SCORE", *written, spoken.replace("|||", "").replace("  ", " ")))  # as pycocoevalcap does
        for spoken, written in zip(candidates, references, strict=True)
    ]
    try:
        with _program(_METEOR, folder, seconds=_seconds("meteor", references)) as (write, read):
            write(lines)
            tallies = [read() for _ in lines]
            write([" ||| ".join(("EVAL", *tallies))])
            each, corpus = [float(read()) for _ in lines], float(read())
        counts = np.array([[float(x) for x in line.split()] for line in tallies])
    except (_NoAnswerError, ValueError, OSError) as error:
        return Skipped(f"METEOR was skipped: its Java program gave no answer ({error})")
    return JavaScore(corpus, each, _without_whole(counts))


def spice(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> JavaScore | Skipped:
    """SPICE of candidates (one per image) against references. Needs its models (385 MB), which it does not download."""
    folder = _folder("spice", "spice-1.0.jar")
    if isinstance(folder, Skipped):
        return folder
    if not (folder / "lib" / _MODELS).is_file():
        get = "python -m pycocoevalcap.spice.get_stanford_models"
        return Skipped(f"SPICE was skipped: its language models are not there; fetch them once (385 MB) with  {get}")
    with tempfile.TemporaryDirectory() as temporary:
        asked, answered = Path(temporary) / "asked.json", Path(temporary) / "answered.json"
        entries = [
            {"image_id": i, "test": spoken, "refs": list(written)}
            for i, (spoken, written) in enumerate(zip(candidates, references, strict=True))
        ]
        asked.write_text(json.dumps(entries), encoding="utf-8")
        try:
            _run_to_the_end(
                [*_SPICE, str(asked), "-out", str(answered), "-silent"], folder, _seconds("spice", references)
            )
            found = {item["image_id"]: item["scores"]["All"]["f"] for item in json.loads(answered.read_text("utf-8"))}
            each = [float(found[i]) for i in range(len(entries))]
        except (_NoAnswerError, ValueError, KeyError, TypeError, OSError) as error:
            return Skipped(f"SPICE was skipped: its Java program gave no answer ({error})")
    return JavaScore(math.fsum(each) / len(each), each)


METRICS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], JavaScore | Skipped]] = {
    "meteor": meteor,
    "spice": spice,
}


def score_meteor(tallies: Floats) -> Floats:
    """METEOR (…,) of counts (…,23), of one image or summed over images.

    The counts: words in candidate and reference; function words in both; for each of four kinds of matches, content
    words in both and function words in both; chunks; matched words in both.
    """
    lengths, functions = tallies[..., 0:2], tallies[..., 2:4]
    matches = tallies[..., 4:20].reshape(
        *tallies.shape[:-1], 4, 2, 2
    )  # kind, content or function, candidate or reference
    chunks, matched = tallies[..., 20], tallies[..., 21:23]
    weighted = _DELTA * matches[..., 0, :] + (1 - _DELTA) * matches[..., 1, :]
    found = (weighted * _WEIGHTS[:, None]).sum(-2)
    whole = _DELTA * (lengths - functions) + (1 - _DELTA) * functions
    share = np.divide(found, whole, out=np.zeros_like(found), where=whole > 0)
    precision, recall = share[..., 0], share[..., 1]
    below = _ALPHA * precision + (1 - _ALPHA) * recall
    mean = np.divide(precision * recall, below, out=np.zeros_like(below), where=below > 0)
    average = matched.mean(-1)
    broken = np.divide(chunks, average, out=np.zeros_like(average), where=average > 0)
    score: Floats = mean * (1 - _GAMMA * broken**_BETA)
    return score


def _without_whole(tallies: Floats) -> Floats:
    """Sets the chunk count to 0 where candidate and reference match completely in one chunk, as METEOR does."""
    matches = tallies[:, 4:20].reshape(-1, 8, 2).sum(1)
    whole = (matches == tallies[:, 0:2]).all(1) & (tallies[:, 20] == 1)
    return np.where(whole[:, None] & (np.arange(tallies.shape[1]) == 20), 0.0, tallies)


def _folder(name: str, jar: str) -> Path | Skipped:
    """The folder of a program in pycocoevalcap."""
    spec = importlib.util.find_spec("pycocoevalcap")
    places = [Path(place) / name for place in (spec.submodule_search_locations or ())] if spec is not None else []
    found = next((place for place in places if (place / jar).is_file()), None)
    if found is None:
        return Skipped(f"{name.upper()} was skipped: it needs the extra 'java': run  pip install 'showtell[java]'")
    if shutil.which("java") is None:
        return Skipped(
            f"{name.upper()} was skipped: there is no 'java' on the path; install a Java runtime (8 or later)"
        )
    return found


def _seconds(name: str, references: Sequence[Sequence[str]]) -> float:
    start, caption = _SECONDS[name]
    return start + caption * sum(len(written) + 1 for written in references)


@contextmanager
def _program(
    command: Sequence[str], folder: Path, *, seconds: float
) -> Iterator[tuple[Callable[[list[str]], None], Callable[[], str]]]:
    """Runs a program that answers line by line; yields functions that write lines (in a thread) and read one line.

    The program is killed after `seconds`, and whenever the block is left.
    """
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, encoding="utf-8"
        )
        watch = threading.Timer(seconds, process.kill)
        watch.daemon = True
        writers: list[threading.Thread] = []

        def write(lines: list[str]) -> None:
            writers.append(threading.Thread(target=_write, args=(process.stdin, lines), daemon=True))
            writers[-1].start()

        def read() -> str:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                process.wait()
                raise _NoAnswerError(_complaint(complaints, process.returncode))
            return line.strip()

        try:
            watch.start()
            yield write, read
        finally:
            watch.cancel()
            process.kill()
            process.wait()
            for writer in writers:
                writer.join()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                _close(stream)


def _run_to_the_end(command: Sequence[str], folder: Path, seconds: float) -> None:
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise _NoAnswerError(f"ended after {seconds:.0f} s") from None
    if done.returncode:
        raise _NoAnswerError(_first_line(done.stderr) or f"exit code {done.returncode}")


def _write(stream: IO[str], lines: list[str]) -> None:
    try:
        for line in lines:
            stream.write(line + "\n")
        stream.flush()
    except (OSError, ValueError):  # the program ended: `read` says so
        return


def _close(stream: IO[str]) -> None:
    try:
        stream.close()
    except OSError:  # the program ended: what is buffered is lost
        return


def _complaint(stream: IO[bytes], code: int) -> str:
    stream.seek(0, os.SEEK_SET)
    return _first_line(stream.read(20_000)) or ("ended after waiting for too long" if code < 0 else f"exit code {code}")


def _first_line(text: bytes) -> str:
    lines = [line.strip() for line in text.decode("utf-8", errors="replace").splitlines()]
    return next((line for line in lines if line and "SLF4J" not in line), "")[:200]
