"""Listings as servers in the wild send them."""

from __future__ import annotations

import pytest

from tes_server.errors import StagingError
from tes_server.filer.ftp_listing import Item, Kind, human, machine

FILE, DIRECTORY, LINK, OTHER = Kind


@pytest.mark.parametrize(
    ("line", "item"),
    [
        ("type=file;size=25730;modify=19940728095854;perm=r; cap.txt", Item("cap.txt", FILE, 25730)),
        ("Type=File;Size=7;UNIX.mode=0755;Unique=801gAb; a; b=c", Item("a; b=c", FILE, 7, executable=True, unique="801gAb")),
        ("Type=dir;Modify=1;  led by a space", Item(" led by a space", DIRECTORY)),
        ("Type=OS.unix=slink:/target;Size=4; link", Item("link", LINK, 4)),
        ("type=OS.unix=symlink; link", Item("link", LINK)),
        ("type=OS.unix=chr-1/3; null", Item("null", OTHER)),
        ("type=file; /whole/path/x", Item("x", FILE)),
        ("type=file;size=-4;unix.mode=odd; x", Item("x", FILE)),
    ],
)
def test_machine(line: str, item: Item) -> None:
    assert machine(["type=cdir; .", line, "type=pdir; .."]) == [item]


@pytest.mark.parametrize("line", ["", "name", "type=file;", "size=4; name", "type=file; "])
def test_machine_that_says_nothing(line: str) -> None:
    with pytest.raises(StagingError, match="not understood"):
        machine([line])


@pytest.mark.parametrize(
    ("line", "item"),
    [
        ("-rw-r--r--   1 ftp      ftp          1234 Mar  3 12:45 a b", Item("a b", FILE, 1234)),
        ("-rwxr-x---   1 1001     users  5368709120 Dec 31  2024 run", Item("run", FILE, 5368709120, executable=True)),
        ("-rw-r--r--+  1 ftp      domain users    12 Jan 01 00:00   two", Item("  two", FILE, 12)),
        ("-rw-r--r--   1 ftp      ftp            12 2024-01-31 09:12 iso", Item("iso", FILE, 12)),
        ("-rw-r--r--   1 ftp      ftp            12 31 Jan 09:12 day first", Item("day first", FILE, 12)),
        ("drwxr-xr-x   2 0        0            4096 Jun  1 09:09 pub", Item("pub", DIRECTORY, 4096, executable=True)),
        ("lrwxrwxrwx   1 0        0              11 Jun  1 09:09 now -> then -> x", Item("now", LINK, 11, executable=True)),
        ("prw-r--r--   1 0        0               0 Jun  1 09:09 pipe", Item("pipe", OTHER, 0)),
        ("brw-r--r--   1 root     disk       8, 0 Mar  3 12:45 sda", Item("sda", OTHER, 0)),
        ("03-03-24  12:45PM       <DIR>          Program Files", Item("Program Files", DIRECTORY)),
        ("03-03-2024  12:45                 1234 x.txt", Item("x.txt", FILE, 1234)),
        ("03-03-24  12:45PM       <SYMLINKD>     there", Item("there", LINK)),
    ],
)
def test_human(line: str, item: Item) -> None:
    dots = ["total 12", "drwxr-xr-x 2 0 0 4096 Jun  1 09:09 .", "drwxr-xr-x 2 0 0 4096 Jun  1 09:09 ..", ""]
    assert human([*dots, line]) == [item]


@pytest.mark.parametrize("line", ["x", "total", "-rw-r--r-- 1 a b 12 Mar 3 12:45 ", "220 welcome"])
def test_human_that_is_not_understood(line: str) -> None:
    with pytest.raises(StagingError, match="not understood"):
        human([line])
