"""The engine that computes captions without torch: it runs a folder written by `showtell export` with ONNX Runtime.

B images · A of them still searched · K rows per image · V vocabulary · R regions
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from showtell.array_search import Arrays, Floats, Hypothesis, Ints, beam_search, sample
from showtell.captioning import Caption, Pixels, caption_of, measured
from showtell.decoding import Sampling, SearchOptions, Wishes, none_found
from showtell.errors import BundleError, DataError, MissingExtraError, captioner_path, first_line
from showtell.images import ImageTransform
from showtell.paths import EXPORT_FILES
from showtell.writing import END, PAD, START, UNK, join_words, shown

RUNTIME_VERSION = 1
_CPU = "CPUExecutionProvider"


class OnnxEngine:
    """Computes captions with an exported folder."""

    members = 1

    def __init__(
        self, folder: Path, config: dict[str, Any], *, threads: int = 0, providers: Sequence[str] = ()
    ) -> None:
        """Takes a `config` that `OnnxEngine.load` has read and checked."""
        self.transform = ImageTransform.from_dict(config["transform"])
        # An export searches once, on one view: consensus and several views need the bundle.
        self.defaults = replace(SearchOptions(**config["search"]), consensus=0, views=1)
        self.recipe = config["recipe"]
        self.grid = tuple(config["grid"]) if config["grid"] else None
        self._memory, self._state = int(config["memory"]), int(config["state"])
        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        self._tokens: list[str] = vocabulary["tokens"]
        self._subwords = vocabulary["kind"] == "bpe"
        self._on_cpu = set(providers) <= {_CPU}
        self._encoder, self._prepare, self._step = (
            _session(folder / name, threads, providers) for name in EXPORT_FILES[:3]
        )
        self._step_inputs = [item.name for item in self._step.get_inputs()]  # only those that the step uses

    @classmethod
    def load(cls, path: str | Path, *, threads: int = 0, providers: Sequence[str] = ()) -> OnnxEngine:
        """The engine of an exported folder; `threads=0` uses all cores.

        `providers` are ONNX Runtime's, in order of preference, e.g. "CUDAExecutionProvider" or
        "CoreMLExecutionProvider"; the default is the CPU, which also runs whatever the others cannot. Raises
        `BundleError` for a folder that is no export, incomplete, damaged or of a newer version, `MissingExtraError`
        without ONNX Runtime, `DataError` for an unavailable provider.
        """
        folder = captioner_path(path)
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
        try:
            return cls(folder, config, threads=threads, providers=providers)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{folder} is damaged ({type(error).__name__}: {error}); export the bundle again"
            ) from None

    def features(self, pixels: Pixels) -> Floats:
        """Transformed images (B,3,S,S) -> features (B,R,F): the encoder alone.

        On the CPU, images run one at a time: on two cores no batch size was faster per photo, batches of 32 were slower
        (experiments/LOG.md), and memory grows with the batch. Batches pay off in the search.
        """
        if not self._on_cpu:
            features: Floats = self._encoder.run(None, {"images": pixels})[0]
            return features
        return np.concatenate([self._encoder.run(None, {"images": image[None]})[0] for image in pixels])

    @property
    def enough(self) -> int:
        """The pixels that a photo's shorter side needs for `see`."""
        return self.transform.enough

    @staticmethod
    def wished(options: SearchOptions, wishes: Wishes) -> SearchOptions:
        """`options` with the length and the repetition wished for; `DataError` for all other wishes."""
        if wishes.required or wishes.excluded or wishes.diverse or wishes.consensus or wishes.views or wishes.begins:
            raise DataError(
                "an exported captioner has no words asked for or ruled out, no beginning, no differing captions, no consensus and no views; "
                "ask the bundle that it came from"
            )
        return measured(options, wishes)

    def see(self, image: Image, options: SearchOptions) -> Pixels:
        """The transformed image (3,S,S)."""
        return self.transform(image)

    def search(
        self, seen: Sequence[Pixels], places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Caption]]:
        """The n captions of each image that `see` has prepared; see `showtell.captioning.Engine`."""
        prepared = self._prepare.run(None, {"features": self.features(np.stack(seen))})
        memory, state = prepared[: self._memory], prepared[self._memory :]
        ids: dict[str, Any] = {"start_id": START, "end_id": END, "banned": (PAD, START, UNK)}
        if sampling is None:
            found = beam_search(self._run_step, memory, state, options=options, **ids)
            if not all(found):
                raise none_found(options)
        else:
            options = replace(options, temperature=sampling.temperature, top_p=sampling.top_p)
            generators = [np.random.default_rng(sampling.seed_of(place)) for place in places]
            found = sample(self._run_step, memory, state, options=options, generators=generators, **ids)
        return [[self._caption(hypothesis) for hypothesis in hypotheses] for hypotheses in found]

    def _run_step(self, tokens: Ints, state: Arrays, memory: Arrays) -> tuple[Floats, Arrays, Floats]:
        inputs: dict[str, NDArray[Any]] = {"tokens": tokens}
        inputs |= {f"state_{i}": x for i, x in enumerate(state)}
        inputs |= {f"memory_{i}": x for i, x in enumerate(memory)}
        log_probs, *rest = self._step.run(None, {name: inputs[name] for name in self._step_inputs})
        looked = rest[self._state] if len(rest) > self._state else np.zeros((*tokens.shape, 0), np.float32)
        return log_probs, rest[: self._state], looked

    def _caption(self, found: Hypothesis) -> Caption:
        tokens = [shown(self._tokens[i]) for i in found.tokens]
        return caption_of(found, self._text(found.tokens), tokens, found.attention, self.grid)

    def _text(self, ids: Sequence[int]) -> str:
        tokens = [self._tokens[i] for i in ids]
        return "".join(tokens).replace("▁", " ").removeprefix(" ") if self._subwords else join_words(tokens)


def _session(path: Path, threads: int, providers: Sequence[str]) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("an exported captioner", "onnx") from None
    known = onnxruntime.get_available_providers()
    missing = next((name for name in providers if name not in known), None)
    if missing is not None:
        raise DataError(f"this ONNX Runtime has no provider '{missing}'; expected some of {', '.join(known)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle threads sleep, because three spinning sessions would slow each other down. Without arena and memory pattern,
    # memory is returned after each batch; with them, it would be kept for every shape seen.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[*dict.fromkeys([*providers, _CPU])])
    except Exception as error:  # onnxruntime raises many exceptions of its own
        raise BundleError(f"{path} cannot be read ({first_line(error)}); export the bundle again") from None
    idle = next((name for name in providers if name not in session.get_providers()), None)
    if idle is not None:  # a driver is missing; ONNX Runtime would go on without the provider
        raise DataError(
            f"the provider '{idle}' could not be started here; see that its driver is installed, or leave it out"
        )
    return session
