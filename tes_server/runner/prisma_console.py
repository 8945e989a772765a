"""The program that has a Prisma Console scan an image in its registry: `python -m tes_server.runner.prisma_console --address URL --output FILE IMAGE`.

By the Console's API: `POST registry/scan` (on demand), `GET registry/progress`, `GET registry`; 30 requests in 30 seconds are its limit. It runs in a
container of its own, and writes down the record of that digest. This module must never judge, nor say a password: TWISTLOCK_USER and TWISTLOCK_PASSWORD.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import urllib3

from tes_server import errors
from tes_server.model import image_names
from tes_server.model.image_names import Name
from tes_server.scan.prisma import Record

API = "/api/v1"
"""The API's current version, as the Console has it."""

PAUSE = 5.0
"""Seconds between two questions, far below the Console's limit."""

PAGE = 50
"""Records of an answer: the most that every edition gives."""

TIMEOUT = urllib3.Timeout(connect=10, read=60)


class Console:
    """One Console. ScanError in words for whatever goes wrong, but for what may pass, of which there is no news."""

    def __init__(self, address: str, user: str, password: str) -> None:
        self._address = address.rstrip("/")
        self._pool = urllib3.PoolManager(timeout=TIMEOUT, retries=False)
        self._headers = {**urllib3.make_headers(basic_auth=f"{user}:{password}"), "Content-Type": "application/json"}

    def begin(self, image: Name) -> bool:
        """Have it scan the image now. False: it was too busy to hear of it."""
        tag = {"registry": image.registry, "repo": image.repository, "tag": "", "digest": image.digest}
        return self._ask("POST", "/registry/scan", {}, {"onDemandScan": True, "tag": tag}) is not None

    def busy(self, image: Name) -> bool:
        """Whether it is still at it, or does not answer. An empty answer says that it is not."""
        told = self._ask("GET", "/registry/progress", {"onDemand": "true", "repo": image.repository, "digest": image.digest})
        if told is None:
            return True
        try:
            steps = msgspec.json.decode(told or b"[]", type=list[dict[str, Any]] | None)
        except msgspec.MsgspecError as cause:
            raise errors.ScanError(f"the Console's answer about the progress cannot be read: {cause}") from cause
        return any(step.get("isScanOngoing") for step in steps or ())

    def record(self, image: Name) -> bytes | None:
        """The record of that digest, as the Console sent it."""
        for page in self._pages(image):
            for raw in page:
                try:
                    known = msgspec.json.decode(raw, type=Record).digests
                except msgspec.MsgspecError:
                    continue  # of another image: whatever that holds
                if image.digest in known:
                    return bytes(raw)
        return None

    def _pages(self, image: Name) -> Iterator[list[msgspec.Raw]]:
        offset = 0
        while True:
            told = self._ask("GET", "/registry", {"name": f"{image.registry}/{image.repository}", "limit": str(PAGE), "offset": str(offset)})
            try:
                page = msgspec.json.decode(told or b"[]", type=list[msgspec.Raw] | None) or []
            except msgspec.MsgspecError as cause:
                raise errors.ScanError(f"the Console's records cannot be read: {cause}") from cause
            yield page
            if len(page) < PAGE:
                return
            offset += PAGE

    def _ask(self, method: str, path: str, fields: dict[str, str], body: Any = None) -> bytes | None:
        """The body of the answer; None where a later question may have one."""
        try:
            url = f"{self._address}{API}{path}" + (f"?{urllib.parse.urlencode(fields)}" if fields else "")
            answer = self._pool.request(method, url, headers=self._headers, body=None if body is None else msgspec.json.encode(body), redirect=False)
        except urllib3.exceptions.SSLError as cause:
            raise errors.ScanError(f"the certificate of the Console is not trusted: {cause}") from cause
        except urllib3.exceptions.HTTPError:
            return None
        if answer.status in (401, 403):
            raise errors.ScanError(f"the Console refuses TWISTLOCK_USER ({answer.status})")
        if answer.status == 429 or answer.status >= 500:
            return None
        if answer.status >= 300:
            raise errors.ScanError(f"the Console answers {answer.status} to {method} {API}{path}: {answer.data[:200].decode(errors='replace')}")
        return answer.data


def scanned(console: Console, image: Name, seconds: float, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], None] = time.sleep) -> bytes:
    """The record of `image` once the Console was told to scan it and is done. ScanError: there is none within `seconds`."""
    until = clock() + seconds
    begun = False
    while clock() < until:
        begun = begun or console.begin(image)
        if begun and not console.busy(image) and (found := console.record(image)) is not None:
            return found
        pause(min(PAUSE, max(0.0, until - clock())))
    what = "had no record of it" if begun else "did not answer"
    raise errors.ScanError(f"the Console {what} within {seconds:g} seconds: is {image.registry}/{image.repository} in its registry settings?")


def main(arguments: list[str]) -> int:
    """Scan one image; 0 = the record is written, 1 = a word on stderr says why not."""
    parser = argparse.ArgumentParser(prog="prisma_console", allow_abbrev=False)
    parser.add_argument("--address", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("image")
    given = parser.parse_args(arguments)
    try:
        image = image_names.parse(given.image)
        if not image.digest:
            raise errors.ScanError(f"{image} is not named by its digest")
        console = Console(given.address, os.environ.get("TWISTLOCK_USER", ""), os.environ.get("TWISTLOCK_PASSWORD", ""))
        record = scanned(console, image, given.seconds)
    except errors.TesServerError as cause:
        sys.stderr.write(f"{cause.public}\n")
        return 1
    given.output.write_bytes(b"[" + record + b"]")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
