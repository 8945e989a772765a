"""HTTP for registries, and for what opens them: one request, one answer; proxies of the environment, time-outs, and failures in our words.

It must never follow a redirect, ask twice, or say a url: there may be a signature in it.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import urllib.parse
import urllib.request
from collections.abc import Mapping

import urllib3

import tes_server
from tes_server import errors
from tes_server.filer import connect
from tes_server.filer.connect import Dialer
from tes_server.filer.control import Control
from tes_server.filer.manifest import Access
from tes_server.filer.wording import Side
from tes_server.plan import guard
from tes_server.runner import image_manifest
from tes_server.telemetry import Code

AT_ONCE = 8
"""Connections kept to one host: what one pull uses, and then some."""

_SIDE = Side(Code.IMAGE_NOT_FOUND, Code.IMAGE_DENIED, Code.IMAGE_ERROR)


class Passing(errors.EngineError):
    """Something that may go better the next time. `after`: the seconds that the registry asks us to wait."""

    def __init__(self, public: str, after: float = 0.0) -> None:
        super().__init__(public, Code.IMAGE_ERROR, transient=True)
        self.after = after


class Connections:
    """To all hosts; seconds until one must have answered to a connection, and of silence. `proxies`: those of the environment. Thread-safe.

    `guarded`: none is made to where the metadata services of clouds are, whoever names them: an image, a redirect, a registry's words
    about its token server. What a proxy connects to is its own matter. `control`: connections end with it, however slowly somebody answers.
    """

    def __init__(self, connect_timeout: float, read_timeout: float, *, proxies: bool = True, guarded: bool = True, control: Control | None = None) -> None:
        timeout = urllib3.Timeout(connect=connect_timeout, read=read_timeout)
        known = urllib.request.getproxies_environment() if proxies else {}
        self._proxies = {scheme: _completed(known.get(scheme) or known.get("all", "")) for scheme in ("http", "https")}
        self._pools = {proxy: _pools(proxy, timeout) for proxy in {"", *self._proxies.values()} if not proxy or proxy.startswith("http")}
        self._away: urllib3.PoolManager | None = None
        if guarded:
            self._dialer = Dialer(Access(connect_timeout=connect_timeout, guard=guard.REGISTRIES), control or Control(lambda: False), _SIDE)
            self._pools = {proxy: connect.dialed(pools, self._dialer) for proxy, pools in self._pools.items()}
            self._away = connect.dialed(_pools("", timeout), self._dialer.away())

    def close(self) -> None:
        """Close what is idle."""
        for pools in (*self._pools.values(), self._away):
            if pools is not None:
                pools.clear()

    def open(self, method: str, url: str, headers: Mapping[str, str], body: str | None = None, sender: str = "") -> urllib3.BaseHTTPResponse:
        """The answer, whatever its status, with its body still to be read. `Passing`, or another EngineError.

        `sender`: the url whose answer named this one. Who is elsewhere may not send us to this machine.
        """
        parts = split(url)
        proxy = self._proxy(parts)
        pools = self._pools.get(proxy)
        if sender and not proxy and self._away is not None and not self._dialer.is_own(split(sender).hostname or ""):
            pools = self._away
        if pools is None:
            raise image_manifest.unusable("the proxy that the environment names is none for http")
        sent = {"User-Agent": f"tes-server/{tes_server.__version__}", "Accept-Encoding": "identity", **headers}
        try:
            return pools.urlopen(method, url, headers=sent, body=body, redirect=False, retries=False, preload_content=False, decode_content=False)
        except ValueError as cause:  # also urllib3's LocationValueError, which is an HTTPError as well
            raise image_manifest.unusable(f"{parts.netloc} is no address that can be asked") from cause
        except errors.StagingError as cause:
            raise errors.EngineError(f"{parts.netloc} is in a network that registries may not be in", cause.code) from cause
        except errors.Canceled as cause:
            raise Passing(f"{parts.netloc} did not answer in time") from cause
        except urllib3.exceptions.HTTPError as cause:
            raise failed(cause, parts.netloc) from cause

    def _proxy(self, parts: urllib.parse.SplitResult) -> str:
        """The proxy that the environment (`https_proxy`, `no_proxy`, ...) wants for a url, "" = none."""
        if is_loopback(parts.netloc) or urllib.request.proxy_bypass(parts.netloc):
            return ""
        return self._proxies.get(parts.scheme, "")


def split(url: str, base: str = "") -> urllib.parse.SplitResult:
    """A stranger's url in parts; `base` is where it was said. EngineError if it is none."""
    try:
        return urllib.parse.urlsplit(urllib.parse.urljoin(base, url))
    except ValueError as cause:
        raise image_manifest.unusable("the registry names an address that is none") from cause


def read(response: urllib3.BaseHTTPResponse, most: int) -> bytes:
    """The body, of at most so many bytes."""
    try:
        data = response.read(most + 1)
    except urllib3.exceptions.HTTPError as cause:
        raise failed(cause, "the registry") from cause
    if len(data) > most:
        raise image_manifest.unusable(f"the registry's answer is larger than {most} bytes")
    return data


def failed(cause: Exception, host: str) -> errors.EngineError:
    """Why a connection to `host` broke."""
    reason = cause.__cause__ or cause.__context__ or cause
    if isinstance(reason, ssl.SSLCertVerificationError) or isinstance(cause, urllib3.exceptions.SSLError):
        why = f"the certificate of {host} is not trusted here, or it does not speak TLS (SSL_CERT_FILE; for a registry: sandbox.plain_http, scan.registries)"
        return errors.EngineError(why, Code.IMAGE_ERROR)
    if isinstance(cause, urllib3.exceptions.NameResolutionError) or isinstance(reason, socket.gaierror):
        return Passing(f"the name {host} cannot be resolved")
    if isinstance(cause, urllib3.exceptions.NewConnectionError) or isinstance(reason, ConnectionRefusedError):
        return Passing(f"{host} refuses the connection or cannot be reached")
    if isinstance(cause, urllib3.exceptions.ProxyError):
        return Passing(f"the proxy on the way to {host} does not let us through")
    if isinstance(cause, urllib3.exceptions.TimeoutError) or isinstance(reason, TimeoutError):
        return Passing(f"{host} did not answer in time")
    return Passing(f"the connection to {host} broke off")


def is_loopback(registry: str) -> bool:
    """Whether host[:port] is this machine itself."""
    host = urllib.parse.urlsplit(f"//{registry}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _completed(proxy: str) -> str:
    """People write host:port as well."""
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def _pools(proxy: str, timeout: urllib3.Timeout) -> urllib3.PoolManager:
    if not proxy:
        return urllib3.PoolManager(maxsize=AT_ONCE, timeout=timeout)
    parts = urllib.parse.urlsplit(proxy)
    login = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}") if parts.username else None
    plain = urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], "", "", ""))
    return urllib3.ProxyManager(plain, maxsize=AT_ONCE, timeout=timeout, proxy_headers=urllib3.make_headers(proxy_basic_auth=login))
