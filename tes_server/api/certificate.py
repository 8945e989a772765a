"""The server's certificate and its key, as files: read, judged, and read again when they were renewed.

Must never show a part of a key, nor ask anybody for a password.
"""

from __future__ import annotations

import datetime
import logging
import os
import pathlib
import ssl

from cryptography import x509

from tes_server import errors, telemetry

LOGGER = logging.getLogger(__name__)

LOOK = 5.0
"""Seconds between two looks at the files; two `stat` calls each."""

WHERE = "server.tls"


class Certificate:
    """TLS for whoever connects. `minimum` is "1.2" or "1.3". Raises SettingsError that names the key at fault, here and in `read` alone."""

    def __init__(self, certificate: str, key: str, minimum: str) -> None:
        self._certificate = pathlib.Path(certificate)
        self._key = pathlib.Path(key)
        self._minimum = minimum
        self._looked = float("-inf")
        self._state = self._files()
        self.context = self.read()

    def read(self) -> ssl.SSLContext:
        """A context of the files as they are now."""
        chain, key = self._bytes(self._certificate, "certificate"), self._bytes(self._key, "key")
        first = leaf(chain, self._certificate)  # before the key: of two files that were taken for each other it is not the rights that are wrong
        if self._key.stat().st_mode & 0o007:
            raise errors.SettingsError(f"{self._key} can be used by everybody on this machine; chmod o= {self._key}", f"{WHERE}.key")
        now = datetime.datetime.now(datetime.UTC)
        if now > first.not_valid_after_utc:
            raise errors.SettingsError(f"{self._certificate} expired at {first.not_valid_after_utc:%Y-%m-%d %H:%M} UTC", f"{WHERE}.certificate")
        if now < first.not_valid_before_utc:
            raise errors.SettingsError(f"{self._certificate} is not valid before {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC", f"{WHERE}.certificate")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if self._minimum == "1.3" else ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key, password=lambda: b"")
        except ssl.SSLError as cause:
            raise errors.SettingsError(self._fault(key, cause), f"{WHERE}.key") from None
        return context

    def renew(self, now: float) -> None:
        """Take the files up if they have changed and are good; what is wrong with them is logged, and the old ones go on. `now` is monotonic."""
        if now < self._looked + LOOK:
            return
        self._looked = now
        state = self._files()
        if state == self._state:
            return
        self._state = state
        try:
            self.context = self.read()
            telemetry.log(LOGGER, logging.INFO, "tls.renewed", until=self.until().isoformat(), pid=os.getpid())
        except (errors.SettingsError, OSError) as cause:
            telemetry.log(LOGGER, logging.ERROR, "tls.not_renewed", error=str(cause))

    def until(self) -> datetime.datetime:
        """When the certificate in the file expires."""
        return leaf(self._bytes(self._certificate, "certificate"), self._certificate).not_valid_after_utc

    def _files(self) -> tuple[object, ...]:
        """What changes with the files, also where they are links that are turned, as the mounted Secrets of Kubernetes are."""
        found: list[object] = []
        for path in (self._certificate, self._key):
            try:
                status = path.stat()
                found += (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
            except OSError as cause:
                found.append(cause.errno)
        return tuple(found)

    @staticmethod
    def _bytes(path: pathlib.Path, name: str) -> bytes:
        try:
            return path.read_bytes()
        except OSError as cause:
            raise errors.SettingsError(f"{path} cannot be read: {cause.strerror}", f"{WHERE}.{name}") from cause

    def _fault(self, key: bytes, cause: ssl.SSLError) -> str:
        if b"ENCRYPTED" in key:
            return f"{self._key} has a password; keep the key without one, readable for this server alone (openssl pkey -in … -out …)"
        if b"PRIVATE KEY-----" not in key:
            return f"{self._key} has no private key in PEM"
        if cause.reason == "KEY_VALUES_MISMATCH":
            return f"{self._key} is not the key of {self._certificate}"
        return f"{self._key} cannot be used with {self._certificate}: {cause.reason or 'not PEM'}"


def leaf(chain: bytes, path: pathlib.Path) -> x509.Certificate:
    """The server's own certificate, which comes first. Raises SettingsError."""
    try:
        return x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        raise errors.SettingsError(f"{path} has no certificate in PEM", f"{WHERE}.certificate") from None
