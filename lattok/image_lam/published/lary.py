"""LAPA on features: the general latent action models of LARYBench (Nie et al., 2026), LAPA-DINOv3 and LAPA-DINOv2.

    tokens  = Time(Space(DINO(o_t), DINO(o_{t+H})))              as LAPA's, without its patch embedding
    latents = CNN(tokens of o_{t+H}) - CNN(tokens of o_t)
    codes   = nearest rows of the codebook
    features of o_{t+H} = Decoder(features of o_t, codebook[codes])

Left out: the noise in the vectors that the benchmark saves, as long as the quantization error and new at every call.
"""

from dataclasses import dataclass
from typing import Any

from lattok.data.resampling import ALIASED
from lattok.hub import checkpoint
from lattok.hub.checkpoint import FilePath, Tensors, axis_of
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.published.lapa import LAQ, LAQConfig, laq_names, laq_sizes, laq_unused
from lattok.image_lam.published.published_lam import read_published
from lattok.utils import checks

BACKBONE = "dino_tokenizer."
DINO = {2: "timm:vit_large_patch14_dinov2.lvd142m", 3: "timm:vit_large_patch16_dinov3.lvd1689m"}
TOKENS = 16
LABELLED = {"calvin": "5", "vlabench": "5", "agibotbeta": "45", "robocoin": "10"}  # gaps in frames, by dataset


@dataclass(frozen=True, kw_only=True)
class LaryConfig(LAQConfig):
    """Architecture and preprocessing of `LaryLAQ`. Defaults: LAPA-DINOv3 as published."""

    image_size: int = 224
    interpolation: str = ALIASED  # of its labels; "bilinear": of its training
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # not ImageNet's, in training and in the benchmark
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    tokens: int = TOKENS
    space_depth: int = 4
    time_depth: int = 4
    decoder_depth: int = 4
    features: str = DINO[3]  # frozen network of the frames, which the artefact does not hold
    features_revision: str | None = None


class LaryLAQ(LAQ):
    """LARYBench's quantizer of a pair of images, over features of a frozen DINO."""

    type = "lary-laq"
    arxiv = "2604.11689"
    config_class = LaryConfig
    config: LaryConfig

    def __init__(self, config: LaryConfig, features: FrozenFeatures | None = None):
        super().__init__(config, features)
        hint = "It was trained on others."
        checks.size("features", "channels, as in the file", self.features.dim, config.width, hint)

    @classmethod
    def frozen_features(cls, config: LaryConfig) -> FrozenFeatures:
        return FrozenFeatures(config.features, *cls.sight(config), revision=config.features_revision)


@checkpoint.importer(
    "lary-laq",
    sign=r"vq\.cnn_encoder\.0\.weight$",
    unless=r"to_patch_emb_first_frame\.\d",  # LAPA's
    mind="It is LAPA on features, with LAPA's oddities. No single gap was published, so `--stride` has no default: "
    "labels have 5 frames on calvin and vlabench, 45 on agibotbeta, 10 on robocoin (these names also work), training "
    "drew one for each pair, from n to 1.5 n frames with n from 1 to 30 by dataset.",
    needed={"stride": ""},
)
def lary_laq(
    path: FilePath,
    *,
    features: str | None = None,
    features_revision: str | None = None,
    image_size: int = 224,
    tokens: int = TOKENS,
    interpolation: str = ALIASED,
    cameras: tuple[str, ...] = ("image",),
    stride: str | None = None,
) -> LaryLAQ:
    """Read a latent action model of LARYBench, LAPA-DINOv3 or LAPA-DINOv2 (.pt or safetensors).

    The weights of its features come from the Hub when the model is loaded; a backbone in the file is not used.
    Raises `LattokError` also if `stride` is missing.

    Example: lattok convert lary-laq lapa_dinov3.pt my-lary --cameras front --stride calvin

    Args:
        path: The checkpoint.
        features: Frozen features the model was trained on (default: timm's DINOv3-L, or DINOv2-L if the file has a
            backbone without register tokens).
        features_revision: Revision of features from the Hub.
        image_size: Side of the frames in pixels.
        tokens: Codes of a pair, which the file does not hold.
        interpolation: How frames are resized: bicubic_aliased (OpenCV's, as its labels) or bilinear (as its training).
        cameras: The one camera of a dataset that the model looks at, short name allowed.
        stride: Gap of a frame pair, always named: frames ("10"), seconds ("0.5s"), or a dataset whose published one it
            is: calvin (5), vlabench (5), agibotbeta (45), robocoin (10).
    """
    if stride is None:
        known = ", ".join(f"{name} ({gap})" for name, gap in LABELLED.items())
        expected = f'a gap, "10" frames or "0.5s", or that of a dataset LARYBench labels: {known}'
        checks.fail("stride", expected, "none", "It was trained on gaps of 1 to 45 frames, drawn for each pair.")
    foreign = read_published(path, "lary-laq", "module.")
    facts: dict[str, Any] = {"features_revision": features_revision, "image_size": image_size}
    facts |= {"interpolation": interpolation, "cameras": tuple(cameras)}
    config = lary_config(foreign, features, tokens, stride=LABELLED.get(str(stride), str(stride)), **facts)
    unused = [*laq_unused(foreign), *(name for name in foreign if name.startswith(BACKBONE))]
    frozen = LaryLAQ.frozen_features(config)
    return checkpoint.converted(lambda: LaryLAQ(config, frozen), foreign, laq_names(config), str(path), unused)


def lary_config(foreign: Tensors, features: str | None = None, tokens: int = TOKENS, **facts: Any) -> LaryConfig:
    held = [name for name in foreign if name.startswith(BACKBONE)]
    version = 2 if held and not any("register_tokens" in name for name in held) else 3
    width = axis_of(foreign, "vq.project_in.weight", 1, 1024)
    return LaryConfig(features=features or DINO[version], width=width, **laq_sizes(foreign, tokens), **facts)
