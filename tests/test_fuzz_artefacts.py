"""A few of the mutated models and runs; scripts/fuzz_artefacts.py has as many as one likes."""

import os
import signal

import pytest

from lattok.training.runlog import METRICS, RunLog
from tests import fuzz_artefacts as fuzz


@pytest.mark.slow
def test_mutated_models_and_runs_are_refused_in_one_line_or_work(tmp_path):
    outcomes = list(fuzz.run(30, 3, tmp_path))
    assert not [outcome for outcome in outcomes if outcome.verdict in fuzz.FAILURES]
    assert {outcome.verdict for outcome in outcomes} == {"right", "refused"}


@pytest.mark.slow
def test_models_that_name_what_is_not_theirs_read_and_run_nothing_outside(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *words: "y")
    outcomes = list(fuzz.run(40, 1, tmp_path, foreign=True))
    assert not [outcome for outcome in outcomes if outcome.verdict in fuzz.FAILURES]
    assert "refused" in {outcome.verdict for outcome in outcomes}
    assert max(outcome.memory for outcome in outcomes) < fuzz.MEMORY


def test_a_pipe_among_the_files_of_a_run_holds_nothing_up(tmp_path):
    os.mkfifo(tmp_path / METRICS)
    signal.alarm(20)
    with RunLog(tmp_path, "run", 1, 2):
        pass
    signal.alarm(0)
    assert (tmp_path / METRICS).is_file()
