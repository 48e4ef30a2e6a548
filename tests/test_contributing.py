"""The additions of examples/extend work as a package outside of lattok."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from scripts.long import long
from tests.process_jobs import afresh

ROOT = Path(__file__).parents[1]
MOST_LINES = 60
EXTEND = ROOT / "examples" / "extend"

USE = """
import json, os, sys, warnings, lattok, lattok.labels
from lattok.cli import main

def run(*words, code=0):
    assert main(list(map(str, words))) == code, words

assert not {"signs", "array_folder", "smoothness"} & set(sys.modules)
with warnings.catch_warnings():
    warnings.simplefilter("error")
    dataset = lattok.open_dataset("data")
assert (dataset.kind, len(dataset.episodes), dataset.fps) == ("npz", 6, 10.0)
assert [each.episode_index for each in dataset.damaged] == [6]
assert lattok.open_dataset("data", fps=5).fps == 5
assert dataset.frames(1, indices=[3, 2]).shape == (2, 1, 16, 16, 3)
run("inspect", "data", code=1)
os.remove("data/6.npz")
run("train", "signs", "data", "--out", "model", "--size", "0.5")
model = lattok.load("model")
assert (model.type, model.config.size, model.horizon) == ("signs", 0.5, 8)
run("evaluate", "model", "data", "--out", "report")
report = json.loads(open("report/report.json").read())
assert report["sections"][-1]["title"].startswith("Are decoded actions as smooth")
assert report["figures"]["roughness"] > 0
assert [verdict["key"] for verdict in report["verdicts"]][-1] == "smooth"
from lattok.evaluation.questions import criteria
assert str(criteria()["smooth"].advice) == "Let the decoder see the whole chunk (decoder=context)."
run("train", "uniform-bins", "data", "--out", "bins")
run("compare", "data", "--models", "model", "bins", "--out", "compared")
figures = json.loads(open("compared/report.json").read())["figures"]
assert {name.partition("/")[0] for name in figures} == {"model", "bins"}
run("annotate", "data", "--model", "model", "--out", "labels")
assert lattok.verify(lattok.labels.with_labels("data", "labels"), "model").holds
run("export", "data", "--labels", "labels", "--out", "exported", "--video-codec", "h264")
assert "latent.codes" in lattok.open_dataset("exported").features

from benchmarks.quality import tokenizers as table
from lattok.samples import ActionWindows

(setting,) = [each for each in table.settings() if each.family == "Signs"]
windows = table.Windows(*ActionWindows(dataset, 8).all())
row = table.measure(table.build(setting, windows, 0), windows, windows.chunks[:, 0], 0)
assert (row["bits_per_chunk"], row["repaired_of_random_codes"]) == (24, 0)
assert 0 < row["mse_normalised"] < 1
"""


SUPERVISE = """
import sys, torch
from lattok.labels import LatentSpec
from lattok.types import LatentTarget
from lattok.vla.strategies import LATENT, STRATEGIES, LatentLoss, Strategy, build_supervision

assert not {"la_cond_mid", "huber"} & set(sys.modules)
assert "la_cond_mid" in list(STRATEGIES) and STRATEGIES["la_cond_mid"].needs == ("codes",)
labels = LatentSpec("steps", steps=3, codes=2, codebook_size=5, vectors=2, latent_dim=4)
codes, vectors = torch.zeros(6, 3, 2).long(), torch.randn(6, 3, 2, 4)
valid = torch.tensor([True, True, False]).expand(6, 3)
target, states = LatentTarget(codes, vectors, valid), torch.randn(6, 6, 8)
mine = Strategy("mine", (LATENT,), (LatentLoss("huber", options={"beta": 0.5}),), labels="steps")
for strategy in ("la_cond_mid", mine):
    loss = build_supervision(strategy, 8, labels)["latent"]
    before = loss(states, target)["latent"]
    before.backward()
    vectors[:, 2] = torch.nan  # not valid
    assert torch.equal(loss(states, target)["latent"], before)
"""


IMPORT = """
import sys, lattok
from lattok.cli import main
from lattok.utils.checks import LattokError

assert "counts" not in sys.modules
assert main(["convert", "counts", "counts.safetensors", "out", "--horizon", "3", "--size", "0.5"]) == 0
model = lattok.load("out")
assert (model.type, model.horizon, model.action_dim, model.config.size) == ("signs", 3, 2, 0.5)
chunk = lattok.convert.counts("counts.safetensors", 1).decode([[1, 0]])
assert chunk.tolist() == [[[3.0, -1.0]]], chunk  # mean plus and minus a deviation
assert main(["convert", "counts", "counts.safetensors", "other"]) == 2  # without a horizon
try:
    lattok.convert.lapa_laq("counts.safetensors")
except LattokError as error:
    assert "Run: lattok convert counts." in str(error)
else:
    raise AssertionError
"""


QUANTIZE = """
import sys, torch, lattok
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.types import PairBatch

assert "sign_bits" not in sys.modules
torch.manual_seed(0)
sizes = {"image_size": 16, "width": 8, "heads": 2, "latent_dim": 8, "encoder_depth": 1, "decoder_depth": 1}
config = ImageLAMConfig.of(("front",), features="pixels", quantizer="signs", codebook_size=8, tokens=3, **sizes)
lam, frames = ImageLAM(config).train(), torch.randint(256, (9, 2, 1, 16, 16, 3)).to(torch.uint8)
terms = lam(PairBatch(frames, torch.zeros(9, 0), torch.zeros(9).bool()))
terms["prediction"].backward()
assert lam.control.heads[0].weight.grad.abs().sum() > 0
assert lam.control.quantizer.pop_usage() is not None
out = lattok.load(lam.save_pretrained("lam")).encode(frames)
assert out.codes.shape == (9, 3) and out.codes.max() < 8 and len(out.codes.unique()) > 1
assert torch.equal(out.quantized, lam.eval().encode(frames).quantized)
"""


SIMULATE = """
import sys, lattok, numpy as np
from pathlib import Path
from lattok.cli import main
from lattok.samples import ActionWindows
from lattok.sim.rollout import rollout

assert not {"line", "bounded_bins"} & set(sys.modules)
assert main(["collect", "line", "--out", "data", "--episodes", "3", "--size", "32", "--workers", "1"]) == 0
dataset = lattok.open_dataset("data")
assert (len(dataset.episodes), dataset.fps) == (6, 10.0)
assert {task for episode in dataset.episodes for task in episode.tasks} == {"go left", "go right"}
act = lambda seen, told: np.full((4, 1), 1.0 if "right" in told else -1.0)
played = rollout(act, "line", 2, videos=1, out="played")
assert [each.success for each in played.episodes] == [True] * 4
assert len(list(Path("played").rglob("*.mp4"))) == 2
words = ["train", "bounded-bins", "data", "--out", "model", "--horizon", "4", "--bound"]
assert main([*words, "0.1"]) == 0
model = lattok.load("model")
assert model.trained_on is not None and model.horizon == 4
actions = ActionWindows(dataset, 4).all()[0]
assert abs(model.decode(model.encode(actions)) - actions).max() <= 0.1
assert main([*words, "0.01", "--out", "finer"]) == 0
assert lattok.load("finer").config.bins > model.config.bins
"""


@pytest.mark.parametrize("path", sorted(EXTEND.glob("*.py")), ids=lambda path: path.stem)
def test_each_takes_few_lines_and_is_linked(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    assert f"(examples/extend/{path.name})" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder of installed packages with the additions."""
    facts = tmp_path / "site" / "mine-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    project = (EXTEND / "pyproject.toml").read_text(encoding="utf-8").partition("\n\n")[2]
    (facts / "entry_points.txt").write_text(
        project.replace('project.entry-points."', "").replace('"]', "]").replace('"', "")
    )
    for path in EXTEND.glob("*.py"):
        shutil.copy(path, tmp_path / "site")
    return tmp_path / "site"


def test_a_tokenizer_a_format_and_a_question_of_another_package_are_found_everywhere(site, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(6):
        action = rng.standard_normal((20 + i, 3)).astype(np.float32)
        image = rng.integers(0, 255, (20 + i, 16, 16, 3), dtype=np.uint8)
        np.savez(tmp_path / "data" / f"{i}.npz", action=action, image=image)
    (tmp_path / "data" / "6.npz").write_bytes(b"cut off")
    afresh(USE, tmp_path, site)


def test_a_strategy_and_a_loss_of_another_package_are_found(site, tmp_path):
    afresh(SUPERVISE, tmp_path, site)


def test_an_importer_of_another_package_is_a_command_and_a_function(site, tmp_path):
    tensors = {"mean_action": torch.tensor([1.0, 2.0]), "deviation": torch.tensor([2.0, 3.0])}
    safetensors.torch.save_file(tensors, tmp_path / "counts.safetensors")
    afresh(IMPORT, tmp_path, site)


def test_a_bottleneck_of_another_package_is_found(site, tmp_path):
    afresh(QUANTIZE, tmp_path, site)


@pytest.mark.ci
def test_a_world_and_a_recipe_of_another_package_are_found(site, tmp_path):
    afresh(SIMULATE, tmp_path, site)


def test_every_addition_has_an_entry_point():
    named = re.findall(r'= "(\w+)"', (EXTEND / "pyproject.toml").read_text(encoding="utf-8").partition("\n\n")[2])
    assert sorted(named) == sorted(path.stem for path in EXTEND.glob("*.py"))


def test_links_of_pages_for_developers_lead_to_files():
    pages = [
        *ROOT.glob("*.md"),
        ROOT / "scripts/README.md",
        ROOT / "studies/README.md",
        *ROOT.glob("studies/pages/*.md"),
    ]
    for page in pages:
        links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8"))
        assert not [link for link in links if not (page.parent / link).exists()], page.name


def test_long_files_and_functions_are_named(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/short.py").write_text("def f():\n" + "    f()\n" * 79)
    (tmp_path / "own/one.py").write_text("def f():\n" + "    f()\n" * 80 + "\n" * 420)
    assert list(long(tmp_path / "own")) == [
        "own/one.py: 501 lines (advised: 500)",
        "own/one.py:1: f has 81 lines (advised: 80)",
    ]
