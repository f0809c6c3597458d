"""Packed decoders: the same numbers, whatever the number of rows, and nothing of the original changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from showtell.decoding import SearchOptions
from showtell.model.decoders import DECODERS, build_decoder
from showtell.model.packing import PackedLinear, packed
from showtell.search import beam_search

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in DECODERS),
    ("lstm", {"layers": 2}),
    ("lstm", {"layers": 2, "inject": "state"}),
    ("lstm", {"inject": "every"}),
    ("attention", {"attention_kind": "dot"}),
]
every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)


def pair(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    torch.manual_seed(3)
    chosen = {"embedding": 64, "hidden": 64, "attention": 64, "dropout": 0.5, "tied": True, **options}
    decoder: Any = build_decoder(name, feature_size=20, vocabulary_size=90, **chosen)
    return decoder, packed(decoder)


@every_variant
@torch.no_grad()
def test_the_same_numbers(name: str, options: dict[str, Any]) -> None:
    decoder, twin = pair(name, options)
    features, tokens = torch.randn(3, 6, 20), torch.randint(4, 90, (3, 5, 4))
    decoder.eval()
    memories = decoder.prepare(features), twin.prepare(features)
    states = [one.init_state(memory, 5) for one, memory in zip((decoder, twin), memories, strict=True)]
    for t in range(4):
        expected, found = (
            one.step(tokens[..., t], state, memory)
            for one, state, memory in zip((decoder, twin), states, memories, strict=True)
        )
        torch.testing.assert_close(found.logits, expected.logits)
        states = [expected.state, found.state]
    assert any(isinstance(module, PackedLinear) for module in twin.modules())


@every_variant
def test_a_step_does_not_depend_on_how_many_images_there_are(name: str, options: dict[str, Any]) -> None:
    _, twin = pair(name, options)
    features = torch.randn(40, 6, 20)
    search = SearchOptions(beam=3, n=3, max_length=8)
    together = beam_search(twin, features, options=search, start_id=1, end_id=2)
    alone = [beam_search(twin, one[None], options=search, start_id=1, end_id=2)[0] for one in features[:10]]
    assert [[h.tokens for h in found] for found in alone] == [[h.tokens for h in found] for found in together[:10]]


def test_the_original_is_left_alone_and_shares_what_is_not_packed() -> None:
    decoder, twin = pair("attention", {})
    before = [name for name, _ in decoder.named_parameters()]
    assert decoder.training and not twin.training
    assert twin.embedding.weight is decoder.embedding.weight
    assert [name for name, _ in decoder.named_parameters()] == before
    decoder(torch.randn(2, 6, 20), torch.randint(4, 90, (2, 5, 4))).logits.sum().backward()


def test_what_it_holds_is_a_copy() -> None:
    linear = torch.nn.Linear(64, 64)
    twin, x = PackedLinear(linear.weight, linear.bias), torch.randn(2, 3, 64)
    expected = linear(x)
    torch.testing.assert_close(twin(x), expected)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
    torch.testing.assert_close(twin(x), expected)
