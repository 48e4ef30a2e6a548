"""What a latent action model takes over from models that were trained before it.

stage=1        one stream with instructions: its codebook becomes the environment codebook of stage 2
stage=2        controllable codes in addition to that codebook, which stays as it is (`env_codebook`)
init=MODEL     any latent action model goes on learning, on other data

Options are settled from the earlier model's config.json before anything else is read or written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lattok import hub
from lattok.image_lam import ImageLAM, ImageLAMConfig, TrainedPairModel
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.options import flat, options_of

STAGES: dict[int, dict[str, Any]] = {
    # most of what moves is the robot, which is for stage 2 to say
    1: {"streams": "control", "language": "t5:google-t5/t5-base", "labelled_fraction": 0.0, "loss_flow": 0.0},
    2: {"streams": "control+env"},
}
# What a continued model may change: neither the shapes of its weights nor their meaning depend on it.
FREE = frozenset(
    {"stride", "extra_strides", "dropout", "language", "action_head", "action_target", "action_steps"}
    | {"codebook_restart_every"}
)
# What a codebook is tied to: which vectors it holds, and what the latents that it stands for were made from.
KIND = ("quantizer", "latent_norm")
TAKEN = ("latent_dim", "features", "features_revision", "image_size", "interpolation")


def combined(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a recipe, from those of presets, stage and earlier models, and those `given` by name."""
    stage, init, codebook = (given.get(name) for name in ("stage", "init", "env_codebook"))
    if stage is not None:
        checks.one_of("stage", stage, STAGES)
    implied = {} if stage is None else STAGES[stage]
    for name in implied.keys() & {"streams"} & given.keys():
        if given[name] != implied[name]:
            checks.fail(name, f"{implied[name]!r} in stage {stage}", repr(given[name]))
    if init is not None:
        if codebook is not None:
            raise LattokError(f"`env_codebook` {codebook} cannot be used with init: the model brings its own.")
        options = continued(ImageLAM, init, preset, implied, given)
    else:
        options = {**preset, **implied, **given}
        if codebook is not None or options.get("streams") == "control+env":
            options |= _from_stage_1(codebook, options, given)
    if stage == 1 and options["language"] is None:
        checks.fail("language", "a text encoder in stage 1", "none", "t5:MODEL, or precomputed with text_features.")
    return options


def continued(
    family: type[TrainedPairModel],
    init: str,
    preset: Mapping[str, Any],
    implied: Mapping[str, Any],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Return options of a run that continues `init`: the architecture is the model's, not the presets'."""
    own = {each.name for each in options_of(family.config_class) if not each.field.metadata.get("from_data")}
    model = {name: value for name, value in flat(hub.config_of("init", init, family)).items() if name in own}
    if implied.get("streams", model["streams"]) != model["streams"]:
        checks.fail("init", f"a model with streams={implied['streams']} for this stage", f"streams={model['streams']}")
    for name in sorted(own & given.keys()):
        if given[name] != model[name] and not _may_change(name, model[name], given[name]):
            checks.fail(name, f"{model[name]!r}, as the model in init was trained with", repr(given[name]))
    loop_and_data = {name: value for name, value in {**preset, **implied}.items() if name not in own}
    return {**loop_and_data, **model, **given}


def _may_change(name: str, before: Any, after: Any) -> bool:
    if name in ("loss_kl", "loss_features"):  # a bottleneck or a decoder with weights of its own
        return before > 0 and after > 0
    return name in FREE or name.startswith("loss_")


def _from_stage_1(codebook: str | None, options: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a stage-2 run takes over from stage 1: the codebook's size, and all that its latents depend on."""
    if options.get("streams") != "control+env":
        raise LattokError(f"`env_codebook` {codebook} is for stage 2. Set stage=2.")
    if codebook is None:
        hint = "Train one with stage=1, or use streams=joint."
        checks.fail("env_codebook", "a stage-1 model for stage 2 (streams=control+env)", "none", hint)
    first: ImageLAMConfig = hub.config_of("env_codebook", codebook, ImageLAM)
    if first.streams != "control" or first.language is None:
        got = f"streams={first.streams}, language={first.language} in {codebook}"
        checks.fail("env_codebook", "a stage-1 model (streams=control with a language)", got)
    for name in KIND:
        ours, theirs = options.get(name, getattr(ImageLAMConfig, name)), getattr(first, name)
        if ours != theirs:
            hint = f"Use the preset of stage 1, or set {name}={theirs}."
            checks.fail(name, f"{theirs!r}, as in the stage-1 model", repr(ours), hint)
    taken = {"env_codebook_size": first.codebook_size, **{name: getattr(first, name) for name in TAKEN}}
    if first.quantizer == "residual":  # a codebook for each of them
        taken["tokens"] = first.tokens
    for name in sorted(taken.keys() & given.keys()):
        if given[name] != taken[name]:
            expected = f"{taken[name]!r}, as in the stage-1 model"
            checks.fail(name, expected, repr(given[name]), f"Leave {name} out, or set {name}={taken[name]}.")
    return taken
