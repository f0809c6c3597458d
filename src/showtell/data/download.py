"""Downloads data sets from mirrors: resumed, verified, safely unpacked. Standard library only."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from showtell.data.folders import new_folder
from showtell.errors import DownloadError
from showtell.progress import Progress, silent

_CHUNK = 1 << 20
_LARGEST = 20 * 2**30  # bytes that an archive may unpack to


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip file: where to download it, and how many files ending in `suffix` it must hold to be complete."""

    name: str
    mirrors: tuple[str, ...]
    suffix: str
    at_least: int


_RELEASE = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/"
CATALOGUE: dict[str, tuple[Archive, ...]] = {
    "flickr8k": (
        Archive("Flickr8k_text.zip", (_RELEASE + "Flickr8k_text.zip",), ".txt", 5),
        Archive("Flickr8k_Dataset.zip", (_RELEASE + "Flickr8k_Dataset.zip",), ".jpg", 8_000),
    ),
}


def get(
    name: str,
    *,
    to: Path,
    source: Path | None = None,
    catalogue: Mapping[str, Sequence[Archive]] = CATALOGUE,
    progress: Progress = silent,
) -> Path:
    """Downloads and unpacks the data set `name` into `to`, and returns `to`.

    Archives in `source` (a folder, or one of the archives in it) are not downloaded. An interrupted download is kept
    beside `to` and resumed. Raises `DownloadError` when every mirror of an archive failed, when an archive is not the
    expected one, for an unknown name, or if `to` is not empty.
    """
    if name not in catalogue:
        raise DownloadError(f"no data set '{name}' to download; expected one of {', '.join(catalogue)}")
    parts = to.parent / f".{to.name}.parts"  # deleted at the end, unlike the user's own archives
    with new_folder(to, DownloadError) as folder:
        for archive in catalogue[name]:
            have = _given(source, archive) or _whole(to.parent / archive.name, archive)
            if have is None:
                parts.mkdir(exist_ok=True)
                have = download(archive, folder=parts, progress=progress)
            unpack(have, folder, archive)
    shutil.rmtree(parts, ignore_errors=True)
    return to


def _whole(path: Path, archive: Archive) -> Path | None:
    return path if path.exists() and _problem(path, archive) is None else None


def download(archive: Archive, *, folder: Path, progress: Progress = silent) -> Path:
    """The complete archive in `folder`; mirrors are tried in order, and a partial download is resumed."""
    target = folder / archive.name
    if _whole(target, archive) is not None:
        return target
    reasons = []
    for mirror in archive.mirrors:
        try:
            part = folder / f"{archive.name}.part"
            _fetch(mirror, part, lambda done, total: progress(archive.name, done, total))
        except (OSError, HTTPException, ValueError) as error:
            reasons.append(f"{mirror}: {error}")
            continue
        problem = _problem(part, archive)
        if problem is None:
            part.replace(target)
            return target
        part.unlink()  # not worth resuming
        reasons.append(f"{mirror}: {problem}")
    raise DownloadError(
        f"{archive.name} cannot be had ({'; '.join(reasons)}); connect and try again, or give the file with --from"
    )


def unpack(path: Path, folder: Path, archive: Archive) -> None:
    """Unpacks a zip file into `folder`: plain files only, none outside of it, and no more than a sane total size."""
    problem = _problem(path, archive)
    if problem is not None:
        raise DownloadError(f"{path}: {problem}; expected the original {archive.name}")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path) as opened:
        for entry in opened.infolist():
            if entry.is_dir() or entry.filename.startswith("__MACOSX/"):
                continue
            target = (folder / entry.filename).resolve()
            if not target.is_relative_to(folder.resolve()) or entry.external_attr >> 28 == 0xA:
                raise DownloadError(
                    f"{path}: its entry '{entry.filename}' would lie outside of the folder or is a link"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(entry) as packed, target.open("wb") as plain:
                shutil.copyfileobj(packed, plain, _CHUNK)


def _given(source: Path | None, archive: Archive) -> Path | None:
    if source is None:
        return None
    if not source.exists():
        raise DownloadError(f"--from {source}: no such file or folder; expected {archive.name}")
    path = source / archive.name if source.is_dir() else source.parent / archive.name
    return path if path.is_file() else None


def _fetch(url: str, part: Path, progress: Callable[[int, int], None]) -> None:
    """Appends to `part` what it lacks of `url`; starts over if the server cannot resume."""
    begun = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})  # noqa: S310 (ours)
    try:
        response = urllib.request.urlopen(request, timeout=60)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416 and begun:  # already complete
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        done = begun if response.status == 206 else 0
        total = done + int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            progress(done, total)
    if done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes")


def _problem(path: Path, archive: Archive) -> str | None:
    """Why a file is not the archive; None if it is: a complete zip with correct checksums and the expected files."""
    try:
        with zipfile.ZipFile(path) as opened:
            entries = opened.infolist()
            if sum(entry.file_size for entry in entries) > _LARGEST:
                return f"unpacks to more than {_LARGEST // 2**30} GiB"
            found = sum(entry.filename.lower().endswith(archive.suffix) for entry in entries)
            if found < archive.at_least:
                return f"holds {found} {archive.suffix} files, expected at least {archive.at_least}"
            damaged = opened.testzip()
            return f"its entry '{damaged}' is damaged" if damaged else None
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        return f"not a whole zip file ({error})"
