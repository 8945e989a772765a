"""The pure parts of the sandbox: bwrap's arguments, the host's layout, places in a volume, advice."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import pytest

from tes_server import errors
from tes_server.runner import bwrap, host, userns, volume


def arguments(**other: Any) -> list[str]:
    usual: dict[str, Any] = {
        "root": bwrap.overlay(["/i/root", "/i/names"], "/d/layer"),
        "volume": "/d/volume",
        "mounts": [],
        "results": "",
        "shared_memory": 0,
        "network": True,
        "maps_range": False,
        "user": (1000, 1000),
        "filter_descriptor": 7,
    }
    return bwrap.arguments(**{**usual, **other})


def follows(options: list[str], *words: str) -> bool:
    return any(tuple(options[index : index + len(words)]) == words for index in range(len(options)))


class TestArguments:
    def test_mounts_come_after_the_root_and_in_order(self) -> None:
        mounts = [
            bwrap.Bind(path="/a", place="/real/a"),
            bwrap.Bind(path="/a/live", place="/real/a/live", source="/site"),
            bwrap.Bind(path="/etc/in", place="/etc/in", read_only=True),
        ]
        options = arguments(mounts=mounts, results="/d/out")
        assert follows(options, "--overlay-src", "/i/root", "--overlay-src", "/i/names", "--overlay", "/d/layer/upper", "/d/layer/work", "/")
        assert follows(options, "--bind", "/d/volume/a", "/real/a")
        assert follows(options, "--bind", "/site", "/real/a/live")
        assert follows(options, "--ro-bind", "/d/volume/etc/in", "/etc/in")
        assert follows(options, "--bind", "/d/out", bwrap.RESULTS)
        places = [options.index(word) for word in ("--overlay", "--proc", "/real/a", "/real/a/live", bwrap.RESULTS)]
        assert places == sorted(places)

    def test_network_and_privileges(self) -> None:
        assert "--unshare-net" not in arguments()
        assert "--unshare-net" in arguments(network=False)
        assert follows(arguments(), "--seccomp", "7")
        mapped = arguments(maps_range=True)
        assert "--unshare-user" not in mapped
        assert mapped.index("--cap-drop") < mapped.index("--cap-add")
        assert not any("SYS_ADMIN" in word or "SYS_PTRACE" in word or "MKNOD" in word for word in mapped)

    def test_one_id_is_the_images_user(self) -> None:
        assert follows(arguments(user=(0, 0)), "--unshare-user", "--disable-userns", "--uid", "0", "--gid", "0")
        assert "--cap-add" in arguments(user=(0, 0))
        assert follows(arguments(user=(1000, 7)), "--uid", "1000", "--gid", "7")
        assert "--cap-add" not in arguments(user=(1000, 7))

    def test_shared_memory_is_bounded_by_the_tasks(self) -> None:
        assert follows(arguments(shared_memory=1 << 20), "--size", "1048576", "--tmpfs", "/dev/shm")
        assert "/dev/shm" not in arguments()

    def test_everything_of_the_host_is_read_only(self) -> None:
        options = host.arguments()
        assert {word for word in options if word.startswith("--")} == {"--ro-bind-try"}
        assert set(options) - {"--ro-bind-try"} <= {*host.PROGRAMS, *host.MERGED}


class TestHost:
    @pytest.mark.parametrize(
        ("path", "covered"), [("/usr", True), ("/usr/local/x", True), ("/usrx", False), ("/bin", True), ("/opt/a", True), ("/etc/x", False), ("/work", False)]
    )
    def test_what_is_read_only(self, path: str, covered: bool) -> None:
        assert host.covers(path) is covered

    def test_home_is_where_programs_look(self) -> None:
        assert host.home(0) == "/root"
        assert host.home(2**31 - 2) == "/home"


class TestStage:
    def test_an_ordinary_user_needs_none(self) -> None:
        stage = bwrap.Stage(gathers=False)
        assert stage.show(pathlib.Path("/d/x"), "x") == "/d/x"
        assert stage.pairs == []

    def test_gathers_in_one_place(self, tmp_path: pathlib.Path) -> None:
        stage = bwrap.Stage(gathers=True)
        assert stage.show(tmp_path / "real", "x") == "/tmp/x"
        program = bwrap.Program(tmp_path / "package/_bin/bwrap", (tmp_path / "package", tmp_path / "package.libs"))
        assert stage.program(program) == "/tmp/package/_bin/bwrap"
        assert stage.pairs == [(tmp_path / "real", "x"), (tmp_path / "package", "package"), (tmp_path / "package.libs", "package.libs")]


class TestVolume:
    def test_makes_what_is_missing_for_everybody(self, tmp_path: pathlib.Path) -> None:
        mask = os.umask(0o077)
        try:
            volume.place(tmp_path, "/a/b", directory=True)
            volume.place(tmp_path, "/a/b", directory=True)
            volume.place(tmp_path, "/a/c/file", directory=False)
        finally:
            os.umask(mask)
        assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/c")] == [0o777] * 3
        assert (tmp_path / "a/c/file").is_file()

    @pytest.mark.parametrize("path", ["/link", "/link/x", "/dangling", "/file/x"])
    @pytest.mark.parametrize("directory", [True, False])
    def test_follows_no_link(self, tmp_path: pathlib.Path, path: str, directory: bool) -> None:
        (tmp_path / "outside").mkdir()
        inside = tmp_path / "inside"
        inside.mkdir()
        (inside / "link").symlink_to(tmp_path / "outside")
        (inside / "dangling").symlink_to(tmp_path / "made")
        (inside / "file").touch()
        with pytest.raises(errors.EngineError, match=f"{path} cannot be mounted") as caught:
            volume.place(inside, path, directory=directory)
        assert caught.value.code == "REJECTED"
        assert list((tmp_path / "outside").iterdir()) == []
        assert not (tmp_path / "made").exists()

    def test_leaves_no_descriptor(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "link").symlink_to("/")
        before = len(list(pathlib.Path("/proc/self/fd").iterdir()))
        volume.place(tmp_path, "/a/b/c", directory=True)
        volume.place(tmp_path, "/a/b/f", directory=False)
        with pytest.raises(errors.EngineError):
            volume.place(tmp_path, "/link/x", directory=True)
        assert len(list(pathlib.Path("/proc/self/fd").iterdir())) == before


ALL, DOCKERS = "000001ffffffffff", "00000000a80425fb"  # capabilities: those of root, and of root in a Docker container


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives ids")
@pytest.mark.parametrize(
    ("table", "powers", "given"),
    [
        ("         0          0 4294967295\n", ALL, userns.IDS),
        ("         0          0 4294967295\n", DOCKERS, None),
        ("         0       1000          1\n", ALL, None),
        ("0 1000 1\n1 100000 65536\n", ALL, None),
        ("0 1000 1\n1 100000 265535\n", ALL, userns.IDS),
    ],
)
def test_ids_are_given_where_there_are_enough(tmp_path: pathlib.Path, table: str, powers: str, given: object) -> None:
    (tmp_path / "uid_map").write_text(table)
    (tmp_path / "status").write_text(f"Name:\tx\nCapPrm:\t{ALL}\nCapEff:\t{powers}\nSeccomp:\t0\n")
    assert userns.ids(tmp_path) == given


@pytest.mark.skipif(os.geteuid() == 0, reason="root gives ids")
def test_an_ordinary_user_has_no_ids_to_give() -> None:
    assert userns.ids() is None


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1\n", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        ("kernel/unprivileged_userns_clone", "0\n", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0\n", "sysctl -w user.max_user_namespaces=15000"),
        ("user/max_user_namespaces", "5\n", ""),
    ],
)
@pytest.mark.parametrize("root", [False, True])
def test_advice_names_the_setting_in_the_way(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, advice: str, root: bool) -> None:
    monkeypatch.setattr("tes_server.runner.userns.ids", lambda: userns.IDS if root else None)
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(value)
    found = userns.advice(tmp_path, [])
    if root and "unprivileged" in name:
        assert found == ""
    else:
        assert advice in found
        assert bool(advice) == bool(found)


def test_advice_for_a_container(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mark").touch()
    assert "--security-opt seccomp=unconfined" in userns.advice(tmp_path, [tmp_path / "mark"])
    assert userns.advice(tmp_path, [tmp_path / "none"]) == ""
