"""The start task under the shell of this machine, with stand-ins for what it must not touch here: Docker, iptables, owners of files, time."""

from __future__ import annotations

import pathlib
import shlex
import shutil
import stat
import subprocess

import pytest

from tes_server import errors
from tes_server.backends.azure_batch import start_task

IMAGE = "lab.azurecr.io/tes-server:1.0"
REAL = ("sh", "grep", "mkdir", "chmod")
STAND_INS = {
    "id": "echo ${USER_ID:-0}",
    "chown": "",
    "sleep": 'echo "sleep $*" >>"$HOST/log"',
    "iptables": """
echo "iptables $*" >>"$HOST/log"
wait=$1; action=$2; shift 2
[ "$wait" = -w ] || exit 2
case $action in
  -C) grep -qxF -e "$*" "$HOST/rules" ;;
  -I) [ ! -e "$HOST/refuse" ] && echo "$*" >>"$HOST/rules" ;;
esac
""",
    "docker": """
echo "docker $*" >>"$HOST/log"
case "$1 $2" in
  "info "*) [ ! -e "$HOST/down" ] ;;
  "image inspect") grep -qxF -e "$3" "$HOST/images" ;;
  "pull --quiet") [ ! -e "$HOST/refuse" ] && echo "$3" >>"$HOST/images" ;;
  "ps --quiet") [ -e "$HOST/reaper" ] && grep -q -e "${4#label=} " "$HOST/reaper" && echo 0123456789ab || true ;;
  "rm --force") rm -f "$HOST/reaper" ;;
  "run --detach") [ ! -e "$HOST/reaper" ] && echo "$*" >"$HOST/reaper" ;;
  *) exit 2 ;;
esac
""",
}
RULES = [
    "DOCKER-USER -d 169.254.169.254 -j DROP",
    "DOCKER-USER -d 168.63.129.16 -p tcp --dport 80 -j DROP",
    "DOCKER-USER -d 168.63.129.16 -p tcp --dport 32526 -j DROP",
]


class Host:
    """A node: its programs are stand-ins, and nothing else is found."""

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home
        self.programs = home / "bin"
        self.programs.mkdir()
        for name in (*REAL, "rm"):
            found = shutil.which(name)
            assert found is not None
            (self.programs / name).symlink_to(found)
        for name, script in STAND_INS.items():
            (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (self.programs / name).chmod(0o755)
        self.work = home / "lib" / "tes-server"
        (home / "rules").write_text("FORWARD -j DOCKER-USER\n")
        (home / "images").touch()
        (home / "log").touch()

    def start(self, image: str = IMAGE, **environment: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(start_task.command(image, str(self.work)))
        given = {"PATH": str(self.programs), "HOST": str(self.home), **environment}
        (self.home / "log").write_text("")
        return subprocess.run(words, env=given, capture_output=True, text=True, check=False, timeout=60)

    def lines(self, name: str) -> list[str]:
        return (self.home / name).read_text().splitlines()

    def called(self, begin: str) -> list[str]:
        return [line for line in self.lines("log") if line.startswith(begin)]


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path)


def test_a_new_node_is_made_ready(host: Host) -> None:
    done = host.start()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert host.lines("rules")[1:] == RULES
    assert stat.S_IMODE(host.work.stat().st_mode) == 0o700
    assert host.lines("images") == [IMAGE]
    (run,) = host.lines("reaper")
    assert run.startswith("run --detach --name tes-server-reaper --restart always --pull never --user 0 --network none ")
    mounts = f"-v /var/run/docker.sock:/var/run/docker.sock -v {host.work}:{host.work}"
    assert run.endswith(f" {mounts} --entrypoint python {IMAGE} -m tes_server.runner.node_reaper {host.work}")


def test_what_is_there_stays(host: Host) -> None:
    """A node that starts again; its image is there, as Azure Batch has pulled it."""
    host.start()
    before = host.lines("reaper")
    assert host.start().returncode == 0
    assert host.lines("rules")[1:] == RULES
    assert host.lines("reaper") == before
    assert [*host.called("iptables -w -I"), *host.called("docker pull"), *host.called("docker rm"), *host.called("docker run")] == []


def test_another_image_replaces_the_reaper(host: Host) -> None:
    host.start()
    assert host.start("lab.azurecr.io/tes-server:1.1").returncode == 0
    assert len(host.called("docker rm --force tes-server-reaper")) == 1
    assert "tes-server:1.1 " in host.lines("reaper")[0]


def failed(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 1
    assert done.stderr.startswith("tes-server: this node can run no tasks: ")
    assert words in done.stderr


class TestFailures:
    """Each of them keeps the node from taking tasks."""

    def test_without_root(self, host: Host) -> None:
        failed(host.start(USER_ID="1000"), "an auto-user with elevation level admin")

    def test_without_docker(self, host: Host) -> None:
        (host.programs / "docker").unlink()
        failed(host.start(), "there is no Docker")

    def test_docker_that_does_not_come_up(self, host: Host) -> None:
        (host.home / "down").touch()
        failed(host.start(), "Docker does not answer")
        assert len(host.called("docker info")) == 60
        assert set(host.called("sleep")) == {"sleep 2"}

    def test_docker_that_forwards_elsewhere(self, host: Host) -> None:
        (host.home / "rules").write_text("")
        failed(host.start(), "past the chain DOCKER-USER")

    def test_a_rule_that_cannot_be_set(self, host: Host) -> None:
        (host.home / "refuse").touch()
        failed(host.start(), "no rule against -d 169.254.169.254")
        assert host.called("docker run") == []

    def test_an_image_that_cannot_be_had(self, host: Host) -> None:
        host.start()
        (host.home / "refuse").touch()
        failed(host.start("lab.azurecr.io/tes-server:1.1"), "lab.azurecr.io/tes-server:1.1 cannot be had")
        assert len(host.called("docker pull")) == 20

    def test_a_directory_that_cannot_be_made(self, host: Host) -> None:
        host.work.parent.write_text("a file")
        assert host.start().returncode == 1

    def test_a_reaper_that_does_not_start(self, host: Host) -> None:
        (host.programs / "rm").unlink()
        (host.home / "reaper").write_text("run of another image\n")
        failed(host.start(), "cannot be started")


@pytest.mark.parametrize("image", ["", "a b", "a;b", "a'b", "$(id)", "-v", "a\nb"])
def test_images_that_mean_something_to_a_shell(image: str) -> None:
    with pytest.raises(errors.SettingsError, match=r"azure_batch\.image"):
        start_task.command(image, "/work")


@pytest.mark.parametrize("work", ["", "/", "work", "/a b", "/a'b", "/$a", "/a/../b", "/a:b", "/a\n"])
def test_directories_that_mean_something_to_a_shell(work: str) -> None:
    with pytest.raises(errors.SettingsError, match=r"azure_batch\.work"):
        start_task.command(IMAGE, work)


def test_it_is_one_line_of_three_words() -> None:
    """Azure Batch splits it, and gives it to no shell of its own."""
    line = start_task.command(IMAGE, "/var/lib/tes-server")
    assert line.count("'") == 2
    assert not set(line) & {"\n", "\\", "%", "`"}
    assert shlex.split(line)[:2] == ["/bin/sh", "-c"]
