"""The error tree of the whole server: one root, leaves that carry facts.

`public` is text that may be shown to the caller of the API; the cause (`raise ... from`) is for the log only.
This module must never import another module of the package, nor hold HTTP status codes (`api.problems` maps).
"""

from __future__ import annotations


class TesServerError(Exception):
    """Root of every error that this package raises on purpose.

    `public` may be shown to whoever sent the request; it never holds secrets, stack traces or schema text.
    """

    def __init__(self, public: str) -> None:
        super().__init__(public)
        self.public = public


class Invalid(TesServerError):
    """The request can never work as it is. `pointer` is the JSON pointer (RFC 6901) of the field at fault, or ""."""

    def __init__(self, public: str, pointer: str = "") -> None:
        super().__init__(public)
        self.pointer = pointer

    def __str__(self) -> str:
        return f"{self.pointer}: {self.public}" if self.pointer else self.public


class TooLarge(TesServerError):
    """The request, or a part of it, is larger than the server takes. `pointer` as in `Invalid`."""

    def __init__(self, public: str, pointer: str = "") -> None:
        super().__init__(public)
        self.pointer = pointer


class NotFound(TesServerError):
    """No such thing, or none that this principal may see."""


class Conflict(TesServerError):
    """The request contradicts what is stored (another body under one Idempotency-Key, an id that is taken)."""


class Forbidden(TesServerError):
    """The request must not be served to this caller or from this origin. `who` is the caller, for the audit log, if that is known."""

    who: str = ""


class Unauthorized(TesServerError):
    """The request needs a sign-in, or the one that it has is not good. `reason` is one stable word for log and metric.

    `challenges` are values of WWW-Authenticate (RFC 9110, 11.6.1). `who` is whom the credentials name, for the audit log, if there is somebody
    of that name.
    """

    who: str = ""

    def __init__(self, public: str, reason: str, challenges: tuple[str, ...] = ()) -> None:
        super().__init__(public)
        self.reason = reason
        self.challenges = challenges


class Unavailable(TesServerError):
    """A service that the request needs does not answer. `retry_after` is in seconds; `why` is for whoever runs the server, without secrets."""

    def __init__(self, public: str, retry_after: float = 1.0, why: str = "") -> None:
        super().__init__(public)
        self.retry_after = retry_after
        self.why = why


class TooMany(TesServerError):
    """The caller has or asks for more than its owner may at a time. `retry_after` is in seconds."""

    def __init__(self, public: str, retry_after: float) -> None:
        super().__init__(public)
        self.retry_after = retry_after


class NameTaken(Unavailable):
    """Another living server bears this one's name: nothing that is told by that name may be touched."""


class SettingsError(TesServerError):
    """The configuration cannot be used. `where` names the key (`auth.hosts`) or the file."""

    def __init__(self, public: str, where: str = "") -> None:
        super().__init__(f"{where}: {public}" if where else public)
        self.where = where


class StagingError(TesServerError):
    """An input or output could not be moved. `code` is one of telemetry.Code; `transient` says that a later try may work."""

    def __init__(self, public: str, code: str, transient: bool = False) -> None:
        super().__init__(public)
        self.code = code
        self.transient = transient


class EngineError(TesServerError):
    """A container engine refused or failed. `code` is one of telemetry.Code; `transient` says that a later try may work."""

    def __init__(self, public: str, code: str, transient: bool = False) -> None:
        super().__init__(public)
        self.code = code
        self.transient = transient


class ScanError(TesServerError):
    """An image scan failed, or its report cannot be believed."""


class Canceled(TesServerError):
    """Work inside the runner or the filer was told to stop."""
