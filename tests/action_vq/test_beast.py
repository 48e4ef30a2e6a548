"""BEAST: splines against scipy, least squares against numpy, and published tokenizers as their class has them."""

import re

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.interpolate import BSpline

import lattok
from lattok import BEAST
from lattok.action_vq.beast import LEAST_HALF, BEASTConfig, spline_basis
from lattok.cli import main
from tests.action_vq.walks import NAMES, smooth
from tests.errors import refused
from tests.image_lam.published.parity import Case, close, open_case

SETTINGS = {"num_dof": 3, "num_basis": 5, "seq_len": 8, "gripper_zero_order": False}


@pytest.fixture(params=["beast_a", "beast_b"])
def case(request) -> Case:
    return open_case(request.param)


def converted(case: Case) -> BEAST:
    return lattok.convert.beast(case.folder / "weights.safetensors", case.config["model"])


def by_dimension(model: BEAST, rows: torch.Tensor) -> torch.Tensor:
    return rows.view(-1, model.config.bases, model.action_dim).transpose(1, 2).flatten(1)


@pytest.fixture
def bounds(tmp_path):
    """A file like that of a policy that holds the tokenizer."""

    def write(name="policy.ckpt", **changed):
        tensors = {"w_min": -torch.arange(1.0, 16), "w_max": torch.ones(15), **changed}
        found = {f"agent.action_tokenizer.{key}": value for key, value in tensors.items() if value is not None}
        content = {"state_dict": {**found, "vlm.weight": torch.ones(2, 2)}, "hyper_parameters": {"num_basis": 5}}
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize(("steps", "bases", "degree"), [(20, 10, 4), (10, 5, 4), (16, 6, 3), (7, 7, 1), (9, 4, 3)])
def test_splines_are_those_of_scipy(steps, bases, degree):
    knots = np.pad(np.linspace(0, 1, bases - degree + 1), degree, mode="edge")
    expected = BSpline.design_matrix(np.linspace(0, 1, steps), knots, degree).toarray()
    np.testing.assert_allclose(spline_basis(steps, bases, degree), expected, atol=1e-12)


@pytest.mark.parametrize(("steps", "boxes"), [(16, 5), (20, 10), (7, 3), (41, 4), (5, 9), (1, 3)])
def test_a_step_on_a_knot_is_in_the_later_box(steps, boxes):
    basis = spline_basis(steps, boxes, 0)
    expected = [min(boxes - 1, step * boxes // max(1, steps - 1)) for step in range(steps)]
    assert basis.argmax(1).tolist() == expected
    assert (basis.sum(1) == 1).all()


@pytest.mark.parametrize("ridge", [1e-5, 0.1])
def test_coefficients_are_ridge_regression_and_codes_their_bins(ridge):
    chunks = smooth(40, 8)
    model = BEAST.fit(chunks, ridge=ridge, action_names=NAMES, bins=32)
    actions = model.normalizer(chunks).double().numpy()
    codes = model.encode(chunks).view(-1, 5, 3)
    for dim, degree in enumerate((4, 4, 0)):  # the last one is the gripper
        basis = spline_basis(8, 5, degree)
        stacked, zeros = np.concatenate([basis, np.sqrt(ridge) * np.eye(5)]), np.zeros((5, 40))
        found = np.linalg.lstsq(stacked, np.concatenate([actions[..., dim].T, zeros]), rcond=None)[0].T
        low, high = found.min(0), found.max(0)
        expected = np.rint((found - low) / (high - low) * 31)
        assert np.abs(codes[..., dim].numpy() - expected).max() <= 1  # float32 on a border
        assert (codes[..., dim].numpy() == expected).mean() > 0.99
        decoded = model.normalizer(model.decode(codes.flatten(1)))[..., dim]
        np.testing.assert_allclose(decoded, (codes[..., dim] / 31 * (high - low) + low) @ basis.T, atol=1e-4)


def test_nothing_that_it_was_fitted_to_is_clipped_and_much_is_kept():
    chunks, others = smooth(300), smooth(300, seed=1)
    model = BEAST.fit(chunks, action_names=NAMES)
    codes = model.encode(chunks)
    assert model.error_report(chunks).clipped == 0
    assert (codes.amin(0) == 0).all()
    assert (codes.amax(0) == 255).all()
    error, spread = (model.decode(model.encode(others)) - others).square().mean((0, 1)), others.var((0, 1))
    assert (error < 0.05 * spread).all()
    assert model.error_report(10 * others).clipped > 0.1


def test_what_hardly_moves_has_bounds_of_the_least_width():
    chunks = smooth(100)
    chunks[..., 1] = 0.25
    model = BEAST.fit(chunks, action_names=NAMES, normalize="identity", ridge=1e-9)
    width = by_dimension(model, (model.high - model.low)[None])[0].view(3, -1)
    torch.testing.assert_close(width[1], torch.full_like(width[1], 2 * LEAST_HALF))
    assert (width[0] > 2 * LEAST_HALF).any()


def test_steps_come_back_as_steps():
    """An open and closed gripper: boxes keep it where splines smear it out."""
    opened = torch.zeros(64, 20, 2)
    for i in range(64):
        opened[i, 2 * (i % 10) :] = 1
    names = ("x", "left_gripper")
    model = BEAST.fit(opened, bases=10, action_names=names, normalize="identity")
    decoded = model.decode(model.encode(opened))
    torch.testing.assert_close(decoded[..., 1], opened[..., 1], rtol=0, atol=1e-4)
    assert (decoded[..., 0] - opened[..., 0]).abs().max() > 0.1
    assert BEASTConfig(2, action_names=names).stepped_dims() == {1}
    assert BEASTConfig(2, stepped=("0",)).stepped_dims() == {0}
    assert BEASTConfig(2, action_names=names, stepped=()).stepped_dims() == set()


def test_a_missing_coefficient_repeats_its_neighbour():
    model = BEAST.fit(torch.linspace(-1, 1, 50)[:, None, None].expand(50, 6, 2), bases=4, degree=1)
    codes = model.encode(torch.full((1, 6, 2), 0.5))
    damaged = codes.clone()
    damaged[0, 2], damaged[0, 5:] = 999, -1  # the second basis of the first dimension, the last ones of both
    decoded, info = model.decode(damaged, return_info=True)
    torch.testing.assert_close(decoded, torch.full((1, 6, 2), 0.5), rtol=0, atol=0.02)
    assert info.notes == ("3 of 8 codes missing; 1 outside 0..255",)
    ends = model.encode(torch.full((1, 6, 2), -1.0))
    assert int(ends.max()) == 0
    ends[0, 2] = 999  # the first bin is a code as others are
    torch.testing.assert_close(model.decode(ends, repair=True), torch.full((1, 6, 2), -1.0), rtol=0, atol=0.01)
    first, second = model.decode([[-1, 255]], repair=True)[0].T
    torch.testing.assert_close(first, model.normalizer.shift[0].expand(6))  # it has no code at all
    assert second.min() > 0.9


def test_published_codes_and_reconstructions(case):
    model, io = converted(case), case.values
    assert torch.equal(model.encode(io["actions"]), io["tokens"])
    assert torch.equal(io["tokens"].view_as(io["tokens_by_basis"]), io["tokens_by_basis"])
    close(model.decode(io["tokens"]), io["recon"])
    close(model.decode(io["other.tokens"]), io["other.recon"])
    close(by_dimension(model, model._coefficients(io["actions"])), io["params"])
    close(
        torch.from_numpy(spline_basis(model.horizon, model.config.bases, model.config.degree)).float(),
        io["stage.basis"],
    )
    assert model.config.stepped == (("6",) if "stage.basis_gripper" in io else ())
    last_id = case.config["model"]["vlm_vocab_size"] - 1
    assert torch.equal(last_id - io["llm_tokens"], io["tokens"])  # as the page of models says


GRIPPERS = [({"gripper_zero_order": False, "gripper_dof": 2}, 0), ({"gripper_zero_order": True}, 1)]
GRIPPERS += [({"gripper_zero_order": True, "gripper_dof": 2}, 2), ({"gripper_zero_order": True, "gripper_dof": 0}, 0)]
GRIPPERS += [({"gripper_zero_order": True, "gripper_indices": listed}, len(listed)) for listed in ([2], [1, 2], [])]


@pytest.mark.parametrize(("given", "grippers"), GRIPPERS)
@pytest.mark.parametrize("sizes", [{}, {"degree_p": 2, "vocab_size": 64}])
def test_every_setting_of_the_published_class_in_numpy(bounds, given, grippers, sizes):
    """scipy's splines, ridge regression as a longer least squares, coefficients cut and rounded to their bins."""
    low, high = -np.linspace(0.2, 1, 15).reshape(3, 5), np.linspace(0.3, 2, 15).reshape(3, 5)
    path = bounds(w_min=torch.tensor(low.ravel()).float(), w_max=torch.tensor(high.ravel()).float())
    model = lattok.convert.beast(path, {**SETTINGS, **sizes, **given})
    chunks, bins = smooth(9, 8).double().numpy() * 0.3, sizes.get("vocab_size", 256)
    codes, decoded = np.empty((9, 5, 3)), np.empty_like(chunks)
    for dim in range(3):
        degree = 0 if dim >= 3 - grippers else sizes.get("degree_p", 4)
        knots = np.pad(np.linspace(0, 1, 6 - degree), degree, mode="edge")
        basis = BSpline.design_matrix(np.linspace(0, 1, 8), knots, degree).toarray()
        longer = np.concatenate([basis, np.sqrt(1e-5) * np.eye(5)])
        found = np.linalg.lstsq(longer, np.concatenate([chunks[..., dim].T, np.zeros((5, 9))]), rcond=None)[0].T
        share = (found.clip(low[dim], high[dim]) - low[dim]) / (high[dim] - low[dim])
        codes[..., dim] = np.rint(share * (bins - 1))
        decoded[..., dim] = (codes[..., dim] / (bins - 1) * (high[dim] - low[dim]) + low[dim]) @ basis.T
    ours = model.encode(torch.tensor(chunks).float())
    assert (ours.numpy() == codes.reshape(9, 15)).mean() > 0.98  # float32 on a border
    assert len(np.unique(codes)) > 20
    np.testing.assert_allclose(model.decode(torch.tensor(codes.reshape(9, 15)).long()), decoded, atol=1e-5)


def test_the_command_reads_the_checkpoint_of_a_policy(bounds, tmp_path, capsys):
    (tmp_path / "tokenizer.yaml").write_text("\n".join(f"{name}: {value}" for name, value in SETTINGS.items()))
    words = ["convert", "beast", str(bounds()), str(tmp_path / "out"), "--config", str(tmp_path / "tokenizer.yaml")]
    assert main(words) == 0, capsys.readouterr().err
    model = lattok.load(tmp_path / "out")
    assert (model.horizon, model.action_dim, model.tokens_per_chunk, model.config.degree) == (8, 3, 15, 4)
    assert model.low.view(5, 3)[:, 1].tolist() == [-6.0, -7, -8, -9, -10]  # theirs stand dimension by dimension
    chunks = smooth(9, 8)
    assert torch.equal(model.encode(chunks), lattok.convert.beast(bounds(), SETTINGS).encode(chunks))


@pytest.mark.parametrize(
    ("changed", "settings", "text"),
    [
        ({"w_min": torch.zeros(14)}, {}, "w_min has shape [14], which cannot become [15]"),
        ({"w_max": None}, {}, "missing w_max"),
        ({"w_max": -torch.arange(1.0, 16)}, {}, "low must be below high, and both finite"),
        ({"w_min": torch.full((15,), -3e38), "w_max": torch.full((15,), 3e38)}, {}, "both finite, as their difference"),
        ({"w_max": torch.full((15,), torch.nan)}, {}, "w_max holds NaN or infinity"),
        ({}, {"seq_len": None}, "`horizon`"),
        ({}, {"seq_len": "${seq_len}"}, "`horizon`"),
        ({}, {"num_dof": "7"}, "`num_dof`"),
        ({}, {"degree_p": 5}, "`bases`"),
        ({}, {"use_bpe": True}, "and no init_cond_order, end_cond_order, use_bpe, got use_bpe True"),
        ({}, {"gripper_zero_order": "false"}, "`gripper_zero_order`"),
        ({}, {"gripper_zero_order": True, "gripper_dof": 4}, "`gripper_dof`"),
        ({}, {"gripper_zero_order": True, "gripper_indices": [0]}, "expected the last 1 of 3, [2], got [0]"),
        ({}, {"gripper_zero_order": True, "gripper_indices": [1]}, "`gripper_indices`"),
        ({}, {"gripper_zero_order": True, "gripper_indices": "x"}, "`gripper_indices`"),
    ],
)
def test_what_does_not_fit_is_said(bounds, changed, settings, text):
    refused(re.escape(text), lambda: lattok.convert.beast(bounds(**changed), {**SETTINGS, **settings}))


def test_bounds_of_two_tokenizers_are_not_mixed(bounds):
    """Of a checkpoint with averaged weights beside its own, the last ones were taken."""
    path = bounds()
    content = torch.load(path)
    content["state_dict"] |= {"ema.w_min": -torch.ones(15), "other_w_max": torch.ones(3)}
    torch.save(content, path)
    refused(r"of one tokenizer, got those of .*agent\.action_tokenizer, .*ema\.", lattok.convert.beast, path, SETTINGS)
    refused("`config`: expected a .json or .yaml file, or a dictionary, got 3", lattok.convert.beast, path, 3)


def test_settings_that_are_missing(bounds):
    refused("`config`: expected num_dof, num_basis, seq_len", lambda: lattok.convert.beast(bounds(), {"num_dof": 3}))


@pytest.mark.parametrize(
    "damaged", [{"low": 7.0}, {"low": 0.5, "high": 0.5}, {"low": float("-inf")}, {"high": 3e38, "low": -3e38}]
)
def test_one_damaged_bound_among_sound_ones_does_not_load(tmp_path, damaged):
    BEAST.fit(smooth(40, 8), action_names=NAMES).save_pretrained(tmp_path / "beast")
    path = tmp_path / "beast" / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    for name, value in damaged.items():
        tensors[name][2] = value
    safetensors.torch.save_file(tensors, path)
    refused("low must be below high|finite", lattok.load, tmp_path / "beast")
