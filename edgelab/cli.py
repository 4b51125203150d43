"""The command line. Every failure is one line on standard error and an exit status that is not zero."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from edgelab.errors import EdgelabError

app = typer.Typer(
    help="Run the chapters of the course and build its book.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what a user can cause into one line and an exit status: 1 for an error, 130 for Ctrl-C."""
    try:
        yield
    except EdgelabError as error:
        message, status = str(error), 1
    except OSError as error:
        message, status = f"{error.filename or 'the system'}: {error.strerror or error}", 1
    except KeyboardInterrupt:
        message, status = "interrupted: the same command goes on with what is not finished", 130
    else:
        return
    typer.echo(f"edgelab: {message}", err=True)
    raise typer.Exit(status)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgelab {metadata.version('edgelab')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Options that stand before a command."""


def _pairs(parameters: Sequence[str]) -> dict[str, str]:
    """Parameter names and values from "NAME=VALUE"."""
    for parameter in parameters:
        if "=" not in parameter:
            raise EdgelabError(f"expected -p NAME VALUE, got {parameter!r} alone")
    return {name: value for name, _, value in (parameter.partition("=") for parameter in parameters)}


@app.command("run")
def run_command(
    chapters: Annotated[list[str] | None, typer.Argument(help='Such as "01" or "01_baseline"; none: all.')] = None,
    profile: Annotated[str, typer.Option(help="ci (digits, seconds), zoo (kept checkpoints) or full (trains).")] = "ci",
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", metavar="NAME VALUE", help="Set a notebook's parameter.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; build/<profile> by default.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Then put the outputs into the repository: ci notebooks/, else book/.")
    ] = False,
) -> None:
    """Execute chapters that have changed or not finished."""
    from edgelab import course

    with _one_line():
        course.run(chapters or (), profile, _pairs(parameter or ()), output, publish)


@app.command("book")
def book_command(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; build/book by default.")] = None,
) -> None:
    """Build the book if anything in it has changed."""
    from edgelab import book, course

    with _one_line():
        book.build(course.find_root(), output)


def _joined(arguments: Sequence[str]) -> list[str]:
    """`-p NAME VALUE`, as papermill takes it, joined to `-p NAME=VALUE`: typer repeats single values only."""
    rest, joined = list(arguments), []
    while rest:
        joined.append(rest.pop(0))
        if joined[-1] in ("-p", "--parameter") and len(rest) > 1 and "=" not in rest[0]:
            joined.append(f"{rest.pop(0)}={rest.pop(0)}")
    return joined


def main() -> None:
    """What the console script calls."""
    app(_joined(sys.argv[1:]), prog_name="edgelab")
