"""One answer to whether actions, states and rates are the same, wherever a model or a dataset meets another one."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import lattok
from lattok.action_vq import UniformBins
from lattok.annotation import annotate, verify
from lattok.cli import main
from lattok.data import Feature, LeRobotWriter, open_dataset, with_dimensions
from lattok.data.alike import Quantities, check_actions, check_rate, note_rates, same_actions
from lattok.evaluation import compare, evaluate
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.samples import ActionWindows
from lattok.utils import checks
from tests.conftest import CAMERAS, moving_square
from tests.errors import refused
from tests.recipes.policies import TINY

OTHERS = ("roll", "pitch", "yaw")
RENAMED = (
    "`action`: expected dx, dy, dz, as in training, got roll, pitch, yaw. Only if they are the same by other names"
)


@pytest.fixture(autouse=True)
def notes_of_this_test():
    checks.note.cache_clear()


def write(root: Path, names: Any = ("dx", "dy", "dz"), fps: float = 10.0, dtype: str = "float32", known: Any = None):
    """Six episodes of one camera; `known`: of the others every action is NaN."""
    rng = np.random.default_rng(0)
    features = {"action": Feature(dtype, (3,), names), CAMERAS[0]: Feature("image", (16, 16, 3), None)}
    features["observation.state"] = Feature("float32", (2,), names and ("j0", "j1"))
    with LeRobotWriter.create(root, fps, features) as writer:
        for episode in range(6):
            actions = rng.standard_normal((12, 3)) * 9
            if known is not None and episode not in known:
                actions[:] = np.nan
            columns = {"action": actions.astype(dtype), "observation.state": rng.standard_normal((12, 2))}
            writer.add_episode(columns, {CAMERAS[0]: moving_square(rng, 12, 16)}, "lift")
    return root


def inverse(folder: Path, fps: float | None = 10.0, **options: Any) -> Path:
    torch.manual_seed(0)
    given = {"cameras": CAMERAS[:1], "action_dim": 3, "action_names": ("dx", "dy", "dz"), "features": "pixels"}
    given |= {"image_size": 16, "channels": (8, 8), "latent_dim": 4, "hidden": 8, "members": 1}
    made = InverseDynamics(InverseDynamicsConfig(**given | options)).eval()
    made.trained_on = {"dataset": "data", **({} if fps is None else {"fps": fps})}
    return made.save_pretrained(folder)


def tokenizer(folder: Path, dataset: Path, fps: float | None = 10.0, names: Any = ("dx", "dy", "dz")) -> Path:
    made = UniformBins.fit(*ActionWindows(open_dataset(dataset), 4).all(), action_names=names)
    made.trained_on = {"dataset": "data", **({} if fps is None else {"fps": fps})}
    return made.save_pretrained(folder)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (Quantities(3, ("x", "y", "z"), None, "float32"), None),
        (Quantities(3, None, None, "float64"), None),
        (Quantities(4, ("x", "y", "z", "g"), None, "float32"), "width"),
        (Quantities(3, ("x", "z", "y"), None, "float32"), "names"),
        (Quantities(3, ("a", "b", "c"), None, "float32"), "names"),
        (Quantities(3, ("x", "y", "z"), None, "int64"), "numbers"),
    ],
)
def test_quantities_differ_by_what_both_say(other, what):
    own = Quantities(3, ("x", "y", "z"), None, "float32")
    assert own.difference(other) == other.difference(own) == what


def test_a_model_of_other_names_is_refused_wherever_it_meets_actions(tmp_path, capsys):
    data, other = write(tmp_path / "data"), write(tmp_path / "other", OTHERS, known={0, 3, 4, 5})
    idm, bins = str(inverse(tmp_path / "idm")), str(tokenizer(tmp_path / "bins", data))
    named = str(write(tmp_path / "named", OTHERS))
    for words in (
        ["annotate", str(other), "--model", idm, "--as", "actions", "--out", "filled"],
        ["annotate", named, "--model", bins, "--out", "labelled"],
        ["evaluate", bins, named],
        ["evaluate", idm, str(other)],
        ["compare", named, "--models", bins, "--out", "compared"],
        ["train", "vla", named, "--head", "tokens", "--tokenizer", bins, "--out", "policy", *TINY],
        ["train", "vla", named, "--strategy", "la_tok", "--tokenizer", bins, "--out", "policy", *TINY],
    ):
        words = [
            str(tmp_path / word) if word in ("filled", "labelled", "policy", "compared") else word for word in words
        ]
        assert main(words) == 2, words
        assert RENAMED in capsys.readouterr().err, words
    assert not {"filled", "labelled", "policy"} & {path.name for path in tmp_path.iterdir()}


def test_the_way_out_of_other_names_works_as_it_is_written(tmp_path, capsys):
    """The message gives a file and its content; with it the same command ends well, and fills the files' own column."""
    other, idm = write(tmp_path / "other", OTHERS, known={0, 1, 2, 3}), str(inverse(tmp_path / "idm"))
    fill = ["--model", idm, "--as", "actions", "--out", str(tmp_path / "filled")]
    assert main(["annotate", str(other), *fill]) == 2
    said = capsys.readouterr().err.strip()
    text = said[said.index('{"dataset"') :]
    file = tmp_path / "other.json"
    assert "such as other.json" in said
    file.write_text(text)
    assert open_dataset(file).features["action"].names == ("dx", "dy", "dz")
    assert main(["annotate", str(file), *fill]) == 0
    assert not np.isnan(open_dataset(tmp_path / "filled").columns(5, ["action"])["action"]).any()


def test_states_of_other_names_are_refused(tmp_path):
    data, seen = write(tmp_path / "data", known={0, 4, 5}), {"proprio": True, "state_dim": 2}
    for names, text in {
        ("j1", "j0"): "j1, j0 in this order, as in training, got j0, j1",
        ("a", "b"): "a, b, as in",
    }.items():
        model = lattok.load(inverse(tmp_path / names[0], **seen, state_names=names))
        for use in (lambda made: annotate(data, made, tmp_path / "out"), lambda made: evaluate(made, data)):
            refused(f"`observation.state`: expected {text}", use, model)
    annotate(data, lattok.load(inverse(tmp_path / "same", **seen, state_names=("j0", "j1"))), tmp_path / "out")


def test_what_one_side_does_not_name_is_noted_once(tmp_path, capsys):
    data, bare = write(tmp_path / "data"), write(tmp_path / "bare", None)
    named, nameless = tokenizer(tmp_path / "a", data), tokenizer(tmp_path / "b", data, names=())
    for _ in range(2):
        check_actions(lattok.load(named), open_dataset(bare), "action")
        check_actions(lattok.load(nameless), open_dataset(data), "action")
        same_actions([open_dataset(data), open_dataset(bare)], "action")
    assert capsys.readouterr().err.splitlines() == [
        "note: bare does not name the numbers of `action`: they are taken for those of the model (dx, dy, dz)",
        "note: the model does not name the numbers of `action`: they are taken for those of data (dx, dy, dz)",
        "note: mix: bare does not name the numbers of `action`: they are taken for those of data",
    ]


def test_whole_numbers_are_no_floats_until_they_are_joined(tmp_path):
    data, whole = open_dataset(write(tmp_path / "data")), open_dataset(write(tmp_path / "whole", dtype="int64"))
    refused(r'as int64 in whole. To read whole numbers as float32.*"columns"', same_actions, [data, whole], "action")
    trained = SimpleNamespace(action_dim=3, config=None, trained_on={"action_dtype": "float32"})
    refused("`action`: expected float32, as in training, got int64", check_actions, trained, whole, "action")
    (tmp_path / "whole.json").write_text(json.dumps({"dataset": "whole", "columns": {"action": ["action"]}}))
    check_actions(trained, open_dataset(tmp_path / "whole.json"), "action")


def test_names_that_were_made_of_columns_are_none(tmp_path, capsys):
    """What joined columns without names are called is no name that anybody gave; one that is given counts."""
    features = {key: Feature("float32", (2,), None) for key in ("action.arm", "action.hand")}
    with LeRobotWriter.create(tmp_path / "parts", 10.0, features) as writer:
        writer.add_episode({key: np.ones((9, 2), np.float32) for key in features}, {}, "lift")
    joined = open_dataset(tmp_path / "parts", columns={"action": [*features]})
    assert joined.features["action"].names == ("arm_0", "arm_1", "hand_0", "hand_1")
    model = SimpleNamespace(action_dim=4, config=SimpleNamespace(action_names=tuple("abcd")), trained_on=None)
    check_actions(model, joined, "action")
    assert "parts does not name the numbers of `action`" in capsys.readouterr().err
    text = refused(
        "expected a, b, c, d, as in training, got d, c, b, e",
        lambda: check_actions(model, with_dimensions(joined, {"action": [*"dcbe"]}), "action"),
    )
    (tmp_path / "parts.json").write_text(text[text.index('{"dataset"') :])
    check_actions(model, open_dataset(tmp_path / "parts.json"), "action")


@pytest.mark.parametrize("wrong", [["action"], {"action": ["x", "y"]}, {"action": "xyz"}, {"action": ["x", "x", "y"]}])
def test_wrong_names_of_dimensions(wrong, tmp_path):
    refused("dimensions", lambda: with_dimensions(open_dataset(write(tmp_path / "data")), wrong))


RATE = "`dataset`: expected 10 frames a second, as the model learned from, got 30 in fast"


def test_a_model_of_steps_is_refused_at_another_rate(tmp_path, capsys):
    data, fast = write(tmp_path / "data"), str(write(tmp_path / "fast", fps=30.0, known={0, 4, 5}))
    idm, bins = str(inverse(tmp_path / "idm")), str(tokenizer(tmp_path / "bins", data))
    for words in (
        ["annotate", fast, "--model", idm, "--as", "actions"],
        ["annotate", fast, "--model", idm],
        ["annotate", fast, "--model", bins],
        ["evaluate", idm, fast],
        ["evaluate", bins, fast],
        ["compare", fast, "--models", bins],
        ["train", "vla", fast, "--head", "tokens", "--tokenizer", bins, *TINY],
    ):
        assert main([*words, "--out", str(tmp_path / "out")]) == 2, words
        said = capsys.readouterr().err
        assert RATE in said, words
        assert said.strip().endswith("or say that it does not matter: --any-rate."), words
        assert not [*(tmp_path / "out").glob("*")], words


def test_any_rate_is_what_the_labels_say(tmp_path, capsys):
    fast, idm = write(tmp_path / "fast", fps=30.0, known={0, 4, 5}), str(inverse(tmp_path / "idm"))
    out = str(tmp_path / "out")
    assert main(["annotate", str(fast), "--model", idm, "--as", "actions", "--any-rate", "--out", out]) == 0
    told = "idm learned from 10 frames a second, and fast has 30"
    assert f"note: {told}" in capsys.readouterr().err
    found, told = verify(out, {"inferred": lattok.load(idm)}), told.replace("fast", "out")
    assert found.holds
    assert f"  ? {told}: any rate was asked for" in found.lines
    info = tmp_path / "out" / "meta" / "info.json"
    info.write_text(info.read_text().replace('"fps": 30', '"fps": 10'))
    assert "  - the dataset had 30 frames a second, here 10" in verify(out, {"inferred": lattok.load(idm)}).lines


def test_a_rate_that_times_contradict_is_not_taken_for_the_films(tmp_path):
    fast, idm = write(tmp_path / "fast"), lattok.load(inverse(tmp_path / "idm"))
    info = fast / "meta" / "info.json"
    info.write_text(info.read_text().replace('"fps": 10', '"fps": 30'))
    said = refused("expected 10 frames a second", lambda: check_rate(idm, open_dataset(fast)))
    assert said.endswith("Its `timestamp` says 10: correct fps in meta/info.json.")


def test_a_report_says_that_any_rate_was_asked_for(tmp_path, capsys):
    fast = write(tmp_path / "fast", fps=30.0)
    bins = lattok.load(tokenizer(tmp_path / "bins", fast))
    assert evaluate(bins, fast, any_rate=True).provenance["options"]["any_rate"]
    assert "note: bins learned from 10 frames a second, and fast has 30" in capsys.readouterr().err
    refused(RATE, compare, fast, [bins])


@pytest.mark.parametrize(
    ("stride", "rate", "fits"),
    [("0.2s", 30, True), ("0.2s", 24, True), ("0.2s", 3, False), ("2", 10.1, True), ("2", 30, False), ("2", 9, True)],
)
def test_frames_that_lie_apart_fit_every_rate_that_has_their_gap(stride, rate, fits):
    """Of 10 frames a second: 0.2 s, up to a quarter of it."""
    frames = (lambda fps: round(0.2 * fps) or 1) if stride.endswith("s") else lambda fps: int(stride)
    model: Any = SimpleNamespace(config=SimpleNamespace(stride=stride), stride_frames=frames, trained_on={"fps": 10.0})
    dataset: Any = SimpleNamespace(fps=rate, name="other", features={})
    assert (abs(frames(rate) / rate - 0.2) <= 0.05) == fits
    if fits:
        assert check_rate(model, dataset) is None
    else:
        refused("s apart would stand for 0.2 s", check_rate, model, dataset)


def test_absolute_actions_are_read_at_every_rate_that_has_the_gap(tmp_path):
    fast = open_dataset(write(tmp_path / "fast", fps=30.0))
    model = lattok.load(inverse(tmp_path / "idm", stride="0.1s"))
    refused("a step is another time, and so are increments", check_rate, model, fast)
    model.trained_on |= {"action_space": [{"part": "joints", "n": 3, "mode": "absolute"}]}
    assert check_rate(model, fast) is None


def test_a_model_that_does_not_know_its_rate_says_so_once(tmp_path, capsys):
    data = open_dataset(write(tmp_path / "data"))
    for _ in range(2):
        assert check_rate(lattok.load(inverse(tmp_path / "idm", fps=None)), data) is None
    told = "idm does not say how many frames a second it learned from; data has 10, which is taken for the same"
    assert capsys.readouterr().err == f"note: {told}\n"


def test_a_model_of_a_mixture_is_for_the_rate_of_each_dataset(tmp_path, capsys):
    slow, fast = open_dataset(write(tmp_path / "slow")), open_dataset(write(tmp_path / "fast", fps=30.0))
    entries = [{"dataset": each.name, "fps": each.fps} for each in (slow, fast)]
    model: Any = SimpleNamespace(label_source="actions", horizon=4, trained_on={"mixture": entries})
    assert check_rate(model, slow) is check_rate(model, fast) is None
    note_rates([slow, fast], 4)
    note_rates([slow, slow], 4)
    assert capsys.readouterr().err == "note: mix: rates differ: 4 steps are 0.4 s in slow, 0.133 s in fast\n"


@pytest.mark.parametrize("kind", ["idm", "uniform-bins"])
def test_trained_models_know_their_rate(kind, tmp_path):
    data, out = write(tmp_path / "data", fps=12.5), tmp_path / "out"
    inverse = ["--preset", "tiny", "--members", "1", "--image-size", "16", "--steps", "2", "--batch-size", "8"]
    options = [*inverse, "--proprio"] if kind == "idm" else ["--horizon", "4"]
    assert main(["train", kind, str(data), "--out", str(out), *options]) == 0
    trained = lattok.load(out).trained_on
    assert (trained["fps"], trained["action_dtype"]) == (12.5, "float32")
    if kind == "idm":
        assert lattok.load(out).config.state_names == ("j0", "j1")


def test_a_policy_that_goes_on_with_other_actions_states_or_another_rate_says_so(tmp_path, capsys):
    data, first = write(tmp_path / "data"), tmp_path / "first"
    assert main(["train", "vla", str(data), "--out", str(first), *TINY, "--steps", "1"]) == 0
    write(tmp_path / "other", OTHERS, fps=30.0)
    described = tmp_path / "turned.json"
    described.write_text(json.dumps({"dataset": "other", "dimensions": {"observation.state": ["j1", "j0"]}}))
    capsys.readouterr()
    again = ["--init", str(first), *TINY, "--steps", "1"]
    assert main(["train", "vla", str(described), "--out", str(tmp_path / "second"), *again]) == 0
    said = capsys.readouterr().err
    assert "note: init: first learned actions dx, dy, dz, and other has roll, pitch, yaw\n" in said
    assert "note: init: first learned states j0, j1, and other has j1, j0\n" in said
    assert "note: init: first learned from 10 frames a second, and other has 30\n" in said
    assert main(["train", "vla", str(data), "--out", str(tmp_path / "third"), *again]) == 0
    assert "init:" not in capsys.readouterr().err


def test_two_robots_whose_numbers_nobody_names_are_noted(tmp_path, capsys):
    paths = [write(tmp_path / name, None) for name in ("one", "other")]
    for path, robot in zip(paths, ("panda", "so100"), strict=True):
        info = json.loads((path / "meta/info.json").read_text())
        (path / "meta/info.json").write_text(json.dumps(info | {"robot_type": robot}))
    same_actions([open_dataset(path) for path in paths], "action")
    told = "one is of panda, other of so100, and neither says what the numbers of `action` are: they are taken for the"
    assert f"note: mix: {told} same\n" in capsys.readouterr().err
    same_actions([open_dataset(paths[0])] * 2, "action")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[31mx", "\u202ex", "x" * 256, 3, None])
def test_names_in_a_description_file_are_of_one_line_and_not_long(name, tmp_path):
    data = open_dataset(write(tmp_path / "data"))
    refused("`dimensions: action`: expected names of one line, at", with_dimensions, data, {"action": [name, "y", "z"]})


@pytest.mark.parametrize("names", [("j1", "j0"), ("a", "b")])
def test_states_of_a_mixture_have_the_same_names_in_the_same_order(names, tmp_path, capsys):
    for name in ("one", "other"):
        write(tmp_path / name)
    described = tmp_path / "two.json"
    described.write_text(json.dumps({"dataset": "other", "dimensions": {"observation.state": names}}))
    words = ["train", "vla", "--mix", f"{tmp_path / 'one'}:1", f"{described}:1", "--out", str(tmp_path / "out"), *TINY]
    assert main(words) == 2
    expected = "`mix`: expected the states of one (j0, j1) in every dataset, got"
    said = capsys.readouterr().err
    assert f"{expected} {', '.join(names)} in other" in said
    assert ('"dimensions"' in said) == (names == ("a", "b"))  # the same ones are no others by another name
    assert main([*words, "--no-proprio"]) == 0
