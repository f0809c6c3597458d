"""`showtell push`: put a captioner on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from showtell.commands.terminal import need_file, note
from showtell.errors import RecipeError


def push(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, or an exported one.")],
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="Its name on the hub.")],
    license: Annotated[str, typer.Option(metavar="ID", help="Its licence, e.g. mit or cc-by-4.0; required.")] = "",
    scores: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Output of  showtell evaluate --json  for the card.")
    ] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="USER/NAME", help="The hub's name of a data set that it was trained on.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str, typer.Option(metavar="BRANCH", help="The branch to write to [default: main].")] = "",
    message: Annotated[str, typer.Option(metavar="TEXT", help="The commit's message.")] = "",
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with the token, instead of HF_TOKEN or the login.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the card and the files; send nothing.")] = False,
) -> None:
    """Put a captioner on the Hugging Face Hub with a model card, in one commit."""
    from showtell.hub import HubId, prepare_upload, read_token
    from showtell.hub import push as push_upload

    target = HubId.parse(f"{name}@{revision}" if revision else name)
    if target is None:
        raise RecipeError(f"'{name}' is no name on the hub; expected user/name, of letters, digits, '-', '_' and '.'")
    for path in scores or []:
        need_file(path, "--scores")
    token = read_token(need_file(token_file, "--token-file")) if token_file is not None else None
    upload = prepare_upload(bundle, target, license=license, datasets=dataset or [], scores=scores or [])
    if dry_run:
        typer.echo(upload.card)
        typer.echo("\n".join(upload.lines()))
        return
    note(f"sending {len(upload.files) + 1} files to {target.id}")
    typer.echo(push_upload(upload, target, private=private, message=message, token=token))
