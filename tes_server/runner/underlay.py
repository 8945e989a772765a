"""A sandbox's root file system where the kernel makes no overlay: old kernels, data on NFS, a server within a container.

An empty directory of the cell, with every entry of the image bound read-only into it; only what the cell has to make or to
write is the cell's own. Tasks that change other places of an image (`apt-get install`) fail here, in the image's words.
This module only lists directories of images; it must never follow a link in one.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Mapping, Sequence


def overlay_works(bwrap: pathlib.Path, step: pathlib.Path, directory: pathlib.Path) -> bool:
    """Whether an overlay with its upper directory below `directory` can be made, by making one. The caller removes what it leaves."""
    lower, upper, work = (directory / name for name in ("lower", "upper", "work"))
    for path in (lower, upper, work):
        path.mkdir()
    # Nothing of this machine is bound but one program, which needs no other file: bwrap fails where a mount below what it binds vanishes
    # meanwhile, as those of Docker's containers do.
    options = ["--unshare-user", "--ro-bind", str(step), "/step", "--overlay-src", str(lower), "--overlay", str(upper), str(work), "/over"]
    command = [str(bwrap), *options, "/step", "--wipe", "/over"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def options(image: pathlib.Path, shown: str, over: Mapping[str, str], own: str, places: Sequence[str], scratch: Sequence[str]) -> list[str]:
    """bwrap's options for a root of `image`, which bwrap reaches as `shown`, in the cell's directory `own`.

    `over`: files of the root that come from elsewhere. `places` will be mounted or made: the directories above those that the
    image lacks are the cell's own. `scratch` are directories that anybody may add to. No link lies on any of these paths.
    """
    listed = _List(str(image), shown, over, places, scratch)
    listed.add("")
    missing = [path for path in scratch if not os.path.lexists(f"{image}{path}")]
    made = [word for path in missing for word in ("--perms", "1777", "--dir", path)]
    bound = [word for path, source in over.items() for word in ("--ro-bind", source, path)]
    return ["--bind", own, "/", *listed.options, *made, *bound]


class _List:
    def __init__(self, image: str, shown: str, over: Mapping[str, str], places: Sequence[str], scratch: Sequence[str]) -> None:
        self.options: list[str] = []
        self._image, self._shown, self._over, self._scratch = image, shown, over, scratch
        self._made = [*over, *scratch, *(place for place in places if not os.path.lexists(image + place))]

    def add(self, directory: str) -> None:
        """What the image has in `directory`, a path in it ("" = its root)."""
        with os.scandir(self._image + directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            path = f"{directory}/{entry.name}"
            folder = entry.is_dir(follow_symlinks=False)
            if path in self._over:
                continue
            if entry.is_symlink():
                self.options += ["--symlink", os.readlink(self._image + path), path]  # noqa: PTH115 as it is
            elif folder and (path in self._scratch or any(place.startswith(path + "/") for place in self._made)):
                self.options += ["--perms", "1777" if path in self._scratch else "0755", "--dir", path]
                self.add(path)
            elif folder or entry.is_file(follow_symlinks=False):
                self.options += ["--ro-bind", self._shown + path, path]
