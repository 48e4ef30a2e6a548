"""`lattok doctor` repeats the last verdicts and says what to do; it never pretends that there were any."""

import json
from pathlib import Path

import pytest

from lattok import LattokError
from lattok.cli import main
from lattok.evaluation.advice import FALLS_SHORT, advice_on
from lattok.evaluation.doctor import diagnose
from lattok.evaluation.report import NEEDS_TRAINING
from tests.evaluation.worlds import tiny_lam


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_lam().save_pretrained(tmp_path / "lam")
    return tmp_path / "lam"


def evaluated(folder: Path, **values) -> None:
    (folder / "evaluation.json").write_text(json.dumps({"headline": "Fair.", "figures": {}, **values}))


def test_a_model_that_was_never_evaluated_says_so(folder: Path):
    assert "was never evaluated. Run: lattok evaluate" in diagnose(folder)


def test_an_evaluation_without_verdicts_asks_for_another(folder: Path):
    evaluated(folder)
    assert "holds no verdicts" in diagnose(folder)


def test_every_verdict_is_repeated_with_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]):
    verdicts = [
        {"text": "Codes fine", "holds": True, "key": "codes_in_use"},
        {"text": "Does not add up", "holds": False, "key": "additive"},
        {"text": f"Labels alone: {NEEDS_TRAINING}", "holds": None, "key": "trained_controls"},
    ]
    evaluated(folder, verdicts=verdicts)
    assert main(["doctor", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["Fair.", "  + Codes fine"]
    assert lines[3:5] == ["  - Does not add up", f"      {FALLS_SHORT['additive']}"]
    assert lines[6].strip() == "Run: lattok evaluate MODEL DATASET --controls trained."
    assert lines[7] == "1 hold up, 1 fall short, 1 open."


def test_what_holds_or_is_not_known_gets_no_advice():
    assert advice_on("additive", True, "") == ""
    assert advice_on("of a later version", False, "") == ""
    assert "Too close to tell" in advice_on("codes_new_tasks", None, "0.50 is within the noise of 0.49")


def test_a_folder_without_a_model_is_one_line(tmp_path: Path):
    with pytest.raises(LattokError, match="config.json"):
        diagnose(tmp_path)
