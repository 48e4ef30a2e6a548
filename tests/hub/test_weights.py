"""Weights against their configuration: nothing is built that the file does not hold, nothing unsound is loaded."""

import json
import resource
import shutil
import struct
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

import lattok
from lattok.action_vq import P2TActionVQ
from lattok.action_vq.p2t import ActionVQConfig
from lattok.hub import CONFIG, WEIGHTS
from lattok.hub.weights import Size, from_anywhere, plan_module
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.utils.checks import LattokError
from lattok.utils.options import options_of, replaced
from lattok.vla import VLAConfig
from lattok_p2t_policy.released import ReleasedVLA, ReleasedVLAConfig
from tests.action_vq.families import cases, fitted
from tests.errors import refused
from tests.fuzz_artefacts import edit
from tests.vla.fakes import config as policy_config
from tests.vla.fakes import policy

VQ = ActionVQConfig(action_dim=3, horizon=4, dim=8, codebook_size=4, heads=2, hidden=8)
LAM = ImageLAMConfig.of(
    cameras=("c",), features="pixels", image_size=16, width=16, heads=2, encoder_depth=1, decoder_depth=1, latent_dim=8
)


MODELS = {
    **{name: partial(fitted, name) for name in cases()},
    "image-lam": lambda: ImageLAM(LAM),
    "image-lam fused fsq": lambda: ImageLAM(replaced(LAM, encoder="fused", quantizer="fsq")),
    "policy": lambda: policy("la_direct"),
    "released": lambda: ReleasedVLA(ReleasedVLAConfig(dim=16, blocks=1, heads=2, action_dim=3)),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def saved(originals, tmp_path):
    """`saved(family)`: a copy of a saved model of `MODELS`."""

    def copy(family):
        if not (originals / family).is_dir():
            MODELS[family]().save_pretrained(originals / family)
        return shutil.copytree(originals / family, tmp_path / "m")

    return copy


@pytest.mark.parametrize("family", MODELS)
def test_a_model_of_every_family_comes_back_as_it_was(family, tmp_path):
    model = MODELS[family]()
    loaded = lattok.load(model.save_pretrained(tmp_path / "m"))
    assert type(loaded) is type(model)
    assert loaded.describe()["weights_sha256"] == model.describe()["weights_sha256"]


def test_the_look_at_sizes_takes_no_memory_and_nobodys_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model = plan_module(lambda: P2TActionVQ(VQ), {"a": Size((100,), torch.float32)}, "x")
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert torch.equal(torch.rand(1), expected)


MANY, NAMES = 10**6, [str(i) for i in range(10**5)]
ODD = {int: (MANY, 10**12), tuple[int, ...]: ([1] * 10**5, [10**9]), tuple[str, ...]: (NAMES,)}
CONFIGS = {name: family.config_class for name, (family, _) in cases(variants=False).items()}
CONFIGS |= {"image-lam": ImageLAMConfig, "policy": VLAConfig, "released": ReleasedVLAConfig}
SIZES = [(name, option) for name, kind in CONFIGS.items() for option in options_of(kind) if option.kind in ODD]
SPEC, LA_DIRECT = (asdict(policy_config("la_direct"))[name] for name in ("latent", "strategy"))
HUGE = [
    ("action-vq", {"dim": 10**9, "heads": 1}),
    ("action-vq", {"action_names": NAMES, "action_dim": 10**5}),
    ("action-vq, context", {"horizon": 4000}),
    ("residual-vq", {"horizon": 4096}),
    ("fsq", {"horizon": 4096}),
    ("oat", {"levels": [3, 10**12]}),
    ("uniform-bins", {"action_dim": 10**4}),
    ("beast", {"action_dim": 10**4}),
    ("beast", {"horizon": 4096, "bases": 256, "action_dim": 16}),
    ("image-lam", {"width": 10**9, "heads": 1}),
    ("image-lam", {"env_codebook_size": 10**9, "streams": "joint"}),
    ("image-lam fused fsq", {"codebook": {"size": 10**12}}),
    ("policy", {"latent": {**SPEC, "codes": 10**9}}),
    ("policy", {"latent": {**SPEC, "codebook_size": 10**12}}),
    ("policy", {"strategy": {**LA_DIRECT, "spans": [{"name": "latent", "per_step": 10**9}]}}),
    ("policy", {"strategy": {**LA_DIRECT, "spans": [{"name": "latent", "steps": 10**18}]}}),
    ("policy", {"head_layers": list(range(10**5))}),
    ("policy", {"latent": {**SPEC, "steps": 10**9}}),
]


@pytest.mark.parametrize(
    ("family", "changes"), HUGE, ids=[f"{family}, {' and '.join(changes)}" for family, changes in HUGE]
)
def test_sizes_that_the_file_does_not_hold_are_refused_before_memory_is_taken(family, changes, saved):
    folder = saved(family)
    edit(folder / CONFIG, **changes)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    said = refused(None, lattok.load, folder)
    assert len(said) < 50_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 800 << 10
    assert time.process_time() - start < 15


@pytest.mark.parametrize(("family", "option"), SIZES, ids=[f"{family}, {option.name}" for family, option in SIZES])
def test_whatever_a_model_says_of_its_sizes_takes_no_memory(family, option, saved):
    """It is refused, or is no size."""
    folder = saved(family)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for value in ODD[option.kind]:
        edit(folder / CONFIG, **{option.name: value})
        with suppress(LattokError):
            lattok.load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 800 << 10
    assert time.monotonic() - start < 30


def changed(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = value
    return tensor


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("decoder.net.0.weight", lambda t: changed(t, torch.nan), "decoder.net.0.weight has 1 number that is not"),
        ("quantizer.codebooks.0.vectors", lambda t: changed(t, -torch.inf), "vectors has 1 number that is not"),
        ("decoder.net.0.weight", lambda t: t.double(), "decoder.net.0.weight is float64, expected float32"),
        ("decoder.net.0.weight", lambda t: t.to(torch.int64), "decoder.net.0.weight is int64, expected float32"),
        ("quantizer.steps", lambda t: t.int(), "quantizer.steps is int32, expected int64"),
        ("normalizer.scale", lambda t: changed(t, 0), "normalizer.scale must be above 0 and at most 1e"),
        ("normalizer.scale", lambda t: changed(t, -1), "normalizer.scale must be above 0 and at most 1e"),
        ("normalizer.scale", lambda t: changed(t, torch.nan), "normalizer.scale must be above 0 and at most 1e"),
        ("normalizer.shift", lambda t: changed(t, torch.inf), "normalizer.shift has numbers that are not finite"),
    ],
)
def test_values_that_are_unsound_are_refused_by_the_name_of_their_tensor(name, change, text, tmp_path):
    folder = P2TActionVQ(VQ).save_pretrained(tmp_path / "m")
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, name: change(tensors[name]).contiguous()}, folder / WEIGHTS)
    refused(text, lattok.load, folder)


def test_limits_may_be_infinite_and_must_be_in_order(tmp_path):
    folder = MODELS["residual-vq"]().save_pretrained(tmp_path / "m")
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}  # not of the file below
    assert tensors["limits.low"].isinf().all()
    lattok.load(folder)
    for low in (torch.nan, 1e9):
        save_file(
            {**tensors, "limits.low": changed(tensors["limits.low"], low), "limits.high": torch.ones(3)},
            folder / WEIGHTS,
        )
        refused("limits.low must be at most high", lattok.load, folder)


def test_a_policy_may_be_stored_narrow_and_other_models_may_not(tmp_path):
    half = policy().to(torch.bfloat16)
    loaded = lattok.load(half.save_pretrained(tmp_path / "policy"))
    assert torch.equal(loaded.placeholders, half.placeholders.float())


def write_raw(path, header: bytes, payload: bytes = b""):
    path.write_bytes(struct.pack("<Q", len(header)) + header + payload)


def test_headers_that_lie_are_one_line(tmp_path):
    folder = P2TActionVQ(VQ).save_pretrained(tmp_path / "m")
    path = folder / WEIGHTS
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    lies = [
        json.dumps({"a": one, "b": one}).encode(),  # the same bytes twice
        json.dumps({"a": {**one, "shape": [2**62], "data_offsets": [0, 2**62]}}).encode(),
        json.dumps({"a": {**one, "shape": [-1]}}).encode(),
        json.dumps({"a": {**one, "dtype": "Q7"}}).encode(),
        b"[" * 100_000,
        b"\xff" * 64,
        b"",
    ]
    for header in lies:
        write_raw(path, header, b"\0" * 4)
        refused("expected a whole safetensors file", lattok.load, folder)
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    refused("its header claims 1,099,511,627,776 bytes", lattok.load, folder)
    many = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(5_000)}
    write_raw(path, json.dumps(many).encode())
    said = refused("and 5... more", lattok.load, folder)
    assert len(said) < 6000


def test_features_in_a_folder_have_its_whole_path(tmp_path, monkeypatch):
    (tmp_path / "net").mkdir()
    monkeypatch.chdir(tmp_path)
    assert from_anywhere("hf:net") == f"hf:{tmp_path / 'net'}"
    assert from_anywhere("timm:local-dir:net") == f"timm:local-dir:{tmp_path / 'net'}"
    for other in ("pixels", "timm:vit_small_patch14_dinov2", "hf:org/name", "hf:absent"):
        assert from_anywhere(other) == other
