"""The shared files of the metrics: in memory, ours alone, gone with the server."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import prometheus_client
import pytest
from prometheus_client import mmap_dict, multiprocess

from tes_server import metrics_files

Others = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def variable() -> Iterator[None]:
    yield
    if metrics_files.VARIABLE in os.environ:
        metrics_files.leave()
    os.environ.pop(metrics_files.VARIABLE, None)


@pytest.fixture
def memory(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "memory").mkdir()
    return tmp_path / "memory"


def shared(data: pathlib.Path, memory: pathlib.Path) -> pathlib.Path:
    metrics_files.share(data, memory)
    return pathlib.Path(os.environ[metrics_files.VARIABLE])


def test_processes_of_a_data_directory_share_one(tmp_path: pathlib.Path, memory: pathlib.Path) -> None:
    place = shared(tmp_path, memory)
    assert place == shared(tmp_path, memory)
    assert place.parent == memory
    assert place.stat().st_mode & 0o777 == 0o700
    assert place != shared(memory, memory)


def test_a_directory_that_others_may_enter_is_not_used(tmp_path: pathlib.Path, memory: pathlib.Path) -> None:
    shared(tmp_path, memory).chmod(0o777)
    assert shared(tmp_path, memory) == tmp_path / "metrics"


def test_a_link_is_not_followed(tmp_path: pathlib.Path, memory: pathlib.Path) -> None:
    place = shared(tmp_path, memory)
    place.rmdir()
    place.symlink_to(tmp_path)
    assert shared(tmp_path, memory) == tmp_path / "metrics"


def test_without_memory_they_lie_with_the_data(tmp_path: pathlib.Path) -> None:
    assert shared(tmp_path, tmp_path / "none") == tmp_path / "metrics"


@pytest.fixture
def others(memory: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[Others]:
    """Starts other processes of the same server; each leaves when its input ends."""
    program = (
        "import pathlib, sys; from tes_server import metrics_files as m;"
        f"m.share(pathlib.Path({str(tmp_path)!r}), pathlib.Path({str(memory)!r})); print('there', flush=True); sys.stdin.read(); m.leave()"
    )
    with contextlib.ExitStack() as started:
        yield lambda: started.enter_context(subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True))


def there(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def test_whoever_leaves_takes_its_own(tmp_path: pathlib.Path, memory: pathlib.Path, others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_files, "LINGER", 0.0)
    another = there(others())
    place = shared(tmp_path, memory)
    (place / f"counter_{os.getpid()}.db").touch()
    (place / f"counter_{another.pid}.db").touch()
    metrics_files.leave()
    assert [path.name for path in place.iterdir()] == [f"counter_{another.pid}.db"]
    metrics_files.leave()  # nothing left to do
    another.communicate()
    assert not place.exists()


def test_the_last_one_takes_what_the_dead_left(tmp_path: pathlib.Path, memory: pathlib.Path, others: Others) -> None:
    """Also those whom nobody has waited for: where process 1 does not, they stay zombies."""
    another = there(others())
    place = shared(tmp_path, memory)
    (place / f"counter_{another.pid}.db").touch()
    another.kill()
    os.waitid(os.P_PID, another.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    metrics_files.leave()
    assert not place.exists()


def test_one_that_is_just_ending_is_waited_for(tmp_path: pathlib.Path, memory: pathlib.Path, others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    another = there(others())
    place = shared(tmp_path, memory)
    monkeypatch.setattr(time, "sleep", lambda _: another.kill())
    metrics_files.leave()
    assert not place.exists()


def test_one_that_comes_while_the_last_one_leaves_has_a_directory(tmp_path: pathlib.Path, memory: pathlib.Path, others: Others) -> None:
    place = shared(tmp_path, memory)
    [held] = metrics_files._held
    fcntl.flock(held, fcntl.LOCK_EX)  # as the last one does
    another = others()
    while str(place) not in {os.path.realpath(file) for file in pathlib.Path(f"/proc/{another.pid}/fd").iterdir()}:
        time.sleep(0.01)
    place.rmdir()
    fcntl.flock(held, fcntl.LOCK_UN)
    there(another)
    assert place.is_dir()
    another.communicate()
    assert not place.exists()


def counts(place: pathlib.Path, pid: int, value: float) -> None:
    """As a process of this number does."""
    counter = mmap_dict.MmapedDict(str(place / f"counter_{pid}.db"))  # type: ignore[no-untyped-call]
    counter.write_value(mmap_dict.mmap_key("tes_x", "tes_x_total", [], [], "X."), value, 0.0)  # type: ignore[no-untyped-call]
    counter.close()  # type: ignore[no-untyped-call]


def scraped(place: pathlib.Path) -> str:
    registry = prometheus_client.CollectorRegistry()
    registry.register(metrics_files.Together(place))
    return prometheus_client.generate_latest(registry).decode()


def test_figures_of_all_processes_are_summed(memory: pathlib.Path) -> None:
    counts(memory, 1, 2.0)
    counts(memory, 2, 3.0)
    assert "tes_x_total 5.0" in scraped(memory)


def test_a_process_that_just_makes_its_file_fails_no_scrape(memory: pathlib.Path) -> None:
    counts(memory, 1, 2.0)
    (memory / "counter_2.db").touch()
    assert "tes_x_total 2.0" in scraped(memory)
    counts(memory, 2, 3.0)
    assert "tes_x_total 5.0" in scraped(memory)


def test_a_process_that_takes_its_file_away_fails_no_scrape(memory: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts(memory, 1, 2.0)
    counts(memory, 2, 3.0)
    read = multiprocess.MultiProcessCollector.merge

    def merge(files: list[str]) -> object:
        (memory / "counter_2.db").unlink(missing_ok=True)
        return read(files)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(multiprocess.MultiProcessCollector, "merge", merge)
    assert "tes_x_total 2.0" in scraped(memory)


def test_a_directory_that_is_gone_counts_nothing(memory: pathlib.Path) -> None:
    assert scraped(memory / "gone") == ""
