"""LeRobot's own policies, small and with random weights, and batches as its training has them."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

CAMERA, STEPS, HZ = "observation.images.corner2", 8, 80
PARTS = ("codes", "embedding", "valid")
NEEDS = {"diffusion": "diffusers", "smolvla": "transformers"}  # extras of LeRobot 0.6


def lerobot(name: str) -> Any:
    """A module of the package."""
    return importlib.import_module(f"lerobot.{name}")


def needs(kind: str) -> None:
    """Skip where a policy cannot be made."""
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind], reason=f"LeRobot's {kind} needs it")


def script(name: str, **options: Any) -> None:
    """Run a script of LeRobot with these options, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        words = [f"--{key.replace('__', '.')}={value}" for key, value in options.items()]
        patch.setattr(sys, "argv", [name, *words])
        lerobot(f"scripts.{name}").main()


def run_training(root: Path, out: Path, steps: int, policy: dict[str, Any], **loop: Any) -> Path:
    """Run `lerobot-train`; returns the folder of its checkpoint."""
    data = {"dataset__repo_id": "org/name", "dataset__root": root, "dataset__video_backend": "pyav"}
    loop |= {"steps": steps, "num_workers": 0, "save_freq": steps, "seed": 1}
    script("lerobot_train", output_dir=out, **data, **loop, **{f"policy__{key}": v for key, v in policy.items()})
    return out / "checkpoints" / f"{steps:06d}" / "pretrained_model"


def processors(policy: Any, folder: Path | None = None, **options: Any) -> Any:
    return lerobot("policies.factory").make_pre_post_processors(policy.config, folder, **options)


def window(steps: int = STEPS, labels: int | None = None, prefix: str = "latent") -> dict[str, list[float]]:
    """`delta_timestamps` for actions and the labels of as many steps."""
    times = [step / HZ for step in range(steps)]
    return {"action": times} | {f"{prefix}.{part}": times[: labels or steps] for part in PARTS}


def batches(dataset: Any, count: int, preprocessor: Any, size: int = 8) -> list[dict[str, Any]]:
    """The first batches of a shuffled loader, as the policy gets them."""
    generator = torch.Generator().manual_seed(0)
    loader = torch.utils.data.DataLoader(dataset, batch_size=size, shuffle=True, generator=generator)
    return [preprocessor(batch) for _, batch in zip(range(count), loader, strict=False)]


def features(meta: Any) -> dict[str, dict[str, Any]]:
    """Inputs and outputs of a policy that sees one camera and the robot's state."""
    kinds = lerobot("configs.types")
    shapes = {
        key: kinds.PolicyFeature(kind, tuple(shape))
        for key, kind, shape in (
            (CAMERA, kinds.FeatureType.VISUAL, (3, 128, 128)),
            ("observation.state", kinds.FeatureType.STATE, meta.features["observation.state"]["shape"]),
            ("action", kinds.FeatureType.ACTION, meta.features["action"]["shape"]),
        )
    }
    return {
        "input_features": {k: v for k, v in shapes.items() if k != "action"},
        "output_features": {"action": shapes["action"]},
    }


def act(meta: Any, **options: Any) -> tuple[Any, Any]:
    """ACT and its preprocessor."""
    sizes = {"dim_model": 64, "n_heads": 4, "dim_feedforward": 128, "n_encoder_layers": 2, "latent_dim": 8}
    config = lerobot("policies.act.configuration_act").ACTConfig(
        **features(meta), **sizes, **{"chunk_size": STEPS, "n_action_steps": STEPS, **options},
        n_vae_encoder_layers=1, pretrained_backbone_weights=None, device="cpu", push_to_hub=False,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = lerobot("policies.act.modeling_act").ACTPolicy(config)
    process, _ = lerobot("policies.act.processor_act").make_act_pre_post_processors(config, meta.stats)
    return policy, process


def diffusion(meta: Any, **options: Any) -> tuple[Any, Any]:
    """Diffusion Policy, which wants states with an axis of time, and its preprocessor."""
    needs("diffusion")
    config = lerobot("policies.diffusion.configuration_diffusion").DiffusionConfig(
        **features(meta), **{"horizon": STEPS, "n_action_steps": STEPS, "n_obs_steps": 1, **options},
        down_dims=(32, 64), diffusion_step_embed_dim=32, num_inference_steps=4, drop_n_last_frames=0,
        pretrained_backbone_weights=None, device="cpu", push_to_hub=False,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = lerobot("policies.diffusion.modeling_diffusion").DiffusionPolicy(config)
    make = lerobot("policies.diffusion.processor_diffusion").make_diffusion_pre_post_processors
    return policy, make(config, meta.stats)[0]


def smolvla(meta: Any, folder: Path, **options: Any) -> tuple[Any, Any]:
    """SmolVLA over a random vision-language model of four layers, and its preprocessor."""
    config = lerobot("policies.smolvla.configuration_smolvla").SmolVLAConfig(
        **features(meta), **{"chunk_size": STEPS, "n_action_steps": STEPS, **options},
        vlm_model_name=str(tiny_smolvlm(folder)), load_vlm_weights=False, num_vlm_layers=4, num_steps=4,
        max_state_dim=32, max_action_dim=8, resize_imgs_with_padding=(32, 32), device="cpu", push_to_hub=False,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = lerobot("policies.smolvla.modeling_smolvla").SmolVLAPolicy(config)
    make = lerobot("policies.smolvla.processor_smolvla").make_smolvla_pre_post_processors
    return policy, make(config, meta.stats)[0]


def tiny_smolvlm(folder: Path) -> Path:
    """The configuration and the processor of a SmolVLM2 of 0.2 M parameters, without weights."""
    needs("smolvla")
    transformers, tokenizers = (importlib.import_module(name) for name in ("transformers", "tokenizers"))
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = tokenizers.decoders.ByteLevel()
    named = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    tokens.add_special_tokens(["<pad>", "<eos>", *named.values()])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="<eos>", extra_special_tokens=named
    )
    images = transformers.SmolVLMImageProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 32})
    video = transformers.SmolVLMVideoProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 32})
    transformers.SmolVLMProcessor(images, tokenizer, video, image_seq_len=4).save_pretrained(folder)
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": len(tokenizer), "model_type": "llama"}
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.SmolVLMConfig(
        text_config=text,
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    config.save_pretrained(folder)
    return folder
