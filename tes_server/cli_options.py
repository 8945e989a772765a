"""Options that several `tes-server` commands share, and the settings that they come to.

This module must never print, nor import what is slow: it is read for `--help` too.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import click

from tes_server import configuration
from tes_server.settings import Settings

Command = Callable[..., Any]


def load(config: pathlib.Path | None, flags: Mapping[str, Any]) -> Settings:
    """Settings from file, environment and those flags that were given."""
    given = {key: value for key, value in flags.items() if value is not None and value is not False and value != ()}
    named = config or (pathlib.Path(os.environ["TES_SERVER_CONFIG"]) if os.environ.get("TES_SERVER_CONFIG") else None)
    return configuration.load(named, os.environ, given)


def place(command: Command) -> Command:
    """Options that say where this server's files are."""
    options = (
        click.option("--config", type=click.Path(path_type=pathlib.Path), help="TOML file with settings (or TES_SERVER_CONFIG)."),
        click.option("--data", help="Directory of the embedded store and of local tasks."),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Events below it are left out."),
    )
    for option in reversed(options):  # as stacked decorators are applied, so that --help lists them in this order
        command = option(command)
    return command


def site(command: Command) -> Command:
    """Options that say what this site is; all commands that run tasks take them."""
    options = (
        click.option("--config", type=click.Path(path_type=pathlib.Path), help="TOML file with settings (or TES_SERVER_CONFIG)."),
        click.option("--data", help="Directory of the embedded store and of local tasks."),
        click.option("--engine", type=click.Choice(["auto", "docker", "podman", "sandbox"]), help="What runs tasks on this machine."),
        click.option("--root", "roots", multiple=True, help="Directory whose files tasks may read and write; may be given several times."),
        click.option("--allow-host", is_flag=True, help="Sandbox: allow the image 'host', this machine's own programs."),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Events below it are left out."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def settings(given: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> Settings:
    """Settings from the values of `site` or `place`, and `more` flags by dotted key."""
    flags = {
        "data": given["data"],
        "local.engine": given.get("engine"),
        "files.roots": tuple(str(pathlib.Path(root).absolute()) for root in given.get("roots", ())),
        "sandbox.allow_host": given.get("allow_host"),
        "log.level": given["log_level"],
        **(more or {}),
    }
    return load(given["config"], flags)
