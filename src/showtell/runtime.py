"""Captions without torch: ONNX Runtime, NumPy and Pillow on a folder that `showtell export` wrote.

The search is `showtell.search` in NumPy: the same captions, token for token.
B images · K beams · V vocabulary · T steps · R regions; A images still searched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from showtell.captioning import BaseCaptioner, Caption, Pixels, Word
from showtell.decoding import Sampling, SearchOptions
from showtell.errors import BundleError, DataError, MissingExtraError
from showtell.images import ImageTransform
from showtell.paths import EXPORT_FILES

RUNTIME_VERSION = 1
_PAD, _START, _END, _UNK = range(4)
_NEVER = -np.inf

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass
class _Beams:
    """Hypotheses of the images still searched, (A,K,…); `finished` ones carry their score."""

    log_prob: Floats  # (A,K)
    tokens: Ints  # (A,K,t)
    token_log_probs: Floats  # (A,K,t)
    attention: Floats  # (A,K,t,R); R = 0 where there is none


@dataclass(frozen=True)
class _Hypothesis:
    tokens: tuple[int, ...]  # without `<end>`
    log_prob: float
    token_log_probs: tuple[float, ...]
    score: float
    attention: Floats


class OnnxCaptioner(BaseCaptioner):
    """An exported folder, ready to caption."""

    def __init__(self, folder: Path, config: dict[str, Any], *, threads: int = 0) -> None:
        """`OnnxCaptioner.load` reads the configuration and checks it."""
        self.transform = ImageTransform.from_dict(config["transform"])
        # One look at the image, one search: consensus and views are the bundle's.
        self.defaults = replace(SearchOptions(**config["search"]), consensus=0, views=1)
        self.recipe = config["recipe"]
        self.grid = tuple(config["grid"]) if config["grid"] else None
        self._memory, self._state = int(config["memory"]), int(config["state"])
        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        self._tokens: list[str] = vocabulary["tokens"]
        self._subwords = vocabulary["kind"] == "bpe"
        self._encoder, self._prepare, self._step = (_session(folder / name, threads) for name in EXPORT_FILES[:3])
        self._step_inputs = [
            item.name for item in self._step.get_inputs()
        ]  # a Memory that no step needs is not among them

    @classmethod
    def load(cls, path: str | Path, *, threads: int = 0) -> OnnxCaptioner:
        """The captioner in an exported folder; `threads` 0 takes all cores.

        Raises `BundleError` for what is incomplete or of a newer version, `MissingExtraError` without ONNX Runtime.
        """
        folder = Path(path)
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            version = int(config["onnx"])
        except (OSError, ValueError, KeyError, TypeError):
            raise BundleError(f"'{folder}' is no exported captioner; write one with  showtell export") from None
        if version > RUNTIME_VERSION:
            raise BundleError(
                f"{folder} has export version {version}, this showtell reads up to {RUNTIME_VERSION}; install a newer showtell"
            )
        missing = [name for name in EXPORT_FILES if not (folder / name).is_file()]
        if missing:
            raise BundleError(f"{folder} is incomplete: {', '.join(missing)} is missing; export the bundle again")
        return cls(folder, config, threads=threads)

    def _search(
        self, pixels: Pixels, places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Caption]]:
        if sampling is not None:
            raise DataError("an exported captioner searches and does not sample; sample with the bundle it came from")
        # One by one: on two cores no batch was faster a photo, and those of 32 were slower (experiments/LOG.md), in
        # memory that grows with them. What a batch saves is in the search.
        features = np.concatenate([self._encoder.run(None, {"images": image[None]})[0] for image in pixels])
        prepared = self._prepare.run(None, {"features": features})
        memory, state = prepared[: self._memory], prepared[self._memory :]
        found = self._beam_search(memory, state, options)
        return [[self._caption(hypothesis) for hypothesis in hypotheses] for hypotheses in found]

    def _beam_search(
        self, memory: list[Floats], state: list[Floats], options: SearchOptions
    ) -> list[list[_Hypothesis]]:
        """`showtell.search.beam_search`, in NumPy."""
        images, rows = len(memory[0]), options.beam
        found: list[list[_Hypothesis]] = [[] for _ in range(images)]
        alive = np.arange(images)
        state = [np.repeat(x, rows, axis=1) for x in state]  # (B,K,…)
        beams = _begin(images, rows)
        finished: list[list[_Hypothesis]] = [[] for _ in range(images)]
        for length in range(1, options.max_length + 1):
            tokens = beams.tokens[:, :, -1] if length > 1 else np.full((len(alive), rows), _START)
            log_probs, state, looked = self._run_step(tokens, state, memory)
            _forbid(log_probs, beams.tokens, options.no_repeat_ngram)
            candidates, parents = _candidates(beams, log_probs, looked, 2 * rows)
            ends = candidates.tokens[:, :, -1] == _END
            for row, image in enumerate(alive):
                finished[image] = _keep(finished[image], candidates, row, ends[row], length, options)
            candidates.log_prob[ends] = _NEVER
            order = np.argsort(-candidates.log_prob, axis=1, kind="stable")[:, :rows]
            beams = _take(candidates, order)
            parents = np.take_along_axis(parents, order, 1)
            state = [x[np.arange(len(alive))[:, None], parents] for x in state]
            left = []
            for row, image in enumerate(alive):
                if length == options.max_length or _is_done(beams.log_prob[row], finished[image], options):
                    cut = _cut_off(beams, row, length, options)
                    found[image] = (finished[image] + cut)[: options.n]
                else:
                    left.append(row)
            if not left:
                break
            alive, beams = alive[left], _Beams(*(getattr(beams, name)[left] for name in _Beams.__annotations__))
            memory, state = [x[left] for x in memory], [x[left] for x in state]
        return found

    def _run_step(self, tokens: Ints, state: list[Floats], memory: list[Floats]) -> tuple[Floats, list[Floats], Floats]:
        """Log-probabilities (A,K,V), the next State, attention (A,K,R)."""
        inputs: dict[str, NDArray[Any]] = {"tokens": tokens.astype(np.int64)}
        inputs |= {f"state_{i}": x for i, x in enumerate(state)}
        inputs |= {f"memory_{i}": x for i, x in enumerate(memory)}
        log_probs, *rest = self._step.run(None, {name: inputs[name] for name in self._step_inputs})
        state = rest[: self._state]
        looked = rest[self._state] if len(rest) > self._state else np.zeros((*tokens.shape, 0), np.float32)
        return np.array(log_probs), state, looked

    def _caption(self, found: _Hypothesis) -> Caption:
        spoken = [i for i in found.tokens if i > _UNK]
        texts = [self._tokens[i].replace("▁", " ").strip() or "·" for i in spoken]
        grid = self.grid
        maps = (
            [None] * len(spoken)
            if grid is None or not found.attention.size
            else [x[: grid[0] * grid[1]].reshape(grid) for x in found.attention]
        )
        words = tuple(Word(*parts) for parts in zip(texts, found.token_log_probs, maps, strict=False))
        return Caption(self._text(spoken), found.log_prob, found.score, words)

    def _text(self, ids: Sequence[int]) -> str:
        tokens = [self._tokens[i] for i in ids]
        return "".join(tokens).replace("▁", " ").removeprefix(" ") if self._subwords else " ".join(tokens)


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("an exported captioner", "onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Waiting threads sleep instead of spinning, which three sessions would do at each other's cost; and memory goes back
    # when a batch is done, where arena and pattern would keep what every shape ever needed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many kinds of its own
        raise BundleError(f"{path} cannot be read ({str(error).splitlines()[0]}); export the bundle again") from None


def _begin(images: int, rows: int) -> _Beams:
    """No words yet: all beams are the same, so only the first one counts."""
    first = np.full((images, rows), _NEVER, np.float32)
    first[:, 0] = 0.0
    empty = np.zeros((images, rows, 0), np.float32)
    return _Beams(first, empty.astype(np.int64), empty, np.zeros((images, rows, 0, 0), np.float32))


def _forbid(log_probs: Floats, history: Ints, ngram: int) -> None:
    """Sets to -inf, in place, what may not be said next."""
    log_probs[..., [_PAD, _START, _UNK]] = _NEVER
    if ngram and history.shape[-1] >= ngram:
        windows = np.lib.stride_tricks.sliding_window_view(history, ngram, axis=-1)  # (A,K,W,n)
        last = history[..., history.shape[-1] - ngram + 1 :]
        repeats = (windows[..., :-1] == last[:, :, None]).all(-1)
        image, row, window = np.nonzero(repeats)
        log_probs[image, row, windows[image, row, window, -1]] = _NEVER


def _candidates(beams: _Beams, log_probs: Floats, looked: Floats, count: int) -> tuple[_Beams, Ints]:
    """The best continuations (A,2K) of all beams of an image, best first, and the beams that they continue."""
    words = log_probs.shape[-1]
    total = (beams.log_prob[..., None] + log_probs).reshape(len(log_probs), -1)  # (A,K·V)
    count = min(count, total.shape[1])
    best = np.argpartition(-total, count - 1, axis=1)[:, :count]
    values = np.take_along_axis(total, best, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    best, values = np.take_along_axis(best, order, 1), np.take_along_axis(values, order, 1)
    parents, tokens = best // words, best % words
    image = np.arange(len(parents))[:, None]
    attention = (
        beams.attention if beams.attention.shape[2] else np.zeros((*looked.shape[:2], 0, looked.shape[2]), np.float32)
    )
    return _Beams(
        values,
        np.concatenate((beams.tokens[image, parents], tokens[..., None]), -1),
        np.concatenate((beams.token_log_probs[image, parents], log_probs[image, parents, tokens][..., None]), -1),
        np.concatenate((attention[image, parents], looked[image, parents][:, :, None]), 2),
    ), parents


def _keep(
    finished: list[_Hypothesis], new: _Beams, row: int, ends: NDArray[np.bool_], length: int, options: SearchOptions
) -> list[_Hypothesis]:
    """The K best of those finished before and those that end now."""
    added = [
        _hypothesis(new, row, int(k), length, length - 1, options)
        for k in np.flatnonzero(ends & np.isfinite(new.log_prob[row]))
    ]
    return sorted(finished + added, key=lambda item: -item.score)[: options.beam] if added else finished


def _cut_off(beams: _Beams, row: int, length: int, options: SearchOptions) -> list[_Hypothesis]:
    return [
        _hypothesis(beams, row, k, length, length, options)
        for k in range(beams.log_prob.shape[1])
        if np.isfinite(beams.log_prob[row, k])
    ]


def _hypothesis(source: _Beams, row: int, k: int, length: int, words: int, options: SearchOptions) -> _Hypothesis:
    log_prob = float(source.log_prob[row, k])
    return _Hypothesis(
        tokens=tuple(source.tokens[row, k, :words].tolist()),
        log_prob=log_prob,
        token_log_probs=tuple(source.token_log_probs[row, k].tolist()),
        score=log_prob / length**options.length_penalty,
        attention=source.attention[row, k, :words],
    )


def _is_done(live: Floats, finished: list[_Hypothesis], options: SearchOptions) -> bool:
    """No live beam can get among the n best finished: log-probabilities only fall, a longer caption divides by more."""
    if np.isneginf(live.max()):
        return True
    if len(finished) < options.n:
        return False
    bound = float(live.max()) / options.max_length**options.length_penalty
    return bool(finished[options.n - 1].score >= bound)


def _take(beams: _Beams, order: Ints) -> _Beams:
    image = np.arange(len(order))[:, None]
    return _Beams(*(getattr(beams, name)[image, order] for name in _Beams.__annotations__))
