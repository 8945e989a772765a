"""Stopping: who waits for a socket is woken, and a step without one has no thread for it."""

from __future__ import annotations

import threading

from tes_server.filer.control import Control


def watchers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "tes-stop"]


def test_what_waits_is_woken_when_the_step_is_stopped() -> None:
    stop, woken = threading.Event(), threading.Event()
    control = Control(stop.is_set)
    with control.watched():
        assert watchers() == []
        control.on_end(woken.set)
        control.on_end(lambda: None)
        assert watchers() == ["tes-stop"]
        stop.set()
        assert woken.wait(30)  # nobody but the watcher asks
    assert watchers() == []


def test_after_the_step_nothing_watches() -> None:
    control = Control(lambda: False)
    woken: list[bool] = []
    with control.watched():
        control.on_end(lambda: woken.append(True))
    assert watchers() == []
    control.on_end(lambda: woken.append(True))
    assert watchers() == []
    assert woken == []
