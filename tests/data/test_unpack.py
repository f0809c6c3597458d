"""Packed data sets, Parquet and tar: what comes out is what went in, or there is a sentence that says why not."""

from __future__ import annotations

import gzip
import json
import random
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from captioned import told
from command_line import refused, run
from packing import CAPTIONS, NAMES, PICTURES, cells, parquet, picture, tar

from showtell.data import packed, tars, unpack
from showtell.data.annotations import read_annotations
from showtell.data.folders import safe_name
from showtell.data.packed import Columns
from showtell.errors import DataError

pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")

FILES = tuple(PICTURES)
LISTS = list(CAPTIONS.values())
SPLITS = ["train", "train", "val", "test"]


def unpacked(*sources: Path, to: Path | None = None, columns: Columns = Columns()) -> unpack.Unpacked:  # noqa: B008
    return unpack.unpack(sources, to=to or sources[0].parent / "out", columns=columns)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


def reasons(result: unpack.Unpacked) -> list[str]:
    assert result.broken == len(result.examples)
    return [str(example) for example in result.examples]


def numbered(root: Path) -> None:
    """As jxie/flickr8k: a column for each caption, a file for each split."""
    for split, names in (("train", FILES[:2]), ("validation", FILES[2:3]), ("test", FILES[3:])):
        captions = {f"caption_{k}": [CAPTIONS[name][k] for name in names] for k in (1, 0)}
        parquet(root / f"data/{split}-00000-of-00001.parquet", image=cells(*names), **captions)


def listed(root: Path) -> None:
    """As nlphuji/flickr30k: a list of captions and a column of splits in a file that is called after one."""
    columns = {"sentids": [["1", "2"]] * 4, "split": SPLITS, "img_id": list("0123"), "filename": list(FILES)}
    parquet(root / "TEST/test/0000.parquet", image=cells(*FILES, path=False), caption=LISTS, **columns)


def one_each(root: Path) -> None:
    """A row a caption, with the image in each."""
    names = [name for name in FILES for _ in CAPTIONS[name]]
    texts = [caption for name in names[::2] for caption in CAPTIONS[name]]
    parquet(root / "all.parquet", image=cells(*names), text=texts, split=[s for s in SPLITS for _ in range(2)])


def plain(root: Path) -> None:
    """As img2dataset's Parquet: bytes; and captions in an unusual column, written as JSON."""
    texts = [json.dumps(captions) for captions in LISTS]
    parquet(root / "all.parquet", jpg=list(PICTURES.values()), filename=list(FILES), my_captions=texts, split=SPLITS)


def beside(root: Path) -> None:
    """Paths of files that lie beside the table."""
    for name, content in PICTURES.items():
        (root / "pictures").mkdir(exist_ok=True)
        (root / "pictures" / name).write_bytes(content)
    paths = [f"pictures/{name}" for name in FILES]
    sentences = [[{"raw": caption, "sentid": 1} for caption in captions] for captions in LISTS]
    parquet(root / "data/all.parquet", image=paths, sentences=sentences, split=SPLITS)


def both(root: Path) -> None:
    """As laicsiifes/flickr8k-pt-br: numbered columns, and a list with the same captions."""
    captions = {f"caption_{k}": [c[k] for c in LISTS] for k in (0, 1)}
    parquet(root / "all.parquet", image=cells(*FILES), caption=LISTS, split=SPLITS, **captions)


def web(root: Path) -> None:
    """A tar a split: an image, and its captions as lines."""
    for split in dict.fromkeys(SPLITS):
        names = [name for name, of in zip(FILES, SPLITS, strict=True) if of == split]
        texts = {name.replace("png", "txt"): "\n".join(CAPTIONS[name]).encode() for name in names}
        tar(root / split / "00000.tar", {name: PICTURES[name] for name in names} | texts)  # not side by side


def with_json(root: Path) -> None:
    """A packed tar whose JSON has everything."""
    members: dict[str, bytes] = {}
    for name, split in zip(FILES, SPLITS, strict=True):
        members[f"set/{name}"] = PICTURES[name]
        members[f"set/{name[0]}.json"] = json.dumps({"captions": CAPTIONS[name], "split": split, "url": "x"}).encode()
    tar(root / "all.tar.gz", members, "w:gz")


@pytest.mark.parametrize("make", [numbered, listed, one_each, plain, beside, both, web, with_json])
def test_every_layout_tells_the_same(make: Callable[[Path], None], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    make(source)
    result = unpacked(source)
    assert (result.images, result.captions, result.broken) == (4, 8, 0)
    found = read_annotations(result.folder)
    assert not found.problems
    assert told(found) == {name: (tuple(CAPTIONS[name]), split) for name, split in zip(FILES, SPLITS, strict=True)}
    assert {path.name: path.read_bytes() for path in (result.folder / "images").iterdir()} == PICTURES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_img2datasets_folder(tmp_path: Path) -> None:
    """The tables beside its tars have no images; a text with a line break is one caption, as its JSON tells."""
    about = {"caption": "a thing\non a table", "key": "000000000", "status": "success", "split": None}
    members = {"000000000.jpg": picture(1, "JPEG"), "000000000.txt": b"a thing\non a table"}
    tar(tmp_path / "in/00000.tar", members | {"000000000.json": json.dumps(about).encode()})
    parquet(tmp_path / "in/00000.parquet", url=["x"], caption=["a thing on a table"], key=["000000000"])
    (tmp_path / "in/00000_stats.json").write_text("{}")
    result = unpacked(tmp_path / "in")
    assert rows(result.folder) == [{"file_name": "images/000000000.jpg", "captions": ["a thing\non a table"]}]


def test_parquet_and_tars_may_be_mixed_and_files_named_twice(tmp_path: Path) -> None:
    one = parquet(tmp_path / "in/all.parquet", image=cells("a.png"), caption=["a thing"])
    two = tar(tmp_path / "in/more.tar", {"b.png": PICTURES["b.png"], "b.txt": b'["a thing", "a flat thing"]'})
    result = unpacked(one, two, tmp_path / "in")
    assert [row["captions"] for row in rows(result.folder)] == [["a thing"], ["a thing", "a flat thing"]]


def test_the_same_image_is_one_only_with_the_same_name_bytes_and_split(tmp_path: Path) -> None:
    column = [
        {"bytes": picture(n), "path": f"{name}.png"} for n, name in ((0, "a"), (0, "b"), (1, "a"), (0, "a"), (0, "a"))
    ]
    texts = [["one"], ["two"], ["three"], ["four", "five"], ["six"]]
    parquet(tmp_path / "x.parquet", image=column, caption=texts, split=["train", "train", "train", "train", "test"])
    result = unpacked(tmp_path / "x.parquet")
    assert [(r["file_name"][7:], r["captions"], r["split"]) for r in rows(result.folder)] == [
        ("a.png", ["one", "four", "five"], "train"),
        ("b.png", ["two"], "train"),
        ("a-2.png", ["three"], "train"),
        ("a-3.png", ["six"], "test"),
    ]
    assert (result.samples, result.images) == (5, 4)


def test_a_row_with_all_captions_that_comes_again_adds_none(tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", image=cells("a.png", "a.png", path=False), caption=[["one", "two"]] * 2)
    result = unpacked(tmp_path / "x.parquet")
    assert rows(result.folder) == [{"file_name": "images/00000000.png", "captions": ["one", "two"]}]


def test_suffixes_follow_the_content(tmp_path: Path) -> None:
    kinds = {"a.JPEG": "JPEG", "b.png": "JPEG", "c": "GIF", "d.v2": "WEBP", "e.jpg": "PNG"}
    column = [{"bytes": picture(n, kind), "path": name} for n, (name, kind) in enumerate(kinds.items())]
    parquet(tmp_path / "x.parquet", image=column, caption=["a thing"] * 5)
    names = [row["file_name"] for row in rows(unpacked(tmp_path / "x.parquet").folder)]
    assert names == [f"images/{name}" for name in ("a.JPEG", "b.jpg", "c.gif", "d.v2.webp", "e.png")]


@pytest.mark.parametrize(
    ("name", "split"),
    [("train-00000-of-00002.parquet", "train"), ("x/partial-validation/0000.parquet", "val"), ("all.parquet", None)],
)
def test_the_split_is_in_the_name_below_the_folder_that_is_given(name: str, split: str | None, tmp_path: Path) -> None:
    parquet(tmp_path / "test" / name, image=cells("a.png"), caption=["a thing"], split=[None])
    assert rows(unpacked(tmp_path / "test").folder)[0].get("split") == split


def test_columns_are_named_where_they_cannot_be_told(tmp_path: Path) -> None:
    columns = {"left": cells("a.png"), "right": cells("b.png"), "en": ["a thing"], "de": ["ein Ding"], "part": ["dev"]}
    source = parquet(tmp_path / "x.parquet", **columns)
    with pytest.raises(DataError, match=r"left or right; say which with --image"):
        unpacked(source)
    with pytest.raises(DataError, match=r"en \(text\), de \(text\).*--caption COLUMN"):
        unpacked(source, columns=Columns(image="left"))
    with pytest.raises(DataError, match=r"--split parts: .* did you mean 'part'"):
        unpacked(source, columns=Columns(split="parts"))
    with pytest.raises(DataError, match=r"no image with a caption, but .*there is no file a thing beside it"):
        unpacked(source, columns=Columns("en", ("de",)))
    with pytest.raises(DataError, match=r"--caption left: this column .* holds no text"):
        unpacked(source, columns=Columns("right", ("left",)))
    result = unpacked(source, columns=Columns("right", ("de", "en"), "part"))
    assert rows(result.folder) == [{"file_name": "images/b.png", "captions": ["ein Ding", "a thing"], "split": "val"}]


def test_keys_of_a_tars_json_may_be_named(tmp_path: Path) -> None:
    about = {"caption": "old words", "recaption": "new words", "part": "test"}
    members = {"a.png": PICTURES["a.png"], "a.txt": b"old words", "a.json": json.dumps(about).encode()}
    source = tar(tmp_path / "x.tar", members)
    result = unpacked(source, columns=Columns(captions=("recaption",), split="part"))
    assert rows(result.folder) == [{"file_name": "images/a.png", "captions": ["new words"], "split": "test"}]
    with pytest.raises(DataError, match="only Parquet files have columns"):
        unpacked(source, to=tmp_path / "other", columns=Columns(image="png"))


def test_broken_samples_are_named_and_the_rest_is_unpacked(tmp_path: Path) -> None:
    column = [
        *cells("a.png"),
        {"bytes": b"no image", "path": None},
        {"bytes": None, "path": None},
        *cells("b.png", "c.png"),
    ]
    source = parquet(tmp_path / "x.parquet", image=column, caption=["a thing", "b", "c", "!!!", None])
    result = run("data", "unpack", source, "--to", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout == f"{tmp_path / 'out'}: 1 images with 1 captions\n"
    for row, reason in ((1, "its image cannot be identified"), (2, "no image"), (3, "no caption"), (4, "no caption")):
        assert f"    x.parquet, row {row}: {reason}" in result.stderr
    assert [path.name for path in (tmp_path / "out/images").iterdir()] == ["a.png"]


def test_five_broken_samples_are_named_and_all_are_counted(tmp_path: Path) -> None:
    members = {f"{n}.png": b"none" for n in range(8)} | {f"{n}.txt": b"a thing" for n in range(8)}
    source = tar(tmp_path / "x.tar", members | {"a.png": PICTURES["a.png"], "a.txt": b"a thing"})
    result = run("data", "unpack", source, "--to", tmp_path / "out")
    assert (result.exit_code, result.stderr.count(".png: its image")) == (1, 5)
    assert "left out, as broken: 8\n" in result.stderr and "… and 3 more" in result.stderr


def test_a_text_that_is_no_text_breaks_its_row_only(tmp_path: Path) -> None:
    import pyarrow as pa

    texts = pa.array([b"a thing", b"\xff\xfe\xfd"]).view(pa.string())
    parquet(tmp_path / "x.parquet", image=cells("a.png", "b.png"), caption=texts)
    result = unpacked(tmp_path / "x.parquet")
    assert result.images == 1 and "row 1: cannot be read" in reasons(result)[0]


def test_half_a_character_stays_and_is_reported_later(tmp_path: Path) -> None:
    source = tar(tmp_path / "x.tar", {"a.png": PICTURES["a.png"], "a.json": rb'{"caption": "a \ud800 thing"}'})
    found = read_annotations(unpacked(source).folder)
    assert [problem.kind for problem in found.problems] == ["encoding"]


def test_what_is_no_sample_in_a_tar_is_no_trouble(tmp_path: Path) -> None:
    notices = {"README.txt": b"about", "index.json": b"{}", "._a.png": b"x", "set/": b"", "a.cls": b"3"}
    whole = {"a.png": PICTURES["a.png"], "a.txt": b"a thing"}
    assert not reasons(unpacked(tar(tmp_path / "x.tar", notices | whole)))


def test_a_text_without_its_image_and_an_ambiguous_one_are_told(tmp_path: Path) -> None:
    whole = {"a.png": PICTURES["a.png"], "a.txt": b"a thing", "b.txt": b"another"}
    source = tar(tmp_path / "x.tar", whole)
    assert reasons(unpacked(source)) == ["x.tar: b.txt: no image of this name"]
    with tarfile.open(source, "a") as opened:
        opened.addfile(tarfile.TarInfo("b.txt"))
        entry = tarfile.TarInfo("b.png")
        entry.size = len(PICTURES["b.png"])
        opened.addfile(entry, (tmp_path / "out/images/a.png").open("rb"))
    result = unpacked(source, to=tmp_path / "second")
    assert reasons(result) == ["x.tar: b.png: there are several .txt files of this name, expected one"]


def test_a_subset_of_something_else_is_kept_and_the_data_can_be_read(tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", image=cells(*FILES), caption=LISTS, subset=["web", "web", "books", "books"])
    folder = unpacked(tmp_path / "x.parquet").folder
    assert [(row["subset"], "split" in row) for row in rows(folder)] == [
        (s, False) for s in ("web", "web", "books", "books")
    ]
    assert len(read_annotations(folder).images) == len(FILES)


@pytest.mark.parametrize("key", ["split", "Set", "subset", "fold"])
def test_splits_have_the_names_that_tables_give_them(key: str, tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", image=cells("a.png"), caption=["a thing"], **{key: ["dev"]})
    about = {"caption": "a thing", key.lower(): "dev"}
    tar(tmp_path / "y.tar", {"a.png": PICTURES["a.png"], "a.json": json.dumps(about).encode()})
    for number, source in enumerate((tmp_path / "x.parquet", tmp_path / "y.tar")):
        assert rows(unpacked(source, to=tmp_path / f"out{number}").folder)[0]["split"] == "val"


def test_a_table_without_text_says_so(tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", image=cells("a.png"), caption=[1])
    with pytest.raises(
        DataError, match=r"has no column of text beside image; its columns are image \(image\), caption \(number\)"
    ):
        unpacked(tmp_path / "x.parquet")


def test_messages_hold_no_control_characters(tmp_path: Path) -> None:
    source = tar(tmp_path / "x.tar", {"a.png": PICTURES["a.png"], "a.txt": b"a thing", "b\x1b[2J.png": b"none"})
    assert reasons(unpacked(source)) == ["x.tar: b\ufffd[2J.png: no caption"]


HOSTILE = (
    "../../evil.png",
    "/evil.png",
    "..\\evil.png",
    "C:\\evil.png",
    "EVIL.png",
    "con.png",
    "x\x1b[2J.png",
    " .png",
)


def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    pictures = {name: picture(n % 4) for n, name in enumerate(HOSTILE)}
    texts = {f"{name[:-4]}.txt": b"a thing" for name in HOSTILE}
    source = tar(tmp_path / "deep/in/x.tar", pictures | texts)
    result = unpacked(source, to=tmp_path / "deep/in/out")
    assert result.images == len(HOSTILE)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert {str(file.parent) for file in files} == {"deep/in", "deep/in/out", "deep/in/out/images"}
    names = [file.name for file in files if file.suffix == ".png"]
    assert len({name.casefold() for name in names}) == len(HOSTILE)
    assert {"_con.png", "x_[2J.png", "evil-2.png"} <= set(names)


def test_names_are_safe_on_any_system() -> None:
    unsafe = ("a/b", "..", "...", "a\0b", "NUL", "com1.jpg", 'a<>:"|?*b', "trailing. ", "ü" * 300, "\udcff", "a\nb")
    for name in map(safe_name, unsafe):
        assert len(name.encode()) <= 201 and name == name.strip(" .")
        assert not set(name) & set('<>:"/\\|?*\0\n')
    assert safe_name("photo é.jpg") == "photo é.jpg"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_no_images(kind: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PICTURES["b.png"])
    entry = tarfile.TarInfo("b.png")
    entry.type, entry.linkname = kind, str(tmp_path / "secret.png")
    source = tar(tmp_path / "x.tar", {"a.png": PICTURES["a.png"], "a.txt": b"a thing", "b.txt": b"a thing"})
    with tarfile.open(source, "a") as opened:
        opened.addfile(entry)
    assert reasons(unpacked(source)) == ["x.tar: b.png: a link or device, expected a file"]


@pytest.mark.parametrize("path", ["../secret.png", "{root}/secret.png", "link.png", "pipe\0.png"])
def test_paths_in_a_table_stay_within_its_folder(path: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PICTURES["b.png"])
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.png").symlink_to(tmp_path / "secret.png")
    column = [*cells("a.png"), {"bytes": None, "path": path.format(root=tmp_path)}]
    parquet(tmp_path / "in/x.parquet", image=column, caption=["a thing"] * 2)
    result = unpacked(tmp_path / "in")
    assert result.images == 1 and "no image: there is no file" in reasons(result)[0]


def test_huge_images_and_texts_are_left_out_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"a.png": PICTURES["a.png"], "a.txt": b"a thing", "b.png": PICTURES["b.png"] + bytes(9000), "b.txt": b"b"}
    source = tar(tmp_path / "x.tar", members | {"c.png": PICTURES["c.png"], "c.txt": b"c " * 4000})
    monkeypatch.setattr(tars, "MAX_BYTES", 5000)
    monkeypatch.setattr(tars, "_LONGEST_TEXT", 5000)
    assert [reason[:30] for reason in reasons(unpacked(source))] == [
        "x.tar: b.png: 0 MiB, expected ",
        "x.tar: c.png: its .txt has 0 M",
    ]
    monkeypatch.setattr(unpack, "MAX_BYTES", 5000)
    column = [*cells("a.png"), {"bytes": members["b.png"], "path": None}]
    table = parquet(tmp_path / "x.parquet", image=column, caption=["a thing"] * 2)
    assert "expected at most" in reasons(unpacked(table, to=tmp_path / "second"))[0]


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "most_unpacked", lambda size: 20 * size)
    monkeypatch.setattr(unpack, "most_unpacked", lambda size: 20 * size)
    zeros = {f"{n}.png": PICTURES["a.png"] + bytes(1 << 20) for n in range(4)} | {f"{n}.txt": b"x" for n in range(4)}
    with pytest.raises(DataError, match="unpacks to more than"):
        unpacked(tar(tmp_path / "x.tar.gz", zeros, "w:gz"))
    column = [{"bytes": content, "path": name} for name, content in zeros.items() if name.endswith("png")]
    table = parquet(tmp_path / "x.parquet", image=column, caption=["a thing"] * 4)
    with pytest.raises(DataError, match="unpacks to far more"):
        unpacked(table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.parquet", "x.tar.gz"]


def header(kind: bytes, size: int) -> bytes:
    entry = tarfile.TarInfo("x.png")
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.GNU_FORMAT)


def endless_map() -> bytes:
    """The header of a sparse file whose map goes on and on."""
    block = bytearray(header(tarfile.GNUTYPE_SPARSE, 0))
    block[482] = 1  # the map goes on
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + (b"1".rjust(504, b"1") + b"\1" + bytes(7)) * 9000


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "invalid header": lambda raw: b"no tar at all" * 100,
    "empty file": lambda raw: b"",
    "unexpected end of data": lambda raw: raw[:700],
    "no header at byte 1024": lambda raw: raw[:1024] + b"x" * 512 + raw[1536:],
    "end-of-stream": lambda raw: gzip.compress(raw)[:-30],
    "while decompressing": lambda raw: gzip.compress(raw)[:60] + b"\0" * 60,
    "a header goes on for 1073741824 bytes": lambda raw: header(tarfile.XHDTYPE, 1 << 30) + raw,
    "a header goes on for -512 bytes": lambda raw: header(tarfile.GNUTYPE_LONGNAME, -512) + raw,
    "negative size": lambda raw: raw[:1024] + header(tarfile.REGTYPE, -1024) + raw[1024:],
    "a header goes on for 512 bytes": lambda raw: gzip.compress(endless_map()),
    "as a tar (": lambda raw: (header(tarfile.GNUTYPE_LONGNAME, 10) + b"n" * 512) * 5000 + raw,  # too deep
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_what_is_no_whole_tar_is_refused(reason: str, tmp_path: Path) -> None:
    source = tar(tmp_path / "x.tar", {"a.png": PICTURES["a.png"], "a.txt": b"a thing"})
    source.write_bytes(DAMAGES[reason](source.read_bytes()))
    said = "x.tar cannot be read as a tar", reason, "fetch it again"
    refused(run("data", "unpack", source, "--to", tmp_path / "out"), *said)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


@pytest.mark.parametrize(
    "damage", [lambda raw: b"PAR1" + bytes(99), lambda raw: raw[:-9], lambda raw: raw[:4] + bytes(200) + raw[204:]]
)
def test_what_is_no_whole_parquet_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    source = parquet(tmp_path / "x.parquet", image=cells(*FILES), caption=LISTS)
    source.write_bytes(damage(source.read_bytes()))
    refused(run("data", "unpack", source, "--to", tmp_path / "out"), "x.parquet cannot be read as Parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_wrong_sources_get_a_sentence(tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(run("data", "unpack", tmp_path / "none.tar", "--to", out), "no file or folder", "none.tar")
    refused(run("data", "unpack", tmp_path, "--to", out), "holds no file to unpack", ".parquet")
    (tmp_path / "x.zip").touch()
    refused(run("data", "unpack", tmp_path / "x.zip", "--to", out), "x.zip is no file to unpack", ".tar.gz")
    (tmp_path / "x.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refused(run("data", "unpack", tmp_path / "x.parquet", "--to", out), "git lfs pull")
    parquet(tmp_path / "urls.parquet", url=["x"], caption=["a thing"], width=[1])
    refused(
        run("data", "unpack", tmp_path / "urls.parquet", "--to", out),
        "no column of images",
        "url (text), caption (text), width (number)",
        "--image COLUMN",
    )
    tar(tmp_path / "empty.tar", {})
    refused(run("data", "unpack", tmp_path / "empty.tar", "--to", out), "no image with a caption")
    tar(tmp_path / "bare.tar", {"a.png": PICTURES["a.png"]})
    said = "1 broken ones, the first: bare.tar: a.png: no caption; an ordinary folder in a tar comes out with  tar -xf"
    refused(run("data", "unpack", tmp_path / "bare.tar", "--to", out), said)
    parquet(tmp_path / "twice.parquet", ("image", [b"x"]), ("caption", ["a"]), ("caption", ["b"]))
    refused(run("data", "unpack", tmp_path / "twice.parquet", "--to", out), "several columns called caption")
    assert not out.exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parquet(tmp_path / "x.parquet", image=cells("a.png"), caption=["a thing"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    refused(run("data", "unpack", source, "--to", tmp_path / "out"), "not an empty folder", "--to")
    (tmp_path / "out/thesis.tex").unlink()
    with monkeypatch.context() as context:
        context.chdir(tmp_path / "out")
        refused(run("data", "unpack", source, "--to", "."), "the folder that you are in")
    assert run("data", "unpack", source, "--to", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_half_written_is_left(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    source = parquet(tmp_path / "x.parquet", image=cells("a.png"), caption=["a thing"])
    monkeypatch.setattr(unpack._Writer, "finish", fail)
    result = run("data", "unpack", source, "--to", tmp_path / "out")
    assert (result.exit_code, result.stdout) == ((130, "") if error is KeyboardInterrupt else (2, ""))
    assert ("nothing was written to" if error is KeyboardInterrupt else "make room") in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_a_missing_extra_is_named_and_tars_need_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = parquet(tmp_path / "x.parquet", image=cells("a.png"), caption=["a thing"])
    web(tmp_path / "tars")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(run("data", "unpack", table, "--to", tmp_path / "out"), "pip install 'showtell[parquet]'")
    assert run("data", "unpack", tmp_path / "tars", "--to", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("name", ["data/train-00000-of-00001.parquet", "00000.tar", "00000.tar.gz"])
def test_reading_packed_data_proposes_to_unpack_it(name: str, tmp_path: Path) -> None:
    file = tmp_path / "set" / name
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "set/README.md").write_text("# A data set")
    for path in (file, tmp_path / "set"):
        refused(run("data", "check", path), f"showtell data unpack {path} --to DIR")
    with pytest.raises(DataError, match="data unpack"):
        read_annotations(tmp_path / "set")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Of 40 groups of rows, one or two are in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet

    column = [{"bytes": picture(0) + random.Random(n).randbytes(1 << 18), "path": f"{n}.png"} for n in range(80)]
    table = pa.table({"image": column, "caption": ["a thing"] * 80})
    pyarrow.parquet.write_table(table, source := tmp_path / "x.parquet", row_group_size=2)
    del column, table
    most = 0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal most
        most = max(most, pa.total_allocated_bytes())

    before = pa.total_allocated_bytes()
    unpack.unpack([source], to=tmp_path / "out", progress=progress)
    assert most - before < 6 << 20 < source.stat().st_size


def test_the_tables_beside_tars_are_known_by_name(tmp_path: Path) -> None:
    names = ("a.tar", "a.parquet", "b.parquet", "c.tar.gz", "c.parquet", ".cache/d.parquet", "e/d.tgz", "e/f.PARQUET")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(file.relative_to(tmp_path)) for file in packed.packed_files(tmp_path)]
    assert found == ["a.tar", "b.parquet", "c.tar.gz", "e/d.tgz", "e/f.PARQUET"]
    assert len(NAMES) == 4
