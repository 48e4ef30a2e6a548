"""What the closed-loop study compares: rows (how latent actions are used, with which labels), regimes and cells.

All rows of a seed share demonstrations, backbone, order of the data, steps and the start states of the rollouts; they
differ in what their row says and in nothing else.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from lattok.evaluation.questions.learnability import BY_MEAN
from lattok.recipes.vla import VLARecipe
from lattok.vla.config import PROMPT

WORLD = ("metaworld-pairs",)
ENDS = ("open", "close"), ("left", "right")
PARTS = {"drawer": ENDS[0], "window": ENDS[0], "button": ENDS[1], "cube": ENDS[1]}
OTHER_WORLD = tuple(
    f"ogbench/{part}-{end}" for part, ends in PARTS.items() for end in ends
)  # another robot, in pairs too
DEMONSTRATIONS = 20  # of each task, from seed 0 on
NOISE = 0.3
STARTS = 40  # rollouts of each task, from seed FIRST_START on
FEW_STARTS = 10  # where the instruction is swapped or blank
STEPS: int = VLARecipe.presets["scratch"]["steps"]  # of every row
DISTIL_STEPS = 1500  # of LatBot's student, before those of every row
FIRST_STEPS = 1500  # of a policy that goes on as another row's
ACTED_SHARE = 0.5  # of a batch, where actions of some demonstrations only are known
EXECUTE = 4  # actions of a chunk that are carried out
DEVICE = os.environ.get("LATTOK_STUDY_DEVICE", "cpu")  # where everything is trained; rollouts are on the CPU
POLICY: Mapping[str, Any] = MappingProxyType({"action_key": "expert_action", "device": DEVICE})  # over preset `scratch`
FOUR = ("drawer-close", "faucet-close", "window-close", "door-lock")  # one of each scene
COLOURS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}
HEAVIER = {"align_weight": 0.1, "lam_weight": 1.0}  # than LARA's published .01 and .01
IN_TURN = {"head": "tokens", "head_order": "autoregressive"}  # the policy acts by codes, each from those before it
AT_ONCE = {"head": "tokens", "head_order": "parallel"}
COMPARED = (("rvq", "Residual VQ"), ("oat", "OAT"))  # the closest, by the names of their rows
BY_MEDIAN = {**BY_MEAN, "average": "median"}
BY_FIRST = {**BY_MEAN, "codes": 1}  # each drawn chunk is decoded from its first code alone
ON_PLACEHOLDER = {"align_on": "placeholder", "head": "regression"}  # whose state has seen no action; not LARA's
CONTINUOUS = ("la_direct_c", True)  # latents are learned in a first stage of films
EMA = {"ema": 0.998, "schedule": "constant", "lr": 3e-4}


class First(NamedTuple):
    """The stage before a policy's own: `FIRST_STEPS` in which it learns the labels of all videos."""

    strategy: str
    films: bool = False  # no action is known in it
    elsewhere: bool = False  # its videos are those of the other world


class Row(NamedTuple):
    """A way of training; the name of the row stands in tables."""

    title: str
    strategy: str
    labels: str | None = None  # a source of LABELS
    options: Mapping[str, Any] = MappingProxyType({})  # of the recipe
    joint: bool = False  # the model that would make the labels learns with the policy
    # a student of the model that would make the labels goes on as the policy: options of its first phase
    distilled: Mapping[str, Any] | None = None
    filled: bool = False  # unknown actions are those that the labels fill in, and learned from as if they were known
    latent: bool = False  # the policy predicts the labels of all videos, and the model that made them decodes
    of: str | None = None  # the row whose policies act, by the mean of what they draw
    first: First | None = None  # whose policy goes on as this one


class Labels(NamedTuple):
    """Where labels come from."""

    title: str
    kind: str  # image-lam, idm, a family of action tokenizers, or a control
    options: Mapping[str, Any] = MappingProxyType({})
    source: str = "video"  # or "actions"
    of: str | None = None  # the labels that a control changes
    known_alone: bool = False  # the model sees no other demonstrations than those whose actions are known


class Regime(NamedTuple):
    """How many demonstrations of each task are learned from, and of how many the actions are known."""

    title: str
    demonstrations: int | None = None  # None: all but the last, which is held out
    acting: int | None = None
    apart: int | None = None  # steps of a policy for each task, where tasks are learned apart
    acting_tasks: tuple[str, ...] = ()  # of which alone any actions are known; none: all
    tasks: tuple[str, ...] = WORLD  # a world, or tasks of it

    def episodes(self, seed: int) -> str:
        """Return the episodes that are learned from."""
        return "train" if self.demonstrations is None else f"{self.demonstrations} per task seed {seed}"

    def acting_episodes(self, seed: int) -> str | None:
        """Return the episodes whose actions are known, None where that is all."""
        return None if self.acting is None else f"{self.acting} per task seed {seed}"

    def dataset(self, folder: Path) -> Path:
        """Return where in the folder of a study the demonstrations are."""
        return folder / ("demonstrations" if self.tasks == WORLD else "demonstrations.other")

    @property
    def part(self) -> str:
        """Return what of which demonstrations models of actions see, in names: "", ".2" acting ones or ".few5"."""
        few = "" if self.tasks == WORLD else ".other"
        few += "" if self.demonstrations is None else f".few{self.demonstrations}"
        some = f"of{len(self.acting_tasks)}tasks" if self.acting_tasks else ""
        return few if self.acting is None else f"{few}.{self.acting}{some}"


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
        "idm": Labels("inverse model, pixels", "idm", {"preset": "tiny"}),
        "idm-video": Labels("inverse model, all videos teach", "idm", {"preset": "tiny", "loss_reversal": 0.5}),
        "idm-known_video": Labels(
            "inverse model, known videos backwards too",
            "idm",
            {"preset": "tiny", "loss_reversal": 0.5},
            known_alone=True,
        ),
        "idm-reversible": Labels("inverse model, half of it reversible", "idm", {"preset": "tiny", "reversible": 2}),
        "idm-proprio": Labels("inverse model, pixels and proprio", "idm", {"preset": "tiny", "proprio": True}),
        "idm-past": Labels("inverse model without later frames", "idm", {"preset": "tiny", "offsets": (-2, -1, 0)}),
        # one network each, judged without policies (studies/pages/few_actions_plans.md, the second plan)
        **{
            f"one{name}": Labels(f"one network{title}", "idm", {"preset": "tiny", "members": 1, **options})
            for name, title, options in (
                ("", "", {}),
                ("-forward", ", forward model", {"loss_forward": 0.5}),
                ("-reversal", ", all videos backwards", {"loss_reversal": 0.5}),
                ("-both", ", both", {"loss_forward": 0.5, "loss_reversal": 0.5}),
                (
                    "-forward-differences",
                    ", forward model, differences alone",
                    {"loss_forward": 0.5, "frame_seen": False},
                ),
                ("-8", ", latents of 8 numbers", {"latent_dim": 8}),
                ("-kl", ", variational bottleneck", {"loss_kl": 1e-3}),
                ("-vq", ", VQ, 4 codes", {"quantizer": "vq", "tokens": 4}),
                ("-fsq", ", FSQ, 8 codes", {"quantizer": "fsq", "tokens": 8}),
            )
        },
        "idm-shuffled": Labels("inferred actions of another episode", "shuffled", of="idm"),
        "proprio": Labels("differences of proprio alone, ridge", "proprio"),
        "executed": Labels("what was executed", "executed"),
        "tokens": Labels("P2T, step decoder", "action-vq", {"preset": "quick"}, "actions"),
        "bins": Labels("uniform bins", "uniform-bins", source="actions"),
        # about 64 bits for a chunk of eight steps, but for FAST, TOAST and bins, which are as they come
        "fast": Labels("FAST", "fast", source="actions"),
        "toast": Labels("TOAST", "toast", source="actions"),
        "context": Labels("P2T, context decoder", "action-vq", {"preset": "quick+context"}, "actions"),
        "fsq": Labels("FSQ", "fsq", source="actions"),
        "fsq-both": Labels("FSQ, perturbed and balanced", "fsq", {"perturb": 0.1, "balance": 0.5}, "actions"),
        "rvq": Labels("residual VQ", "residual-vq", source="actions"),
        "rvq-perturbed": Labels("residual VQ, perturbed", "residual-vq", {"perturb": 0.1}, "actions"),
        "oat": Labels("OAT", "oat", {"levels": (8, 8, 4), "dim": 64, "decoder_depth": 2}, "actions"),
        "quest": Labels("QueST", "quest", {"levels": (8, 8, 4), "dim": 64, "downsample": 1}, "actions"),
        "beast": Labels("BEAST", "beast", {"bases": 4, "degree": 3, "bins": 16}, "actions"),
    }
)

ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "baseline": Row("Baseline", "baseline"),
        "baseline-again": Row("Baseline, run again with films first", "baseline"),
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
        "decoded": Row("Baseline, unknown actions read from labels", "baseline", "lam", filled=True),
        "idm": Row("Inverse model", "baseline", "idm", filled=True),
        "idm-video": Row("Inverse model, all videos teach", "baseline", "idm-video", filled=True),
        "idm-known_video": Row("*control:* only known videos teach it", "baseline", "idm-known_video", filled=True),
        "idm-reversible": Row("Inverse model, half of it reversible", "baseline", "idm-reversible", filled=True),
        "idm-proprio": Row("Inverse model, proprio too", "baseline", "idm-proprio", filled=True),
        "idm-blind_policy": Row("Inverse model, no proprio at all", "baseline", "idm", {"proprio": False}, filled=True),
        "idm-la_align": Row("Inverse model, and LA-Align with its latents", "la_align", "idm", filled=True),
        "idm-careful": Row(
            "Inverse model, the surer half",
            "baseline",
            "idm",
            {"confident_share": 0.5, "acted_share": 0.5},
            filled=True,
        ),
        "latent_policy": Row("Latent policy, decoded", "baseline", "idm", latent=True),
        "parallel": Row("Latents in parallel", "la_cond_c", "idm"),
        "pretrained": Row("Latents first, then actions", "baseline", "idm", first=First("la_direct_c")),
        "films-lam": Row("Films first, codes of the image LAM", "baseline", "lam", first=First("la_direct", True)),
        "films-idm": Row("Films first, latents of the inverse model", "baseline", "idm", first=First(*CONTINUOUS)),
        "films-shuffled": Row(
            "*control:* films first, latents of another episode", "baseline", "idm-shuffled", first=First(*CONTINUOUS)
        ),
        "films-elsewhere": Row(
            "Films of another robot first", "baseline", "idm", first=First(*CONTINUOUS, elsewhere=True)
        ),
        "la_align-idm": Row("LA-Align, latents of the inverse model", "la_align", "idm"),
        "la_align-idm_shuffled": Row("*control:* LA-Align, its latents of another episode", "la_align", "idm-shuffled"),
        "idm-past": Row("*control:* inverse model without later frames", "baseline", "idm-past", filled=True),
        "idm-shuffled": Row("*control:* inferred actions of another episode", "baseline", "idm-shuffled", filled=True),
        "proprio": Row("*control:* differences of proprio alone", "baseline", "proprio", filled=True),
        "executed": Row("*ceiling:* what was executed", "baseline", "executed", filled=True),
        "no_proprio": Row("Baseline without proprio", "baseline", None, {"proprio": False}),
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
        # what a policy acts by: studies/pages/acting_by_tokens.md
        "acts-bins": Row("Uniform bins", "baseline", "bins", IN_TURN),
        "acts-bins-at_once": Row("Uniform bins, at once", "baseline", "bins", AT_ONCE),
        "acts-fast": Row("FAST", "baseline", "fast", IN_TURN),
        "acts-toast": Row("TOAST", "baseline", "toast", IN_TURN),
        "acts-p2t": Row("P2T, step decoder", "baseline", "tokens", IN_TURN),
        "acts-p2t-at_once": Row("P2T, step decoder, at once", "baseline", "tokens", AT_ONCE),
        "acts-context": Row("P2T, context decoder", "baseline", "context", IN_TURN),
        "acts-fsq": Row("FSQ", "baseline", "fsq", IN_TURN),
        "acts-fsq-both": Row("FSQ, perturbed and balanced", "baseline", "fsq-both", IN_TURN),
        "acts-rvq": Row("Residual VQ", "baseline", "rvq", IN_TURN),
        "acts-rvq-at_once": Row("Residual VQ, at once", "baseline", "rvq", AT_ONCE),
        "acts-rvq-perturbed": Row("Residual VQ, perturbed", "baseline", "rvq-perturbed", IN_TURN),
        "acts-oat": Row("OAT", "baseline", "oat", IN_TURN),
        "acts-quest": Row("QueST", "baseline", "quest", IN_TURN),
        "acts-beast": Row("BEAST", "baseline", "beast", IN_TURN),
        **{
            f"acts-{name}-mean": Row(f"{title}, mean of draws", "baseline", labels, BY_MEAN, of=f"acts-{name}")
            for name, title, labels in (
                *(("rvq", "Residual VQ", "rvq"), ("oat", "OAT", "oat"), ("fast", "FAST", "fast")),
                *(("p2t", "P2T, step decoder", "tokens"), ("beast", "BEAST", "beast")),
            )
        },
        **{
            f"acts-{name}-first": Row(f"{title}, mean of first codes", "baseline", name, BY_FIRST, of=f"acts-{name}")
            for name, title in COMPARED
        },
        **{
            f"acts-{name}-median": Row(f"{title}, median of draws", "baseline", name, BY_MEDIAN, of=f"acts-{name}")
            for name, title in (("rvq", "Residual VQ"), ("oat", "OAT"), ("bins", "Uniform bins"), ("fast", "FAST"))
        },
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
        "four-tasks": Regime("19 demonstrations a task, actions of 2 of four tasks", acting=2, acting_tasks=FOUR),
        "one-known": Regime("19 demonstrations a task, actions of 1", acting=1),
        "five-known": Regime("19 demonstrations a task, actions of 5", acting=5),
        "scarce": Regime("5 demonstrations a task", demonstrations=5),
        "few": Regime("10 demonstrations a task", demonstrations=10),
        "other-world": Regime("OGBench, 19 demonstrations a task", tasks=OTHER_WORLD),
        "other-world-few": Regime("OGBench, 19 demonstrations a task, actions of 2", acting=2, tasks=OTHER_WORLD),
        "apart": Regime("19 demonstrations a task, a policy for each", apart=500),  # in all 4/3 of the steps, as in E.3
    }
)
ELSEWHERE = "other-world"  # the regime whose demonstrations are videos of another robot
CORE = ("baseline", "ph_direct", "la_align", "la_direct", "la_cond", "la_tok")
CONTROLS = ("blind", "shuffled", "pixels")
SOURCES = ("la_align-shuffled", "la_align-pixels", "la_align-truth", "la_align-blind")
FEW_ONLY = ("latbot", "latbot-whole", "longer")
FEW_SHOT = ("baseline", "la_align", "placeholder", *FEW_ONLY)
JOINT = ("flow", "lara", "lara-1")  # LARA, and the Baseline with its head
FEW_ACTIONS = (  # of regimes in which some actions are unknown
    *("baseline", "idm", "idm-video", "idm-proprio", "idm-blind_policy", "no_proprio", "idm-la_align", "la_align-idm"),
    *("decoded", "idm-past", "idm-shuffled", "proprio", "executed"),
)
FOUR_TASKS = ("baseline", "idm", "idm-video", "idm-known_video", "idm-reversible", "executed")
MORE_USES = ("idm-careful", "latent_policy", "parallel", "pretrained")  # the second plan's, in the same regimes
ALIGN_CONTROL = "la_align-idm_shuffled"  # the seventh plan's
FILMS = ("films-lam", "films-idm", "films-shuffled", "films-elsewhere")  # the ninth plan's
AGAIN = "baseline-again"  # of their code and machine
ACTS = tuple(row for row in ROWS if row.startswith("acts-"))
OWN_PAGE = frozenset(
    (  # rows and regimes of the studies on studies/pages/few_actions.md and studies/pages/acting_by_tokens.md
        *ACTS,
        *(row for row in FEW_ACTIONS if row not in ("baseline", "decoded")),
        *MORE_USES,
        *("idm-reversible", "idm-known_video", ALIGN_CONTROL, *FILMS, AGAIN),
        *("one-known", "five-known", "four-tasks", "other-world", "other-world-few"),
    )
)
RECIPE = tuple(row for row in ROWS if row.startswith("recipe-"))


class Cell(NamedTuple):
    """One training and its rollouts."""

    regime: str
    row: str
    seed: int

    @classmethod
    def of(cls, name: str) -> "Cell":
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
