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
    help="Measure model files, run the chapters of the course and build its book.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


PROFILE_HELP = (
    "ci: handwritten digits, everything trained for a few epochs, about a minute a chapter. zoo: CIFAR-10, what has "
    "no kept checkpoint is trained, minutes a chapter on cifar10-jpeg. full: CIFAR-10, what this machine has not "
    "trained yet is trained, hours the first time."
)
GOES_ON = "interrupted: the same command goes on with what is not finished"


@contextmanager
def _one_line(status: int = 1, interrupted: str = GOES_ON) -> Iterator[None]:
    """Turn what a user can cause into one line and an exit status: `status` for an error, 130 for Ctrl-C."""
    try:
        yield
    except EdgelabError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'the system'}: {error.strerror or error}"
    except KeyboardInterrupt:
        message, status = interrupted, 130
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
    chapters: Annotated[list[str] | None, typer.Argument(help="Such as 1, 01 or 01_baseline; none: all.")] = None,
    profile: Annotated[str, typer.Option(help=PROFILE_HELP)] = "ci",
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", metavar="NAME VALUE", help="Set a notebook's parameter.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; build/<profile> by default.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Then put the outputs into the repository: ci notebooks/, else book/.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, help="Chapters at a time; their latencies then suffer.")
    ] = 1,
) -> None:
    """Execute chapters that have changed or not finished.

    Results of zoo and full are then compared with the published ones.
    """
    from edgelab import course

    with _one_line():
        course.run(chapters or (), profile, _pairs(parameter or ()), output, publish, jobs)


@app.command("book")
def book_command(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; build/book by default.")] = None,
) -> None:
    """Build the book if anything in it has changed."""
    from edgelab import book, course

    with _one_line():
        book.build(course.find_root(), output)


@app.command("measure")
def measure_command(
    file: Annotated[str, typer.Argument(help="A .tflite or .onnx file.")],
    data: Annotated[
        str | None,
        typer.Option(help="digits, cifar10, cifar10-jpeg, or an image folder or archive; by default what fits."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many images: a fixed sample with all classes.")] = None,
    threads: Annotated[int, typer.Option(help="Threads the runtime may use.")] = 1,
    pixels: Annotated[
        str, typer.Option(help="What a float input takes: centred (-1..1), unit (0..1), raw (0..255) or auto (tries).")
    ] = "auto",
    against: Annotated[
        str | None,
        typer.Option(
            metavar="OTHER", help="Compare with another file of the same network, such as its float32 original."
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what makes the file slow or large.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object; notes go to standard error.")] = False,
) -> None:
    """Measure a model file: accuracy, size, energy, latency."""
    import json

    with _one_line(2, "interrupted"):
        from edgelab import report

        found = report.measure(
            file, data, limit=limit, threads=threads, pixels=pixels, explain=explain, against=against
        )
        if as_json:
            fed = [f"pixels {found.told[key]}" for key in ("pixels", "other_pixels") if key in found.told]
            for note in [*fed, *found.notes]:
                typer.echo(f"edgelab: {note}", err=True)
        typer.echo(json.dumps(found.as_json(), indent=2) if as_json else report.in_words(found))


@app.command("macs")
def macs_command(
    model: Annotated[str, typer.Argument(help="A .tflite or .onnx file, or plain_cnn, resnet8 or ds_cnn.")],
    size: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="HxWxC", help="Size of an image, such as 32x32x3, where the file leaves it open."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Count a network's MACs and parameters by layer."""
    import json
    from dataclasses import asdict

    with _one_line(2, "interrupted"):
        from edgelab import report

        table = report.macs(model, _image_size(size) if size else None)
        keys = {"macs": table.macs, "parameters": table.parameters, **asdict(table)}
        typer.echo(json.dumps(keys, indent=2) if as_json else report.table_in_words(table))


@app.command("predict")
def predict_command(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] IMAGE...", help="A .tflite or .onnx file, or none for edgelab's own; images, folders or -."
        ),
    ],
    top: Annotated[int, typer.Option(help="Classes to show for each image.")] = 3,
    threads: Annotated[int, typer.Option(help="Threads the runtime may use.")] = 1,
    pixels: Annotated[
        str, typer.Option(help="What a float input takes where the file does not say: centred, unit or raw.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what a model file sees in images."""
    import json

    with _one_line(2, "interrupted"):
        from edgelab import predict

        found = predict.predict(arguments, top=top, threads=threads, pixels=pixels, stdin=predict.from_stdin())
        if found.answered:
            typer.echo(json.dumps(found.as_json(), indent=2) if as_json else predict.in_words(found))
        for error in found.errors:
            typer.echo(f"edgelab: {error}", err=True)
        if found.errors:
            if len(found.images) > 1:
                typer.echo(f"edgelab: {len(found.errors)} of {len(found.images)} images failed", err=True)
            raise typer.Exit(2)


@app.command("export")
def export_command(
    checkpoint: Annotated[
        str, typer.Argument(help="A .safetensors file of the course, or one of edgelab's by name, such as ds_cnn.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; replaced if it is there.")],
    to: Annotated[str | None, typer.Option(help="tflite or onnx; by default as FILE ends.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantize, calibrated with training images.")] = False,
    images: Annotated[
        str | None, typer.Option("--data", help="Where the checkpoint's own images are; by default by their name.")
    ] = None,
) -> None:
    """Make a checked model file of a trained network."""
    with _one_line(2, "interrupted: nothing was written"):
        from edgelab import export

        typer.echo(export.by_name(checkpoint, output, to, int8=int8, images=images).in_words())


@app.command("micro")
def micro_command(
    model: Annotated[str, typer.Argument(help="A .tflite file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new folder for a program that runs the int8 file.")
    ] = None,
) -> None:
    """Say which microcontrollers a model file fits."""
    with _one_line(2, "interrupted: nothing was written"):
        from edgelab import micro

        needs = micro.needs(model)
        files = micro.sketch(needs) if output else {}
        typer.echo(micro.in_words(needs, micro.fits(needs)))
        if output:
            typer.echo(f"\n{micro.write(files, output)}: {', '.join(files)}")


@app.command("budget")
def budget_command(
    model: Annotated[str, typer.Argument(help="A .tflite or .onnx file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="An .html file for a report; replaced if it is there.")
    ] = None,
    flash: Annotated[
        str | None, typer.Option(metavar="BYTES", help="At most, for the model file alone: 256k, 1M.")
    ] = None,
    ram: Annotated[
        str | None, typer.Option(metavar="BYTES", help="At most, for the arena (.tflite) or activations.")
    ] = None,
    energy: Annotated[float | None, typer.Option(metavar="UJ", help="At most, estimated for an image.")] = None,
    accuracy: Annotated[float | None, typer.Option(help="At least, such as 0.8, with 95 % confidence.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, cifar10, cifar10-jpeg, or an image folder or archive; by default what fits."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many images: a fixed sample with all classes.")] = None,
) -> None:
    """Judge a model file by limits; status 1 if it fails. `edgelab micro` adds what a runtime takes."""
    with _one_line(2, "interrupted: nothing was written"):
        from edgelab import budget

        flash_bytes = None if flash is None else budget.parse_bytes(flash, "--flash")
        ram_bytes = None if ram is None else budget.parse_bytes(ram, "--ram")
        limits = budget.Budget(flash_bytes, ram_bytes, energy, accuracy)
        checks = budget.of_file(model, limits, output, data, limit)
        typer.echo("\n".join([*(check.in_words() for check in checks), "", budget.verdict(checks)]))
        if output:
            typer.echo(f"report: {output}")
        if not all(check.met for check in checks):
            raise typer.Exit(1)


@app.command("sweep")
def sweep_command(
    config: Annotated[Path, typer.Argument(help="A YAML file that says what to search.")],
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A database where several machines meet; by default a file in the folder."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; build/sweep/STUDY by default.")] = None,
) -> None:
    """Search designs for the best accuracy at every cost."""
    with _one_line(2):
        from edgelab import sweep

        wanted = sweep.read(config)
        found = sweep.run(wanted, output or Path("build") / "sweep" / wanted.study, storage)
        typer.echo(sweep.in_words(found))


def _image_size(text: str) -> tuple[int, int, int]:
    """Height, width and channels from such as "32x32x3"."""
    sizes = text.lower().split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and 0 < int(size) <= 65536 for size in sizes):
        raise EdgelabError(f"expected --input HEIGHTxWIDTHxCHANNELS such as 32x32x3, got {text!r}")
    height, width, channels = map(int, sizes)
    return height, width, channels


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
