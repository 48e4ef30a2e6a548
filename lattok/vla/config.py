"""Architecture of `LatentVLA`; saved as config.json."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lattok.backbones import BackboneConfig
from lattok.data.pixels import MOST_CAMERAS, MOST_PIXELS, Interpolation
from lattok.image_lam.inverse.config import InverseDynamicsConfig
from lattok.labels import LatentSpec
from lattok.nn.losses import MOST_FLOW_STEPS
from lattok.nn.normalize import MOST_NUMBERS, Normalization, NormalizedActions, clipped_kinds, gripper_dims
from lattok.types import ActionTokenizer
from lattok.utils import checks
from lattok.utils.options import ADDED, FROM_DATA, GROUP, REQUIRED, check_choices, knows_data
from lattok.utils.untrusted import plain_format
from lattok.vla.strategies import STRATEGIES, Segment, Strategy, hidden_index

PROMPT = "{task} Please predict the next {horizon} robot actions:"  # appendix B.1
BCE = "l2_bce"
MOST_INSTRUCTIONS = 1000  # that a policy lists
MOST_DRAWS = 256
UNKNOWN = "unknown"  # the one action of a policy that has learned from films alone
OF_TOKENS = ("average", "codes", "draws", "temperature", "order")
OF_ONE_HEAD = dict.fromkeys(OF_TOKENS, "tokens") | {"flow_steps": "flow"}  # options
LEAST_TEMPERATURE = 1e-38  # float32 has no smaller number at its full precision
MAX_CAMERA_SIDE = 2**14  # of a camera's images in pixels, twice that of 8K


@dataclass(frozen=True)
class TokenSpec:
    """What a head that predicts tokens knows of their tokenizer, and by what that one is known again."""

    type: str
    tokens: int  # P of a chunk, the most where their number varies
    codes: int  # K
    fixed: bool = True  # always as many
    shared: bool = True  # one vocabulary for all positions
    prefixes: bool = False  # the first codes of a row decode on their own
    config_sha256: str = ""
    weights_sha256: str = ""

    def __post_init__(self) -> None:
        checks.counts(1, MOST_NUMBERS, tokens=self.tokens, codes=self.codes)

    @classmethod
    def of(cls, tokenizer: ActionTokenizer) -> "TokenSpec":
        known, sizes = tokenizer.describe(), (tokenizer.tokens_per_chunk, tokenizer.vocab_size)
        kinds = tokenizer.fixed_length, tokenizer.shared_vocabulary, tokenizer.prefixes
        return cls(known["type"], *sizes, *kinds, known["config_sha256"], known["weights_sha256"])


@dataclass(frozen=True)
class HeadConfig:
    """The action head of a policy.

    Attributes:
        name: how actions are predicted: "regression"; "flow", chunks out of noise (flow matching); "tokens", codes of
            `tokenizer`, which decodes them
        dim: width of the action head
        heads: attention heads of the action head
        layers: hidden states that the head sees; left out: ⌈N/2⌉..N
        flow_steps: Euler steps from noise to a chunk, of a flow head
        order: order of the codes of a tokens head: each from those before it, or all at once ("parallel")
        temperature: temperature at which a tokens head draws codes; 0: it takes the likeliest
        draws: chunks that a tokens head draws for a decision, which is their average; more than 1 with a temperature
        average: of drawn chunks, of each number for itself: their mean, or their median
        codes: codes of a chunk that a tokens head predicts to act, if the tokenizer can decode the first codes alone;
            0: all
    """

    name: Literal["regression", "flow", "tokens"] = "regression"
    dim: int = 512
    heads: int = 8
    layers: tuple[int, ...] = ()
    flow_steps: int = 4
    order: Literal["autoregressive", "parallel"] = field(default="autoregressive", metadata=ADDED)
    temperature: float = field(default=0.0, metadata=ADDED)
    draws: int = field(default=1, metadata=ADDED)
    codes: int = field(default=0, metadata=ADDED)
    average: Literal["mean", "median"] = field(default="mean", metadata=ADDED)

    def __post_init__(self) -> None:
        check_choices(self, "head")
        checks.at_least_zero(head_temperature=self.temperature)
        if 0 < self.temperature < LEAST_TEMPERATURE:
            checks.fail("head_temperature", f"0, or at least {LEAST_TEMPERATURE:g}", self.temperature)
        checks.counts(1, MOST_DRAWS, head_draws=self.draws)
        checks.whole(head_codes=self.codes)
        if self.draws > 1 and not self.temperature:
            checks.fail("head_draws", "1 if head_temperature is 0, since all draws would be the same", self.draws)
        checks.counts(head_dim=self.dim)
        checks.divides(self.dim, f"head_dim {self.dim}", head_heads=self.heads)
        checks.counts(1, MOST_FLOW_STEPS, head_flow_steps=self.flow_steps)
        for option, head in OF_ONE_HEAD.items():
            if self.name != head and (value := getattr(self, option)) != (usual := getattr(HeadConfig, option)):
                checks.fail(f"head_{option}", f'{usual} unless head="{head}"', value)
        if not isinstance(self.layers, tuple) or not all(checks.is_int(k) and k >= 0 for k in self.layers):
            checks.fail("head_layers", "indices of hidden states", repr(self.layers))
        if list(self.layers) != sorted(set(self.layers)):
            checks.fail("head_layers", "different hidden states in ascending order", self.layers)


@dataclass(frozen=True)
class VLAConfig(NormalizedActions):
    """Architecture of a policy. The first fields come from the dataset, the defaults of the others from the paper.

    Attributes:
        cameras: none for a backbone that reads only text, or a policy that sees proprio alone
        camera_sizes: (H, W) of each camera's images before they are resized
        proprio_dim: 0: without proprio
        latent: what the labels are that the strategy follows
        decoder: of a policy that predicts latents: the inverse dynamics model that turns these into actions
        tokens: of a policy that predicts tokens: what their tokenizer is
        horizon: actions of a prediction
        n_action_steps: actions that are carried out before it plans again (default: all)
        fps: decisions a second, where the dataset is known
        instructions: those it was trained on; empty: not listed
        normalizers: datasets of a mixture, each with its own normaliser
        absent: for each of these, action dimensions that its robot lacks
        action_widths: number of action dimensions of each dataset, in order, if each has its own head
        proprio_widths: the same for proprio; 0: the robot's state is not known
        robot_cameras: each dataset's own camera in each place of `cameras`, where each has a head; "": a black picture
        robot_camera_sizes: (H, W) of these, without those that are not there
        views: number of pictures that the backbone sees; those without one of these `cameras` are black; 0: as many
            as cameras
        places: of each camera among these
        image_size: side of the images in pixels
        interpolation: how frames are resized
        prompt: prompt, in which {task} is the instruction; without {task} the policy gets no instruction
        pool: what the head reads of the hidden states of a step's codes: their mean, or each one ("none")
        action_loss: how errors of actions are measured: "l2" (Eq. 4); "l1" (published code), which a flow head cannot
            take; "l2_bce", grippers by cross-entropy
        loss_reduction: how losses are reduced; "sum" over steps, codes and dimensions is Eq. 4 and 7 as printed
        normalize: how actions and proprio are normalised
        normalize_exceptions: dimensions of actions with another normalisation, such as "*gripper*=bounded"
        normalize_clip: clips normalised values to [-1, 1], for kinds of normalisation with such a range
    """

    action_dim: int = field(default=0, metadata=REQUIRED)
    cameras: tuple[str, ...] = field(default=(), metadata=REQUIRED)
    camera_sizes: tuple[tuple[int, int], ...] = field(default=(), metadata=REQUIRED)
    proprio_dim: int = field(default=0, metadata=FROM_DATA)
    action_names: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    proprio_names: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    strategy: Strategy = STRATEGIES["baseline"]
    latent: LatentSpec | None = field(default=None, metadata=FROM_DATA)
    decoder: InverseDynamicsConfig | None = field(default=None, metadata=ADDED | FROM_DATA)
    tokens: TokenSpec | None = field(default=None, metadata=ADDED | FROM_DATA)
    horizon: int = 8
    n_action_steps: int | None = None
    fps: float | None = field(default=None, metadata=FROM_DATA)
    instructions: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    normalizers: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    absent: tuple[tuple[int, ...], ...] = field(default=(), metadata=FROM_DATA)
    action_widths: tuple[int, ...] = field(default=(), metadata=FROM_DATA | ADDED)
    proprio_widths: tuple[int, ...] = field(default=(), metadata=FROM_DATA | ADDED)
    robot_cameras: tuple[tuple[str, ...], ...] = field(default=(), metadata=FROM_DATA | ADDED)
    robot_camera_sizes: tuple[tuple[tuple[int, int], ...], ...] = field(default=(), metadata=FROM_DATA | ADDED)
    views: int = field(default=0, metadata=FROM_DATA | ADDED)
    places: tuple[int, ...] = field(default=(), metadata=FROM_DATA | ADDED)
    image_size: int = 224
    interpolation: Interpolation = "bicubic"
    prompt: str = PROMPT
    backbone: BackboneConfig = field(default_factory=BackboneConfig, metadata=GROUP)
    head: HeadConfig = field(default_factory=HeadConfig, metadata=GROUP)
    pool: Literal["mean", "none"] = "mean"
    action_loss: Literal["l2", "l1", "l2_bce"] = "l2"
    loss_reduction: Literal["mean", "sum"] = "mean"
    normalize: Normalization = "quantile"
    normalize_exceptions: tuple[str, ...] = ()
    normalize_clip: bool = False
    action_key: str = "action"
    state_key: str = "observation.state"

    def __post_init__(self) -> None:
        check_choices(self)
        if not knows_data(self):
            return
        if not isinstance(self.strategy, Strategy):
            checks.fail("strategy", "a Strategy", repr(self.strategy), "lattok.vla.strategy_of has those with a name.")
        checks.counts(action_dim=self.action_dim, horizon=self.horizon)
        checks.counts(1, MOST_PIXELS, image_size=self.image_size)
        checks.whole(proprio_dim=self.proprio_dim)
        self.check_mixture()
        if self.absent:
            checks.size("absent", "lists, one for each dataset", len(self.absent), max(1, len(self.normalizers)))
            if not all(0 <= dim < self.action_dim for dims in self.absent for dim in dims):
                checks.fail("absent", f"dimensions from 0 to {self.action_dim - 1}", repr(self.absent))
        self._check_widths()
        if self.n_action_steps is not None:
            checks.counts(1, self.horizon, n_action_steps=self.n_action_steps)
        if self.fps is not None:
            checks.frame_rate(fps=self.fps)
        checks.counts(0, MOST_INSTRUCTIONS, instructions=len(self.instructions))
        if self.action_dim * self.horizon > MOST_NUMBERS or self.proprio_dim > MOST_NUMBERS:
            got = f"{self.horizon} steps of {self.action_dim} dimensions, proprio_dim {self.proprio_dim}"
            checks.fail("action_dim", f"at most {MOST_NUMBERS:,} numbers in a chunk and in proprio", got)
        checks.named(self.action_dim, action_names=self.action_names)
        checks.named(self.proprio_dim, proprio_names=self.proprio_names)
        if self.head.name == "flow" and self.action_loss == "l1":
            hint = "A velocity is a mean, which only a squared error finds."
            checks.fail("action_loss", f"l2 or {BCE} with head=flow", self.action_loss, hint)
        if self.action_loss == BCE and not self.gripper:
            names = ", ".join(self.action_names) or "without names"
            checks.fail("action_loss", f"{BCE} for actions with a *gripper*", names)
        _check_cameras(self.cameras, self.camera_sizes)
        self._check_views()
        _check_labels(self.strategy, self.latent, self.horizon)
        self._check_decoder()
        self._check_tokens()
        try:
            plain_format(self.prompt, task="", horizon=1)
        except checks.LattokError:
            checks.fail("prompt", "a text with {task} and {horizon} at most", f"{self.prompt!r:.80}")
        self.check_normalization()

    @property
    def of_films(self) -> bool:
        """Return whether it has learned from labels of films alone: no action and no state was there."""
        return not self.strategy.acts and self.action_names == (UNKNOWN,)

    def _check_widths(self) -> None:
        for name, whole in (("action_widths", self.action_dim), ("proprio_widths", self.proprio_dim)):
            if widths := getattr(self, name):
                checks.size(name, "numbers, one for each dataset", len(widths), len(self.normalizers))
                checks.counts(int(name == "action_widths"), MOST_NUMBERS, **{name: min(widths)})
                checks.size(name, "numbers in all", sum(widths), whole)
        if self.action_widths and len(self.absent) != len(self.action_widths):
            checks.fail("absent", "the numbers of the other datasets for each, with action_widths", repr(self.absent))

    def _check_views(self) -> None:
        several, cameras = self.robot_cameras, len(self.cameras)
        checks.counts(0, MOST_CAMERAS, views=self.views)
        if self.views and (len({*self.places}) != cameras or not all(0 <= place < self.views for place in self.places)):
            checks.fail("places", f"{cameras} different places of {self.views}", repr(self.places))
        if not several:
            return
        for name in ("robot_cameras", "robot_camera_sizes"):
            checks.size(name, "lists, one for each dataset", len(getattr(self, name)), len(self.normalizers))
        for own, sizes in zip(several, self.robot_camera_sizes, strict=True):
            checks.size("robot_cameras", "cameras, one for each place", len(own), cameras)
            _check_cameras([name for name in own if name], sizes)

    def of_dataset(self, place: int) -> "tuple[VLAConfig, slice, slice]":
        """Return the configuration of a policy of one of the datasets alone, and where its actions and proprio are."""
        actions, states = (_block(widths, place) for widths in (self.action_widths, self.proprio_widths))
        prefix, absent = f"{self.normalizers[place]}.", self.absent[place : place + 1]
        own: dict[str, Any] = {"normalizers": (), "absent": absent, "action_widths": (), "proprio_widths": ()}
        if self.proprio_widths:
            names = tuple(name.removeprefix(prefix) for name in self.proprio_names[states])
            own |= {"proprio_dim": len(names), "proprio_names": names}
        if self.action_widths:
            names = tuple(name.removeprefix(prefix) for name in self.action_names[actions])
            kept = self._lacking(place)
            own |= {"action_dim": len(names), "action_names": names, "absent": (kept,) if kept else ()}
            if self.action_loss == BCE and not gripper_dims(names):
                own["action_loss"] = "l2"  # the same without grippers
        if self.robot_cameras:
            shown = self.robot_cameras[place]
            own |= {"cameras": tuple(filter(None, shown)), "camera_sizes": self.robot_camera_sizes[place]}
            own |= {"robot_cameras": (), "robot_camera_sizes": ()}
            if not all(shown):
                own |= {"views": len(shown), "places": tuple(place for place, name in enumerate(shown) if name)}
        return replace(self, **own), actions, states

    def _lacking(self, place: int) -> tuple[int, ...]:
        """Return the dimensions that the robot of one of the datasets lacks, of its own actions."""
        first, last, _ = _block(self.action_widths, place).indices(self.action_dim)
        return tuple(dim - first for dim in self.absent[place] if first <= dim < last)

    def _check_decoder(self) -> None:
        decoder, latent = self.decoder, self.latent
        if (decoder is not None) != self.strategy.decoded:
            expected = "an inverse dynamics model where the policy predicts latents, and only there"
            checks.fail("decoder", expected, "none" if decoder is None else f"one with {self.strategy.name}")
        if decoder is None or latent is None:
            return
        checks.size("decoder", "action dimensions", decoder.action_dim, self.action_dim)
        if (latent.vectors, latent.latent_dim) != (decoder.members, decoder.latent_dim):
            expected = f"labels of {decoder.members} x {decoder.latent_dim} numbers, as the decoder has"
            checks.fail("latent", expected, f"{latent.vectors} x {latent.latent_dim}")
        if decoder.reads_state:
            checks.fail("decoder", "one without proprio, whose changes nobody knows ahead", "one with proprio")
        if self.head.name == "flow" or self.action_loss == BCE or self.normalizers:
            got = ", ".join(each for each in (self.head.name, self.action_loss, *self.normalizers) if each)
            checks.fail("decoder", "none, but with a regression head, loss l1 or l2 and one dataset", got)

    def _check_tokens(self) -> None:
        if (self.tokens is not None) != (self.head.name == "tokens"):
            expected = "an action tokenizer with head=tokens, or with a strategy that learns from its tokens"
            checks.fail("tokenizer", expected, "none" if self.tokens is None else f"one with head={self.head.name}")
        if self.tokens is None:
            return
        checks.counts(0, self.tokens.tokens, head_codes=self.head.codes)
        if self.head.codes and not self.tokens.prefixes:
            expected = "0 with a tokenizer whose first codes do not decode on their own"
            checks.fail("head_codes", expected, self.head.codes)
        others = {
            "a decoder": self.decoder,
            BCE: self.action_loss == BCE,
            "a robot that lacks dimensions": any(map(self._lacking, range(len(self.absent)))),
        }
        if wrong := [what for what, there in others.items() if there]:
            checks.fail("head", "regression or flow with " + " and ".join(wrong), "tokens")

    @property
    def predicted(self) -> int:
        """Return how many steps or tokens the head predicts."""
        return self.horizon if self.tokens is None else self.tokens.tokens

    @property
    def outputs(self) -> int:
        """Return the outputs of the head for each prediction: for a token one for every code and one for the end."""
        if self.tokens is not None:
            return self.tokens.codes + (not self.tokens.fixed)
        return self.action_dim if self.decoder is None else self.decoder.members * self.decoder.latent_dim

    @property
    def gripper(self) -> tuple[int, ...]:
        """Action dimensions that are compared as opening or closing, with action_loss="l2_bce"."""
        if self.action_loss != BCE:
            return ()
        widths, names = self.action_widths, self.action_names
        prefixes = [f"{name}." for name, width in zip(self.normalizers, widths, strict=False) for _ in range(width)]
        own = [name.removeprefix(prefix) for name, prefix in zip(names, prefixes, strict=True)] if widths else names
        return tuple(gripper_dims(own))

    def check_normalization(self) -> None:
        """Require it of actions, and of proprio, whose dimensions all have the kind `normalize`."""
        super().check_normalization()
        clipped_kinds([self.normalize] * self.proprio_dim, self.normalize_clip and self.proprio_dim > 0)

    @property
    def proprio_clipped(self) -> list[bool]:
        """The same for proprio, whose dimensions all have one kind."""
        return clipped_kinds([self.normalize] * self.proprio_dim, self.normalize_clip and self.proprio_dim > 0)

    @property
    def segments(self) -> dict[str, Segment]:
        """Positions of the placeholders of each span of the strategy."""
        return self.strategy.segments(self.horizon, self.latent)

    def layers(self, num_layers: int) -> tuple[int, ...]:
        """Return the hidden states that the head sees, of a backbone with `num_layers` layers (K_layers of Eq. 3)."""
        seen = self.head.layers
        if not seen:
            return tuple(range(math.ceil(num_layers / 2), num_layers + 1))
        if max(seen) > num_layers:
            checks.fail("head_layers", f"hidden states from 0 to {num_layers} of this backbone", seen)
        if num_layers not in (seen[-1], *(hidden_index(loss.layer, num_layers) for loss in self.strategy.losses)):
            hint = "Layers that nothing reads would be trained without a gradient."
            checks.fail("head_layers", f"the last one, {num_layers}, among them", seen, hint)
        return seen

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the loss terms (Eq. 4)."""
        return {"action": 1.0} | {loss.name: loss.weight for loss in self.strategy.losses}


def _block(widths: Sequence[int], place: int) -> slice:
    """Return which numbers are those of one dataset; without widths all."""
    return slice(sum(widths[:place]), sum(widths[: place + 1])) if widths else slice(None)


def _check_cameras(names: Sequence[str], sizes: object) -> None:
    if not isinstance(sizes, tuple) or not all(isinstance(size, tuple) and len(size) == 2 for size in sizes):
        checks.fail("camera_sizes", "a pair (H, W) for each camera", repr(sizes))
    checks.size("camera_sizes", "sizes, one for each camera", len(sizes), len(names))
    checks.counts(0, MOST_CAMERAS, cameras=len(names))
    for side in (side for size in sizes for side in size):
        checks.counts(1, MAX_CAMERA_SIDE, camera_sizes=side)


def _check_labels(strategy: Strategy, latent: LatentSpec | None, horizon: int) -> None:
    """Compare labels with what the strategy follows: their kind, and as many of them as its spans have steps."""
    if strategy.labels is None:
        if latent is not None:
            raise checks.LattokError(f"`latent` was given, but {strategy.name} follows no labels. Leave it out.")
        return
    if latent is None:
        checks.fail("latent", f"what the labels of {strategy.labels} are, which {strategy.name} follows", "none")
    if latent.target != strategy.labels:
        checks.fail("latent", f"labels of {strategy.labels}, for {strategy.name}", f"labels of {latent.target}")
    strategy.check_parts(latent)
    steps = horizon if latent.target == "steps" else latent.steps
    if steps < 1 or latent.steps not in (0, steps) or latent.horizon not in (0, horizon):
        got = f"labels of {checks.counted(latent.steps, 'step')}, of chunks of {latent.horizon}"
        checks.fail("latent", f"labels for chunks of {checks.counted(horizon, 'step')}", got)
    segments = strategy.segments(horizon, latent)
    for loss in strategy.losses:
        checks.size("span", f"steps in `{loss.span}`, as the labels have", segments[loss.span].steps, steps)
