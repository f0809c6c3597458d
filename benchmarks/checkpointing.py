"""What gradient checkpointing saves and costs: memory and time of a step that trains the CNN, with and without it.

python benchmarks/checkpointing.py [--name inception_v3] [--layer Mixed_7a] [--encoder-from Mixed_6e] [--batch 16] [--rounds 3]

A step goes from normalised images to gradients: the encoder and an attention decoder of the recipe's size, with random
weights, and five captions of 14 tokens per image. Each contestant runs in its own process; its memory is how far the
peak rises above that before the first step. They take turns; figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch

from showtell.bundle import build_model
from showtell.model.encoder import Encoder, fast_bfloat16
from showtell.recipe import load_recipe
from showtell.training.losses import caption_loss

WORDS, CAPTIONS, STEPS, REPEATS = 2500, 5, 14, 4
CONTESTANTS = {"kept": False, "computed again": True}


def measure(arguments: argparse.Namespace, *, again: bool) -> dict[str, float]:
    """Seconds per step, and the rise of this process's peak memory in MB."""
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    encoder = Encoder(name=arguments.name, layer=arguments.layer, crop="squash")
    model = build_model(load_recipe("flickr8k-attention"), encoder, WORDS)
    encoder.unfreeze_from(arguments.encoder_from)
    encoder.checkpoint_gradients(again)
    images = torch.randn(arguments.batch, 3, encoder.transform.size, encoder.transform.size)
    tokens = torch.randint(4, WORDS, (arguments.batch, CAPTIONS, STEPS))
    before, times = _peak(), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16("cpu")):
            output = model(images, tokens[..., :-1])
        caption_loss(output, tokens[..., 1:], label_smoothing=0.1, doubly_stochastic=0.5).backward()
        model.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[1:]), "megabytes": _peak() - before}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="inception_v3")
    parser.add_argument("--layer", default="Mixed_7a")
    parser.add_argument("--encoder-from", default="Mixed_6e")
    for option, default in {"batch": 16, "rounds": 3}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--one", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments, again=CONTESTANTS[arguments.one])))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for _ in range(arguments.rounds):
        for name, rounds in found.items():
            told = subprocess.run(
                [sys.executable, *sys.argv, "--one", name], capture_output=True, text=True, check=True
            )
            rounds.append(json.loads(told.stdout.splitlines()[-1]))
    medians = {
        name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    for name, one in medians.items():
        print(f"{name:16}{one['megabytes']:8.0f} MB{one['seconds']:8.2f} s a step of {arguments.batch} images")
    kept, again = medians.values()
    result = {
        "memory": again["megabytes"] / kept["megabytes"], "time": again["seconds"] / kept["seconds"], **medians,
        "name": arguments.name, "encoder_from": arguments.encoder_from, "batch": arguments.batch,
        "threads": torch.get_num_threads(), "torch": torch.__version__, "processor": platform.processor() or platform.machine(),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
