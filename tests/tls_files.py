"""Certificates for servers of tests, as files."""

from __future__ import annotations

import datetime
import pathlib
import ssl

import trustme


class Authority:
    """A certificate authority, and files of what it has signed."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def write(self, folder: pathlib.Path, expires: datetime.datetime | None = None) -> tuple[pathlib.Path, pathlib.Path]:
        """`tls.crt` and `tls.key` of a new certificate for this machine, in place of older ones."""
        made = self._ca.issue_cert("localhost", "127.0.0.1", not_after=expires)
        certificate, key = folder / "tls.crt", folder / "tls.key"
        for path, blobs in ((certificate, made.cert_chain_pems), (key, [made.private_key_pem])):
            new = path.with_suffix(".new")
            new.write_bytes(b"".join(blob.bytes() for blob in blobs))
            new.chmod(0o600)
            new.replace(path)
        return certificate, key

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """The authority's own certificate."""
        path = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(path))
        return path

    def context(self) -> ssl.SSLContext:
        """Of a client that trusts it."""
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        return context
