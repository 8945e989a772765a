"""TERM at any time, heard by processes of their own."""

from __future__ import annotations

import ast
import pathlib
import signal
import subprocess
import sys

import pytest

import tes_server

BEGIN = "import os, signal, subprocess, sys, threading, time\nfrom tes_server import signals\nTERM, INT = signals.ASKED\n"


def ran(program: str, code: int = 0) -> str:
    """What it prints; it must end in time, with this code."""
    done = subprocess.run([sys.executable, "-c", BEGIN + program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_two_thousand_of_them_hang_nobody() -> None:
    """A handler that sets the Event itself deadlocks here: the main thread has the Event's lock again and again."""
    program = """
event = threading.Event()
signals.hear(event.set, TERM)

def send():
    for _ in range(2000):
        os.kill(os.getpid(), TERM)
        time.sleep(0.0002)

sending = threading.Thread(target=send, daemon=True)
sending.start()
while sending.is_alive():
    event.wait(0)
    event.set()
    event.clear()
print("ended")
"""
    assert ran(program) == "ended\n"


def test_it_is_heard_while_the_main_thread_waits_and_another_one_gets_it() -> None:
    """The kernel may choose any thread. Python's handlers run in the main thread only, which may never come to it."""
    program = """
event = threading.Event()
signals.hear(event.set, TERM)
other = threading.Thread(target=time.sleep, args=(3600,), daemon=True)
other.start()
threading.Timer(0.1, signal.pthread_kill, (other.ident, TERM)).start()
print(event.wait(50))
"""
    assert ran(program) == "True\n"


def test_each_one_is_heard_and_no_other() -> None:
    program = """
import queue
heard = queue.SimpleQueue()
signals.hear(lambda: heard.put(threading.current_thread().name), TERM, INT)
signal.signal(signal.SIGUSR1, lambda *_: None)
for number in (TERM, signal.SIGUSR1, INT, TERM):
    os.kill(os.getpid(), number)
print([heard.get(timeout=50) for _ in range(3)])
time.sleep(0.1)
print(heard.empty())
"""
    assert ran(program) == "['signals', 'signals', 'signals']\nTrue\n"


def test_programs_that_are_started_hear_it_as_ever_and_tell_nobody() -> None:
    program = """
event = threading.Event()
with signals.put_off(TERM):
    pass
signals.hear(event.set, TERM)
child = subprocess.Popen(["sleep", "3600"])
child.terminate()
print(child.wait(50) == -TERM, event.is_set())
"""
    assert ran(program) == "True False\n"


def test_a_fork_that_forgets_ends_and_tells_nobody() -> None:
    program = """
event = threading.Event()
signals.hear(event.set, TERM)
child = os.fork()
if not child:
    signals.forget(TERM)
    os.kill(os.getpid(), TERM)
    time.sleep(3600)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -TERM, event.is_set())
"""
    assert ran(program) == "True False\n"


@pytest.mark.parametrize("number", ["TERM", "INT"])
def test_unwinding_runs_what_must_be_run(number: str) -> None:
    program = f"""
signals.unwind(TERM, INT)
try:
    os.kill(os.getpid(), {number})
    time.sleep(3600)
finally:
    print("cleaned")
"""
    assert ran(program) == "cleaned\n"


def test_what_is_put_off_comes_after_the_block() -> None:
    program = """
signals.unwind(TERM)
with signals.put_off(TERM):
    os.kill(os.getpid(), TERM)
    print("whole", flush=True)
print("never")
"""
    assert ran(program) == "whole\n"


def test_hearing_takes_over_from_unwinding() -> None:
    program = """
event = threading.Event()
signals.unwind(TERM)
signals.hear(event.set, TERM)
os.kill(os.getpid(), TERM)
print(event.wait(50))
"""
    assert ran(program) == "True\n"


@pytest.mark.parametrize("later", ["signals.heed()", "signals.hear(lambda: os._exit(0), TERM); time.sleep(3600)"], ids=["heed", "hear"])
def test_one_that_something_swallowed_is_not_lost(later: str) -> None:
    """As imports of C modules do now and then: of 200 reconcilers that were stopped while they started, one went on for ever."""
    program = f"""
signals.unwind(TERM)
signals.heed()
try:
    os.kill(os.getpid(), TERM)
    time.sleep(3600)
except SystemExit:
    print("swallowed", flush=True)
{later}
print("never")
"""
    assert ran(program) == "swallowed\n"


def test_it_is_light() -> None:
    """Programs in containers hear nothing before it is imported."""
    program = "from tes_server import signals; import sys; print(sorted(name for name in sys.modules if name.startswith('tes_server')), len(sys.modules) < 150)"
    assert ran(program) == "['tes_server', 'tes_server.signals'] True\n"


def test_nobody_else_makes_handlers() -> None:
    package = pathlib.Path(tes_server.__file__).parent
    made = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"signal", "set_wakeup_fd", "siginterrupt"} and ast.unparse(node.value) == signal.__name__
    }
    assert made == {"signals.py"}
