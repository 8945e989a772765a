"""What becomes of a task that waits, from the rulings about its images: it may start, is held back, or is refused. Pure.

`scan.gate` rules about each image; here is only what a task, and whoever reads its logs, gets of that.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

import msgspec

from tes_server import telemetry
from tes_server.digests.base import Resolved, Unresolved
from tes_server.model.verdict import Outcome, ScanKey, Verdict
from tes_server.scan import gate
from tes_server.scan.gate import Door, Mode, Ruling
from tes_server.telemetry import Code

_DIGEST = "digest_"
"""Before the name of an image: its digest, in the metadata of an attempt."""


class Cleared(msgspec.Struct, frozen=True):
    """What an attempt may start with, as far as its images were looked at: they run as `images` says."""

    images: dict[str, str] = {}
    """image as the task names it -> by digest"""
    metadata: dict[str, str] = {}
    lines: tuple[str, ...] = ()
    needs: tuple[ScanKey, ...] = ()
    """verdicts without which it may not start, at the moment when it does"""
    again: tuple[Resolved, ...] = ()
    """those of them that had to be looked at, in mode ENFORCE"""
    verdicts: int = 0
    """how many images had one"""


UNSEEN = Cleared()
"""No image was looked at: nobody wants that here."""


class Held(msgspec.Struct, frozen=True):
    """It waits for something that is on its way. `message` "": for a moment only, which is not worth a save."""

    code: Code = Code.WAITING_IMAGE
    message: str = ""
    due: datetime.datetime | None = None
    """not looked at before then, unless what it waits for is there"""


class Refused(msgspec.Struct, frozen=True):
    """It may not run."""

    lines: tuple[str, ...]


Decision = Cleared | Held | Refused


class Image(msgspec.Struct, frozen=True):
    """What is known of one image of a task, and the ruling about it."""

    name: str
    ruling: Ruling
    answer: Resolved | None = None
    missing: Unresolved | None = None
    verdict: Verdict | None = None
    exempt: str = ""
    """why nobody looks at it"""
    held: Held | None = None
    """where the ruling is WAIT"""


def settle(mode: Mode, images: Sequence[Image]) -> Decision:
    """The decision about a task with these images. No ruling may be SCAN: whoever asks has begun the scans by now."""
    ruling = gate.together(image.ruling for image in images)
    if ruling.door is Door.SHUT:
        against = [image for image in images if image.ruling.door is Door.SHUT]
        reasons: dict[Code, dict[str, None]] = {}
        for image in against:
            reasons.setdefault(_code(image), {}).update(dict.fromkeys(image.ruling.reasons))
        return Refused(tuple(line for code, words in reasons.items() for line in telemetry.lines(code, list(words))))
    if ruling.door is not Door.OPEN:
        held = [image.held for image in images if image.held is not None]
        # Words before none: what it waits for the longest is worth telling.
        return max(held, key=lambda one: bool(one.message), default=Held())
    found = [image for image in images if image.answer is not None]
    judged = [image.verdict for image in images if image.verdict is not None]
    return Cleared(
        images={image.name: image.answer.pinned for image in found if image.answer},
        metadata={_DIGEST + image.name: image.answer.digest for image in found if image.answer},
        lines=(
            *(telemetry.line(Code.SCAN_WARNING, reason) for image in images if not _passed(image) for reason in image.ruling.reasons),
            *(telemetry.line(Code.SCANNED, gate.passed(image.verdict, image.name)) for image in images if image.verdict and _passed(image)),
            *(telemetry.line(Code.SCANNED, image.exempt) for image in images if image.exempt),
        ),
        needs=tuple(verdict.key for verdict in judged) if mode is Mode.ENFORCE else (),
        again=tuple(image.answer for image in found if image.answer) if mode is Mode.ENFORCE else (),
        verdicts=len(judged),
    )


def ran(images: Mapping[str, str], metadata: Mapping[str, str]) -> dict[str, str]:
    """What of `metadata` says which images ran, by their names in the task; nothing where their digests are known and say the same."""
    return {f"image_{name}": what for name, what in images.items() if not what.endswith(metadata.get(_DIGEST + name, "unknown"))}


def _code(image: Image) -> Code:
    """What kind of refusal it is: the advice goes with it."""
    if image.missing is not None:
        return Code(image.missing.code)
    return Code.SCAN_FAILED if image.verdict is not None and image.verdict.outcome is Outcome.ERROR else Code.SCAN_REFUSED


def _passed(image: Image) -> bool:
    return image.verdict is not None and image.verdict.outcome is Outcome.PASS
