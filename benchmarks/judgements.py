"""How well the metrics agree with people: Kendall's τ-c with the expert judgements of Flickr8k.

python benchmarks/judgements.py FLICKR8K   (the folder with Flickr8k_text, or its ExpertAnnotations.txt)

Judgements of Hodosh et al., 2013; protocol of Hessel et al., "CLIPScore", 2021: each judge's rating of a pair is one
observation, candidates that are the image's own captions are left out, and there are five references. METEOR needs Java
and the extra `java`, and is skipped without them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from scipy.stats import kendalltau

import showtell
from showtell.data.annotations import read_annotations
from showtell.metrics import Protocol, evaluate, tokenize
from showtell.metrics.evaluate import NAMES
from showtell.metrics.java import Skipped, meteor

PUBLISHED = {"bleu_4": 30.8, "rouge_l": 32.3, "cider": 43.9, "meteor": 41.8}  # CLIPScore, table 1


def main(folder: str) -> None:
    path = Path(folder)
    annotations = path if path.is_file() else next(path.rglob("ExpertAnnotations.txt"))
    data = read_annotations(path.parent if path.is_file() else path, require_images=False)
    captions = {image.path.name: image.captions for image in data.images}
    candidates, references, ratings = [], [], []
    for line in annotations.read_text(encoding="utf-8").splitlines():
        image, caption, *judged = line.split("\t")
        source, number = caption.split("#")
        if source == image:
            continue
        for rating in judged:
            candidates.append(captions[source][int(number)])
            references.append(list(captions[image]))
            ratings.append(int(rating))
    protocol = Protocol("Flickr8k-Expert", "all", len(candidates), "5", "PTB", "people", showtell.__version__)
    started = time.perf_counter()
    report = evaluate(candidates, references, protocol=protocol)
    seconds = time.perf_counter() - started
    found = {name: 100 * kendalltau(report.each[name], ratings, variant="c").statistic for name in report.scores}
    print(f"{len(ratings)} ratings by three judges, scored in {seconds:.1f} s\n")
    each = _meteor(candidates, references)
    if each is not None:
        found["meteor"] = 100 * kendalltau(each, ratings, variant="c").statistic
    print(f"{'τ-c ×100':10s}{'here':>8s}{'published':>12s}")
    for name, tau in found.items():
        print(f"{NAMES[name]:10s}{tau:8.1f}{PUBLISHED.get(name, '–'):>12}")
    print(json.dumps({"ratings": len(ratings), "seconds": seconds, **found}))


def _meteor(candidates: list[str], references: list[list[str]]) -> list[float] | None:
    """METEOR of each candidate, None without Java. It depends on the pair alone, so each is scored only once."""
    tokens = [" ".join(tokenize(caption)) for caption in candidates]
    written = [tuple(" ".join(tokenize(caption)) for caption in captions) for captions in references]
    pairs = list(dict.fromkeys(zip(tokens, written, strict=True)))
    scored = meteor([spoken for spoken, _ in pairs], [captions for _, captions in pairs])
    if isinstance(scored, Skipped):
        print(f"{scored.reason}\n")
        return None
    known = dict(zip(pairs, scored.each, strict=True))
    return [known[pair] for pair in zip(tokens, written, strict=True)]


if __name__ == "__main__":
    main(*sys.argv[1:])
