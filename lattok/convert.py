"""Published checkpoints as lattok models: `lattok.convert.p2t_action_vq(path)`. The maps stand with each model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from lattok import checks, files, hub
from lattok.action_vq.convert import p2t_action_vq
from lattok.image_lam import ImageLAM
from lattok.image_lam.convert import p2t_image_lam, univla_lam
from lattok.vla.convert import p2t_vla, read_p2t_vla

__all__ = ["p2t_action_vq", "p2t_image_lam", "p2t_vla", "univla_lam"]


def convert_p2t_action_vq(path: str, out: str, **facts: Any) -> None:
    """What `lattok convert p2t-action-vq` does: convert, say what was found, save into the new folder `out`."""
    folder = _new_folder(out)
    model = p2t_action_vq(path, **facts)
    config = model.config
    print(
        f"Found: {config.action_dim} action dimensions, {config.codebook_size} codes of width {config.dim}, "
        f"{len(config.dilations)} convolutions, {config.depth} Transformer layers, "
        f"{'with' if config.fft else 'without'} FFT; normalisation: {config.normalize}; "
        f"taken as given: horizon {config.horizon}, {config.heads} heads."
    )
    with files.new_folder(folder, hub.OWN):
        model.save_pretrained(folder)
    print(f"Saved in {out}. Judge it: {shlex.join(['lattok', 'evaluate', out])} DATASET")


def convert_p2t_image_lam(path: str, out: str, **facts: Any) -> None:
    """What `lattok convert p2t-image-lam` does: convert, say what was found, save into the new folder `out`."""
    folder = _new_folder(out)
    _save_lam(p2t_image_lam(path, **facts), folder, out)


def convert_univla_lam(path: str, out: str, **facts: Any) -> None:
    """What `lattok convert univla-lam` does: as `convert_p2t_image_lam`."""
    folder = _new_folder(out)
    _save_lam(univla_lam(path, **facts), folder, out)


def _save_lam(model: ImageLAM, folder: Path, out: str) -> None:
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
    with files.new_folder(folder, hub.OWN):
        model.save_pretrained(folder)
    if model.env is not None:
        print(f"Saved in {out}. Judge it: {shlex.join(['lattok', 'evaluate', out])} DATASET")
    else:  # it needs instructions, which datasets' videos do not hold
        words = shlex.join(["--stage", "2", "--env-codebook", out])
        print(f"Saved in {out}. Learn stage 2 with its codebook: lattok train image-lam DATASET --out DIR {words}")


def convert_p2t_vla(path: str, out: str, backbone_out: str | None = None, **facts: Any) -> None:
    """What `lattok convert p2t-vla` does: convert, say what was found and what of it lattok's own policy can represent.

    The language model, adapter merged, goes into the new folder `backbone_out` if there is one.
    """
    folder = _new_folder(out)
    backbone = None if backbone_out is None else _new_folder(backbone_out, "backbone_out")
    if backbone is not None and backbone.resolve() == folder.resolve():
        checks.fail("backbone_out", "another folder than OUT", backbone_out)
    converted = read_p2t_vla(path, **facts)
    if backbone is not None:
        converted.check_backbone()
    config, lora = converted.model.config, converted.lora
    also = [f"proprio of {config.proprio_dim} numbers"] if config.proprio_dim else []
    also += ["the pooling of LA-Direct"] if config.pooling else []
    also += [f"the projector of LA-Align to width {config.latent_dim}"] if config.latent_dim else []
    also += [f"LoRA of rank {lora.rank} on {len(lora.pairs)} layers"] if lora else []
    also += [f"{len(converted.backbone)} tensors of the language model"] if converted.backbone else []
    print(
        f"Found: {config.variant} head of {config.blocks} blocks of width {config.dim} for {config.action_dim} action "
        f"dimensions{''.join(f', {what}' for what in also)}; taken as given: horizon {config.horizon}, {config.heads} "
        f"heads, {config.image_tokens} image tokens{f', alpha {lora.alpha:g}' if lora else ''}."
    )
    for row in converted.report["latent_vla"]:
        instead = f" LatentVLA: {row['instead']}." if "instead" in row else ""
        print(f"- {row['part']}: {'' if row['representable'] else 'not in LatentVLA: '}{row['reason']}.{instead}")
    converted.save(folder, backbone)
    adapter = "; adapter/ is for peft" if lora else ""
    print(f"Saved in {out}, with this list as conversion.json{adapter}. Use it: lattok.load({out!r})")
    if backbone is not None:
        merged = " Its adapter is merged: do not load adapter/ on top." if lora else ""
        print(f"Language model in {backbone_out}; copy config.json and the processor of its base model there.{merged}")


def _new_folder(out: str, argument: str = "out") -> Path:
    """`out` as a path; what is already there is never overwritten."""
    folder = Path(out).expanduser()
    if not files.is_new(folder):
        hint = "Choose another OUT." if argument == "out" else "Choose another folder."
        checks.fail(argument, "a new or empty folder", f"{folder}, which holds something", hint)
    return folder
