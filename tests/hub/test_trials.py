"""A model whose codes would be others is refused; rounding of another machine never is."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import lattok
from lattok.convert import lapa_laq
from lattok.hub import trials
from lattok.hub.trials import KEY
from lattok.hub.weights import read_metadata
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.image_lam.base.bottlenecks import BOTTLENECKS, CodebookConfig
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.nn import kmeans
from lattok.nn.levels import LevelGrid
from tests.action_vq.families import cases, fitted
from tests.conftest import CAMERAS
from tests.errors import refused
from tests.fuzz_artefacts import IDM
from tests.image_lam.published.parity import open_case
from tests.vla.test_tokens import policy as acting_by_tokens

SIZES: dict[str, Any] = {"image_size": 16, "width": 8, "latent_dim": 8, "heads": 2, "encoder_depth": 1}
SIZES |= {"decoder_depth": 1, "features": "pixels", "codebook_update": "ema"}
WITH_CODES = sorted(name for name in BOTTLENECKS if name != "none")


def lam(quantizer: str, **options: Any) -> ImageLAM:
    torch.manual_seed(0)
    return ImageLAM(ImageLAMConfig.of(cameras=CAMERAS[:1], quantizer=quantizer, **{**SIZES, **options})).eval()


def two_streams(quantizer: str) -> ImageLAM:
    return lam(quantizer, streams="control+env", env_codebook_size=5)


def idm(quantizer: str) -> InverseDynamics:
    torch.manual_seed(0)
    options = IDM | {"quantizer": quantizer, "tokens": 2, "codebook": CodebookConfig(16, "ema", "normal")}
    return InverseDynamics(InverseDynamicsConfig(CAMERAS[:1], 3, features="pixels", **options)).eval()


def published(name: str) -> Any:
    return lapa_laq(open_case(name).folder / "weights.pt")


MADE_BY = {"lam": lam, "two": two_streams, "idm": idm, "published": published}
MODELS = [*cases(), *(f"{kind}:{name}" for kind in ("lam", "idm") for name in WITH_CODES), "two:vq"]
MODELS += ["published:lapa_laq_a"]


def model_of(name: str) -> Any:
    kind, _, which = name.partition(":")
    return MADE_BY[kind](which) if which else fitted(name)


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads(read_metadata(folder / "model.safetensors")[KEY])


def rewrite(folder: Path, record: Any) -> None:
    """Put another record beside the weights; a text as it is."""
    path = folder / "model.safetensors"
    text = record if isinstance(record, str) else json.dumps(record)
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {KEY: text})


@pytest.mark.parametrize("name", MODELS)
def test_codes_are_recorded_and_stay_where_all_numbers_are_a_ten_thousandth_off(name, tmp_path):
    model = model_of(name)
    record = record_of(model.save_pretrained(tmp_path))
    assert len(record["places"]) >= 5
    assert record["packages"].keys() >= {"lattok", "numpy"}
    lattok.load(tmp_path)
    draw = torch.Generator().manual_seed(1)

    def off(tensor: torch.Tensor) -> torch.Tensor:
        return tensor * (1 + 1e-4 * (2 * torch.rand(tensor.shape, generator=draw) - 1))

    with torch.no_grad():
        trial = model.trial()
        for _ in range(10):
            part = copy.deepcopy(trial.part)
            for tensor in part.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(off(tensor))
            found = trial.encode(part, off(trial.inputs)).flatten()
            assert found[record["places"]].tolist() == record["codes"]


@pytest.mark.parametrize("options", [{}, {"loss_kl": 1e-3}])
def test_a_model_without_codes_records_none(options, tmp_path):
    folder = lam("none", **options).save_pretrained(tmp_path)
    assert KEY not in read_metadata(folder / "model.safetensors")
    assert lattok.load(folder).trial() is None


def other_levels(self: LevelGrid, latents: torch.Tensor) -> torch.Tensor:
    """What vector-quantize-pytorch 1.22.14 makes of `preserve_symmetry`."""
    values = 2 / self.top * (self.top * (latents.tanh() + 1) / 2 + 0.5).floor() - 1
    return values.round() / (self.sizes // 2)


@pytest.mark.parametrize("name", ["fsq", "lam:fsq"])
def test_where_levels_mean_something_else_a_model_is_refused(name, tmp_path, monkeypatch):
    folder = model_of(name).save_pretrained(tmp_path)
    monkeypatch.setattr(LevelGrid, "quantize", other_levels)
    refused(r"the codes which they gave when they were saved, got \d+ of \d+ others\.", lattok.load, folder)


@pytest.mark.parametrize("name", ["fast", "toast"])
def test_where_a_tokenizer_cuts_otherwise_a_model_is_refused(name, tmp_path, monkeypatch):
    folder = model_of(name).save_pretrained(tmp_path)
    encode = type(model_of(name)).subwords_class.encode
    monkeypatch.setattr(type(model_of(name)).subwords_class, "encode", lambda self, rows: encode(self, rows[:, ::-1]))
    refused("the codes which they gave when they were saved", lattok.load, folder)


@pytest.mark.parametrize("name", ["action-vq", "lam:vq", "lam:residual", "vqbet"])
def test_where_another_row_is_the_nearest_a_model_is_refused(name, tmp_path, monkeypatch):
    folder = model_of(name).save_pretrained(tmp_path)
    monkeypatch.setattr("lattok.nn.quantize.nearest", lambda x, book: kmeans.nearest(-x, book))
    refused("the codes which they gave when they were saved", lattok.load, folder)


def test_the_refusal_says_what_to_install_and_is_one_line(tmp_path, monkeypatch):
    folder = model_of("fast").save_pretrained(tmp_path)
    record = record_of(folder)
    record["codes"][3] += 1
    record["packages"] |= {"tokenizers": "0.99.1+local"}
    rewrite(folder, record)
    monkeypatch.setattr(trials, "installed", lambda names: record["packages"] | {"tokenizers": "0.23.3"})
    expected = (
        f"`{folder}/model.safetensors`: expected weights that give the codes which they gave when they were saved, "
        f"got 1 of {len(record['codes'])} others. Here is tokenizers 0.23.3; it was saved with: "
        "pip install tokenizers==0.99.1"
    )
    said = refused(None, lattok.load, folder)
    assert said == expected


def test_without_another_package_it_is_lattok_or_the_file(tmp_path):
    folder = model_of("uniform-bins").save_pretrained(tmp_path)
    record = record_of(folder)
    record["codes"][0] += 1
    rewrite(folder, record)
    refused(r"others\. Copy or download it again\.$", lattok.load, folder)
    rewrite(folder, record | {"packages": {"lattok": "0.0.7"}})
    refused(rf"lattok 0\.0\.7 saved it, this is {re.escape(lattok.__version__)}\.$", lattok.load, folder)


BAD = {
    "[1]": "expected a value of type CodesRecord",
    "[" * 100_000: "nested",
    "{": "is not valid JSON",
    '{"places": [1], "codes": [1]}': "expected packages, places and codes, got none of packages",
    '{"packages": 3, "places": [], "codes": []}': "`codes.packages` in",
    '{"packages": {"torch": "rm -rf"}, "places": [], "codes": []}': "expected a version such as 1.2.3",
    '{"packages": {}, "places": [1], "codes": []}': "expected a code for each place",
    '{"packages": {}, "places": [9999999], "codes": [1]}': "expected a code for each place",
    '{"packages": {}, "places": [-1], "codes": [1]}': "at most 256 whole numbers of at least 0",
    '{"packages": {}, "places": [true], "codes": [1]}': "at most 256 whole numbers of at least 0",
    '{"packages": {}, "places": [0.5], "codes": [1]}': "at most 256 whole numbers of at least 0",
    f'{{"packages": {{}}, "places": {[0] * 300}, "codes": {[0] * 300}}}': "at most 256 whole numbers",
    f'{{"packages": {{}}, "places": [{"9" * 30}], "codes": [0]}}': "whole number",
}


@pytest.mark.parametrize("number", range(len(BAD)))
def test_a_strange_record_is_one_line(number, tmp_path):
    text, said = list(BAD.items())[number]
    folder = model_of("uniform-bins").save_pretrained(tmp_path)
    rewrite(folder, text)
    message = refused(re.escape(said), lattok.load, folder)
    assert len(message) < 1000


def test_a_record_for_a_model_without_codes_is_refused(tmp_path):
    folder = lam("none").save_pretrained(tmp_path)
    rewrite(folder, {"packages": {}, "places": [0], "codes": [0]})
    refused("expected a code for each place, of 0 places", lattok.load, folder)


def test_of_two_equal_rows_no_code_is_recorded(tmp_path):
    """Which of them is the first in line is torch's own affair."""
    model = lam("vq", codebook_size=8)
    book = model.control.quantizer.codebooks[0].vectors
    book[5] = book[2]
    record = record_of(model.save_pretrained(tmp_path))
    assert {0, 1, 3, 4, 6, 7} == set(record["codes"])


def test_the_tokenizer_of_a_policy_is_tried_too(tmp_path):
    folder = acting_by_tokens("bins").save_pretrained(tmp_path)
    inner = folder / "parts" / "tokenizer"
    record = record_of(inner)
    record["codes"][0] += 1
    rewrite(inner, record)
    refused(r"parts/tokenizer/model\.safetensors", lattok.load, folder)
