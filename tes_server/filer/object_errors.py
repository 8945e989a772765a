"""What obstore's errors mean for a transfer: which code, which words.

obstore tells an answer's status and body in its text only. Of that text nothing is passed on but the status, the cloud's
own code word and a region: the rest may hold urls and signatures. Pure.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator

from obstore import exceptions

from tes_server import errors
from tes_server.filer import wording
from tes_server.filer.wording import INPUT, Side
from tes_server.telemetry import Code

_STATUS = re.compile(r"status code: (\d{3})|status: (\d{3})")
_WORD = re.compile(r"<Code>(\w{1,64})</Code>")
_REGION = re.compile(r"<Region>([a-z0-9-]{1,40})</Region>")
# Who gives credentials to machines and roles. Keys are in the text too, but none holds `//`.
_CREDENTIAL_SERVICE = re.compile(
    r"//(?:169\.254\.\d|\[fd00:ec2|metadata\.google\.internal|oauth2\.googleapis\.com|login\.microsoftonline\.com|sts\.[a-z0-9.-]{0,40}amazonaws\.com)"
)
_PATH = re.compile(r'path: "((?:[^"\\]|\\.){1,200})')

_ARCHIVED = frozenset({"InvalidObjectState", "BlobArchived", "BlobBeingRehydrated"})
_CREDENTIALS = frozenset({
    "SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed",
    "InvalidClientTokenId", "AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation",
})  # fmt: skip
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "FilesystemNotFound", "InvalidBucketName", "ResourceNotFound"})
_ELSEWHERE = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "IllegalLocationConstraintException"})
_TOO_LARGE = frozenset({"EntityTooLarge", "RequestBodyTooLarge", "BlockCountExceedsLimit", "MaxBlobSizeExceeded"})
_FULL = frozenset({"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "QuotaExceeded"})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


FAILURES = (exceptions.BaseError, OSError, ValueError)
"""What obstore raises."""


@contextlib.contextmanager
def told(side: Side, used: str) -> Iterator[None]:
    """Turn what obstore raises in the block into a StagingError. `used`: the credentials that are used, in words."""
    try:
        yield
    except FAILURES as cause:
        raise meaning(cause, side, used) from None
    except Exception as cause:
        if type(cause).__name__ != "RustPanic":  # of no module that could be imported
            raise
        words = f"cannot be reached with the settings of this server: an address or a credential is malformed; used: {used}"
        raise errors.StagingError(words, Code.STORAGE_CREDENTIALS) from None


def meaning(cause: Exception, side: Side, used: str) -> errors.StagingError:
    """The error to raise for one of obstore's."""
    text = str(cause)
    found = _STATUS.search(text)
    status = int(found[1] or found[2]) if found else 0
    word = match[1] if (match := _WORD.search(text)) else ""
    answer = f"the store answered {status}" + (f" ({word})" if word else "") if status else "the store cannot be reached"
    if _CREDENTIAL_SERVICE.search(text):
        return errors.StagingError(f"no credentials could be had; tried: {used}", Code.STORAGE_CREDENTIALS, transient=True)
    if status:
        return _by_word(word, text, side, answer, used) or _by_status(status, side, answer, used) or errors.StagingError(answer, side.error)
    return _by_word(word, text, side, answer, used) or _without_status(cause, text, side)


def _by_word(word: str, text: str, side: Side, answer: str, used: str) -> errors.StagingError | None:
    if word in _ARCHIVED:
        words = f"is archived: {answer}; restore it first (S3: restore-object; Azure: set its tier to Hot or Cool), which takes hours"
        return errors.StagingError(words, Code.INPUT_ARCHIVED if side is INPUT else side.denied)
    if word in _CREDENTIALS:
        return errors.StagingError(f"{answer}: the credentials are wrong or expired; used: {used}", Code.STORAGE_CREDENTIALS)
    if word in _NO_BUCKET:
        return errors.StagingError(f"there is no such bucket or container: {answer}", Code.STORAGE_NOT_FOUND)
    if word in _ELSEWHERE or "redirect without LOCATION" in text:
        region = match[1] if (match := _REGION.search(text)) else ""
        words = f"the bucket is in region {region}" if region else "the bucket is in another region"
        return errors.StagingError(f"{words}: set `region` (or `endpoint`) of its [[storage]] table", Code.STORAGE_REGION)
    if word in _TOO_LARGE:
        return errors.StagingError(f"is too large for the store: {answer}", Code.OUTPUT_TOO_LARGE)
    if word in _FULL:
        return errors.StagingError(f"the store is full: {answer}", Code.DISK_FULL)
    if word == "UserProjectMissing" or re.search(r"requester.?pays", text, re.IGNORECASE):
        return errors.StagingError(f"{answer}: the bucket wants its readers to pay; see `requester_pays`", Code.STORAGE_REQUESTER_PAYS)
    return None


def _by_status(status: int, side: Side, answer: str, used: str) -> errors.StagingError | None:
    if status == 401:
        return errors.StagingError(f"{answer}: it wants other credentials; used: {used}", Code.STORAGE_CREDENTIALS)
    if status == 403:
        return errors.StagingError(f"{answer}; used: {used}", side.denied)
    if status == 404:
        return errors.StagingError(f"there is no such object: {answer}", side.missing)
    if status == 412:
        return errors.StagingError("was changed while it was being read", side.error, transient=True)
    if status in _PASSING:
        return errors.StagingError(f"{answer}, several times", side.error, transient=True)
    return None


def _without_status(cause: Exception, text: str, side: Side) -> errors.StagingError:
    if isinstance(cause, FileNotFoundError):
        return errors.StagingError("there is no such object", side.missing)
    if isinstance(cause, exceptions.InvalidPathError):
        key = match[1] if (match := _PATH.search(text)) else ""
        return errors.StagingError(f"holds an object that cannot be a file, {wording.printable(key)!r}", side.error)
    if isinstance(cause, OSError) and cause.errno is not None:
        return errors.StagingError(wording.reason(cause), Code.DISK_FULL if cause.errno == errno.ENOSPC else side.error)
    for mark, words in _UNREACHED.items():
        if mark in text:
            return errors.StagingError(f"the store cannot be reached: {words}", side.error, transient=True)
    return errors.StagingError("the connection failed or broke off", side.error, transient=True)


_UNREACHED = {
    "dns error": "its name is not known",
    "Connection refused": "it refuses connections",
    "certificate": "its certificate is not trusted here",
    "TimedOut": "it did not answer in time",
    "kind: Timeout": "it did not answer in time",
}
