"""The errors that showtell raises on purpose; each message says what was found, what was expected, what to do.

ShowtellError                 anything below; the command line prints it and exits with code 2
├── RecipeError               a recipe's key or value is wrong
├── DataError                 a data set cannot be read, or holds nothing to work on
│   └── ImageError            one image cannot be decoded
├── WeightsError              an encoder's weights are unavailable, or belong to another encoder
├── BundleError               a bundle is missing, incomplete or of a newer version
├── CacheError                a feature cache belongs to another encoder, or has no room
├── DownloadError             a download failed, or the hub refused or did not answer
└── MissingExtraError         an optional dependency is not installed
"""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


class ShowtellError(Exception):
    """Base of all errors that a user can cause."""


class RecipeError(ShowtellError):
    """A recipe's key or value is wrong."""


class DataError(ShowtellError):
    """A data set cannot be read, or holds nothing to work on."""


class ImageError(DataError):
    """One image cannot be decoded."""


class WeightsError(ShowtellError):
    """An encoder's weights are unavailable, or belong to another encoder."""


class BundleError(ShowtellError):
    """A bundle is missing, incomplete or of a newer version."""


class CacheError(ShowtellError):
    """A feature cache belongs to another encoder, or has no room."""


class DownloadError(ShowtellError):
    """A download failed, or the hub refused or did not answer."""


class MissingExtraError(ShowtellError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra '{extra}': run  pip install 'showtell[{extra}]'")


_ELSEWHERE = "name another place, or change its permissions"


def captioner_path(path: object) -> Path:
    """`path` as a `Path`; `BundleError` for what is no path at all."""
    if not isinstance(path, str | os.PathLike):
        raise BundleError(f"the captioner is {path!r}; expected a folder, or a name on the hub")
    return Path(path)


def torn(folder: Path) -> BundleError:
    """What to say of a bundle whose files are not of one saving."""
    return BundleError(
        f"{folder}: config.json is not of the epoch that the weights are of, as when a run is killed while it saves; "
        "continue the run with --resume, or copy the bundle again"
    )


def occupied(out: Path) -> RecipeError:
    """What to say of a folder for a new run that has one already."""
    return RecipeError(f"{out} already holds a run; add --resume to continue it, or name another folder with --out")


def check_target(
    path: Path, endings: tuple[str, ...] = (), *, option: str, what: str = "captions are", appended: bool = False
) -> None:
    """Raises `DataError` unless `path`, the value of `option`, can be a file with one of the `endings`; `what` is written
    to it. A file that is there is replaced, for which its folder must be writable, or `appended` to."""
    if endings and path.suffix.lower() not in endings and not path.is_dir():
        raise DataError(f"{option} {path}: {what} written as {' or '.join(endings)}; name a file that ends so")
    if path.is_dir() or not path.parent.is_dir():
        raise DataError(f"{option} {path}: expected a file's name in a folder that exists")
    if appended and path.exists():
        if not os.access(path, os.W_OK):
            raise DataError(f"{option} {path}: this file may not be written to; {_ELSEWHERE}")
    else:
        check_place(path.parent, option=option)


def check_place(folder: Path, *, option: str) -> None:
    """Raises `DataError` where nothing may be written into `folder`, which `option` leads to; if it is still to be made,
    into the nearest folder above."""
    there = next((place for place in (folder, *folder.parents) if os.path.exists(place)), folder)
    if there.is_dir() and not may_write(there):
        raise DataError(f"{option}: nothing may be written into {there}; {_ELSEWHERE}")


def may_write(folder: str | Path) -> bool:
    """Whether files may be made in a folder."""
    return os.access(folder, os.W_OK | os.X_OK)


def first_line(error: BaseException | str) -> str:
    """The first line of another library's error or its message, or the error's type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def meant(wrong: str, names: Iterable[str], otherwise: str) -> str:
    """A question that suggests the nearest of `names` to `wrong`; `otherwise` where none is near."""
    near = difflib.get_close_matches(wrong, list(names), n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else otherwise
