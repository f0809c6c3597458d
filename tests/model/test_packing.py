"""Packed decoders: the same numbers, whatever the number of rows, and nothing of the original changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm

from showtell.decoding import SearchOptions
from showtell.model.decoders import DECODERS, build_decoder
from showtell.model.functions import LSTM
from showtell.model.packing import PackedLinear, PackedLSTM, packed
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


def ways(decoder: nn.Module) -> set[type]:
    """The packed forms among the ways in which its layers compute."""
    return {type(vars(module).get("forward")) for module in decoder.modules()} & {PackedLinear, PackedLSTM}


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
    assert PackedLinear in ways(twin)


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
    linear = nn.Linear(64, 64)
    twin, x = PackedLinear(linear.weight, linear.bias), torch.randn(2, 3, 64)
    expected = linear(x)
    torch.testing.assert_close(twin(x), expected)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
    torch.testing.assert_close(twin(x), expected)


class Own(nn.LSTM):
    def forward(self, x: Tensor, state: Any = None) -> Any:
        hidden, state = super().forward(x, state)
        return 2 * hidden, state


class Layer(nn.Module):
    """One's own decoder, as far as packing is concerned: a layer under a name."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.output = layer, nn.Linear(64, 64)

    def forward(self, *given: Any, **named: Any) -> Any:
        found = self.layer(*given, **named)
        return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (nn.LSTM, {}),
        (nn.LSTM, {"batch_first": True, "bias": False}),
        (nn.LSTM, {"batch_first": True, "bidirectional": True}),
        (nn.LSTM, {"batch_first": True, "proj_size": 32}),
        (nn.GRU, {"batch_first": True}),
        (Own, {"batch_first": True}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@torch.no_grad()
def test_what_the_packed_form_cannot_do_is_left_alone(layer: type[nn.LSTM], options: dict[str, bool]) -> None:
    decoder = Layer(layer(64, 64, **options)).eval()
    twin, x = packed(decoder), torch.randn(3, 5, 64)
    assert torch.equal(twin(x), decoder(x))
    assert ways(twin) == {PackedLinear}, "the rest is packed"


@pytest.mark.parametrize("layer", [nn.LSTM, LSTM])
@torch.no_grad()
def test_a_packed_lstm_takes_what_the_layer_takes(layer: type[nn.LSTM]) -> None:
    decoder = Layer(layer(64, 64, 2, batch_first=True, dropout=0.5))
    twin = packed(decoder)
    assert ways(twin) == {PackedLinear, PackedLSTM} and decoder.training
    decoder.eval()
    x, state = torch.randn(3, 5, 64), (torch.randn(2, 3, 64), torch.randn(2, 3, 64))
    named = {"hx": state} if layer is nn.LSTM else {"state": state}
    alone = (x[0], (state[0][:, 0], state[1][:, 0])) if layer is nn.LSTM else (x[0],)  # without a batch
    for given, more in (((x,), {}), ((x, state), {}), ((x,), named), (alone, {})):
        torch.testing.assert_close(twin(*given, **more), decoder(*given, **more))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_weights_made_for_each_call_are_those_of_the_call() -> None:
    decoder = Layer(weight_norm(nn.Linear(64, 64)))
    x = torch.randn(2, 64)
    decoder(x).square().sum().backward()
    torch.optim.SGD(decoder.parameters(), 0.5).step()
    with torch.no_grad():
        assert torch.equal(packed(decoder)(x), decoder(x))


def test_what_a_decoder_reads_of_its_layers_is_there() -> None:
    decoder = Layer(LSTM(64, 64, batch_first=True))
    twin = packed(decoder)
    assert ways(twin) == {PackedLinear, PackedLSTM}
    assert dict(twin.named_parameters()) == dict(decoder.named_parameters())
    assert isinstance(twin.output, nn.Linear) and twin.output.weight is decoder.output.weight
    assert twin.output.out_features == 64 and twin.layer.weight_hh_l0 is decoder.layer.weight_hh_l0
    assert packed(twin) is twin
    assert packed(nn.Embedding(2, 2).requires_grad_(False)).weight.shape == (2, 2)  # nothing to pack
