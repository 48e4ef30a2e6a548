"""docs/howto/benchmarks.md: bash runs the page with stand-ins for the programs, and each command is read by its own."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import lattok
from lattok import cli
from lattok.cli import main
from lattok.recipes import ActionVQRecipe, ImageLAMRecipe, VLARecipe
from lattok.utils.options import as_flags
from tests.conftest import write_dataset
from tests.recipes.policies import SIZES
from tests.recipes.test_howto import BLOCK, PUBLISHED, ROOT

PAGE = ROOT / "docs" / "howto" / "benchmarks.md"
STAND_INS = r"""
set -eu
note() { printf '%s\x1f' "${TASK-}" "$@" >> "$LOG"; echo >> "$LOG"; }
lattok() { note lattok "$@"; }
python() { note python "$@"; }
vla-eval() { note vla-eval "$@"; }
pip() { :; }
"""
TEN = [
    *("beat_block_hammer", "click_bell", "grab_roller", "lift_pot", "move_can_pot", "move_playingcard_away"),
    *("pick_dual_bottles", "pick_diverse_bottles", "place_container_plate", "place_a2b_left"),
]
FOUR = ["move_playingcard_away", "place_container_plate", "move_can_pot", "pick_dual_bottles"]


def typed_on(page: Path, folder: Path) -> list[tuple[str, list[str]]]:
    """Every command of a page, loops unrolled: the variable TASK, and its words."""
    blocks = [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == "bash"]
    words = ["bash", "-c", STAND_INS + "".join(blocks)]
    subprocess.run(words, env={**os.environ, "LOG": str(folder / "log")}, check=True, cwd=folder)
    lines = [line.split("\x1f")[:-1] for line in (folder / "log").read_text().splitlines()]
    return [(task, words) for task, *words in lines]


@pytest.fixture(scope="module")
def typed(tmp_path_factory) -> list[tuple[str, list[str]]]:
    return typed_on(PAGE, tmp_path_factory.mktemp("page"))


@pytest.fixture
def published(tmp_path, monkeypatch) -> None:
    """A working folder with the small stand-in of UniVLA's checkpoint."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests/parity/univla_stage2/checkpoint.ckpt", tmp_path / "lam-stage-2.ckpt")


def test_every_command_of_lattok_is_one(typed, published, monkeypatch):
    """They parse, and the recipes behind them are those of the paper's tables."""
    trained: dict[str, Any] = {}
    for kind in (ActionVQRecipe, ImageLAMRecipe, VLARecipe):
        monkeypatch.setattr(kind, "train", lambda self, *_: trained.update({self.out: self}))
    others = []
    for _, (program, *words) in typed:
        if program == "lattok" and words[0] in ("train", "convert"):
            assert main([*words, *(PUBLISHED if words[0] == "convert" else [])]) == 0, words
        elif program == "lattok":
            with monkeypatch.context() as patch:
                patch.setattr(cli.flags, "call", lambda verb, flags: others.append((verb, flags)))
                assert main(words) == 0, words
    assert [verb.__name__ for verb, _ in others] == ["annotate"] * 4
    models = [name for _, flags in others for name in flags["model"]]
    assert set(models) == {out for out in trained if Path(out).name in ("lam", "tokenizer")}

    policies = {out: recipe for out, recipe in trained.items() if isinstance(recipe, VLARecipe)}
    assert {recipe.dataset for recipe in policies.values()} == {flags["out"] for _, flags in others}
    size = {recipe.loop.batch_size for recipe in policies.values()}
    horizons = {Path(out).parts[1]: recipe.model.horizon for out, recipe in trained.items() if out in policies}
    eight = dict.fromkeys(("libero", "libero-vision", "libero-33", "libero-50"), 8)
    assert (size, horizons) == ({128}, eight | {"robotwin": 25, "robot": 20})

    def rows(robot: str, steps: int) -> dict[str, Any]:
        chosen = {out: r for out, r in policies.items() if Path(out).parts[1] == robot and r.loop.steps == steps}
        return {Path(out).name: (r.data.strategy, r.data.latent_weight, r.data.episodes) for out, r in chosen.items()}

    five = ("baseline", "la_align", "la_direct", "la_cond", "la_tok")
    wanted = {name.replace("_", "-"): (name, None, "0:") for name in (*five, "ph_direct", "ph_cond")}
    wanted |= {f"la-{name}-c": (f"la_{name}_c", None, "0:") for name in ("direct", "tok")}
    wanted |= {f"la-align-{where}": ("la_align", None, "0:") for where in ("early", "final")}
    assert rows("libero", 80_000) == wanted  # Tables 1, 4, 5, 9, 10
    assert rows("libero", 20_000) == {"readme": ("baseline", None, "0:")}  # the README's command
    layers = {Path(out).name: r.data.layer for out, r in policies.items() if r.data.layer is not None}
    assert layers == {"la-align-early": 1, "la-align-final": 1.0}
    assert list(map(type, layers.values())) == [int, float]  # the first, and all of them
    vision = {name.replace("_", "-"): (name, None, "0:") for name in ("la_align", "la_direct", "la_cond")}
    assert rows("libero-vision", 80_000) == vision  # Table 6
    lam = trained["runs/libero-vision/lam"]
    assert (lam.data.labelled_fraction, lam.data.episodes, lam.data.init) == (0, "0:", "runs/univla")
    for share in (33, 50):  # E.1
        few = {name: (name, None, f"{share}%") for name in ("baseline", "la_tok")}
        assert rows(f"libero-{share}", 80_000) == few
    wanted = {name.replace("_", "-"): (name, None, "200:350,400:450") for name in five}
    wanted |= {f"la-tok-{weight}": ("la_tok", weight, "200:350,400:450") for weight in (0.2, 0.5)}
    assert rows("robotwin", 30_000) == wanted  # Tables 2, 12
    two = {"baseline": "baseline", "la-cond": "la_cond"}
    fifties = {task: f"{50 * i}:{50 * i + 50}" for i, task in enumerate(TEN)}
    single = {f"{out}-{task}": (name, None, fifties[task]) for task in TEN for out, name in two.items()}
    assert rows("robotwin", 8_000) == single  # Table 11
    assert rows("robotwin", 60_000) == {f"{out}-ten": (name, None, "0:") for out, name in two.items()}

    for robot in ("libero", "robotwin", "robot"):  # appendix A: no action supervision is missing, nothing is held out
        lam, tokenizer = trained[f"runs/{robot}/lam"], trained[f"runs/{robot}/tokenizer"]
        assert (lam.model.action.target, lam.model.stride, lam.data.labelled_fraction) == ("first", "32", 0.05)
        assert (lam.data.episodes, tokenizer.data.episodes, tokenizer.loop.steps) == ("0:", "0:", 50_000)


def test_every_policy_is_evaluated_on_its_tasks(typed):
    """Each row's policy meets its benchmark, on RoboTwin task for task, and learned from these tasks."""
    judged: dict[str, list[str]] = {}
    for task, (program, *words) in typed:
        if program == "python" and words[0].endswith("evaluate.py"):
            assert (ROOT / "integrations/vla_eval/benchmarks" / f"{words[2]}.yaml").is_file()
            judged.setdefault(words[1], []).append(task)
    trained = [words[words.index("--out") + 1] for _, words in typed if words[:3] == ["lattok", "train", "vla"]]
    assert set(trained) - {"runs/robot/la-direct"} == set(judged) - {"runs/my-policy"}
    assert sorted(map(TEN.index, FOUR)) == [4, 5, 6, 8]  # 200:350,400:450 in fifties
    for out, tasks in judged.items():
        name = Path(out).name
        if "robotwin" in out:
            single = [task for task in TEN if name.endswith(task)]
            assert tasks == (single or (TEN if name.endswith("-ten") else FOUR)), out


def test_every_command_of_the_harness_is_one(typed, monkeypatch):
    harness = pytest.importorskip("vla_eval.cli.main", reason="needs vla-eval")
    known = (Path(harness.__file__).parents[1] / "benchmarks/robotwin/expert_seeds/demo_clean.json").read_text()
    assert all(f'"{task}"' in known for task in TEN)
    seen = []
    for verb in ("run", "serve"):
        monkeypatch.setattr(harness, f"cmd_{verb}", lambda args: seen.append(args))
    for _, words in typed:
        if words[0] == "vla-eval":
            monkeypatch.setattr(sys, "argv", words)
            harness.main()
    assert len(seen) == 2
    assert all((ROOT / args.config).is_file() for args in seen)


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "integrations" / "vla_eval" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_works_from_the_checkpoint_to_the_success_rate(typed, published, tmp_path, monkeypatch, capsys):
    """LA-Direct of Table 1 as printed, but for sizes, with the harness's own run of a benchmark without a simulator."""
    pytest.importorskip("vla_eval", reason="needs vla-eval")
    data = write_dataset(tmp_path / "two", [40, 41, 42, 43])
    few = ["--steps", "2", "--batch-size", "4", "--device", "cpu", "--log-every", "1"]
    sizes = {name: value for name, value in SIZES.items() if name not in ("horizon", "log_every")}
    tiny = [*as_flags(sizes)]
    short = {
        "image-lam": [*few, "--stride", "2"],
        "action-vq": few,
        "vla": [*few, "--backbone", "scratch", "--backbone-train", "full", *tiny],
    }
    names = {"HuggingFaceVLA/libero": str(data), "image": "front"}
    once = [words for _, words in typed if words[0] == "lattok"][:4]
    row = next(words for _, words in typed if "runs/libero/la-direct" in words)
    for _, *words in [*once, row]:
        words = [names.get(word, word) for word in words]
        words += {"convert": PUBLISHED, "train": short.get(words[1], [])}.get(words[0], [])
        assert main(words) == 0, (words, capsys.readouterr().err)
    evaluate = script("evaluate")
    monkeypatch.setattr(evaluate, "FOLDER", tmp_path)
    for folder, content in (
        ("model_servers", {"args": SERVER}),
        ("benchmarks", {"benchmarks": [{"benchmark": "tests.integrations.serving_worlds:Small"}]}),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "table.yaml").write_text(yaml.safe_dump(content))
    torch.manual_seed(0)
    evaluate.main(["runs/libero/la-direct", "table"])
    assert "100.0%" in capsys.readouterr().out
    assert list((tmp_path / "results/runs/libero/la-direct/table").glob("recording-*.sqlite"))
    assert isinstance(lattok.load("runs/libero/la-direct"), lattok.LatentVLA)


SERVER = {
    "cameras": {"agentview": "front", "wrist": "wrist"},
    "resize": True,
    "state": "states",
    "policy_actions": [{"part": "position"}],
    "benchmark_actions": [{"part": "position"}],
    "observation_params": {"send_state": True},
}


def test_every_policy_of_the_page_has_results_of_its_own(typed, tmp_path, monkeypatch):
    pytest.importorskip("vla_eval", reason="needs vla-eval")
    monkeypatch.chdir(tmp_path)
    results_of = script("evaluate").results_of
    judged = {words[2] for _, words in typed if words[1].endswith("evaluate.py")}
    assert len({results_of(model) for model in judged}) == len(judged) > 20
    assert results_of("org/name") == results_of(f"{tmp_path}/org/name/") == Path("results/org/name")
    for elsewhere in (tmp_path.parent / "runs/la-align", "../runs/la-align", "org/../../runs/la-align"):
        assert results_of(str(elsewhere)) == Path("results", *tmp_path.parent.parts[1:], "runs/la-align")


def test_evaluate_says_in_one_line_what_is_wrong(tmp_path, monkeypatch):
    pytest.importorskip("vla_eval", reason="needs vla-eval")
    monkeypatch.delenv("TASK", raising=False)
    with pytest.raises(
        SystemExit, match="^lattok: `benchmark`: expected all variables of robotwin.yaml .*'TASK' not [^\n]*$"
    ):
        script("evaluate").main([str(tmp_path), "robotwin"])
    with pytest.raises(SystemExit, match="^lattok: `model`: expected a folder with config.json, got"):
        script("evaluate").main([str(tmp_path), "libero"])
    for given in ("n_action_steps", "steps=1", "model=other", "cameras={"):
        with pytest.raises(SystemExit, match=f"^lattok: `arg`: expected [^\n]* got '{given.removeprefix('cameras=')}'"):
            script("evaluate").main([str(tmp_path), "libero", "--arg", given])
