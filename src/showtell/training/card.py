"""The model card: what a bundle is, what it was trained on, how it scores and by which protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from showtell.config import Recipe


def model_card(recipe: Recipe, training: Mapping[str, Any]) -> str:
    """README.md of a bundle; `training` holds the data set's name, the epoch, scores and their protocol."""
    scores, protocol = training["scores"], training["protocol"]
    table = "\n".join(f"| {name} | {value:.4f} |" for name, value in scores.items())
    lines = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in protocol.items())
    return f"""---
library_name: showtell
pipeline_tag: image-to-text
---
# {recipe.name}

An image captioner: `{recipe.encoder.name}` ({recipe.encoder.layer or "last layer"}, {"pooled" if recipe.encoder.pooled else "grid"})
and the `{recipe.decoder.name}` LSTM decoder, trained on {training["train_images"]} images of {training["dataset"]};
epoch {training["epoch"]}, kept for its CIDEr on the validation split.

```python
from showtell import Captioner

print(Captioner.load("path/to/this/folder").caption(["photo.jpg"])[0].text)
```

| score | value |
| --- | --- |
{table}

{lines}

It says what its training captions taught it to say: names, numbers, text in pictures and rare things are beyond it.
"""
