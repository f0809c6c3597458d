"""A CLIP model of a few thousand numbers, none of them learned, in the format of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SIZE, WORDS = 32, 24


@pytest.fixture(scope="session")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    transformers = pytest.importorskip("transformers", reason="needs transformers (the extra 'clip')")
    import torch
    from tokenizers.pre_tokenizers import ByteLevel

    folder = tmp_path_factory.mktemp("clip") / "model"
    folder.mkdir()
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    begin, end = len(tokens) - 2, len(tokens) - 1
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
    known = {token: place for place, token in enumerate([*tokens, "th", "the</w>"])}
    (folder / "vocab.json").write_text(json.dumps(known))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": SIZE}, "resample": 3,
                "do_center_crop": True, "crop_size": {"height": SIZE, "width": SIZE}, "do_normalize": True,
                "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
            }
        )
    )  # fmt: skip
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={
            **small, "vocab_size": len(known), "max_position_embeddings": WORDS, "bos_token_id": begin,
            "eos_token_id": end, "pad_token_id": end,
        },
        vision_config={**small, "image_size": SIZE, "patch_size": 8},
        projection_dim=8,
    )  # fmt: skip
    model = transformers.CLIPModel(config)
    for parameter in model.parameters():  # as they are made, all pictures look alike
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder
