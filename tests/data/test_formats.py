"""Every format tells the same: the same images, captions and splits, and what is wrong by file and line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from captioned import CAPTIONS, ROWS, SPLITS, WANTED, images, own_csv, paint, told, write
from PIL import Image

from showtell.data.annotations import Annotations, read_annotations
from showtell.errors import DataError


def tokens(path: Path) -> None:
    write(path, "".join(f"{name}#{index}\t{caption}\n" for name, index, caption in ROWS))


def lists(folder: Path, pattern: str) -> None:
    for split, word in (("train", "train"), ("val", "dev"), ("test", "test")):
        names = [name for name in CAPTIONS if SPLITS[name] == split]
        write(folder / pattern.format(word), "".join(f"{name}\n" for name in names))


def flickr8k(root: Path) -> None:
    images(root / "Flicker8k_Dataset")
    tokens(root / "Flickr8k_text" / "Flickr8k.token.txt")
    lists(root / "Flickr8k_text", "Flickr_8k.{}Images.txt")


def flat_flickr(root: Path) -> None:
    images(root / "images")
    tokens(root / "results.token")
    lists(root, "{}.txt")


def seed_layout(root: Path) -> None:
    images(root / "images")
    tokens(root / "captions" / "Flickr8k.token.txt")
    lists(root / "captions", "Flickr_8k.{}Images.txt")


def karpathy(root: Path) -> None:
    images(root / "images")
    entries = [
        {"filename": name, "split": SPLITS[name], "sentences": [{"raw": caption} for caption in CAPTIONS[name]]}
        for name in CAPTIONS
    ]
    write(root / "dataset.json", json.dumps({"images": entries, "dataset": "own"}))


def nwpu(root: Path) -> None:
    kinds: dict[str, list[dict[str, str]]] = {"boat": [], "farm land": []}
    for index, name in enumerate(CAPTIONS):
        said = {f"raw_{i}" if i else "raw": caption for i, caption in enumerate(CAPTIONS[name])}
        kind = list(kinds)[index % 2]
        kinds[kind].append({"filename": name, "split": SPLITS[name], **said})
        paint(root / "NWPU_images" / kind / name)
    write(root / "dataset_nwpu.json", json.dumps(kinds))


def descriptions(root: Path) -> None:
    images(root / "images")
    write(root / "filenames" / "descriptions_OWN.txt", "".join(f"{Path(n).stem} {c}\n" for n, _, c in ROWS))
    lists(root / "filenames", "filenames_{}.txt")


def coco(root: Path) -> None:
    for split in ("train", "val", "test"):
        names = [name for name in CAPTIONS if SPLITS[name] == split]
        content = {
            "images": [{"id": list(CAPTIONS).index(name), "file_name": name} for name in names],
            "annotations": [
                {"image_id": list(CAPTIONS).index(name), "caption": caption}
                for name in names
                for caption in CAPTIONS[name]
            ],
        }
        write(root / "annotations" / f"captions_{split}2014.json", json.dumps(content))
    images(root / "all")


def own_tsv(root: Path) -> None:
    images(root)
    rows = "".join(f"{name}\t{caption}\t{SPLITS[name]}\n" for name, _, caption in ROWS)
    write(root / "captions.tsv", "filename\tcaption\tsplit\n" + rows)


def own_wide(root: Path) -> None:
    images(root / "images")
    rows = "".join(f"{name};{';'.join(captions)};{SPLITS[name]}\n" for name, captions in CAPTIONS.items())
    write(root / "wide.csv", "filename;caption_0;caption_1;split\n" + rows)


def own_jsonl(root: Path) -> None:
    images(root / "pictures")
    rows = [{"image": name, "captions": CAPTIONS[name], "split": SPLITS[name]} for name in CAPTIONS]
    write(root / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def pairs(root: Path) -> None:
    for index, (name, captions) in enumerate(CAPTIONS.items()):
        folder = root / SPLITS[name]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * index, 0, 0)).save(folder / name)
        write((folder / name).with_suffix(".txt"), "\n".join(captions) + "\n")


@pytest.mark.parametrize(
    "make", [flickr8k, flat_flickr, seed_layout, karpathy, nwpu, descriptions, coco, own_csv, own_tsv, own_wide, own_jsonl, pairs], ids=lambda m: m.__name__
)  # fmt: skip
def test_every_format_tells_the_same(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "data")
    found = read_annotations(tmp_path / "data")
    assert told(found) == WANTED
    assert all(image.path.is_file() for image in found.images)
    assert not found.problems


def test_images_of_one_name_and_two_kinds_stay_apart(tmp_path: Path) -> None:
    for kind in ("port", "river"):
        paint(tmp_path / "images" / kind / "001.jpg")
    content = {k: [{"filename": "001.jpg", "split": "train", "raw": f"one {k}"}] for k in ("port", "river")}
    write(tmp_path / "dataset_nwpu.json", json.dumps(content))
    found = {image.image_id: (image.captions, image.path.parent.name) for image in read_annotations(tmp_path).images}
    assert found == {"port/001.jpg": (("one port",), "port"), "river/001.jpg": (("one river",), "river")}


def test_what_is_wrong_in_a_json_by_kind_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    names = ("1.png", "2.png", "3.png")
    paint(*(tmp_path / "images" / name for name in names))
    entries: list[object] = [{"filename": name, "split": "train", "raw": f"thing {name}"} for name in names]
    entries[0] = {**dict(entries[0]), "raw_1": None, "raw_2": ["a", "b"], "raw_3": "more"}  # type: ignore[call-overload]
    entries += [None, {"raw": "of nothing"}]
    write(
        tmp_path / "dataset_nwpu.json",
        json.dumps({"info": {"year": 2022}, "tags": ["a"], "none": [], "thing": entries}),
    )
    found = read_annotations(tmp_path)
    assert {image.image_id: image.captions for image in found.images} == {
        "1.png": ("thing 1.png", "more"), "2.png": ("thing 2.png",), "3.png": ("thing 3.png",),
    }  # fmt: skip
    assert [(problem.kind, problem.message.split(";")[0]) for problem in found.problems] == [
        ("not-an-image", "thing[3] has no 'filename'"),
        ("not-an-image", "thing[4] has no 'filename'"),
        ("empty-caption", "the caption of 1.png (thing[0].raw_1) is empty"),
        ("not-a-caption", "the caption of 1.png (thing[0].raw_2) is no text"),
    ]


def test_a_json_by_split_keeps_its_splits(tmp_path: Path) -> None:
    images(tmp_path / "images")
    said: dict[str, list[dict[str, str]]] = {"train": [], "val": [], "test": []}
    for name, captions in CAPTIONS.items():
        said[SPLITS[name]].append({"filename": name, "raw": captions[0], "raw_1": captions[1]})
    write(tmp_path / "captions.json", json.dumps(said))
    assert told(read_annotations(tmp_path)) == WANTED


def test_karpathys_entries_may_have_a_text_of_their_own(tmp_path: Path) -> None:
    images(tmp_path / "images")
    entries = [
        {"filename": n, "raw": n, "split": SPLITS[n], "sentences": [{"raw": c} for c in CAPTIONS[n]]} for n in CAPTIONS
    ]
    write(tmp_path / "dataset.json", json.dumps({"images": entries}))
    assert told(read_annotations(tmp_path)) == WANTED


@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("suffix", ["", ".png"])
def test_descriptions_name_images_with_or_without_suffix(separator: str, suffix: str, tmp_path: Path) -> None:
    paint(*(tmp_path / "imgs" / f"{number}.png" for number in range(1, 5)))
    rows = "".join(f"{n}{suffix}{separator}thing {n} {c}\n" for n in range(1, 5) for c in "ab")
    write(tmp_path / "filenames" / "descriptions_X.txt", rows)
    for split, numbers in (("train", "12"), ("val", "3"), ("test", "4")):
        write(tmp_path / "filenames" / f"filenames_{split}.txt", "".join(f"{n}{suffix}\n" for n in numbers))
    found = read_annotations(tmp_path)
    assert told(found) == {
        f"{n}.png": ((f"thing {n} a", f"thing {n} b"), {"3": "val", "4": "test"}.get(n, "train")) for n in "1234"
    }
    assert not found.problems


def test_descriptions_of_each_split_are_all_read(tmp_path: Path) -> None:
    images(tmp_path / "images")
    for split in ("train", "val", "test"):
        rows = "".join(f"{Path(name).stem} {c}\n" for name, _, c in ROWS if SPLITS[name] == split)
        write(tmp_path / f"descriptions_{split}.txt", rows)
    write(tmp_path / "description.txt", "These pictures are mine.\n")
    assert told(read_annotations(tmp_path)) == WANTED


def titles(root: Path) -> None:
    images(root)
    rows = "".join(f'{name},{SPLITS[name]},"{caption}"\n' for name, _, caption in ROWS)
    write(root / "a.csv", "image,split,title\n" + rows)


@pytest.mark.parametrize("make", [own_csv, pairs, titles])
def test_what_else_lies_beside_captions_is_not_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    write(tmp_path / "description.txt", "one of my gardens\n")
    if make is not titles:  # which are read where nothing else is
        files = [{"filename": name, "raw": name.replace(".jpg", ".nef")} for name in CAPTIONS]
        write(tmp_path / "exif.json", json.dumps({"files": files}))
    assert told(read_annotations(tmp_path)) == WANTED


def test_lists_say_which_file_a_description_is_of(tmp_path: Path) -> None:
    for number in range(1, 5):
        paint(tmp_path / "imgs" / f"{number}.tif", tmp_path / "thumbs" / f"{number}.jpg")
    write(tmp_path / "filenames" / "descriptions_UCM.txt", "".join(f"{n} thing {n}\n" for n in range(1, 5)))
    for split, numbers in (("train", "12"), ("val", "3"), ("test", "4")):
        write(tmp_path / "filenames" / f"filenames_{split}.txt", "".join(f"{n}.tif\n" for n in numbers))
    found = read_annotations(tmp_path)
    assert [(i.image_id, i.path.parent.name, i.split) for i in found.images] == [
        ("1.tif", "imgs", "train"), ("2.tif", "imgs", "train"), ("3.tif", "imgs", "val"), ("4.tif", "imgs", "test"),
    ]  # fmt: skip
    assert {(p.kind, p.file) for p in found.problems} == {("no-caption", f"thumbs/{n}.jpg") for n in range(1, 5)}


@pytest.mark.parametrize("line", ["{}.jpg a thing", "a/{}.jpg\ta thing", "10{} one thing\n10{} another thing"])
def test_descriptions_without_images_are_references(line: str, tmp_path: Path) -> None:
    write(tmp_path / "descriptions.txt", "".join(line.replace("{}", str(n)) + "\n" for n in range(20)))
    found = read_annotations(tmp_path, require_images=False)
    assert len(found.images) == 20 and {i.captions[0][-5:] for i in found.images} == {"thing"}


def test_an_image_in_two_splits_of_a_json_is_told(tmp_path: Path) -> None:
    images(tmp_path / "images")
    content = {split: [{"filename": n, "raw": "x"} for n in CAPTIONS] for split in ("train", "val")}
    write(tmp_path / "captions.json", json.dumps(content))
    assert [p.kind for p in read_annotations(tmp_path).problems] == ["two-splits"] * len(CAPTIONS)


def test_an_encoding_is_told_once(tmp_path: Path) -> None:
    images(tmp_path)
    for name, text in (("captions_train.txt", "{}#0\tgrün\n"), ("descriptions_train.txt", "{} grün\n")):
        (tmp_path / "captions_train.txt").unlink(missing_ok=True)
        (tmp_path / name).write_bytes("".join(text.format(image) for image in CAPTIONS).encode("latin-1"))
        kinds = [problem.kind for problem in read_annotations(tmp_path).problems]
        assert kinds.count("encoding") == len(CAPTIONS)


def test_a_text_about_the_pictures_alone_is_no_data_set(tmp_path: Path) -> None:
    images(tmp_path)
    write(tmp_path / "description.txt", "one of my gardens,\nand the pond\nand more\n")
    with pytest.raises(DataError, match=r"description\*\.txt with"):
        read_annotations(tmp_path)


def kaggle(root: Path) -> None:
    images(root / "Images")
    write(root / "captions.txt", "image,caption\n" + "".join(f"{name},{caption}\n" for name, _, caption in ROWS))


def test_kaggle_has_no_splits_and_gets_seeded_ones(tmp_path: Path) -> None:
    kaggle(tmp_path)
    found = read_annotations(tmp_path, val=0.25, test=0.25)
    assert {name: captions for name, (captions, _) in told(found).items()} == {k: v for k, (v, _) in WANTED.items()}
    assert sorted(split for _, split in told(found).values() if split) == ["test", "train", "train", "val"]
    lines = (tmp_path / "captions.txt").read_text(encoding="utf-8").splitlines()
    write(tmp_path / "captions.txt", "\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    turned = read_annotations(tmp_path, val=0.25, test=0.25)
    assert {k: v[1] for k, v in told(turned).items()} == {k: v[1] for k, v in told(found).items()}
    assert len({tuple(told(read_annotations(tmp_path, seed=s)).items()) for s in range(8)}) > 1
    with pytest.raises(DataError, match="leave nothing"):
        read_annotations(tmp_path, val=0.5, test=0.5)


def coco_caption(entry: int) -> str:
    return f"the caption of number {entry}"


def test_coco_as_published(tmp_path: Path) -> None:
    """Its captions lie beside boxes of the same images, and beside a list of images that nobody described."""
    for split, numbers in (("train", (9, 25)), ("val", (139, 285)), ("test", (1,))):
        files = {number: f"{number:012d}.jpg" for number in numbers}
        paint(*(tmp_path / f"{split}2017" / name for name in files.values()))
        listed = [{"id": number, "file_name": name, "height": 8, "width": 8} for number, name in files.items()]
        captions = [{"id": 7 * n, "image_id": n, "caption": coco_caption(n)} for n in files]
        boxes = [{"id": 5 * n, "image_id": n, "bbox": [0, 0, 1, 1]} for n in files]
        parts = {"image_info": None} if split == "test" else {"captions": captions, "instances": boxes}
        for name, said in parts.items():
            content = {"info": {}, "images": listed} | ({"annotations": said} if said else {})
            write(tmp_path / "annotations" / f"{name}_{split}2017.json", json.dumps(content))
    found = read_annotations(tmp_path)
    assert {image.path.relative_to(tmp_path).as_posix(): (image.captions, image.split) for image in found.images} == {
        f"{split}2017/{number:012d}.jpg": ((coco_caption(number),), split)
        for number, split in ((9, "train"), (25, "train"), (139, "val"), (285, "val"))
    }


@pytest.mark.parametrize(
    ("name", "folder", "filepath", "suffix"),
    [
        ("dataset_flickr30k.json", "flickr30k-images", "", ".jpg"),
        ("dataset_coco.json", "val2014", "val2014", ".jpg"),
        ("dataset_coco.json", "images/val2014", "val2014", ".jpg"),
        ("dataset_rsicd.json", "RSICD_images", "", ".jpg"),
        ("dataset.json", "imgs", "", ".tif"),  # Sydney-Captions
    ],
)
def test_karpathys_splits(name: str, folder: str, filepath: str, suffix: str, tmp_path: Path) -> None:
    splits = ("train", "restval", "val", "test")
    files = [f"{index}{suffix}" for index in range(len(splits))]
    paint(*(tmp_path / folder / file for file in files))
    entries = [
        {
            "filename": file, "split": split, "imgid": index, "sentids": [index],
            "sentences": [{"raw": f"Number {index} .", "tokens": ["number", str(index)], "imgid": index, "sentid": index}],
        }
        | ({"filepath": filepath} if filepath else {})
        for index, (file, split) in enumerate(zip(files, splits, strict=True))
    ]  # fmt: skip
    write(tmp_path / name, json.dumps({"images": entries, "dataset": "own"}))
    found = read_annotations(tmp_path)
    assert [image.split for image in found.images] == ["train", "train", "val", "test"]
    assert [image.captions for image in found.images] == [(f"Number {index} .",) for index in range(4)]
    assert [image.path for image in found.images] == [tmp_path / folder / file for file in files]
    assert not found.problems


def test_of_data_without_val_some_train_images_are_taken_for_it(tmp_path: Path) -> None:
    def said(*names: str, val: float = 0.1, seed: int = 0) -> Annotations:
        rows = [
            {"image": name, "caption": f"a {name}", "split": "test" if name > "photo-29" else "train"} for name in names
        ]
        write(tmp_path / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return read_annotations(tmp_path, val=val, seed=seed, require_images=False)

    def held_out(found: Annotations) -> set[str]:
        return {image.image_id for image in found.split("val")}

    names = [f"photo-{number}" for number in range(10, 33)]
    found = said(*names)
    assert [len(found.split(split)) for split in ("train", "val", "test")] == [18, 2, 3]
    assert held_out(said(*reversed(names))) == held_out(found)
    assert {frozenset(held_out(said(*names, seed=seed))) for seed in range(6)} > {frozenset(held_out(found))}
    assert len(held_out(said(*names, val=0.5))) == 10
    assert "2 of its 20 train images" in said(*names).notes[0] and "data.val=0.1" in "".join(found.summary())
    assert found.drawn == "val 0.1 of train by seed 0"
    for image in found.images[::2]:
        (tmp_path / f"{image.image_id}.png").write_text(image.image_id)
    there = {image.image_id: image.split for image in read_annotations(tmp_path).images}
    assert there == {image.image_id: image.split for image in found.images[::2]}


def test_splits_of_ones_own_stay_as_they_are(tmp_path: Path) -> None:
    own_jsonl(tmp_path)
    assert not read_annotations(tmp_path, val=0.4, seed=3).drawn
    assert not read_annotations(tmp_path).notes
    rows = [{"image": name, "captions": CAPTIONS[name], "split": "test"} for name in CAPTIONS]
    write(tmp_path / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"'val'; it has test \(4\)"):
        read_annotations(tmp_path).split("val")


def test_lemmas_beside_the_captions_are_not_read(tmp_path: Path) -> None:
    """As the archive of Flickr8k has them, in a file that comes first in the alphabet."""
    flickr8k(tmp_path)
    lemmas = tmp_path / "Flickr8k_text" / "Flickr8k.lemma.token.txt"
    write(lemmas, "".join(f"{name}#{index}\tit be told\n" for name, index, _ in ROWS))
    found = read_annotations(tmp_path)
    assert told(found) == WANTED
    (problem,) = found.problems
    assert (problem.kind, Path(problem.file).name) == ("unread-table", lemmas.name)
    assert "Flickr8k.token.txt is" in problem.message
    assert told(read_annotations(lemmas))["one.jpg"][0][0] == "it be told"  # who asks for them gets them


@pytest.mark.parametrize(("alone", "splits"), [("val", {"val": 6}), ("train", {"train": 3, "val": 2, "test": 1})])
def test_one_file_of_coco_alone(alone: str, splits: dict[str, int], tmp_path: Path) -> None:
    """A split that somebody scores is whole; what somebody trains on is split."""
    names = [f"{number}.jpg" for number in range(6)]
    paint(*(tmp_path / f"{alone}2017" / name for name in names))
    content = {
        "images": [{"id": index, "file_name": name} for index, name in enumerate(names)],
        "annotations": [{"image_id": index, "caption": coco_caption(index)} for index in range(6)],
    }
    write(tmp_path / "annotations" / f"captions_{alone}2017.json", json.dumps(content))
    assert Counter(image.split for image in read_annotations(tmp_path).images) == splits


def test_what_is_wrong_is_named_by_file_and_line(tmp_path: Path) -> None:
    flickr8k(tmp_path)
    text = tmp_path / "Flickr8k_text" / "Flickr8k.token.txt"
    with text.open("ab") as file:
        file.write(b"one.jpg.1#2\ta third\ngone.jpg#0\tnobody knows\ntwo.jpg#2\t  \njunk\ntwo.jpg#3\tna\xefve\n")
    with (tmp_path / "Flickr8k_text" / "Flickr_8k.devImages.txt").open("a", encoding="utf-8") as file:
        file.write("one.jpg\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "Flicker8k_Dataset" / "extra.jpg")
    found = read_annotations(tmp_path)
    said = {(problem.kind, Path(problem.file).name, problem.line) for problem in found.problems}
    name = "Flickr8k.token.txt"
    assert said == {
        ("mis-keyed", name, 9), ("missing-image", name, 10), ("empty-caption", name, 11), ("not-a-caption", name, 12),
        ("encoding", name, 13), ("two-splits", "Flickr_8k.trainImages.txt", 1), ("no-caption", "extra.jpg", None),
    }  # fmt: skip
    assert "a third" in told(found)["one.jpg"][0]
    assert "naïve" in told(found)["two.jpg"][0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_unicode_encodings_are_read(encoding: str, tmp_path: Path) -> None:
    own_csv(tmp_path)
    text = (tmp_path / "captions.csv").read_text(encoding="utf-8")
    write(tmp_path / "captions.csv", text, encoding)
    assert told(read_annotations(tmp_path)) == WANTED


def test_dev_is_val_and_unknown_splits_are_said(tmp_path: Path) -> None:
    own_jsonl(tmp_path)
    found = read_annotations(tmp_path)
    assert found.split("dev") == found.split("Validation") == found.split("val")
    with pytest.raises(DataError, match=r"no split 'tset'; expected one of train, .*val, .*validation, .*test"):
        found.split("tset")
    paint(tmp_path / "other" / "1.png")
    write(tmp_path / "other" / "captions.csv", "image,caption,split\n1.png,a dog,test\n")
    with pytest.raises(DataError, match=r"no image in the split 'train'; it has test \(1\)"):
        read_annotations(tmp_path / "other").split("train")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "no folder or file"),
        (lambda root: root.mkdir(), "found nothing"),
        (lambda root: write(root / "notes.md", "hello"), "notes.md"),
        (lambda root: write(root / "dataset.json", "{"), "not JSON"),
        (lambda root: write(root / "captions.csv", "image,caption\n"), "no captions"),
    ],
)
def test_what_is_no_data_set_is_one_sentence(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    make(root)
    with pytest.raises(DataError) as caught:
        read_annotations(root)
    assert "\n" not in str(caught.value)
    assert words in str(caught.value)


def test_a_neighbours_images_are_nobodys_problem(tmp_path: Path) -> None:
    """Captions alone in their folder, images in one beside it, in which one has no caption; and an unrelated folder."""
    tokens(tmp_path / "captions" / "captions.token")
    images(tmp_path / "images")
    for folder in ("images", "holidays"):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / f"{folder}.jpg")
    found = read_annotations(tmp_path / "captions")
    assert len(found.images) == len(CAPTIONS)
    assert [Path(problem.file).name for problem in found.problems] == ["images.jpg"]


def test_an_image_without_caption_below_the_data_set_is_told(tmp_path: Path) -> None:
    flat_flickr(tmp_path)
    (tmp_path / "more").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "more" / "five.jpg")
    assert list(map(str, read_annotations(tmp_path).problems)) == ["more/five.jpg: has no caption; it is left out"]


def kinds(root: Path) -> list[str]:
    return [problem.kind for problem in read_annotations(root).problems]


def test_images_of_one_name_in_several_folders_keep_their_own_files(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "1.png", tmp_path / "b" / "1.png", tmp_path / "b" / "2.png")
    rows = "photos/a/1.png,a dog\nphotos/b/1.png,a cat\nphotos/b/2.png,a cow\nphotos/c/1.png,a hen\n"
    write(tmp_path / "captions.csv", "image,caption\n" + rows)
    found = {image.image_id: image.path for image in read_annotations(tmp_path).images}
    assert found == {
        "photos/a/1.png": tmp_path / "a" / "1.png", "photos/b/1.png": tmp_path / "b" / "1.png",
        "photos/b/2.png": tmp_path / "b" / "2.png",
    }  # fmt: skip
    assert sorted(kinds(tmp_path)) == ["ambiguous-image", "missing-image"]
    write(tmp_path / "captions.csv", "image,caption\nb/1.png,a cat\n")  # who has no caption may have the name too
    assert [image.path for image in read_annotations(tmp_path).images] == [tmp_path / "b" / "1.png"]


def _shut(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Folders of this name may not be listed, as those of other users."""
    seen = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder.name == name:
            raise PermissionError(13, "Permission denied", str(folder))
        return seen(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)


def test_a_folder_of_somebody_else_beside_the_data_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_csv(tmp_path)
    wanted = told(read_annotations(tmp_path))
    (tmp_path / "lost+found").mkdir()
    _shut(monkeypatch, "lost+found")
    assert told(read_annotations(tmp_path)) == wanted
    assert told(read_annotations(next(tmp_path.glob("*.csv")))) == wanted


def test_a_data_folder_of_somebody_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_csv(tmp_path)
    _shut(monkeypatch, tmp_path.name)
    with pytest.raises(PermissionError, match=tmp_path.name):
        read_annotations(tmp_path)


def test_a_file_that_was_given_is_what_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_csv(tmp_path)
    paint(tmp_path / "images" / "nobody.jpg")
    file = next(tmp_path.glob("*.csv"))
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("the folder, perhaps a home, is searched to the bottom"))
    annotations = read_annotations(file)
    first, *_, last = annotations.summary()
    assert first.startswith(f"{file}: ")
    assert last.endswith(f"showtell data check {file}")
    assert annotations.dataset == f"{tmp_path.name}/{file.name}"
