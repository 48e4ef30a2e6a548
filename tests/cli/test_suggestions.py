"""What a verb tells people to type next works, on the very case that it says it about."""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import lattok
from lattok.cli import VERBS, Group, demo, doctor, flags, judging, main, subjects
from lattok.data import Feature, LeRobotWriter, RobotDataset, open_dataset, problems
from lattok.evaluation.evidence import EVIDENCE, Case, EvalOptions
from lattok.evaluation.evidence.action_evidence import ActionEvidence
from lattok.evaluation.evidence.latent_evidence import LatentEvidence
from lattok.evaluation.evidence.policy_evidence import PolicyEvidence
from lattok.evaluation.questions import ALONE, NOT_RUN, UNCLEAR, Subject, criteria, train_one
from lattok.evaluation.questions.history import hold_out_more
from lattok.utils.commands import DATASET, MODEL, Advice, command, in_a_row
from lattok.utils.findings import Problem, lines
from tests.annotation.test_fill import write as write_filled
from tests.annotation.test_fill import write_parts
from tests.conftest import moving_square, put_video
from tests.evaluation.conftest import short_mlps as short_mlps
from tests.recipes.policies import TINY

SMALL = ["--preset", "tiny+robust", "--features", "pixels", "--image-size", "32", "--stride", "2", "--width", "16"]
SMALL += ["--heads", "2", "--latent-dim", "8", "--codebook-size", "4", "--batch-size", "6", "--labelled-per-batch", "2"]
SMALL += ["--device", "cpu"]
pytestmark = pytest.mark.usefixtures("short_mlps")
Said = Callable[..., str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """Run a command in an empty folder; return what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "PROBES", ())  # of the machine

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


def plain(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(text.split())


COMMAND = re.compile(
    r"(^|[`:] ?|[Rr]un )?lattok ([a-z][a-z-]*)((?: (?:--[a-z-]+|[A-Z]+|\{\w*\}|[a-z0-9-]+|\.\.\.)(?![\w/]))*)"
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
    assert complete > 5


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """What the command line makes of a command, without running it."""
    verb, rest = VERBS[words[0]], [*words[1:]]
    if isinstance(verb, Group):
        verb = verb.find(rest[0], rest[1:])
        rest = rest[1:]
    return flags.read(f"lattok {words[0]}", verb.words, rest)


def advices() -> Iterator[Advice]:
    """All that evaluations advise, of every kind of model."""
    yield from (NOT_RUN, ALONE, UNCLEAR)
    yield from (kind.cls.use for kind in EVIDENCE.values())
    for about in criteria().values():
        yield from (about.advice, about.elsewhere, about.undecided, train_one(about.recipe))


def test_the_command_line_reads_every_command_that_is_advised():
    found = {each: advice for advice in advices() for each in advice.commands}
    assert {each.verb for each in found} >= {"annotate", "compare", "evaluate", "rollout", "train", "view"}
    for each in found:
        assert parsed([each.verb, *each.words]), each
    places = {MODEL: "my lam", DATASET: "a 'set'; rm -rf"}
    for each in found:
        words = shlex.split(str(each.filled(places)))[1:]
        values = [str(value) for value in parsed(words).values()]
        assert MODEL not in words
        assert DATASET not in words
        assert any("my lam" in value or "a 'set'" in value for value in values)


@pytest.mark.parametrize("module", [doctor, subjects, problems])
def test_the_command_line_reads_the_commands_of_findings(module: Any):
    kept = [each for each in vars(module).values() if isinstance(each, Problem) and each.command is not None]
    assert kept or module is doctor
    for each in kept:
        facts = dict.fromkeys(re.findall(r"{(\w+)", f"{each}"), 1)
        facts |= {"kind": "image-lam", "dataset": "my data", "out": "new", "model": "my lam"}
        (found,) = each.finding(**facts).commands
        assert parsed(shlex.split(str(found))[1:]), found
        assert [*lines([each.finding(**facts)])][-1].strip() == str(found)  # in a line of its own, to be copied


def test_rollouts_are_proposed_only_in_tasks_with_the_policys_cameras():
    pytest.importorskip("metaworld")
    policy: Any = lattok.load("sample/policy")
    assert judging.tasks_of(policy)
    policy.config = replace(policy.config, cameras=tuple(f"{key}.mine" for key in policy.config.cameras))
    assert judging.tasks_of(policy) == []


def test_every_option_that_is_advised_is_one_of_a_recipe_or_a_verb():
    train: Any = VERBS["train"]
    known = {word.name for kind in train.names() for word in train.find(kind, ()).words}
    for advice in advices():
        filled = Subject(trained=True).fill(advice)
        assert {name.rstrip("_") for name, _ in filled.options} <= known, advice
        assert "{" not in filled.said()
        assert not re.search(r"\w=\w", filled.said(typed=True)), advice


@pytest.mark.ci
def test_what_annotate_says_of_films_alone_is_pretrained_and_trained_further(videos: str, said: Said, make_dataset):
    said(["train", "image-lam", videos, "--out", "lam", "--labelled-fraction", "0", "--steps", "6", *SMALL])
    labelled = said(["annotate", videos, "--model", "lam", "--out", "labels", "--device", "cpu"])
    pretrained = said([*shlex.split(after("Pre-train a policy", labelled)), *TINY[2:]])
    further = shlex.split(pretrained.splitlines()[-1].partition("actions: ")[2])
    robot = str(make_dataset([12, 15, 11, 14]).root)
    words = [robot if word == "DATASET" else word for word in further]
    assert "Choose --cameras front, or" in said([*words, *TINY[2:]], 2)
    words[words.index("--out") + 1] = "acting"
    said([*words, *TINY[2:], "--cameras", "front"])
    assert lattok.LatentVLA.from_pretrained("acting").config.strategy.acts


def test_unknown_actions_that_are_none_lead_to_a_copy_with_some(said: Said, make_dataset: Callable, capsys):
    robot = str(make_dataset([12, 15, 11, 14]).root)
    small = ["--image-size", "16", "--steps", "2", "--batch-size", "4", "--device", "cpu"]
    said(["train", "idm", robot, "--out", "idm", "--preset", "tiny", *small])
    refused = said(["annotate", robot, "--model", "idm", "--as", "actions", "--out", "filled"], 2)
    (hide,) = re.findall(r"lattok hide .*? --out few --keep '\d per task'", refused)
    assert "hidden in" in said(hide)
    said(re.findall(r"It holds a whole dataset: (lattok inspect few)", said(hide, 2))[0])
    said(["annotate", "few", "--model", "idm", "--as", "actions", "--out", "filled"])
    assert "lattok train idm sample/dataset --out my-idm" in said("evaluate idm sample/dataset --any-rate", 2)
    assert main(["train", "vla", "few", "--out", "p", "--episodes", "0:", *TINY]) == 0
    assert "teach nothing. Infer it first: lattok train idm few --out my-idm" in plain(capsys.readouterr().err)


def test_what_leaves_no_episode_is_no_repair(said: Said, make_dataset: Callable, capsys):
    root = make_dataset([12, 15]).root
    for film in root.rglob("*.mp4"):
        film.write_bytes(film.read_bytes()[:300])
    assert main(["inspect", str(root)]) == 1
    assert "lattok repair" not in capsys.readouterr().out
    said(["repair", str(root), "--out", "repaired"], 2)


def test_films_without_numbers_are_filled_though_others_have_a_state(said: Said):
    rng = np.random.default_rng(0)
    for number in range(5):
        put_video(Path("films", f"{number}.mp4"), moving_square(rng, 12), 10)
        if number < 4:
            state = rng.standard_normal((13, 2)).cumsum(0)
            np.savez(f"films/{number}.npz", action=state[1:], state=state[:-1])  # commands: where to be next
    small = ["--image-size", "16", "--steps", "2", "--batch-size", "4", "--device", "cpu"]
    train = re.findall("lattok (train idm films.*)", said(["inspect", "films"]))[0].split()  # actions lie beside them
    assert "unknown in 1 of 5" in said(after("Then fill in unknown actions with it", said([*train, *small])))
    assert "`state_key`: films has no 'observation.state'" in said([*train[:4], "other", "--from", "proprio"], 2)
    trained = said(["train", "idm", "films", "--format", "npz", "--out", "idm", "--preset", "tiny", *small])
    fill = after("Then fill in the actions of all films with it", trained)
    assert "unknown in 1 of 5" in said(fill)  # the others have their own beside them
    said(["train", "idm", "films", "--format", "npz", "--out", "map", "--from", "proprio"])
    assert "Add --no-add-state to `lattok train idm`" in plain(said(fill.replace(" idm ", " map ") + "-2", 2))


def test_of_several_datasets_the_one_with_unknown_actions_is_filled(said: Said, tmp_path: Path):
    write_filled(tmp_path / "whole", known={0, 1, 2, 3})
    write_filled(tmp_path / "few")
    small = ["--image-size", "16", "--channels", "8", "--steps", "1", "--batch-size", "8", "--device", "cpu"]
    trained = said(["train", "idm", "whole", "few", "--out", "m", "--preset", "tiny", "--members", "1", *small])
    assert "unknown in 2 of 4" in said(after("Then fill in unknown actions with it", trained))
    lam = ["--model", "m", "--out"]
    assert "lattok annotate whole --model m --out my-labels" in said(["label", "whole/videos", *lam, "x.html"], 2)


def test_what_a_slow_dataset_and_a_head_of_tokens_need_is_typed(said: Said, make_dataset: Callable):
    robot = str(make_dataset([12, 15, 11, 14]).root)  # 10 frames a second, of which 0.2 s are two
    clips = ["train", "clip-lam", robot, "--out", "clips", "--preset", "tiny", "--steps", "1", "--batch-size", "4"]
    (stride, frames) = re.findall(r"--(?:stride|frames) \d", said(clips, 2))
    assert (stride, frames) == ("--stride 3", "--frames 3")
    said([*clips, *stride.split()])
    said([*clips[:3], "--out", "shorter", *clips[5:], *frames.split()])
    policy = ["train", "vla", robot, "--out", "p", "--head", "tokens", *TINY]
    del policy[(at := policy.index("--horizon")) : at + 2]  # which is the tokenizer's
    refused = said(policy, 2)
    said(re.findall(r"lattok train beast .*? --out my-tokenizer", refused)[0])
    said([*policy, *re.findall(r"--tokenizer my-tokenizer", refused)[0].split()])


def test_what_is_refused_says_what_is_typed(videos: str, said: Said, make_dataset: Callable):
    robot = str(make_dataset([12, 15, 11, 14]).root)
    said(["train", "uniform-bins", robot, "--out", "bins", "--horizon", "4"])
    assert "`action_key`" in (found := said(["annotate", videos, "--model", "bins", "--out", "codes"], 2))
    assert "lattok train image-lam" in found
    assert "Such as --models sample/lam." in said(["compare", robot], 2)
    said(["train", "image-lam", videos, "--out", "lam", "--labelled-fraction", "0", "--steps", "2", *SMALL])
    annotate = said(["label", videos, "--model", "lam"], 2).partition("All that is in it: ")[2]
    assert "Did you mean vids/a.mp4?" in said("label a.mp4 --model lam", 2)
    put_video(Path(videos, "d.mp4"), moving_square(np.random.default_rng(1), 14)[:, :-2], 10)
    assert "cameras=" not in (refused := said(["evaluate", "sample/lam", videos], 2))
    assert "Such as --cameras video." in refused
    labelled = said(shlex.split(annotate.rstrip(". \n")))
    said(f"{after('Join them', labelled)} --video-codec h264")  # of one size, as LeRobot's are
    assert open_dataset("joined").features["observation.images.video"].shape[0] % 2 == 0
    refused = said(["try", "few-actions", videos], 2)
    assert "`action_key`" in refused
    assert not Path("few-actions/all").exists()


def test_video_without_actions_is_trained_judged_labelled_and_looked_at(videos: str, said: Said):
    trained = said(["train", "image-lam", videos, "--out", "lam", "--labelled-fraction", "0", "--steps", "6", *SMALL])
    judge = after("Evaluate it", trained)
    assert judge == "lattok evaluate lam vids"
    report = said(f"{judge} --device cpu")
    assert report.endswith("Report: lam/report/report.html\n")
    page = Path("lam/report/report.html").read_text()
    (advice,) = set(re.findall(r"(lattok evaluate lam vids --controls trained)<", page))
    assert f"\n    {advice}\n" in report
    again = said(f"{advice} --device cpu")
    assert "needs trained controls" not in again
    elsewhere = said(f"{judge} --device cpu --out 'my report'")
    (advice,) = set(re.findall(r"(lattok evaluate lam vids --controls trained --out .*)\n", elsewhere))
    assert "Report, in place of the last one: my report/report.html" in said(f"{advice} --device cpu")
    said(f"{judge} --device cpu --action-key none --state-key None --out other")
    assert json.loads(Path("other/report.json").read_text())["provenance"]["options"]["action_key"] is None

    refused = said("compare vids --models lam --device cpu", 2)
    assert "`action_key`: expected a column of actions: they are what labels are compared by, got 'action'" in refused
    labelled = said("annotate vids --model lam --out labels --device cpu")
    verify, look = after("Check them", labelled), after("Look at them", labelled)
    assert verify == "lattok verify labels --model lam"
    assert "rows equal" in said(verify)
    assert "Page: view.html" in said(f"{look} --out view.html")
    assert "Page, in place of the last one: view.html" in said(f"{look} --out view.html")
    Path("elsewhere").mkdir()
    moved = Path("labels").rename("elsewhere/labels")  # their dataset is not where they look for it
    for verb, rest in {"verify": "--model lam", "view": "--out view.html"}.items():
        (both,) = re.findall(
            r"Say where it is: lattok inspect (DATASET --labels \S+)", said(f"{verb} {moved} {rest}", 2)
        )
        said(f"{verb} {both.replace('DATASET', videos)} {rest}")
    moved.rename("labels")
    said(f"{after('Join them', labelled)} --video-codec h264")
    assert {"latent.codes", "observation.images.video"} <= open_dataset("joined").features.keys()
    assert after("Pre-train a policy", labelled) in said("inspect labels")
    assert "Train a policy on it:" not in said("inspect vids")
    said("verify vids --model lam", 2)
    said("annotate labels --model lam --prefix more --out second --device cpu")  # of a labelled dataset again
    Path("both.json").write_text(json.dumps({"dataset": "vids", "labels": ["labels"], "name": "vids"}))
    for place in ("second", "both.json --labels second"):
        said(f"verify {place} --prefix latent more --model lam lam")
    said("inspect vids --labels labels second")
    said("verify vids --labels labels labels --model lam", 2)  # twice the same
    said(["annotate", "vids", "--model", "lam", "--out", "of video", "--device", "cpu"])
    (join,) = re.findall(r"lattok export .*? --out joined", doctored("of video"))
    said(f"{join.replace('DATASET', videos).replace('joined', 'both')} --video-codec h264")
    assert "latent.codes" in open_dataset("both").features
    Path("of video/meta/source.json").unlink()  # as lattok wrote labels before
    (both,) = re.findall(r"both: lattok inspect (DATASET --labels .*of video')", said(["view", "of video"], 2))
    said(f"view {both.replace('DATASET', videos)} --out view.html")


def test_labels_of_a_lerobot_dataset_are_checked_as_annotate_says(make_dataset: Callable, said: Said):
    dataset = make_dataset([12, 15, 11, 14])
    said(["train", "image-lam", str(dataset.root), "--out", "my lam", "--steps", "6", *SMALL])
    labelled = said(["annotate", str(dataset.root), "--model", "my lam", "--out", "with labels", "--device", "cpu"])
    assert after("Check them", labelled) == "lattok verify 'with labels' --model 'my lam'"
    assert "rows equal" in said(after("Check them", labelled))
    assert "Page" in said(after("Look at them", labelled) + " --out view.html")
    learn = after("Train a policy", labelled)
    assert learn.endswith("'with labels' --out my-policy --backbone scratch --strategy la_direct")
    said([*shlex.split(learn), *TINY[2:]])
    (judge,) = set(re.findall(rf"lattok evaluate 'my lam' {dataset.root}", doctored("my lam")))
    said(f"{judge} --device cpu")
    assert "never evaluated" not in doctored("my lam")
    label = in_a_row(LatentEvidence.use.commands)
    for name, place in {"DATASET": str(dataset.root), "MODEL": "'my lam'"}.items():
        label = label.replace(name, place)
    assert "Annotated dataset: " in said(label)

    labels = Path("with labels/meta/lattok.json")
    made = json.loads(labels.read_text())
    made["latent"]["dataset"]["episodes"] += 1
    labels.write_text(json.dumps(made))
    (check,) = re.findall(r"Check it: (lattok verify .* --model MODEL)", doctored("with labels"))
    said(check.replace("MODEL", "'my lam'"), 1)  # an episode that was labelled is missing


def doctored(subject: str) -> str:
    """What the doctor says of it, in one line."""
    return " ".join(doctor.diagnose([subject]).render().split())


def test_a_policy_without_labels_is_told_to_write_them(make_dataset: Callable, said: Said):
    root = str(make_dataset([12, 15, 11, 14]).root)
    train = ["train", "vla", "--out", "p", "--strategy", "la_direct", *TINY]
    (label,) = re.findall(r"(lattok annotate DATASET --model LAM .* --out DIR)", said([*train, root], 2))
    said(["train", "image-lam", root, "--out", "lam", "--steps", "6", *SMALL])
    for name, place in {"DATASET": root, "LAM": "lam", "DIR": "labelled"}.items():
        label = label.replace(name, place)
    said(f"{label} --device cpu")
    assert "Held-out episodes: error" in said([*train, "labelled"])


def test_the_demo_ends_with_commands_that_run_as_they_stand(make_dataset: Callable, said: Said, capsys):
    root = str(make_dataset([12, 15, 11, 14]).root)
    said(["train", "image-lam", root, "--out", "lam", "--steps", "6", *SMALL])
    said(
        [
            "annotate",
            root,
            "--model",
            "lam",
            "lam",
            "--prefix",
            "latent",
            "tokens",
            "--out",
            "demo/dataset",
            *SMALL[-2:],
        ]
    )
    demo._what_next(Path("demo"))
    learn, look = re.findall(r"^  (lattok .*)$", capsys.readouterr().out, re.MULTILINE)
    use_it(said([*shlex.split(learn), *TINY[2:]]), open_dataset("demo/dataset"))
    assert "LA-Direct" in Path("demo/policy/README.md").read_text()
    assert "lattok train" in said(shlex.split(look.replace("DATASET", root)))


def use_it(printed: str, dataset: RobotDataset) -> None:
    """Run the line for Python that training a policy ends with."""
    (line,) = re.findall("Use it: (policy = .*)", printed)
    frames = dataset.frames(0, indices=[0])[0]
    seen: dict[str, Any] = {key: torch.from_numpy(frames[None, i]) for i, key in enumerate(dataset.cameras)}
    state = dataset.columns(0, ["observation.state"])["observation.state"][:1]
    seen["observation.state"] = torch.from_numpy(state.reshape(1, -1))
    found: dict[str, Any] = {"lattok": lattok, "observation": seen | {"task": [dataset.episodes[0].tasks[0]]}}
    exec(line.replace("; policy.select", "; done = policy.select"), found)
    assert found["done"].shape == (1, dataset.features["action"].shape[0])


@pytest.mark.ci
def test_a_policy_is_judged_and_acts_as_its_report_says(said: Said, tmp_path: Path, monkeypatch):
    """From demonstrations of a world that needs no simulator, which processes find as that of another package."""
    pytest.importorskip("gymnasium")
    facts = tmp_path / "site/toy-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[lattok.worlds]\ntoy = tests.sim.toy\n")
    monkeypatch.syspath_prepend(facts.parent)
    from lattok.sim.worlds import WORLDS

    theirs = {entry.name: entry for entry in entry_points(group="lattok.worlds")}
    monkeypatch.setitem(vars(WORLDS), "_theirs", theirs)  # another test may have looked worlds up before
    collected = said("collect toy --out shown --episodes 3 --size 32 --codec h264 --workers 1")
    (shown,) = re.findall(r"Collected 6 episodes, \d+ frames: (.*)", collected)
    assert "6 episodes" in said(["inspect", shown])
    use_it(said(["train", "vla", shown, "--out", "my policy", *TINY]), open_dataset(shown))
    assert "Report: " in said(["evaluate", "my policy", shown])
    report = json.loads(Path("my policy/report/report.json").read_text())
    texts = (str(PolicyEvidence.use), report["answer"]["text"])
    acts = {re.sub("POLICY|MODEL", "'my policy'", text) for text in texts}
    commands = {found for text in acts for found in re.findall(r"Let it act[^:]*: (lattok [^.]*)", text)}
    assert commands, report["answer"]
    for each in commands:
        few = ["--env-episodes", "1"] if " evaluate " in each else ["--episodes", "1"]
        assert "toy/left" in said([*shlex.split(each.replace("TASKS", "toy").replace("DATASET", shown)), *few])


@pytest.mark.ci
def test_one_task_is_split_alike_by_inspect_train_and_evaluate(make_dataset: Callable, said: Said, capsys):
    root = str(make_dataset([14, 15, 13, 14, 16, 12, 14, 13] * 2, tasks=("lift",)).root)
    split = "5 of 16 episodes for evaluation (11, 12, 13, 14 and 1 more), the others for training"
    assert f" held out {split} " in " ".join(said(["inspect", root]).split())
    main(["train", "image-lam", root, "--out", "lam", "--steps", "6", *SMALL])
    assert f": {split}\n" in capsys.readouterr().err
    assert json.loads(Path("lam/training.json").read_text())["episodes"] == [[0, 10]]
    for words in (["evaluate", "lam", root], ["compare", root, "--models", "lam"]):
        assert "interval (R²" not in plain(said([*words, "--device", "cpu"]))
    assert json.loads(Path("lam/report/report.json").read_text())["provenance"]["split"]["held_out"] == [*range(11, 16)]
    options = ["--device", "cpu", "--episodes", "15"]
    verb = ["compare", root, "--models", "lam"]
    alone = plain(said([*verb, "--out", "alone", *options]))
    assert "only one episode was held out, and fewer than five episodes have no interval" in alone
    again = re.findall("Run: (lattok compare .*?) Of the", alone)[0]
    assert shlex.split(again) == ["lattok", *verb]
    assert "held out, and fewer" not in plain(said(f"{again} --out again --device cpu"))


def test_a_model_that_saw_all_episodes_is_trained_again_as_it_was(make_dataset: Callable, said: Said):
    """With its own options, and judged by those left out, with the options of the case."""
    root = str(make_dataset([14] * 15, tasks=("lift",)).root)
    train = ["train", "image-lam", root, "--out", "my lam", "--steps", "6", "--episodes", "0:", "--action-key"]
    trained = said([*train, "observation.state", *SMALL])
    judge = after("Evaluate it", trained)
    assert shlex.split(judge)[2:] == ["my lam", root, "--action-key", "observation.state"]
    model = lattok.load("my lam")
    dataset = open_dataset(root)
    case = Case(model, dataset, EvalOptions(episodes="14").split(dataset), EvalOptions(action_key="observation.state"))
    judge = command("evaluate", MODEL, DATASET)
    first, then = map(str, hold_out_more([case], lambda found: case.fill(judge, found[0])).commands)
    said(f"{first} --steps 6")
    assert json.loads(Path("my lam-again/training.json").read_text())["episodes"] == [[0, 9]]
    assert json.loads(Path("my lam-again/run/recipe.json").read_text())["options"]["action_key"] == "observation.state"
    assert shlex.split(then) == ["lattok", "evaluate", "my lam-again", root, "--action-key", "observation.state"]


def test_few_episodes_are_told_what_to_record(make_dataset: Callable, said: Said):
    root = str(make_dataset([14, 15, 13, 14, 16, 12], tasks=("lift",)).root)
    few = "2 of 6 episodes for evaluation (4, 5), the others for training; too few for intervals: record 15 episodes"
    assert few.replace(";", "") in plain(said(["inspect", root]))
    said(["train", "image-lam", root, "--out", "lam", "--steps", "6", *SMALL])
    report = plain(said(["compare", root, "--models", "lam", "--device", "cpu"]))
    assert "Unclear: only 2 episodes were held out, and fewer than five episodes have no interval" in report
    assert "Record 15 episodes or more, of which 5 are held out: you have 6." in report


def test_all_that_a_model_has_not_seen_may_judge_it(make_dataset: Callable, said: Said):
    root = str(make_dataset([12, 15, 11, 14, 12, 13]).root)
    trained = said(["train", "image-lam", root, "--out", "lam", "--episodes", "1:3", "--steps", "6", *SMALL])
    judge = after("Evaluate it", trained)
    assert judge == f"lattok evaluate lam {root} --episodes 0,3:6"
    said(f"{judge} --device cpu")
    assert "4 held-out episodes; 2 others for probes" in Path("lam/report/report.html").read_text()


def test_what_nobody_knows_judges_no_actions(said: Said, tmp_path: Path):
    root = str(write_filled(tmp_path / "data", {0, 1, 3}))
    small = "--preset tiny --steps 2 --batch-size 4 --image-size 32 --channels 8 8 --device cpu"
    for given in ("0:1,3:4", "0,3"):
        trained = said(f"train idm {root} --out idm{len(given)} --episodes {given} {small}")
        assert after("Evaluate it", trained) == f"lattok evaluate idm{len(given)} {root} --episodes 1"
    assert "Unclear" in said(f"{after('Evaluate it', trained)} --device cpu")


def test_where_all_known_episodes_teach_one_is_left_out_to_judge(make_dataset: Callable, said: Said):
    root = str(make_dataset([12, 15, 11, 14, 12, 13, 12, 11, 13]).root)
    said(f"hide {root} --keep 0,1,2 --out few")
    small = "--preset tiny --steps 2 --batch-size 4 --image-size 32 --channels 8 8 --device cpu"
    for kind, options in (("idm", small), ("idm", "--from proprio"), ("uniform-bins", "--horizon 4")):
        trained = said(f"train {kind} few --out model {options}")
        again, judge = after("Leave one of 3 out to see", trained), after("Then evaluate it", trained)
        assert judge == "lattok evaluate model-judged few --episodes 2"
        assert said(again).count(f"Evaluate it: {judge}\n") == 1
        assert "Report: " in said(f"{judge} --device cpu")
        for name in ("model", "model-judged"):
            shutil.rmtree(name)
    trained = said(["train", "image-lam", "few", "--out", "lam", "--steps", "6", *SMALL])
    said(f"{after('Evaluate it', trained)} --device cpu")
    said(f"hide {root} --keep 0,1 --out fewer")
    assert "2 known ones cannot be spared" in said(f"train idm fewer --out model {small}")


def test_labels_under_the_only_prefix_are_verified(said: Said, tmp_path: Path):
    root = str(write_filled(tmp_path / "data"))
    said(f"train idm {root} --from proprio --out model")
    said(f"annotate {root} --model model --as actions --out filled")
    assert said("verify filled --model model").startswith("inferred:")


def test_inspect_names_an_inverse_model_where_it_can_learn(said: Said, tmp_path: Path):
    assert "train image-lam " in (none := said(["inspect", str(write_filled(tmp_path / "none", set()))]))
    assert "--labelled-fraction 0" in none
    features = {key: Feature("float32", (3,), None) for key in ("action", "action_expert")}
    root = str(write_parts(tmp_path / "two", known=["action"], **features))
    blind = str(write_parts(tmp_path / "blind", cameras=False, action=features["action"]))
    assert " action-vq " in (train := said(["inspect", blind]))
    assert train.strip().endswith("--episodes 0,3")
    for key, found in (("action", "image-lam"), ("action_expert", "idm")):
        assert f"lattok train {found} " in said(["inspect", root, "--action-key", key])


def test_a_model_of_video_learns_where_some_actions_are_unknown(said: Said, tmp_path: Path):
    root = str(write_filled(tmp_path / "data"))  # NaN in two of four episodes
    inspected = said(["inspect", root])
    (train,) = re.findall("lattok train .*", inspected)
    trained = said(f"{train} --steps 2 --batch-size 4 --image-size 32 --channels 8 8 --device cpu")
    assert after("Evaluate it", trained) == f"lattok evaluate my-model {root}"
    fill = after("Then fill in unknown actions with it", trained)
    assert fill == f"lattok annotate {root} --model my-model --as actions --out filled"
    filled_in = said(fill)
    assert "unknown in 2 of 4" in filled_in
    said([*shlex.split(after("Train a policy", filled_in)), *TINY[2:]])
    again = f"{train.replace(root, 'filled').replace('my-model', 'again')} --steps 2 --batch-size 4 --image-size 32"
    assert "Then fill in" not in said(f"{again} --channels 8 8 --device cpu")  # which has been done
    filled, given = open_dataset("filled"), EvalOptions()
    use = Case(lattok.load("again"), filled, given.split(filled), given).filled(ActionEvidence.use)
    assert str(use) == "Fill in unknown actions: annotate the dataset that this one was made from."
    trained = said(["train", "image-lam", root, "--out", "lam", "--steps", "6", *SMALL])
    assert after("Evaluate it", trained) == f"lattok evaluate lam {root}"


def test_commands_keep_columns_and_cameras(make_dataset: Callable, said: Said):
    """Of a good model as of a bad one: what to do next names both and keeps the flags of the case."""
    dataset = make_dataset([14] * 4)
    given = EvalOptions(action_key="observation.state", state_key=None, cameras=["front"], max_episodes=10)
    config = SimpleNamespace(action_key="expert")
    case = Case(SimpleNamespace(address="my lam", config=config), dataset, given.split(dataset), given)
    use = shlex.split(in_a_row(case.filled(LatentEvidence.use).commands))
    root = dataset.address
    keys = ["--action-key", "observation.state"]
    assert use == ["lattok", "annotate", root, "--model", "my lam", *keys, "--cameras", "front", "--out", "labelled"]
    judge = shlex.split(str(case.fill(command("evaluate", MODEL, DATASET))))
    others = ["--state-key", "none", "--max-episodes", "10", "--cameras", "front"]
    assert judge == ["lattok", "evaluate", "my lam", root, *keys, *others]
    plainly = Case(case.model, dataset, case.split, EvalOptions())
    assert "--action-key expert --as actions" in str(plainly.filled(ActionEvidence.use))
    for chosen, typed in (("2:4", "2:4"), ([1, 3], "1,3")):
        again = Case(case.model, dataset, case.split, EvalOptions(episodes=chosen)).filled(NOT_RUN)
        assert (
            str(again)
            == f"Train the controls too: lattok evaluate 'my lam' {root} --episodes {typed} --controls trained"
        )
    dataset.features["latent.codes"] = dataset.features["latent2.valid"] = Feature("int64", (4,), None)
    assert " --prefix latent3 --out labelled" in str(plainly.filled(LatentEvidence.use))
    assert "--prefix" not in str(plainly.filled(ActionEvidence.use))


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
    assert "needs a value after =" in said(["train", "vla", root, "--out", "q", "--proprio="], 2)


PARTS = {
    "action": ["action.position", "action.gripper"],
    "observation.state": ["observation.position", "observation.gripper"],
}


@pytest.fixture
def parts(tmp_path: Path) -> str:
    """A dataset whose actions and states are two columns each."""
    rng = np.random.default_rng(0)
    vectors = {key: 1 + key.endswith("position") for key in chain(*PARTS.values())}
    features = {key: Feature("float32", (size,), None) for key, size in vectors.items()}
    features["observation.images.front"] = Feature("image", (32, 32, 3), None)
    with LeRobotWriter.create(tmp_path / "arm", 10, features) as writer:
        for _ in range(4):
            columns = {key: rng.standard_normal((12, size)) for key, size in vectors.items()}
            writer.add_episode(columns, {"observation.images.front": moving_square(rng, 12)}, "lift")
    return "arm"


def test_a_mistyped_column_is_recognised(make_dataset: Callable, videos: str, said: Said):
    root = str(make_dataset([12, 15, 11, 14]).root)
    for words in (["inspect", root], ["train", "image-lam", root, "--out", "lam", *SMALL]):
        refused = said([*words, "--action-key", "actoin"], 2)
        assert re.search(r"`action_key`: expected one of action, .*, got 'actoin'\. Did you mean action\?", refused)
    assert "Nothing found" in said(["inspect", root, "--action-key", "none", "--state-key", "None"])
    refused = said(["train", "image-lam", videos, "--out", "lam", "--steps", "6", *SMALL], 2)
    assert refused.endswith("Video without actions needs --labelled-fraction 0.\n")


def test_one_video_is_said_to_leave_none_to_judge_by(videos: str, said: Said, capsys):
    another = Path(videos, "b.mp4").read_bytes()
    for name in "bc":
        Path(videos, f"{name}.mp4").unlink()
    inspected = said(["inspect", videos])
    assert (
        "held out  0 of 1 episode for evaluation, all for training\n            better: record more, or cut the video:"
        in inspected
    )
    train = re.findall("(lattok train .*)", inspected)[0]
    assert shlex.split(train)[-5:] == ["tiny+robust+flow", "--features", "pixels", "--labelled-fraction", "0"]
    trained = said([*shlex.split(train), "--steps", "6"])
    assert "No episode is held out to evaluate it on: record more, or cut the video:" in trained
    assert "lattok evaluate" not in trained
    labelled = said(after("Label with it", trained))
    joined = after("Join them", labelled)  # as videos, whose frames are others
    said(joined)
    (train,) = re.findall("lattok train image-lam .*", said(["inspect", "joined"]))
    again = after("Label with it", said(f"{train} --steps 6"))  # beside the labels that are there
    assert again.endswith(" --prefix latent2")
    assert "Check them" in said(again)
    assert main(["verify", "joined", "--model", "my-lam"]) == 1
    assert "Verify them with what was labelled: lattok verify DATASET --labels" in capsys.readouterr().out
    assert "None can be held out: record more, or cut the video: two" in said(["evaluate", "my-lam", videos], 2)
    Path(videos, "again.mp4").write_bytes(Path(videos, "a.mp4").read_bytes())
    why = "None can be held out: 2 of 2 episodes equal each other (0 = 1); record more, or cut the video: two"
    assert why in said(["evaluate", "my-lam", videos], 2)
    Path(videos, "again.mp4").write_bytes(another)
    assert "Report" in said(["evaluate", "my-lam", videos, "--device", "cpu"])


def test_what_inspect_finds_wrong_is_its_exit_code_and_paths_stay_whole(make_dataset: Callable, said: Said):
    dataset = make_dataset([12, 15])
    assert "error" not in said(["inspect", str(dataset.root)])
    path = dataset.video_span(0, dataset.cameras[0])[0]
    path.unlink()
    assert main(["inspect", str(dataset.root)]) == 1
    assert str(path) in doctor.diagnose([str(dataset.root)]).render()


def test_states_of_several_columns_are_one_in_a_description(make_dataset: Callable, said: Said):
    root = make_dataset([12, 15, 11, 14]).root
    place = root.parent / "both.json"
    place.write_text(json.dumps({"dataset": root.name, "columns": {"both": ["observation.state", "action"]}}))
    assert "both" in said(["inspect", str(place), "--state-key", "both"])
    options = ["--preset", "scratch", "--steps", "1", "--horizon", "2", "--state-key", "both"]
    said(["train", "vla", str(place), "--out", "p", *options])
    said(["train", "vla", "--config", "p/run/recipe.json", "--out", "same"])  # which names dataset and preset
    recipes = [json.loads(Path(out, "run/recipe.json").read_text()) for out in ("p", "same")]
    assert recipes[0] == recipes[1]
    Path("own.json").write_text(json.dumps({"dataset": str(place), "preset": "scratch", "steps": 1, "horizon": 2}))
    said(["train", "vla", "--config", "own.json", "--state-key", "both", "--out", "plain"])
    assert json.loads(Path("plain/run/recipe.json").read_text()) == recipes[0]
    Path("own.json").write_text(json.dumps({"options": {"dataset": "x"}}))
    assert "got 'dataset'. Type it" in said(["train", "vla", str(place), "--config", "own.json", "--out", "no"], 2)
    dataset, seen = open_dataset(place), json.loads(Path("p/config.json").read_text())
    want = [dataset.columns(1, [key])[key] for key in ("observation.state", "action")]
    np.testing.assert_array_equal(dataset.columns(1, ["both"])["both"], np.concatenate(want, 1))
    assert seen["state_key"] == "both"
    assert seen["proprio_names"] == ["state_0", "state_1", "x", "y", "z"]
    first = json.loads(Path("p/run/recipe.json").read_text())["inputs"]
    place.write_text(json.dumps({"dataset": root.name, "columns": {"both": ["action", "observation.state"]}}))
    said(["train", "vla", str(place), "--out", "q", *options])
    assert json.loads(Path("q/run/recipe.json").read_text())["inputs"] != first  # a run cannot go on from other states
