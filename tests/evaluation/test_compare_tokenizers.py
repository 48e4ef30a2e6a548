"""Action tokenizers side by side: the figures of `evaluate`, in the order of what a policy errs."""

from functools import partial
from typing import Any

import pytest
import torch

from lattok import UniformBins
from lattok.evaluation import compare, evaluate
from lattok.evaluation.comparison_of_tokenizers import compare_tokenizers
from lattok.evaluation.evidence import EvalOptions
from lattok.evaluation.report import Answer
from tests.errors import refused
from tests.evaluation.worlds import World

OVERLAP = "a or b: the intervals of a policy's error overlap (0.3; b 0.35). b costs fewer codes: 29 a second against"


@pytest.fixture(scope="module")
def bins() -> tuple[World, dict[str, UniformBins]]:
    world = World(episodes=6, length=16, names=("x", "y"), tasks=2)
    chunks = torch.from_numpy(world.actions.reshape(-1, 4, 2))
    return world, {f"{count} bins": UniformBins.fit(chunks, bins=count) for count in (2, 64)}


def test_figures_are_those_of_each_alone(bins):
    world, models = bins
    report = compare(world, models, episodes=[2, 5])
    for name, model in models.items():
        alone = evaluate(model, world, episodes=[2, 5]).figures
        assert alone == {key.partition("/")[2]: value for key, value in report.figures.items() if key.startswith(name)}
    ways = ("policy_error", "policy_error/draws")
    errors = {name: min(report.figures[f"{name}/{way}"] for way in ways) for name in models}
    assert [row.key for row in report.sections[0].tables[0].rows] == sorted(errors, key=lambda name: errors[name])
    for name, model in models.items():
        said = report.provenance["models"][name]
        assert (said["vocab_size"], said["tokens_per_chunk"]) == (model.vocab_size, model.tokens_per_chunk)
    assert not {"vocab_size", "tokens_per_chunk", "horizon"} & report.provenance.keys()
    assert compare(world, list(models.values())[:1], episodes=[2, 5]).answer is not None


@pytest.mark.parametrize(
    ("errors", "holds", "text"),
    [
        ({"a": (0.3, 0.2, 0.4), "b": (0.6, 0.5, 0.7)}, True, "a: a policy that acts by it errs by 0.3 of the"),
        ({"a": (0.3, 0.2, 0.4), "b": (0.35, 0.25, 0.45)}, None, OVERLAP),
        ({"a": (1.3, 1.2, 1.4), "b": (1.2, 1.1, 1.3)}, False, "None of them. The best is b. No: it errs."),
        ({"a": (1.9, 1.8, 2.0)}, False, "None of them. The best is a. No: it errs."),
        ({"a": (0.3,), "b": (0.6,)}, None, "The best is a. Unclear: too few."),
        ({"a": (0.3, 0.2, 0.4)}, True, "a: a policy that acts by it errs by 0.3 of the variance of actions."),
        ({"a": None, "b": None}, None, "Unclear: the dataset has neither states nor"),
    ],
)
def test_the_answer_names_one_only_where_the_next_is_clearly_worse(bins, monkeypatch, errors, holds, text):
    class Told:
        horizon, trained_on, verdicts, steps = 8, None, (), ()

        def __init__(self, error):
            self.provenance = {"model": {}}
            self.figures = {"normalised_mse": 0.1, "bits_per_second": 10.0, "tokens_per_second": 10 / (error or [1])[0]}
            if error is not None:
                for way, worse in {"": 1.0, "/draws": 0.0}.items():  # drawn chunks err less
                    names = (f"policy_error{way}{end}" for end in ("", "_low", "_high")[: len(error)])
                    self.figures |= {name: value + worse for name, value in zip(names, error, strict=False)}
                self.figures |= {"policy_error/mean": 1.0, "policy_error/regression": error[0] - 0.8}
                holds = None if len(error) == 1 else error[0] < 1
                texts = {None: "Unclear: too few.", True: "Yes.", False: "No: it errs."}
                self.answer = Answer("", holds, texts[holds])

    Told.answer = None
    monkeypatch.setattr("lattok.evaluation.comparison_of_tokenizers.evaluate", lambda model, *_, **__: model)
    found = {name: Told(each) for name, each in errors.items()}
    opened: Any = {name: partial(found.get, name) for name in found}
    answer = compare_tokenizers(opened, bins[0], EvalOptions()).answer
    assert answer is not None
    assert answer.holds is holds
    assert answer.text.startswith(text)
    if holds and len(errors) > 1:  # of chunks of two lengths none is named
        found["a"].horizon = 2
        answer = compare_tokenizers(opened, bins[0], EvalOptions()).answer
        assert answer is not None
        assert answer.holds is None
        assert answer.text.startswith("Unclear. Horizons differ (2, 8 steps)")


def test_what_was_trained_on_these_episodes_or_for_a_trial_is_not_named(bins):
    world, models = bins
    models["2 bins"].trained_on = {"loop": {"steps": 2, "trial": True}}
    models["64 bins"].trained_on = {"dataset": world.name, "episodes": [[0, 5]]}
    try:
        report = compare(world, models, episodes=[2, 5])
    finally:
        for model in models.values():
            model.trained_on = None
    assert report.answer is not None
    assert report.answer.holds is None
    assert "see the verdicts about 2 bins and 64 bins" in report.answer.text
    assert {each.text for each in report.verdicts} == {
        "2 bins: a trial run of 2 steps, whose figures mean nothing",
        "64 bins: 2 of 2 held-out episodes were trained on: these figures are too good",
    }


def test_options_that_a_tokenizer_has_no_use_for_are_refused(bins):
    world, models = bins
    refused("2 bins: `cameras`: expected none for", compare, world, models, episodes=[2, 5], cameras=("front",))
    refused("2 bins: `action_key`", compare, world, models, episodes=[2, 5], action_key="nothing")
