"""What other packages add is judged as ours is: each is one file that touches no name of lattok's."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lattok.data import Feature, LeRobotWriter
from lattok.evaluation import evaluate
from lattok.evaluation.evidence.policy_evidence import policy_errors
from lattok.samples.policy import PolicyWindows, WindowOptions
from lattok.types import (
    ActionTokenizer,
    Acts,
    EncodesFeatures,
    InfersActions,
    LabelsVideo,
    LatentActions,
    Policy,
    PredictsFrames,
    TokenizesActions,
    VideoLabeller,
    lacks,
)
from tests import strangers
from tests.errors import refused
from tests.evaluation.worlds import STRIDE, World
from tests.process_jobs import afresh

HERE = Path(strangers.__file__).parent
EXTEND = HERE.parents[1] / "examples" / "extend"
GROUPS = {
    "lattok.artefacts": {"quarter-flow": "quarter_flow", "quarter-idm": "quarter_idm", "glance": "glance"},
    "lattok.evidence": {"steadiness": "steadiness"},
    "lattok.questions": {"steady": "steady", "agreement": "agreement"},
}
FILES = [name for group in GROUPS.values() for name in group.values()]
MOST_LINES = 60
CAMERA = "observation.images.front"

JUDGE = """
import json, sys, lattok
from lattok.cli import main
from lattok.evaluation.evidence import probes
from quarter_flow import QuarterFlow, QuarterFlowConfig

def run(*words):
    assert main(list(map(str, words))) == 0, words
    return words[-1]

def report(folder):
    return json.loads(open(f"{folder}/report.json").read())

assert not {"steadiness", "steady", "agreement"} & set(sys.modules)
probes.STEPS = 5  # of MLPs
QuarterFlow(QuarterFlowConfig(("front",))).save_pretrained("lam")
run("annotate", "data", "--model", "lam", "--out", "labels")
run("verify", "labels", "--model", "lam")
found = report(run("evaluate", "lam", "data", "--out", "judged"))
figures, titles = found["figures"], [section["title"] for section in found["sections"]]
assert figures["r2_from_codes/codes"] > 0.4 > figures["r2_from_codes/current_frame"], figures  # it sees what changes
assert {"joint_entropy_bits/model", "r2_from_latents/latents", "r2_from_codes/flow_kmeans", "steps"} <= figures.keys()
assert not any("untrained" in name or name.startswith(("prediction", "transfer", "separation")) for name in figures)
assert "Do the latent actions say what the robot did?" in titles and titles[-1] == "Are labels steady?"
assert {verdict["key"] for verdict in found["verdicts"]} >= {"codes_against_controls", "codes_in_use", "steady"}
assert found["provenance"]["steps"] > 0
asked = found["provenance"]["not_asked"]
assert asked.keys() == {"agreement", "dependence", "distractor", "transfer"}, asked
assert asked["dependence"] == "the model has no frame_targets or predict"
assert asked["agreement"] == "the model has no explain"
page = open("judged/report.html").read()
assert all(reason in page for reason in asked.values())
run("train", "image-lam", "data", "--out", "ours", "--preset", "tiny", "--features", "pixels", "--image-size", "32",
    "--stride", "2", "--steps", "2", "--batch-size", "4", "--device", "cpu")
both = report(run("compare", "data", "--models", "lam", "ours", "--out", "both"))
assert both["figures"]["lam/r2_from_codes/codes"] == figures["r2_from_codes/codes"]
assert both["figures"]["lam/parameters"] == 0 < both["figures"]["ours/parameters"]
assert report(run("evaluate", "ours", "data", "--out", "other"))["figures"]["steps"] > 0
assert report("other")["provenance"]["not_asked"] == {"agreement": asked["agreement"]}
assert main(["evaluate", "lam", "data", "--controls", "trained", "--out", "trained"]) == 2

from quarter_idm import QuarterIDM
QuarterIDM(QuarterFlowConfig(("front",))).save_pretrained("idm")
found = report(run("evaluate", "idm", "data", "--out", "inferred"))
assert found["answer"]["question"] == "Are its actions good enough to replace unknown ones?"
assert found["figures"]["r2_actions/model"] > 0.7 > found["figures"]["r2_actions/mean"], found["figures"]
assert found["figures"]["steps"] > 0

from glance import Glance, GlanceConfig
policy = Glance(GlanceConfig(("front",), action_dim=2))
for weights in policy.parameters():
    weights.data.zero_()
policy.save_pretrained("policy")
found = report(run("evaluate", "policy", "data", "--out", "acted"))
assert found["answer"]["question"] == "Does this policy do what it is told?"
assert 0.9 < found["figures"]["action_error"] < 1.2, found["figures"]  # always 0, of actions around 0
assert main(["doctor", "policy"]) == 0
assert main(["annotate", "data", "--model", "policy", "--out", "none"]) == 2
"""


@pytest.mark.parametrize("name", FILES)
def test_each_takes_few_lines(name):
    assert len(source(name).splitlines()) <= MOST_LINES


def source(name: str) -> str:
    """The file of an addition: an example for users, or one of these tests alone."""
    return next(each for folder in (EXTEND, HERE) if (each := folder / f"{name}.py").is_file()).read_text()


def write(folder: Path, packages: dict[str, dict[str, str]]) -> Path:
    """Put packages where Python finds them as installed."""
    facts = folder / "theirs-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in packages.items()]
    (facts / "entry_points.txt").write_text("\n".join(lines))
    for name in (name for names in packages.values() for name in names.values()):
        (folder / f"{name}.py").write_text(source(name))
    return folder


def brightening(root: Path, episodes: int = 12, length: int = 24) -> None:
    """A dataset whose two actions are how the brightness of the upper left and lower right quarter changes."""
    rng = np.random.default_rng(0)
    features = {"action": Feature("float32", (2,), None), CAMERA: Feature("video", (32, 32, 3), None)}
    with LeRobotWriter.create(root, 10, features, video_codec="h264", encoder_threads=1) as writer:
        for _ in range(episodes):
            actions = rng.standard_normal((length, 2))
            bright = np.clip(128 + 10 * (np.cumsum(actions, 0) - actions), 0, 255).astype(np.uint8)
            frames = np.full((length, 32, 32, 3), 128, np.uint8)
            frames[:, :16, :16], frames[:, 16:, 16:] = (bright[:, i, None, None, None] for i in (0, 1))
            writer.add_episode({"action": actions}, {CAMERA: frames}, "brighten")


@pytest.mark.ci
def test_a_labeller_evidence_and_questions_of_other_packages_go_through_every_verb(tmp_path):
    brightening(tmp_path / "data")
    afresh(JUDGE, tmp_path, write(tmp_path / "site", GROUPS))


class Plain(VideoLabeller):
    """Not even a module: labels video by what it is told to."""

    cameras, codebook_size = ("front",), 4

    def __init__(self, **changes: Any):
        self.changes, self.calls = changes, list[Any]()

    def stride_frames(self, fps: float) -> int:
        return STRIDE

    def resize(self, frames: np.ndarray) -> np.ndarray:
        return frames

    def label_video(self, frames: Any, stride: Any = None, task: Any = None, **_: Any) -> LatentActions:  # type: ignore[override]
        self.calls.append((len(frames), stride, task))
        rows = {"codes": torch.zeros(len(frames), 2).long(), "latents": torch.zeros(len(frames), 2, 3)}
        given = {**rows, "quantized": rows["latents"], **self.changes}
        return LatentActions(**{name: each(frames) if callable(each) else each for name, each in given.items()})


def test_a_labeller_that_reads_tasks_is_told_that_of_each_frame():
    model, world = Plain(), World(episodes=3, length=12, tasks=2)
    model.reads_task = True
    report = evaluate(model, world, episodes=[1, 2], action_key=None)
    assert model.calls == [(12, STRIDE, [f"task {episode % 2}"] * 12) for episode in (0, 1, 2)]
    assert {*report.provenance["not_asked"]} == {"dependence", "distractor", "transfer"}


class Inferring(Plain):
    """Infers what it is told to."""

    def unit_frames(self, fps: float) -> int:
        return 1

    def infer_actions(self, frames: Any, unit: int, task: str = "", states: Any = None) -> Any:
        return self.changes["found"](len(frames))


class Still(Policy):
    """Does nothing, unless it is told otherwise."""

    horizon = 4

    def __init__(self, **changes: Any):
        self.changes = changes

    def predict_chunk(self, batch: Any) -> Any:
        return self.changes["act"](batch.actions * 0)


class Halves(ActionTokenizer):
    """Whether the numbers of a chunk are above zero, as 12 codes, unless it is told otherwise."""

    horizon, action_dim, vocab_size, tokens_per_chunk = 4, 3, 2, 12

    def __init__(self, **changes: Any):
        self.changes = changes

    def encode(self, chunks: Any, valid: Any = None) -> Any:
        codes = (chunks > 0).flatten(1).long()
        return self.changes["encode"](codes) if "encode" in self.changes else codes

    def decode(self, codes: Any, *, repair: bool = False) -> Any:
        chunks = codes.clamp(0, 1).view(-1, 4, 3).float() - 0.5
        return self.changes["decode"](chunks) if "decode" in self.changes else chunks

    def latent_actions(self, chunks: Any, valid: Any = None) -> Any: ...


def inferred(**fields: Any) -> Any:
    return SimpleNamespace(spread=None, **fields)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Plain(codes=lambda frames: torch.full((len(frames), 2), 4)), "of Plain, codes`: expected 0 to 3, got 4 to 4"),
        (Plain(codes=torch.zeros(3, 2).long()), "codes`: expected 12 rows, one for each frame, got 3"),
        (Plain(latents=lambda frames: torch.zeros(len(frames), 3)), r"latents`: expected shape \[T, P, d\]"),
        (Plain(codes="none"), "labels of Plain`: expected a torch tensor"),
        (Plain(latents=lambda frames: torch.full((len(frames), 2, 3), torch.nan)), "latents`: expected finite numbers"),
        (Inferring(found=lambda frames: inferred()), "actions of Inferring`: expected shape"),
        (
            Inferring(found=lambda frames: inferred(actions=np.zeros((frames, 2)))),
            "actions of Inferring`: expected shape",
        ),
        (Inferring(found=lambda frames: inferred(actions=np.full((frames, 3), np.nan))), "predictions of the actions"),
        (Halves(encode=lambda codes: codes[1:]), "codes of .*: expected [0-9]+ rows, one for each chunk"),
        (Halves(encode=lambda codes: codes + 1), "codes of .*: expected whole numbers below 2"),
        (Halves(encode=lambda codes: codes / 2), "codes of .*: expected whole numbers below 2"),
        (Halves(decode=lambda chunks: chunks[..., :2]), "chunks of .*: expected shape"),
        (Halves(decode=lambda chunks: chunks / 0), "chunks of .*: expected finite numbers"),
        (Still(act=lambda chunks: chunks[:, :1]), "the policy's actions`: expected shape"),
        (Still(act=lambda chunks: chunks / 0), "the policy's actions`: expected finite numbers"),
        (type("Wide", (Still,), {"action_dim": 4})(), "action`: expected 4 numbers in"),
        (type("Silent", (Policy,), {})(), "expected one with horizon, .* got Silent without horizon. Inherit .*Policy"),
        (type("Bare", (), {"predict_chunk": str})(), "got Bare without type. Inherit ActionTokenizer"),
        (type("Blind", (Plain,), {"cameras": property(lambda self: self.none)})(), "got Blind without cameras"),
        (type("Endless", (Halves,), {"horizon": property(lambda self: self.none)})(), "got Endless without horizon"),
    ],
)
def test_what_breaks_its_protocol_is_refused_by_name(model, says):
    refused(says, evaluate, model, World(episodes=3, length=12), episodes=[2])


def test_chunks_of_another_shape_are_no_actions_of_a_policy():
    windows = PolicyWindows(World(episodes=2, length=12), WindowOptions(4, cameras=(), size=1, state_key=None))
    said = "the policy's actions`: expected shape"
    refused(said, policy_errors, lambda batch: batch.actions[:, :1], windows, windows, "action")


def test_a_model_can_what_it_has_all_methods_for():
    half = type("Half", (), {"predict": lambda self, *_: None, "frame_targets": None})  # what nobody can call
    assert lacks(half(), PredictsFrames) == lacks(half, PredictsFrames) == ["frame_targets"]
    assert lacks(half, PredictsFrames, LabelsVideo) == ["frame_targets", "label_video", "resize", "stride_frames"]


def test_families_of_lattok_can_what_they_are_judged_for():
    from lattok.action_vq import UniformBins
    from lattok.evaluation.evidence import kinds_of
    from lattok.image_lam import ImageLAM
    from lattok.image_lam.clips import ClipLAM
    from lattok.image_lam.inverse import InverseDynamics
    from lattok.vla import LatentVLA

    kinds = {
        ImageLAM: "labels",
        ClipLAM: "labels",
        InverseDynamics: "actions",
        UniformBins: "chunks",
        LatentVLA: "policy",
    }
    assert {family: [kind.name for kind in kinds_of(family)] for family in kinds} == {k: [v] for k, v in kinds.items()}
    needs = {ImageLAM: LabelsVideo, ClipLAM: PredictsFrames, InverseDynamics: InfersActions, LatentVLA: Acts}
    assert not any(lacks(family, need) for family, need in {**needs, UniformBins: TokenizesActions}.items())
    assert lacks(ClipLAM, EncodesFeatures) == ["encode_features"]
