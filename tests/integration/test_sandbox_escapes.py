"""What a task in the sandbox may try against this machine, and fails at."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pathlib
import platform
import socket
from typing import Any

import pytest

from tes_server import errors
from tes_server.plan.steps import Mount, MountKind
from tes_server.runner import records, seccomp
from tes_server.runner.sandbox import SandboxEngine
from tests.contract.engine_contract import ROOTS, Lab, until
from tests.integration import sandbox_images
from tests.integration.sandbox_case import ROOT, SandboxCase, marks, processes_with

pytestmark = marks

# Values of arguments that are refused, and calls beside them that are not.
FORBIDDEN: tuple[tuple[str, tuple[int, ...]], ...] = (
    *(("unshare", (flag,)) for flag in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)),
    *(("clone", (flag | 17, 0, 0, 0, 0)) for flag in (0x20000, 0x10000000, 0x40000000)),
    ("ioctl", (0, 0x5412, 0)),
    ("ioctl", (0, 1 << 32 | 0x5412, 0)),
    ("socket", (40, 1, 0)),
)
ALLOWED: tuple[tuple[str, tuple[int, ...]], ...] = (("unshare", (0x400,)),)

TERMINAL = """
import fcntl, os, termios
if os.fork():
    os.wait()
    os._exit(0)
os.setsid()
master, slave = os.openpty()
fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
print("controls", flush=True)
try:
    fcntl.ioctl(slave, termios.TIOCSTI, b"x")
except OSError as why:
    print(why.errno, flush=True)
"""
ABSTRACT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as own:
    own.bind("\\0own")
    own.listen()
    socket.socket(socket.AF_UNIX).connect("\\0own")
    print("own", flush=True)
socket.socket(socket.AF_UNIX).connect("\\0" + sys.argv[1])
"""
TRACE = """
import ctypes, os, signal
pid = os.fork()
if pid == 0:
    signal.pause()
print(ctypes.CDLL(None).ptrace(16, pid, 0, 0), os.waitpid(pid, 0)[1] & 0xff)
os.kill(pid, 9)
"""


class Escapes(SandboxCase):
    def refused(self, lab: Lab, script: str, *words: str, **other: Any) -> str:
        """Run a script that tries something forbidden; it must say `refused` for each try."""
        cell = lab.sh(script, *words, **other)
        lab.run(cell)
        out, err = lab.engine.streams(cell)
        assert "got through" not in out, (out, err)
        assert "refused" in out, (out, err)
        return err

    def test_kernel_settings(self, lab: Lab) -> None:
        named = ("kernel/core_pattern", "kernel/modprobe", "vm/overcommit_memory", "user/max_user_namespaces")
        settings = [path for name in named if (path := pathlib.Path("/proc/sys") / name).exists()]
        before = [path.read_text() for path in settings]
        self.refused(lab, 'for f; do if cat "$f" > /tmp/x && cat /tmp/x > "$f"; then echo got through; else echo refused; fi; done', *map(str, settings))
        self.refused(lab, "if echo b > /proc/sysrq-trigger; then echo got through; else echo refused; fi")
        assert [path.read_text() for path in settings] == before

    def test_directories_and_sockets_of_the_host(self, lab: Lab, tmp_path: pathlib.Path, data: pathlib.Path) -> None:
        canary = tmp_path / "canary"
        canary.write_text("secret")
        listener = socket.socket(socket.AF_UNIX)
        with contextlib.closing(listener):
            listener.bind(str(tmp_path / "s"))
            paths = [
                str(path)
                for path in (
                    canary,
                    tmp_path,
                    tmp_path / "s",
                    data,
                    lab.volume,
                    "/run/docker.sock",
                    "/var/run/docker.sock",
                    "/etc/shadow",
                    "/etc/ssh",
                    "/sys/fs",
                )
            ]
            self.refused(lab, 'for f; do if [ -e "$f" ]; then echo "got through: $f"; else echo refused; fi; done', *paths)

    def test_processes_of_the_host(self, lab: Lab) -> None:
        assert int(lab.check("ls -d /proc/[0-9]* | wc -l")) < 10
        self.refused(lab, 'if kill -0 "$1" 2>/dev/null; then echo got through; else echo refused; fi', str(os.getpid()))
        self.refused(lab, "for f in environ fd/0 mem root/etc/passwd; do if cat /proc/1/$f; then echo got through; else echo refused; fi; done")

    def test_pid_1_cannot_be_killed_from_inside(self, lab: Lab) -> None:
        assert lab.check("kill -9 1; echo here") == "here\n"

    def test_devices(self, lab: Lab) -> None:
        self.refused(lab, "if mknod /work/disk b 8 0 && head -c 1 /work/disk; then echo got through; else echo refused; fi")
        self.refused(lab, "for f in /dev/mem /dev/kmsg /dev/sda /dev/vda /dev/fuse; do if [ -e $f ]; then echo got through; else echo refused; fi; done")

    @pytest.mark.parametrize(
        "attempt",
        [
            "mount -o remount,rw /usr",
            "umount /usr",
            "mount -t tmpfs none /mnt",
            "mount -t proc none /work",
            "unshare -U true",
            "unshare -Ur true",
            "unshare -m true",
            "chroot /work true",
            "hostname other",
        ],
    )
    def test_mounts_and_namespaces(self, lab: Lab, attempt: str) -> None:
        self.refused(lab, f"if {attempt}; then echo got through; else echo refused; fi")

    def test_no_new_privileges(self, lab: Lab) -> None:
        status = lab.check("cat /proc/self/status")
        assert "NoNewPrivs:\t1" in status
        effective = int(status.split("CapEff:")[1].split()[0], 16)
        forbidden = (12, 13, 16, 17, 19, 21, 22, 24, 25, 27, 31, 38, 39)  # NET_ADMIN, NET_RAW, SYS_*, MKNOD, SETFCAP, PERFMON, BPF
        assert not any(effective >> capability & 1 for capability in forbidden)

    def test_a_stdout_that_the_task_made_a_link_stays_inside(self, lab: Lab, tmp_path: pathlib.Path) -> None:
        outside = tmp_path / "outside"
        outside.write_text("mine")
        outside.chmod(0o666)
        lab.check('ln -s "$1" /work/out; ln -s "$(dirname "$1")" /work/dir; ln -s /etc/passwd /work/passwd', str(outside))
        for path in ("/work/out", "/work/dir/outside", "/work/passwd"):
            cell = lab.sh("echo taken over", stdout=path)
            lab.run(cell)
        assert outside.read_text() == "mine"
        assert "taken over" not in pathlib.Path("/etc/passwd").read_text()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["closed", "outside"]

    @pytest.mark.parametrize("kind", [MountKind.LIVE, MountKind.FILE])
    def test_a_mount_point_that_the_task_made_a_link_is_refused(self, lab: Lab, tmp_path: pathlib.Path, kind: MountKind) -> None:
        """bwrap would make the mount point through the link, in the host's file system."""
        (lab.home / "live").mkdir()
        trap = tmp_path / "trap"
        trap.mkdir()
        trap.chmod(0o777)
        lab.check('ln -s "/oldroot$1" /work/a', str(trap))
        source = str(lab.home / "live") if kind is MountKind.LIVE else ""
        with pytest.raises(errors.EngineError, match="/work/a/in cannot be mounted"):
            lab.engine.start(lab.cell("true", mounts=(*ROOTS, Mount("/work/a/in", kind, source))))
        assert list(trap.iterdir()) == []

    def test_a_live_source_that_is_reached_by_a_link_is_refused(self, lab: Lab, tmp_path: pathlib.Path) -> None:
        (tmp_path / "link").symlink_to("/etc")
        for source in ("link", "link/ssl", "nothing"):
            with pytest.raises(errors.EngineError, match="is not mounted"):
                lab.engine.start(lab.cell("true", mounts=(Mount("/live", MountKind.LIVE, str(tmp_path / source)),)))

    def test_a_forged_result_is_moved_not_followed(self, lab: Lab, tmp_path: pathlib.Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("secret")
        lab.check('ln -s "$1" /.tes-step/0', str(secret), copies=("/etc/absent",))
        assert (lab.volume / "etc" / "absent").is_symlink()

    def test_what_the_task_says_reaches_no_process_outside(self, lab: Lab) -> None:
        """Neither LD_PRELOAD for bwrap, nor a secret for whoever lists processes."""
        gate = lab.gate()
        script = "read line < /work/gate; : TES-SECRET-ARGUMENT"
        cell = lab.sh(script, env={"LD_PRELOAD": "/work/evil.so", "PASSWORD": "TES-SECRET-VALUE"})
        lab.engine.start(cell)
        until(lambda: processes_with("TES-SECRET-ARGUMENT"), "the command begins")
        begun = records.start(cell.record)
        assert begun is not None
        outer = [begun.pid]
        for pid in outer:  # its descendants as they are found, down to the first process inside
            for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                outer += [int(child)] if len(outer) < 3 else []
        assert len(outer) == 3
        for pid in outer:
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"TES-SECRET" not in words
            assert len(words) < 4096
        for pid in outer[:2]:
            assert b"TES-SECRET" not in pathlib.Path(f"/proc/{pid}/environ").read_bytes()
            assert b"PRELOAD" not in pathlib.Path(f"/proc/{pid}/environ").read_bytes()
        gate.open()
        assert lab.run(cell).code == 0

    @pytest.mark.skipif(not ROOT, reason="an ordinary user's tasks are that user")
    def test_a_root_servers_tasks_are_nobody_on_the_host(self, lab: Lab) -> None:
        lab.check("id -u | grep -qx 0; : > /work/mine; chown 1000:1000 /work/mine; : > /work/root; grep -q 200000 /proc/self/uid_map")
        assert [(lab.work / name).stat().st_uid for name in ("mine", "root")] == [201000, 200000]


class TestFromAnImage(Escapes):
    @pytest.fixture
    def image(self) -> str:
        return sandbox_images.NAME


class TestFromThisMachine(Escapes):
    def test_programs_are_read_only(self, lab: Lab) -> None:
        self.refused(lab, "for d in /usr /bin /lib; do if touch $d/tes-was-here; then echo got through; else echo refused; fi; done")

    def test_homes_and_services_are_not_there(self, lab: Lab) -> None:
        assert lab.check("ls -A /home /root /run /var/run /var/lib 2>/dev/null | grep -v : | grep -v '^$' | wc -l").strip() in {
            "0",
            "1",
        }  # the home that was made

    def test_a_file_of_etc_is_the_tasks_own_copy(self, lab: Lab) -> None:
        before = pathlib.Path("/etc/passwd").read_bytes()
        assert lab.check("echo evil >> /etc/passwd; tail -n 1 /etc/passwd") == "evil\n"
        assert "evil" not in lab.check("cat /etc/passwd")
        assert pathlib.Path("/etc/passwd").read_bytes() == before

    def test_network_off_leaves_nothing_but_loopback(self, lab: Lab, data: pathlib.Path) -> None:
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
            port = str(server.getsockname()[1])
            script = 'if exec 3<>"/dev/tcp/127.0.0.1/$1"; then echo got through; else echo refused; fi'
            cells = [lab.cell("/bin/bash", "-c", script, "bash", port) for _ in range(2)]
            lab.run(cells[0])
            assert lab.engine.streams(cells[0])[0] != "got through\n"
            shared = SandboxEngine(data=data, allow_host=True, network=True)
            shared.start(cells[1])
            shared.wait(cells[1])
            assert shared.streams(cells[1])[0] == "got through\n"
            shared.remove(cells[1])

    def test_system_calls(self, lab: Lab) -> None:
        """The filter as the kernel runs it: by number, with arguments that mean nothing."""
        assert platform.machine() in seccomp.ARCHITECTURES
        column = seccomp.ARCHITECTURES[platform.machine()].column
        wanted = {**dict.fromkeys(seccomp.REFUSED, errno.EPERM), **dict.fromkeys(seccomp.ABSENT, errno.ENOSYS)}
        tries: list[tuple[str, tuple[int, ...], int]] = [(name, (0,) * 6, code) for name, code in wanted.items()]
        tries += [(name, arguments, errno.EPERM) for name, arguments in FORBIDDEN]
        tries += [(name, arguments, 0) for name, arguments in ALLOWED]
        calls = [(seccomp.NUMBERS[name][column], arguments, code) for name, arguments, code in tries]
        program = f"import ctypes\ncall = ctypes.CDLL(None, use_errno=True).syscall\nfor number, arguments, code in {calls}:\n"
        program += "    done = call(number, *map(ctypes.c_ulong, arguments))\n    print(number, ctypes.get_errno() if done < 0 else 0)\n"
        cell = lab.cell("python3", "-c", program)
        assert lab.run(cell).code == 0, lab.engine.streams(cell)
        assert lab.engine.streams(cell)[0].splitlines() == [f"{number} {code}" for number, _, code in calls]

    def test_words_are_not_put_into_a_terminal(self, lab: Lab) -> None:
        cell = lab.cell("python3", "-c", TERMINAL)
        lab.run(cell)
        assert lab.engine.streams(cell)[0] == f"controls\n{errno.EPERM}\n", lab.engine.streams(cell)

    def test_abstract_sockets_of_the_host(self, lab: Lab, data: pathlib.Path) -> None:
        """They belong to the network, which tasks may share: a desktop's session bus would start anything for its user."""
        if ctypes.CDLL(None).syscall(444, None, 0, 1) < 6:
            pytest.skip("before Linux 6.12 only sandbox.network = false keeps tasks from them (docs/operations.md)")
        name = f"tes-abstract-{os.getpid()}"
        shared = SandboxEngine(data=data, allow_host=True, network=True)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind("\0" + name)
            listener.listen()
            cell = lab.cell("python3", "-c", ABSTRACT, name)
            shared.start(cell)
            shared.wait(cell)
        out, err = shared.streams(cell)
        shared.remove(cell)
        assert out == "own\n"
        assert "PermissionError" in err

    def test_debuggers_trace_their_own(self, lab: Lab) -> None:
        cell = lab.cell("python3", "-c", TRACE)
        assert lab.run(cell).code == 0
        assert lab.engine.streams(cell)[0] == "0 127\n"

    def test_the_supervisor_cannot_be_traced(self, lab: Lab) -> None:
        program = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.ptrace(16, 1, 0, 0), ctypes.get_errno())"
        cell = lab.cell("python3", "-c", program)
        assert lab.run(cell).code == 0
        assert lab.engine.streams(cell)[0] == f"-1 {errno.EPERM}\n"
