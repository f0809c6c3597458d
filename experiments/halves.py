"""Cuts a data set's val split in two: choose on one half, report on the other.

python experiments/halves.py DATA OUT.jsonl [--seed 0]

Writes a caption file with train as it is, one half of val as val, and the other half as test. The data set's own test
split is left out.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from showtell.data.annotations import read_annotations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    annotations = read_annotations(arguments.data, val=0.1, test=0.1, seed=0)
    val = sorted(annotations.split("val"), key=lambda image: image.image_id)
    random.Random(arguments.seed).shuffle(val)
    half = len(val) // 2
    splits = {"train": annotations.split("train"), "val": val[:half], "test": val[half:]}
    with arguments.out.open("w", encoding="utf-8") as out:
        for split, images in splits.items():
            for image in images:
                row = {"image": str(image.path.resolve()), "captions": list(image.captions), "split": split}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(", ".join(f"{split} {len(images)}" for split, images in splits.items()))


if __name__ == "__main__":
    main()
