"""README and pages of the docs work as printed: commands in order, then all Python blocks, nothing defined for them."""

import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import lattok
from lattok.action_vq import P2TActionVQ, ResidualVQ
from lattok.cli import main
from lattok.recipes import ActionVQRecipe
from tests.conftest import put_video
from tests.recipes.policies import with_absurd_actions
from tests.recipes.test_howto import BLOCK, ROOT

pytestmark = pytest.mark.ci

FEW = ["--steps", "2", "--batch-size", "4", "--log-every", "1"]
SHORT = {
    "action-vq": FEW,
    "residual-vq": ["--steps", "1", "--synthetic", "0", "--tokens", "2", "--codebook-size", "4"],
    "image-lam": [*FEW, "--preset", "tiny+robust", "--features", "pixels", "--codebook-continuous-steps", "1"],
    "idm": FEW,
    "vla": [*FEW, "--backbone", "scratch", "--backbone-width", "16", "--backbone-depth", "2", "--head-dim", "16"],
}
ONCE = {"collect": ["--episodes", "1"], "rollout": ["--episodes", "1"]}
ELSEWHERE = (
    "org/lam",
    "lattok convert",
    "lattok label",
    "lattok import-labels",
    "lattok push",
    "lattok collect",
    "lattok rollout",
    "my-actor",
    "--study",
)  # the Hub, files of others, simulators, tested elsewhere


@pytest.fixture(scope="module")
def few(sample, tmp_path_factory) -> Path:
    """The shortest episodes of the sample."""
    shortest = [episode.index for episode in sample.episodes if episode.length < 60][:4]
    return lattok.export(sample, tmp_path_factory.mktemp("few") / "data", episodes=shortest, video_codec="h264").path


@pytest.fixture
def place(few, tmp_path, monkeypatch):
    """A working folder with `path/to/dataset`, in which fitting and training take a moment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path/to").mkdir(parents=True)
    (tmp_path / "path/to/dataset").symlink_to(few)
    monkeypatch.setattr("lattok.evaluation.evidence.probes.STEPS", 5)
    for family, small in (
        (ResidualVQ, {"steps": 1, "synthetic": 0, "tokens": 2, "codebook_size": 4}),
        (P2TActionVQ, {"steps": 2}),
    ):
        fit = family.fit.__func__
        quick = classmethod(lambda cls, *a, fit=fit, small=small, **o: fit(cls, *a, **{**o, **small}))
        monkeypatch.setattr(family, "fit", quick)
    from_preset = ActionVQRecipe.from_preset.__func__
    quick_preset = classmethod(lambda cls, *a, **o: from_preset(cls, *a, **{"steps": 2, "batch_size": 4, **o}))
    monkeypatch.setattr(ActionVQRecipe, "from_preset", quick_preset)
    return tmp_path


def blocks(page: str, kind: str) -> list[str]:
    return [block for found, block in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")) if found == kind]


def run(line: str, capsys) -> None:
    names = {
        "DATASET": "path/to/dataset",
        " FEW ": " path/to/few ",
        "--env metaworld-pairs": "--env metaworld-pairs/drawer-open",
    }
    for name, here in names.items():
        line = line.replace(name, here)
    words = shlex.split(line, comments=True)[1:]
    words += SHORT.get(words[1], []) if words[0] == "train" else ONCE.get(words[0], [])
    assert main(words) in ((0, 1) if words[0] == "doctor" else (0,)), (line, capsys.readouterr().err)


def typed(page: str, capsys) -> set[str]:
    """Run the commands of a page in their order, but those that need the Hub, files of others or a simulator."""
    done = set()
    for line in "".join(blocks(page, "bash")).splitlines():
        if line.startswith("lattok ") and not any(part in line for part in ELSEWHERE):
            run(line, capsys)
            done.add(line.split()[1])
    return done


def test_the_readme(few, place, capsys):
    (place / "path/to/dataset").unlink()
    with_absurd_actions(few, (0,), place / "path/to/dataset", float("nan"))
    assert typed("README.md", capsys) == {"inspect", "train", "evaluate", "annotate"}
    (block,) = blocks("README.md", "python")
    capsys.readouterr()
    exec(block, {})
    _, _, shown = (ROOT / "README.md").read_text(encoding="utf-8").partition("```text\n")
    assert capsys.readouterr().out == shown.partition("```")[0]


def test_the_whole_path(few, place, capsys):
    with_absurd_actions(few, (0,), place / "path/to/few", float("nan"))
    done = typed("docs/howto/whole_path.md", capsys)
    assert {"inspect", "train", "evaluate", "doctor", "annotate", "verify"} <= done
    names: dict[str, object] = {}
    torch.manual_seed(0)
    for block in blocks("docs/howto/whole_path.md", "python"):
        exec(block, names)
    assert names["codes"].dtype == torch.int64
    assert names["plan"].shape == (8, 4)
    assert (place / "py-report/report.html").is_file()


def test_turning_chunks_into_tokens(place, monkeypatch):
    monkeypatch.setattr(lattok, "sample_dataset_path", lambda: place / "path/to/dataset", raising=False)
    names: dict[str, object] = {}
    for block in blocks("docs/howto/action_tokenizers.md", "python"):
        exec(block, names)
    assert names["chunks"].shape[1:] == (8, 4) or names["chunks"].shape[-1] == 7


def test_a_training_loop_of_ones_own(place):
    names: dict[str, object] = {}
    before = lattok.load("sample/lam").describe()
    loop, *others = blocks("docs/howto/own_loop.md", "python")
    assert len([line for line in loop.splitlines() if line and not line.startswith(("import", "from"))]) <= 15
    for block in (loop, *others):
        exec(block, names)
    assert lattok.load("own-lam").describe()["weights_sha256"] != before["weights_sha256"]
    assert any(each.grad is not None for each in names["policy"].parameters())
    assert names["codes"].shape == (64, names["tokenizer"].tokens_per_chunk)


def test_judging_and_labelling(place, capsys):
    run("lattok train image-lam DATASET --out my-lam --cameras corner2", capsys)
    film = lattok.open_dataset("path/to/dataset").frames(0, ["corner2"])[:, 0]
    put_video(Path("clip.mp4"), film, 80)
    page = blocks("docs/howto/latent_actions.md", "bash")[0].splitlines()
    for line in (page[0], page[2]):
        run(line, capsys)
    for block in blocks("docs/howto/latent_actions.md", "python"):
        exec(block.replace('controls="trained"', 'controls="quick"'), {})
    for line in blocks("docs/howto/annotate.md", "bash")[0].splitlines():
        run(line, capsys)
    for block in blocks("docs/howto/annotate.md", "python"):  # Ray has tests of its own
        block = block.replace("from lattok.annotation import RayEngine", "from lattok.annotation import LocalEngine")
        exec(block.replace("RayEngine(workers=8)", "LocalEngine()"), {})
    assert os.path.isdir("labelled")


def test_much_video_few_actions(few, place, capsys):
    (place / "path/to/dataset").unlink()
    with_absurd_actions(few, (0,), place / "path/to/dataset", float("nan"))
    (place / "outputs").mkdir()
    recorded = lattok.open_dataset(few).columns(0, ["action"])["action"]
    np.save(place / "outputs/run_0.npy", (recorded[:-1] + np.float32(0.01)).astype(np.float32))
    for line in "".join(blocks("docs/howto/few_actions.md", "bash")).splitlines():
        run(line, capsys)
    for block in blocks("docs/howto/few_actions.md", "python"):
        exec(block, {})
    assert lattok.load("latent").config.decoder is not None


def test_the_tutorial(place, capsys):
    for line in "".join(blocks("docs/tutorial.md", "bash")).splitlines():
        run(line.replace("sample/dataset", "DATASET").replace(" --controls trained", ""), capsys)
    assert (place / "runs/annotated/meta/lattok.json").is_file()
