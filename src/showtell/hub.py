"""Captioners on the Hugging Face Hub: found by name, and published. Nothing that is fetched is executed."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import showtell
from showtell.errors import BundleError, DownloadError, RecipeError, captioner_path, first_line, torn
from showtell.paths import BUNDLE_FILES, EXPORT_FILES, saved_together, why_no_hub

if TYPE_CHECKING:
    from showtell.config import Recipe

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_ID = re.compile(rf"(?P<id>{_NAME}/{_NAME})(?:@(?P<revision>[^@\s]+))?")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{1,63}")
_SMALL = ("config.json", "tokenizer.json", "vocabulary.json", "README.md")
_LARGE = ("model.safetensors", "*.onnx", "*.onnx.data")
_LOGIN = "log in with  hf auth login,  set HF_TOKEN, or give --token-file"


@dataclass(frozen=True)
class HubId:
    """`user/name`, or `user/name@revision`: a branch, a tag or a commit."""

    id: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> HubId | None:
        """Parses a hub name; None where `text` is not one."""
        match = _ID.fullmatch(text)
        if match is None or "--" in match["id"] or ".." in match["id"] or match["id"].endswith(".git"):
            return None
        return cls(match["id"], match["revision"])


def resolve(source: str | Path) -> Path:
    """The folder of a captioner: `source` itself where it exists, else that of the hub's `user/name[@revision]`.

    Files are fetched once into the hub's cache (`HF_HOME`) and found there without network afterwards. Anything that is
    not shaped like a hub name is returned unchanged. Raises `BundleError` where the hub has no such captioner,
    `DownloadError` where it cannot be reached or fails to answer.
    """
    path = captioner_path(source)
    wanted = HubId.parse(path.as_posix() if isinstance(source, Path) else source)
    if wanted is None or path.exists():
        return path
    return _fetch(wanted)


def fetch_model(
    source: str | Path, *, small: Sequence[str], weights: Sequence[str], check: Callable[[Path], None]
) -> Path:
    """The folder of a model that is no captioner: `source` itself where it exists, else that of the hub's
    `user/name[@revision]`, with the files `small` and the first of `weights` that is there, each in one file.

    `check` sees the folder before any weights are fetched, and raises if it is not what is wanted. Raises `BundleError`
    where there is no such model, `DownloadError` where the hub fails to answer.
    """
    path = Path(source)
    wanted = HubId.parse(path.as_posix() if isinstance(source, Path) else source)
    if path.is_dir():
        check(path)
        return path
    if wanted is None:
        raise BundleError(f"'{source}' is not a folder; expected one, or user/name of a model on the hub")
    with _sentences(wanted, "load"):
        folder = _snapshot(wanted.id, wanted.revision, small)
        check(folder)
        for name in weights:
            folder = _snapshot(wanted.id, folder.name, (*small, name))
            if (folder / name).is_file():
                return folder
    raise BundleError(
        f"{wanted.id}: found no {' or '.join(weights)}, on the hub or fetched from it before; expected a model with its weights in one file"
    )


def need_folder(path: Path) -> Path:
    """Returns `path` if it looks like a captioner, else raises `BundleError`; loading checks whether it is complete."""
    if (path / "config.json").is_file():
        return path
    near = _near(path)
    hint = f"did you mean '{near}'?" if near else "train one with  showtell train"
    found = "has no config.json" if path.is_dir() else "is not a folder"
    raise BundleError(
        f"'{path}' {found}; expected a bundle ({', '.join(BUNDLE_FILES)}), or user/name on the hub; {hint}"
    )


@dataclass(frozen=True)
class Upload:
    """What a push sends: a captioner's files, and a card as its README.md."""

    files: tuple[Path, ...]
    card: str
    config: bytes  # without local folders, which bundles of earlier versions name

    def lines(self) -> list[str]:
        """The files and their sizes, for people."""
        sizes = {path.name: path.stat().st_size for path in self.files}
        sizes |= {"README.md": len(self.card.encode()), "config.json": len(self.config)}
        return [f"{size:>12,} bytes  {name}" for name, size in sorted(sizes.items())]


def prepare_upload(
    folder: Path, target: HubId, *, license: str, datasets: Sequence[str] = (), scores: Sequence[Path] = ()
) -> Upload:
    """Gathers a bundle's or an exported folder's files and writes its card; nothing is sent.

    `scores` are files that `showtell evaluate --json` printed. Raises `BundleError` for an incomplete captioner or none
    at all, `RecipeError` for a licence or data set's name that the hub would refuse, `DataError` for files without
    scores.
    """
    from showtell.card import Scored, model_card
    from showtell.recipe import parse_recipe

    if not _LICENSE.fullmatch(license.lower()):
        raise RecipeError(_no_license(license))
    wrong = next((name for name in datasets if not re.fullmatch(rf"(?:{_NAME}/)?{_NAME}", name)), None)
    if wrong is not None:
        raise RecipeError(f"--dataset '{wrong}' is no data set's name on the hub; expected user/name")
    config = read_config(need_folder(folder))
    names = ("config.json", *EXPORT_FILES) if "onnx" in config else BUNDLE_FILES
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise BundleError(f"'{folder}' is incomplete: {', '.join(missing)} is missing; copy or export it again")
    if not saved_together(folder):
        raise torn(folder)
    beside = sorted(folder.glob("*.onnx.data")) if "onnx" in config else []
    recipe = parse_recipe(config["recipe"], where=str(folder / "config.json"))
    card = model_card(
        recipe,
        config.get("training") or {},
        decoding=config.get("decoding"),
        evaluations=[Scored.read(_read_json(path), where=str(path)) for path in scores],
        source=target.id,
        license=license.lower(),
        datasets=datasets,
        precision=config["precision"] if "onnx" in config else "",
    )
    return Upload(
        (*(folder / name for name in names), *beside), card, _without_folders(folder / "config.json", config, recipe)
    )


def _without_folders(path: Path, config: dict[str, Any], recipe: Recipe) -> bytes:
    """The config.json as it is, or, where it names local folders, with the data set's name alone."""
    data, away = config["recipe"].get("data", {}), recipe.given_away().data
    kept = {**data, "path": away.path, "cache": away.cache} if data else data
    if kept == data:
        return path.read_bytes()
    cleaned = {**config, "recipe": {**config["recipe"], "data": kept}}
    return (json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n").encode()


def push(upload: Upload, target: HubId, *, private: bool = False, message: str = "", token: str | None = None) -> str:
    """Puts a captioner on the hub in one commit, and returns the commit's address.

    Creates the repository and the branch `target.revision` where they do not exist. Files of an earlier captioner that
    are not sent again are deleted in the same commit. Raises `DownloadError` where the hub refuses or cannot be
    reached, or where there is no login.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    if not (token or get_token()):
        raise DownloadError(f"there is no login for the hub; {_LOGIN}")
    api = HfApi(token=token, library_name="showtell", library_version=showtell.__version__)
    with _sentences(target, "push"):
        api.create_repo(target.id, private=True if private else None, exist_ok=True)
        if private and api.model_info(target.id).private is False:
            raise DownloadError(f"{target.id} exists and is public; make it private on the hub, or leave out --private")
        if target.revision:
            api.create_branch(target.id, branch=target.revision, exist_ok=True)
        there = set(api.list_repo_files(target.id, revision=target.revision))
        _check_same_kind(target, there, token)
        names = {path.name for path in upload.files}
        commit = api.create_commit(
            target.id,
            [
                CommitOperationAdd("README.md", upload.card.encode()),
                *(
                    CommitOperationAdd(path.name, upload.config if path.name == "config.json" else path)
                    for path in upload.files
                ),
                *(CommitOperationDelete(name) for name in sorted(there - names) if _is_ours(name)),
            ],
            commit_message=message or f"showtell {showtell.__version__}",
            revision=target.revision,
        )
    return str(commit.commit_url)


def _check_same_kind(target: HubId, there: set[str], token: str | None) -> None:
    """`DownloadError` where the repository holds a model that is not ours and that a push would overwrite."""
    if there - {".gitattributes", "README.md"} and not (
        "config.json" in there and _is_captioner(_snapshot(target.id, target.revision, _SMALL, token))
    ):
        raise DownloadError(
            f"{target.id} holds a model that was not made by showtell, which would be overwritten; push to another name"
        )


def read_token(path: Path) -> str:
    """The token in a file. `RecipeError` where it does not hold exactly one word."""
    words = path.read_text(encoding="utf-8", errors="replace").split()
    if len(words) != 1:
        raise RecipeError(f"--token-file {path}: found {len(words)} words; expected the token alone")
    return words[0]


def _fetch(wanted: HubId) -> Path:
    """The snapshot's folder. Small files come first, so that gigabytes are not fetched only to be refused."""
    with _sentences(wanted, "load"):
        folder = _snapshot(wanted.id, wanted.revision, _SMALL)
        if not _is_captioner(folder):
            raise BundleError(
                f"'{wanted.id}' is no folder here, and the model of that name on the hub was not made by showtell; "
                "expected a folder, or user/name of a captioner that  showtell push  put there"
            )
        return _snapshot(wanted.id, folder.name, (*_SMALL, *_LARGE))  # of that commit, should the branch move meanwhile


def _snapshot(name: str, revision: str | None, patterns: Sequence[str], token: str | None = None) -> Path:
    """Its folder in the hub's cache, with the files of these names; without `token`, the stored login is used."""
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(patterns),
            token=token,
            library_name="showtell",
            library_version=showtell.__version__,
        )
    )


def _is_captioner(folder: Path) -> bool:
    try:
        config = read_config(folder)
    except BundleError:
        return False
    return "transform" in config and ("onnx" in config or "format_version" in config)


def _is_ours(name: str) -> bool:
    return name in {*BUNDLE_FILES, *EXPORT_FILES} or ("/" not in name and name.endswith(".onnx.data"))


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a bundle or an exported folder, its recipe included; `BundleError` where it is neither."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["recipe"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BundleError(
            f"{folder / 'config.json'} is not a captioner's; expected a bundle or an exported folder"
        ) from None
    return dict(config)


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = {}
    return value if isinstance(value, dict) else {}


def _no_license(found: str) -> str:
    start = f"--license '{found}' is no licence's identifier" if found else "--license is missing"
    return f"{start}; expected one such as mit, apache-2.0, cc-by-4.0, cc-by-nc-4.0, or other"


@contextlib.contextmanager
def _sentences(target: HubId, doing: str) -> Iterator[None]:
    """Turns the hub's errors, and its silence, into one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    try:
        yield
    except Exception as error:  # the hub's client raises many kinds, of two HTTP libraries
        chain = list(_causes(error))
        answer = next((e for e in chain if isinstance(e, HfHubHTTPError) and e.response is not None), None)
        if any(isinstance(e, RevisionNotFoundError) for e in chain):
            raise BundleError(
                f"the hub's {target.id} has no revision '{target.revision or 'main'}'; name another"
            ) from None
        if answer is not None:
            raise _refused(target, doing, answer) from None
        if any(_is_of_the_net(e) or isinstance(e, LocalEntryNotFoundError) for e in chain):
            raise DownloadError(_unreachable(target, doing)) from None
        if isinstance(error, ValueError | RuntimeError):
            raise DownloadError(f"the hub does not take {target.id}: {_said(error)}") from None
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_of_the_net(error: BaseException) -> bool:
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, ConnectionError | TimeoutError) or library in {"httpx", "httpx2", "requests", "urllib3"}


def _refused(target: HubId, doing: str, answer: Any) -> BundleError | DownloadError:
    status = answer.response.status_code
    if doing == "load" and status in (401, 403, 404):
        return BundleError(
            f"'{target.id}' is no folder here, and the hub has no model of that name that you may read ({status}); "
            f"check the spelling, or, if it is private, {_LOGIN.rpartition(',')[0]}{_did_you_mean(target)}"
        )
    if status == 401:
        return DownloadError(f"the hub does not accept this login (401); {_LOGIN}")
    if status == 403:
        return DownloadError(
            f"this login may not write to {target.id} (403); expected a token with the right to write there, as its owner "
            "or a member of its organisation"
        )
    about = f"'{target.id}' is no folder here, and the hub" if doing == "load" else "the hub"
    return DownloadError(f"{about} answers {status} about {target.id}: {_said(answer)}; try again later")


def _unreachable(target: HubId, doing: str) -> str:
    why = why_no_hub()
    if doing == "load":
        return (
            f"'{target.id}' is no folder here, and {why}; what was fetched once is found without it, this was not"
            f"{_did_you_mean(target)}"
        )
    return f"{why}; nothing was published; try again with a network"


def _did_you_mean(target: HubId) -> str:
    near = _near(Path(target.id))
    return f"; did you mean '{near}'?" if near else ""


def _near(path: Path) -> Path | None:
    """The captioner that `path` probably meant: a run's bundle, there or in the folder of the nearest name."""
    meant, place = path, path.parent
    if path.name == "bundle" and not place.is_dir():  # runs/photo/bundle of runs/photos/bundle
        meant, place = place, place.parent
    beside = [folder.name for folder in place.iterdir() if folder.is_dir()] if place.is_dir() else []
    for name in [meant.name] * meant.is_dir() + difflib.get_close_matches(meant.name, beside, n=3):
        for folder in (place / name / "bundle", place / name):
            if (folder / "config.json").is_file():
                return folder
    return None


def _said(error: Exception) -> str:
    """The first line of what the hub answered, or else of the error, without its full stop."""
    return first_line(getattr(error, "server_message", None) or error).rstrip(". ")
