"""What all families share: padding with masks, total decoding, error reports, mixed datasets, normalisation options."""

import numpy as np
import pytest
import torch

from lattok import FAST, OAT, P2TActionVQ, QueST, UniformBins, load
from lattok.action_vq import ActionVQConfig, BEASTConfig, QueSTConfig, VQBeTConfig
from lattok.action_vq.chunks import compare, held_from_neighbours, join_chunks
from lattok.action_vq.fast import FASTConfig
from lattok.utils.signals import Interrupted
from tests.action_vq.walks import NAMES, smooth
from tests.errors import refused


def p2t(**options) -> P2TActionVQ:
    torch.manual_seed(0)
    config = ActionVQConfig(**{"action_dim": 3, "horizon": 6, "dim": 16, "codebook_size": 8, "hidden": 16, **options})
    model = P2TActionVQ(config).eval()
    model.normalizer.fit(smooth().flatten(0, 1))
    return model


def mixture() -> P2TActionVQ:
    return P2TActionVQ(ActionVQConfig(3, horizon=6, dim=16, hidden=16, normalizers=("a", "b")))


@pytest.fixture(params=["step", "context", "bins"])
def tokenizer(request):
    if request.param == "bins":
        return UniformBins.fit(smooth(), action_names=NAMES, bins=8)
    return p2t(decoder=request.param)


def test_numbers_beyond_int64_and_ragged_arrays_decode(tokenizer):
    ragged = np.empty(2, dtype=object)
    ragged[:] = [[1, 2**70, -(2**70)], []]
    assert np.array_equal(tokenizer.decode(ragged, repair=True), tokenizer.decode([[1, 999, -1], []], repair=True))
    assert tokenizer.decode(torch.zeros(2, 0), repair=True).shape == (2, 6, 3)
    big_endian = smooth(3).numpy().astype(">f4")
    assert np.array_equal(tokenizer.encode(big_endian), tokenizer.encode(smooth(3)))


def test_a_missing_step_repeats_its_neighbour():
    model = p2t()
    codes = torch.tensor([[1, 2, 99, -1, 3, 4], [-7, -1, 5, 5, 5, 5]])
    chunks, info = model.decode(codes, return_info=True)
    intact = model.decode(torch.tensor([[1, 2, 2, 2, 3, 4], [5, 5, 5, 5, 5, 5]]))
    assert torch.equal(chunks, intact)
    assert info.notes == ("1 of 6 codes missing; 1 outside 0..7",) * 2


def test_a_missing_step_is_no_motion_where_actions_are_increments_but_the_gripper_holds():
    model = UniformBins.fit(smooth(), action_names=NAMES, action_kind="relative", bins=8)
    codes = model.encode(smooth(1))
    whole, cut = model.decode(codes)[0], model.decode(codes[:, :9], repair=True)[0]  # three of six steps
    assert torch.equal(cut[:3], whole[:3])
    assert (cut[3:, :2] == 0).all()
    assert (cut[3:, 2] == whole[2, 2]).all()


def test_nothing_known_is_the_middle_of_the_data():
    model = p2t()
    torch.testing.assert_close(model.decode([[]], repair=True)[0], model.normalizer.shift.expand(6, 3))


def test_held_from_neighbours_against_a_loop():
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(0, 100, (40, 7, 2), generator=generator)
    missing = torch.rand(40, 7, 2, generator=generator) < 0.5
    got = held_from_neighbours(values, missing)
    for b in range(40):
        for d in range(2):
            there = [h for h in range(7) if not missing[b, h, d]]
            for h in range(7):
                if there:
                    before = [i for i in there if i <= h]
                    assert got[b, h, d] == values[b, before[-1] if before else there[0], d]


def test_dimensions_that_a_robot_lacks_change_nothing_whatever_they_hold(tokenizer):
    chunks, mask = smooth(), torch.ones(60, 6, 3, dtype=torch.bool)
    mask[::2, :, 2] = False
    mask[1::2, 4:] = False
    garbage = chunks.masked_fill(~mask, float("nan"))
    other = chunks.masked_fill(~mask, 1e6)
    assert torch.equal(tokenizer.encode(garbage, mask), tokenizer.encode(other, mask))
    first, second = tokenizer.error_report(other, mask), tokenizer.error_report(chunks.masked_fill(~mask, -5.0), mask)
    torch.testing.assert_close(first.mse, second.mse)


def test_masked_dimensions_do_not_reach_loss_or_gradient():
    chunks, mask = smooth(8), torch.ones(8, 6, 3, dtype=torch.bool)
    mask[:, :, 1] = False
    gradients = []
    for filling in (0.0, 1e6):
        model = p2t(dropout=0.0, mask_weight=0.1).train()
        torch.manual_seed(4)
        terms = model(join_chunks(chunks.masked_fill(~mask, filling), mask))
        (terms["reconstruction"] + terms["mask"]).backward()
        gradients.append((terms["reconstruction"].item(), model.decoder.net[2].weight.grad.clone()))
        assert gradients[-1][1][1].abs().max() == 0  # the row of the missing dimension
        assert gradients[-1][1][0].abs().max() > 0
    assert gradients[0][0] == gradients[1][0]
    assert torch.equal(gradients[0][1], gradients[1][1])


def test_datasets_of_other_shapes_are_joined_and_each_decodes():
    assert UniformBins.fit(smooth(20)).vocab_size == 256  # as RT-1 and OpenVLA have
    model = UniformBins.fit([smooth(20), smooth(30, steps=4, dims=2).numpy()], bins=64)
    assert (model.horizon, model.action_dim) == (6, 3)
    batch = join_chunks([smooth(20), smooth(30, steps=4, dims=2)])
    assert batch.chunks.shape == (50, 6, 3)
    assert batch.valid[:20].all()
    assert batch.valid[20:].sum() == 30 * 4 * 2
    small = smooth(30, steps=4, dims=2)
    decoded = model.decode(model.encode(*[x[20:] for x in batch]))[:, :4, :2]
    inside = (small - model.normalizer.shift[:2]).abs() <= model.normalizer.scale[:2]
    width = (2 * model.normalizer.scale[:2] / 64).expand_as(small)
    assert ((decoded - small).abs() <= 0.5001 * width)[inside].all()


def test_batches_with_masks_join_and_a_smaller_robot_is_padded_to_the_model():
    large, small = join_chunks(smooth(20)), join_chunks(smooth(30, steps=4, dims=2), torch.ones(30, 4).bool())
    small.valid[:5, 2:] = False
    joined = join_chunks([large, small])
    assert torch.equal(joined.valid[20:, :4, :2], small.valid)
    assert not joined.valid[20:, 4:].any()
    assert not joined.valid[20:, :, 2:].any()
    first, second = UniformBins.fit(joined, bins=64), UniformBins.fit([large, small], bins=64)
    assert torch.equal(first.normalizer.scale, second.normalizer.scale)
    padded = join_chunks(smooth(7, steps=4, dims=2), horizon=6, action_dim=3)
    assert padded.chunks.shape == (7, 6, 3)
    assert first.encode(*padded).shape == (7, 18)
    assert torch.isnan(first.error_report(*padded).mse[2])


def test_fit_leaves_the_callers_random_numbers_accelerate_state_and_disk_alone(tmp_path, monkeypatch):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    state = torch.get_rng_state()
    P2TActionVQ.fit(smooth(), steps=1, dim=16, hidden=16, device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(tmp_path.iterdir())
    assert accelerator.mixed_precision == "bf16"
    AcceleratorState._reset_state(reset_partial_state=True)


def test_ctrl_c_in_fit_does_not_promise_what_it_cannot_keep(monkeypatch):
    def interrupted(*arguments, **options):
        raise Interrupted("Saved at step 3 in a folder that is gone")

    monkeypatch.setattr("lattok.action_vq.learned.run_loop", interrupted)
    with pytest.raises(KeyboardInterrupt, match="kept nothing; a recipe with lattok.train can be resumed"):
        P2TActionVQ.fit(smooth(), steps=1, dim=16, hidden=16, device="cpu")


def test_error_report_against_numpy_with_worst_case_and_drift():
    rng = np.random.default_rng(0)
    actions, decoded = rng.standard_normal((2, 30, 5, 3)).astype("float32")
    valid = np.ones((30, 5, 3), dtype=bool)
    valid[:10, 3:] = False
    report = compare(*map(torch.from_numpy, (actions, decoded, valid)), NAMES, relative=[0, 1])
    gap = np.where(valid, decoded.astype(float) - actions, 0)
    count = valid.sum((0, 1))
    np.testing.assert_allclose(report.mse, (gap**2).sum((0, 1)) / count, rtol=1e-6)
    np.testing.assert_allclose(report.l1, np.abs(gap).sum((0, 1)) / count, rtol=1e-6)
    np.testing.assert_allclose(report.worst, np.abs(gap).max((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(report.drift, np.abs(gap.cumsum(1)).max((0, 1)) * [1, 1, 0], rtol=1e-6)
    for d, (chunk, step) in enumerate(report.worst_at):
        assert abs(gap[chunk, step, d]) == pytest.approx(float(report.worst[d]))
    d = int(np.abs(gap).max((0, 1)).argmax())
    assert f"worst case: {NAMES[d]} off by" in report.to_text()


def test_report_names_units_and_clipping():
    model = UniformBins.fit(smooth(), action_names=NAMES, bins=16)
    report = model.error_report(smooth() * 3)
    assert report.names == NAMES
    assert 0 < report.clipped < 1
    assert "outside what the tokenizer can express" in report.to_text()
    assert model.error_report(smooth(0)).clipped == 0
    plain, far = UniformBins.fit(smooth(), normalize="identity"), smooth() * (1.8 / smooth().abs().max())
    assert plain.error_report(far).clipped == pytest.approx(float((far.abs() > 1).float().mean())) != 0
    refused("`chunks`", model.error_report, np.zeros((5, 4), np.float32), np.ones((5, 4), bool))


@pytest.mark.parametrize("normalize", ["quantile", "mean_std"])
@pytest.mark.parametrize("bins", [2, 16, 17])
def test_a_dimension_that_never_moved_decodes_to_itself(bins, normalize):
    chunks = smooth()
    chunks[..., 1] = 0.3
    model = UniformBins.fit(chunks, bins=bins, normalize=normalize)
    torch.testing.assert_close(model.decode(model.encode(chunks))[..., 1], chunks[..., 1], atol=1e-7, rtol=0)
    moved = chunks + torch.tensor([0, 0.25, 0])
    assert (model.decode(model.encode(moved)) - moved)[..., 1].abs().max() <= 1 / bins + 1e-6


def test_what_the_normaliser_clips_is_reported():
    chunks = smooth()
    far = chunks.clone()
    far[0, :2, 0] = 50
    mask = torch.ones(60, 6, dtype=torch.bool)
    mask[0, 1:] = False
    for family in (UniformBins, FAST):
        model = family.fit(chunks, normalize="min_max", normalize_clip=True)
        assert model.error_report(chunks).clipped == 0
        assert model.error_report(far).clipped == pytest.approx(2 / far.numel())
        assert model.error_report(far, mask).clipped == pytest.approx(1 / (far.numel() - 15))


def test_normalisation_per_dimension_travels_with_the_artefact(tmp_path):
    chunks = smooth()
    exceptions = ("gripper=min_max", "0=identity")
    model = P2TActionVQ.fit(chunks, steps=2, dim=16, hidden=16, action_names=NAMES, normalize_exceptions=exceptions)
    flat = chunks.flatten(0, 1)
    assert model.normalizer.shift[0] == 0
    assert model.normalizer.scale[0] == 1
    torch.testing.assert_close(model.normalizer.shift[1], flat[:, 1].mean())
    torch.testing.assert_close(model.normalizer.scale[2], (flat[:, 2].max() - flat[:, 2].min()) / 2)
    loaded = load(model.save_pretrained(tmp_path / "model"))
    assert torch.equal(loaded.encode(chunks), model.encode(chunks))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: UniformBins.fit(smooth(0)), "`chunks`"),
        (lambda: UniformBins.fit([]), "`chunks`"),
        (lambda: UniformBins.fit(torch.zeros(3, 4)), "`chunks`"),
        (lambda: FAST.fit(torch.zeros(5, 8, 0)), "`chunks`"),
        (lambda: OAT.fit(smooth(), levels=8), "`levels`"),
        (lambda: QueST.fit(smooth(), dropout=10**400), "`dropout`"),
        (lambda: P2TActionVQ.fit(smooth(), dilations=2), "`dilations`"),
        (lambda: FASTConfig(max_token=""), "`max_token`"),  # pyright: ignore[reportArgumentType]
        (lambda: join_chunks(smooth(), horizon=20.5), "`horizon`"),  # pyright: ignore[reportArgumentType]
        (lambda: FAST.fit(smooth(), vocab_size=256).decode([[5]], time_horizon=0), "`time_horizon`"),
        (lambda: UniformBins.fit(torch.full((3, 4, 2), float("inf"))), "expected finite numbers"),
        (lambda: UniformBins.fit(smooth(), bin=3), "`options`"),
        (lambda: UniformBins.fit(smooth(), bins=1), "`bins`"),
        (lambda: VQBeTConfig(3, tokens=0), "`tokens`"),
        (lambda: VQBeTConfig(3, codebook_size=1), "`codebook_size`"),
        (lambda: QueSTConfig(3, downsample=3), "`downsample`"),
        (lambda: QueSTConfig(3, downsample=8192), "`downsample`"),
        (lambda: QueSTConfig(3, dim=20, heads=2), "`dim`"),
        (lambda: QueSTConfig(3, decoder_heads=5), "`decoder_heads`"),
        (lambda: BEASTConfig(3, bases=4), "`bases`"),
        (lambda: BEASTConfig(3, bases=300), "`bases`"),
        (lambda: BEASTConfig(3, horizon=4096, bases=250), "`bases`"),
        (lambda: BEASTConfig(3, bins=1), "`bins`"),
        (lambda: BEASTConfig(3, ridge=0), "`ridge`"),
        (lambda: BEASTConfig(3, ridge=float("nan")), "`ridge`"),
        (lambda: BEASTConfig(3, ridge=1e-18), "`ridge`"),
        (lambda: BEASTConfig(3, stepped=("*",) * 101), "`number of stepped`: expected .*100, got 101"),
        (lambda: BEASTConfig(3, stepped=(0,)), "`stepped`"),  # pyright: ignore[reportArgumentType]
        (lambda: BEASTConfig(3, action_names=NAMES, stepped=("z",)), "`stepped`"),
        (lambda: UniformBins.fit(smooth(), action_dim=4), "`action_dim`"),
        (lambda: UniformBins.fit(smooth(), action_kind="delta"), "`action_kind`"),
        (lambda: UniformBins.fit(smooth(), normalize_exceptions=("gripper=min_max",)), "a dimension among 0..2"),
        (lambda: UniformBins.fit(smooth(), normalize_exceptions=("1=log",)), "expected one of mean_std"),
        (lambda: p2t().encode(smooth(), torch.ones(60, 5).bool()), "`valid`"),
        (lambda: p2t().encode(smooth(), torch.rand(60, 6, 3) > 0.5), "`valid`"),
        (lambda: p2t().decode(torch.zeros(1, 6).bool()), "`codes`"),
        (lambda: p2t().encode(np.zeros((2, 6, 3), dtype=complex)), "`chunks`"),
        (lambda: p2t().encode(smooth(), "x"), "`valid`"),
        (lambda: p2t().encode(smooth(), torch.full((60, 6), 0.5)), "`valid`"),
        (lambda: UniformBins.fit(smooth(), horizon=4), "`horizon`"),
        (
            lambda: (
                UniformBins.fit([smooth()], torch.ones(60, 6).bool())
                and UniformBins.fit([smooth(), smooth()], torch.ones(60, 6).bool())
            ),
            "Put ActionBatches into the list",
        ),
        (lambda: mixture().add_dataset("c", torch.zeros(0, 3)), "`rows of actions`: expected a whole number of at"),
        (lambda: mixture().add_dataset(5, torch.ones(4, 3)), "`name`"),  # pyright: ignore[reportArgumentType]
        (lambda: UniformBins.fit(smooth(), action_names=np.array(NAMES)), "`action_names`"),
        (lambda: p2t().decode(np.full((1, 6), 2**64 - 1, np.uint64)), "row 0: 6 outside 0..7"),
        (lambda: p2t().decode("ab"), "`codes`"),
    ],
)
def test_bad_input_names_the_argument(call, text):
    refused(text, call)
