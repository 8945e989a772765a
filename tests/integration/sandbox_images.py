"""Images for tests of the sandbox: a static busybox and what a trap needs, packed as `docker save` does. No daemon, no registry."""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import subprocess
from collections.abc import Iterable
from typing import Any

from tes_server.runner import image_manifest, userns
from tes_server.runner.images import Images
from tests.image_case import Entry, directory, entry, layer, link

IDS = userns.ids()
BUSYBOX = pathlib.Path("/bin/busybox")
NAME = "tes-test/bb"  # as root, with everything usual
ENV = ["PATH=/bin", "FROM_IMAGE=yes", "BOTH=image"]
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:100:Alice:/home/alice:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
GROUP = b"root:x:0:\nusers:x:100:\nlab:x:2000:bob,alice\nother:x:2001:bob\n"


def usable() -> str:
    """Why no image can be made of this machine's busybox, or ""."""
    if not BUSYBOX.exists() or b"/ld-" in BUSYBOX.read_bytes()[:4096]:  # the path of a dynamic program's loader
        return f"there is no static {BUSYBOX} (Debian: apt-get install busybox-static)"
    return ""


def usual() -> list[Entry]:
    """The files of NAME."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    return [
        *(directory(name) for name in ("bin", "etc", "home", "home/alice", "mnt", "opt", "srv", "usr", "var")),
        directory("root", mode=0o700),
        *(directory(name, mode=0o1777) for name in ("tmp", "var/tmp")),
        entry("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        *(link(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox"),
        entry("etc/passwd", PASSWD),
        entry("etc/group", GROUP),
        entry("etc/canary", b"of the image\n"),
        link("etc/resolv.conf", "../run/nowhere/resolv.conf"),
    ]


def load(images: Images, name: str, entries: Iterable[Entry], **config: Any) -> None:
    """Put an image of one layer into a cache, by way of a file as `docker save` writes it."""
    data = layer(*entries)
    facts = {"architecture": image_manifest.architecture_of(), "os": "linux", "config": config}
    facts["rootfs"] = {"type": "layers", "diff_ids": [image_manifest.digest_of(data)]}
    text = json.dumps(facts).encode()
    config_name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
    images.load(io.BytesIO(layer(entry("layer.tar", data), entry(config_name, text), entry("manifest.json", json.dumps(manifest).encode()))))
