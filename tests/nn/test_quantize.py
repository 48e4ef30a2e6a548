"""Quantizers against brute force, the published moving-average formula, and vector-quantize-pytorch."""

import copy
import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lattok.nn.kmeans import kmeans, nearest
from lattok.nn.quantize import (
    Codebook,
    QuantizerConfig,
    VectorQuantizer,
    _revived,
    code_statistics,
    move_codebooks,
)
from tests.errors import refused


def started(config: QuantizerConfig, data: torch.Tensor) -> VectorQuantizer:
    quantizer = VectorQuantizer(config).train()
    quantizer(data)
    return quantizer


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=30)
def test_nearest_is_the_brute_force_nearest(n, k, d, seed):
    rng = np.random.default_rng(seed)
    vectors, codebook = rng.standard_normal((n, d)), rng.standard_normal((k, d))
    expected = ((vectors[:, None] - codebook) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(nearest(torch.tensor(vectors), torch.tensor(codebook)), expected)


def test_moving_average_step_equals_the_published_formula():
    torch.manual_seed(0)
    book = Codebook(QuantizerConfig(dim=3, size=5, revive_below=0.0))
    before = {name: value.clone().numpy().astype(np.float64) for name, value in book.named_buffers()}
    inputs, codes = torch.randn(40, 3), torch.randint(5, (40,))
    move_codebooks([book], inputs[:, None], codes[:, None], [torch.Generator()])
    counts = np.bincount(codes.numpy(), minlength=5)
    sums = np.stack([inputs.numpy()[codes.numpy() == k].sum(0) for k in range(5)])
    size = 0.99 * before["cluster_size"] + 0.01 * counts
    total = 0.99 * before["cluster_sum"] + 0.01 * sums
    smoothed = (size + 1e-5) / (size.sum() + 5 * 1e-5) * size.sum()
    np.testing.assert_allclose(book.cluster_size, size, rtol=1e-5)
    np.testing.assert_allclose(book.vectors, total / smoothed[:, None], rtol=1e-4, atol=1e-5)


def test_residual_chain_equals_vector_quantize_pytorch():
    from vector_quantize_pytorch import ResidualVQ

    torch.manual_seed(0)
    theirs = ResidualVQ(dim=6, codebook_size=8, num_quantizers=3).eval()
    ours = VectorQuantizer(QuantizerConfig(dim=6, size=8, levels=3)).eval()
    for book, layer in zip(ours.codebooks, theirs.layers, strict=True):
        book.vectors.copy_(layer.codebook)
    x = torch.randn(50, 1, 6)
    vectors, codes, _ = theirs(x)
    got = ours(x)
    assert torch.equal(got.codes, codes)
    torch.testing.assert_close(got.vectors, vectors)
    torch.testing.assert_close(ours.lookup(got.codes), vectors)


def test_straight_through_gives_codebook_values_and_the_latents_gradient():
    quantizer = started(QuantizerConfig(dim=4, size=3), torch.randn(64, 4)).eval()
    latents = torch.randn(7, 4, requires_grad=True)
    out = quantizer(latents)
    torch.testing.assert_close(out.vectors, quantizer.lookup(out.codes))
    weights = torch.randn(7, 4)
    (out.vectors * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)


def test_gradient_codebook_learns_by_its_own_loss_only():
    quantizer = VectorQuantizer(QuantizerConfig(dim=4, size=3, update="gradient", start="normal"))
    latents = torch.randn(7, 4, requires_grad=True)
    out = quantizer(latents)
    (out.vectors.sum() + out.losses["commitment"]).backward()
    assert quantizer.codebook_vectors[0].grad is None
    latents.grad = None
    out.losses["codebook"].backward()
    assert latents.grad is None
    assert quantizer.codebook_vectors[0].grad.abs().sum() > 0


def test_codebook_starts_from_data_and_uses_every_code():
    torch.manual_seed(0)
    centres = torch.randn(16, 8) * 10
    data = centres[torch.randint(16, (512,))] + 0.01 * torch.randn(512, 8)
    quantizer = started(QuantizerConfig(dim=8, size=16), data)
    assert quantizer.pop_usage().used == [16]
    assert quantizer.pop_usage() is None
    assert torch.cdist(centres, quantizer.codebook_vectors[0]).amin(1).max() < 0.05


def test_a_codebook_that_learns_by_gradients_has_the_same_terms_before_it_starts():
    """The loop, and the processes of a run, need the same terms and gradients of the same parameters in every step."""
    quantizer = VectorQuantizer(QuantizerConfig(dim=4, size=3, update="gradient", continuous_steps=2)).train()
    losses = [quantizer(torch.randn(16, 4, requires_grad=True)).losses for _ in range(4)]
    assert [list(each) for each in losses] == 4 * [["commitment", "codebook"]]
    losses[0]["codebook"].backward()
    assert torch.equal(quantizer.codebook_vectors[0].grad, torch.zeros(3, 4))
    assert [float(each["codebook"].detach()) > 0 for each in losses] == [False, False, True, True]


def test_continuous_steps_pass_latents_through_then_start():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(QuantizerConfig(dim=4, size=8, levels=2, continuous_steps=3)).train()
    for _ in range(3):
        x = torch.randn(32, 4)
        out = quantizer(x)
        assert torch.equal(out.vectors, x)
        assert out.losses["commitment"] == 0
        assert quantizer.pop_usage() is None
    out = quantizer(x)
    assert not torch.equal(out.vectors, x)
    assert (out.vectors - x).square().mean() < 0.6 * x.square().mean()
    assert len(quantizer.reservoir) == 0


def test_parts_of_a_step_count_as_one():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(QuantizerConfig(dim=4, size=8, continuous_steps=2)).train()
    quantizer.parts = 3
    for part in range(12):
        x = torch.randn(32, 4)
        out = quantizer(x)
        assert torch.equal(out.vectors, x) == (part < 6), part
        assert quantizer.steps == 1 + part // 3
    assert len(quantizer.reservoir) == 0
    quantizer = restarting(2)
    quantizer.parts = 2
    sizes = []
    for _ in range(8):
        quantizer(torch.tensor([[0.1, 0]]))
        sizes.append(quantizer.codebooks[0].cluster_size.sum().item())
    assert sizes == [1, 2, 3, 0] * 2


def test_dead_codes_are_revived_from_the_batch():
    torch.manual_seed(0)
    quantizer = started(QuantizerConfig(dim=2, size=16, revive_below=0.1, decay=0.9), torch.zeros(64, 2))
    moved = torch.randn(256, 2) * 5
    for _ in range(60):
        quantizer(moved)
    assert len(nearest(moved, quantizer.codebook_vectors[0]).unique()) >= 14


def test_without_update_nothing_changes():
    quantizer = started(QuantizerConfig(dim=4, size=8), torch.randn(64, 4))
    before = {name: value.clone() for name, value in quantizer.named_buffers()}
    quantizer(torch.randn(64, 4) * 3, update=False)
    for name, value in quantizer.named_buffers():
        assert torch.equal(value, before[name]), name


def test_joint_entropy_sees_tokens_that_repeat_one_another():
    torch.manual_seed(0)
    one = torch.randint(16, (4000, 1))
    copies, free = code_statistics(one.expand(-1, 4), 16), code_statistics(torch.randint(16, (4000, 4)), 16)
    assert copies.used == free.used == [16] * 4
    assert copies.joint_entropy == pytest.approx(4.0, abs=0.02)
    assert free.joint_entropy > 11
    assert copies.combinations == 16
    assert copies.tokens_repeat
    assert not free.tokens_repeat


def test_when_tokens_repeat_one_another():
    two = torch.arange(4096)[:, None] % 2
    assert code_statistics(two.expand(-1, 2), 16).tokens_repeat
    assert not code_statistics(two, 16).tokens_repeat  # one token has no other
    assert not code_statistics(torch.zeros(4096, 4, dtype=torch.long), 16).tokens_repeat  # collapsed, not repeated
    few = (torch.arange(64)[:, None] % 16).expand(-1, 4)
    assert not code_statistics(few, 16).tokens_repeat  # so few rows could not say more
    eight = torch.arange(4096) % 8
    rows = torch.stack([eight // 2, eight % 2], 1)  # 3 bits jointly, 2 in one token: half of one more is enough
    assert code_statistics(rows, 64).joint_entropy == 3
    assert not code_statistics(rows, 64).tokens_repeat


def test_no_codes_say_nothing():
    stats = code_statistics(torch.zeros(0, 3, dtype=torch.long), 16)
    assert stats == ([0, 0, 0], [0.0, 0.0, 0.0], 0.0, 0.0, 0)
    refused("`codes`", code_statistics, torch.zeros(5, dtype=torch.long), 16)


def test_the_report_is_about_the_latest_rows():
    quantizer = started(QuantizerConfig(dim=2, size=4, revive_below=0), torch.randn(64, 2))
    quantizer.pop_usage()
    quantizer.remember(torch.cat([torch.ones(100, 1), torch.zeros(4096, 1)]).long())
    assert quantizer.pop_usage().used == [1]
    quantizer.remember(torch.cat([torch.ones(1, 1), torch.zeros(4095, 1)]).long())
    assert quantizer.pop_usage().used == [2]


@given(st.integers(1, 300), st.integers(1, 4), st.integers(2, 20), st.integers(0, 2**31))
@settings(max_examples=30)
def test_code_statistics_equal_numpy(n, positions, size, seed):
    codes = np.random.default_rng(seed).integers(size, size=(n, positions))
    stats = code_statistics(torch.tensor(codes), size)
    counts = np.unique(codes, axis=0, return_counts=True)[1] / n
    assert stats.joint_entropy == pytest.approx(-(counts * np.log2(counts)).sum(), abs=1e-9)
    assert stats.joint_ceiling == pytest.approx(min(positions * math.log2(size), math.log2(n)), abs=1e-4)
    assert stats.used == [len(set(column)) for column in codes.T]
    shares = [np.unique(column, return_counts=True)[1] / n for column in codes.T]
    assert stats.perplexity == pytest.approx([2 ** -(p * np.log2(p)).sum() for p in shares], abs=1e-9)


def test_kmeans_beats_random_centres_and_handles_few_vectors():
    torch.manual_seed(0)
    x = torch.randn(500, 3)

    def error(centres):
        return torch.cdist(x, centres).square().amin(1).mean()

    assert error(kmeans(x, 20)) < 0.8 * error(x[:20])
    assert kmeans(x[:3], 5).shape == (5, 3)
    assert torch.isfinite(kmeans(torch.ones(50, 2), 4)).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"size": 0}, "`size`"),
        ({"decay": 1.0}, "`decay`"),
        ({"decay": -0.1}, "`decay`"),
        ({"revive_below": -0.1}, "`revive_below`"),
        ({"update": "magic"}, "`update`"),
        ({"start": "magic"}, "`start`"),
        ({"restart_every": 1.5}, "`restart_every`"),
        ({"levels": 2, "update": "gradient"}, "`levels`"),
    ],
)
def test_bad_configs_name_the_argument(change, text):
    refused(text.replace("(", r"\("), QuantizerConfig, **{"dim": 4, "size": 8, **change})


def test_a_uniform_start_is_small_by_the_number_of_codes():
    torch.manual_seed(0)
    book = Codebook(QuantizerConfig(dim=64, size=16, start="uniform", update="gradient", revive_below=0.0)).vectors
    assert 0.95 / 16 < book.detach().abs().max() <= 1 / 16
    assert book.detach().std() == pytest.approx(1 / 16 / 3**0.5, rel=0.1)
    assert book.detach().mean() == pytest.approx(0, abs=0.01)
    assert VectorQuantizer(QuantizerConfig(dim=4, size=4, start="uniform", continuous_steps=9)).started


def restarting(every: int) -> VectorQuantizer:
    """Codes 0 and 1 lie at the data, 2 to 5 far off."""
    config = QuantizerConfig(dim=2, size=6, update="gradient", start="uniform", revive_below=0.0, restart_every=every)
    quantizer = VectorQuantizer(config).train()
    with torch.no_grad():
        quantizer.codebook_vectors[0].copy_(torch.tensor([[0.0, 0], [1, 1], [50, 0], [60, 0], [70, 0], [80, 0]]))
    return quantizer


def test_unused_codes_become_copies_of_used_ones_when_their_time_is_up():
    torch.manual_seed(0)
    quantizer, data = restarting(3), torch.tensor([[0.1, 0], [0.9, 1], [0, 0.1]])
    before = quantizer.codebook_vectors[0].detach().clone()
    for step in range(1, 3):
        quantizer(data)
        assert torch.equal(quantizer.codebook_vectors[0], before)
        assert quantizer.codebooks[0].cluster_size.tolist() == [2.0 * step, step, 0, 0, 0, 0]
    quantizer(torch.tensor([[61.0, 0]]))  # one use is enough
    after = quantizer.codebook_vectors[0].detach()
    used = torch.tensor([True, True, False, True, False, False])
    assert torch.equal(after[used], before[used])
    assert all(any(torch.equal(row, other) for other in before[used]) for row in after[~used])
    assert quantizer.codebooks[0].cluster_size.tolist() == [0] * 6
    assert isinstance(quantizer.codebook_vectors[0], torch.nn.Parameter)


def test_restarts_draw_anew_each_time_and_the_same_in_every_process():
    rows = []
    for draws in (0, 3):  # whatever else drew random numbers
        torch.manual_seed(1)
        quantizer = restarting(1)
        torch.rand(draws)
        for _ in range(8):
            with torch.no_grad():
                quantizer.codebook_vectors[0][2:] = 90 + torch.arange(4)[:, None].float()
            quantizer(torch.tensor([[0.1, 0], [0.9, 1]]))
            rows.append(tuple(quantizer.codebook_vectors[0][2:, 0].tolist()))
    assert rows[:8] == rows[8:]
    assert len(set(rows[:8])) > 2


def test_without_a_use_nothing_restarts():
    quantizer = restarting(1)
    before = quantizer.codebook_vectors[0].detach().clone()
    quantizer(torch.zeros(0, 2))
    quantizer(torch.tensor([[0.1, 0]]), update=False)
    assert torch.equal(quantizer.codebook_vectors[0], before)


def test_a_further_pass_of_the_last_continuous_step_passes_through():
    """The step's first pass has raised the counter; the codebook starts with the next one."""
    quantizer = VectorQuantizer(QuantizerConfig(dim=4, size=8, continuous_steps=2)).train()
    for step in range(3):
        x = torch.randn(32, 4)
        for update in (True, False):
            out = quantizer(x, update=update)
            assert torch.equal(out.vectors, x) == (step < 2), (step, update)
    assert quantizer.codebooks[0].cluster_size.sum() > 0


def test_the_start_sees_sixteen_rows_for_every_code():
    """Whole batches, the latest ones."""
    quantizer = VectorQuantizer(QuantizerConfig(dim=2, size=5, continuous_steps=20)).train()
    batches = [torch.full((12, 2), float(step)) for step in range(20)]
    for x in batches:
        quantizer(x)
    assert quantizer.reservoir.shape == (84, 2)  # 16 * 5 = 80 rows are 7 batches of 12
    assert quantizer.reservoir[:, 0].unique().tolist() == list(range(13, 20))


def test_counts_at_the_start_are_those_of_one_batch():
    """Otherwise moving averages would take the start for as many batches as it saw."""
    torch.manual_seed(0)
    book = Codebook(QuantizerConfig(dim=3, size=4))
    samples = torch.randn(80, 3)
    book.start_from(samples, 20.0, torch.Generator().manual_seed(0))
    distance = ((samples.numpy()[:, None] - book.vectors.numpy()) ** 2).sum(-1)
    counts = np.bincount(distance.argmin(1), minlength=4)
    np.testing.assert_allclose(book.cluster_size, counts * 20 / 80, rtol=1e-6)
    np.testing.assert_allclose(book.cluster_sum, book.vectors.numpy() * (counts * 20 / 80)[:, None], rtol=1e-6)


def test_centres_of_few_different_vectors_are_among_them():
    """A cluster that nothing falls into goes to a vector, not to zero."""
    torch.manual_seed(0)
    different = torch.tensor([[5.0, 5], [6, 5], [5, 7]])
    centres = kmeans(different.repeat(20, 1), 6, generator=torch.Generator().manual_seed(0))
    assert torch.cdist(centres, different).amin(1).max() < 1e-4


def test_a_revived_code_is_a_row_with_half_the_mean_use():
    """Its sum fits its size, so that the next step leaves it where it is."""
    book, vectors = Codebook(QuantizerConfig(dim=2, size=4, revive_below=0.5)), torch.arange(8.0).view(1, 4, 2)
    size = torch.tensor([[10.0, 1.0, 8.0, 1.0]])
    held = {"cluster_size": size, "cluster_sum": vectors * size[..., None], "vectors": vectors}
    rows, valid = torch.tensor([[[100.0, 1]], [[200, 2]], [[300, 3]]]), torch.ones(3, dtype=torch.bool)
    found = _revived([book], held, rows, valid, [torch.Generator().manual_seed(0)])
    size, sums, vectors = (found[name][0] for name in held)
    np.testing.assert_allclose(size, [10, 2.5, 8, 2.5])  # the mean was 5
    assert vectors[[0, 2]].tolist() == [[0, 1], [4, 5]]
    assert all([row] in rows.tolist() for row in vectors[[1, 3]].tolist())
    np.testing.assert_allclose(sums, vectors * size[:, None])


@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("masked", [False, True])
def test_codebooks_that_move_together_move_as_each_alone(update: Literal["ema", "gradient"], masked: bool):
    torch.manual_seed(0)
    config = QuantizerConfig(dim=3, size=8, revive_below=0.5, update=update)
    alone, inputs, codes = [Codebook(config) for _ in range(3)], torch.randn(40, 3, 3), torch.randint(5, (40, 3))
    together, valid = copy.deepcopy(alone), torch.rand(40) < 0.6 if masked else None
    seeded = lambda: [torch.Generator().manual_seed(level) for level in range(3)]  # noqa: E731
    for _ in range(3):
        move_codebooks(together, inputs, codes, seeded(), valid)
        for level, (book, generator) in enumerate(zip(alone, seeded(), strict=True)):
            move_codebooks([book], inputs[:, [level]], codes[:, [level]], [generator], valid)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict())


def test_random_numbers_differ_between_steps_and_levels_and_repeat_within():
    quantizer = VectorQuantizer(QuantizerConfig(dim=2, size=4, levels=2))

    def drawn(level):
        return tuple(torch.randint(10**6, (3,), generator=quantizer._generator(level)).tolist())

    seen = set()
    for step in range(3):
        quantizer.steps.fill_(step)
        quantizer.train()
        assert drawn(0) == drawn(0)
        seen |= {drawn(0), drawn(1)}
    assert len(seen) == 6


def reported(quantizer: VectorQuantizer) -> torch.Tensor:
    """Rows of codes that count in the report."""
    return quantizer.recent[(quantizer.recent >= 0).all(1)]


def test_rows_that_are_padded_somewhere_are_not_reported():
    chunks = torch.tensor([[True, True, True], [True, True, False], [False, False, False], [True, True, True]])
    quantizer = VectorQuantizer(QuantizerConfig(dim=4, size=8)).train()
    out = quantizer(torch.randn(4, 3, 4), valid=chunks)
    assert torch.equal(reported(quantizer), out.codes[[0, 3]])
    quantizer = VectorQuantizer(QuantizerConfig(dim=4, size=8)).train()
    out = quantizer(torch.randn(4, 4), valid=torch.tensor([True, False, True, False]))
    assert torch.equal(reported(quantizer), out.codes[[0, 2], None])
    assert quantizer.pop_usage() == code_statistics(out.codes[[0, 2], None], 8)


def test_the_least_decay_and_the_usual_revival():
    assert QuantizerConfig(dim=4, size=8, decay=0).decay == 0
    assert QuantizerConfig(dim=4, size=8).revive_below == 0.03
