"""A training that begins with a captioner: it knows what that one knew, and learns the words that it did not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_line import refused, run
from safetensors.torch import load_file
from training_runs import same

from showtell import Captioner
from showtell.bundle import build_encoder, build_model, load_bundle
from showtell.config import Recipe
from showtell.data.annotations import read_annotations
from showtell.data.vocabulary import Vocabulary
from showtell.errors import DataError, RecipeError
from showtell.model.decoders import DECODERS
from showtell.recipe import load_recipe
from showtell.training.run import TrainResult, train
from showtell.training.starting import begin_with, take_over
from showtell.training.tune import parse_space, tune

OTHER = {"circle": "moon", "square": "window", "triangle": "roof"}  # the same pictures in other words


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The data of these runs, some of their words replaced."""
    rows = []
    for image in read_annotations(data).images:
        captions = [" ".join(OTHER.get(word, word) for word in caption.split()) for caption in image.captions]
        rows.append({"image": str(image.path.resolve()), "captions": captions, "split": image.split})
    path = tmp_path_factory.mktemp("others") / "others.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def begun(recipe_file: Path, data: Path, whole: Path, out: Path, *changes: str, resume: bool = False) -> TrainResult:
    return train(load_recipe(recipe_file, list(changes)), data=data, start=whole / "bundle", out=out, resume=resume)


def test_its_words_keep_their_ids_and_new_ones_follow() -> None:
    known = Vocabulary.train(["a red dog", "a red cat"], min_count=1)
    more = known.with_words_of(["a green dog", "green grass", "grass"], min_count=2)
    assert more.listed() == [*known.listed(), *sorted({"green", "grass"}, key=more.listed().index)]
    assert set(more.listed()) - set(known.listed()) == {"green", "grass"}
    assert more.encode("A red dog!") == known.encode("A red dog!")
    assert more.decode(more.encode("green grass")) == "green grass"
    assert known.with_words_of(["a red fox"], min_count=5).listed() == known.listed()
    subwords = Vocabulary.train(["a red dog", "a red cat"], kind="bpe", size=20)
    assert subwords.with_words_of(["green"], min_count=1) is subwords


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_says_the_same_with_more_words(name: str) -> None:
    size = {"decoder.embedding": 32, "decoder.hidden": 32, "decoder.attention": 32, "decoder.heads": 0}
    recipe = load_recipe("scenes", [f"decoder.name={name}", *(f"{key}={value}" for key, value in size.items())])
    torch.manual_seed(0)
    encoder = build_encoder(recipe)
    small, large = (build_model(recipe, encoder, words).decoder.eval() for words in (20, 23))
    take_over(large, small)
    features, tokens = torch.randn(2, encoder.regions, encoder.feature_size), torch.randint(4, 20, (2, 3, 6))
    with torch.no_grad():
        wanted, found = (decoder(features, tokens).logits for decoder in (small, large))
    torch.testing.assert_close(found[..., :20], wanted)
    new = found[..., 20:].exp().sum() / found.exp().sum()
    assert new < 0.3  # new words are no likelier than others


def test_before_it_has_learned_it_says_what_the_captioner_says(
    recipe_file: Path, data: Path, whole: Path, tmp_path: Path
) -> None:
    frozen = "train.phases=[{epochs=1, lr=1e-12}]"
    result = begun(recipe_file, data, whole, tmp_path / "run", frozen, "train.ema=0.0")
    images = [image.path for image in read_annotations(data).split("val")]
    texts = (
        [c.text for c in Captioner.load(b, device="cpu").caption(images)] for b in (whole / "bundle", result.bundle)
    )
    assert next(texts) == next(texts)
    assert result.scores["cider"] > 0


@pytest.mark.slow
def test_it_learns_new_words_and_keeps_its_cnn(recipe_file: Path, others: Path, whole: Path, tmp_path: Path) -> None:
    changes = (
        "train.phases=[{epochs=40, lr=1e-2}]",
        "train.patience=40",
        "train.accumulate=1",
        "train.checkpoint_steps=0",
    )
    result = begun(recipe_file, others, whole, tmp_path / "run", *changes, "data.min_count=1")
    before, after = load_bundle(whole / "bundle"), load_bundle(result.bundle)
    assert set(after.vocabulary.listed()) - set(before.vocabulary.listed()) == set(OTHER.values())
    cnn = {n: t for n, t in load_file(whole / "bundle" / "model.safetensors").items() if n.startswith("encoder.")}
    kept = load_file(result.bundle / "model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in cnn.items())
    images = [image.path for image in read_annotations(others).split("train")]
    said = {word for c in Captioner.load(result.bundle, device="cpu").caption(images) for word in c.text.split()}
    assert said & set(OTHER.values())
    card = (result.bundle / "README.md").read_text(encoding="utf-8")
    assert "those of another captioner (`bundle`), as the decoder's did" in card
    config = (result.bundle / "config.json").read_text(encoding="utf-8")
    assert str(whole) not in config + card  # a bundle names no folders of this machine


@pytest.mark.slow
def test_it_goes_on_where_it_was(recipe_file: Path, others: Path, whole: Path, tmp_path: Path) -> None:
    short, long = ("train.phases=[{epochs=1, lr=5e-3}]", "train.phases=[{epochs=1, lr=5e-3}, {epochs=1, lr=1e-3}]")
    begun(recipe_file, others, whole, tmp_path / "once", long)
    begun(recipe_file, others, whole, tmp_path / "twice", short)
    elsewhere = tmp_path / "moved"
    shutil.copytree(whole / "bundle", elsewhere / "bundle")
    begun(recipe_file, others, elsewhere, tmp_path / "twice", long, resume=True)
    same(tmp_path / "once", tmp_path / "twice")
    torch.manual_seed(1)
    renamed = elsewhere / "bundle" / "tokenizer.json"
    renamed.write_text(renamed.read_text(encoding="utf-8").replace('"red"', '"rot"'), encoding="utf-8")
    with pytest.raises(RecipeError, match="began with a captioner of other words; give the same --data and --start"):
        begun(recipe_file, others, elsewhere, tmp_path / "twice", long, resume=True)


def test_the_captioners_own_encoder_and_decoder_are_taken(recipe_file: Path, whole: Path) -> None:
    recipe = begin_with(load_recipe("flickr8k-lstm", ["decoder.dropout=0.2", "data.val=0.3"]), whole / "bundle")
    own = Recipe.model_validate_json((whole / "recipe.json").read_bytes())
    assert recipe.encoder == own.encoder
    assert recipe.decoder == own.decoder.model_copy(update={"dropout": 0.2})
    assert recipe.train.start == str((whole / "bundle").resolve())
    assert recipe.train.phases == load_recipe("flickr8k-lstm").train.phases
    assert begin_with(load_recipe("finetune"), whole / "bundle").decoder == own.decoder  # which says nothing of dropout
    assert (recipe.data.val, recipe.data.test) == (0.3, own.data.test)
    assert begin_with(recipe, recipe.train.start) == recipe


def test_it_is_not_written_over_and_data_of_its_name_are_told_of(
    recipe_file: Path, data: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / "bundle", tmp_path / "bundle")
    with pytest.raises(RecipeError, match="would be written over"):
        train(load_recipe(recipe_file), data=data, start=tmp_path / "bundle", out=tmp_path)
    notes: list[str] = []
    phases = ["train.phases=[{epochs=1}]"]
    train(
        load_recipe(recipe_file, phases), data=data, start=tmp_path / "bundle", out=tmp_path / "run", note=notes.append
    )
    assert any(note.startswith("before training: CIDEr ") for note in notes)
    assert any("was trained on data of the same name, scenes: scores on images" in note for note in notes)
    train(load_recipe(recipe_file, phases), data=data, out=tmp_path / "run", resume=True)  # it knows with what it began


def test_another_language_is_refused(recipe_file: Path, others: Path, whole: Path, tmp_path: Path) -> None:
    text = others.read_text(encoding="utf-8")
    for word in Vocabulary.load(whole / "bundle" / "tokenizer.json").listed()[4:]:
        text = text.replace(f" {word} ", " Ж ").replace(f'"{word} ', '"Ж ')
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text(text.replace("moon", "Ж").replace("roof", "Ж").replace("window", "Ж"), encoding="utf-8")
    with pytest.raises(DataError, match=r"the captioner to begin with knows \d+ %"):
        begun(recipe_file, foreign, whole, tmp_path / "run", "data.min_count=100000")


def test_a_search_over_its_own_keys_is_refused(recipe_file: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    recipe = begin_with(load_recipe(recipe_file), whole / "bundle")
    with pytest.raises(RecipeError, match=r"'decoder\.hidden': a training that begins with"):
        tune(recipe, parse_space(["decoder.hidden=[16,64]"]), trials=1, out=tmp_path / "tuned", data=data)
    assert not (tmp_path / "tuned").exists()


def test_what_does_not_go_together_is_one_sentence(recipe_file: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    bundle, out = whole / "bundle", ("--data", data, "--out", tmp_path / "run")
    command = ("train", recipe_file, *out, "--start")
    refused(run(*command, bundle, "decoder.name=lstm"), "'decoder.name'", "keeps its encoder, decoder", "leave it out")
    refused(run(*command, bundle, "data.vocabulary=bpe"), "kind of vocabulary")
    refused(run(*command[:-1], f"train.start={bundle}", "encoder.layer=layers"), "'encoder.layer'")
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    refused(run(*command, bundle, "--encoder-weights", weights), "brings its own encoder")
    refused(run(*command, bundle, " data.vocabulary=bpe"), "kind of vocabulary")
    refused(run(*command, tmp_path), "expected a bundle")
    refused(run("train", "finetune", *out), "give one with --start", "expected a bundle")
    refused(run(*command, tmp_path / "none"), "is not a folder", "user/name on the hub")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_line_says_with_what_it_begins(
    recipe_file: Path, others: Path, whole: Path, tmp_path: Path
) -> None:
    out = ("--data", others, "--out", tmp_path / "run")
    result = run("train", recipe_file, "train.phases=[{epochs=1}]", *out, "--start", whole / "bundle")
    assert result.exit_code == 0, result.output
    assert "3 are new to it" in result.stderr


def test_a_start_that_training_makes_worse_is_kept(
    recipe_file: Path, data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate that spoils the weights: the captioner to begin with is epoch 0, and each phase starts from it."""
    notes: list[str] = []
    phases = ["train.phases=[{epochs=1, lr=1.0}, {epochs=1, lr=1e-12}]", "train.warmup=0", "train.ema=0.0"]
    recipe = load_recipe(recipe_file, phases)
    result = train(recipe, data=data, start=whole / "bundle", out=tmp_path / "run", note=notes.append)
    [before] = [note for note in notes if note.startswith("before training: CIDEr ")]
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    scored = float(before.split("CIDEr ")[1].split(" ")[0])
    assert 100 * rows[0]["scores"]["cider"] < scored and not rows[0]["best"]
    assert 100 * rows[1]["scores"]["cider"] == pytest.approx(scored, abs=0.06), "the second phase began with the start"
    assert (result.best_epoch, result.epochs) == (0, 2)
    assert 100 * result.scores["cider"] == pytest.approx(scored, abs=0.06)
    kept, began = (load_bundle(folder / "bundle").decoder.state_dict() for folder in (tmp_path / "run", whole))
    assert all(torch.equal(kept[name], began[name]) for name in began)
