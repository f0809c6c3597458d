"""The decoders' contract, checked on every decoder that there is."""

from __future__ import annotations

import pytest
import torch

from showtell.errors import RecipeError
from showtell.model.decoders import DECODERS, Decoder, build_decoder
from showtell.model.decoders.lstm import Standardize

B, K, T, R, F, V = 3, 4, 7, 6, 10, 20


def decoder(name: str, *, tied: bool = True, layers: int = 1, dropout: float = 0.0) -> Decoder:
    torch.manual_seed(0)
    return build_decoder(
        name, feature_size=F, vocabulary_size=V, embedding=8, hidden=8, layers=layers, attention=5, dropout=dropout, tied=tied
    ).eval()  # fmt: skip


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, R, F, generator=generator), torch.randint(4, V, (B, K, T), generator=generator)


@pytest.mark.parametrize("name", DECODERS)
def test_step_by_step_equals_teacher_forcing(name: str) -> None:
    model, (features, tokens) = decoder(name), inputs()
    forced = model(features, tokens)
    memory = model.prepare(features)
    state = model.init_state(memory, K)
    for t in range(T):
        step = model.step(tokens[..., t], state, memory)
        state = step.state
        torch.testing.assert_close(step.logits, forced.logits[:, :, t])
        if forced.attention is not None:
            torch.testing.assert_close(step.attention, forced.attention[:, :, t])


@pytest.mark.parametrize("name", DECODERS)
def test_rows_of_an_image_do_not_touch_each_other(name: str) -> None:
    model, (features, tokens) = decoder(name), inputs()
    together = model(features, tokens).logits
    for b in range(B):
        for k in range(K):
            alone = model(features[b : b + 1], tokens[b : b + 1, k : k + 1]).logits
            torch.testing.assert_close(alone[0, 0], together[b, k])


@pytest.mark.parametrize("name", DECODERS)
def test_memory_has_one_row_an_image_and_state_one_a_beam(name: str) -> None:
    model, (features, _) = decoder(name), inputs()
    memory = model.prepare(features)
    assert all(len(x) == B for x in memory)
    assert all(x.shape[:2] == (B, K) for x in model.init_state(memory, K))


@pytest.mark.parametrize("name", DECODERS)
def test_the_image_matters(name: str) -> None:
    model, (features, tokens) = decoder(name), inputs()
    assert not torch.allclose(model(features, tokens).logits, model(-features, tokens).logits)


def test_attention_sums_to_one() -> None:
    model, (features, tokens) = decoder("attention"), inputs()
    attention = model(features, tokens).attention
    assert attention is not None and attention.shape == (B, K, T, R)
    torch.testing.assert_close(attention.sum(-1), torch.ones(B, K, T))


def test_many_layers_keep_the_contract() -> None:
    model, (features, tokens) = decoder("lstm", layers=3), inputs()
    state = model.init_state(model.prepare(features), K)
    assert state.h.shape == (B, K, 3, 8)
    step = model.step(tokens[..., 0], state, model.prepare(features))
    torch.testing.assert_close(step.logits, model(features, tokens).logits[:, :, 0])


def test_the_lstm_sees_the_image_as_its_first_input() -> None:
    model, (features, tokens) = decoder("lstm"), inputs()
    image = model.prepare(features).image  # (B,E)
    words = model.embedding(tokens[:, 0])  # (B,T,E)
    hidden, _ = model.lstm(torch.cat((image[:, None], words), 1))
    torch.testing.assert_close(model.output(hidden[:, 1:]), model(features, tokens).logits[:, 0])


def test_features_are_standardized_over_all_batches() -> None:
    batches = torch.randn(5, 4, F) * torch.linspace(0.1, 9, F) + torch.linspace(-3, 5, F)
    standardize = Standardize(F)
    for batch in batches:
        standardize(batch)
    everything = batches.flatten(0, 1)
    expected = (everything - everything.mean(0)) / everything.std(0, correction=0)
    torch.testing.assert_close(standardize.eval()(everything), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(standardize(everything[:1]), expected[:1], rtol=1e-3, atol=1e-3)
    assert float(standardize.count) == 5


def test_what_never_varies_stays_finite_and_keeps_its_gradient() -> None:
    features = torch.full((1, F), 0.3, requires_grad=True)
    result = Standardize(F)(features)
    assert result.abs().max() < 1e-3
    result.sum().backward()
    assert features.grad is not None and bool(features.grad.isfinite().all())


@pytest.mark.parametrize("name", DECODERS)
def test_tied_weights_are_one_tensor(name: str) -> None:
    model = decoder(name)
    assert model.output.weight is model.embedding.weight


def test_an_unknown_decoder_is_refused() -> None:
    with pytest.raises(RecipeError, match="one of lstm, attention"):
        decoder("gru")
