"""USER of an image, found in the image's own files, which a stranger wrote."""

from __future__ import annotations

import os
import pathlib

import pytest

from tes_server import errors
from tes_server.filer import rooted
from tes_server.runner import image_user
from tes_server.runner.image_user import User
from tes_server.telemetry import Code

PASSWD = """root:x:0:0:root:/root:/bin/sh
# alice was here
alice:x:1000:100:Alice:/home/alice:/bin/sh
7:x:70:71::/seven:
odd:x:many:0::/:
far:x:70000:0::/:
relative:x:8:8::home:
short:x:9
"""
GROUP = """root:x:0:alice
users:x:100:
lab:x:2000:bob,alice
far:x:70000:
"""


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "image/etc").mkdir(parents=True)
    (tmp_path / "image/etc/passwd").write_text(PASSWD)
    (tmp_path / "image/etc/group").write_text(GROUP)
    return tmp_path / "image"


def find(root: pathlib.Path, user: str) -> User:
    return image_user.find(rooted.Realm(str(root)), user, 65536)


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("", User(0, 0, (), "/root")),
        ("alice", User(1000, 100, (0, 2000), "/home/alice")),
        ("1000", User(1000, 100, (0, 2000), "/home/alice")),
        ("01000", User(1000, 100, (0, 2000), "/home/alice")),
        ("alice:lab", User(1000, 2000, (), "/home/alice")),
        ("alice:5", User(1000, 5, (), "/home/alice")),
        (":lab", User(0, 2000, (), "/root")),
        ("5", User(5, 0, (), "/")),
        ("5:6", User(5, 6, (), "/")),
        ("7", User(70, 71, (), "/seven")),
        ("relative", User(8, 8, (), "/")),
    ],
)
def test_a_user_is_who_docker_says(root: pathlib.Path, user: str, found: User) -> None:
    assert find(root, user) == found


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("bob", "not in its /etc/passwd"),
        ("odd", "not in its /etc/passwd"),
        ("short", "not in its /etc/passwd"),
        ("-1", "not in its /etc/passwd"),
        ("\u0663", "not in its /etc/passwd"),
        ("9" * 5000, "not in its /etc/passwd"),
        ("alice:bob", "is not in its /etc/group"),
        ("alice:" + "9" * 5000, "is not in its /etc/group"),
        ("alice:\u0663", "is not in its /etc/group"),
        ("65536", "not below 65536"),
        ("far", "not below 65536"),
        ("alice:far", "not below 65536"),
        ("1:65536", "not below 65536"),
    ],
)
def test_a_user_that_cannot_be_is_told(root: pathlib.Path, user: str, words: str) -> None:
    with pytest.raises(errors.EngineError, match=words) as caught:
        find(root, user)
    assert (caught.value.code, caught.value.transient) == (Code.IMAGE_ERROR, False)
    assert len(caught.value.public) < 300


def test_files_of_an_image_may_be_anything(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A link that leads out, a pipe that nobody writes to, a directory, numbers without end."""
    passwd = root / "etc/passwd"
    (tmp_path / "passwd").write_text("bob:x:5:5::/:\n")
    passwd.unlink()
    passwd.symlink_to("../../passwd")
    assert find(root, "0") == User()
    passwd.unlink()
    os.mkfifo(passwd)
    assert find(root, "0") == User()
    passwd.unlink()
    passwd.mkdir()
    assert find(root, "0") == User()
    passwd.rmdir()
    assert find(root, "0") == User()
    passwd.write_bytes(b"\xff\xfe:x\n" + b"a:x:" + b"9" * 5000 + b":0::/:\nb:x:1:" + b"9" * 5000 + b"::/:\nc:x:1:2::/c:\n")
    assert find(root, "c") == find(root, "1") == User(1, 2, (), "/c")
