"""What the closed-loop study compares: rows (how latent actions are used, with which labels), regimes and cells.

All rows of a seed share demonstrations, backbone, order of the data, steps and the start states of the rollouts; they
differ in what their row says and in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from lattok.recipes.vla import VLARecipe
from lattok.vla.config import PROMPT

WORLD = "metaworld-pairs"
DEMONSTRATIONS = 20  # of each task, from seed 0 on
NOISE = 0.3
STARTS = 40  # rollouts of each task, from seed FIRST_START on
FEW_STARTS = 10  # where the instruction is swapped or blank
STEPS: int = VLARecipe.presets["scratch"]["steps"]  # of every row
DISTIL_STEPS = 1500  # of LatBot's student, before those of every row
ACTED_SHARE = 0.5  # of a batch, where actions of some demonstrations only are known
EXECUTE = 4  # actions of a chunk that are carried out
POLICY: Mapping[str, Any] = MappingProxyType({"action_key": "expert_action", "device": "cpu"})  # over preset `scratch`
COLOURS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}
HEAVIER = {"align_weight": 0.1, "lam_weight": 1.0}  # than LARA's published .01 and .01
ON_PLACEHOLDER = {"align_on": "placeholder", "head": "regression"}  # whose state has seen no action; not LARA's
EMA = {"ema": 0.998, "schedule": "constant", "lr": 3e-4}


class Row(NamedTuple):
    """A way of training; the name of the row stands in tables."""

    title: str
    strategy: str
    labels: str | None = None  # a source of LABELS
    options: Mapping[str, Any] = MappingProxyType({})  # of the recipe
    joint: bool = False  # the model that would make the labels learns with the policy
    # a student of the model that would make the labels goes on as the policy: options of its first phase
    distilled: Mapping[str, Any] | None = None
    decoded: bool = False  # unknown actions are read from the labels, and learned from as if they were known


class Labels(NamedTuple):
    """Where labels come from."""

    title: str
    kind: str  # image-lam, a family of action tokenizers, or a control
    options: Mapping[str, Any] = MappingProxyType({})
    source: str = "video"  # or "actions"
    of: str | None = None  # the labels that a control changes


class Regime(NamedTuple):
    """How many demonstrations of each task are learned from, and of how many the actions are known."""

    title: str
    demonstrations: int | None = None  # None: all but the last, which is held out
    acting: int | None = None
    apart: int | None = None  # steps of a policy for each task, where tasks are learned apart

    def episodes(self, seed: int) -> str:
        """Return the episodes that are learned from."""
        return "train" if self.demonstrations is None else f"{self.demonstrations} per task seed {seed}"

    def acting_episodes(self, seed: int) -> str | None:
        """Return the episodes whose actions are known, None where that is all."""
        return None if self.acting is None else f"{self.acting} per task seed {seed}"

    @property
    def part(self) -> str:
        """Return what of all demonstrations models of latent actions see, in names: "", ".2" acting ones or ".few5"."""
        few = "" if self.demonstrations is None else f".few{self.demonstrations}"
        return few if self.acting is None else f"{few}.{self.acting}"


LABELS: Mapping[str, Labels] = MappingProxyType(
    {
        "lam": Labels("image LAM, some actions known", "image-lam", {"preset": "tiny+robust", "features": "pixels"}),
        "lam-blind": Labels(
            "image LAM without labels",
            "image-lam",
            {"preset": "tiny+robust+flow", "features": "pixels", "labelled_fraction": 0.0},
        ),
        "lam-shuffled": Labels("codes of another episode", "shuffled", of="lam"),
        "pixels": Labels("k-means of frame differences", "k-means"),
        "truth": Labels("k-means of the actions themselves", "truth", of="lam"),
        "teacher": Labels("LatBot's teacher", "clip-lam", {"preset": "tiny"}),
        "tokens": Labels("action tokenizer", "action-vq", {"preset": "quick"}, "actions"),
        "bins": Labels("uniform bins", "uniform-bins", source="actions"),
    }
)

ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "baseline": Row("Baseline", "baseline"),
        "la_align": Row("LA-Align", "la_align", "lam"),
        "la_direct": Row("LA-Direct", "la_direct", "lam"),
        "la_cond": Row("LA-Cond", "la_cond", "lam"),
        "la_tok": Row("LA-Tok", "la_tok", "tokens"),
        "ph_direct": Row("PH-Direct", "ph_direct", "lam"),
        "blind": Row("*control:* no instruction", "baseline", None, {"prompt": ""}),
        "shuffled": Row("*control:* LA-Direct, codes of another episode", "la_direct", "lam-shuffled"),
        "pixels": Row("*control:* LA-Direct, k-means codes", "la_direct", "pixels"),
        "la_align-shuffled": Row("*control:* LA-Align, labels of another episode", "la_align", "lam-shuffled"),
        "la_align-pixels": Row("*control:* LA-Align, k-means labels", "la_align", "pixels"),
        "la_align-truth": Row("*ceiling:* LA-Align, labels made of all actions", "la_align", "truth"),
        "la_align-blind": Row("LA-Align, LAM without labels", "la_align", "lam-blind"),
        "ph_cond": Row("PH-Cond", "ph_cond", "lam"),
        "la_align-early": Row("LA-Align, first layer", "la_align", "lam", {"layer": 1}),
        "la_align-final": Row("LA-Align, last layer", "la_align", "lam", {"layer": 1.0}),
        "la_direct_c": Row("LA-Direct(C)", "la_direct_c", "lam"),
        "la_tok_c": Row("LA-Tok(C)", "la_tok_c", "tokens"),
        "la_tok-bins": Row("LA-Tok, uniform bins", "la_tok", "bins"),
        "la_direct-blind": Row("LA-Direct, LAM without labels", "la_direct", "lam-blind"),
        "la_direct-0": Row("LA-Direct, lambda 0", "la_direct", "lam", {"latent_weight": 0.0}),
        "la_direct-1": Row("LA-Direct, lambda 1", "la_direct", "lam", {"latent_weight": 1.0}),
        "decoded": Row("Baseline, unknown actions read from labels", "baseline", "lam", decoded=True),
        "flow": Row("Baseline, flow head", "baseline", None, {"head": "flow"}),
        "longer": Row("Baseline, as many steps as LatBot in all", "baseline", None, {"steps": STEPS + DISTIL_STEPS}),
        "lara": Row("LARA, flow head", "baseline", "lam", joint=True),
        "lara-1": Row("LARA, flow head, at .1 and 1", "baseline", "lam", HEAVIER, joint=True),
        "placeholder": Row("Joint, a placeholder is aligned", "baseline", "lam", ON_PLACEHOLDER, joint=True),
        "placeholder-1": Row(
            "Joint, a placeholder is aligned, at .1 and 1", "baseline", "lam", {**ON_PLACEHOLDER, **HEAVIER}, joint=True
        ),
        "latbot": Row("LatBot, distilled", "baseline", "teacher", distilled={}),
        "latbot-whole": Row("LatBot, by whole clips alone", "baseline", "teacher", distilled={"whole_clips": True}),
        # what each part of the Baseline's recipe does: the part left out, or another choice
        "recipe-noisy": Row("executed actions, with the noise", "baseline", None, {"action_key": "action"}),
        "recipe-l2": Row("L2 loss", "baseline", None, {"action_loss": "l2"}),
        "recipe-prompt": Row("the paper's prompt", "baseline", None, {"prompt": PROMPT}),
        "recipe-constant": Row("constant learning rate", "baseline", None, {"schedule": "constant", "lr": 3e-4}),
        "recipe-no_crop": Row("no crop", "baseline", None, {"crop": 1.0}),
        "recipe-colours": Row("colours change too", "baseline", None, COLOURS),
        "recipe-no_proprio": Row("no proprio", "baseline", None, {"proprio": False}),
        "recipe-depth_4": Row("four layers", "baseline", None, {"backbone_depth": 4}),
        "recipe-half": Row("half the steps", "baseline", None, {"steps": 1500}),
        "recipe-ema": Row("averaged weights, constant rate", "baseline", None, EMA),
    }
)
REGIMES: Mapping[str, Regime] = MappingProxyType(
    {
        "plentiful": Regime("19 demonstrations a task"),
        "action-free": Regime("19 demonstrations a task, actions of 2", acting=2),
        "scarce": Regime("5 demonstrations a task", demonstrations=5),
        "few": Regime("10 demonstrations a task", demonstrations=10),
        "apart": Regime("19 demonstrations a task, a policy for each", apart=500),  # in all 4/3 of the steps, as in E.3
    }
)
CORE = ("baseline", "ph_direct", "la_align", "la_direct", "la_cond", "la_tok")
CONTROLS = ("blind", "shuffled", "pixels")
SOURCES = ("la_align-shuffled", "la_align-pixels", "la_align-truth", "la_align-blind")
FEW_ONLY = ("latbot", "latbot-whole", "longer")
FEW_SHOT = ("baseline", "la_align", "placeholder", *FEW_ONLY)
JOINT = ("flow", "lara", "lara-1")  # LARA, and the Baseline with its head
RECIPE = tuple(row for row in ROWS if row.startswith("recipe-"))


class Cell(NamedTuple):
    """One training and its rollouts."""

    regime: str
    row: str
    seed: int

    @classmethod
    def of(cls, name: str) -> Cell:
        """Return the cell of a name, such as action-free.lara.0."""
        regime, row, seed = name.split(".")
        return cls(regime, row, int(seed))

    @property
    def name(self) -> str:
        """Name of its result file."""
        return f"{self.regime}.{self.row}.{self.seed}"


def cells(regimes: Iterable[str], rows: Iterable[str], seeds: Iterable[int]) -> list[Cell]:
    """All combinations, seed by seed: whatever is finished early is a comparison of paired runs."""
    rows, regimes = list(rows), list(regimes)
    return [Cell(regime, row, seed) for seed in seeds for regime in regimes for row in rows]
