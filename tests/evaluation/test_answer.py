"""The overall answer of a report: beside the strongest control, and marked where it is a trial."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lattok.data import open_dataset
from lattok.evaluation import evaluate
from lattok.evaluation.evidence import Case, EvalOptions, Split, into_new_places
from lattok.evaluation.evidence.probe_rows import ProbeRow, Score
from lattok.evaluation.evidence.tokenizer_evidence import TokenizerEvidence
from lattok.evaluation.page import render
from lattok.evaluation.questions import Subject, answer, criteria, history, with_advice
from lattok.evaluation.questions.readout import _decision as latent_decision
from lattok.evaluation.questions.reconstruction import codec_decision as tokenizer_decision
from lattok.evaluation.report import Answer, Decision, Outcome, Report, Section, Table, TableRow, Verdict
from lattok.utils.commands import command
from tests.annotation.test_fill import write
from tests.evaluation.worlds import Oracle, World, answer_of, tiny_lam

FOUR = "It loses 4 % of the variance of held-out actions; FAST at equal bits, the strongest control, loses 1 %"
pytestmark = pytest.mark.usefixtures("short_mlps")


def verdict(key: str, holds: bool | None, text: str = "text") -> Verdict:
    return Verdict(text, holds, criteria()[key])


ROWS = (
    TableRow("codes", "codes", (0.63, 0.5), False),
    TableRow("residual_kmeans", "k-means on the frame change", (0.53, 0.6)),
    TableRow("flow_kmeans", "k-means on block flow", (0.66, 0.4)),
    TableRow("labels_only", "same encoder, labels alone", (0.9, 0.9)),
    TableRow("ceiling", "change of proprioception", (0.99, 0.9), reference=True),
    TableRow("absent", "absent", not_run="not run"),
)
RATED = (("codes", 0.63), ("flow_kmeans", 0.66))  # the model and its strongest control
TABLE = Table("From codes", ("mean", "x"), ROWS, better="higher", digits=".2f")


def latent(decides: bool | None, *verdicts: Verdict, others: tuple[Decision, ...] = ()) -> Report:
    asked = (verdict("codes_against_controls", decides), *verdicts)
    own, best = (ProbeRow(key, key, {"linear": Score(None, (r2,), (None,))}) for key, r2 in RATED)  # type: ignore
    draws = SimpleNamespace(r2=lambda probe: torch.zeros(2, 1), interval=lambda values: (-0.1, 0.2))
    found: Any = latent_decision(SimpleNamespace(space=[], names=(), bootstrap=draws), own, best, asked)
    answered = answer("May I?", [found, *others], asked)
    sections, provenance = (Section("S", "", (TABLE,)),), {"dataset": {"name": "data"}}
    return Report("image-lam", "my-lam on data", "H.", asked, {}, sections, provenance, answered)


def tokenizer(own: float, used: bool = True, **controls: float) -> Answer | None:
    figures = {"normalised_mse": own, **{f"normalised_mse/{key}": value for key, value in controls.items()}}
    return answer("May I?", [tokenizer_decision(figures)], [verdict("tokens_in_use", used)])


def history_of(trained_on: dict[str, Any] | None) -> Outcome:
    model, world = tiny_lam(), World(episodes=2)
    model.trained_on = trained_on
    return history.history_outcome(SimpleNamespace(case=case_of(model, world)))


def case_of(model: Any, world: World, **options: Any) -> Case:
    return Case(model, world, EvalOptions(episodes=[1]).split(world), EvalOptions(**options))


def test_a_latent_action_model_is_judged_beside_the_strongest_control_not_the_weakest():
    for decides, begins in ((True, "Yes: "), (None, "It makes no clear difference: "), (False, "No: ")):
        found = answer_of(latent(decides))
        assert found.holds is decides
        assert found.text.startswith(begins)
        assert "simple motion clustering" in found.text
        assert "(R² 0.63 against 0.66, " in found.text


def test_what_else_speaks_against_it_is_named_the_heaviest_first():
    report = latent(True, verdict("codes_new_tasks", False), verdict("decoder_depends", False))
    text = "Mind that the decoder hardly uses the latents and on tasks that were not seen a control says more."
    assert answer_of(report).text.endswith(text)
    collapsed = Decision(40, False, "No: the codes have collapsed.", caveats=False)
    found = answer_of(latent(True, verdict("decoder_depends", False), others=(collapsed,)))
    assert (found.holds, found.text) == (False, "No: the codes have collapsed.")


@pytest.mark.parametrize(
    ("found", "holds", "begins"),
    [
        (tokenizer(0.004, kmeans=0.03, uniform_bins=0.09, fast=0.01, mean=1.0), True, "Yes. It loses 0.4 %"),
        (
            tokenizer(0.04, kmeans=0.034, uniform_bins=0.045, fast=0.01, mean=1.0),
            None,
            f"Yes as a target for supervision, no as a codec that stores or replays actions. {FOUR}.",
        ),
        (
            tokenizer(0.677, kmeans=0.034, uniform_bins=0.09, mean=1.0),
            False,
            "No: it has 19.9 times the error of k-means at equal bits, which needs no training.",
        ),
        (
            tokenizer(0.08, used=False, kmeans=0.03, mean=1.0),
            False,
            "No: it has 2.7 times the error of k-means at equal bits, which needs no training. Mind that most of its",
        ),
        (tokenizer(1.2, kmeans=1.3, mean=1.0), False, "No: it reconstructs actions no better than their mean does."),
        (tokenizer(0.2, mean=1.0), None, "Unclear"),
    ],
)
def test_a_tokenizer_is_judged_as_a_target_and_as_a_codec(found, holds, begins):
    assert found.holds is holds
    assert found.text.startswith(begins)


def test_yes_needs_the_verdict_that_decides_to_hold():
    by, text = verdict("acted_by", False), "Yes. It does."
    with pytest.raises(ValueError, match="acted_by does not hold"):
        answer("May I?", [Decision(20, True, text, by=by.about)], [by])
    assert answer("May I?", [Decision(20, True, text)], [by]) == Answer("May I?", True, text)
    report = evaluate(tiny_lam(Oracle, world := World(episodes=16, length=24)), world)
    (deciding,) = [each for each in report.verdicts if each.decides]
    assert (deciding.key, deciding.holds) == ("codes_against_controls", answer_of(report).holds)
    assert f"{deciding.text} (this decides the answer)" in render(report)


def test_known_episodes_are_counted_where_too_few_judge():
    world = World(episodes=48, length=24, tasks=2)
    world.actions[12:] = np.nan
    knowing = tiny_lam(Oracle, World(episodes=48, length=24, tasks=2))
    report = evaluate(knowing, world, episodes="8:12")
    assert answer_of(report).text.endswith(
        "Record 15 episodes with known actions or more, of which 5 are held out: you have 12."
    )


def test_a_trial_run_is_marked_wherever_its_figures_appear():
    trial = history_of({"loop": {"steps": 60, "trial": True}}).decision
    assert trial is not None
    report = latent(True, others=(trial,))
    mark = "a trial run of 60 steps"
    assert answer_of(report).holds is False
    for text in (report.to_text(), render(report), report.to_json(), report.summary()["headline"]):
        assert mark in " ".join(text.split())
    assert history_of({"loop": {"steps": 60}}).decision is None


def test_judged_on_what_it_was_trained_on_it_gets_no_answer():
    seen = history_of({"dataset": "planted", "episodes": [[0, 1]], "loop": {}})
    assert [(each.key, each.holds) for each in seen.verdicts] == [("held_out_seen", False)]
    assert seen.decision is not None
    found = answer_of(latent(True, *seen.verdicts, others=(seen.decision,)))
    assert found.holds is None
    assert found.text.startswith("Unclear from this report")


def test_models_with_known_answers(tmp_path):
    world = World(episodes=16, length=24)
    knows = evaluate(tiny_lam(Oracle, world), world, episodes=[6, 7, 8, 9], out=tmp_path)
    assert knows.answer.holds is not False
    assert json.loads((tmp_path / "report.json").read_text())["answer"]["text"] == knows.answer.text
    assert knows.answer.reason in (tmp_path / "report.html").read_text().replace("&#x27;", "'")
    fresh = evaluate(tiny_lam(), world, episodes=[6, 7, 8, 9])
    assert fresh.answer.holds is not True
    blind = evaluate(tiny_lam(), world, episodes=[6, 7, 8, 9], action_key=None)
    assert blind.answer.holds is not True


@pytest.mark.ci
def test_few_episodes_are_no_reason_for_any_difference(tmp_path):
    """Neither that there is none: they have no interval. What to do is said."""
    world = World(episodes=16, length=24)
    model = tiny_lam(Oracle, world)
    alone = evaluate(model, world, episodes=[15], out=tmp_path)
    assert alone.answer.holds is None
    assert alone.answer.text.startswith("Unclear: only one episode was held out, and fewer than five ")
    assert alone.answer.text.endswith("Run: lattok evaluate MODEL DATASET")
    (against,) = [v for v in alone.verdicts if v.key == "codes_against_controls"]
    assert str(against.advice).startswith("Hold out five episodes or more, with known actions where these are compared")
    assert str(against.advice) in (tmp_path / "report.html").read_text()
    model.trained_on = {"dataset": "planted", "episodes": [[0, 14]], "loop": {}}
    again = evaluate(model, world, episodes=[15])
    expected = "Run: lattok train ... --episodes train && lattok evaluate MODEL-again DATASET"
    assert again.answer.text.endswith(expected)
    few = evaluate(tiny_lam(Oracle, world), World(episodes=3, length=24))
    assert few.answer.text.endswith("Record 15 episodes or more, of which 5 are held out: you have 3.")
    some = evaluate(tiny_lam(Oracle, world), world, episodes="11:15")
    assert some.answer.text.startswith("Unclear: only 4 episodes were held out, and fewer than five ")
    assert not any("r2" in name and name.endswith("low/codes") for name in some.figures)
    five = evaluate(tiny_lam(Oracle, world), world)  # the default, of one task
    assert five.answer.holds is True


def test_advice_fits_the_model_it_is_about():
    def said(key: str = "codes_against_controls", kind: str = "image-lam", **facts: Any) -> str:
        config = {"latent_norm": "batch", "codebook": {"start": "kmeans"}} if facts.pop("robust", False) else {}
        trained_on = facts and {"loop": {}, **facts}
        return str(Subject.of(kind, config, trained_on).advice(criteria()[key], False, ""))

    assert said(labels={"fraction": 0.0}).startswith("Label a few per cent of the pairs (labelled_fraction=0.05), or")
    assert said(labels={"fraction": 0.05}, robust=True) == (
        "Label more than 5 % of the pairs (labelled_fraction), or train longer; without labels the raw frame change is "
        "hard to beat."
    )
    assert "labelled_fraction" not in said(labels={"fraction": 1.0})
    assert "robust preset" in said("codes_in_use", labels={"fraction": 0.0})
    assert "robust preset" not in said("codes_in_use", labels={"fraction": 0.0}, robust=True)
    assert "robust preset" not in said("codes_in_use", "moto-lam", labels={"fraction": 0.0})  # which has none
    for kind, place, key, verb in (
        ("image-lam", "org/lam", "codes_against_controls", "image-lam"),  # whose training cannot be changed
        ("residual-vq", "tok", "error_against_kmeans", "action-vq"),  # which has no decoder to choose
    ):
        text = str(Subject.of(kind, {}, {"loop": {}}, place).advice(criteria()[key], False, ""))
        assert text == f"Train one on this dataset: lattok train {verb} DATASET --out new"
    told = {"decoder": {"predict_change": True, "conditioning": "add"}}  # what the advice would be is there already
    for config, there in (({"decoder": {"predict_change": False}}, False), (told, True), ({}, True)):
        text = str(Subject.of("image-lam", config, {"loop": {}}).advice(criteria()["decoder_depends"], False, ""))
        assert ("decoder_predict_change" not in text) == there
    assert "labelled" not in said(kind="clip-lam", steps=1)
    for key in criteria():  # of a published or converted one, nothing can be trained otherwise
        text = said(key, "lapa-laq")
        forbidden = ("labelled_fraction", "preset", "Train longer", "codebook_start", "{")
        assert not any(word in text for word in forbidden), key
        assert "{" not in said(key, labels={"fraction": 0.0}), key
    (open_, short) = with_advice(
        [verdict("decoder_depends", None), verdict("transfers", False)], case_of(tiny_lam(), World(episodes=2))
    )
    assert str(open_.advice) == "Hold out more episodes, or average several seeds."
    assert short.advice == criteria()["transfers"].advice


def test_commands_write_into_places_that_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    given = command("train", "idm", "new", "--out", "new"), command("evaluate", "new", "data")
    found = [*map(str, into_new_places(given))]
    assert found == ["lattok train idm new --out new-2", "lattok evaluate new-2 data"]


@pytest.mark.parametrize(("known", "verb"), [({0, 3}, "train"), ({0, 1, 2, 3}, "annotate")])
def test_codes_are_not_proposed_for_actions_that_nobody_knows(known, verb, tmp_path):
    tokenizer: Any = SimpleNamespace(label_source="actions", address="t")
    case = Case(tokenizer, open_dataset(write(tmp_path / "data", known=known)), Split([], [], ""), EvalOptions())
    assert [each.verb for each in case.filled(TokenizerEvidence.use).commands] == [verb]
