"""Which directories cover which paths."""

from __future__ import annotations

import itertools

from tes_server.plan import mounts
from tes_server.plan.paths import below
from tes_server.plan.steps import MountKind

PATHS = ["/", "/a", "/a/b", "/a/b/c", "/a-b", "/a-b/c", "/a.b", "/a b", "/ab", "/é", "/é/a", "/b", "/b/a"]


def test_covered_is_what_comparing_with_every_directory_says() -> None:
    for count in (0, 1, 2, 3):
        for directories in itertools.combinations(PATHS, count):
            merged = mounts.merge(directories)
            assert {*merged} == {one for one in directories if not any(below(one, other) for other in directories if other != one)}
            for path in PATHS:
                assert mounts.covered(path, merged) == any(below(path, directory) for directory in directories), (path, directories)


def test_no_root_covers_a_live_directory() -> None:
    made = mounts.mounts({"/jobs", "/home/u/store/a", "/work"}, (), {"/jobs": "/site/jobs", "/home/u/store": "/site/u"})
    assert [(mount.path, mount.kind) for mount in made] == [("/work", MountKind.ROOT), ("/home/u/store", MountKind.LIVE), ("/jobs", MountKind.LIVE)]
