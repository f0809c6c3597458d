"""The command line as others call it: what it prints where, and its exit codes."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import IDS, make_captioned, refused, run, write_predictions
from PIL import Image
from typer.testing import Result

from showtell.captioner import Captioner
from showtell.data.annotations import read_annotations
from showtell.evaluation import evaluate_captioner


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_captioned(tmp_path_factory.mktemp("captioned"))


def test_help_and_version() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in ("train", "evaluate", "caption", "trace", "demo", "data"):
        assert name in result.stdout
    assert run("--version").stdout.startswith("showtell 0.1.0")


def test_wrong_usage_exits_with_2() -> None:
    for arguments in (["paint"], ["train"], ["caption", "only-a-bundle"], ["evaluate", "--data", "."]):
        refused(run(*arguments))
    low, wrong = run("caption", "b", "x.png", "--views", "0"), run("caption", "b", "x.png", "--veiws", "2")
    refused(low, "invalid value for '--views'", "showtell caption --help")
    assert re.search(r"greater than or equal to 1|range (1<=x<=8|x>=1)", low.stderr)  # typer's words, which change
    refused(wrong, "--views")
    assert re.search(r"no such option:? '?--veiws", wrong.stderr)
    refused(run("--paint"), "--paint", "showtell --help")
    refused(run("caption", "b", "x.png", "--attention"), "requires an argument; see  showtell caption --help")
    refused(run("evaluat"), "no such command 'evaluat'; did you mean 'evaluate'?; see  showtell --help")
    for arguments in ([], ["data"]):
        result = run(*arguments)
        assert result.exit_code == 2 and "Usage: showtell" in result.output


def test_unknown_recipes_and_keys_name_the_nearest(tmp_path: Path) -> None:
    refused(run("train", "scene", "--data", tmp_path), "did you mean 'scenes'")
    refused(run("train", "scenes", "train.patiense=3", "--data", tmp_path), "did you mean 'patience'")
    refused(run("train", "scenes", "patience", "--data", tmp_path), "section.key=value")
    refused(run("train", "scenes", "train.patience=x", "--data", tmp_path), "train.patience")


def test_train_refuses_missing_inputs(tmp_path: Path) -> None:
    refused(run("train", "scenes", "--data", tmp_path / "nowhere"), "nowhere", "--data")
    refused(run("train", "scenes", "--data", tmp_path, "--encoder-weights", tmp_path / "w"), "--encoder-weights")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "name another place"),
        (errno.ENOENT, "in a folder that exists"),
        (errno.ENOTDIR, "a part of this path is a file"),
        (errno.EISDIR, "name a file"),
        (errno.ENAMETOOLONG, "name a shorter one"),
        (errno.ENOSPC, "make room"),
        (errno.EFBIG, "make room"),
    ],
)
def test_a_place_that_cannot_be_used_is_named(
    number: int, advice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "runs"))

    monkeypatch.setattr("showtell.recipe.load_recipe", load)
    refused(run("train", "scenes"), f"{tmp_path / 'runs'}: {os.strerror(number).lower()}; ", advice)


def test_a_full_disk_is_told_where_no_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("showtell.recipe.load_recipe", load)
    refused(run("train", "scenes"), "showtell: no space left on device; make room, and start again")


def test_data_check_prints_one_object(captioned: Path) -> None:
    result = run("data", "check", captioned, "--json")
    assert result.exit_code == 0, result.output
    assert isinstance(json.loads(result.stdout), dict)
    assert "images" in run("data", "check", captioned).stdout


def test_data_refuses_wrong_places(tmp_path: Path) -> None:
    refused(run("data", "check", tmp_path / "nowhere"), "nowhere")
    refused(run("data", "check", tmp_path), str(tmp_path))
    refused(run("data", "get", "flickr9k", "--to", tmp_path), "flickr9k")


def test_predictions_are_scored_as_fractions(captioned: Path, tmp_path: Path) -> None:
    for suffix in (".png", ""):
        predictions = write_predictions(tmp_path / "p.json", suffix=suffix)
        result = run("evaluate", "--predictions", predictions, "--data", captioned, "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"} <= found.keys()
        assert found["bleu_4"] == pytest.approx(1.0, abs=1e-6)
        assert (found["protocol"]["images"], found["protocol"]["split"]) == (4, "test")


@pytest.mark.parametrize("name", ["dev", "valid", "validation", "Val"])
def test_a_split_may_be_called_as_data_sets_call_it(name: str, tiny_bundle: Path, scenes: Path, tmp_path: Path) -> None:
    """In commands, and from Python: the same images, and one name in the protocol."""
    found = evaluate_captioner(Captioner.load(tiny_bundle), scenes, split=name)
    assert found.images == read_annotations(scenes).split("val")
    assert found.report.protocol is not None and found.report.protocol.split == "val"
    said = run("evaluate", tiny_bundle, "--data", scenes, "--split", name, "--json")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["protocol"]["split"] == "val"


@pytest.mark.parametrize("command", ["evaluate", "decoding", "report", "export"])
def test_what_is_no_split_is_refused_with_those_that_are(command: str, tiny_bundle: Path, scenes: Path) -> None:
    to = ["--onnx", scenes / "onnx"] if command == "export" else []
    refused(
        run(command, tiny_bundle, *to, "--data", scenes, "--split", "tset"), "no split 'tset'", "train", "validation"
    )


def test_markers_around_predictions_are_removed_and_told(captioned: Path, tmp_path: Path) -> None:
    evaluate = ("evaluate", "--data", captioned, "--json", "--predictions")
    predictions = write_predictions(tmp_path / "p.json")
    wanted = json.loads(run(*evaluate, predictions).stdout)
    rows = [row | {"caption": f"<s> {row['caption']} </s>"} for row in json.loads(predictions.read_text())]
    predictions.write_text(json.dumps(rows))
    (note,) = (found := json.loads(run(*evaluate, predictions).stdout)).pop("notes")
    assert "'<s>', '</s>'" in note and "removed" in note
    assert found == wanted


def test_predictions_do_not_need_images_or_torch(captioned: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(captioned / "captions.jsonl", bare)
    predictions = write_predictions(tmp_path / "p.json")
    program = (
        "import sys\nfrom showtell.cli import app\n"
        f"app(['evaluate', '--predictions', {str(predictions)!r}, '--data', {str(bare)!r}], standalone_mode=False)\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip().endswith("False"), done.stderr
    assert "protocol:" in done.stdout


def test_missing_predictions_are_counted(captioned: Path, tmp_path: Path) -> None:
    partial = write_predictions(tmp_path / "p.json", IDS[:3])
    refused(run("evaluate", "--predictions", partial, "--data", captioned), "1 of the 4 images", "--allow-missing")
    result = run("evaluate", "--predictions", partial, "--data", captioned, "--allow-missing", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["protocol"]["images"] == 3


def test_predictions_are_split_as_the_captioner_was(tmp_path: Path) -> None:
    lines = [{"image": f"{number}.png", "captions": ["a thing", "one thing"]} for number in range(40)]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    data = {"path": "photos", "split_seed": 1, "val": 0.2, "test": 0.2}
    (bundle / "config.json").write_text(json.dumps({"recipe": {"name": "photos", "data": data}}))
    texts = [{"image_id": line["image"], "caption": "a thing"} for line in lines]
    (tmp_path / "p.json").write_text(json.dumps(texts))
    evaluate = ("evaluate", "--predictions", tmp_path / "p.json", "--data", tmp_path, "--json")
    plain, as_trained = (json.loads(run(*evaluate, *more).stdout)["protocol"] for more in ((), ("--split-of", bundle)))
    assert (plain["images"], as_trained["images"]) == (4, 8)
    assert plain["dataset"] == tmp_path.name
    assert as_trained["dataset"] == f"{tmp_path.name} (split by seed 1, val 0.2, test 0.2)"
    refused(run("evaluate", bundle, "--data", tmp_path, "--split-of", bundle), "--split-of goes with --predictions")


def test_evaluate_refuses_wrong_input(captioned: Path, tmp_path: Path) -> None:
    predictions = write_predictions(tmp_path / "p.json")
    refused(run("evaluate", "--predictions", predictions, "--data", captioned, "--split", "tset"), "tset")
    refused(run("evaluate", "--predictions", predictions, "--data", captioned, "--split", "val"), "test (4)")
    refused(run("evaluate", "--predictions", tmp_path / "none.json", "--data", captioned), "none.json")
    refused(run("evaluate", tmp_path, "--data", captioned), "config.json")
    stranger = tmp_path / "s.json"
    stranger.write_text(json.dumps([{"image_id": "zebra", "caption": "a zebra"}]))
    refused(run("evaluate", "--predictions", stranger, "--data", captioned), "zebra")


def test_predictions_are_lines_of_text(captioned: Path, tmp_path: Path) -> None:
    lines = [f"a small thing number {i}" for i in range(len(IDS))]
    plain = tmp_path / "captions.txt"
    plain.write_text("\r\n".join(lines) + "\n")
    evaluate = ("evaluate", "--data", captioned, "--json", "--predictions")
    wanted = json.loads(run(*evaluate, write_predictions(tmp_path / "p.json")).stdout)
    assert json.loads(run(*evaluate, plain).stdout) == wanted
    names = tmp_path / "names.txt"
    names.write_text("".join(f"images/{name}.png\n" for name in reversed(IDS)))
    plain.write_text("\n".join(reversed(lines)))
    assert json.loads(run(*evaluate, plain, "--images", names).stdout) == wanted
    token = tmp_path / "results.token"
    token.write_text("".join(f"{name}.png#0\t{line}\n" for name, line in zip(IDS, lines, strict=True)))
    assert json.loads(run(*evaluate, token).stdout) == wanted
    refused(run(*evaluate, token, "--images", names), "--images")
    token.write_text("a.png#0\tx\na.png#1\ty\n")
    refused(run(*evaluate, token), "second caption of a.png")
    token.write_text("a.png\tx\nb.png y\n")
    refused(run(*evaluate, token), "line 2")
    plain.write_text("one\ntwo\n")
    refused(run(*evaluate, plain), "2 lines", "4 images", "--images")
    names.write_text("a.png\nb.png\n")
    refused(run(*evaluate, plain, "--images", names), "2 of the 4 images")
    plain.write_bytes(b"\xff\xfe\x00")
    refused(run(*evaluate, plain), "save it as UTF-8")


def test_a_caption_is_text(captioned: Path, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps([{"image_id": "a.png", "caption": ["a thing"]}]))
    refused(run("evaluate", "--data", captioned, "--predictions", tmp_path / "p.json"), "is no text")
    (tmp_path / "p.csv").write_text("image_id,caption\n" + "".join(f'{i}.png,"a thing\nof two lines"\n' for i in IDS))
    found = run("evaluate", "--data", captioned, "--predictions", tmp_path / "p.csv", "--json")
    assert json.loads(found.stdout)["protocol"]["images"] == 4


@pytest.mark.slow
def test_tables_of_predictions_are_read_as_those_of_data_are(captioned: Path, tmp_path: Path) -> None:
    table = tmp_path / "p.csv"
    evaluate = ("evaluate", "--data", captioned, "--json", "--predictions")
    wanted = json.loads(run(*evaluate, write_predictions(tmp_path / "p.json")).stdout)
    rows = [f"{name}.png,1.0,a small thing number {i}" for i, name in enumerate(IDS)]
    more = [f"{name}.png,2.0,a caf\u00e9" for name in IDS]
    for header in ("image_id,rank,caption", "Image, Rank, Caption "):
        text = "\r\n".join([header, *rows, *more]) + "\r\n"
        for encoding in ("utf-8", "utf-8-sig", "cp1252", "utf-16"):
            for delimiter in ",;\t":
                table.write_bytes(text.replace(",", delimiter).encode(encoding))
                assert json.loads(run(*evaluate, table).stdout) == wanted, (header, encoding, delimiter)
                shutil.copy(table, tmp_path / "p.tsv")
            assert json.loads(run(*evaluate, tmp_path / "p.tsv").stdout) == wanted
    table.write_text("image,caption\n" + "".join(f"{name}.png,a dog, red\n" for name in IDS))
    commas = run(*evaluate, table).stdout
    table.write_text("image,caption\n" + "".join(f'{name}.png,"a dog, red"\n' for name in IDS))
    assert run(*evaluate, table).stdout == commas
    table.write_bytes(b"PK\x03\x04\x00\x00")
    refused(run(*evaluate, table), "p.csv", "save it as UTF-8")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.json", '[{"image_id": "a.png", "caption": null}]', "the caption of entry 1 is empty"),
        ("p.csv", "image_id,caption\na.png,x\nb.png\n", "the caption of entry 2 is empty"),
        ("p.jsonl", '{"image_id": null, "caption": "x"}', "the image_id of entry 1 is empty"),
        ("p.json", '[{"image_id": true, "caption": "x"}]', "the image_id is true; expected a file's name or a number"),
        ("p.csv", "image_id,rank,caption\na.png,first,x\n", 'the rank is "first"; expected a number'),
        ("p.csv", "image_id,rank,caption\na.png,0,x\n", "none of its 1 entries has rank 1"),
        ("p.json", "[" * 100_000, "nested too deeply"),
        ("p.jsonl", "[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_wrong_with_predictions_is_said(
    name: str, content: str, said: str, captioned: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    refused(run("evaluate", "--data", captioned, "--predictions", tmp_path / name), name, said)


def test_a_metric_that_cannot_be_computed_is_a_note(
    captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycocoevalcap", reason="needs pycocoevalcap (the extra 'java')")
    monkeypatch.setenv("PATH", str(tmp_path))
    evaluate = ("evaluate", "--data", captioned, "--predictions", write_predictions(tmp_path / "p.json"))
    found = run(*evaluate, "--metrics", "meteor,spice", "--json")
    assert found.exit_code == 0, found.output
    assert "meteor" not in json.loads(found.stdout)
    assert [note.split(":")[0] for note in json.loads(found.stdout)["notes"]] == [
        "METEOR was skipped", "SPICE was skipped",
    ]  # fmt: skip
    assert "there is no 'java'" in run(*evaluate, "--metrics", "meteor").stdout
    refused(run(*evaluate, "--metrics", "meteor,spyce"), "'spyce'", "meteor, spice or clip")


def test_a_bundle_is_scored_beside_its_floors(tiny_bundle: Path, scenes: Path) -> None:
    result = run("evaluate", tiny_bundle, "--data", scenes, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["floors"].keys() == {"constant", "shuffled"}
    for floor in found["floors"].values():
        assert floor.keys() <= found.keys()
    assert found["floors"]["constant"]["bleu_1"] > 0.2
    assert "shuffled floor" in run("evaluate", tiny_bundle, "--data", scenes).stdout
    refused(run("evaluate", tiny_bundle, "--data", scenes, "--confidence", 65), "--confidence", "equal to 1")
    predictions = ("evaluate", "--data", scenes, "--predictions", scenes / "captions.jsonl", "--confidence", 0.65)
    refused(run(*predictions), "--confidence goes with a bundle")


def test_a_split_without_image_files_is_refused(tiny_bundle: Path, scenes: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(scenes, tmp_path / "scenes")
    for path in whole.rglob("*"):
        if path.is_file() and path.suffix == ".jsonl":
            entries = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in entries:
        if entry["split"] == "test":
            (whole / entry["image"]).unlink()
    refused(run("evaluate", tiny_bundle, "--data", whole), "none of their files", "--predictions")


def test_captions_of_files_folders_and_patterns(tiny_bundle: Path, captioned: Path) -> None:
    folder = captioned / "images"
    for arguments in ([folder], [f"{folder}/*.png"], [folder / f"{i}.png" for i in IDS]):
        result = run("caption", tiny_bundle, *arguments)
        assert result.exit_code == 0, result.output
        assert [Path(line.split(": ")[0]).stem for line in result.stdout.splitlines()] == list(IDS)


def test_what_was_captioned_can_be_scored(captioned: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """Paths are known by the file's name, unless two have the same."""
    for format in ("jsonl", "csv"):
        said = run("caption", tiny_bundle, captioned / "images", "--format", format).stdout
        written = tmp_path / f"own.{format}"
        written.write_text(said)
        result = run("evaluate", "--data", captioned, "--predictions", written, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["protocol"]["images"] == len(IDS)
    rows = [{"image_id": f"{folder}/{i}.png", "caption": "a thing"} for folder in ("x", "y") for i in IDS]
    (tmp_path / "two.json").write_text(json.dumps(rows))
    refused(run("evaluate", "--data", captioned, "--predictions", tmp_path / "two.json"), "none of its 8 image ids")
    many = run("caption", tiny_bundle, captioned / "images", "--format", "csv", "--n", "3").stdout
    (tmp_path / "many.csv").write_text(many)
    assert run("evaluate", "--data", captioned, "--predictions", tmp_path / "many.csv").exit_code == 0


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    entries = []
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (data / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(data / "images" / name)
        entries.append({"image": f"images/{name}", "captions": [f"thing {name[0]} number {name[2]}"], "split": "test"})
    (data / "captions.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    rows = [{"image": str(data / e["image"]), "caption": e["captions"][0]} for e in entries]  # type: ignore[index]

    def score(rows: list[dict[str, str]], *options: str) -> Result:
        (tmp_path / "p.json").write_text(json.dumps(rows))
        return run("evaluate", "--data", data, "--predictions", tmp_path / "p.json", "--json", *options)

    assert json.loads(score(rows).stdout)["bleu_1"] == pytest.approx(1)
    refused(score(rows[:2]), "2 of the 4 images", "b/1.png")
    assert json.loads(score(rows[:2], "--allow-missing").stdout)["protocol"]["images"] == 2
    elsewhere = [{**row, "image": row["image"].replace(str(data), "C:\\other").replace("/", "\\")} for row in rows]
    refused(score(elsewhere), "none of its 4 image ids")  # whose they are cannot be told


def test_wishes_that_nobody_could_mean(tiny_bundle: Path, captioned: Path, tmp_path: Path) -> None:
    image = captioned / "images" / "a.png"
    refused(
        run("caption", tiny_bundle, image, "--sample", "--beam", "3"),
        "--beam searches, and --sample draws; leave out one or the other",
    )
    refused(run("caption", tiny_bundle, image, "--attention", tmp_path / "a.jpg"), "a.jpg: drawings are PNG files")
    assert not (tmp_path / "a.jpg").exists()
    refused(run("evaluate", "--data", captioned, "--predictions", tmp_path), "is a folder")
    (tmp_path / "empty.txt").touch()
    refused(run("evaluate", "--data", captioned, "--predictions", tmp_path / "empty.txt"), "holds no predictions")


def test_json_lines_and_csv(tiny_bundle: Path, captioned: Path) -> None:
    image = captioned / "images" / "a.png"
    (line,) = run("caption", tiny_bundle, image, "--format", "jsonl", "--n", "3").stdout.splitlines()
    found = json.loads(line)
    assert found["image"] == str(image)
    assert len(found["alternatives"]) == 2
    assert found["log_prob"] <= 0
    assert math.exp(found["log_prob"]) <= found["confidence"] <= 1
    rows = list(csv.DictReader(io.StringIO(run("caption", tiny_bundle, image, "--format", "csv", "--n", "2").stdout)))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert rows[0]["caption"] == found["caption"]
    assert float(rows[0]["confidence"]) == pytest.approx(found["confidence"], abs=1e-6)


def test_standard_input_names_images_or_is_one(tiny_bundle: Path, captioned: Path) -> None:
    paths = [str(captioned / "images" / f"{i}.png") for i in IDS]
    named = run("caption", tiny_bundle, "-", stdin="\n".join(paths) + "\n")
    assert named.stdout == run("caption", tiny_bundle, *paths).stdout
    itself = run("caption", tiny_bundle, "-", stdin=Path(paths[0]).read_bytes())
    assert itself.stdout == "-: " + named.stdout.splitlines()[0].split(": ", 1)[1] + "\n"
    short = run("caption", tiny_bundle, "-", stdin="\nx\ny\n\nz")
    assert [line.split(":")[0] for line in short.stderr.splitlines()[:3]] == ["x", "y", "z"]
    refused(run("caption", tiny_bundle, "-", stdin=""), "none was given")


def test_broken_files_are_reported_and_the_rest_goes_on(tiny_bundle: Path, captioned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ünder way"
    shutil.copytree(captioned / "images", folder)
    (folder / "empty.jpg").touch()
    (folder / "text\nin.jpg").write_text("not an image")
    (folder / os.fsdecode(b"\xff name.jpg")).write_bytes(b"\xff\xd8\xff")
    result = run("caption", tiny_bundle, folder, folder / "missing.png")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == len(IDS)
    assert len(result.stderr.splitlines()) == 5  # one a broken file, and the count
    assert "4 captioned, 4 failed" in result.stderr


@pytest.mark.parametrize("beside", [(), ("--beside",)])
def test_pictures_that_are_passed_over_are_told_of_once(
    beside: tuple[str, ...], tiny_bundle: Path, captioned: Path, tmp_path: Path
) -> None:
    shutil.copytree(captioned / "images", tmp_path / "photos")
    for name in ("x.heic", "y.heic", "z.jp2", "notes.txt"):
        (tmp_path / "photos" / name).touch()
    for _ in range(2):
        result = run("caption", tiny_bundle, tmp_path / "photos", *beside)
        assert (result.exit_code, result.stderr) == (0, "3 files ending in .heic or .jp2 were not read\n")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("caption BUNDLE PHOTO --out LOCKED/new.csv", "--out: "),
        ("caption BUNDLE PHOTO --attention LOCKED/drawn.png", "--attention"),
        ("caption BUNDLE PHOTO --attention LOCKED/deep/drawn", "--attention"),
        ("evaluate BUNDLE --data SCENES --captions LOCKED/scored.json", "--captions"),
        ("explain BUNDLE PHOTO --out LOCKED/drawn.png", "--out"),
        ("report BUNDLE --data SCENES --out LOCKED/page.html", "--out"),
        ("export BUNDLE --onnx LOCKED", "--onnx"),
        ("export BUNDLE --onnx LOCKED/deep/onnx", "--onnx"),
        ("data unpack PACKED --to LOCKED/unpacked", "--to"),
        ("data get flickr8k --to LOCKED/flickr8k --from SCENES", "--to"),
        ("train scenes --data SCENES --out LOCKED/deep/run", "--out"),
        ("tune scenes --data SCENES --vary decoder.hidden=[16,32] --out LOCKED/tuned", "--out"),
        ("decoding LOCKED --data SCENES", "--dry-run"),
    ],
)
def test_a_place_that_may_not_be_written_to_is_named_before_any_work(
    command: str, option: str, tiny_bundle: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, may = tmp_path / "locked", os.access
    if "decoding" in command:
        shutil.copytree(tiny_bundle, locked)
    else:
        locked.mkdir()
    monkeypatch.setattr(
        os, "access", lambda path, mode: may(path, mode) and not (mode & os.W_OK and Path(path) == locked)
    )
    photo = next((scenes / "images").iterdir())
    names = {"BUNDLE": tiny_bundle, "PHOTO": photo, "SCENES": scenes, "PACKED": tmp_path / "x.tar", "LOCKED": locked}
    words = [re.sub("|".join(names), lambda name: str(names[name[0]]), word) for word in command.split()]
    (tmp_path / "x.tar").touch()
    before = sorted(locked.iterdir())
    refused(run(*words), option, f"nothing may be written into {locked}; ")
    assert sorted(locked.iterdir()) == before


def test_captions_are_appended_where_the_file_alone_may_be_written_to(
    tiny_bundle: Path, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out, may = sorted((captioned / "images").iterdir()), tmp_path / "captions.jsonl", os.access
    assert run("caption", tiny_bundle, images[0], "--out", out).exit_code == 0
    locked = {tmp_path}
    monkeypatch.setattr(
        os, "access", lambda path, mode: may(path, mode) and not (mode & os.W_OK and Path(path) in locked)
    )
    assert "1 images captioned, 1 were" in run("caption", tiny_bundle, *images[:2], "--out", out).stdout
    locked.add(out)
    refused(run("caption", tiny_bundle, *images[:3], "--out", out), f"--out {out}: this file may not be written to")


def test_caption_refuses_wrong_input(tiny_bundle: Path, tmp_path: Path) -> None:
    refused(run("caption", tmp_path, tmp_path / "x.png"), "config.json")
    refused(run("caption", tiny_bundle.parent, tmp_path / "x.png"), "did you mean")
    refused(run("caption", tiny_bundle, tmp_path), "no image")
    refused(run("caption", tiny_bundle, f"{tmp_path}/*.png"), "*.png")
    assert run("caption", tiny_bundle, "x.png", "--n", "5", "--beam", "2").exit_code == 2
    assert run("caption", tiny_bundle, "x.png", "--format", "xml").exit_code == 2
    newer = shutil.copytree(tiny_bundle, tmp_path / "newer")
    config = json.loads((newer / "config.json").read_text())
    (newer / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    refused(run("caption", newer, tmp_path / "x.png"), "version 99")


def test_words_views_and_ensembles_by_command(tiny_bundle: Path, scenes: Path, captioned: Path) -> None:
    image = captioned / "images" / "a.png"
    said = run("caption", tiny_bundle, image, "--with", "circle", "--without", "red", "--n", "2")
    assert said.exit_code == 0, said.output
    assert all("circle" in line and " red " not in line for line in said.stdout.splitlines())
    refused(run("caption", tiny_bundle, image, "--with", "circel"), "'circel'", "circle")
    for arguments in (
        ["--diverse"], ["--n", "2", "--diversity", "0.5"], ["--temperature", "1.0"], ["--seed", "0"], ["--top-p", "0.9"],
        ["--sample", "--with", "circle"], ["--sample", "--consensus", "2"], ["--sample", "--length-penalty", "1"],
    ):  # fmt: skip
        assert run("caption", tiny_bundle, image, *arguments).exit_code == 2
    for way in ([], ["--sample"]):
        short = run("caption", tiny_bundle, image, "--begins", "a blue", "--max-length", "3", *way)
        assert re.search(r"a\.png: a blue( \S+)?$", short.stdout.strip()), short.output
    refused(run("caption", tiny_bundle, image, "--min-length", "4", "--max-length", "3"), "4 words at least", "0 to 3")
    assert run("caption", tiny_bundle, image, "--diverse", "--n", "3").exit_code == 0
    scored = run(
        "evaluate", tiny_bundle, "--data", scenes, "--json", "--consensus", 4, "--views", 2, "--ensemble", tiny_bundle
    )
    found = json.loads(scored.stdout)
    assert found["protocol"]["decoding"].endswith("consensus of 4, 2 views, ensemble of 2")
    assert found["captions"]["people"]["unfinished"] < 0.05
    assert found["captions"]["candidates"].keys() == found["captions"]["people"].keys()
    assert "half sentences" in run("evaluate", tiny_bundle, "--data", scenes).stdout


def test_trace_names_shapes_and_lines(tiny_bundle: Path, captioned: Path, tmp_path: Path) -> None:
    result = run("trace", tiny_bundle, captioned / "images" / "a.png")
    assert result.exit_code == 0, result.output
    for text in ("RGB 32×24", "(3,S,S) = 3×64×64", "1×16×128", "vocabulary.decode", "showtell/search/beam.py:"):
        assert text in result.stdout
    caption = run("caption", tiny_bundle, captioned / "images" / "a.png", "--format", "jsonl").stdout
    assert f'"{json.loads(caption)["caption"]}"' in result.stdout
    refused(run("trace", tiny_bundle, captioned / "captions.jsonl"), "captions.jsonl")
    assert "views" not in result.stdout
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    config["recipe"]["search"]["views"] = 2
    (bundle / "config.json").write_text(json.dumps(config), encoding="utf-8")
    seen = run("trace", bundle, captioned / "images" / "a.png").stdout
    assert "the first of 2 views" in seen


def test_interruption_says_what_is_left(monkeypatch: pytest.MonkeyPatch, scenes: Path, tmp_path: Path) -> None:
    def interrupted(*_: object, out: Path, **__: object) -> None:
        out.mkdir()
        (out / "checkpoint.safetensors").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("showtell.training.run.train", interrupted)
    result = run("train", "scenes", "--data", scenes, "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert "--resume" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_closed_pipe_is_quiet(captioned: Path, tiny_bundle: Path) -> None:
    command = f"{sys.executable} -m showtell caption {tiny_bundle} {captioned}/images --format jsonl | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{", "")


@pytest.mark.slow
def test_training_by_command(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = ["train.batch_images=16", "train.max_phases=1", "decoder.hidden=16", "decoder.embedding=16"]
    result = run("train", "scenes", *small, "--data", scenes, "--out", out)
    assert result.exit_code == 0, result.output
    assert "CIDEr" in result.stdout.splitlines()[0]
    assert result.stdout.splitlines()[-1] == f"bundle: {out / 'bundle'}"
    refused_again = run("train", "scenes", *small, "--data", scenes, "--out", out)
    assert refused_again.exit_code == 2
    assert "--resume" in refused_again.stderr
    assert run("caption", out / "bundle", scenes / "images").exit_code == 0
