"""What an executor of a task says of itself, held against what engines and Linux take. Pure.

This module must never look at a path: those are the layout's matter, over all fields of a task.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from tes_server.errors import Invalid
from tes_server.model.task import Executor
from tes_server.plan import guard, paths, secret_names
from tes_server.plan.policy import HOST_IMAGE, Capabilities

LONGEST_ARGUMENT = 128 * 1024 - 1
"""Linux takes no single argument or environment string of 128 KiB or more (MAX_ARG_STRLEN)."""

LONGEST_COMMAND = 3 * 512 * 1024
"""Arguments and environment together: Linux allows a quarter of the stack, 2 MiB by default, less what wrappers add."""

_NAME = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_DIGEST = r"[A-Za-z][A-Za-z0-9+._-]*:[0-9a-fA-F]{32,}"
IMAGE = re.compile(rf"(?:{_HOST}/)?{_NAME}(?:/{_NAME})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@{_DIGEST})?")
"""Names of images as registries and engines take them: [host[:port]/]path[:tag][@digest] (OCI distribution, "Pulling manifests")."""

LONGEST_IMAGE = 500
"""Characters; registries take 255 for the path alone."""


def check(executor: Executor, pointer: str, capabilities: Capabilities, secrets: Collection[str], owner: str) -> None:
    """Raise Invalid with the field at fault. `secrets`: those that it may name; `owner`: as in `secret_names.refusal`."""
    image = executor.image
    if len(image) > LONGEST_IMAGE or not IMAGE.fullmatch(image):
        raise Invalid(f"is not the name of an image: {paths.shorten(image)}", f"{pointer}/image")
    if why := guard.registry(image):
        raise Invalid(why, f"{pointer}/image")
    if image == HOST_IMAGE and not capabilities.host_image:
        raise Invalid("the image 'host' (this machine's own programs) is only for the sandbox engine with sandbox.allow_host = true", f"{pointer}/image")
    if not executor.command or not executor.command[0]:
        raise Invalid("must name a program: it is argv, run without a shell", f"{pointer}/command")
    size = 0
    for number, argument in enumerate(executor.command):
        size += _check_string(argument, f"{pointer}/command/{number}")
    for name, value in (executor.env or {}).items():
        if not name or "=" in name:
            raise Invalid(f"{paths.shorten(name)} cannot be the name of an environment variable", f"{pointer}/env")
        place = f"{pointer}/env/{paths.pointer_part(name)}"
        size += _check_string(f"{name}={value}", place)
        if why := secret_names.refusal(value, secrets, capabilities.secret_keys, owner=owner):
            raise Invalid(why, place)
    if size > LONGEST_COMMAND:
        raise Invalid(
            f"command and env together are {size} bytes, more than the {LONGEST_COMMAND} that Linux takes; put some of it into an input file", pointer
        )


def _check_string(text: str, pointer: str) -> int:
    if "\0" in text:
        raise Invalid("must not hold a NUL character", pointer)
    size = len(text.encode())
    if size > LONGEST_ARGUMENT:
        raise Invalid(f"is {size} bytes long, Linux takes at most {LONGEST_ARGUMENT} in one argument; put it into an input file", pointer)
    return size
