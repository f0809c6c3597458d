"""Time from a photo to its caption, warm: showtell against captioners of `transformers`, each at its own size.

python benchmarks/caption.py [--photo PHOTO] [--steps 20] [--rounds 5] [--onnx]

ViT-GPT2, BLIP base, and showtell's Inception V3 with its attention decoder have random weights, so that nothing has to
be downloaded. They caption the same photo with beam 3, and every caption runs for all steps. Times go from the file's
bytes to the words and are medians of the rounds, in which all take turns. `--onnx` adds showtell's export. Needs
`pip install transformers`.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from PIL import Image

from showtell.bundle import build_encoder, build_model, save_bundle
from showtell.captioner import Captioner
from showtell.data.scenes import draw_scenes
from showtell.data.vocabulary import Vocabulary
from showtell.recipe import load_recipe


def showtell_bundle(folder: Path, steps: int) -> Path:
    """Inception V3 with 8×8 regions, hidden 512, about 2,500 words."""
    recipe = load_recipe(
        "flickr8k-attention",
        [
            "encoder.pretrained=false",
            "search.beam=3",
            "search.views=1",
            f"search.max_length={steps}",
            "data.min_count=1",
        ],
    )
    words = [f"word{i}" for i in range(2500)]
    vocabulary = Vocabulary.train([" ".join(words)], min_count=1)
    model = build_model(recipe, build_encoder(recipe), len(vocabulary))
    with torch.no_grad():
        model.decoder.output.bias[vocabulary.end_id] = -100.0  # type: ignore[attr-defined]
    save_bundle(folder, model=model, vocabulary=vocabulary, recipe=recipe, training={})
    return folder


def vit_gpt2(steps: int) -> Callable[[bytes], object]:
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(), transformers.GPT2Config()
    )
    model = transformers.VisionEncoderDecoderModel(config).eval()
    processor = transformers.ViTImageProcessor()

    def run(data: bytes) -> object:
        pixels = processor(Image.open(io.BytesIO(data)).convert("RGB"), return_tensors="pt").pixel_values
        with torch.inference_mode():
            return model.generate(
                pixels, num_beams=3, min_new_tokens=steps, max_new_tokens=steps, decoder_start_token_id=1,
                pad_token_id=0, eos_token_id=50256,
            )  # fmt: skip

    return run


def blip(steps: int) -> Callable[[bytes], object]:
    model = transformers.BlipForConditionalGeneration(transformers.BlipConfig()).eval()
    processor = transformers.BlipImageProcessor()

    def run(data: bytes) -> object:
        pixels = processor(Image.open(io.BytesIO(data)).convert("RGB"), return_tensors="pt").pixel_values
        with torch.inference_mode():
            return model.generate(pixel_values=pixels, num_beams=3, min_new_tokens=steps, max_new_tokens=steps)

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--onnx", action="store_true")
    a = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photo = a.photo or next((draw_scenes(folder / "scenes", images=6, size=500) / "images").iterdir())
        data = photo.read_bytes()
        bundle = showtell_bundle(folder / "bundle", a.steps)
        captioner = Captioner.load(bundle, device="cpu")
        contestants: dict[str, Callable[[bytes], object]] = {
            "showtell": captioner.caption,
            "ViT-GPT2 (transformers)": vit_gpt2(a.steps),
            "BLIP base (transformers)": blip(a.steps),
        }
        if a.onnx:
            from showtell.export import export_onnx

            contestants["showtell, ONNX float32"] = Captioner.load(export_onnx(bundle, folder / "onnx")).caption
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(a.rounds + 1):
            for name, run in contestants.items():
                started = time.perf_counter()
                run(data)
                if number:  # the first round warms up
                    times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    ratios = {
        name: round(statistics.median(x / y for x, y in zip(times[name], times["showtell"], strict=True)), 1)
        for name in contestants
    }
    for name, seconds in medians.items():
        print(f"{name:26s} {1000 * seconds:8.0f} ms   {ratios[name]:5.1f}× showtell's time")
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    rounded = {name: round(seconds, 4) for name, seconds in medians.items()}
    print(
        json.dumps(
            {
                "seconds": rounded,
                "ratios": ratios,
                "steps": a.steps,
                "versions": versions,
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
