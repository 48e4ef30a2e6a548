"""What a verb tells people to type next works, on the very case that it says it about."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import lattok
from lattok.cli import VERBS, Group, main
from lattok.data import open_dataset
from tests.conftest import moving_square, put_video
from tests.evaluation.conftest import short_mlps as short_mlps

SMALL = ["--preset", "tiny+robust", "--features", "pixels", "--image-size", "32", "--stride", "2", "--width", "16"]
SMALL += ["--heads", "2", "--latent-dim", "8", "--codebook-size", "4", "--batch-size", "6", "--labelled-per-batch", "2"]
SMALL += ["--device", "cpu"]
pytestmark = pytest.mark.usefixtures("short_mlps")
Said = Callable[..., str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """Run a command in an empty folder; return what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(words: str | Sequence[str], code: int = 0) -> str:
        words = shlex.split(words) if isinstance(words, str) else words
        found = main([*words][words[0] == "lattok" :])
        printed = capsys.readouterr()
        assert found == code, printed.err
        return printed.err if code else printed.out

    return run


@pytest.fixture
def videos(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    for name in "abc":
        (tmp_path / "vids").mkdir(exist_ok=True)
        put_video(tmp_path / "vids" / f"{name}.mp4", moving_square(rng, 14), 10)
    return "vids"


def after(label: str, text: str) -> str:
    """The command behind a label."""
    (command,) = re.findall(rf"{label}: (lattok [^\n]*)", text)
    return command


COMMAND = re.compile(
    r"(^|[`:] ?|[Rr]un )?lattok ([a-z]+)((?: (?:--[a-z-]+|[A-Z]+|\{\w*\}|[a-z0-9-]+|\.\.\.)(?![\w/]))*)"
)


def texts(path: Path) -> Iterator[str]:
    """All texts of a file, with X for what is filled in when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {part for text in ast.walk(tree) if isinstance(text, ast.JoinedStr) for part in text.values}
    for node in set(ast.walk(tree)) - parts:
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_command_that_a_text_of_lattok_names_is_one(said: Said):
    """Its verb and flags are there, and where it names what it is about it has all that the verb must be given."""
    files = Path(lattok.__file__).parent.rglob("*.py")
    found = {match.groups() for path in files for text in texts(path) for match in COMMAND.finditer(text)}
    page = cache(lambda *words: said([*words, "--help-all" if words[0] == "train" else "--help"]))
    complete = 0
    for before, verb, rest in sorted(found, key=str):
        words = [verb, *rest.split()]
        if verb not in VERBS:
            assert not before, f"lattok {verb}"
            continue
        group = VERBS[verb] if isinstance(VERBS[verb], Group) else None
        if group and not (len(words) > 1 and re.fullmatch("[a-z0-9][a-z0-9-]*", words[1])):
            continue
        assert group is None or words[1] in group.names(), words
        given = 1 + (group is not None)
        text, arguments = page(*words[:given]), words[given:]
        flags = [word for word in arguments if word.startswith("--")]
        assert all(re.search(rf"^  {flag.replace('--no-', '--')}\b", text, re.M) for flag in flags), words
        if arguments and re.fullmatch(r"[A-Z]+|\{\w*\}", arguments[0]):
            complete += 1
            needed = re.findall("--[a-z-]+", text.splitlines()[0])
            assert set(needed) <= set(flags), f"{words}: needs {needed}"
    assert complete > 10


def test_video_without_actions_is_trained_judged_labelled_and_looked_at(videos: str, said: Said):
    trained = said(["train", "image-lam", videos, "--out", "lam", "--labelled-fraction", "0", "--steps", "6", *SMALL])
    judge = after("Judge it", trained)
    assert judge == "lattok evaluate lam vids"
    report = said(f"{judge} --device cpu")
    assert report.endswith("Report: lam/report/report.html\n")
    page = Path("lam/report/report.html").read_text()
    (advice,) = set(re.findall(r"Run: (lattok evaluate [A-Z]+ [A-Z]+ --controls trained)", page))
    again = said(f"{advice.replace('MODEL', 'lam').replace('DATASET', videos)} --device cpu")
    assert "needs trained controls" not in again
    said(f"{judge} --device cpu --action-key none --state-key None --out other")
    assert json.loads(Path("other/report.json").read_text())["provenance"]["options"]["action_key"] is None

    refused = said("compare vids --models lam --device cpu", 2)
    assert "`action_key`: expected a column of actions: they are what labels are compared by, got 'action'" in refused
    labelled = said("annotate vids --model lam --out labels --device cpu")
    verify, look = after("Check them", labelled), after("Look at them", labelled)
    assert verify == "lattok verify vids --labels labels --model lam"
    assert "rows equal" in said(verify)
    assert "Page: view.html" in said(f"{look} --out view.html")
    for words in ("verify labels --model lam", "view labels"):
        way_out = re.findall(r"as in (lattok view DATASET --labels [^\s]+)\.?\n", said(words, 2))
        said(f"{way_out[0].replace('DATASET', videos)} --out view.html")
    said("verify vids --model lam", 2)


def test_labels_of_a_lerobot_dataset_are_checked_as_annotate_says(make_dataset: Callable, said: Said):
    dataset = make_dataset([12, 15, 11, 14])
    said(["train", "image-lam", str(dataset.root), "--out", "my lam", "--steps", "6", *SMALL])
    labelled = said(["annotate", str(dataset.root), "--model", "my lam", "--out", "with labels", "--device", "cpu"])
    assert after("Check them", labelled) == "lattok verify 'with labels' --model 'my lam'"
    assert "rows equal" in said(after("Check them", labelled))
    assert "Page" in said(after("Look at them", labelled) + " --out view.html")


def test_one_task_is_split_alike_by_inspect_train_and_evaluate(make_dataset: Callable, said: Said, capsys):
    root = str(make_dataset([14, 15, 13, 14, 16, 12], tasks=("lift",)).root)
    split = "2 of 6 episodes judge, the others train: 4, 5"
    assert f"  held out  {split}\n" in said(["inspect", root])
    main(["train", "image-lam", root, "--out", "lam", "--steps", "6", *SMALL])
    assert f": {split}\n" in capsys.readouterr().err
    assert json.loads(Path("lam/training.json").read_text())["episodes"] == [[0, 3]]
    for words in (["evaluate", "lam", root], ["compare", root, "--models", "lam"]):
        assert "only one episode" not in said([*words, "--device", "cpu"])
    assert json.loads(Path("lam/report/report.json").read_text())["provenance"]["split"]["held_out"] == [4, 5]
    options = ["--device", "cpu", "--episodes", "5"]
    alone = " ".join(said(["compare", root, "--models", "lam", "--out", "alone", *options]).split())
    again = re.findall(r"Run: lattok compare \.\.\. (--episodes test)", alone)[0]
    assert "only one" not in said(["compare", root, "--models", "lam", "--out", "again", *again.split()])


@pytest.mark.parametrize(
    ("words", "on"),
    [
        (["--proprio", "none"], False),
        (["--proprio=off"], False),
        (["--no-proprio"], False),
        (["--proprio", "yes"], True),
        (["--proprio"], True),
    ],
)
def test_a_switch_may_be_followed_by_what_people_type(make_dataset: Callable, said: Said, words, on):
    root = str(make_dataset([12, 15, 11, 14]).root)
    said(["train", "vla", root, "--out", "p", "--preset", "scratch", "--steps", "1", "--horizon", "2", *words])
    assert json.loads(Path("p/run/recipe.json").read_text())["options"]["proprio"] is on
    assert "stray" in said(["train", "vla", root, "--out", "q", *words, "stray"], 2)


def test_states_of_several_columns_are_one_in_a_description(make_dataset: Callable, said: Said):
    root = make_dataset([12, 15, 11, 14]).root
    refused = said(["inspect", str(root), "--state-key", "eef_pos"], 2)
    assert re.search(r'in a description file: {"columns": {"NAME": \["COLUMN", "COLUMN"\]}}\.', refused)
    place = root.parent / "both.json"
    place.write_text(json.dumps({"dataset": root.name, "columns": {"both": ["observation.state", "action"]}}))
    assert "both" in said(["inspect", str(place), "--state-key", "both"])
    options = ["--preset", "scratch", "--steps", "1", "--horizon", "2", "--state-key", "both"]
    said(["train", "vla", str(place), "--out", "p", *options])
    dataset, seen = open_dataset(place), json.loads(Path("p/config.json").read_text())
    want = [dataset.columns(1, [key])[key] for key in ("observation.state", "action")]
    np.testing.assert_array_equal(dataset.columns(1, ["both"])["both"], np.concatenate(want, 1))
    assert seen["state_key"] == "both"
    assert seen["proprio_names"] == ["state_0", "state_1", "x", "y", "z"]
    first = json.loads(Path("p/run/recipe.json").read_text())["inputs"]
    place.write_text(json.dumps({"dataset": root.name, "columns": {"both": ["action", "observation.state"]}}))
    said(["train", "vla", str(place), "--out", "q", *options])
    assert json.loads(Path("q/run/recipe.json").read_text())["inputs"] != first  # a run cannot go on from other states
