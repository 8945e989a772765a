"""Where this machine keeps secrets for tasks: a file, a directory of files, or a variable of the server's own environment.

Read each time a task asks, so that one that was replaced holds from then on. This module must never put a value, or a part of one, into an error or a log.
"""

from __future__ import annotations

import json
import os
import pathlib

from tes_server import errors
from tes_server.runner.vault import LONGEST
from tes_server.telemetry import Code

VARIABLE = "env:"
"""How references to variables begin. All others are absolute paths."""

MOST_FILES = 256
"""Files of a directory that are keys of a secret."""


def look(reference: str) -> str:
    """`vault.Look` for references of this machine. A directory is a JSON object of its files, as mounts of Kubernetes Secrets and Docker secrets are."""
    if reference.startswith(VARIABLE):
        value = os.environ.get(reference.removeprefix(VARIABLE))
        if value is None:
            raise errors.StagingError("the variable that it leads to is not set where this server runs", Code.SECRET_NOT_FOUND)
        return value
    path = pathlib.Path(reference)
    try:
        if path.is_dir():
            # Kubernetes' own links and directories in such a mount begin with two dots.
            files = sorted(file for file in path.iterdir() if not file.name.startswith("..") and file.is_file())[:MOST_FILES]
            return json.dumps({file.name: _text(file) for file in files})
        return _text(path)
    except FileNotFoundError:
        raise errors.StagingError("the file that it leads to does not exist", Code.SECRET_NOT_FOUND) from None
    except PermissionError:
        raise errors.StagingError("this server may not read the file that it leads to", Code.SECRET_DENIED) from None
    except UnicodeDecodeError:
        raise errors.StagingError("the file that it leads to is no UTF-8 text", Code.SECRET_ERROR) from None
    except OSError as cause:
        raise errors.StagingError(f"the file that it leads to cannot be read: {os.strerror(cause.errno or 0)}", Code.SECRET_ERROR, transient=True) from None


def _text(path: pathlib.Path) -> str:
    """Without the newline that editors and `echo` put at the end."""
    with path.open("rb") as file:
        return file.read(LONGEST + 2).decode().removesuffix("\n")
