"""The image named `host`: what a sandbox sees of this machine, read-only.

The programs (/usr, /opt, /bin, /lib and their like) and those files of /etc without which programs lose their names,
certificates or fonts. Never /home, /root, /run, /var, a socket or our data; nor the secrets of /etc (shadow, ssl/private,
ssh keys, sudoers), its services or its cron. This module only names paths and must never open one.
"""

from __future__ import annotations

import pathlib
import pwd

IMAGE = "host"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PROGRAMS = ("/usr", "/opt")
# On merged systems these are links into /usr, and stay links in the sandbox.
MERGED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = (
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "gai.conf",
    "group",
    "host.conf",
    "hosts",
    "inputrc",
    "java*",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "locale.alias",
    "magic",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "perl",
    "pki/ca-trust",
    "pki/tls/certs",
    "protocols",
    "python3*",
    "R",
    "redhat-release",
    "resolv.conf",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "texmf",
    "timezone",
)


def arguments() -> list[str]:
    """bwrap's arguments that show this machine's programs over a tree of `host_tree`."""
    shown: list[str] = []
    for name in PROGRAMS:
        shown += ["--ro-bind-try", name, name]
    for name in MERGED:
        shown += [] if pathlib.Path(name).is_symlink() else ["--ro-bind-try", name, name]
    return shown


def covers(path: str) -> bool:
    """`path` lies in what is shown read-only, so that nothing can be mounted there."""
    return any(path == top or path.startswith(top + "/") for top in (*PROGRAMS, *MERGED))


def home(uid: int) -> str:
    """The home directory that /etc/passwd, and so Java and ssh, names for `uid`; made anew in every sandbox, empty."""
    try:
        named = pwd.getpwuid(uid).pw_dir
    except KeyError:
        named = ""
    usable = named.startswith("/") and named != "/" and not covers(named) and not named.startswith(("/etc/", "/proc/", "/dev/"))
    return named if usable else "/home"
