"""What is remembered of credentials: for how long, how much, and nothing that could be stolen."""

from __future__ import annotations

from tes_server.api.remembered import Remembered


def test_until_its_time_or_its_version_is_over() -> None:
    kept: Remembered[str] = Remembered()
    kept.put(b"a", 1, "alice", 10.0)
    assert kept.get(b"a", 1, 9.9) == "alice"
    assert kept.get(b"b", 1, 9.9) is None
    assert kept.get(b"a", 1, 10.0) is None
    kept.put(b"a", 1, "alice", 10.0)
    assert kept.get(b"a", 2, 9.9) is None


def test_the_oldest_goes_first() -> None:
    kept: Remembered[int] = Remembered(3)
    for number in range(5):
        kept.put(b"%d" % number, 0, number, 10.0)
    assert [kept.get(b"%d" % number, 0, 1.0) for number in range(5)] == [None, None, 2, 3, 4]


def test_credentials_are_not_kept() -> None:
    kept: Remembered[str] = Remembered()
    kept.put(b"Basic secret", 0, "alice", 10.0)
    assert "secret" not in repr(vars(kept)["_entries"])
    other: Remembered[str] = Remembered()
    other.put(b"Basic secret", 0, "alice", 10.0)
    assert vars(kept)["_entries"].keys() != vars(other)["_entries"].keys()
