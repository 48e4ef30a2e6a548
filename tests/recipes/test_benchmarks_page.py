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
    """They parse, and policies learn from what is annotated by the models that are trained."""
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

    policies = [recipe for recipe in trained.values() if isinstance(recipe, VLARecipe)]
    assert {recipe.dataset for recipe in policies} == {flags["out"] for _, flags in others}


def test_every_policy_is_evaluated(typed):
    judged = set()
    for _, (program, *words) in typed:
        if program == "python" and words[0].endswith("evaluate.py"):
            assert (ROOT / "integrations/vla_eval/benchmarks" / f"{words[2]}.yaml").is_file()
            judged.add(words[1])
    trained = {words[words.index("--out") + 1] for _, words in typed if words[:3] == ["lattok", "train", "vla"]}
    assert trained - {"runs/robot/la-direct"} == judged - {"runs/my-policy"}


def test_every_command_of_the_harness_is_one(typed, monkeypatch):
    harness = pytest.importorskip("vla_eval.cli.main", reason="needs vla-eval")
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
