"""The image files of a data set by name, and which of several of one name is meant; nothing here imports torch."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path, PurePath, PureWindowsPath

from showtell.data.splits import SPLIT_NAMES, Split, split_in
from showtell.images import SUFFIXES, UNREAD
from showtell.paths import entries


class Pictures:
    """The image files in a data set's folders, looked up by what captions call them."""

    def __init__(self, root: Path) -> None:
        self._root, self._folders = root, image_folders(root)
        self._found: dict[str, list[Path]] = {}
        self._others: dict[str, Path] = {}  # what is not read: any file by its name, pictures by their stem too
        for folder in self._folders:
            for path in entries(folder):
                suffix = path.suffix.lower()
                if suffix in SUFFIXES:
                    for name in dict.fromkeys((path.name, path.stem)):
                        self._found.setdefault(name, []).append(path)
                else:
                    for name in (path.name, path.stem) if suffix in UNREAD else (path.name,):
                        self._others.setdefault(name, path)

    def called(self, name: str) -> Sequence[Path]:
        """The files with the last part of a name, with or without their suffix."""
        return self._found.get(parts(name)[-1], ())

    def respelt(self, names: Mapping[str, str]) -> dict[str, str]:
        """The names, those without a file as the one is called that differs only in case or in how Unicode composes
        letters (macOS writes names apart): where it is one, and no other name may mean it."""
        lasts = {parts(name)[-1] for name in names.values()}
        alike = Counter(map(_fold, lasts))
        near: dict[str, str] = {}
        for last in lasts - self._found.keys():
            files = {path.name for path in self._folded.get(_fold(last), ())}
            if alike[_fold(last)] == 1 and len(files) == 1 and not any({f, Path(f).stem} & lasts for f in files):
                near[last] = files.pop()
        spelt = ((image, name, near.get(parts(name)[-1])) for image, name in names.items())
        return {
            image: PureWindowsPath(*parts(name)[:-1], last).as_posix() if last else name for image, name, last in spelt
        }

    @cached_property
    def _folded(self) -> dict[str, list[Path]]:
        folded: dict[str, list[Path]] = {}
        for name, paths in self._found.items():
            folded.setdefault(_fold(name), []).extend(paths)
        return folded

    def instead(self, name: str) -> str:
        """What lies there in place of an image without a file: a picture that is not read, or one that differs in its
        suffix; empty where nothing does."""
        last = parts(name)[-1]
        path = PurePath(last)
        stem = path.stem if path.suffix.lower() in SUFFIXES | UNREAD else last  # "dog.v2" is no kind of picture
        if (other := self._others.get(last) or self._others.get(stem)) and other.is_file():
            return f"{other.name} is there, but showtell {does_not_read(other)}"
        return f"{self._found[stem][0].name} is there" if stem in self._found else ""

    def names(self) -> Set[str]:
        """What files are called, with and without their suffix."""
        return self._found.keys()

    def firsts(self) -> Iterator[Path]:
        """The first file of each name."""
        return (paths[0] for paths in self._found.values())

    def at(self, place: str) -> Path | None:
        """The file at this place below one of the folders, if `place` names a folder."""
        if len(parts(place)) == 1:
            return None
        places = (folder / place for folder in self._folders)
        return next((path for path in places if os.path.isfile(path)), None)  # False where a name is too long

    def look_up(
        self, names: Mapping[str, str], splits: Mapping[str, Split]
    ) -> Iterator[tuple[str, Sequence[Path], bool]]:
        """Each image that may have a file, by what it is called and its split, the files that it may be, the likeliest
        first, and whether no other image has its name. One file is its own; with several its name is ambiguous."""
        called = Counter(parts(name)[-1] for name in {*names.values()})
        in_splits = {(name, splits.get(image)) for image, name in names.items()}
        called_in = Counter((parts(name)[-1], split) for name, split in in_splits)
        splits_of: dict[str, set[Split | None]] = {}
        for name, split in in_splits:
            splits_of.setdefault(name, set()).add(split)
        for image, name in names.items():
            last, split = parts(name)[-1], splits.get(image)
            if not self.called(name):
                continue
            found = self._meant(name, split, alone=called[last] == 1)
            if others := splits_of[name] - {split, None}:  # theirs are images with the very same name
                found = [path for path in found if self.split_of(path) not in others]
            if not found and called_in[last, split] == 1:
                found = self._of(split, self.called(name))
            yield image, found, called[last] == 1

    def certain(self, name: str, split: Split | None) -> Path | None:
        """The file that a name means, unless it may be one of several."""
        paths = self.called(name)
        if len(paths) > 1:
            found = self.at(name)
            paths = [found] if found else self._meant(name, split, alone=True)
        return paths[0] if len(paths) == 1 else None

    def split_of(self, path: Path) -> Split | None:
        """The split in the name of the nearest folder of a file that has one."""
        folders = reversed(path.relative_to(self._folders[0]).parts[:-1])
        return next((SPLIT_NAMES[split] for folder in folders if (split := split_in(folder))), None)

    def _meant(self, name: str, split: Split | None, *, alone: bool) -> Sequence[Path]:
        """The files that a name may mean, the likeliest first; of several, those in a folder of the split.

        They are those that share folders with it; with none, if it is `alone` with its last part, all that have that.
        """
        paths = self.called(name)
        near = self._in_the_same_folders(name, paths) or (paths if alone else ())
        return (len(near) > 1 and self._of(split, near)) or near

    def _of(self, split: Split | None, paths: Sequence[Path]) -> Sequence[Path]:
        return [path for path in paths if split and self.split_of(path) == split]

    def _in_the_same_folders(self, name: str, paths: Sequence[Path]) -> Sequence[Path]:
        """Of the files with an image's name, those that share the most of the folders in it, at least one.

        Shared folders directly above the file count first, then shared ones anywhere.
        """
        said, shared = parts(name)[:-1], dict[tuple[int, int], list[Path]]()
        for path in paths if said else ():
            folder = path.parent
            folders = folder.relative_to(self._root).parts if folder.is_relative_to(self._root) else folder.parts
            near = itertools.takewhile(
                lambda pair: pair[0] == pair[1], zip(reversed(said), reversed(folders), strict=False)
            )
            shared.setdefault((len(list(near)), len(set(said) & set(folders))), []).append(path)
        most = max(shared, default=(0, 0))
        return shared[most] if any(most) else ()


def does_not_read(path: Path) -> str:
    """Why a file is no image of the data, for "showtell …"; what to do, if it is a picture."""
    suffix = path.suffix.lower()
    return f"does not read {suffix or 'names without a suffix'}" + "; convert it to JPEG" * (suffix in UNREAD)


def image_folders(root: Path) -> list[Path]:
    """`root`, or its parent if `root` has no folders or images, and the folders up to two levels below."""
    if not any(p.is_dir() or p.suffix.lower() in SUFFIXES for p in root.iterdir()):
        root = root.parent
    folders = [root]
    for level in (1, 2):
        del level
        folders += [
            p for f in list(folders) for p in entries(f) if p.is_dir() and p not in folders and p.name[0] != "."
        ]
    return folders


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def parts(name: str) -> tuple[str, ...]:
    """The folders of an image's name, and what it is called in them; split at both separators."""
    if {"/", "\\", ":"}.isdisjoint(name):  # nearly all names; a path takes ten times as long
        return (name,)
    return PureWindowsPath(name).parts or ("",)
