"""Images of a Docker daemon (or Podman's service): look for one, pull it where it is missing, say why it cannot be had.

An image that is there is never pulled again: a tag that moved in its registry does not change tasks by itself. This
module must never run anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import docker.errors
import msgspec

from tes_server import errors
from tes_server.model import image_names
from tes_server.runner import docker_client
from tes_server.telemetry import Code

DENIED = ("denied", "unauthorized", "forbidden", "authentication required", "no basic auth credentials", "may require 'docker login'")
MISSING = ("not found", "manifest unknown", "name unknown", "no such image", "does not exist")
UNUSABLE = ("invalid reference", "no matching manifest", "unsupported", "repository name must")
"""Words of daemons and registries, lower case. They pass on what each registry writes; the HTTP status says less (Docker
answers 404 for "denied" and 500 for an address that does not resolve)."""

_BEGINNING = re.compile(r"(?:sha256:)?([0-9a-f]{1,63})")
"""What daemons may take for the beginning of an image's id."""

Login = Callable[[str], Mapping[str, str] | None]
"""From an image to `username` and `password` for its registry; None = those of the login file, if it has any. May raise EngineError."""


class Found(msgspec.Struct, frozen=True):
    """An image of a daemon: its id there, and `repository@digest` of each place that it came from or, in some daemons, that its names stand for."""

    id: str
    digests: tuple[str, ...]


def no_login(image: str) -> None:
    """The login file alone."""


def prepare(daemon: docker_client.Daemon, image: str, login: Login = no_login) -> str:
    """Make sure that the daemon has the image. Its digest in its repository, or its id where it never was in one.

    The daemon merges pulls of one image that run at the same time.
    """
    found = find(daemon, image)
    if found is None and image_names.is_digest(image):
        raise errors.EngineError(f"{image}: the image with this id is not there any more", Code.IMAGE_NOT_FOUND, transient=True)
    if found is None:
        _pull(daemon, image, login(image))
        found = find(daemon, image)
    if found is None:
        raise errors.EngineError(f"{image}: pulled, but not there", Code.IMAGE_ERROR, transient=True)
    return (found.digests or (found.id,))[0]


def find(daemon: docker_client.Daemon, image: str) -> Found | None:
    """What the daemon has under a name, a digest or an id; None = nothing.

    The beginning of an id is a name like any other here: daemons take it for the image, whatever the site's rules say of that name.
    """
    with daemon.ask(f"{image} cannot be looked up") as client:
        try:
            found = client.inspect_image(image)
        except docker.errors.NotFound:
            return None
    if abbreviated(image, str(found["Id"]), found.get("RepoTags") or ()):
        return None
    return Found(str(found["Id"]), tuple(map(str, found.get("RepoDigests") or ())))


def abbreviated(image: str, known: str, tags: Iterable[str]) -> bool:
    """True if a daemon has found the image with the id `known` by the beginning of that id, and not by one of its tags."""
    beginning = _BEGINNING.fullmatch(image)
    if beginning is None or not known.removeprefix("sha256:").startswith(beginning[1]):
        return False
    return not {tag.rpartition("/")[2] for tag in tags} & {image, f"{image}:latest"}


def any_image(daemon: docker_client.Daemon) -> str:
    """The id of some image that is there, for a container that runs nothing of it."""
    with daemon.ask("images cannot be listed") as client:
        images = client.images()
    if not images:
        raise errors.EngineError("this needs an image, and the daemon has none", Code.ENGINE_ERROR, transient=True)
    return str(min(images, key=lambda image: image["Size"])["Id"])


def refusal(image: str, said: str) -> errors.EngineError:
    """Why a pull failed, from the daemon's words. What no rule knows may pass: networks and registries recover."""
    text = said.lower()
    code, transient = Code.IMAGE_ERROR, True
    if any(word in text for word in UNUSABLE):
        transient = False
    elif any(word in text for word in DENIED):
        code, transient = Code.IMAGE_DENIED, False
    elif any(word in text for word in MISSING):
        code, transient = Code.IMAGE_NOT_FOUND, False
    return errors.EngineError(f"{image}: {said}", code, transient)


def _pull(daemon: docker_client.Daemon, image: str, credentials: Mapping[str, str] | None) -> None:
    with daemon.ask(f"{image} cannot be pulled") as client:
        try:
            for event in client.pull(image, stream=True, decode=True, auth_config=credentials):
                if "error" in event:
                    raise refusal(image, " ".join(str(event["error"]).split()))
        except docker.errors.APIError as error:
            raise refusal(image, docker_client.words(error)) from error
