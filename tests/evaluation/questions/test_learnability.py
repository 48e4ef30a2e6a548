"""What a policy decodes, on data whose answer is known; and the figures beside it, against loops."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from benchmarks.quality.policy_error import OAT
from lattok import FAST, UniformBins
from lattok.evaluation import evaluate
from lattok.evaluation.evidence.tokenizer_evidence import Scale
from lattok.evaluation.page import render
from lattok.evaluation.questions import learnability
from lattok.evaluation.questions.learnability import rank_consistency, replaced, unseen
from lattok.evaluation.questions.reconstruction import codec_decision
from lattok.evaluation.report import Decision
from lattok.samples import ActionWindows
from lattok.types import ActionTokenizer
from lattok.vla.tokens import TokenHead
from tests.errors import refused
from tests.evaluation.worlds import World, answer_of


class Steps(ActionTokenizer):
    """Each number of a chunk rounded down to one of five; decodes to that number."""

    horizon, action_dim, vocab_size, tokens_per_chunk = 2, 3, 5, 6

    def encode(self, chunks, valid=None):
        return chunks.floor().long().clamp(0, 4).flatten(1)

    def decode(self, codes, *, repair=False):
        return codes.clamp_min(0).float().view(-1, 2, 3)


SCALE = Scale.fit(
    torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2, 4]), tuple("xyz")
)


def test_what_begins_as_no_training_chunk_is_counted():
    known = torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0], [5, 5, 5, -1]])
    codes = torch.tensor([[1, 2, 9, 9], [1, 3, 3, 4], [5, 5, 5, -1], [1, 2, 3, 4]])
    assert unseen(codes, known, "half") == 1 / 4
    assert unseen(codes, known, "whole") == 2 / 4


def test_half_of_a_row_is_half_of_its_own_codes():
    """Rows of families of varying length end with -1; what lies behind their end is no code."""
    known = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, -1, -1, -1, -1]])
    codes = torch.tensor([[1, 2, 9, 9, -1, -1], [7, 9, -1, -1, -1, -1], [1, 2, 9, 4, 5, 6], [7, 8, -1, -1, -1, -1]])
    assert unseen(codes, known, "half") == 1 / 4
    assert unseen(codes, known, "whole") == 3 / 4


def test_a_replaced_code_moves_a_chunk_as_arithmetic_says():
    """Of 32 candidates among the four other codes the nearest is one step away, always."""
    codes = torch.tensor([[0, 1, 2, 3, 4, 2]]).repeat(9, 1)
    found = replaced(Steps(), codes, SCALE)
    sizes = SCALE.normalizer.scale.repeat(2)
    assert found["neighbour_error"] == pytest.approx(float((1 / sizes).square().mean() / 6), rel=1e-5)
    others = [np.mean([(other - own) ** 2 for other in range(5) if other != own]) for own in codes[0].tolist()]
    expected = np.mean([gap / float(size) ** 2 / 6 for gap, size in zip(others, sizes, strict=True)])
    assert found["other_error"] == pytest.approx(expected, rel=0.15)  # candidates are drawn


def test_codes_are_replaced_in_all_of_a_row_however_it_is_padded():
    """The first and the last code of rows of six, in sixty columns: each moves its own number of the chunk."""
    codes = torch.tensor([[0, 0, 0, 0, 0, 0]]).repeat(9, 1)
    tokenizer, places = Steps(), set[int]()

    def decode(codes, repair=False):
        places.update(*((row[:6] > 0).nonzero()[:, 0].tolist() for row in codes))
        return Steps.decode(tokenizer, codes[:, :6])

    tokenizer.decode = decode  # type: ignore[method-assign]
    padded = torch.nn.functional.pad(codes, (0, 54), value=-1)
    padded = torch.cat([padded, torch.full_like(padded[:2], -1)])  # rows without a code have none to replace
    found = replaced(tokenizer, padded, SCALE)
    assert places == set(range(6))
    expected = replaced(Steps(), codes, SCALE)
    assert found["neighbour_error"] == pytest.approx(expected["neighbour_error"], rel=0.35)  # places weigh otherwise


def test_ranks_are_kept_as_far_as_distances_are():
    chunks = 5 * torch.rand(80, 2, 3, generator=torch.Generator().manual_seed(1))

    own, each = Steps(), []
    decoded = own.decode(own.encode(chunks))
    assert rank_consistency(chunks, chunks, SCALE) == pytest.approx(1)
    flat, coded = ((x / SCALE.normalizer.scale).flatten(1).numpy() for x in (chunks, decoded))
    for i in range(80):
        gaps = np.linalg.norm(flat - flat[i], axis=1)
        near = np.argsort(gaps)[1:17]
        each.append(spearmanr(gaps[near], np.linalg.norm(coded - coded[i], axis=1)[near])[0])
    assert rank_consistency(chunks, decoded, SCALE) == pytest.approx(np.mean(each), abs=0.02)  # ties


@pytest.fixture
def long_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learnability, "STEPS", 200)
    monkeypatch.setattr(learnability, "WIDTH", 48)


@pytest.mark.ci
@pytest.mark.usefixtures("long_training")
def test_a_policy_errs_little_where_the_state_says_what_to_do_and_as_the_mean_where_it_does_not():
    rng = np.random.default_rng(0)
    world: Any = World(episodes=14, length=40, names=("x", "y"))
    world.states = rng.standard_normal((14, 40, 2)).cumsum(1).astype(np.float32) / 4
    world.actions = np.tanh(world.states).astype(np.float32)
    tokenizer = UniformBins.fit(torch.from_numpy(world.actions.reshape(-1, 4, 2)), bins=32)
    judges = [9, 10, 11, 12, 13]
    report = evaluate(tokenizer, world, episodes=judges)
    figures = report.figures
    assert figures["policy_error"] < 0.35
    assert figures["policy_error/regression"] < 0.3
    assert figures["policy_error/draws"] < 1.5 * figures["policy_error"]
    assert figures["policy_error/mean"] > 0.8
    assert "A policy that acts by its codes errs by" in report.headline
    assert answer_of(report).text.startswith(("Yes. A policy that acts by its codes will err by", "No: a policy that"))
    world.actions = rng.standard_normal((14, 40, 2)).astype(np.float32)
    lost = evaluate(tokenizer, world, episodes=judges)
    assert lost.figures["policy_error"] > 0.9
    assert (answer_of(lost).holds, answer_of(lost).text[:14]) == (None, "Unclear: there")


CODEC = {"normalised_mse": 0.04, "normalised_mse/kmeans": 0.02, "normalised_mse/fast": 0.01, "normalised_mse/mean": 1.0}


def decision(own: float, draws: float, regression: float, mean: float = 1.0, **codec: float) -> Decision:
    of = {"": own, "/draws": draws, "/regression": regression, "/mean": mean}
    worth = mean - regression - 0.1, mean - regression + 0.1
    return learnability._decision(CODEC | codec, {f"policy_error{end}": error for end, error in of.items()}, worth)


POLICY = {"policy_error": 0.4, "policy_error/draws": 0.3, "policy_error/regression": 0.3, "policy_error/mean": 1.0}
TOO_LITTLE = "Unclear: there is too little to learn from. "
DECISIONS = {  # own error, that of draws, of regression, of the mean action: whether it holds, and what is said
    "kept": (
        (0.8, 0.36, 0.3),
        True,
        "Yes. .* err by 0.36 .* the mean of 32 .*0.8 by the likeliest.* by 0.3, .* by 1. ",
    ),
    "likeliest": (
        (0.36, 0.8, 0.3),
        True,
        "will err by 0.36 of the variance of actions if it acts by the likeliest codes .0.8",
    ),
    "lost": ((0.47, 0.38, 0.3), False, "No: .* keeps only 88 % of what .* gains over the mean .* by 0.38"),  # .62 of .7
    "worse than the mean": ((1.2, 1.1, 0.5, 0.9), False, "No: .* errs by 1.1 of .*, the mean action by 0.9.$"),
    "nobody learns": ((1.2, 1.2, 1.1, 0.9), None, TOO_LITTLE),  # which nobody can blame on codes
    "codes alone learn": ((0.8, 0.8, 1.1, 0.9), None, TOO_LITTLE),  # nor ascribe to them
    "both hardly": ((0.8, 0.8, 0.82, 0.9), None, TOO_LITTLE + "Without codes a policy errs by 0.82, .* by 0.9.$"),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_the_answer_is_that_of_the_policys_error(case):
    """What the better of two ways to act keeps of the gain over the mean action decides; the codec's loss follows."""
    errors, holds, said = DECISIONS[case]
    found = decision(*errors)
    assert found.holds is holds
    assert re.search(said, found.text), found.text
    if holds:
        assert "loses 4 % of the variance of held-out actions; FAST at equal bits, the strongest" in found.text


def test_few_episodes_no_control_or_a_useless_codec_leave_the_answer_as_it_can_be_told():
    few = learnability._decision(CODEC, POLICY, None)
    assert (few.holds, few.text[:51]) == (None, "Unclear: fewer than five episodes have no interval.")
    says_nothing = decision(0.3, 0.3, 0.3, normalised_mse=1.0)
    assert (says_nothing.holds, says_nothing.weight) == (False, 25)
    assert says_nothing.text == "No: it reconstructs actions no better than their mean does."
    codec = {key: CODEC[key] for key in ("normalised_mse", "normalised_mse/mean")}
    alone = learnability._decision(codec, POLICY, (0.1, 0.9))
    assert alone.text.endswith("loses 4 % of the variance of held-out actions; no control at equal bits could be run.")


def test_oat_whose_policy_errs_little_is_not_refused_for_its_reconstruction():
    """Errors of benchmarks/results/policy_error.json; the mean of draws is that of studies/pages/small_policy.md. Its
    error of reconstruction is 2.8 times that of k-means at equal bits."""
    results = json.loads(Path("benchmarks/results/policy_error.json").read_text())
    own, control = (results["rows"][row]["sample"] for row in (OAT, "regression"))
    codec = {"normalised_mse": own["reconstruction"]["mean"], "normalised_mse/kmeans": 0.034}
    errors = own["error"]["mean"], 0.302, control["error"]["mean"], results["mean_action"]["sample"]
    found = decision(*errors, **codec)
    assert codec_decision(CODEC | codec).text.startswith("No: it has 2.8 times the error of k-means")
    assert found.holds
    assert found.text.startswith("Yes. A policy that acts by its codes will err by 0.302 of the variance of actions if")


def test_without_state_and_instruction_nothing_can_be_predicted_and_the_report_says_why():
    world = World(episodes=6, length=20, names=("x", "y"))
    tokenizer = UniformBins.fit(torch.from_numpy(world.actions.reshape(-1, 4, 2)))
    report = evaluate(tokenizer, world, episodes=[5], state_key=None)
    assert "policy_error" not in report.figures
    said = "Not run: the dataset has neither states nor several instructions."
    assert report.headline.startswith(f"Can a policy act by its codes? {said} Held-out error")
    assert (report.sections[0].title, report.sections[0].reading) == ("Can a policy act by it?", said)
    assert said in render(report)
    assert not answer_of(report).text.startswith("Yes. A policy")
    refused("`state_key`", evaluate, tokenizer, world, episodes=[5], state_key="observation.stat")


@pytest.mark.parametrize("value", [0.0, 0.1, -700.3])
def test_where_actions_never_change_no_policy_is_trained(value, monkeypatch):
    """They are the same as their mean, however that is rounded."""
    world = World(episodes=6, length=20, names=("x", "y"))
    tokenizer = UniformBins.fit(torch.from_numpy(world.actions.reshape(-1, 4, 2)))
    world.actions[:] = value
    monkeypatch.setattr(learnability.ReferencePolicy, "fit", None)
    report = evaluate(tokenizer, world, episodes=[5])
    assert report.sections[0].reading == "Not run: held-out actions never change."
    assert answer_of(report).text == "Unclear: held-out actions never change."


@pytest.mark.parametrize(
    ("limit", "most", "why"),
    [
        ("MOST_CODES", 200, "the tokenizer has 256 codes, and a small policy learns from 2 to 200"),
        ("MOST_TOKENS", 7, "a training chunk has 8 codes, and a small policy learns at most 7"),
    ],
)
def test_what_is_too_large_for_a_minute_is_not_run_and_the_report_says_why(limit, most, why, monkeypatch):
    world = World(episodes=6, length=20, names=("x", "y"))
    tokenizer = UniformBins.fit(torch.from_numpy(world.actions.reshape(-1, 4, 2)))
    monkeypatch.setattr(learnability, limit, most)
    report = evaluate(tokenizer, world, episodes=[5])
    assert report.sections[0].reading == f"Not run: {why}."
    assert "policy_error" not in report.figures


def test_a_tokenizer_whose_rows_are_short_is_judged_however_long_they_may_be(monkeypatch):
    """FAST with 24 steps of 12 numbers may need 288 codes for a chunk; motion that hardly changes needs few."""
    world = World(episodes=6, length=40, names=tuple("abcdefghijkl"))
    world.actions = np.repeat(world.actions[:, :1], 40, 1)
    made = FAST.fit(ActionWindows(world, 24, "action").all().chunks, vocab_size=512)
    predicted, logits = list[int](), TokenHead.logits
    monkeypatch.setattr(
        TokenHead, "logits", lambda head, codes, *given: predicted.append(codes.shape[1]) or logits(head, codes, *given)
    )
    figures = evaluate(made, world, episodes=[4, 5]).figures
    assert made.tokens_per_chunk > learnability.MOST_TOKENS
    longest = int((made.encode(ActionWindows(world, 24, "action", (0, 1, 2, 3)).all().chunks) >= 0).sum(1).max())
    assert set(predicted) == {longest}
    assert longest < 100
    assert figures["policy_error"] > 0


def test_a_chunk_whose_nearest_are_all_equal_has_no_ranks_to_keep():
    """As in phases in which a robot waits: half of these chunks are the same one."""
    moving = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(1))
    chunks = torch.cat([moving, torch.full((40, 2, 3), 0.3)])
    assert rank_consistency(chunks, chunks, SCALE) == pytest.approx(1)


def test_dimensions_that_never_move_change_no_error_of_a_policy():
    actions = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2, 4, 0])
    scale, codes = Scale.fit(actions, tuple("xyzw")), torch.tensor([[0, 1, 2, 0, 3, 4, 2, 0]]).repeat(9, 1)
    tokenizer = Steps()
    tokenizer.decode = lambda codes, repair=False: codes.clamp_min(0).float().view(-1, 2, 4)  # type: ignore[method-assign]
    moving = codes.unflatten(1, (2, 4))[..., :3].flatten(1)
    few = replaced(Steps(), moving, Scale.fit(actions[:, :3], tuple("xyz")))
    every = replaced(tokenizer, codes, scale)
    assert every["neighbour_error"] == pytest.approx(few["neighbour_error"] * 6 / 8, rel=1e-4)  # two of eight are still


def test_what_all_decodes_to_the_same_keeps_no_ranks():
    chunks = torch.randn(80, 2, 3, generator=torch.Generator().manual_seed(1))
    assert rank_consistency(chunks, torch.zeros_like(chunks), SCALE) == 0
    halves = (torch.arange(80) % 2).float()[:, None, None].expand_as(chunks)  # two places, drawn by chance
    assert abs(rank_consistency(chunks, halves, SCALE)) < 0.1


def test_without_a_whole_chunk_there_is_no_figure_of_ranks():
    world = World(episodes=6, length=3, names=("x", "y"))
    tokenizer = UniformBins.fit(torch.randn(20, 8, 2), bins=4)
    assert "rank_consistency" not in evaluate(tokenizer, world, episodes=[4, 5]).figures
