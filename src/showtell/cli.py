"""The `showtell` command line: data · train · tune · evaluate · decoding · caption · report · export · push · serve ·
explain · trace · demo.

Exit codes: 0 done; 1 some inputs failed, the rest are done; 2 wrong input; 130 interrupted. Results go to stdout,
progress and notes to stderr. Nothing heavy is imported before the arguments have been checked.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import showtell
from showtell.commands import (
    caption,
    data,
    decoding,
    demo,
    evaluate,
    explain,
    export,
    push,
    report,
    serve,
    trace,
    train,
    tune,
)
from showtell.commands.terminal import escaped
from showtell.errors import ShowtellError, first_line

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors from writing to an open file do not name it
_ADVICE = {
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name another place",
    errno.ENOENT: "name what is there, or a place in a folder that exists",
    errno.ENOTDIR: "a part of this path is a file; name another place",
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "name a shorter one",
} | dict.fromkeys(_FULL, "make room, and start again")


_UsageError: Any = typer.BadParameter.__bases__[0]  # click's, which Typer bundles under a private name


class _PoliteGroup(TyperGroup):
    """Turns errors that a user can cause into a sentence on stderr and an exit code; our bugs keep their traceback."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except _UsageError as error:
            _misused(error)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except _UsageError as error:
            _misused(error, f"{ctx.command_path} {ctx.invoked_subcommand or ''}".rstrip())
        except ShowtellError as error:
            _fail(str(error), 2)
        except KeyboardInterrupt as error:
            _fail(str(error) or "interrupted", 130)
        except BrokenPipeError:  # the reader has seen enough: `showtell caption … | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            if error.filename is None and error.errno not in _FULL:
                raise
            said = (error.strerror or type(error).__name__).lower()
            if error.errno in _ADVICE:
                said += f"; {_ADVICE[error.errno]}"
            _fail(said if error.filename is None else f"{error.filename}: {said}", 2)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's; not worth importing torch for
                raise
            _fail(
                f"the accelerator's memory is too small ({first_line(error)}); take --batch lower, or --device cpu, where the command has them",
                2,
            )
        return result


app = typer.Typer(
    cls=_PoliteGroup,
    no_args_is_help=True,
    rich_markup_mode=None,  # importing rich for the help alone takes longer than all the rest
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("evaluate")(evaluate.evaluate)
app.command("caption")(caption.caption)
app.command("decoding")(decoding.decoding)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("push")(push.push)
app.command("serve")(serve.serve)
app.command("explain")(explain.explain)
app.command("trace")(trace.trace)
app.command("demo")(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"showtell {showtell.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and stop.")
    ] = False,
) -> None:
    """Train, measure and explain image captioners: a CNN reads a photo, an LSTM tells what it shows."""


def _misused(error: Any, command: str = "showtell") -> NoReturn:
    """Reports wrong arguments of `command` in one sentence; without any arguments, shows the help."""
    if type(error).show is not _UsageError.show:
        raise error
    said = error.format_message().rstrip(".?")
    for theirs, ours in (
        (": Value error, ", ": "),
        (": Input should", ": expected to"),
        (". Did you mean", "; did you mean"),
    ):
        said = said.replace(theirs, ours)
    where = error.ctx.command_path if error.ctx else command
    _fail(f"{said[:1].lower()}{said[1:]}{'?' * ('; did you mean' in said)}; see  {where} --help", 2)


def _fail(sentence: str, code: int) -> NoReturn:
    typer.echo(f"showtell: {escaped(sentence)}", err=True)
    raise typer.Exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command, by default that of the process, and leaves by `SystemExit`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may not be text, terminals may lack "…"
    app(args=arguments, prog_name="showtell")
    return 0
