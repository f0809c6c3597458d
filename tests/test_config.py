"""Recipes: what they hold, how they are changed, and what is said when something is wrong with them."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from pathlib import Path

import pytest

from showtell.config import PhaseConfig, Recipe, SearchConfig
from showtell.errors import RecipeError
from showtell.recipe import find_recipe, load_recipe, parse_recipe

BUILT_IN = sorted(path.stem for path in find_recipe("scenes").parent.glob("*.toml"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_recipes_load_and_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert parse_recipe(json.loads(recipe.model_dump_json()), where="here") == recipe


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name not in ("scenes", "finetune", "distill")])
def test_recipes_alternate_between_the_lstm_and_both_for_eighty_epochs(name: str) -> None:
    recipe = load_recipe(name)
    trained = [bool(phase.encoder_from) for phase in recipe.phases()]
    assert not trained[0] and trained[-1] and sum(trained) >= 2
    assert (True, True) not in itertools.pairwise(trained)
    assert sum(phase.epochs for phase in recipe.phases()) == 80
    assert len(load_recipe(name, ["train.max_phases=1"]).phases()) == 1


def test_decodings_that_differ_are_called_otherwise() -> None:
    usual = SearchConfig()
    assert usual.describe() == "beam 3, length normalisation 1"
    changes = ({"beam": 4}, {"length_penalty": 0.5}, {"max_length": 24}, {"max_length": 30}, {"no_repeat_ngram": 2},
               {"no_repeat_ngram": 3}, {"consensus": 5}, {"views": 2})  # fmt: skip
    named = [SearchConfig(**change).describe() for change in changes]  # type: ignore[arg-type]
    assert len({usual.describe(), *named}) == 1 + len(changes)
    both = SearchConfig(max_length=30, no_repeat_ngram=3, views=2)
    assert both.describe() == "beam 3, length normalisation 1, max length 30, no 3-gram twice, 2 views"
    every = {name for change in changes for name in change}
    assert every == SearchConfig.model_fields.keys()


def test_overrides_are_toml_values_or_bare_words() -> None:
    changed = load_recipe(
        "scenes",
        ["decoder.hidden=64", "encoder.layer=Mixed_7a", 'data.path="a b"', "decoder.tied=false", "train.ema=0"],
    )
    assert (changed.decoder.hidden, changed.encoder.layer, changed.data.path) == (64, "Mixed_7a", "a b")
    assert changed.decoder.tied is False
    phases = load_recipe("scenes", ["train.phases=[{epochs=3}, {epochs=4, encoder_from='layers'}]"]).phases()
    assert [(phase.epochs, phase.encoder_from) for phase in phases] == [(3, ""), (4, "layers")]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("decoder.hiden=64", ["decoder.hiden", "did you mean 'hidden'"]),
        ("decodr.hidden=64", ["decodr", "did you mean 'decoder'"]),
        ("decoder.hidden=-1", ["decoder.hidden", "-1", "greater than"]),
        ("train.seed=-1", ["train.seed", "greater than or equal to 0"]),
        ("train.seed=4294967296", ["train.seed", "less than"]),
        ("decoder.hidden=many", ["decoder.hidden", "many"]),
        ("decoder.hidden", ["section.key=value"]),
        ("hidden=3", ["section.key=value"]),
        ("name.x=3", ["name"]),
        ("train.phases=[]", ["'train.phases' is []: expected at least one"]),
        ("train.phases=[5]", ["'train.phases.0' (phase 1) is 5: expected a phase", "[[train.phases]]"]),
        ("train.phases={epochs=2}", ["'train.phases' is one section", "[[train.phases]] with double brackets"]),
        ("train.phases=5", ["'train.phases' is 5: expected a list"]),
        ("train.phases.0.reward={}", ["'train.phases.0.reward' (phase 1) is {}: expected at least one"]),
        ("train.phases.0.reward=5", ["'train.phases.0.reward' (phase 1) is 5: expected keys with values"]),
        ("train.phases.0.reward={bleu_4=true}", ["expected numbers"]),
        ("train.phases.0.lr=true", ["'train.phases.0.lr' (phase 1) is true: expected a number"]),
        ("data.min_count=true", ["'data.min_count' is true: expected a number"]),
        ("encoder.name=[]", ["'encoder.name' is []: expected text, or a list with at least one"]),
        ("encoder.layer=[]", ["'encoder.layer' is []: expected text"]),
        ("encoder.name=[3]", ["'encoder.name' is [3]: expected text"]),
        ("train.phases=[{epoch=2}]", ["epoch", "did you mean 'epochs'"]),
        ("train.phases.0.lr=inf", ["'train.phases.0.lr' (phase 1) is Infinity: expected to be a finite number"]),
        ("train.phases.0.reward={cider_d=nan}", ["'train.phases.0.reward.cider_d' (phase 1) is NaN", "finite"]),
        (
            "search.length_penalty=30",
            ["scenes with search.length_penalty set: ", "'search.length_penalty' is 30: expected 0 to 10"],
        ),
        ("search.length_penalty=nan", ["search.length_penalty", "NaN", "finite number"]),
        ("encoder.crop=middle", ["encoder.crop", "squash"]),
        ("zzz.qqq=1", ["zzz", "known here"]),
    ],
)
def test_wrong_overrides_are_one_clear_sentence(override: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("scenes", [override])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_what_is_wrong_in_a_list_is_said_once() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("scenes", ["train.phases=[{epoch=2}]", "decoder.hiden=3"])
    assert str(caught.value).count("; ") == 3  # two keys, a hint each
    assert "tuple" not in str(caught.value)


def test_epochs_that_are_asked_for_are_those_that_are_run() -> None:
    assert load_recipe("ucm-attention").train.phases[0].min_steps == 500
    assert load_recipe("ucm-attention", ["train.phases.0.epochs=1"]).train.phases[0].min_steps == 0
    both = ["train.phases.0.epochs=1", "train.phases.0.min_steps=7"]
    for order in (both, both[::-1]):
        assert load_recipe("ucm-attention", order).train.phases[0].min_steps == 7
    rewritten = ["train.phases.0.min_steps=7", "train.phases=[{epochs=1}]"]
    assert load_recipe("ucm-attention", rewritten).train.phases[0].min_steps == 0


def test_a_key_that_an_override_leaves_without_use_is_dropped_and_one_that_is_given_refused() -> None:
    for override in ("train.phases.0.cached_views=1", "train.phases.0={cached_views=1}"):
        assert load_recipe("ucm-attention", [override]).train.phases[0].augment == "light"  # the default
    both = ["train.phases.0.cached_views=1", "train.phases.0.encoder_from=Mixed_6e"]
    for order in (both, both[::-1]):
        assert load_recipe("ucm-attention", order).train.phases[0].augment == "aerial"  # the CNN learns from it
    given = ["train.phases.0.augment=aerial", "train.phases.0.cached_views=1"]
    for order in (given, given[::-1]):
        with pytest.raises(RecipeError, match="each image is seen in one view"):
            load_recipe("ucm-attention", order)


def test_overrides_reach_into_lists() -> None:
    recipe = load_recipe("flickr8k-lstm", ["train.phases.1.lr=0.5", "train.phases.0={epochs=3}"])
    assert recipe.train.phases[1].lr == 0.5 and recipe.train.phases[0].epochs == 3


@pytest.mark.parametrize("key", ["train.phases.9.lr", "train.phases.last.lr", "train.phases.².lr"])
def test_a_number_that_a_list_does_not_have(key: str) -> None:
    with pytest.raises(RecipeError, match="expected a number from 0 to"):
        load_recipe("flickr8k-lstm", [f"{key}=1"])


def test_a_list_that_a_recipe_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "bare.toml").write_text("[train]\nseed = 1\n")
    with pytest.raises(RecipeError, match="the recipe has no list there"):
        load_recipe(tmp_path / "bare.toml", ["train.phases.0.lr=1e-3"])


def test_what_earlier_bundles_called_augmentation() -> None:
    assert PhaseConfig.model_validate({"augment": True}).augment == "light"
    assert PhaseConfig.model_validate({"augment": False}).augment == "none"


def test_missing_and_broken_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'flickr8k-attention'"):
        load_recipe("flickr8k-atention")
    with pytest.raises(RecipeError, match="built in are"):
        load_recipe(tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[data\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="not a TOML file"):
        load_recipe(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a TOML file"):
        load_recipe(broken)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data = 5", "'data' is 5: expected a section, [data], with keys of its own"),
        ("[train.phases]\nepochs = 1", "expected a list of phases, each under [[train.phases]] with double brackets"),
        ("[train.phases.0]\nepochs = 1", "with double brackets"),
    ],
)
def test_a_value_is_no_section_and_a_section_no_list(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ") and str(caught.value).endswith(said)


def test_a_recipe_may_begin_with_a_mark_and_its_booleans_stay(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("[encoder]\npooled = true\n[train]\ncosine = false\n", encoding="utf-8-sig")
    assert load_recipe(path).encoder.pooled is True and load_recipe(path).train.cosine is False


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().data.min_count = 1  # type: ignore[misc]


def test_a_recipe_tells_what_was_chosen() -> None:
    lines = load_recipe(
        "flickr8k-attention", ["train.max_phases=2", "data.min_count=5", "train.phases.0.lr=0.01"]
    ).lines()
    assert [line.split("]")[0] + "]" for line in lines] == [
        "[data]", "[encoder]", "[decoder]", "[train]", "[search]", "[phase 1]", "[phase 2]",
    ]  # fmt: skip
    assert lines[0] == "[data]     as by default"
    assert lines[1] == '[encoder]  name="inception_v3.tf_in1k" crop="squash"'
    assert lines[5].startswith("[phase 1]  epochs=14 min_steps=600 lr=0.01 ")
    assert 'encoder_from="Mixed_6e"' in lines[6]


def test_views_that_turn_need_a_training_that_turned() -> None:
    assert load_recipe("ucm-attention", ["search.views=8"]).search.views == 8
    with pytest.raises(RecipeError, match=r"^flickr8k-attention with .*: search.views is 8; more than 4 .*aerial"):
        load_recipe("flickr8k-attention", ["search.views=8"])
    with pytest.raises(RecipeError, match="less than or equal to 8"):
        load_recipe("ucm-attention", ["search.views=9"])


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        (
            "augment='aerial'",
            'augment\' (phase 1) is "aerial", and each image is seen in one view; set cached_views to 2',
        ),
        (
            "augment='strong', objective='self-critical'",
            'augment\' (phase 1) is "strong", and each image is seen in one',
        ),
        ("samples=9", "samples' (phase 1) is 9, and a cross-entropy phase has no use for it; leave it out"),
        ("temperature=0.5", "temperature' (phase 1) is 0.5, and a cross-entropy phase has no use for it"),
        ("baseline='greedy'", 'baseline\' (phase 1) is "greedy", and a cross-entropy phase has no use for it'),
        ("reward={bleu_4=1.0}", 'reward\' (phase 1) is {"bleu_4": 1.0}, and a cross-entropy phase has no use for it'),
        ("objective='distillation', reward={bleu_4=1.0}", "and a distillation phase has no use for it"),
    ],
)
def test_what_does_nothing_in_its_phase_is_refused_for_training_but_can_still_be_read(phase: str, said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        load_recipe("scenes", [f"train.phases=[{{{phase}}}]"])
    read = tomllib.loads(f"train.phases=[{{{phase}}}]\nsearch.views=4")
    assert parse_recipe(read, where="an old bundle") and load_recipe("scenes", ["train.phases=[{augment='none'}]"])


@pytest.mark.parametrize("temperature", ["1e-40", "0", "1e9"])
def test_a_temperature_at_which_nothing_can_be_drawn_is_refused(temperature: str) -> None:
    with pytest.raises(RecipeError, match=r"phases\.1\.temperature"):
        load_recipe("ucm-attention", [f"train.phases.1.temperature={temperature}"])


def test_an_objective_that_is_set_drops_what_it_has_no_use_for() -> None:
    assert load_recipe("ucm-attention").train.phases[1].temperature == 0.5
    changed = load_recipe("ucm-attention", ["train.phases.1.objective=cross-entropy"]).train.phases[1]
    assert changed.temperature == 1.0 and changed.reward == {"cider_d": 1.0}
    taught = load_recipe("ucm-attention", ["train.phases.1.objective=distillation"]).train.phases[1]
    assert taught.temperature == 0.5 and taught.reward == {"cider_d": 1.0}
    still = load_recipe("ucm-attention", ["train.phases.2.encoder_from="]).train.phases[2]
    assert still.augment == "light"
    with pytest.raises(RecipeError, match=r"'train\.phases\.0\.objective'"):
        load_recipe("ucm-attention", ["train.phases.0.objective=[1]"])


def test_only_a_phase_that_sees_pictures_in_several_ways_turns_them() -> None:
    def turns(phase: str) -> bool:
        return parse_recipe(tomllib.loads(f"train.phases=[{{}}, {{augment='aerial'{phase}}}]"), where="here").turns()

    assert not turns("") and turns(", cached_views=2") and turns(", encoder_from='layers'")
    earlier = {"train": {"phases": [{"augment": "aerial"}]}, "search": {"views": 8}}
    assert not parse_recipe(earlier, where="an old bundle").turns()  # but it opens


def test_a_length_penalty_that_is_too_large_to_train_with_can_still_be_read() -> None:
    assert load_recipe("scenes", ["search.length_penalty=10"]).search.length_penalty == 10
    assert parse_recipe({"search": {"length_penalty": 30}}, where="an old bundle").search.length_penalty == 30


def test_views_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="light, strong or aerial"):
        load_recipe("flickr8k-lstm", ['train.phases=[{epochs=1, cached_views=3, augment="none"}]'])


def test_what_is_wrong_with_a_phase_is_said_of_that_phase_and_does_not_repeat_it() -> None:
    phases = "train.phases=[{epochs=1}, {epochs=2, cached_views=2, augment='none'}]"
    with pytest.raises(
        RecipeError, match=r"^scenes with train.phases set: 'train.phases.1' \(phase 2\): cached_views needs"
    ):
        load_recipe("scenes", [phases])
    with pytest.raises(RecipeError, match=r"unknown key 'train.phases.0.epoch' \(phase 1\); did you mean"):
        load_recipe("scenes", ["train.phases=[{epoch=1}]"])


@pytest.mark.parametrize("key", ["encoder_lr=1e-4", "encoder_lr_decay=0.5", "unfreeze_every=1"])
def test_a_rate_for_a_cnn_that_learns_nothing_is_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=rf"'train.phases.0.{key.split('=')[0]}' \(phase 1\) is .* trains no CNN; set"
    ):
        load_recipe("flickr8k-lstm", [f"train.phases.0.{key}"])
    assert load_recipe("flickr8k-lstm", [f"train.phases=[{{encoder_from='Mixed_6e', {key}}}]"])
    off = load_recipe("flickr8k-attention", ["train.phases.1.encoder_from="])  # and what goes with it
    assert not off.train.phases[1].encoder_from and off.train.phases[1].encoder_lr == 1e-5
    assert load_recipe("flickr8k-lstm", [f"train.phases=[{{}}, {{{key}}}]", "train.max_phases=1"])  # it is not run
    written = tmp_path / "own.toml"
    written.write_text(f"[[train.phases]]\n{key}\n")
    with pytest.raises(RecipeError, match="trains no CNN"):
        load_recipe(written)
