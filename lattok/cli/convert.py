"""`lattok convert` and `lattok push`: published checkpoints become lattok models, and models are published."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

import lattok
from lattok.cli.flags import File, MaybeFolder, Names, Number, Out, Text
from lattok.utils import checks
from lattok.utils.output import Output

OneCamera = Annotated[
    tuple[str, ...], arg(metavar="NAME", help="The one camera that the model looks at, short name allowed.")
]
FileOrFolder = Annotated[
    Positional[str], arg(metavar="FILE", help="The checkpoint, or the folder that it lies in. Nothing in it is run.")
]
Settings = Annotated[
    str | None,
    arg(
        metavar="FILE",
        help="The published settings, .json or .yaml (default: those next to the checkpoint).",
        help_behavior_hint="",
    ),
]
Gap = Annotated[str, arg(metavar="TEXT", help='Gap of a frame pair: frames ("30") or seconds ("1.6s").')]


@dataclass(frozen=True)
class LAMFacts:
    """What the file of a latent action model does not hold; left out: as published."""

    heads: Annotated[int, arg(metavar="N")] = 12
    """Attention heads."""
    cameras: Annotated[tuple[str, ...], arg(metavar="NAME")] = ("image",)
    """The one camera of a dataset that the model looks at, short name allowed."""
    stride: Annotated[str, arg(metavar="TEXT")] = "32"
    """Gap of a frame pair: frames ("32") or seconds ("0.2s")."""
    features: Annotated[str, arg(metavar="TEXT")] = "timm:vit_base_patch14_reg4_dinov2.lvd142m"
    """Frozen features the model was trained on."""
    features_revision: Text = None
    """Revision of features from the Hub."""
    image_size: Annotated[int, arg(metavar="N")] = 224
    """Side of the frames in pixels."""
    language: Annotated[str, arg(metavar="TEXT")] = "t5:google-t5/t5-base"
    """Text encoder of a stage-1 model: t5:MODEL or precomputed."""
    features_out: MaybeFolder = None
    """New folder for the image backbone in the file; the model then uses that, at this place, and needs no download."""


def p2t_action_vq(
    file: File,
    out: Out,
    horizon: Annotated[int, arg(metavar="H")],
    heads: Annotated[int, arg(metavar="N")] = 4,
    dilations: Annotated[tuple[int, ...], arg(metavar="N ...")] = (1, 2, 4),
    statistics: Text = None,
    normalize: Text = None,
    action_names: Names = (),
    action_kind: str = "unspecified",
) -> None:
    """Convert a published action tokenizer (P2T, tokenizer_step_N.pt or safetensors).

    Example: lattok convert p2t-action-vq tokenizer_step_50000.pt my-tokenizer --horizon 8

    Args:
        horizon: Steps of an action chunk; the file does not hold it (8 on LIBERO, 25 on RoboTwin, 20 on JAKA).
        heads: Attention heads; the file does not hold it.
        dilations: Dilation of each convolution; the file does not hold it.
        statistics: JSON file with the statistics that actions were normalised with in training: mean and std, q01
            and q99, or min and max, one number per dimension; or meta/stats.json of a LeRobot dataset. Left out,
            actions are taken as they are.
        normalize: Which of several statistics: mean_std, quantile or min_max (default: the first that is there).
        action_names: Names of the action dimensions, for reports.
        action_kind: relative, absolute or unspecified.
    """
    folder = _new_folder(out)
    model = lattok.convert.p2t_action_vq(
        file,
        horizon=horizon,
        heads=heads,
        dilations=dilations,
        action_names=action_names,
        action_kind=action_kind,
        statistics=statistics,
        normalize=normalize,
    )
    config = model.config
    print(
        f"Found: {config.action_dim} action dimensions, {config.codebook_size} codes of width {config.dim}, "
        f"{len(config.dilations)} convolutions, {config.depth} Transformer layers, "
        f"{'with' if config.fft else 'without'} FFT; normalisation: {config.normalize}; "
        f"taken as given: horizon {config.horizon}, {config.heads} heads."
    )
    _save(model, folder, out)


def p2t_image_lam(
    file: File, out: Out, action_dim: Annotated[int, arg(metavar="M")] = 7, facts: LAMFacts = LAMFacts()
) -> None:
    """Convert a published latent action model of P2T, stage 1 or 2 (Lightning checkpoint or safetensors).

    Example: lattok convert p2t-image-lam last.ckpt my-lam --stride 11

    Args:
        action_dim: Dimensions of the action head, which is checked and left out.
    """
    folder = _new_folder(out)
    _save_lam(lattok.convert.p2t_image_lam(file, action_dim=action_dim, **vars(facts)), folder, out)


def univla_lam(file: File, out: Out, facts: LAMFacts = LAMFacts()) -> None:
    """Convert UniVLA's latent action model, stage 1 or 2 (lam-stage-1.ckpt, lam-stage-2.ckpt or safetensors).

    Example: lattok convert univla-lam lam-stage-2.ckpt my-lam
    """
    folder = _new_folder(out)
    _save_lam(lattok.convert.univla_lam(file, **vars(facts)), folder, out)


def moto_lam(
    file: Annotated[Positional[str], arg(metavar="FILE", help="LARA's folder, or the file of Moto or LARA.")],
    out: Out,
    config: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None,
    cameras: Annotated[tuple[str, ...], arg(metavar="NAME")] = ("image",),
    stride: Annotated[str, arg(metavar="TEXT")] = "15",
    pixels: str = "imagenet",
    features: Text = None,
    features_revision: Text = None,
) -> None:
    """Convert the latent action model of Moto or LARA, which predicts pixels.

    Example: lattok convert moto-lam LARA_full/latent_motion_tokenizer my-lam

    Args:
        config: Published settings, .json or .yaml (default: config.json or config.yaml next to the weights).
        cameras: The one camera of a dataset that the model looks at, short name allowed.
        stride: Gap of a frame pair: frames ("15") or seconds ("0.5s").
        pixels: Range of its pixels: imagenet (Moto, LARA's policies) or unit (LARA's first stage alone).
        features: Frozen features in place of those in the file (default: these, or else
            hf:facebook/vit-mae-large).
        features_revision: Revision of features from the Hub.
    """
    folder = _new_folder(out)
    facts = {"stride": stride, "pixels": pixels, "features": features, "features_revision": features_revision}
    model = lattok.convert.moto_lam(file, config, cameras=cameras, **facts)
    c = model.config
    also = f"{c.feature_decoder_depth} that predict features, " if c.feature_weight else ""
    print(
        f"Found: {c.tokens} tokens of {c.codebook_size} codes, latents of width {c.latent_dim}, {c.encoder_depth} "
        f"blocks of width {c.width}, {c.decoder_depth} of width {c.decoder_width} that predict pixels, {also}"
        f"features {c.features} at {c.image_size} pixels; taken as given: {c.heads} + {c.decoder_heads} heads, stride "
        f"{c.stride}, camera {c.cameras[0]}, {pixels} pixels."
    )
    print("Patches keep their order; published labels were drawn with a random one, so that theirs differ.")
    _save(model, folder, out)


def _save_lam(model: Any, folder: Path, out: str) -> None:
    config = model.config
    stage, also = (1, "") if model.env is None else (2, f", {config.env_codebook_size} in the environment's codebook")
    left_out = "; its action head is left out" if model.action_head is not None else ""
    print(
        f"Found: stage {stage}, {config.tokens} tokens of {config.codebook_size} codes{also}, latents of width "
        f"{config.latent_dim}, {config.encoder_depth} + {config.decoder_depth} blocks of width {config.width}"
        f"{left_out}; taken as given: {config.heads} heads, stride {config.stride}, camera {config.cameras[0]}, "
        f"features {config.features} at {config.image_size} pixels"
        f"{f', language {config.language}' if config.language else ''}."
    )
    then = ""
    if model.env is None:  # it needs instructions, which datasets' videos do not hold
        words = shlex.join(["--stage", "2", "--env-codebook", out])
        then = f"Learn stage 2 with its codebook: lattok train image-lam DATASET --out DIR {words}"
    _save(model, folder, out, then)


def lapa_laq(
    file: File,
    out: Out,
    tokens: Number = None,
    image_size: Number = None,
    cameras: OneCamera = ("image",),
    stride: Gap = "30",
) -> None:
    """Convert LAPA's latent action quantizer (laq_openx.pt, vae.N.pt or safetensors).

    Example: lattok convert lapa-laq laq_openx.pt my-lapa --cameras front

    Args:
        tokens: Codes of a pair, where the file fits two numbers: 4 or 16, 64 or 256 (default: the smaller one).
        image_size: Side of the frames in pixels (default: as in published training for so many codes).
    """
    folder = _new_folder(out)
    model = lattok.convert.lapa_laq(file, tokens=tokens, image_size=image_size, cameras=cameras, stride=stride)
    _save_published(model, folder, out)


def lary_laq(
    file: File,
    out: Out,
    features: Text = None,
    features_revision: Text = None,
    image_size: Annotated[int, arg(metavar="N")] = 224,
    tokens: Annotated[int, arg(metavar="N")] = 16,
    interpolation: Annotated[str, arg(metavar="TEXT")] = "bicubic_aliased",
    cameras: OneCamera = ("image",),
    stride: Text = None,
) -> None:
    """Convert a latent action model of LARYBench, LAPA-DINOv3 or LAPA-DINOv2 (.pt or safetensors).

    Example: lattok convert lary-laq lapa_dinov3.pt my-lary --cameras front --stride calvin

    Args:
        features: Frozen features the model was trained on (default: timm's DINOv3-L or DINOv2-L, as the file says).
        features_revision: Revision of features from the Hub.
        image_size: Side of the frames in pixels.
        tokens: Codes of a pair, which the file does not hold.
        interpolation: Of resized frames: bicubic_aliased (OpenCV's, as its labels) or bilinear (as its training).
        stride: Gap of a frame pair, always named: frames ("10"), seconds ("0.5s"), or a dataset whose published one it
            is: calvin (5), vlabench (5), agibotbeta (45), robocoin (10).
    """
    folder = _new_folder(out)
    facts = {"features": features, "features_revision": features_revision, "interpolation": interpolation}
    facts |= {"cameras": cameras, "stride": stride}
    _save_published(lattok.convert.lary_laq(file, image_size=image_size, tokens=tokens, **facts), folder, out)


def lawam_lam(
    file: FileOrFolder,
    out: Out,
    config: Settings = None,
    wide_frames: Annotated[str, arg(metavar="TEXT")] = "crop",
    cameras: OneCamera = ("image",),
    stride: Gap = "1.6s",
) -> None:
    """Convert LaWAM's latent action model (a LeRobot policy folder, lam.ckpt, a policy's .pt or safetensors).

    Example: lattok convert lawam-lam lam.ckpt my-lawam --config lam.yaml

    Args:
        wide_frames: Frames wider than 4:3: crop (cut in the middle, as in training) or squeeze (as LeRobot does).
    """
    folder = _new_folder(out)
    facts = {"wide_frames": wide_frames, "cameras": cameras, "stride": stride}
    _save_published(lattok.convert.lawam_lam(file, config, **facts), folder, out)


def adaworld_lam(
    file: File,
    out: Out,
    image_size: Annotated[int, arg(metavar="N")] = 256,
    cameras: OneCamera = ("image",),
    stride: Gap = "2",
) -> None:
    """Convert AdaWorld's latent action autoencoder (lam.ckpt or safetensors).

    Example: lattok convert adaworld-lam lam.ckpt my-adaworld --stride 0.2s

    Args:
        image_size: Side of the square frames in pixels; the file does not hold it.
    """
    folder = _new_folder(out)
    model = lattok.convert.adaworld_lam(file, image_size=image_size, cameras=cameras, stride=stride)
    _save_published(model, folder, out)


def villax_lam(
    file: FileOrFolder,
    out: Out,
    config: Settings = None,
    cameras: OneCamera = ("image",),
    stride: Gap = "1",
) -> None:
    """Convert villa-X's latent action model (the folder with model.safetensors and model_config.json, or the first).

    Example: lattok convert villax-lam villa-x/lam my-villax --stride 0.5s
    """
    folder = _new_folder(out)
    _save_published(lattok.convert.villax_lam(file, config, cameras=cameras, stride=stride), folder, out)


def _save_published(model: Any, folder: Path, out: str) -> None:
    config = model.config
    said = (
        f"{config.tokens} x {config.latent_dim} numbers"
        if model.codebook_size is None
        else (f"{config.tokens} codes of {config.codebook_size}, latents of width {config.latent_dim}")
    )
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(
        f"Found: {said}, {millions:.1f} M parameters, frames of {config.image_size} pixels; taken as given: "
        f"stride {config.stride}, camera {config.cameras[0]}."
    )
    _save(model, folder, out)


def push(
    folder: Annotated[Positional[str], arg(metavar="DIR")],
    repo_id: Annotated[Positional[str], arg(metavar="ORG/NAME")],
    private: bool = False,
    license: Text = None,
    message: Text = None,
    revision: Text = None,
    create_pr: bool = False,
    include: Names = (),
) -> None:
    """Publish a model or an annotated dataset on the Hub, with its card. Log in before (`hf auth login`).

    Example: lattok push my-lam my-name/my-lam --license apache-2.0

    Args:
        folder: Folder of a model, of a LeRobot dataset, or of labels that annotate wrote for another dataset.
        repo_id: Name on the Hub.
        private: Make the repository private.
        license: Short name of a licence for the card, such as apache-2.0.
        message: Message of the commit.
        revision: Branch; it is made where it is not there.
        create_pr: Open a pull request instead.
        include: Further files of a dataset's folder, by their paths in it; nothing else goes up but the dataset.
    """
    from lattok.labels.sharing import listing

    options: dict[str, Any] = {"license": license, "commit_message": message, "revision": revision}
    options |= {"create_pr": create_pr, "private": private or None}
    if (Path(folder) / "report.json").is_file():
        hint = "Push the model: its card says what its last evaluation gave."
        checks.fail("folder", "that of a model, a dataset or labels", f"{folder}, which holds a report", hint)
    if (Path(folder) / "meta").is_dir():
        print(listing(folder, include).report(), flush=True)  # before anything is sent
        print(lattok.push_dataset(folder, repo_id, include=include, **options))
    elif include:
        checks.fail("include", "to be left out: a model goes up with its own files", " ".join(include))
    else:
        print(lattok.load(folder).push_to_hub(repo_id, **options))


def _new_folder(out: str) -> Path:
    """Return `out` as a path, refused where something is there: nothing is ever overwritten."""
    folder = Path(out).expanduser()
    Output(folder).check_new()
    return folder


def _save(model: Any, folder: Path, out: str, then: str = "") -> None:
    """Save a converted model and say what to do `then`; unless that is given, how to judge it."""
    from lattok.hub import OWN
    from lattok.hub.networks import way_in

    with Output(folder).filled(OWN):
        model.save_pretrained(folder)
    then = then or f"Judge it: {shlex.join(['lattok', 'evaluate', out])} DATASET"
    print(f"Saved in {out}. {then}{way_in(model.config)}")
