"""A command that is watched, in a library that hears signals in C and dies of them."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from lattok.cli import main
from lattok.utils import signals

pytestmark = [pytest.mark.ci, pytest.mark.skipif(sys.platform != "linux", reason="commands are watched on Linux")]

COMMAND = """
import ctypes, faulthandler, os, resource, signal, sys, time
from lattok.cli import main
from lattok.utils import signals
from lattok.utils.watching import hushed

def library(words):
    with signals.kept(), hushed():
        os.write(2, b"said in C\\n")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.enable()
        libc = ctypes.CDLL(None)
        libc.signal(signal.SIGTERM, ctypes.cast(libc.abort, ctypes.c_void_p))
        if words[-1] == "deaf":
            signal.pthread_sigmask(signal.SIG_BLOCK, signals.ASKING)
        os.write(1, b"inside")
        if words[-1] == "dies":
            signal.raise_signal(signal.SIGTERM)
        if words[-1] in ("waits", "deaf"):
            time.sleep(60)
    return 1

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background, or under nohup, ignore these
signal.signal(signal.SIGHUP, signal.SIG_DFL)
print("once")  # into a buffer
sys.exit(main(run=library))
"""
INTERRUPTED = "\nlattok: interrupted; run the same command again\n"


def command(case):
    """One that has begun, in a group of its own."""
    words = [sys.executable, "-c", COMMAND, "annotate", "--engine=ray", case]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    run = subprocess.Popen(words, **pipes)
    assert run.stdout.read(11) == "once\ninside"
    return run


def ended(run):
    """Its exit code and what it said; its output ends with the last process that has it."""
    _, said = run.communicate(timeout=50)
    return run.returncode, said


SENT = [(signal.SIGTERM, os.kill), (signal.SIGTERM, os.killpg), (signal.SIGINT, os.killpg), (signal.SIGHUP, os.kill)]


@pytest.mark.parametrize(("number", "send"), SENT)
def test_any_request_ends_with_its_number_and_one_line(number, send):
    """To the process alone, as `kill` sends it, or to its group, as a terminal, `timeout` and SLURM do."""
    run = command("waits")
    send(run.pid, number)
    assert ended(run) == (128 + number, INTERRUPTED)


def test_a_scheduler_that_ends_the_processes_one_by_one():
    run = command("dies")  # the one that works is the first
    time.sleep(0.2)
    run.terminate()
    assert ended(run) == (143, INTERRUPTED)


def test_a_death_that_nobody_asked_for_is_told_with_what_the_library_said():
    code, said = ended(command("dies"))
    assert code == 128 + signal.SIGABRT
    assert re.fullmatch("(?s)said in C\n.*Fatal Python error: Aborted.*\nlattok: ended by SIGABRT\n", said)


def test_killed_it_leaves_no_process_behind():
    run = command("waits")
    run.kill()
    assert ended(run) == (-signal.SIGKILL, "")


def test_a_command_that_ends_says_all_once_and_its_code_is_passed_on():
    run = command("ends")
    out, said = run.communicate(timeout=50)
    assert (run.returncode, out, said) == (1, "", "said in C\n")


def test_a_second_request_ends_a_library_that_hears_none():
    run = command("deaf")
    run.terminate()
    time.sleep(signals.GRACE_S + 2)  # a busy parent hears the first late
    assert run.poll() is None
    run.terminate()
    assert ended(run) == (143, INTERRUPTED)


def test_a_request_is_forgotten_with_the_command_that_it_ended():
    def asked(_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    assert main([], asked) == 143
    signals.check()
