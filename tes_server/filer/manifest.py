"""What a stage step is given beside its plan step, and what stage-out gives back.

`Access` is plain data: it travels as JSON to stage containers. It must never hold a credential.
"""

from __future__ import annotations

import functools
from typing import Literal

import msgspec

from tes_server.errors import StagingError
from tes_server.model.task import OutputFileLog
from tes_server.plan import objects, reach
from tes_server.plan.guard import Guard
from tes_server.plan.reach import Reach

MiB = 1024 * 1024


class Storage(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An object store that may be used, and where its credentials are found: names of variables and files, never their contents."""

    url: str
    """what it holds for, as `plan.objects.rule_of` reads it; of several the longest that fits a url counts"""
    write: bool = False
    """outputs may go there"""
    owners: tuple[str, ...] = ()
    """only for these owners' tasks (`plan.reach.fits`), before one of the same url that is for everybody"""
    endpoint: str = ""
    """another server than the cloud's own: `http://127.0.0.1:9000`, `http://127.0.0.1:10000/devstoreaccount1`"""
    region: str = ""
    """S3 region; "" = AWS_REGION, AWS_DEFAULT_REGION, the profile's, or us-east-1"""
    path_style: bool = True
    """S3 buckets are named in the path, not in the host name"""
    requester_pays: bool = False
    """S3: agree to pay for what is read"""
    credentials: Literal["auto", "identity", "anonymous"] = "auto"
    """auto: the variables or file below, else the cloud's usual ones, else the machine's identity. identity: only that"""
    profile: str = ""
    """S3: a profile of the AWS configuration files"""
    key_variable: str = ""
    """name of the environment variable with the S3 access key id"""
    secret_variable: str = ""
    """name of the one with the S3 secret key, or with the Azure account key"""
    token_variable: str = ""
    """name of the one with the S3 session token, or with an Azure shared access signature"""
    file: str = ""
    """Google service account file"""
    client_id: str = ""
    """Azure: which of the machine's managed identities"""


class Access(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the filer may reach, and how hard it tries."""

    roots: tuple[str, ...] = ()
    """Absolute directories under which `file://` urls may be read and written, links followed. None by default."""
    hidden: tuple[str, ...] = ("/proc", "/sys")
    """Directories that tasks have nothing to do with, also below a root: what this process is, and what this server keeps."""
    http: bool = True
    """Allow http:// and https:// inputs."""
    ftp: bool = True
    """Allow ftp:// and ftps:// inputs."""
    uploads: tuple[str, ...] = ()
    """Schemes of the net (`ftp`, `ftps`, `http`, `https`) that outputs may go to."""
    guard: Guard = Guard()
    """Which addresses http(s) and ftp(s) connect to."""
    stores: tuple[Storage, ...] = ()
    """Object stores that may be used. None by default."""
    most_files: int = 0
    """Files, directories and links that the inputs of one attempt may come to, and likewise its outputs; 0 = no bound."""
    most_bytes: int = 0
    """The same of their bytes, holes included."""
    workers: int = 8
    """Files of this machine moved at once. More helps on network file systems, not on a local disk."""
    remote_workers: int = 32
    """Files moved at once where other machines take part: most of the time of a small one is waiting for an answer."""
    parts: int = 4
    """Ranges of one http(s) file or object moved at once, where the server supports them; connections to one ftp(s) server."""
    part_bytes: int = 64 * MiB
    """Size of such a range: large enough that its extra request is free."""
    tries: int = 5
    """Failures in a row, without a whole part of progress between them, after which a transfer is given up."""
    first_delay: float = 0.5
    """Seconds before the first repeat; doubled each time."""
    longest_delay: float = 30.0
    """Bound of that delay, and of a server's Retry-After."""
    connect_timeout: float = 10.0
    """Seconds for one connection to be made."""
    read_timeout: float = 60.0
    """Seconds without a byte after which a connection counts as dead."""

    reach: Reach | None = None
    """What of roots and stores may be used, whose task it is; None = all of them. The step of the plan says it (`narrowed`)."""

    def narrowed(self, step: Reach | None) -> Access:
        """What one step of a task may reach: of stores that are some owners' own only those of its owner."""
        stores = tuple(store for store in self.stores if not store.owners or (step is not None and reach.fits(step.owner, store.owners)))
        return msgspec.structs.replace(self, stores=stores, reach=step)

    def store_of(self, url: str) -> Storage | None:
        """The settings that hold for the object store that a url names; None if it names none, or none that may be used."""
        number = objects.covered(_rules(self.stores), url)
        return None if number is None or not (self.reach is None or self.reach.covers(url)) else self.stores[number]


@functools.lru_cache(maxsize=64)
def _rules(stores: tuple[Storage, ...]) -> tuple[objects.Rule, ...]:
    return tuple(objects.rule_of(store.url, write=store.write, owners=store.owners) for store in stores)


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What stage-out did. `error` is the first failure, in the order of the outputs; everything else was still collected."""

    outputs: tuple[OutputFileLog, ...]
    """every file, in the order of the task's outputs, then by path"""
    notices: tuple[str, ...]
    """lines for system_logs, each starting with its code"""
    error: StagingError | None
