"""Architecture of `ClipLAM`; saved as config.json. Defaults are the paper's, or stand in `docs/decisions/clips.md`."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

from lattok.backbones import BackboneConfig, LoraSpec
from lattok.data.pixels import MOST_CAMERAS, MOST_PIXELS, Interpolation, check_scaling
from lattok.image_lam.base.features import IMAGENET
from lattok.nn.losses import MOST_FLOW_STEPS
from lattok.nn.normalize import MOST_NUMBERS, Normalization, NormalizedActions
from lattok.utils import checks
from lattok.utils.options import FROM_DATA, GROUP, REQUIRED, check_choices, knows_data
from lattok.utils.untrusted import plain_format

PROMPT = (  # section 6.2; the queries of scene and motion follow it, in this order
    'Given the instruction "{task}" and the video frames, reason about what happens within this time span. Explain how '
    "the overall scene changes, and identify the temporal dependencies between consecutive frames. Highlight the "
    "actions, interactions, and transitions that drive the scene's evolution. Answer: Scene evolution description and "
    "action dynamics description:"
)
MOST_FRAMES = 256
MOST_TOKENS = 4096

_BACKBONE = partial(BackboneConfig, "OpenGVLab/InternVL3_5-2B-HF", lora=LoraSpec(vision=False))  # whose tower is frozen


@dataclass(frozen=True)
class FeaturesConfig:
    """The frozen latent space of the frame that a model of clips predicts.

    Attributes:
        name: frozen latent space of the predicted frame: "pixels", "timm:MODEL" or "hf:MODEL"
        revision: commit of features from the Hub
        size: side of the frames that these features see, in pixels
        patch: side of the patches of "pixels"
    """

    name: str = "pixels"
    revision: str | None = None
    size: int = 224
    patch: int = 16

    def __post_init__(self) -> None:
        checks.counts(1, MOST_PIXELS, features_size=self.size, features_patch=self.patch)
        if self.name == "pixels":
            checks.divides(self.size, f"features_size {self.size}", features_patch=self.patch)


@dataclass(frozen=True)
class ClipDecoderConfig:
    """What draws the last frame and the actions of a clip from its latents.

    Attributes:
        name: "compact", or "sana:MODEL": SANA of diffusers to start from, a folder or a Hub id
        sana: sizes of that transformer
        sees_now: the decoder sees the first frame
        exchange: streams of scene and motion attend to each other in every layer of the decoder
        output: what the decoder predicts: the "change" of the frame, the "frame" itself, or its "velocity"
        width: width of the decoder; with SANA, width of its motion stream
        depth: layers of the compact decoder; SANA has its own
        heads: attention heads of the decoder
        flow_steps: Euler steps from noise to a frame and actions
    """

    name: str = "compact"
    sana: dict[str, Any] = field(default_factory=dict, metadata=FROM_DATA)
    sees_now: bool = True
    exchange: bool = True
    output: Literal["change", "frame", "velocity"] = "change"
    width: int = 512
    depth: int = 8
    heads: int = 8
    flow_steps: int = 10

    def __post_init__(self) -> None:
        check_choices(self, "decoder")
        checks.counts(decoder_width=self.width, decoder_depth=self.depth)
        checks.counts(1, MOST_FLOW_STEPS, decoder_flow_steps=self.flow_steps)
        checks.divides(self.width, f"decoder_width {self.width}", decoder_heads=self.heads)
        if self.name != "compact" and not self.name.startswith("sana:"):
            checks.fail("decoder", '"compact" or "sana:MODEL"', repr(self.name))
        for name, value in self.sana.items():
            if value is not None and not isinstance(value, bool | int | float | str):
                checks.fail(f"decoder_sana: {name}", "a number or a word", f"{value!r:.60}")
            if isinstance(value, int) and not 0 <= value <= MOST_NUMBERS:
                checks.fail(f"decoder_sana: {name}", f"0 to {MOST_NUMBERS:,}", value)
        if self.name != "compact" and self.output != "velocity":
            checks.fail("decoder_output", "velocity with SANA as the decoder", repr(self.output))
        if self.output == "change" and not self.sees_now:
            checks.fail("decoder_output", "frame or velocity with decoder_sees_now=False", repr(self.output))


@dataclass(frozen=True)
class ClipLAMConfig(NormalizedActions):
    """Encoder, latents and decoder of a model of clips. The first fields come from the dataset.

    Attributes:
        absent: action dimensions that the robots of all its datasets lack
        mean: mean of pixels between 0 and 1, subtracted before the target's network
        frames: frames of a clip (k), evenly spaced
        stride: time from the first frame of a clip to the last, in frames ("15") or seconds ("0.5s")
        horizon: actions from the first frame on that are decoded
        scene_tokens: latents of what changes around the robot; 0: motion latents also decode the frame
        motion_tokens: latents of what the robot does
        latent_dim: width of a latent (d)
        latent_norm: how latents are normalised: "layer", each by itself, or "none"
        image_size: side of the frames in pixels
        interpolation: how frames are resized
        prompt: prompt, in which {task} is the instruction
        backbone: the backbone that encodes clips
        frame_weight: weight of the loss of the predicted frame
        action_weight: weight of the loss of the actions; 0: the decoder does not see them either
        separation_weight: weight of the loss on the correlation of scene latents with motion latents
        normalize: how actions are normalised
        normalize_exceptions: dimensions with another normalisation, such as "*gripper*=bounded"
        normalize_clip: clips normalised values to [-1, 1], for kinds of normalisation with such a range
        normalizers: datasets of a mixture, each with its own normaliser
    """

    target: ClassVar[str] = "features"  # what is predicted

    cameras: tuple[str, ...] = field(default=(), metadata=REQUIRED)
    action_dim: int = field(default=0, metadata=REQUIRED)
    action_names: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    absent: tuple[int, ...] = field(default=(), metadata=FROM_DATA)
    mean: tuple[float, ...] = field(default=IMAGENET[0], metadata=FROM_DATA)
    std: tuple[float, ...] = field(default=IMAGENET[1], metadata=FROM_DATA)
    frames: int = 16
    stride: str = "15"
    horizon: int = 15
    scene_tokens: int = 64
    motion_tokens: int = 64
    latent_dim: int = 128
    latent_norm: Literal["layer", "none"] = "layer"
    image_size: int = 224
    interpolation: Interpolation = "bicubic"
    prompt: str = PROMPT
    backbone: BackboneConfig = field(default_factory=_BACKBONE, metadata=GROUP)
    features: FeaturesConfig = field(default_factory=FeaturesConfig, metadata=GROUP)
    decoder: ClipDecoderConfig = field(default_factory=ClipDecoderConfig, metadata=GROUP)
    frame_weight: float = 1.0
    action_weight: float = 1.0
    separation_weight: float = 0.0
    normalize: Normalization = "quantile"
    normalize_exceptions: tuple[str, ...] = ()
    normalize_clip: bool = False
    normalizers: tuple[str, ...] = field(default=(), metadata=FROM_DATA)
    action_key: str = "action"

    def __post_init__(self) -> None:
        check_choices(self)
        if not knows_data(self):
            return
        checks.counts(1, MOST_CAMERAS, cameras=len(self.cameras))
        checks.counts(2, MOST_FRAMES, frames=self.frames)
        checks.counts(0, MOST_TOKENS, scene_tokens=self.scene_tokens)
        checks.counts(1, MOST_TOKENS, motion_tokens=self.motion_tokens)
        # one number, normalised over itself, is always 0
        checks.counts(2 if self.latent_norm == "layer" else 1, MOST_NUMBERS, latent_dim=self.latent_dim)
        checks.counts(action_dim=self.action_dim, horizon=self.horizon)
        checks.named(self.action_dim, action_names=self.action_names)
        checks.counts(1, MOST_PIXELS, image_size=self.image_size)
        self.check_mixture()
        if self.action_dim * self.horizon > MOST_NUMBERS:
            got = f"{self.horizon} steps of {self.action_dim} dimensions"
            checks.fail("action_dim", f"at most {MOST_NUMBERS:,} numbers in a chunk", got)
        if bool(self.decoder.sana) != (self.decoder.name != "compact"):
            expected = "sizes of a transformer with decoder=sana:MODEL, and only there"
            checks.fail("decoder_sana", expected, f"{self.decoder.sana!r:.60}")
        check_scaling(self.mean, self.std)
        if not all(0 <= dim < self.action_dim for dim in self.absent):
            checks.fail("absent", f"dimensions from 0 to {self.action_dim - 1}", repr(self.absent))
        checks.strides(stride=self.stride)
        checks.at_least_zero(frame_weight=self.frame_weight, action_weight=self.action_weight)
        checks.at_least_zero(separation_weight=self.separation_weight)
        if self.frame_weight == self.action_weight == 0:
            checks.fail("frame_weight", "more than 0 if action_weight is 0", "0", "Nothing would be learned.")
        if self.separation_weight > 0 and not self.scene_tokens:
            checks.fail("separation_weight", "0 with scene_tokens=0: there are no two streams", self.separation_weight)
        try:
            plain_format(self.prompt, task="")
        except checks.LattokError:
            checks.fail("prompt", "a text with {task} at most", f"{self.prompt!r:.80}")
        self.check_normalization()

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weights of the loss terms, which the paper does not give."""
        # one of 0 stays: processes wait for a gradient of every parameter
        weights = {"frame": self.frame_weight, "action": self.action_weight}
        return weights | ({"separation": self.separation_weight} if self.separation_weight > 0 else {})

    def gaps(self, stride: int, where: str = "") -> list[int]:
        """Return how far the frames of a clip of `stride` frames are from its first; errors name the place `where`."""
        if stride < self.frames - 1:
            expected = f"at least {self.frames - 1} frames, since a clip has {self.frames} of them"
            hint = f"Such as stride={self.frames - 1}; a model that is yet to be trained may have frames={stride + 1}."
            checks.fail("stride", expected, f"{stride}{where}", hint)
        return [round(i * stride / (self.frames - 1)) for i in range(self.frames)]
