"""`tes-server images`: the sandbox's container images for the person who runs the server: pull, list, load, remove.

They work beside a running server, on the same directory. Heavy imports stay inside the commands, as in `cli`.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from tes_server import cli_options, errors
from tes_server.settings import Settings

if TYPE_CHECKING:
    from tes_server.runner.images import Images

DIGEST_SHOWN = len("sha256:") + 12
"""Characters of a digest in a table."""


@click.group(short_help="Container images of the sandbox engine.")
def images() -> None:
    """Container images of the sandbox engine, kept in the data directory."""


@images.command(short_help="Fetch images ahead of the tasks that name them.")
@cli_options.place
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def pull(names: tuple[str, ...], **given: Any) -> None:
    """Fetch images, or what their tags lead to now. Exit code 1 if one could not be had; the others are fetched nevertheless."""

    def one(name: str, kept: Images) -> None:
        image = kept.pull(name)
        click.echo(f"{name}  {image.digest}  {_size(image.size)}")

    _each(names, _opened(given), one)


@images.command("list", short_help="List what is there.")
@cli_options.place
def list_(**given: Any) -> None:
    """List the images that are there, the one used last first. An image is in use while a task runs in it."""
    rows = [("NAME", "DIGEST", "SIZE", "USED", "")]
    total = 0
    kept = _opened(given)
    for listed in kept.list():
        total += listed.image.size
        tags = [name for name in listed.names if "@" not in name] or [name.partition("@")[0] for name in listed.names] or ["-"]
        used = listed.used.strftime("%Y-%m-%d %H:%M")
        rows += [(tag, listed.image.digest[:DIGEST_SHOWN], _size(listed.image.size), used, "in use" if listed.held else "") for tag in dict.fromkeys(tags)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    click.echo(f"{_size(total)} of {_size(kept.limit)} (sandbox.images_gb) in {kept.directory}")


@images.command(short_help="Take images from a file.")
@cli_options.place
@click.argument("file", type=click.Path(path_type=pathlib.Path, allow_dash=True))
@click.option("--name", default="", help="Name for the image, where the file has one image and no name, or another.")
def load(file: pathlib.Path, name: str, **given: Any) -> None:
    """Take images from a file that `docker save` wrote, or an OCI archive; - is standard input. No registry is asked about them then."""

    def one(title: str, kept: Images) -> None:
        with _readable(file, kept) as archive:
            for known, image in kept.load(archive, title, name):
                click.echo(f"{known or '(no name)'}  {image.digest}  {_size(image.size)}")

    _each(["standard input" if str(file) == "-" else str(file)], _opened(given), one)


@images.command(short_help="Delete images.")
@cli_options.place
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def remove(names: tuple[str, ...], **given: Any) -> None:
    """Delete images by name or digest. One that a task runs in stays, and one that has other names loses this one only."""
    _each(names, _opened(given), lambda name, kept: kept.remove(_whole(name, kept)))


def _whole(name: str, kept: Images) -> str:
    """The digest that `list` shows as `name`; another name as it is."""
    found = {listed.image.digest for listed in kept.list() if listed.image.digest[:DIGEST_SHOWN] == name}
    return found.pop() if len(found) == 1 else name


def _opened(given: dict[str, Any]) -> Images:
    from tes_server import app, machine, telemetry

    settings: Settings = cli_options.settings(given)
    app.check(settings)
    telemetry.set_up_logging("warning" if given["log_level"] is None else settings.log.level)
    return machine.images(settings)


def _each(names: Sequence[str], kept: Images, do: Callable[[str, Images], None]) -> None:
    """Do it to each; exit code 1 if that failed for any."""
    failed = False
    for name in names:
        try:
            do(name, kept)
        except errors.EngineError as cause:
            click.echo(f"tes-server: {cause.code}: {cause.public}", err=True)
            failed = True
    if failed:
        sys.exit(1)


@contextlib.contextmanager
def _readable(file: pathlib.Path, kept: Images) -> Iterator[BinaryIO]:
    """An archive is not read front to back: standard input must become a file first."""
    try:
        with file.open("rb") if str(file) != "-" else tempfile.TemporaryFile(dir=kept.directory) as archive:
            if str(file) == "-":
                shutil.copyfileobj(sys.stdin.buffer, archive)
                archive.seek(0)
            yield archive
    except OSError as cause:
        raise click.FileError(str(file), cause.strerror) from cause


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"
