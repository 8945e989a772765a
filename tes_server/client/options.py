"""Options that several `tes` commands share, and what they come to: a session with one server, and its way to print.

Must never know a single command.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from tes_server import errors
from tes_server.client import address, compose
from tes_server.client.connection import Server

Command = TypeVar("Command", bound=Callable[..., Any])
T = TypeVar("T")


class Session:
    """One run of `tes`: the server, whether --json was given, and whether a person reads standard output."""

    def __init__(self, server: Server, is_json: bool) -> None:
        self.server = server
        self.is_json = is_json
        self.is_person = not is_json and sys.stdout.isatty()

    def emit(self, answer: Mapping[str, Any]) -> None:
        """One JSON object on one line."""
        click.echo(json.dumps(answer, ensure_ascii=False).encode(errors="replace"))

    def created(self, task_id: str, quiet: bool) -> None:
        """Tell the id of a new or touched task: bare to people and with --quiet, else as JSON."""
        if quiet or self.is_person:
            click.echo(task_id)
        else:
            self.emit({"id": task_id})


def notice(text: str) -> None:
    """One remark of `tes` itself, on stderr."""
    click.echo(f"tes: {text}", err=True)


def write(name: str, text: str) -> None:
    """A task's own output, as it is, on our stream of the same name."""
    click.echo(text.encode(errors="replace"), nl=False, err=name == "stderr")


def connected(command: Command) -> Command:
    """Give a command --url, --token-file and --json, and its first argument: the Session."""

    @click.option(
        "--url", envvar="TES_URL", default=address.DEFAULT_URL, show_default=True, show_envvar=True, help="Server, with or without /v1 or /ga4gh/tes/v1."
    )
    @click.option("--token-file", type=click.Path(path_type=pathlib.Path), help="File with a bearer token (else TES_TOKEN, or TES_USER and TES_PASSWORD).")
    @click.option("--json", "is_json", is_flag=True, help="JSON also at a terminal.")
    @functools.wraps(command)
    def run(*args: Any, url: str, token_file: pathlib.Path | None, is_json: bool, **options: Any) -> Any:
        server = Server(address.find(url, token_file, os.environ), notice)
        try:
            return command(Session(server, is_json), *args, **options)
        finally:
            server.close()

    return run  # type: ignore[return-value]  # the same command with three more options


def parsed(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A click callback that parses the value, or each of several, and turns `errors.Invalid` into a usage error."""

    def convert(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return [parse(item) for item in value]
            return None if value is None else parse(value)
        except errors.Invalid as cause:
            raise click.BadParameter(cause.public, context, parameter) from cause

    return convert


def task_ids(given: tuple[str, ...]) -> list[str]:
    """The ids of the command line, each once; `-` stands for those on standard input."""
    found: dict[str, None] = {}
    for word in given:
        for task_id in compose.ids(sys.stdin.read()) if word == "-" else [word]:
            found[task_id] = None
    if not found:
        raise errors.Invalid("no task ids were given")
    return list(found)
