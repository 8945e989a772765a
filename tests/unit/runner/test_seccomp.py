"""The filter of system calls, run by a small evaluator of classic BPF; its numbers against the kernel's own headers."""

from __future__ import annotations

import errno
import pathlib
import re
import struct

import pytest
import ziglang

from tes_server import errors
from tes_server.runner import seccomp

MACHINES = sorted(seccomp.ARCHITECTURES)
HEADERS = pathlib.Path(ziglang.__file__).parent / "lib/libc/include"
PR_NEW = {"NEWNS": 0x20000, "NEWCGROUP": 0x2000000, "NEWUTS": 0x4000000, "NEWIPC": 0x8000000, "NEWUSER": 0x10000000, "NEWPID": 0x20000000, "NEWNET": 0x40000000}


def evaluate(program: bytes, number: int, *arguments: int, audit: int) -> int:
    """What the kernel would do with the call: a machine of four instructions."""
    data = struct.pack("<IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return int(value)
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += if_true if holds else if_false


def ask(machine: str, number: int, *arguments: int, one_id: bool = False) -> int:
    return evaluate(seccomp.program(machine, one_id=one_id), number, *arguments, audit=seccomp.ARCHITECTURES[machine].audit)


def numbers(machine: str) -> dict[str, int]:
    return {name: pair[seccomp.ARCHITECTURES[machine].column] for name, pair in seccomp.NUMBERS.items()}


@pytest.mark.parametrize(("machine", "header"), [("x86_64", "x86-linux-any/asm/unistd_64.h"), ("aarch64", "aarch64-linux-any/asm/unistd_64.h")])
def test_numbers_are_the_kernels(machine: str, header: str) -> None:
    kernel = {name: int(number) for name, number in re.findall(r"^#define __NR_(\w+)\s+(\d+)$", (HEADERS / header).read_text(), re.MULTILINE)}
    assert len(kernel) > 250
    assert numbers(machine) == {name: kernel[name] for name in seccomp.NUMBERS}
    owners = {kernel[name] for name in ("chown", "fchown", "lchown", "fchownat") if name in kernel}
    assert set(seccomp.ARCHITECTURES[machine].chowns) == owners


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_has_its_verdict(machine: str) -> None:
    """All numbers that there are and some more: what is not named is allowed."""
    named = numbers(machine)
    refused = {named[name]: seccomp.ERRNO | errno.EPERM for name in seccomp.REFUSED}
    absent = {named[name]: seccomp.ERRNO | errno.ENOSYS for name in seccomp.ABSENT}
    for number in range(1000):
        assert ask(machine, number) == {**refused, **absent}.get(number, seccomp.ALLOW), number
    assert {"ptrace", "process_vm_readv", "chroot", "personality"}.isdisjoint(seccomp.NUMBERS)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("flag", [*PR_NEW.values(), 0x7E020000])
def test_no_namespace_is_made(machine: str, flag: int) -> None:
    named = numbers(machine)
    refusal = seccomp.ERRNO | errno.EPERM
    for call in ("clone", "unshare"):
        assert ask(machine, named[call], flag) == refusal
        assert ask(machine, named[call], flag | 0x11) == refusal
        assert ask(machine, named[call], flag | 1 << 40) == refusal
    assert ask(machine, named["clone"], 0x01200011) == seccomp.ALLOW  # fork, as glibc does it
    assert ask(machine, named["clone"], 0x003D0F00) == seccomp.ALLOW  # a thread
    assert ask(machine, named["unshare"], 0x400) == seccomp.ALLOW  # one's own file descriptors


@pytest.mark.parametrize("machine", MACHINES)
def test_values_of_arguments_are_told_apart(machine: str) -> None:
    named = numbers(machine)
    refusal = seccomp.ERRNO | errno.EPERM
    assert ask(machine, named["unshare"], 0x80) == refusal
    for request in (0x5412, 0x541C, 0x5412 | 1 << 32):  # the kernel looks at the low half only
        assert ask(machine, named["ioctl"], 0, request) == refusal
    assert ask(machine, named["ioctl"], 0x5412, 0x5401) == seccomp.ALLOW
    assert ask(machine, named["socket"], 40, 1) == refusal
    for family in (1, 2, 10, 16):
        assert ask(machine, named["socket"], family, 40) == seccomp.ALLOW


def test_other_tables_of_calls_are_closed() -> None:
    assert ask("x86_64", seccomp.X32 | 165) == seccomp.ERRNO | errno.ENOSYS
    assert ask("x86_64", seccomp.X32) == seccomp.ERRNO | errno.ENOSYS
    for machine in MACHINES:
        for audit in (0x40000003, 0x40000028):  # i386, arm
            assert evaluate(seccomp.program(machine), 0, audit=audit) == seccomp.KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_with_one_id_owners_change_in_word_only(machine: str) -> None:
    for number in seccomp.ARCHITECTURES[machine].chowns:
        assert ask(machine, number, one_id=True) == seccomp.ERRNO
        assert ask(machine, number) == seccomp.ALLOW
    assert ask(machine, numbers(machine)["mount"], one_id=True) == seccomp.ERRNO | errno.EPERM
    assert ask(machine, 0, one_id=True) == seccomp.ALLOW


def test_the_program_is_small_and_jumps_forward() -> None:
    for machine in MACHINES:
        assert len(seccomp.program(machine, one_id=True)) < 8 * 128
    with pytest.raises(errors.EngineError, match="riscv64"):
        seccomp.program("riscv64")
