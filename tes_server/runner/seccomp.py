"""The filter of system calls that every sandbox runs under: a classic BPF program for x86-64 and arm64.

It closes what no task needs and where kernels have had their holes (namespaces within the sandbox, mounts, BPF, io_uring,
keys, module loading) and the terminal tricks. Pure: a table in, bytes out. It must never refuse what Docker's own filter
lets ordinary containers do, tracing one's own processes included.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Sequence
from typing import NamedTuple

from tes_server import errors
from tes_server.telemetry import Code

X32 = 0x40000000
"""Bit of a system call number on x86-64 that selects its second table, which a filter by number would miss."""

# /usr/include/linux/seccomp.h: what the kernel does with the call.
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000

# struct seccomp_data: nr, arch, instruction pointer, six arguments of 64 bits. Both architectures are little-endian.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

# /usr/include/linux/bpf_common.h
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06

# /usr/include/linux/sched.h: mount, cgroup, uts, ipc, user, pid and net. A new time namespace can only be asked of unshare, since
# clone has its signal number in that bit.
NAMESPACES = 0x7E020000
_TIME_NAMESPACE = 0x80

_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # put words into the mouth of whoever has the terminal
_VSOCK = 40  # sockets to the machine that this virtual machine runs on: no namespace holds them

NUMBERS: dict[str, tuple[int, int]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "socket": (41, 198),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
"""System call numbers on (x86-64, arm64)."""

# As on a kernel without them, so that C libraries and programs take the older way. clone3 has its flags in memory, where no filter sees them.
ABSENT = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick")
CHECKED = ("clone", "unshare", "ioctl", "socket")
REFUSED = tuple(name for name in NUMBERS if name not in ABSENT and name not in CHECKED)


class Architecture(NamedTuple):
    """`column` of NUMBERS; `audit` is the kernel's AUDIT_ARCH_*. `chowns`: the calls that change a file's owner."""

    column: int
    audit: int
    chowns: tuple[int, ...]


ARCHITECTURES = {
    "x86_64": Architecture(0, 0xC000003E, (92, 93, 94, 260)),  # chown, fchown, lchown, fchownat
    "aarch64": Architecture(1, 0xC00000B7, (55, 54)),  # fchown, fchownat
}


class _Jump(NamedTuple):
    """A test of the loaded word that ends the program with `verdict` if it holds."""

    test: int
    value: int
    verdict: int


def program(machine: str = "", *, one_id: bool = False) -> bytes:
    """The filter for `machine` (as `uname -m` has it; empty = this one), as bwrap's `--seccomp` takes it.

    `one_id`: the sandbox has a single user. Changing a file's owner then says yes and changes nothing, as fakeroot does: what
    unpacks archives or copies files as root (tar, cp -p, dpkg) would else fail at files that are its own anyway.
    """
    machine = machine or platform.machine()
    architecture = ARCHITECTURES.get(machine)
    if architecture is None:
        raise errors.EngineError(f"there is no filter of system calls for {machine}: tasks cannot run in the sandbox on this machine", Code.ENGINE_ERROR)
    # Another architecture's calls (ia32 on x86-64) have other numbers: no program can do with a part of them.
    code = [_instruction(_LOAD, _ARCHITECTURE), _instruction(_EQUAL, architecture.audit, 1, 0), _instruction(_RETURN, KILL), _instruction(_LOAD, _NUMBER)]
    calls = [_Jump(_AT_LEAST, X32, ERRNO | errno.ENOSYS)] if machine == "x86_64" else []
    calls += [_Jump(_EQUAL, NUMBERS[name][architecture.column], ERRNO | errno.ENOSYS) for name in ABSENT]
    calls += [_Jump(_EQUAL, NUMBERS[name][architecture.column], ERRNO | errno.EPERM) for name in REFUSED]
    calls += [_Jump(_EQUAL, number, ERRNO) for number in architecture.chowns] if one_id else []
    for call in calls:
        code += _ends(call)
    for name, argument, test, values in (
        ("clone", 0, _ANY_BIT, (NAMESPACES,)),
        ("unshare", 0, _ANY_BIT, (NAMESPACES | _TIME_NAMESPACE,)),
        ("ioctl", 1, _EQUAL, (_TIOCSTI, _TIOCLINUX)),
        ("socket", 0, _EQUAL, (_VSOCK,)),
    ):
        code += _checked(NUMBERS[name][architecture.column], argument, [_Jump(test, value, ERRNO | errno.EPERM) for value in values])
    return b"".join([*code, _instruction(_RETURN, ALLOW)])


def _checked(number: int, argument: int, jumps: Sequence[_Jump]) -> list[bytes]:
    """The call is refused for some values of one argument. Its low half alone counts: so does the kernel, which takes an int there."""
    tests = [_instruction(_LOAD, _ARGUMENTS + 8 * argument)]
    for jump in jumps:
        tests += _ends(jump)
    tests.append(_instruction(_RETURN, ALLOW))
    return [_instruction(_EQUAL, number, 0, len(tests)), *tests]


def _ends(jump: _Jump) -> list[bytes]:
    return [_instruction(jump.test, jump.value, 0, 1), _instruction(_RETURN, jump.verdict)]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)
