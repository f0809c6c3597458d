"""The decoders' contract, checked on every decoder that there is, with every option."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from showtell.errors import RecipeError
from showtell.model.attention import ATTENTIONS
from showtell.model.decoders import DECODERS, Decoder, build_decoder
from showtell.model.decoders.lstm import Standardize
from showtell.model.functions import Dropout

B, K, T, R, F, V = 3, 4, 7, 6, 10, 20

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in DECODERS),
    ("lstm", {"layers": 3}),
    ("lstm", {"inject": "state", "layers": 2}),
    ("lstm", {"inject": "every", "layers": 2}),
    ("attention", {"attention_kind": "dot", "heads": 2}),
    ("adaptive", {"attention_kind": "dot", "heads": 4}),
    ("updown", {"attention_kind": "dot", "heads": 1}),
    ("transformer", {"layers": 3, "heads": 2}),
]
every_variant = pytest.mark.parametrize(
    ("name", "options"), VARIANTS, ids=["-".join([n, *(f"{v}" for v in o.values())]) for n, o in VARIANTS]
)


def decoder(name: str, **options: Any) -> Decoder:
    torch.manual_seed(0)
    chosen = {"embedding": 8, "hidden": 8, "attention": 4, "dropout": 0.0, "tied": True, **options}
    return build_decoder(name, feature_size=F, vocabulary_size=V, **chosen).eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, R, F, generator=generator), torch.randint(4, V, (B, K, T), generator=generator)


@every_variant
def test_step_by_step_equals_teacher_forcing(name: str, options: dict[str, Any]) -> None:
    model, (features, tokens) = decoder(name, **options), inputs()
    forced = model(features, tokens)
    memory = model.prepare(features)
    state = model.init_state(memory, K)
    for t in range(T):
        step = model.step(tokens[..., t], state, memory)
        state = step.state
        torch.testing.assert_close(step.logits, forced.logits[:, :, t])
        if forced.attention is not None:
            torch.testing.assert_close(step.attention, forced.attention[:, :, t])


@every_variant
def test_rows_of_an_image_do_not_touch_each_other(name: str, options: dict[str, Any]) -> None:
    model, (features, tokens) = decoder(name, **options), inputs()
    together = model(features, tokens).logits
    for b in range(B):
        for k in range(K):
            alone = model(features[b : b + 1], tokens[b : b + 1, k : k + 1]).logits
            torch.testing.assert_close(alone[0, 0], together[b, k])


@every_variant
def test_memory_has_one_row_an_image_and_state_one_a_beam(name: str, options: dict[str, Any]) -> None:
    model, (features, _) = decoder(name, **options), inputs()
    memory = model.prepare(features)
    assert all(len(x) == B for x in memory)
    assert all(x.shape[:2] == (B, K) for x in model.init_state(memory, K))


@every_variant
def test_the_image_matters(name: str, options: dict[str, Any]) -> None:
    model, (features, tokens) = decoder(name, **options), inputs()
    assert not torch.allclose(model(features, tokens).logits, model(-features, tokens).logits)


@every_variant
def test_a_batch_is_what_its_images_are_alone(name: str, options: dict[str, Any]) -> None:
    model, (features, tokens) = decoder(name, **options), inputs()
    together = model(features, tokens).logits
    for b in range(B):
        torch.testing.assert_close(model(features[b : b + 1], tokens[b : b + 1]).logits[0], together[b])


@every_variant
def test_later_words_change_nothing_before_them(name: str, options: dict[str, Any]) -> None:
    model, (features, tokens) = decoder(name, **options), inputs()
    short = model(features, tokens[..., :3]).logits
    torch.testing.assert_close(short, model(features, tokens).logits[:, :, :3])


@every_variant
def test_a_state_follows_its_row(name: str, options: dict[str, Any]) -> None:
    """What a search does: reorder the rows between two steps, by an index along K, and go on."""
    model, (features, tokens) = decoder(name, **options), inputs()
    memory, order = model.prepare(features), torch.tensor([2, 0, 0, 3])
    step = model.step(tokens[..., 1], model.step(tokens[..., 0], model.init_state(memory, K), memory).state, memory)
    state = type(step.state)(*(x[:, order] for x in step.state))
    after = model.step(tokens[..., 2], state, memory).logits
    history = torch.cat((tokens[:, order, :2], tokens[..., 2:3]), -1)
    torch.testing.assert_close(after, model(features, history).logits[:, :, 2])


@every_variant
def test_gradients_reach_every_parameter(name: str, options: dict[str, Any]) -> None:
    model, (features, tokens) = decoder(name, **options).train(), inputs()
    model(features, tokens).logits.square().sum().backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None and bool(value.grad.isfinite().all()), parameter
        assert value.grad.abs().max() > 0, parameter


@every_variant
def test_attention_sums_to_one_or_leaves_the_rest_to_the_sentinel(name: str, options: dict[str, Any]) -> None:
    model, (features, tokens) = decoder(name, **options), inputs()
    attention = model(features, tokens).attention
    if name == "lstm":
        assert attention is None
        return
    assert attention is not None and attention.shape == (B, K, T, R) and bool((attention >= 0).all())
    total = attention.sum(-1)
    if name == "adaptive":
        assert bool((total < 1).all()) and bool((total > 0).all())
    else:
        torch.testing.assert_close(total, torch.ones(B, K, T))


def test_dropout_is_off_in_a_search_and_on_in_training() -> None:
    for name in DECODERS:
        model, (features, tokens) = decoder(name, dropout=0.5), inputs()
        assert torch.equal(model(features, tokens).logits, model(features, tokens).logits), name
        model.train()
        assert not torch.equal(model(features, tokens).logits, model(features, tokens).logits), name


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


@pytest.mark.parametrize(
    ("name", "options"), [pytest.param(n, o, marks=[pytest.mark.slow] if o else []) for n, o in VARIANTS]
)
def test_eight_images_can_be_memorised(name: str, options: dict[str, Any]) -> None:
    model = decoder(name, **{**options, "embedding": 32, "hidden": 32, "attention": 32})
    draw = torch.Generator().manual_seed(2)
    features, said = torch.randn(8, R, F, generator=draw), torch.randint(4, V, (8, 1, 6), generator=draw)
    tokens = torch.cat((torch.ones(8, 1, 1, dtype=torch.long), said), -1)  # `<start>` and six words
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)
    for _ in range(120):
        logits = model(features, tokens[..., :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 2), said.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    memory, word = model.prepare(features), tokens[..., 0]
    state = model.init_state(memory, 1)
    for t in range(6):  # free running: each word is the last one's likeliest successor
        step = model.step(word, state, memory)
        word, state = step.logits.argmax(-1), step.state
        assert torch.equal(word, said[..., t])


@every_variant
def test_tied_weights_are_one_tensor(name: str, options: dict[str, Any]) -> None:
    model = decoder(name, **options)
    assert model.output.weight is model.embedding.weight


@pytest.mark.parametrize("inject", ["state", "every"])
def test_the_lstm_sees_the_image_elsewhere(inject: str) -> None:
    model, (features, tokens) = decoder("lstm", inject=inject), inputs()
    image = model.prepare(features).image  # (B,E)
    words = model.embedding(tokens[:, 0])  # (B,T,E)
    if inject == "state":
        state = torch.tanh(model.inject.state(image)).chunk(2, -1)
        hidden, _ = model.lstm(words, tuple(x[None].contiguous() for x in state))
    else:
        hidden, _ = model.lstm(torch.cat((words, image[:, None].expand_as(words)), -1))
    torch.testing.assert_close(model.output(hidden), model(features, tokens).logits[:, 0])


def test_dot_attention_is_the_papers() -> None:
    torch.manual_seed(0)
    attention = ATTENTIONS["dot"](key_size=8, query_size=8, size=8, heads=2)
    query, values = torch.randn(B, K, 8), torch.randn(B, R, 8)
    context, weights = attention(query, attention.keys(values), values)
    heads = []
    for head in range(2):
        share = slice(4 * head, 4 * head + 4)
        scores = attention.query(query)[..., share] @ attention.key(values)[..., share].mT / 2  # √4
        heads.append(scores.softmax(-1))
        torch.testing.assert_close(context[..., share], heads[-1] @ values[..., share])
    torch.testing.assert_close(weights, sum(heads) / 2)


def test_the_sentinel_is_one_more_region_in_the_softmax() -> None:
    """Equations 6 to 13 of Lu et al., one image, one row, one head, word by word."""
    model, (features, tokens) = decoder("adaptive"), inputs()
    memory = model.prepare(features[:1])
    step = model.step(tokens[:1, :1, 0], model.init_state(memory, 1), memory)
    gates = model.word_gates(model.embedding(tokens[0, 0, 0])) + memory.gates[0]
    h, m = step.state.h[0, 0], step.state.c[0, 0]
    sentinel = torch.sigmoid(gates[32:]) * torch.tanh(m)
    keys = torch.cat((model.attention.key(memory.values[0]), model.sentinel_key(sentinel)[None]))  # (R+1,A)
    alpha = model.attention.score(torch.tanh(keys + model.attention.query(h))).flatten().softmax(0)
    torch.testing.assert_close(step.attention[0, 0], alpha[:-1])
    context = alpha @ torch.cat((memory.values[0], model.sentinel_value(sentinel)[None]))
    torch.testing.assert_close(step.logits[0, 0], model.output(context + model.deep_hidden(h)))


def test_the_state_of_the_transformer_grows_with_its_words() -> None:
    model, (features, tokens) = decoder("transformer", layers=2, heads=2), inputs()
    memory = model.prepare(features)
    state = model.init_state(memory, K)
    for t in range(3):
        assert all(x.shape == (B, K, t, 2, 8) for x in state)
        state = model.step(tokens[..., t], state, memory).state


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("gru", {}, "one of lstm, attention, adaptive, updown, transformer"),
        ("attention", {"layers": 2}, "decoder.layers is 2, which is an option of lstm, transformer; leave it at 1"),
        ("lstm", {"heads": 2}, "decoder.heads is 2"),
        ("updown", {"inject": "every"}, "an option of lstm; leave it at 'first'"),
        ("transformer", {"attention_kind": "dot"}, "an option of attention, adaptive, updown"),
        ("attention", {"heads": 2}, "additive attention has one head"),
        ("attention", {"attention_kind": "dot", "heads": 3}, "does not divide decoder.attention, 4"),
        ("transformer", {"heads": 3}, "does not divide"),
        ("lstm", {"hidden": 9}, "embedding == hidden"),
    ],
)
def test_what_does_not_go_together_is_said(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        decoder(name, **options)


@pytest.mark.parametrize("name", ["adaptive", "updown"])
def test_words_enter_the_gates_as_large_as_regions(name: str) -> None:
    model = decoder(name, embedding=128, hidden=64)
    words = model.word_gates(model.embedding(torch.arange(V))) - model.word_gates.bias
    regions = model.image_gates(torch.nn.functional.layer_norm(torch.randn(V, 128), (128,)))
    assert 0.7 < (words.std() / regions.std()).item() < 1.4


@every_variant
def test_variational_dropout_is_the_same_at_all_steps(name: str, options: dict[str, Any]) -> None:
    if name == "transformer":
        with pytest.raises(RecipeError, match="recurrent"):
            decoder(name, variational=True, **options)
        return
    seen: list[torch.Tensor] = []
    model = decoder(name, dropout=0.5, variational=True, **options).train()
    for module in model.modules():
        if isinstance(module, Dropout):
            module.register_forward_hook(lambda module, inputs, output: seen.append((output == 0) & (inputs[0] != 0)))
    model(*inputs())
    by_step = [dropped for dropped in seen if dropped.ndim == 4]
    assert by_step and all((dropped == dropped[:, :, :1]).all() for dropped in by_step)
    assert any(dropped.any() for dropped in by_step)
