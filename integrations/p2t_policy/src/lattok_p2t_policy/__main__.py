"""`python -m lattok_p2t_policy`: a published policy becomes a folder that `lattok.load` opens."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

from lattok.cli import main, run_verb
from lattok.cli.flags import Arg, File, MaybeFolder, Verb
from lattok_p2t_policy.convert import BASE_MODEL, check_new, read_p2t_vla


def convert(
    file: File,
    out: Annotated[str, Arg("OUT", "New folder for modules, adapter/ and conversion.json.", positional=True)],
    horizon: Annotated[int, Arg("H")],
    heads: int = 8,
    image_tokens: int = 512,
    lora_alpha: float = 16,
    base_model: Annotated[str, Arg("MODEL")] = BASE_MODEL,
    backbone_out: MaybeFolder = None,
) -> None:
    """Convert a published policy (P2T): its own modules as released, and its LoRA for peft.

    Example: python -m lattok_p2t_policy vla_step_80000.pt released --horizon 8

    Args:
        horizon: Steps of an action chunk; the file does not hold it (8 on LIBERO, 25 on RoboTwin, 20 on JAKA).
        heads: Attention heads of the action head; the file does not hold it.
        image_tokens: Tokens that the action head takes for image tokens.
        lora_alpha: Alpha of the adapter; the file does not hold it.
        base_model: Language model that the adapter is for.
        backbone_out: New folder outside OUT for the language model's weights, adapter merged, if the file holds them.
    """
    folder = Path(out).expanduser()
    backbone = None if backbone_out is None else Path(backbone_out).expanduser()
    check_new(folder, backbone)
    facts = {"heads": heads, "image_tokens": image_tokens, "lora_alpha": lora_alpha, "base_model": base_model}
    converted = read_p2t_vla(file, horizon=horizon, **facts)
    converted.save(folder, backbone)
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
    one = " Its head has no positions: it gives one action for all steps of a chunk." * (config.variant == "base")
    print(
        "Its actions are in the normalised units of its training, whose statistics the file does not hold. Why it does "
        f"not become a LatentVLA: docs/howto/published_policies.md.{one}"
    )
    adapter = "; adapter/ is for peft" if lora else ""
    print(f"Saved in {out}, with these facts as conversion.json{adapter}. Use it: lattok.load({out!r})")
    if backbone is not None:
        merged = " Its adapter is merged: do not load adapter/ on top." if lora else ""
        print(f"Language model in {backbone_out}; copy config.json and the processor of its base model there.{merged}")


if __name__ == "__main__":
    sys.exit(main(run=partial(run_verb, "python -m lattok_p2t_policy", Verb(convert))))
