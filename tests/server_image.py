"""The server's image that tests of other platforms run: stage steps and runners of the tested code."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
import sys

from tests.integration.conftest import unreachable

ROOT = pathlib.Path(__file__).parents[1]

USUAL = "tes-test/server"

CODE = """
import hashlib, pathlib, tes_server
root = pathlib.Path(tes_server.__file__).parent
found = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in (".py", ".c", ".h"))
print(hashlib.sha256(b"".join(name.encode() + (root / name).read_bytes() for name in found)).hexdigest())
"""
"""Prints a hash of the program that is installed."""


@functools.cache
def find() -> str:
    """Its name: SERVER_IMAGE, or the usual one. Skips, or fails, where Docker has none or one of another version: that would be what is tested."""
    image = os.environ.get("SERVER_IMAGE") or USUAL
    there = run("run", "--rm", "--entrypoint", "python", image, "-c", CODE).strip()
    here = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    if there != here:
        how = f"make image BASE=tes-test/python IMAGE={USUAL} makes one, SERVER_IMAGE names another"
        unreachable("an image of this code", f"{image} has other code ({how})")
    return image


def run(*words: str, text: str = "") -> str:
    """`docker WORDS`, and what it prints. Skips, or fails, where that fails."""
    try:
        done = subprocess.run(["docker", *words], check=False, capture_output=True, text=True, input=text)
    except OSError as why:
        unreachable("Docker", why)
    if done.returncode:
        unreachable(f"docker {words[0]}", done.stderr.strip())
    return done.stdout
