"""Without a terminal there is a line now and then, with the time left as far as it can be known."""

import pytest

from lattok.utils import progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lattok.utils.progress.time.monotonic", lambda: now[0])
    return now


def test_lines_come_every_half_minute_and_tell_the_time_left(clock, capsys):
    with progress.ProgressBar("annotate") as bar:
        for seconds, done in ((0, 500), (10, 600), (31, 700), (40, 800), (62, 900)):
            clock[0] = seconds
            bar(done, 1000)
    # 500 frames were there before: 200 in 31 s, then 400 in 62 s
    assert capsys.readouterr().err == "annotate: 700/1000, 46 s left\nannotate: 900/1000, 16 s left\n"


def test_a_stage_has_its_own_time(clock, capsys):
    with progress.ProgressBar("evaluate") as bar:
        bar.stage("frames", 0, 10)
        clock[0] = 100
        bar.stage("probes", 0, 40)
        clock[0] = 140
        bar.stage("probes", 10, 40)
        clock[0] = 200
        bar.stage("questions", 0, 4)
        clock[0] = 240
        bar.stage("questions", 1, 4)  # of one kind each: the others may take longer
    said = "probes: 0/40\nprobes: 10/40, 120 s left\nquestions: 0/4\nquestions: 1/4\n"
    assert capsys.readouterr().err == said


def test_what_is_quick_or_quiet_says_nothing(clock, capsys):
    with progress.ProgressBar("export") as bar, progress.ProgressBar("export", quiet=True) as quiet:
        for done in range(10):
            clock[0] = done
            bar(done, 10)
            quiet(done, 10)
            clock[0] = 1000
            quiet(done, 10)
            clock[0] = done
    assert capsys.readouterr().err == ""
