"""Exports a captioner's encoder and decoder step as ONNX, for `showtell.runtime` to run without torch.

An exported folder holds `encoder.onnx` (images -> features), `prepare.onnx` (features -> Memory and first State),
`step.onnx` (tokens, State, Memory -> log-probabilities, State, attention), `vocabulary.json` and, written last,
`config.json`. Batch and beam sizes are free.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

import showtell
from showtell.bundle import Bundle, load_bundle
from showtell.errors import DataError, MissingExtraError
from showtell.images import ImageTransform, open_image
from showtell.writing import SPECIAL

EXPORT_VERSION = 1
Precision = Literal["float32", "float16", "int8"]
CALIBRATION_IMAGES = 64
_BESIDE = ".export-"  # how the folder's name begins in which the files are written
# The first convolutions, on few channels, make a quarter of the error and take a fiftieth of the time.
WHOLE_CONVOLUTIONS = 2
QUANTISED = ["Conv", "Relu", "Concat", "MaxPool", "AveragePool"]  # between convolutions, values stay in 8 bits too


class _Prepare(nn.Module):
    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        memory = self.decoder.prepare(features)
        return (*memory, *self.decoder.init_state(memory, 1))


class _Step(nn.Module):
    def __init__(self, decoder: Any, memory: type, state: type) -> None:
        super().__init__()
        self.decoder, self.memory, self.state = decoder, memory, state

    def forward(self, tokens: Tensor, state: tuple[Tensor, ...], memory: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        step = self.decoder.step(tokens, self.state(*state), self.memory(*memory))
        looked = () if step.attention is None else (step.attention,)
        return (step.logits.log_softmax(-1), *step.state, *looked)


def export_onnx(
    bundle: Path,
    out: Path,
    *,
    precision: Precision = "float32",
    calibration: Sequence[Path] = (),
    reduced_range: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Path:
    """Writes a bundle as an exported folder, whole or not at all; returns the folder.

    "float16" stores large weights in half precision and computes in single. "int8" quantises the encoder, its ranges
    measured on 64 of the `calibration` images; with `reduced_range` its weights use 7 of their 8 bits, for processors
    without VNNI, which add products in 16 bits and would overflow. Raises `DataError` where `out` exists and is not an
    empty folder, or where int8 gets no calibration image; `MissingExtraError` without the extra `onnx`.
    """
    _need_extra()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"'{out}' exists and is not an empty folder; name another one")
    if precision == "int8" and not calibration:
        raise DataError(
            "int8 needs images to measure ranges on; give a folder of typical ones with --calibrate, or the data set with --data"
        )
    loaded = load_bundle(bundle)
    if loaded.search.get("consensus", 0) > 1 or loaded.search.get("views", 1) > 1:
        note("the bundle ranks by consensus or looks at several views; the export searches once and looks once")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _called(out), tempfile.TemporaryDirectory(dir=out.parent, prefix=_BESIDE) as temporary:
        folder = Path(temporary)
        memory, state = _export_graphs(loaded, folder, note)
        if precision == "int8":
            note(f"quantising the encoder on {min(len(calibration), CALIBRATION_IMAGES)} images")
            _quantise(folder / "encoder.onnx", calibration, loaded.transform, reduced_range=reduced_range)
        elif precision == "float16":
            for path in folder.glob("*.onnx"):
                _halve(path)
        _write_texts(loaded, folder, precision=precision, memory=memory, state=state)
        out.mkdir(exist_ok=True)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
            shutil.move(path, out / path.name)
    return out


@contextlib.contextmanager
def _called(out: Path) -> Iterator[None]:
    """Calls the temporary folder beside `out`, and what is in it, by the name that the user gave, in an `OSError`."""
    try:
        yield
    except OSError as error:
        if _BESIDE not in str(error.filename):
            raise
        raise OSError(error.errno, error.strerror, str(out)) from None


def _need_extra() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtraError("export", "onnx") from None


def _export_graphs(loaded: Bundle, folder: Path, note: Callable[[str], None]) -> tuple[int, int]:
    """Writes the three graphs; returns the number of tensors in Memory and in State."""
    decoder, size = loaded.decoder, loaded.transform.size
    images = torch.zeros(2, 3, size, size)
    with torch.no_grad():
        features = loaded.encoder(images)
        memory = decoder.prepare(features)
        state = decoder.init_state(memory, 3)
    batch, beam = Dim("batch", min=1, max=65536), Dim("beam", min=1, max=4096)
    tokens = torch.zeros(2, 3, dtype=torch.long)
    with torch.no_grad():
        later = decoder.step(tokens, state, memory).state
        latest = decoder.step(tokens, later, memory).state
    note("exporting the encoder")
    _export(loaded.encoder, (images,), folder / "encoder.onnx", ({0: batch},), ["images"])
    note("exporting the decoder")
    _export(_Prepare(decoder), (features,), folder / "prepare.onnx", ({0: batch},), ["features"])
    growing = [_growing(*pair) for pair in zip(later, latest, strict=True)]
    shapes = ({0: batch, 1: beam}, tuple({0: batch, 1: beam, **x} for x in growing), tuple({0: batch} for _ in memory))
    names = ["tokens", *(f"state_{i}" for i in range(len(state))), *(f"memory_{i}" for i in range(len(memory)))]
    step = _Step(decoder, type(memory), type(state))
    _export(step, (tokens, tuple(latest), tuple(memory)), folder / "step.onnx", shapes, names)
    return len(memory), len(state)


def _growing(before: Tensor, after: Tensor) -> dict[int, Any]:
    """The dimensions of a State tensor that grow with the caption, in decoders that keep all their steps."""
    return {axis: Dim.DYNAMIC for axis in range(2, after.ndim) if before.shape[axis] != after.shape[axis]}


def _export(model: nn.Module, inputs: tuple[Any, ...], path: Path, shapes: Any, names: list[str]) -> None:
    with _quiet():
        program = torch.onnx.export(
            model.eval(), inputs, dynamo=True, dynamic_shapes=shapes, input_names=names, verbose=False
        )
    assert program is not None
    for graph in (*program.model.graphs(), *(function.graph for function in program.model.functions.values())):
        for node in graph.all_nodes():
            node.metadata_props.clear()  # the exporter's stack traces name local folders
    program.save(str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter, which prints to stdout and warns of its own deprecations."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _quantise(path: Path, calibration: Sequence[Path], transform: ImageTransform, *, reduced_range: bool) -> None:
    """Replaces a float32 encoder by one in 8 bits: weights by channel, activations by their measured ranges.

    The first `WHOLE_CONVOLUTIONS` convolutions stay in float32.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            apart = max(1, len(calibration) // CALIBRATION_IMAGES)  # a folder is often sorted by kind
            self.images = iter(calibration[::apart][:CALIBRATION_IMAGES])

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.images, None)
            return (
                None if image is None else {"images": np.stack([transform(open_image(image, enough=transform.enough))])}
            )

    prepared, quantised = path.with_name("prepared.onnx"), path.with_name("quantised.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    nodes = onnx.load(str(prepared), load_external_data=False).graph.node
    convolutions = [node.name for node in nodes if node.op_type == "Conv"]
    quantize_static(
        str(prepared), str(quantised), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=reduced_range,
        op_types_to_quantize=QUANTISED, nodes_to_exclude=convolutions[:WHOLE_CONVOLUTIONS],
    )  # fmt: skip
    for leftover in (path, path.with_name(path.name + ".data"), prepared):
        leftover.unlink(missing_ok=True)
    quantised.replace(path)


def _halve(path: Path) -> None:
    """Stores the weights of a graph in half precision, each with a cast back to single before it is used.

    ONNX Runtime casts them once, when it opens the file, so captions take as long as before on a CPU, which has no
    half-precision convolutions. Tensors that are small (biases, norms) or out of range stay as they are.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(path))
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < 1024:
            continue
        with np.errstate(over="ignore"):
            half = numpy_helper.to_array(tensor).astype(np.float16)
        if np.isfinite(half).all():
            name, stored = tensor.name, f"{tensor.name}.half"
            tensor.CopyFrom(numpy_helper.from_array(half, stored))
            casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    onnx.save(model, str(path))


def _write_texts(loaded: Bundle, folder: Path, *, precision: str, memory: int, state: int) -> None:
    kind = loaded.config["recipe"]["data"]["vocabulary"]
    tokens = loaded.vocabulary.listed()
    (folder / "vocabulary.json").write_text(
        json.dumps({"kind": kind, "special": len(SPECIAL), "tokens": tokens}, ensure_ascii=False), encoding="utf-8"
    )
    config = {
        "onnx": EXPORT_VERSION,
        "showtell": showtell.__version__,
        "precision": precision,
        "transform": loaded.transform.to_dict(),
        "search": loaded.search,
        "grid": loaded.grid,
        "memory": memory,
        "state": state,
        "recipe": loaded.config["recipe"],
        "training": loaded.config["training"],
        "decoding": loaded.config.get("decoding"),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
