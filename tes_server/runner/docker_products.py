"""Docker and Podman speak one API with two tongues: where they differ, as data and small pure functions.

What an address means, what to tell somebody whose daemon does not answer, and which failure is only a state. This module
must never ask a daemon anything.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import docker.utils
import msgspec

NAME_TAKEN = "is already in use"
NOT_RUNNING = "container state improper"
"""What Podman says with status 500 where Docker says 409 (both tried: Podman 4.3, Docker 20.10)."""

RUNNING = frozenset({"running", "paused", "restarting", "stopping"})
NEVER_STARTED = frozenset({"created", "configured", "initialized"})
"""State.Status of a container; "stopping", "configured" and "initialized" are Podman's alone."""


class Product(msgspec.Struct, frozen=True):
    """One of the two."""

    name: str
    """as in `local.engine`"""
    denied: str
    """told to a user who may not use the socket"""
    absent: str
    """told where nothing answers"""
    address: Callable[[Mapping[str, str], int], dict[str, Any]]
    """From the environment and the user's id to the SDK's `base_url` (and TLS), where the settings name none."""


def _docker_address(environment: Mapping[str, str], uid: int) -> dict[str, Any]:  # noqa: ARG001 - the same for every user
    """DOCKER_HOST with its TLS variables, or the SDK's own idea of the usual socket."""
    found: dict[str, Any] = docker.utils.kwargs_from_env(environment=dict(environment))
    return found


def _podman_address(environment: Mapping[str, str], uid: int) -> dict[str, Any]:
    """CONTAINER_HOST, or the socket of this user's own service, or the one of root's."""
    if environment.get("CONTAINER_HOST"):
        return {"base_url": environment["CONTAINER_HOST"]}
    runtime = pathlib.Path(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}")
    places = [runtime / "podman" / "podman.sock", pathlib.Path("/run/podman/podman.sock")]
    if uid == 0:
        places.reverse()
    return {"base_url": f"unix://{next((place for place in places if _there(place)), places[0])}"}


def _there(path: pathlib.Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False


DOCKER = Product(
    name="docker",
    denied="this user may not use the Docker socket: join the group docker (and sign in again), or name another daemon in docker.url",
    absent="no Docker daemon answers: start it, name another one in docker.url, or use the sandbox engine (local.engine)",
    address=_docker_address,
)
PODMAN = Product(
    name="podman",
    denied="this user may not use that Podman socket: start one's own (systemctl --user start podman.socket), or name another in podman.url",
    absent=(
        "no Podman service answers: start it (systemctl --user start podman.socket, for root without --user; or podman system service --time 0),"
        " name its socket in podman.url, or use the sandbox engine (local.engine)"
    ),
    address=_podman_address,
)


def title(version: Mapping[str, Any]) -> str:
    """What answered `GET /version`: a socket of Docker's name may well be Podman's."""
    components = [str(component.get("Name")) for component in version.get("Components") or ()]
    podman = next((name for name in components if name.startswith("Podman")), "")
    platform = str((version.get("Platform") or {}).get("Name") or "Docker")
    return f"{podman or platform} {version['Version']}, API {version['ApiVersion']}, {version['Os']}/{version['Arch']}"


def mode(info: Mapping[str, Any]) -> str:
    """What of `GET /info` a site should know: ", rootless", and where nobody enforces the limits of tasks."""
    return (", rootless" if _rootless(info) else "") + ("" if limits_memory(info) else ", without limits of memory")


def limits_memory(info: Mapping[str, Any]) -> bool:
    """Whether containers get their limits. A rootless Podman on version 1 of cgroups ignores them, whatever it says here."""
    return info.get("MemoryLimit") is not False and not (_rootless(info) and info.get("CgroupVersion") == "1")


def _rootless(info: Mapping[str, Any]) -> bool:
    return bool(info.get("Rootless")) or "name=rootless" in (info.get("SecurityOptions") or ())  # Podman's word, and Docker's


def name_taken(status: int | None, words: str) -> bool:
    """A container was not made since another has its name."""
    return status == 409 or NAME_TAKEN in words


def not_running(status: int | None, words: str) -> bool:
    """A container was not signalled since it does not run."""
    return status == 409 or NOT_RUNNING in words
