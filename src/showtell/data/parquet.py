"""Reads Parquet files with images inside, as the Hugging Face Hub keeps data sets; needs the extra `parquet`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from showtell.data.packed import Broken, Columns, Sample, Source, texts_in
from showtell.data.tables import SPLIT_KEYS, caption_keys
from showtell.errors import DataError, MissingExtraError, first_line, meant
from showtell.progress import Progress

_ROWS = 16  # held in memory at once, each with its image
_BUFFER = 1 << 20  # bytes read at once; otherwise it is a whole row group
_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "img_bytes", "bytes")  # the likeliest first
_PATHS = (
    "image", "image_path", "img_path", "file_name", "filename", "image_file", "file_path", "filepath", "path", "file", "img",
)  # fmt: skip
_NAMES = (
    "file_name", "filename", "image_name", "img_name", "image_file", "image_filename", "file_path", "filepath", "image_path", "img_path",
)  # fmt: skip
_IDS = ("image_id", "img_id", "imgid", "cocoid", "key", "__key__")  # not "id", which may be a caption's


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Which columns are read; `names` say what an image is called, its own path aside, and `ids` where that is empty."""

    image: str
    captions: tuple[str, ...]
    split: str
    names: tuple[str, ...]
    ids: tuple[str, ...]

    def all(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys(filter(None, (self.image, *self.captions, self.split, *self.names, *self.ids))))


def read_parquet(source: Source, columns: Columns, progress: Progress) -> Iterator[Sample | Broken]:
    """The samples of a Parquet file, a row each, a few rows in memory at a time.

    Raises `DataError` for a file that is none or damaged, and where it cannot be told which columns are meant;
    `MissingExtraError` without the extra.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("reading Parquet files", "parquet") from None
    damage = (pyarrow.ArrowException, OSError, ValueError)
    try:
        file = pyarrow.parquet.ParquetFile(source.file, buffer_size=_BUFFER, pre_buffer=False)
    except damage as error:
        raise _damaged(source, error) from None
    with file:
        chosen = _choose(source, columns, {field.name: _kind(field.type) for field in file.schema_arrow})
        if twice := [name for name in chosen.all() if file.schema_arrow.names.count(name) > 1]:
            raise DataError(f"{source.file} has several columns called {twice[0]}; expected different names")
        batches = file.iter_batches(_ROWS, columns=chosen.all(), use_threads=False)
        done = 0
        while True:
            try:
                batch = next(batches, None)
            except damage as error:
                raise _damaged(source, error) from None
            if batch is None:
                return
            for index in range(batch.num_rows):
                place = f"{source.name}, row {done}"
                try:
                    row = {name: batch.column(name)[index].as_py() for name in chosen.all()}
                except damage as error:  # text that is no UTF-8
                    yield Broken(place, f"cannot be read ({first_line(error)})")
                else:
                    yield _sample(source, place, row, chosen)
                done += 1
            progress(source.name, done, file.metadata.num_rows)


def _damaged(source: Source, error: Exception) -> DataError:
    return DataError(f"{source.file} cannot be read as Parquet ({first_line(error)}); fetch it again, or leave it out")


def _kind(type: Any) -> str:
    """What a column of an Arrow type may hold: "bytes", "image" (the hub's), "text", "texts", "number"; empty for others."""
    from pyarrow import types

    if types.is_dictionary(type):
        return _kind(type.value_type)
    if types.is_struct(type):
        fields = {type.field(i).name for i in range(type.num_fields)}
        return "image" if "bytes" in fields else "texts"
    if any(is_list(type) for is_list in (types.is_list, types.is_large_list, types.is_fixed_size_list)):
        return "texts" if _kind(type.value_type) in ("text", "texts") else ""
    if any(is_bytes(type) for is_bytes in (types.is_binary, types.is_large_binary, types.is_binary_view)):
        return "bytes"
    if any(is_text(type) for is_text in (types.is_string, types.is_large_string, types.is_string_view)):
        return "text"
    return "number" if types.is_integer(type) else ""


def _choose(source: Source, columns: Columns, kinds: Mapping[str, str]) -> _Chosen:
    """The columns that a user names, else those that are surely meant; `DataError` where none or several may be."""
    for option, name in (
        ("--image", columns.image),
        *(("--caption", c) for c in columns.captions),
        ("--split", columns.split),
    ):
        if name and name not in kinds:
            raise DataError(f"{option} {name}: {source.file} has no such column; {meant(name, kinds, _columns(kinds))}")
    if columns.image and kinds[columns.image] not in ("image", "bytes", "text"):
        raise DataError(f"--image {columns.image}: this column of {source.file} holds no images; {_columns(kinds)}")
    if silent := [name for name in columns.captions if kinds[name] not in ("text", "texts")]:
        raise DataError(f"--caption {silent[0]}: this column of {source.file} holds no text; {_columns(kinds)}")
    image = columns.image or _image_column(source, kinds)
    own = {name.lower(): name for name in kinds if name != image and kinds[name] in ("text", "number")}
    captions = columns.captions or _caption_columns(source, kinds, image)
    splits = (own[key] for key in SPLIT_KEYS if key in own and kinds[own[key]] == "text" and own[key] not in captions)
    split = columns.split or next(splits, "")
    names, ids = (tuple(own[key] for key in keys if key in own) for keys in (_NAMES, _IDS))
    return _Chosen(image, captions, split, names, ids)


def _columns(kinds: Mapping[str, str]) -> str:
    told = {"image": "image", "bytes": "bytes", "text": "text", "texts": "texts", "number": "number", "": "other"}
    return "its columns are " + ", ".join(f"{name} ({told[kind]})" for name, kind in kinds.items())


def _image_column(source: Source, kinds: Mapping[str, str]) -> str:
    """A column of the hub's images, else of bytes, else of paths; where there are several, the one with the usual name."""
    for kind, usual in (("image", _IMAGES), ("bytes", _IMAGES)):
        found = [name for name, of in kinds.items() if of == kind]
        named = [name for name in found if name.lower() == usual[0]] or [n for n in found if n.lower() in usual]
        if len(found) == 1 or len(named) == 1:
            return (named or found)[0]
        if found:
            raise DataError(f"{source.file} may have its images in {' or '.join(found)}; say which with --image COLUMN")
    lower = {name.lower(): name for name, kind in kinds.items() if kind == "text"}
    paths = [lower[key] for key in _PATHS if key in lower]
    if not paths:
        raise DataError(
            f"{source.file} has no column of images; {_columns(kinds)}; expected the images' bytes, or paths of files "
            "beside it (a column of another name: --image COLUMN)"
        )
    return paths[0]


def _caption_columns(source: Source, kinds: Mapping[str, str], image: str) -> tuple[str, ...]:
    """The columns of captions that tables may have, else the only one with "caption" in its name."""
    texts = [name for name, kind in kinds.items() if kind in ("text", "texts") and name != image]
    lower = {name.lower(): name for name in texts}
    for keys in caption_keys(lower):
        there = [lower[key] for key in keys if key in lower]
        if there:  # a list holds what numbered columns beside it hold
            return tuple(there[:1] if kinds[there[0]] == "texts" else there)
    named = [name for key, name in lower.items() if "caption" in key]
    if len(named) == 1:
        return (named[0],)
    if not texts:
        raise DataError(f"{source.file} has no column of text beside {image}; {_columns(kinds)}; expected captions")
    maybe = f"it may have its captions in {' or '.join(named)}" if named else _columns(kinds)
    raise DataError(f"{source.file}: {maybe}; say which hold captions with --caption COLUMN[,COLUMN…]")


def _sample(source: Source, place: str, row: Mapping[str, Any], chosen: _Chosen) -> Sample | Broken:
    cell = row[chosen.image]
    content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if isinstance(content, str):
        content, path = None, content
    names = [row[name] for name in chosen.names] + [path] + [row[name] for name in chosen.ids]
    name = next((str(name) for name in names if name not in (None, "")), "")
    image = content or (_beside(source, path) if isinstance(path, str) and path else None)
    if not image:
        return Broken(place, f"no image: there is no file {path} beside it" if path else "no image")
    captions = tuple(text for column in chosen.captions for text in texts_in(row[column]))
    split = row[chosen.split] if chosen.split else None
    return Sample(place, name, image, captions, source.split if split in (None, "") else str(split))


def _beside(source: Source, path: str) -> Path | None:
    """The file that a path within a data set names; None where there is none, or it lies outside of the data set."""
    for folder in (source.file.parent, source.root):
        file = (folder / path.replace("\\", "/")).resolve() if "\0" not in path else folder
        if file.is_relative_to(source.root.resolve()) and file.is_file():
            return file
    return None
