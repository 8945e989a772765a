"""Static keys and region of a profile in the AWS configuration files.

https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html. Profiles that sign in by SSO, or take a role
through another one, hold no keys: they are for the AWS tools, which can put keys into a profile or the environment. This
module must never print what it reads.
"""

from __future__ import annotations

import configparser
import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple


class Profile(NamedTuple):
    """What a profile says; empty where it says nothing."""

    key: str = ""
    secret: str = ""
    token: str = ""
    region: str = ""


def read(name: str, environment: Mapping[str, str] = os.environ) -> Profile | None:
    """The profile `name`, or without a name that of AWS_PROFILE, else `default`. None if no file has it."""
    name = name or environment.get("AWS_PROFILE") or "default"
    home = pathlib.Path(environment.get("HOME") or "~").expanduser() / ".aws"
    credentials = _section(environment.get("AWS_SHARED_CREDENTIALS_FILE") or str(home / "credentials"), name)
    title = name if name == "default" else f"profile {name}"
    config = _section(environment.get("AWS_CONFIG_FILE") or str(home / "config"), title)
    found = {**config, **credentials}
    if not found:
        return None
    return Profile(
        found.get("aws_access_key_id", ""),
        found.get("aws_secret_access_key", ""),
        found.get("aws_session_token", ""),
        config.get("region", "") or credentials.get("region", ""),
    )


def _section(path: str, title: str) -> Mapping[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(pathlib.Path(path).expanduser(), encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):
        return {}
    return parser[title] if parser.has_section(title) else {}
