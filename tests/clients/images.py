"""Images with a real client inside, for clients whose tasks run the client again (Snakemake, Toil): made once, kept by Docker."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import pathlib
import shutil
import tempfile
import textwrap
import warnings
from collections.abc import Iterator

import docker
import docker.errors

from tests.clients import packages
from tests.integration.conftest import unreachable

BASE = "tes-test/python"


def image(name: str, bin_: pathlib.Path, *requirements: str) -> str:
    """The name of an image with Python and these packages; skips where Docker or its base image is missing.

    The wheels are fetched by this machine (`bin_` is a virtual environment of the same Python version), since a build has no
    certificates for a registry. They stay in the image: what a task installs with pip comes from there.
    """
    with _docker() as client:
        key = hashlib.sha256("\n".join((client.images.get(BASE).id, *requirements)).encode()).hexdigest()[:12]
        tag = f"tes-test/{name}:{key}"
        try:
            client.images.get(tag)
        except docker.errors.ImageNotFound:
            found = packages.wheels(bin_, *requirements)
            with tempfile.TemporaryDirectory() as context:
                shutil.copytree(found, pathlib.Path(context) / "wheels")
                (pathlib.Path(context) / "Dockerfile").write_text(
                    textwrap.dedent(f"""
                        FROM {BASE}
                        COPY wheels /wheels
                        ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
                        RUN pip install --break-system-packages {" ".join(f"'{one}'" for one in requirements)}
                        RUN ln -s /usr/bin/python3 /usr/local/bin/python
                    """)
                )
                client.images.build(path=context, tag=tag, rm=True)
    return tag


@contextlib.contextmanager
def _docker() -> Iterator[docker.DockerClient]:
    why = ""
    with warnings.catch_warnings():
        # A socket that cannot connect is left to the garbage collector by the SDK.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env()
            client.images.get(BASE)
        except docker.errors.DockerException as error:
            why = str(error)
        gc.collect()
    if why:
        unreachable(f"Docker with the image {BASE}", why)
    try:
        yield client
    finally:
        client.close()
