"""What a scan said about one image: the verdict, kept in the store by digest, policy and repository.

Made by `scan.policy` from a scanner's report, asked for before every submit. Pure values; nothing here judges.
"""

from __future__ import annotations

import datetime
import enum

import msgspec


class Outcome(enum.StrEnum):
    """What a verdict says."""

    PASS = "PASS"  # noqa: S105 #: the policy has nothing against the image
    FAIL = "FAIL"  #: the policy refuses the image
    ERROR = "ERROR"  #: the scan failed: nothing is known about the image
    FORGOTTEN = "FORGOTTEN"  #: an operator took the verdict back: as if there were none, but for `scanned_at`


class ScanKey(msgspec.Struct, frozen=True, order=True):
    """What a verdict is about."""

    digest: str
    """`sha256:<64 hex digits>`: the manifest of the architecture that the task will run on, or a local engine's image id"""
    policy: str
    """hash of the policy, of the scanner that it judges the report of, and of the repository that this looked at: 16 hex digits"""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One thing that a scanner found in an image. All texts are the scanner's; only `id` and `severity` are always there."""

    id: str
    severity: str
    package: str = ""
    installed: str = ""
    """the version that the image has"""
    fixed: str = ""
    """the version that mends it; "" = there is none yet"""
    title: str = ""
    url: str = ""


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What is known about the image of `key`, from `scanned_at` until `expires_at`. A few kB at most."""

    key: ScanKey
    outcome: Outcome
    image: str
    """the name under which the image was first asked for"""
    scanner: str
    scanner_version: str = ""
    database: str = ""
    """version or time of the scanner's database, as the scanner tells it"""
    scanned_at: datetime.datetime
    """of two verdicts about one key the later one holds; it also names the round of the next scan"""
    expires_at: datetime.datetime
    counts: dict[str, int] = {}
    """severity -> findings of it in the whole report"""
    reasons: tuple[str, ...] = ()
    """why the outcome is what it is, for people: one line per class of findings"""
    top: tuple[Finding, ...] = ()
    """the worst findings, the worst first"""
    message: str = ""
    """ERROR: what failed"""
    scan: str = ""
    """id of the scan's record, which nobody but operators and admins can open; "" = it was made in a task, for that alone, and is kept nowhere"""

    def fresh(self, now: datetime.datetime) -> bool:
        """Whether it still holds at `now`; a forgotten one never does."""
        return self.outcome is not Outcome.FORGOTTEN and now < self.expires_at

    def supersedes(self, other: Verdict | None) -> bool:
        """Whether a store keeps this one in the place of `other`: an older verdict never replaces a newer one."""
        return other is None or other.scanned_at <= self.scanned_at

    def taken_back(self, now: datetime.datetime) -> Verdict:
        """What is kept in its place where it is taken back: newer than it, by whatever clock it was made, so that the next scan is another one."""
        at = max(now, self.scanned_at + datetime.timedelta(milliseconds=1))
        return Verdict(key=self.key, outcome=Outcome.FORGOTTEN, image=self.image, scanner=self.scanner, scanned_at=at, expires_at=at)
