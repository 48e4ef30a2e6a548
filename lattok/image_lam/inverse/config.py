"""Architecture of `InverseDynamics`; saved as config.json."""

from dataclasses import dataclass, field, replace
from typing import Literal

from lattok.data.pixels import MOST_CAMERAS, MOST_PIXELS, Interpolation, check_scaling
from lattok.image_lam.base.bottlenecks import BOTTLENECKS, CodebookConfig
from lattok.image_lam.base.features import IMAGENET
from lattok.image_lam.inverse.proprio_map import ProprioMapConfig, check_anchors, check_offsets
from lattok.image_lam.inverse.robots import RobotConfig, check_robots
from lattok.nn.normalize import MOST_NUMBERS, Normalization, NormalizedActions, named_dims
from lattok.utils import checks
from lattok.utils.options import ADDED, FROM_DATA, GROUP, REQUIRED, check_choices, knows_data

OF_CODEBOOKS = {"codebook": 1.0, "commitment": 0.25}  # weights of terms that quantizers have
MOST_MEMBERS = 64
MOST_LAYERS = 16
MOST_TASKS = 4096
MOST_SMOOTH = 100


@dataclass(frozen=True)
class InverseDynamicsConfig(NormalizedActions):
    """Frames, network and losses of an inverse dynamics model. The first fields come from the dataset.

    Attributes:
        tasks: instructions that it knows, with task_given
        state_dim: dimensions of proprio in a frame, with proprio
        state_names: what they are called
        stride: unit of `offsets`, in frames ("1") or seconds ("0.05s")
        offsets: frames to read, relative to the frame of the action: 0 and others, in order
        smooth: frames to each side, in units of `stride`, over which the actions of a video are averaged
        features: what the model sees of a frame: "timm:MODEL", "hf:MODEL" or "pixels"
        features_revision: commit of features from the Hub
        image_size: side of the frames in pixels
        interpolation: how frames are resized
        projection: numbers to which each patch of frozen features is reduced; pixels stay as they are
        channels: channels of the convolutions, each with half the resolution of the one before it as long as that is
            above 4
        latent_dim: width of the latent by which each member describes a clip (d)
        quantizer: how latents become codes; "none": no codes
        tokens: codes of a clip, of each member; d is divided among them
        hidden: width of the layer between latent and action; 0: none
        members: networks that are trained separately; their disagreement gives the confidence
        reversible: members to which, by construction, a clip played backwards is the opposite motion; for actions that
            are increments, and offsets from 0 on
        frame_seen: networks see the current frame in addition to its differences to the others
        task_given: the model also reads the instruction
        proprio: the model also reads how the robot's own state differs at `offsets`
        loss_action: weight of the error of known actions
        loss_flow: weight of predicting from the latent how pixels move, in all videos
        loss_forward: weight of predicting the last frame from the current one and the latent, in all videos
        loss_kl: weight of a variational bottleneck, which limits what latents can say; for quantizer "none"
        loss_reversal: weight of the loss by which a clip played backwards has the opposite action, in all videos; for
            actions that are increments, and offsets from 0 on
        unreversed: dimensions that stay the same when a clip is played backwards, by name or pattern; for loss_reversal
            and reversible members
        action_loss: how errors of actions are measured
        normalize: how actions are normalised
        normalize_exceptions: dimensions with another normalisation, such as "*gripper*=bounded"
        normalize_clip: clips normalised values to [-1, 1], for kinds of normalisation with such a range
        state_key: column with the proprio
        anchors: for each dimension of the action, the dimension of the state to which the output is added; -1: none
        proprio_map: map from changes of the state, to which the output is added
        robots: datasets that share the encoder, and the settings of each
        views: cameras that the encoder knows; 0: `cameras`
        places: index of each of `cameras` among these
    """

    cameras: tuple[str, ...] = field(default=(), metadata=REQUIRED)
    action_dim: int = field(default=0, metadata=REQUIRED)
    action_names: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    tasks: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    state_dim: int = field(default=0, metadata=FROM_DATA)
    state_names: tuple[str, ...] = field(default=(), metadata=FROM_DATA | ADDED)
    mean: tuple[float, ...] = field(default=IMAGENET[0], metadata=FROM_DATA)
    std: tuple[float, ...] = field(default=IMAGENET[1], metadata=FROM_DATA)
    stride: str = "1"
    offsets: tuple[int, ...] = (0, 1, 2)
    smooth: int = field(default=0, metadata=ADDED)
    features: str = "timm:vit_base_patch14_reg4_dinov2.lvd142m"
    features_revision: str | None = None
    image_size: int = 224
    interpolation: Interpolation = "bilinear"
    projection: int = 32
    channels: tuple[int, ...] = (24, 48, 64, 64)
    latent_dim: int = 64
    quantizer: str = field(default="none", metadata=ADDED)
    tokens: int = field(default=1, metadata=ADDED)
    codebook: CodebookConfig = field(
        default_factory=lambda: CodebookConfig(256, "ema", "kmeans"), metadata=ADDED | GROUP
    )
    hidden: int = 128
    members: int = 4
    reversible: int = field(default=0, metadata=ADDED)
    frame_seen: bool = field(default=True, metadata=ADDED)
    task_given: bool = False
    proprio: bool = False
    loss_action: float = 1.0
    loss_flow: float = 0.0
    loss_forward: float = field(default=0.0, metadata=ADDED)
    loss_kl: float = field(default=0.0, metadata=ADDED)
    loss_reversal: float = 0.0
    unreversed: tuple[str, ...] = ("*gripper*",)
    action_loss: Literal["l1", "l2"] = "l1"
    normalize: Normalization = "mean_std"
    normalize_exceptions: tuple[str, ...] = ()
    normalize_clip: bool = False
    action_key: str = "action"
    state_key: str = "observation.state"
    anchors: tuple[int, ...] = field(default=(), metadata=FROM_DATA | ADDED)
    proprio_map: ProprioMapConfig | None = field(default=None, metadata=FROM_DATA | ADDED)
    robots: tuple[RobotConfig, ...] = field(default=(), metadata=FROM_DATA | ADDED)
    views: int = field(default=0, metadata=FROM_DATA | ADDED)
    places: tuple[int, ...] = field(default=(), metadata=FROM_DATA | ADDED)

    def __post_init__(self) -> None:
        check_choices(self)
        if not knows_data(self):
            return
        checks.counts(1, MOST_CAMERAS, cameras=len(self.cameras))
        checks.counts(1, MOST_PIXELS, image_size=self.image_size)
        checks.counts(1, MOST_NUMBERS, action_dim=self.action_dim, latent_dim=self.latent_dim)
        checks.counts(0, MOST_NUMBERS, hidden=self.hidden)
        checks.counts(1, MOST_NUMBERS, projection=self.projection)
        checks.counts(1, MOST_MEMBERS, members=self.members)
        checks.counts(0, self.members, reversible=self.reversible)
        checks.counts(1, MOST_LAYERS, channels=len(self.channels))
        for width in self.channels:
            if not checks.is_int(width) or not 8 <= width <= MOST_NUMBERS or width % 8:
                checks.fail("channels", "multiples of 8", repr(self.channels))
        checks.counts(0, MOST_TASKS, tasks=len(self.tasks))
        checks.counts(0, MOST_NUMBERS, state_dim=self.state_dim)
        checks.named(self.action_dim, action_names=self.action_names)
        checks.named(self.state_dim, state_names=self.state_names)
        check_scaling(self.mean, self.std)
        checks.strides(stride=self.stride)
        checks.counts(0, MOST_SMOOTH, smooth=self.smooth)
        checks.at_least_zero(**{name: value for name, value in vars(self).items() if name.startswith("loss_")})
        if not self.loss_action:
            checks.fail("loss_action", "more than 0: an inverse model learns from actions", self.loss_action)
        self._check_offsets()
        self._check_bottleneck()
        self._check_added_to()
        self._check_views()
        if self.robots:
            check_robots(self.robots)
            for place in range(len(self.robots)):
                self.of(place)
        else:
            self.check_normalization()

    def of(self, place: int) -> "InverseDynamicsConfig":
        """Return the configuration of one of `robots`, as if there were no others."""
        robot, views = self.robots[place], len(self.cameras)
        own = {name: value for name, value in vars(robot).items() if name != "name"}
        if robot.places == tuple(range(views)) and len(robot.cameras) == views:
            own["places"], views = (), 0
        return replace(self, robots=(), views=views, **own)

    @property
    def told(self) -> int:
        """Return how many inputs of task and proprio are appended to the latent."""
        changes = self.state_dim * (len(self.offsets) - 1) * self.proprio
        return len(self.tasks) * self.task_given + changes

    def _check_views(self) -> None:
        """Require a place of its own for each camera where the encoder knows others."""
        checks.counts(0, MOST_CAMERAS, views=self.views)
        places, count = self.places, len(self.cameras) if self.views else 0
        fits = all(checks.is_int(place) and 0 <= place < self.views for place in places)
        if len(places) != count or len({*places}) != count or not fits:
            expected = f"a different number below {self.views} for each of {count} cameras"
            checks.fail("places", expected if self.views else "none without views", f"{places!r:.60}")

    def _check_offsets(self) -> None:
        given = self.offsets
        check_offsets(given)
        if self.reverses and [given[-1] - each for each in reversed(given)] != [*given]:
            option = "loss_reversal" if self.loss_reversal else "reversible"
            expected = f"those of a clip that is the same backwards, such as 0 1 2, with {option}"
            checks.fail("offsets", expected, " ".join(map(str, given)))

    def _check_added_to(self) -> None:
        """What is read is added to one thing at most; the map has the model's own columns."""
        check_anchors(self.anchors, self.action_dim, self.state_dim)
        if (known := self.proprio_map) is None:
            return
        if self.anchors or self.proprio or self.reverses:
            given = [name for name in ("anchors", "proprio", "loss_reversal", "reversible") if getattr(self, name)]
            checks.fail(given[0], "none beside proprio_map", getattr(self, given[0]))
        for name in ("action_dim", "state_dim", "state_key", "action_key"):
            if getattr(known, name) != getattr(self, name):
                checks.fail(f"proprio_map.{name}", repr(getattr(self, name)), repr(getattr(known, name)))

    def _check_bottleneck(self) -> None:
        checks.one_of("quantizer", self.quantizer, BOTTLENECKS)
        checks.divides(self.latent_dim, f"latent_dim {self.latent_dim}", tokens=self.tokens)
        if self.reversible and (self.quantizer != "none" or self.loss_kl):
            checks.fail("reversible", '0 unless quantizer="none" and loss_kl=0', self.reversible)
        if self.reversible and self.latent_dim % 2:
            checks.fail("latent_dim", "an even number with reversible", self.latent_dim)
        if self.loss_kl and not BOTTLENECKS[self.quantizer].variational:
            checks.fail("loss_kl", '0 unless quantizer="none"', self.loss_kl)

    @property
    def loss_weights(self) -> dict[str, float]:
        terms = ("action", "flow", "forward", "kl", "reversal")
        weights = {name: float(getattr(self, f"loss_{name}")) for name in terms} | OF_CODEBOOKS
        return {name: weight for name, weight in weights.items() if weight > 0}

    @property
    def learns_from_video(self) -> bool:
        """Return whether it also learns from videos without actions."""
        return max(self.loss_flow, self.loss_forward, self.loss_reversal) > 0

    @property
    def reverses(self) -> bool:
        """Return whether clips are also read backwards."""
        return self.loss_reversal > 0 or self.reversible > 0

    @property
    def reads_state(self) -> bool:
        """Return whether the robot's own state is needed to infer its actions."""
        return self.proprio or bool(self.anchors) or self.proprio_map is not None

    @property
    def state_offsets(self) -> tuple[int, ...]:
        """Return the offsets at which the state is read."""
        if self.proprio_map is not None:
            return self.proprio_map.offsets
        return self.offsets if self.proprio else (0,)

    @property
    def reversed_dims(self) -> list[int]:
        """Return the dimensions of the action that change their sign when a clip is played backwards."""
        names, count = self.action_names, self.action_dim
        same = {dim for text in self.unreversed for dim in named_dims("unreversed", text, names, count)}
        return [dim for dim in range(self.action_dim) if dim not in same]

    @property
    def span(self) -> int:
        """Return the largest offset, to either side."""
        return max(-self.offsets[0], self.offsets[-1])

    def gaps(self, stride: int) -> list[int]:
        """Return the frames of a clip, counted from the moment of the action, for a unit of `stride` frames."""
        return [offset * stride for offset in self.offsets]
