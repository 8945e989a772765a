"""`tes-server images`, as the person who types it sees it."""

from __future__ import annotations

import io
import logging
import os
import pathlib
import tarfile
from collections.abc import Callable, Iterator

import click.testing
import pytest

from tes_server import cli, cli_options, machine
from tests import image_registry
from tests.image_case import entry, layer, pack

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def registry() -> Iterator[image_registry.Registry]:
    with image_registry.registry() as running:
        yield running


@pytest.fixture
def say(tmp_path: pathlib.Path) -> Iterator[Say]:
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def run(command: str, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        done = click.testing.CliRunner().invoke(cli.main, ["images", command, "--data", str(tmp_path / "data"), *words], input=stdin)
        return done.exit_code, done.stdout, done.stderr

    yield run
    root.handlers[:], root.level = before[0], before[1]


def test_the_life_of_an_image(say: Say, registry: image_registry.Registry) -> None:
    image = pack([layer(entry("file", b"x" * 1_500_000))])
    name = registry.push(image, "team/tool", "1")
    assert say("list")[1].splitlines()[0].split() == ["NAME", "DIGEST", "SIZE", "USED"]
    assert say("pull", name) == (0, f"{name}  {image.digest}  1.5 MB\n", "")
    _, listed, _ = say("list")
    assert listed.splitlines()[1].split()[:4] == [name, image.digest[:19], "1.5", "MB"]
    assert listed.splitlines()[2].startswith("1.5 MB of ")
    assert say("remove", name) == (0, "", "")
    assert len(say("list")[1].splitlines()) == 2


def test_the_digest_that_is_listed_is_one_to_remove(say: Say, registry: image_registry.Registry) -> None:
    name = registry.push(pack([layer(entry("file", b"x"))]))
    say("pull", name)
    digest = say("list")[1].splitlines()[1].split()[1]
    assert say("remove", digest[:-1])[0] == 1
    assert say("remove", digest) == (0, "", "")
    assert len(say("list")[1].splitlines()) == 2


def test_one_that_fails_stops_no_other(say: Say, registry: image_registry.Registry) -> None:
    name = registry.push(pack([layer(entry("file", b"x"))]))
    code, out, said = say("pull", f"{registry.host}/none", "Bad Name", name)
    assert code == 1
    assert out.startswith(name)
    assert said.splitlines() == [
        f"tes-server: IMAGE_NOT_FOUND: {registry.host}/none: the registry does not have it",
        said.splitlines()[1],
    ]
    assert said.splitlines()[1].startswith("tes-server: IMAGE_ERROR: 'Bad Name' is not the name of an image: its path must be lower-case")
    code, out, said = say("remove", "none", name)
    assert code == 1
    assert "none: there is no such image here" in said
    assert len(say("list")[1].splitlines()) == 2


def archive() -> bytes:
    image = pack([layer(entry("file", b"x"))], compress=bytes)
    ours = {digest[7:]: data for digest, data in image.blobs.items()}
    config = next(name for name, data in ours.items() if data.startswith(b"{"))
    (tar,) = set(ours) - {config}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        manifest = f'[{{"Config": "{config}.json", "RepoTags": ["x/y:z"], "Layers": ["{tar}"]}}]'.encode()
        for name, data in ((f"{config}.json", ours[config]), (tar, ours[tar]), ("manifest.json", manifest)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_load_from_a_file_and_from_standard_input(say: Say, tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.tar").write_bytes(archive())
    code, out, _ = say("load", str(tmp_path / "x.tar"))
    assert (code, out.split()[0]) == (0, "docker.io/x/y:z")
    code, out, _ = say("load", "-", "--name", "other", stdin=archive())
    assert (code, out.split()[0]) == (0, "docker.io/library/other:latest")
    assert len(say("list")[1].splitlines()) == 4, "one image with two names"


def test_a_file_that_cannot_be_loaded_is_told(say: Say, tmp_path: pathlib.Path) -> None:
    code, _, said = say("load", str(tmp_path / "none.tar"))
    assert code != 0
    assert "none.tar" in said
    assert "No such file" in said
    (tmp_path / "x").write_bytes(b"x" * 2000)
    code, _, said = say("load", str(tmp_path / "x"))
    assert code == 1
    assert said.startswith(f"tes-server: IMAGE_ERROR: {tmp_path / 'x'}: it cannot be read as a tar archive")
    assert say("load", "-")[2].startswith("tes-server: IMAGE_ERROR: standard input: it cannot be read")


def test_an_image_in_use_says_so(say: Say, registry: image_registry.Registry, tmp_path: pathlib.Path) -> None:
    name = registry.push(pack([layer(entry("file", b"x"))]))
    say("pull", name)
    images = machine.images(cli_options.settings({"data": str(tmp_path / "data"), "config": None, "log_level": None}))
    held = images.hold(images.prepare(name))
    try:
        assert say("list")[1].splitlines()[1].endswith("in use")
        assert say("remove", name)[2] == f"tes-server: IMAGE_ERROR: {name}: a task uses it\n"
    finally:
        os.close(held)


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ('[[sandbox.mirrors]]\nprefix = "docker.io"\nurl = "mirror.example"', "sandbox.mirrors[0].url"),
        ('[[sandbox.mirrors]]\nprefix = "docker.io"\nurl = "https://u:p@mirror.example"', "sandbox.mirrors[0].url"),
        ('[[sandbox.mirrors]]\nprefix = "https://docker.io"\nurl = "https://mirror.example"', "sandbox.mirrors[0].prefix"),
        ("[sandbox]\nimages_gb = -1", "sandbox.images_gb"),
    ],
)
def test_settings_that_cannot_be_are_named(say: Say, tmp_path: pathlib.Path, setting: str, where: str) -> None:
    (tmp_path / "x.toml").write_text(setting)
    code, _, said = say("list", "--config", str(tmp_path / "x.toml"))
    assert code == 2
    assert where in said
