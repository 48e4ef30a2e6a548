"""Recipe of the image latent action model: presets, and the stages in which one may be trained.

stage=1        one stream with instructions: its codebook becomes the environment codebook of stage 2
stage=2        controllable codes in addition to that codebook, which stays as it is (`env_codebook`)

A file of precomputed instructions (`text_features`) is a .safetensors or .npz with one array for each instruction,
under the instruction's own text: [words, D], or [D] for a single vector.
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lattok import hub
from lattok.data import RobotDataset, select_episodes
from lattok.data.instructions import frame_instructions
from lattok.hub.weights import read_tensors
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.image_lam.base.features import TextEncoder
from lattok.recipes.common import ADAMW
from lattok.recipes.pairs import SHOWN, SMALL, TINY, PairOptions, PairRecipe
from lattok.samples.batches import Instructions
from lattok.utils import checks
from lattok.utils.options import as_flags

COLOURS = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}  # as the published code changes them
FULL: dict[str, Any] = {
    **ADAMW,
    "steps": 100_000,
    "batch_size": 64,
    "lr": 1e-4,
    "clip_norm": 0.1,
    "log_every": 100,
    **COLOURS,
    "crop": 0.9,
    "crop_most": 0.9,
}
P2T: Mapping[str, Any] = {"action_target": "first", "codebook_restart_every": 100, "camera_count": 1}
ROBUST: dict[str, Any] = {
    "encoder": "fused",
    "encoder_query_start": "normal",
    "latent_heads": "per_token",
    "latent_norm": "batch",
    "quantizer": "residual",
    "codebook_update": "ema",
    "codebook_start": "kmeans",
    "codebook_continuous_steps": 300,
    "codebook_revive_below": 0.03,
    "decoder_conditioning": "add",
    "decoder_predict_change": True,
    "loss_commitment": 0.02,  # a moving-average codebook follows the latents by itself
}
ENCODED_TEXTS = 64  # texts that are encoded at once
STAGES: dict[int, dict[str, Any]] = {
    # most of what moves is the robot, which is for stage 2 to say
    1: {"streams": "control", "language": "t5:google-t5/t5-base", "labelled_fraction": 0.0, "loss_flow": 0.0},
    2: {"streams": "control+env"},
}
# What a codebook is tied to: which vectors it holds, and what the latents that it stands for were made from.
SHARED_WITH_STAGE_1 = ("quantizer", "latent_norm")
KEPT_IN_STAGE_2 = (*SHARED_WITH_STAGE_1, "stride", "cameras", "action_key", "episodes")
TAKEN_FROM_STAGE_1 = ("latent_dim", "features", "features_revision", "image_size", "interpolation")


@dataclass(frozen=True)
class StageOptions(PairOptions):
    """What is read from the dataset, which actions may supervise, and which earlier models are built on.

    Attributes:
        stage: stage of UniVLA; 1: environment codes, from instructions; 2: controllable codes beside them; left out:
            one stage alone
        env_codebook: model of stage 1, whose codebook stage 2 keeps as it is
        text_features: file with vectors of the instructions, where language is "precomputed"
    """

    stage: int | None = None
    env_codebook: str | None = None
    text_features: str | None = None


@dataclass(frozen=True)
class ImageLAMRecipe(PairRecipe[ImageLAM]):
    """Train a latent action model of video.

    - sizes: `full` (paper), `small` (one GPU), `tiny` (two cores)
    - joined with a size ("tiny+robust"): `p2t` (paper) or `robust`
    - `libero`, `robotwin`, `jaka`: `full+p2t`, the paper's recipe for its robots (A.1, D.2), the same for all
    - joined with `robust`: `flow`, codes that also say how pixels move, for few labels or none; `shared`, one codebook
    - joined with `p2t`: `p2t_code`, where the published code's action head differs from the paper
    """

    kind = "image-lam"
    lam = ImageLAM
    data: StageOptions = field(default_factory=StageOptions)
    model: ImageLAMConfig = field(default_factory=ImageLAMConfig)
    common = (*SHOWN, "stage", "env_codebook", "init", "feature_cache", *PairRecipe.common)
    example: ClassVar[Mapping[str, Any]] = {"preset": "tiny+robust", "features": "pixels"}
    small = "tiny+robust+flow"
    default_preset = "small+robust+flow"
    joined = ("p2t", "p2t_code", "robust", "shared", "flow")
    presets: ClassVar[Mapping[str, Any]] = {
        "full": FULL,
        "small": SMALL,
        "tiny": TINY,
        "p2t": P2T,
        **{robot: {**FULL, **P2T} for robot in ("libero", "robotwin", "jaka")},
        "p2t_code": {"action_head": "codes", "action_target": "chunk", "action_steps": 32, "loss_action": 0.5},
        "robust": ROBUST,
        "shared": {"quantizer": "vq", "loss_decorrelation": 0.1},
        "flow": {"loss_flow": 0.3},
    }

    @classmethod
    def combined(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options, with those that follow from the stage and from config.json of earlier models. Nothing
        else is read or written before."""
        stage, init, codebook = (given.get(name) for name in ("stage", "init", "env_codebook"))
        if stage is not None:
            checks.one_of("stage", stage, STAGES)
        implied = {} if stage is None else STAGES[stage]
        if stage is not None and given.get("streams", implied["streams"]) != implied["streams"]:
            checks.fail("streams", f"{implied['streams']!r} in stage {stage}", repr(given["streams"]))
        if init is not None and codebook is not None:
            raise checks.LattokError(f"`env_codebook` {codebook} cannot be used with init: the model brings its own.")
        options = super().combined({**preset, **implied}, given)
        if init is None and (codebook is not None or options.get("streams") == "control+env"):
            options |= _from_stage_1(codebook, options, given)
        if stage == 1 and options["language"] is None:
            checks.fail("language", "a text encoder in stage 1", "none", "t5:MODEL, or precomputed with text_features.")
        return options

    def words(
        self, datasets: Sequence[RobotDataset], before: ImageLAM | None
    ) -> tuple[Instructions | None, dict[str, int]]:
        language = self.model.language
        known = {} if before is None or self.data.init is None else {"language_dim": before.config.language_dim}
        if language is None:
            if self.data.text_features is not None:
                raise checks.LattokError("`text_features` are for stage 1, which reads instructions. Set stage=1.")
            return None, known
        chosen = ((dataset, select_episodes(dataset, self.data.episodes)) for dataset in datasets)
        texts = [text for dataset, episodes in chosen for text in frame_instructions(dataset, episodes)[0]]
        words = embed(language, self.data.text_features, texts)
        width = words.vectors.shape[2]
        if before is not None:
            checks.size("language", "numbers per word, as in the model to continue", width, before.config.language_dim)
        return words, {"language_dim": width}

    def inputs(self, before: ImageLAM | None) -> dict[str, str]:
        found, name = super().inputs(before), self.data.text_features
        if name is not None:
            found["text_features"] = hashlib.sha256(Path(name).expanduser().read_bytes()).hexdigest()
        return found

    def without_download(self, option: str) -> str:
        if option == "language":
            return "Without any download: language=precomputed, with text_features=FILE."
        return super().without_download(option)

    def next_step(self) -> str:
        if self.model.language is None:
            return super().next_step()
        source = [self.dataset] if self.dataset is not None else ["--mix", *self.data.mix]
        words = ["lattok", "train", self.kind, *source, "--out", "NEW", "--preset", self.preset]
        words += ["--stage", "2", "--env-codebook", self.out]
        plain, own = type(self).from_preset("DATASET", "OUT", self.preset).options(), self.options()
        words += as_flags({name: own[name] for name in KEPT_IN_STAGE_2 if own[name] != plain[name]})
        return f"Continue with stage 2: {shlex.join(words)}"


def _from_stage_1(codebook: str | None, options: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a stage-2 run takes over from stage 1: the codebook's size, and all that its latents depend on."""
    if options.get("streams") != "control+env":
        raise checks.LattokError(f"`env_codebook` {codebook} is for stage 2. Set stage=2.")
    if codebook is None:
        hint = "Train one with stage=1, or use streams=joint."
        checks.fail("env_codebook", "a stage-1 model for stage 2 (streams=control+env)", "none", hint)
    first: ImageLAMConfig = hub.config_of("env_codebook", codebook, ImageLAM)
    if first.streams != "control" or first.language is None:
        got = f"streams={first.streams}, language={first.language} in {codebook}"
        checks.fail("env_codebook", "a stage-1 model (streams=control with a language)", got)
    for name in SHARED_WITH_STAGE_1:
        ours, theirs = options.get(name, getattr(ImageLAMConfig, name)), getattr(first, name)
        if ours != theirs:
            hint = f"Use the preset of stage 1, or set {name}={theirs}."
            checks.fail(name, f"{theirs!r}, as in the stage-1 model", repr(ours), hint)
    taken = {"env_codebook_size": first.codebook_size, **{name: getattr(first, name) for name in TAKEN_FROM_STAGE_1}}
    if first.quantizer == "residual":  # a codebook for each of them
        taken["tokens"] = first.tokens
    for name in sorted(taken.keys() & given.keys()):
        if given[name] != taken[name]:
            expected = f"{taken[name]!r}, as in the stage-1 model"
            checks.fail(name, expected, repr(given[name]), f"Leave {name} out, or set {name}={taken[name]}.")
    return taken


def embed(language: str, path: str | None, texts: Sequence[str]) -> Instructions:
    """Return vectors of `texts`, by a frozen text encoder ("t5:MODEL"), or read from a file ("precomputed")."""
    if (language == "precomputed") != (path is not None):
        expected = "a file of vectors with language=precomputed, none with another"
        checks.fail("text_features", expected, f"{path or 'none'} with language={language}")
    texts = sorted(set(texts))
    if path is not None:
        vectors = read_vectors(Path(path).expanduser())
        if missing := [text for text in texts if text not in vectors]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            checks.fail("text_features", "vectors of every instruction", f"none of {missing[0]!r}{more}")
        widths = sorted({vectors[text].shape[1] for text in texts})
        if len(widths) > 1:
            checks.fail("text_features", "vectors of one width", f"widths {', '.join(map(str, widths))}")
        return Instructions.joined({text: vectors[text] for text in texts})
    encoder, words = TextEncoder(language).load(), dict[str, Tensor]()
    for start in range(0, len(texts), ENCODED_TEXTS):
        batch = texts[start : start + ENCODED_TEXTS]
        vectors, mask = encoder.encode(batch)
        words.update({text: row[used] for text, row, used in zip(batch, vectors, mask, strict=True)})
    return Instructions.joined(words)


def read_vectors(path: Path) -> dict[str, Tensor]:
    """Read the vectors [words, D] of each text in a file."""
    if path.suffix not in (".safetensors", ".npz"):
        checks.fail("text_features", "a .safetensors or .npz file", str(path))
    try:
        if path.suffix == ".safetensors":
            arrays = read_tensors(path)
        else:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # numpy leaves damage open
                arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}
    except Exception as error:  # both formats raise many kinds for a damaged file; the user needs one line
        checks.fail("text_features", f"a file of arrays; {str(path)!r} could not be read", checks.first_line(error))
    vectors = {text: array[None] if array.ndim == 1 else array for text, array in arrays.items()}
    for text, array in vectors.items():
        if array.ndim != 2 or 0 in array.shape or not array.is_floating_point() or not bool(array.isfinite().all()):
            expected = f"finite floating-point vectors [words, D] for {text!r}"
            checks.fail("text_features", expected, f"{array.dtype} of shape {list(arrays[text].shape)}")
    return {text: array.float() for text, array in vectors.items()}
