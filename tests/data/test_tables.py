"""Tables of captions, as people have them: columns of other names, several tables, rows that are not as they should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from captioned import ROWS, WANTED, images, own_csv, paint, told, write

from showtell.data.annotations import read_annotations
from showtell.errors import DataError

FLICKR30K = "image_name| comment_number| comment\n"


@pytest.mark.parametrize("within", ["", "flickr30k_images", "flickr30k_images/flickr30k_images"])
@pytest.mark.parametrize("table", ["results.csv", "flickr30k_images/results.csv"])
def test_flickr30k_as_kaggle_has_it(within: str, table: str, tmp_path: Path) -> None:
    images(tmp_path / within)
    rows = [f"{name}| {index}| {caption.replace('.', ' .')}\n" for name, index, caption in ROWS]
    rows.insert(3, "one.jpg| 2   A cat " + '" waits " on a mat .\n')  # as one row of the published file is
    write(tmp_path / table, FLICKR30K + "".join(rows) + "two.jpg| two\n" + 'two.jpg| 3| "Hello" , says a girl .\n')
    found = read_annotations(tmp_path)
    captions = {name: captions for name, (captions, _) in told(found).items()}
    assert captions["one.jpg"] == ("A cat, on a mat .", "the cat sits", 'A cat " waits " on a mat .')
    assert captions["two.jpg"] == ("Ein Mädchen läuft .", "a girl runs", '"Hello" , says a girl .')
    assert captions["four.jpg"] == WANTED["four.jpg"][0]
    assert [(p.kind, p.line) for p in found.problems] == [("no-delimiter", 5), ("not-a-caption", 11)]
    assert "the number 2 and the caption 'A cat" in found.problems[0].message


def test_a_number_that_begins_a_caption_is_part_of_it(tmp_path: Path) -> None:
    images(tmp_path)
    write(tmp_path / "captions.csv", "image,split,caption\none.jpg,train,3 cats\ntwo.jpg,3 dogs\n")
    found = read_annotations(tmp_path)
    assert [image.captions for image in found.images] == [("3 cats",)]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("image_name,title,caption", "one.jpg,No. 1,a cat"),
        ("id,filepath,caption_text,image_id", "1,photos/one.jpg,a cat,17"),
        ("filename,filepath,alt_text", "one.jpg,photos,a cat"),
        ("image_path,name,title", "photos/one.jpg,Tom,a cat"),
        ("image_name,path,caption", "Sunset 1,photos/one.jpg,a cat"),
        ("title ; filepath ; caption_text", "No. 1 ; photos/one.jpg ; a cat"),
    ],
)
def test_columns_by_other_names(header: str, row: str, tmp_path: Path) -> None:
    images(tmp_path / "photos")
    write(tmp_path / "table.csv", f"{header}\n{row}\n")
    (found,) = read_annotations(tmp_path).images
    assert (found.path, found.captions) == (tmp_path / "photos" / "one.jpg", ("a cat",))


@pytest.mark.parametrize("below", [False, True])
def test_a_table_a_split(below: bool, tmp_path: Path) -> None:
    for number, split in enumerate(("train", "validation", "test")):
        folder = tmp_path / split if below else tmp_path
        name = "1.png" if below else f"{split}.png"
        paint(folder / name)
        table = folder / ("metadata.jsonl" if below else f"{split}.csv")
        text = (
            json.dumps({"file_name": name, "text": f"thing {number}"})
            if below
            else f"image,caption\n{name},thing {number}"
        )
        write(table, text + "\n")
    found = read_annotations(tmp_path)
    assert {image.captions[0]: image.split for image in found.images} == {
        "thing 0": "train",
        "thing 1": "val",
        "thing 2": "test",
    }
    assert len({image.path for image in found.images}) == 3 and not found.problems
    bare = {image.image_id: image.split for image in read_annotations(tmp_path, require_images=False).images}
    assert bare == {image.image_id: image.split for image in found.images}
    said = tmp_path / "test" / "test.csv" if below else tmp_path / "test_predictions.csv"
    write(said, "image,caption\n" + ("1.png" if below else "test.png") + ",a machine's\n")
    again = read_annotations(tmp_path)
    assert [image.captions for image in again.images] == [image.captions for image in found.images]
    assert [problem.kind for problem in again.problems] == ["unread-table"]


def test_a_second_table_is_told_and_not_read(tmp_path: Path) -> None:
    own_csv(tmp_path)
    write(tmp_path / "results.jsonl", json.dumps({"image": "one.jpg", "caption": "a thing"}) + "\n")
    write(tmp_path / "notes.jsonl", json.dumps({"when": "today"}) + "\n")
    write(tmp_path / "._captions.json", "\0")
    write(tmp_path / "broken.json", "{")
    found = read_annotations(tmp_path)
    assert told(found) == WANTED
    assert [(p.kind, p.file) for p in found.problems] == [("unread-table", "results.jsonl")]


def test_a_quotation_mark_that_nobody_closed_swallows_no_rows(tmp_path: Path) -> None:
    root = tmp_path / "data"  # what has no images looks for them beside itself, where other tests keep theirs
    text = 'image,caption\na.png,"a ""dog"" barks"\nb.png,"no end\nc.png,"two, really"\nd.png,a 5" pipe\ne.png,"over\ntwo, or three, lines"\nf.png,plain\n'
    write(root / "captions.csv", text)
    found = read_annotations(root, require_images=False)
    assert {image.image_id: image.captions for image in found.images} == {
        "a.png": ('a "dog" barks',), "b.png": ('"no end',), "c.png": ("two, really",), "d.png": ('a 5" pipe',),
        "e.png": ("over two, or three, lines",), "f.png": ("plain",),
    }  # fmt: skip
    assert [(p.kind, p.line) for p in found.problems if p.kind != "missing-image"] == [("quotation-mark", 3)]
    write(root / "captions.csv", "image,caption\n" + 'a.png,"no end\n' + "b.png,plain\n" * 20_000)
    assert len(read_annotations(root, require_images=False).images) == 2


def test_ids_beside_files_numbered_splits_and_sentences_as_objects(tmp_path: Path) -> None:
    paint(tmp_path / "x.ppm", tmp_path / "y.ppm")
    row = {"image_id": 7, "file_name": "x.ppm", "fold": 1, "sentences": [{"raw": "a dog"}, {"tokens": ["two", "dogs"]}]}
    write(tmp_path / "captions.jsonl", json.dumps(row) + "\n")
    found = read_annotations(tmp_path)
    assert [(image.path, image.captions) for image in found.images] == [(tmp_path / "x.ppm", ("a dog", "two dogs"))]
    assert sorted(problem.kind for problem in found.problems) == ["no-caption", "unknown-split"]


@pytest.mark.parametrize("titles", ["attribution.csv", "train.csv", "a.jsonl"])
def test_titles_are_no_captions_where_there_are_captions(titles: str, tmp_path: Path) -> None:
    """Whose file comes first in the alphabet or is called as a split is, tells of the pictures' sources."""
    own_csv(tmp_path)
    row = {"file_name": "one.jpg", "title": "Still life no. 4", "author": "A. Painter"}
    csv = ",".join(row) + "\n" + ",".join(row.values())
    write(tmp_path / titles, json.dumps(row) if titles.endswith("l") else csv + "\n")
    found = read_annotations(tmp_path)
    assert told(found) == WANTED
    assert [(p.kind, p.file) for p in found.problems] == [("unread-table", titles)]


def test_titles_are_no_captions_beside_pairs(tmp_path: Path) -> None:
    paint(tmp_path / "one.png")
    write(tmp_path / "one.txt", "a pot on a table\n")
    write(tmp_path / "credits.csv", "name,title,author\none.png,Still life no. 4,A. Painter\n")
    found = read_annotations(tmp_path)
    assert [image.captions for image in found.images] == [("a pot on a table",)]
    assert [(p.kind, p.file) for p in found.problems] == [("unread-table", "credits.csv")]
    (tmp_path / "one.txt").unlink()
    assert [image.captions for image in read_annotations(tmp_path).images] == [("Still life no. 4",)]


def test_a_row_without_its_caption_has_no_title_for_one(tmp_path: Path) -> None:
    paint(tmp_path / "one.png", tmp_path / "two.png")
    rows = [{"image": f"{n}.png", "caption": said, "title": "No. 4"} for n, said in (("one", None), ("two", "a pot"))]
    write(tmp_path / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert [image.captions for image in read_annotations(tmp_path).images] == [("a pot",)]


def test_spaces_around_cells_are_no_part_of_names_but_those_in_jsonl_are(tmp_path: Path) -> None:
    paint(tmp_path / " 00.png", tmp_path / "00.png")
    write(tmp_path / "captions.jsonl", json.dumps({"image": " 00.png", "caption": "a dog"}) + "\n")
    assert [image.path.name for image in read_annotations(tmp_path).images] == [" 00.png"]
    (tmp_path / "captions.jsonl").unlink()
    write(tmp_path / "captions.csv", "image, caption\n 00.png , a dog\n")
    assert [image.path.name for image in read_annotations(tmp_path).images] == ["00.png"]


@pytest.mark.parametrize(
    "columns",
    [
        [f"caption_{number}" for number in range(5)],
        [f"caption{number}" for number in range(1, 6)],
        [f"Caption {number}" for number in range(1, 6)],
        [f"comment_{number}" for number in range(5)],
        [f"raw_{number}" for number in range(5)],
        ["raw", *(f"raw_{number}" for number in range(1, 5))],  # as NWPU numbers them
        [f"sentence_{number}" for number in range(8, 13)],  # ten comes after nine
        ["caption", *(f"caption.{number}" for number in range(1, 5))],  # as pandas names columns of one name
    ],
    ids=lambda columns: f"{columns[0]}-{columns[-1]}",
)
@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_numbered_columns_are_several_captions_in_the_order_of_their_numbers(
    columns: list[str], ending: str, tmp_path: Path
) -> None:
    images(tmp_path / "images")
    captions = [f"a cat, number {number}" for number in range(5)]
    row = {"split": "test", **dict(reversed([*zip(columns, captions, strict=True)])), "filename": "one.jpg"}
    delimiter = "\t" if ending == "tsv" else ","
    lines = [delimiter.join(f'"{cell}"' for cell in cells) for cells in (row.keys(), row.values())]
    write(tmp_path / f"wide.{ending}", json.dumps(row) + "\n" if ending == "jsonl" else "\n".join(lines) + "\n")
    found = read_annotations(tmp_path)
    assert told(found) == {"one.jpg": (tuple(captions), "test")}
    assert {problem.kind for problem in found.problems} == {"no-caption"}  # of the other images


def test_empty_cells_among_several_captions_are_fewer_captions(tmp_path: Path) -> None:
    images(tmp_path)
    header = "image,caption,caption_1,caption_2\n"
    rows = "one.jpg,first,,third\ntwo.jpg,, ,last\nthree.jpg,alone\nfour.jpg,,,\n"
    write(tmp_path / "wide.csv", header + rows)
    found = read_annotations(tmp_path)
    wanted = {"one.jpg": ("first", "third"), "two.jpg": ("last",), "three.jpg": ("alone",)}
    assert {image.image_id: image.captions for image in found.images} == wanted
    assert [(p.kind, p.line) for p in found.problems if p.kind != "no-caption"] == [("empty-caption", 5)]
    (tmp_path / "wide.csv").unlink()
    lines = [{"image": "one.jpg", "caption": None, "caption_2": "third", "caption_1": ["first", ""]},
             {"image": "two.jpg", "caption_0": None, "caption_1": {"raw": "last"}}, {"image": "four.jpg", "caption_0": None}]  # fmt: skip
    write(tmp_path / "wide.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    found = read_annotations(tmp_path)
    assert {image.image_id: image.captions for image in found.images} == {
        "one.jpg": ("first", "third"),
        "two.jpg": ("last",),
    }
    assert [(p.kind, p.line) for p in found.problems if p.kind != "no-caption"] == [("not-a-caption", 3)]


@pytest.mark.parametrize(
    ("header", "cells", "captions"),
    [
        ("image,caption,caption_1,caption_2", "one.jpg,plain,first,second", ("plain", "first", "second")),
        ("image,caption_2,caption,caption_1", "one.jpg,second,plain,first", ("plain", "first", "second")),
        ("image,comment,caption_1,caption_2", "one.jpg,blurred,first,second", ("first", "second")),
        ("image,caption,comment_1,comment_2", "one.jpg,plain,blurred,dark", ("plain",)),
        ("image,title,caption_1", "one.jpg,No. 4,first", ("first",)),
        ("image,raw,caption", "one.jpg,DSC 1,plain", ("plain",)),
        ("image,caption,caption_1_score,caption_2024", "one.jpg,plain,0.5,17", ("plain",)),
    ],
)
def test_a_plain_column_comes_before_the_numbered_ones_of_its_kind(
    header: str, cells: str, captions: tuple[str, ...], tmp_path: Path
) -> None:
    images(tmp_path)
    write(tmp_path / "wide.csv", f"{header}\n{cells}\n")
    assert [image.captions for image in read_annotations(tmp_path).images] == [captions]


def test_a_wide_table_is_read_before_titles_and_beside_its_equals_in_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.csv", f"image,caption_0,caption_1\n{split}.png,a thing,its {split}\n")
        paint(tmp_path / f"{split}.png")
    write(tmp_path / "attribution.csv", "image,title\ntrain.png,No. 4\n")
    found = read_annotations(tmp_path, val=0)
    assert {image.split: image.captions for image in found.images} == {
        "train": ("a thing", "its train"),
        "test": ("a thing", "its test"),
    }
    assert [(p.kind, p.file) for p in found.problems] == [("unread-table", "attribution.csv")]


@pytest.mark.parametrize(
    ("header", "row"),
    [("image,title,text_1", "{},A red thing,"), ("image,caption_0,caption_1,text", "{},,,A red thing")],
)
def test_empty_columns_hide_no_others(header: str, row: str, tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    write(tmp_path / "own.csv", "\n".join([header, row.format("a.png")]) + "\n")
    found = read_annotations(tmp_path)
    assert [image.captions for image in found.images] == [("A red thing",)] and not found.problems


@pytest.mark.parametrize(
    ("header", "row", "captions"),
    [
        ("image,split,caption", "one.jpg,val,A dog, brown, runs", ["A dog, brown, runs"]),
        ("image,caption,split", "one.jpg,A dog, brown, runs,val", ["A dog, brown, runs"]),
        ("caption,image,split", "A dog, brown,one.jpg,val", ["A dog, brown"]),
        ("caption,image", "A dog, brown,one.jpg", ["A dog, brown"]),
        ("image;split;title", "one.jpg;val;A dog; brown", ["A dog; brown"]),
        ("image,title,split,caption", "one.jpg,No. 1,val,A dog, brown", ["A dog, brown"]),
        ("image,split,caption", 'one.jpg,val,"A dog, brown", runs', ["A dog, brown, runs"]),
        ("image,split,caption", "one.jpg,val,A dog,,", ["A dog"]),
        ("image,split,caption,,", "one.jpg,val,A dog, brown,", ["A dog, brown"]),
        ("image,split,caption,,", "one.jpg,val,A dog,,", ["A dog"]),
        ("image,caption_0,caption_1,split", "one.jpg,A dog,A cat,val,,", ["A dog", "A cat"]),
        ("image,caption,split,caption", 'one.jpg,"A dog, brown",val,A cat', ["A dog, brown", "A cat"]),
        ("image,split,caption,", 'one.jpg,val,"A dog\nruns",', ["A dog runs"]),
        ("image,caption,split,", "one.jpg,A dog, brown,val,", ["A dog, brown"]),
        ("image,caption,split", "one.jpg,A dog, brown,val,", ["A dog, brown"]),
        ("caption,image,split", "A dog, brown,one.jpg,val,", ["A dog, brown"]),
        ("image,caption,split,,,", "one.jpg,A dog, brown,val,,,", ["A dog, brown"]),
        ("image,caption,split,,,", "one.jpg,A dog,val,,,", ["A dog"]),
        ("image,caption,split", "one.jpg,A dog,val,,,", ["A dog"]),
        ("image, caption, split", "one.jpg, A dog, val,", ["A dog"]),
    ],
)
def test_no_cell_of_a_row_is_lost(header: str, row: str, captions: list[str], tmp_path: Path) -> None:
    images(tmp_path)
    write(tmp_path / "captions.csv", f"{header}\n{row}\n{row.replace('one.jpg', 'two.jpg')}\n")
    found = read_annotations(tmp_path)
    assert [list(image.captions) for image in found.images] == [captions] * 2
    assert {image.split for image in found.images} == {"val"} or "split" not in header
    assert {problem.kind for problem in found.problems} <= {"no-caption"}


@pytest.mark.parametrize(
    ("header", "row", "caption"),
    [
        ("image,caption,split", "{},A dog, brown,", "A dog, brown"),
        ("image,caption,split", "{},A dog, brown, runs,", "A dog, brown, runs"),
        ("image,caption,split,", "{},A dog, brown,,", "A dog, brown"),
        ("caption,image,split", "A dog, brown,{},", "A dog, brown"),
        ("image,caption,split", "{},A dog,", "A dog"),
        ("image,caption,split", "{},A dog,,,", "A dog"),
    ],
)
def test_a_caption_goes_on_before_an_empty_cell(header: str, row: str, caption: str, tmp_path: Path) -> None:
    images(tmp_path)
    rows = [row.format(name) for name in ("one.jpg", "two.jpg")]
    write(tmp_path / "captions.csv", "\n".join([header, *rows]) + "\n")
    found = read_annotations(tmp_path)
    assert [image.captions for image in found.images] == [(caption,)] * 2
    assert {problem.kind for problem in found.problems} <= {"no-caption"}


def test_surplus_cells_beside_several_captions_are_told_by_line(tmp_path: Path) -> None:
    images(tmp_path)
    header, wrong = "image,caption_0,caption_1\n", "two.jpg,A dog, brown,A cat\n"
    write(tmp_path / "captions.csv", header + 'one.jpg,"A dog, black",A cat\n' + wrong)
    found = read_annotations(tmp_path)
    assert [image.captions for image in found.images] == [("A dog, black", "A cat")]
    (problem,) = (problem for problem in found.problems if problem.kind != "no-caption")
    assert (problem.kind, problem.line) == ("surplus-cells", 3)
    assert "4 cells for 3 columns; put captions with a ',' in quotation marks" in problem.message
    write(tmp_path / "captions.csv", header + wrong)
    with pytest.raises(DataError, match=r"1 surplus-cells.*first captions\.csv:2: found 4 cells"):
        read_annotations(tmp_path)
