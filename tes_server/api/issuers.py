"""An issuer of tokens over the net: its configuration, its keys, its word on tokens that only it can read.

Asked seldom: keys are kept, and fetched again when they are old, or when a token names one that is not there, but not oftener
than every `BETWEEN` seconds, whatever comes. An issuer that is away is told from a bad token. Must never follow a redirect,
speak without TLS to another machine, nor log a token.
"""

from __future__ import annotations

import base64
import http
import ipaddress
import json
import logging
import os
import pathlib
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

import joserfc.jwk
import msgspec
import urllib3

from tes_server import errors, telemetry
from tes_server.api import signatures
from tes_server.settings_auth import IssuerSettings

logger = logging.getLogger(__name__)

FRESH = 3600.0
"""Seconds after which keys are fetched again though all is well: one that was withdrawn must not hold for ever."""

STALE = 24 * 3600.0
"""Seconds for which keys are used while their issuer is away."""

BETWEEN = 10.0
"""Seconds between two fetches, at least. Tokens with made-up keys must not make this server hammer on its issuer."""

TIMEOUT = urllib3.Timeout(connect=3.0, read=4.0)

LARGEST = 1024 * 1024
"""Bytes of an answer."""

REMIND = 60.0
"""Seconds after which the log has again that an issuer is away."""


class _Known(msgspec.Struct, frozen=True):
    """What an issuer has said. `at` is `time.monotonic`."""

    keys: list[joserfc.jwk.Key]
    introspection: str
    userinfo: str
    at: float


class Issuer:
    """One issuer. Safe to ask from several threads."""

    def __init__(self, settings: IssuerSettings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._monotonic = monotonic
        self._fetching = threading.Lock()
        self._known: _Known | None = None
        self._tried = float("-inf")
        self._why = ""
        self._told = float("-inf")
        self._pools = _pools(_discovery(settings))

    def keys(self, said: signatures.Unverified) -> list[joserfc.jwk.Key]:
        """Keys that the token may be signed by. Raises Unauthorized if the issuer has none such, Unavailable if that cannot be found out."""
        known = self._now_known(lambda known: bool(signatures.fitting(known.keys, said)))
        found = signatures.fitting(known.keys, said)
        if not found:
            if self._why:
                raise self._away(self._why)  # its new keys may be where nobody can look
            raise errors.Unauthorized("the token is signed by a key that its issuer does not have", "key")
        return found

    def introspected(self, token: str) -> dict[str, Any] | None:
        """What the issuer says of a token (RFC 7662), None if it does not know it. Raises Unavailable."""
        settings = self.settings
        url = settings.introspection if settings.introspection != "discovery" else self._now_known(lambda _: True).introspection
        try:
            pair = f"{urllib.parse.quote_plus(settings.client_id)}:{urllib.parse.quote_plus(_secret(settings))}"  # RFC 6749, 2.3.1
            headers = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode(), "Content-Type": "application/x-www-form-urlencoded"}
            answer = self._ask("POST", url, headers, urllib.parse.urlencode({"token": token, "token_type_hint": "access_token"}))
        except _Failure as cause:
            raise self._away(str(cause)) from cause
        return answer if answer.get("active") is True else None

    def userinfo(self, token: str) -> dict[str, Any]:
        """What else the issuer says of whom it gave a token (OpenID Connect Core, 5.3). For its own tokens alone.

        Raises Unauthorized where it does not take the token any more (5.3.3), Unavailable where it does not answer.
        """
        url = self._now_known(lambda _: True).userinfo
        try:
            return self._ask("GET", url, {"Authorization": f"Bearer {token}"})
        except _Failure as cause:
            if cause.status == http.HTTPStatus.UNAUTHORIZED:
                raise errors.Unauthorized("the token's issuer does not take it", "inactive") from None
            raise self._away(str(cause)) from cause

    def check(self) -> int:
        """How many keys it has. Raises Unavailable, whose `why` says what is wrong, and logs nothing: whoever asks tells it."""
        self._told = float("inf")
        return len(self._now_known(lambda _: True).keys)

    def _now_known(self, enough: Callable[[_Known], bool]) -> _Known:
        """What the issuer said; asked again where that is old or not enough. Raises Unavailable where it never answered."""
        known = self._known
        # Old keys that would do need not wait for new ones: an issuer that hangs would hold up every sign-in, not one in ten seconds.
        if not self._is_good(known, enough) and self._fetching.acquire(blocking=not self._would_do(known, enough)):
            try:
                known = self._known  # another thread may have asked meanwhile
                if not self._is_good(known, enough) and self._monotonic() - self._tried >= BETWEEN:
                    self._fetch()
                    known = self._known
            finally:
                self._fetching.release()
        if known is None or self._monotonic() - known.at > STALE:
            raise self._away(self._why)
        return known

    def _is_good(self, known: _Known | None, enough: Callable[[_Known], bool]) -> bool:
        return known is not None and self._monotonic() - known.at < FRESH and enough(known)

    def _would_do(self, known: _Known | None, enough: Callable[[_Known], bool]) -> bool:
        return known is not None and self._monotonic() - known.at <= STALE and enough(known)

    def _fetch(self) -> None:
        try:
            document = self._ask("GET", _discovery(self.settings))
            if document.get("issuer") != self.settings.issuer:
                raise _Failure(f"{_discovery(self.settings)} is the configuration of another issuer, {str(document.get('issuer'))[:200]!r}")
            keys = signatures.keys(self._ask("GET", str(document.get("jwks_uri"))))
            if not keys:
                raise _Failure(f"{str(document.get('jwks_uri'))[:200]} has no key for signatures")
            ends = [str(document.get(name, "")) for name in ("introspection_endpoint", "userinfo_endpoint")]
            self._known = _Known(keys, ends[0], ends[1], self._monotonic())
            self._why = ""
        except _Failure as cause:
            self._why = str(cause)
            self._tell(self._why)
        finally:
            self._tried = self._monotonic()  # not when it began: those who waited for one that took long must not ask once more each

    def _away(self, why: str) -> errors.Unavailable:
        self._tell(why)
        return errors.Unavailable("the issuer of your token does not answer; try again", BETWEEN, why)

    def _tell(self, why: str) -> None:
        if self._monotonic() - self._told > REMIND:
            self._told = self._monotonic()
            telemetry.log(logger, logging.ERROR, "issuer.away", issuer=self.settings.issuer, error=why)

    def _ask(self, method: str, url: str, headers: dict[str, str] | None = None, body: str | None = None) -> dict[str, Any]:
        if not is_safe(url):
            raise _Failure(f"{url[:200]!r} is no https url")
        try:
            # A redirect could lead anywhere, also with our password: issuers say where their things are.
            response = self._pools[urllib.parse.urlsplit(url).scheme].request(
                method, url, headers={"Accept": "application/json", **(headers or {})}, body=body, redirect=False, preload_content=False
            )
            try:
                data = response.read(LARGEST + 1, decode_content=True)
                status = response.status
            finally:
                response.close()
        except urllib3.exceptions.HTTPError as cause:
            reason = getattr(cause, "reason", None) or cause  # of a MaxRetryError; the texts are of urllib3's objects, not for people
            raise _Failure(f"{url}: {type(reason).__name__}") from cause
        if status != 200:
            raise _Failure(f"{url} answered {status}", status)
        try:
            found = json.loads(data) if len(data) <= LARGEST else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise _Failure(f"{url} answered what is no JSON object of up to {LARGEST} bytes")
        return found


class _Failure(Exception):
    """An issuer could not be asked. Its text is for whoever runs the server: no secret. `status` is its answer's, 0 if there was none."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


def _discovery(settings: IssuerSettings) -> str:
    return settings.discovery or settings.issuer.rstrip("/") + "/.well-known/openid-configuration"


def is_safe(url: str) -> bool:
    """https, or http to this machine itself: nobody in between can put keys of their own there."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or not url.isascii() or not url.isprintable() or " " in url:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and (host == "localhost" or _is_loopback(host)))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _secret(settings: IssuerSettings) -> str:
    """Read each time: a mounted secret may be exchanged. Raises _Failure."""
    if not settings.client_secret_file:
        return os.environ.get(settings.client_secret_variable, "")
    try:
        return pathlib.Path(settings.client_secret_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as cause:
        raise _Failure(f"auth.issuers: client_secret_file: {cause}") from cause


def _pools(url: str) -> dict[str, urllib3.PoolManager]:
    """Connections by scheme; those with TLS by the proxy that the environment names for `url`.

    Without TLS there is this machine alone (`is_safe`): a proxy would be another one, which could put keys of its own there.
    """
    retries = urllib3.Retry(connect=1, read=1, redirect=False, status=False, other=False, respect_retry_after_header=False)
    options: dict[str, Any] = {"timeout": TIMEOUT, "retries": retries, "maxsize": 4}
    proxy = urllib.request.getproxies().get("https")
    by_proxy = proxy and not urllib.request.proxy_bypass(urllib.parse.urlsplit(url).hostname or "")
    secure = urllib3.ProxyManager(proxy, **options) if proxy and by_proxy else urllib3.PoolManager(**options)
    return {"https": secure, "http": urllib3.PoolManager(**options)}
