"""Run folders: held by one, read back with care, and never a dead end."""

import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import lattok
from lattok.action_vq import ActionVQConfig, P2TActionVQ, UniformBins
from lattok.cli import main
from lattok.recipes import ActionVQRecipe, ImageLAMRecipe, Recipe, recipe_for
from lattok.recipes.common import RECIPES
from lattok.recipes.run_folder import finish
from lattok.recipes.study import _held_out
from lattok.samples import ActionWindows
from lattok.training import CHECKPOINT, RECIPE, RUN, fit
from lattok.training.runlog import METRICS
from lattok.utils.checks import LattokError
from lattok.utils.signals import Interrupted
from tests.conftest import write_dataset
from tests.errors import refused

TINY = {"dim": 16, "heads": 2, "hidden": 16, "horizon": 4, "codebook_size": 8, "device": "cpu", "batch_size": 8}
TINY |= {"steps": 6, "save_every": 2, "log_every": 2}
FORK = get_context("fork")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "source", [12, 15, 11, 14])


def recipe(root, out, **options):
    return ActionVQRecipe.from_preset(root, out, "quick", **{**TINY, **options})


def weights(out):
    return lattok.load(out).describe()["weights_sha256"]


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "tok"
    lattok.train(recipe(root, out))
    return out


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "tok")


def _file(text):
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def _with(**values):
    def change(path):
        stored = json.loads(path.read_text())
        path.write_text(json.dumps({name: v for name, v in {**stored, **values}.items() if v != "gone"}))

    return change


def _option(**values):
    def change(path):
        stored = json.loads(path.read_text())
        options = {name: v for name, v in {**stored["options"], **values}.items() if v != "gone"}
        path.write_text(json.dumps({**stored, "options": options}))

    return change


DAMAGED = {
    "empty": _file(""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "no text": _file(b"\xff\x00"),
    "a list": _file("[]"),
    "an empty object": _file("{}"),
    "no kind": _with(kind="gone"),
    "another kind": _with(kind="image-lam"),
    "kind of another type": _with(kind=7),
    "preset of another type": _with(preset=None),
    "a preset of another version": _with(preset="slow"),
    "dataset of another type": _with(dataset=["a"]),
    "no options": _with(options="gone"),
    "a list of options": _with(options=[1]),
    "an option of another version": _option(depths=7),
    "an option that there was not yet": _option(depth="gone"),
    "an argument as an option": _option(dataset="x"),
    "out as an option": _option(out="x"),
    "cls as an option": _option(cls="x"),
    "an option of another type": _option(steps="many"),
    "an object as an option": _option(dim={"a": 1}),
    "an option out of range": _option(batch_size=-1),
    "an unknown choice": _option(schedule="never"),
    "mix of another type": _option(mix=[7.5, True]),
    "a list of inputs": _with(inputs=[1]),
    "inputs of another type": _with(inputs={"dataset": 7}),
    "no inputs": _with(inputs="gone"),
    "study of another type": _with(study="yes"),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_recipe_that_was_changed_is_one_line_that_names_it(damage, root, run, capsys):
    path = run / RUN / RECIPE
    damage(path)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    said = refused(None, lambda: lattok.train(ActionVQRecipe.resumed(root, run, None, {}), resume=True))
    assert str(path) in said or f"kind of the run in {run}" in said
    assert main(["train", "action-vq", str(root), "--out", str(run), "--resume"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("lattok: ")
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("text", ['{"options": [1]}', '{"options": {}, "preset": 7}', '{"options": null}'])
def test_an_options_file_of_another_kind_is_one_line(text, root, tmp_path, capsys):
    (tmp_path / "o.json").write_text(text)
    words = ["--config", str(tmp_path / "o.json")]
    assert main(["train", "action-vq", str(root), "--out", str(tmp_path / "tok"), *words]) == 2
    assert "o.json`: expected" in capsys.readouterr().err


def _edited(root, column, change):
    """The dataset with one column changed, its other files as they were."""
    for path in root.glob("data/*/*.parquet"):
        table = pq.read_table(path)
        old = table[column].combine_chunks()
        new = pa.FixedSizeListArray.from_arrays(change(old.flatten().to_numpy()), len(old.flatten()) // len(old))
        pq.write_table(table.set_column(table.column_names.index(column), column, new), path)


def test_a_run_does_not_go_on_from_other_actions(root, tmp_path):
    data = shutil.copytree(root, tmp_path / "data")
    lattok.train(recipe(data, tmp_path / "tok"))
    _edited(data, "action", lambda values: values * -3 + 1)
    resumed = ActionVQRecipe.resumed(data, tmp_path / "tok", None, {})
    refused("`dataset`", lattok.train, resumed, resume=True)
    shutil.rmtree(data)
    shutil.copytree(root, tmp_path / "elsewhere")
    lattok.train(ActionVQRecipe.resumed(tmp_path / "elsewhere", tmp_path / "tok", None, {}), resume=True)


def test_a_run_goes_on_from_the_annotated_copy(root, whole, run, tmp_path):
    annotated = lattok.annotate(lattok.open_dataset(root), {"tok": lattok.load(whole)}, tmp_path / "annotated")
    lattok.train(ActionVQRecipe.resumed(annotated, run, None, {}), resume=True)


def test_a_model_of_video_does_not_go_on_from_other_videos(root, tmp_path):
    data = shutil.copytree(root, tmp_path / "data")
    options = {"image_size": 32, "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "device": "cpu"}
    options |= {"steps": 1, "batch_size": 4, "features": "pixels", "cameras": "front"}
    lattok.train(ImageLAMRecipe.from_preset(data, tmp_path / "lam", "tiny+p2t", **options))
    lattok.train(ImageLAMRecipe.resumed(data, tmp_path / "lam", None, {}), resume=True)
    front, wrist = (next(data.glob(f"videos/*{name}/*/*.mp4")) for name in ("front", "wrist"))
    wrist.write_bytes(wrist.read_bytes() + b"free")  # a camera that nobody looks at
    lattok.train(ImageLAMRecipe.resumed(data, tmp_path / "lam", None, {}), resume=True)
    front.write_bytes(front.read_bytes() + b"free")
    refused("`dataset`", lambda: lattok.train(ImageLAMRecipe.resumed(data, tmp_path / "lam", None, {}), resume=True))


def _hold(made, resume, held):
    with made.begin(resume, made.open()):
        held.set()
        time.sleep(60)


@pytest.mark.parametrize("resume", [False, True])
def test_of_two_runs_in_one_folder_the_second_is_refused(resume, root, run, tmp_path):
    out, held = run if resume else tmp_path / "new", FORK.Event()
    process = FORK.Process(target=_hold, args=(recipe(root, out), resume, held))
    process.start()
    try:
        assert held.wait(60)
        before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
        refused("`out`", lambda: lattok.train(recipe(root, out), resume=resume))
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    finally:
        process.kill()
        process.join()
    lattok.train(recipe(root, out), resume=resume)  # its lock is gone with it
    assert not (out / RUN / "lock").exists()


def test_interrupted_before_the_first_step_or_after_the_last_it_says_how_to_go_on(root, tmp_path, monkeypatch, whole):
    def stop(*_, **__):
        raise Interrupted(number=signal.SIGTERM)

    for place in ("lattok.recipes.action_vq.fit", "lattok.recipes.action_vq.finish"):
        with monkeypatch.context() as patch:
            patch.setattr(place, stop)
            with pytest.raises(Interrupted, match=r"^interrupted. Continue with: go on$") as caught:
                lattok.train(recipe(root, tmp_path / "tok"), resume="finish" in place, resume_command="go on")
            assert caught.value.number == signal.SIGTERM
    lattok.train(recipe(root, tmp_path / "tok"), resume=True)
    assert weights(tmp_path / "tok") == weights(whole)


def _dying(patch, log, after):
    """Let the process end at its `after`-th operation on files below `log`'s folder."""
    count = 0

    def wrap(run):
        def dying(*args, **kwargs):
            nonlocal count
            if any(str(log) in str(argument) for argument in args[:2]):
                count += 1
                if count == after:
                    os._exit(7)
            return run(*args, **kwargs)

        return dying

    patch.setattr(os, "replace", wrap(os.replace))
    patch.setattr(os, "unlink", wrap(os.unlink))
    patch.setattr(os, "open", wrap(os.open))
    patch.setattr(Path, "mkdir", wrap(Path.mkdir))
    patch.setattr("builtins.open", wrap(open))
    patch.setattr(torch, "save", wrap(torch.save))


def _train(made, resume, after):
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        _dying(patch, Path(made.out), after)
        lattok.train(made, resume=resume)


def in_child(work, *args):
    process = FORK.Process(target=work, args=args)
    process.start()
    process.join()
    return process.exitcode


def attempt(made):
    """Train; what is said where that is refused."""
    try:
        lattok.train(made)
    except LattokError as error:
        return str(error)
    return ""


class Both(torch.nn.Module):
    """Two tokenizers that learn from the same chunks, in one loss."""

    def __init__(self, config):
        super().__init__()
        self.first, self.second = P2TActionVQ(config), P2TActionVQ(config)

    def forward(self, batch):
        named = {"first": self.first(batch), "second": self.second(batch)}
        return {f"{name}_{term}": value for name, terms in named.items() for term, value in terms.items()}


@pytest.fixture
def two():
    """A recipe that makes two artefacts: one lies in the run folder, the other in a folder of it."""

    @dataclass(frozen=True)
    class TwoRecipe(Recipe):
        """Train two tokenizers together."""

        kind = "two"
        model: ActionVQConfig = field(default_factory=ActionVQConfig)
        presets = MappingProxyType({"tiny": {**TINY, "log_every": 6, "save_every": 6}})
        default_preset = "tiny"

        def train(self, resume=False, resume_command=""):
            out, sources = self.folder(resume), self.open()
            windows = ActionWindows(sources[0].dataset, self.model.horizon, episodes=self.data.episodes)
            torch.manual_seed(self.loop.seed)
            both = Both(self.config(action_dim=3))
            artefacts = {"": both.first, "second": both.second}
            with self.begin(resume, sources, resume_command=resume_command) as contents:
                for name, model in artefacts.items():
                    model.normalizer.fit(windows.actions, "mean_std")
                    model.trained_on = self.trained_on(sources, self.loop.batch_size, contents)
                    model.evaluation = {"headline": f"It is {name or 'first'}.", "figures": {}, "verdicts": []}

                def batches(step, process, processes):
                    return windows.batch(torch.arange(self.loop.batch_size) + step)

                names = [f"{each}_{term}" for each in ("first", "second") for term in both.first.config.loss_weights]
                weights = dict.fromkeys(names, 1.0)
                fit(both, batches, self.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
                return finish(artefacts, out)

    yield TwoRecipe
    RECIPES._known.pop("two")


WHOLE = {"README.md", "config.json", "model.safetensors", "training.json"}


def test_one_run_makes_two_artefacts(two, root, tmp_path, capsys):
    out = tmp_path / "both"
    assert main(["train", "two", str(root), "--out", str(out)]) == 0
    first, second = lattok.load(out), lattok.load(out / "second")
    assert (first.source, second.source) == ("both", "second")
    assert first.describe()["weights_sha256"] != second.describe()["weights_sha256"]
    assert first.trained_on == second.trained_on
    assert (first.evaluation["headline"], second.evaluation["headline"]) == ("It is first.", "It is second.")
    for folder in (out, out / "second"):
        assert {path.name for path in folder.iterdir() if path.is_file()} == {*WHOLE, "evaluation.json"}
    chunks = torch.randn(2, 4, 3)
    made = two.from_preset(root, tmp_path / "again").train()
    assert torch.equal(made["second"].encode(chunks), second.encode(chunks))
    assert main(["evaluate", str(out / "second"), str(root)]) == 0
    assert (out / "second" / "report" / "report.html").is_file()
    shutil.rmtree(out / "second")
    assert main(["train", "two", str(root), "--out", str(out), "--resume"]) == 0
    assert weights(out / "second") == second.describe()["weights_sha256"]
    capsys.readouterr()


@pytest.mark.ci
@pytest.mark.parametrize("family", ["action-vq", "uniform-bins", "two"])
def test_killed_at_any_operation_the_same_command_or_resume_goes_on(family, root, tmp_path, whole, two):
    def made(out):
        if family == "two":
            return two.from_preset(root, out)
        return recipe(root, out) if family == "action-vq" else recipe_for(UniformBins).from_preset(root, out, horizon=4)

    folders = ("", "second") if family == "two" else ("",)
    expected = {"": weights(whole)}
    if family != "action-vq":
        lattok.train(made(tmp_path / "whole"))
        expected = {name: weights(tmp_path / "whole" / name) for name in folders}
    saved = WHOLE | ({"evaluation.json"} if family == "two" else set())
    artefacts = {Path(name, file).as_posix() for name in folders for file in saved}
    # a run makes some ninety of them; that of two artefacts, those of one twice
    ended, after, every = False, 0, {"uniform-bins": 3, "action-vq": 4, "two": 9}[family]
    while not ended:
        after += every
        assert after < 200
        out = tmp_path / f"{family}-{after}"
        ended = in_child(_train, made(out), False, after) == 0
        if ended:
            break
        said = attempt(made(out))
        if said:
            assert "add resume=True" in said
            lattok.train(made(out), resume=True)
        assert {name: weights(out / name) for name in folders} == expected
        names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        board = {name for name in names if name.startswith("run/tensorboard/")}
        rest = {"run/recipe.json"}
        rest |= {"run/metrics.jsonl", "run/checkpoint.pt"} if family != "uniform-bins" else set()
        assert names - board == artefacts | rest
        shutil.rmtree(out)
    assert after > (8 if family == "uniform-bins" else 15)


LEFT = (".0123456789abcdef.lattok-tmp", "run/.0123456789abcdef.lattok-tmp", "run/lock")


def test_what_a_kill_leaves_blocks_neither_a_new_run_nor_resume(root, run, whole, tmp_path):
    for name in LEFT:
        out = tmp_path / "new"
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("")
        lattok.train(recipe(root, out))
        assert weights(out) == weights(whole)
        assert not (out / name).exists()
        shutil.rmtree(out)
        (run / name).write_text("")
    lattok.train(recipe(root, run), resume=True)
    assert not any((run / name).exists() for name in LEFT)


def test_files_of_the_user_block_a_new_run_and_stay(root, tmp_path):
    for name in (
        "thesis.tex",
        ".writable",
        ".writable.tmp",
        "run/recipe.json.tmp",
        "run/notes.md",
        "run/tensorboard/a",
    ):
        out = tmp_path / name.replace("/", "-")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        refused("`out`", lattok.train, recipe(root, out))
        assert [(p.name, p.read_text()) for p in out.rglob("*") if p.is_file()] == [(Path(name).name, "mine")]


def test_a_run_that_is_resumed_when_it_is_finished_keeps_its_evaluation(root, run):
    assert main(["evaluate", str(run), str(root)]) == 0
    names = ("evaluation.json", "evaluation.svg", "README.md")
    before = {name: (run / name).read_bytes() for name in names}
    assert main(["train", "action-vq", "--out", str(run), "--resume"]) == 0
    assert {name: (run / name).read_bytes() for name in names} == before
    tensors = load_file(run / "model.safetensors")
    save_file({name: value * 2 for name, value in tensors.items()}, run / "model.safetensors")
    assert main(["train", "action-vq", "--out", str(run), "--resume"]) == 0
    assert not (run / "evaluation.json").exists()  # of other weights


def test_a_run_that_met_a_full_disk_goes_on_either_way(root, whole, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    for place in ("lattok.training.checkpoints.save", "lattok.recipes.action_vq.finish"):
        for resume in (False, True):
            out = tmp_path / f"{place}-{resume}"
            with monkeypatch.context() as patch:
                patch.setattr(place, full)
                with pytest.raises(OSError, match="No space left"):
                    lattok.train(recipe(root, out))
            if "finish" in place and not resume:
                refused("Choose another, or add resume=True.", lattok.train, recipe(root, out))
                continue
            lattok.train(recipe(root, out), resume=resume)
            assert weights(out) == weights(whole)


def test_a_run_without_a_checkpoint_is_begun_anew_with_other_options(root, run, whole):
    for name in ("config.json", "model.safetensors", "README.md", "training.json", f"{RUN}/{CHECKPOINT}"):
        (run / name).unlink()
    lattok.train(recipe(root, run))
    assert weights(run) == weights(whole)
    steps = [json.loads(line)["step"] for line in (run / RUN / METRICS).read_text().splitlines()]
    assert steps == [2, 4, 6]


@pytest.mark.parametrize("value", ["", "[]", "{}", '{"error": 1, "by_step": [1], "gain": 1, "mean_action": "x"}'])
def test_results_of_a_study_that_were_damaged_name_their_file_and_the_way_out(value, tmp_path):
    (tmp_path / "held_out.json").write_text(value)
    refused(r"held_out.json.*Delete held_out.json and continue the study", _held_out, tmp_path / "held_out.json")


def test_the_lock_is_there_while_a_run_is(root, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "lattok.recipes.action_vq.fit", lambda *a, **k: seen.append((tmp_path / "tok/run/lock").exists())
    )
    lattok.train(recipe(root, tmp_path / "tok"))
    assert seen == [True]
    assert not (tmp_path / "tok/run/lock").exists()
