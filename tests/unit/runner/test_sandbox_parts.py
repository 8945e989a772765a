"""The pure parts of the sandbox: bwrap's arguments, the host's layout, places in a volume, advice."""

from __future__ import annotations

import os
import pathlib

import pytest

from tes_server import errors
from tes_server.plan.steps import Mount, MountKind
from tes_server.runner import bwrap, host, userns, volume


def arguments(*, mounts: list[tuple[Mount, str]], network: bool = True, maps_range: bool = False) -> list[str]:
    return bwrap.arguments(
        root="/d/root", files=[("/d/argv", "argv")], results="", volume="/d/volume", mounts=mounts, home="/root", network=network, maps_range=maps_range
    )


def follows(options: list[str], *words: str) -> bool:
    return any(tuple(options[index : index + len(words)]) == words for index in range(len(options)))


class TestArguments:
    def test_mounts_come_after_the_root_and_in_order(self) -> None:
        mounts = [(Mount("/a"), ""), (Mount("/a/live", MountKind.LIVE), "/site"), (Mount("/etc/in", MountKind.FILE), "")]
        options = arguments(mounts=mounts)
        assert follows(options, "--bind", "/d/volume/a", "/a")
        assert follows(options, "--bind", "/site", "/a/live")
        assert follows(options, "--ro-bind", "/d/volume/etc/in", "/etc/in")
        assert options.index("/d/root") < options.index("/usr") < options.index("/a") < options.index("/a/live")

    def test_network_and_privileges(self) -> None:
        assert "--unshare-net" not in arguments(mounts=[])
        assert "--unshare-net" in arguments(mounts=[], network=False)
        assert "--unshare-user" in arguments(mounts=[])
        mapped = arguments(mounts=[], maps_range=True)
        assert "--unshare-user" not in mapped
        assert mapped.index("--cap-drop") < mapped.index("--cap-add")
        assert not any("SYS_ADMIN" in word or "SYS_PTRACE" in word or "MKNOD" in word for word in mapped)

    def test_everything_of_the_host_is_read_only(self) -> None:
        options = host.arguments()
        kinds = {options[index] for index in range(len(options)) if options[index].startswith("--")}
        assert kinds <= {"--ro-bind-try", "--symlink", "--dir"}
        shown = {options[index + 1] for index, word in enumerate(options) if word == "--ro-bind-try"}
        assert {"/usr", "/etc/passwd"} <= shown
        for hidden in ("/home", "/root", "/run", "/var", "/etc/shadow", "/etc/ssh", "/etc/sudoers", "/etc/ssl/private", "/etc/docker", "/etc", "/"):
            assert not any(path == hidden or path.startswith(hidden.rstrip("/") + "/") for path in shown if hidden not in {"/etc", "/"})
            assert hidden not in shown


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

    def test_gathers_resolved_paths(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        stage = bwrap.Stage(gathers=True)
        assert stage.show(tmp_path / "link", "x") == "/tmp/x"
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


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1\n", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        ("kernel/unprivileged_userns_clone", "0\n", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0\n", "sysctl -w user.max_user_namespaces=15000"),
        ("user/max_user_namespaces", "5\n", ""),
    ],
)
def test_advice_names_the_setting_in_the_way(tmp_path: pathlib.Path, name: str, value: str, advice: str) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(value)
    assert advice in userns.advice(tmp_path)
    assert bool(advice) == bool(userns.advice(tmp_path))
