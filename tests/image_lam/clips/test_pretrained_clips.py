"""`ClipLAM` and its students over Hugging Face backbones, tiny and random."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import lattok
from lattok.backbones.model import with_base
from lattok.image_lam.clips import ClipLAM
from lattok.types import Shares
from lattok.vla import LatentVLA
from lattok.vla.latbot import Distillation, taught_by, text_errors
from tests.backbones.conftest import need_transformers
from tests.conftest import write_dataset
from tests.errors import refused
from tests.image_lam.clips.fakes import batch, clip_lam, config, pixels
from tests.vla.fakes import config as policy_config
from tests.vla.fakes import observation

need_transformers()

pytestmark = pytest.mark.ci

OVER = {"backbone_train": "lora", "backbone_lora_rank": 2, "image_size": 56}


def with_lora(model):
    """Adapters that do something, else one half of them gets no gradient."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def taught(terms: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    """Which parts get a gradient; of a backbone adapters alone."""
    torch.stack([term for term in terms.values() if term.requires_grad]).sum().backward()
    found = [name for name, value in module.named_parameters() if value.grad is not None and value.grad.any()]
    assert all("lora_" in name for name in found if "backbone." in name)
    return {name.split(".")[0] for name in found}


@pytest.mark.parametrize("family", ["internvl", "paligemma"])
def test_teacher_and_student_learn_by_queries_adapters_and_heads(
    family: str, tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    made = config(backbone=str(tiny(family)), prompt="{task}:", backbone_lora_vision=False, **OVER)
    lam = with_lora(ClipLAM(*with_base(made)))
    given = lam.prepared(batch(2))
    parts = {"queries", "scene_head", "motion_head", "decoder", "backbone"}
    assert taught(lam.train()(given), lam) == parts
    assert not [n for n, p in lam.backbone.named_parameters() if "vision" in n and p.requires_grad]
    video = pixels(7, 2).numpy()
    found = lam.label_video(video, 4, "lift it")
    again = lattok.load(lam.save_pretrained(tmp_path / "lam"), backbone=tiny(family))
    assert isinstance(again, ClipLAM)
    np.testing.assert_allclose(found.latents, again.label_video(video, 4, "lift it").latents, atol=1e-5)
    plan = policy_config(backbone=str(tiny(family)), proprio_dim=0, proprio_names=(), prompt="{task}:", **OVER)
    student = with_lora(LatentVLA(*with_base(taught_by(plan, again.config))))
    module, clips = Distillation(student, again, [0, 1]).train(), batch(2)
    small = clips._replace(images=pixels(2, 2, side=56), later=pixels(2, 2, 2, side=56))
    assert taught(module(small), student) == {"placeholders", "supervision", "backbone"}
    assert not [n for n, p in again.named_parameters() if p.grad is not None]
    student.zero_grad()
    told = module(small._replace(subtasks=["grasp it", ""]))
    assert taught({"text": told["text"]}, student) == {"backbone"}
    with torch.no_grad():
        errors, valid = text_errors(student, small._replace(subtasks=["grasp it", "reach"]))
        ahead = student.prepared(small._replace(subtasks=["grasp it", "reach"]))
        end = student.backbone._tokenizer.eos_token_id
        with monkeypatch.context() as patch:  # a thread that prepares the next batch has the tokenizer now
            patch.setattr(student.backbone, "_tokenizer", SimpleNamespace(eos_token_id=end))
            torch.testing.assert_close(text_errors(student, ahead)[0], errors)
    assert float(told["text"].detach()) == pytest.approx(float(errors[0][valid[0]].mean()), rel=1e-4)
    half = module(small._replace(subtasks=["grasp it", ""], shares=Shares(with_subtask=torch.tensor(2.0))))["text"]
    assert float(half.detach()) == pytest.approx(float(told["text"].detach()) / 2, rel=1e-4)
    assert float(module(small._replace(subtasks=["", ""]))["text"].detach()) == 0


@pytest.mark.parametrize(
    ("train", "family"), [("all_but_vision", "paligemma"), ("lora", "internvl"), ("lora", "gemma3")]
)
def test_the_projector_learns_and_is_saved(
    train: str, family: str, tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By the paper's choice, or whole beside adapters of the text model; a file without it is refused."""
    monkeypatch.setenv("LATTOK_DATA", str(tiny(family)))
    over = {**OVER, "backbone_train": train, "image_size": 16}
    over |= {"backbone_lora_vision": False, "backbone_lora_projector": True}
    made = config(backbone=str(tiny(family)), prompt="{task}:", **over)
    torch.manual_seed(0)
    lam = with_lora(ClipLAM(*with_base(made)))
    before = {name: value.clone() for name, value in lam.backbone.model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in lam.parameters() if p.requires_grad], 0.1)
    torch.stack(list(lam.train()(batch(2)).values())).sum().backward()
    optimizer.step()
    changed = {name for name, value in lam.backbone.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed >= {name for name in before if "multi_modal_projector" in name}
    assert not [name for name in changed if "vision_tower" in name]
    assert any("language_model" in name for name in changed)
    video = pixels(7, 2).numpy()
    found = lam.eval().label_video(video, 4, "lift it")
    folder = lam.save_pretrained(tmp_path / "lam")
    again = lattok.load(folder)
    assert isinstance(again, ClipLAM)
    assert np.array_equal(found.latents, again.label_video(video, 4, "lift it").latents)
    kept = load_file(folder / "model.safetensors")
    gone = next(name for name in kept if "multi_modal_projector" in name)
    save_file({name: value for name, value in kept.items() if name != gone}, folder / "model.safetensors")
    refused(gone.replace(".", "[.]"), lattok.load, folder)


def test_a_merged_policy_has_its_projector(tiny: Callable[[str], Path], tmp_path: Path):
    plan = policy_config(backbone=str(tiny("internvl")), prompt="{task}:", backbone_lora_projector=True, **OVER)
    policy, seen = with_lora(LatentVLA(*with_base(plan))).eval(), observation(plan)
    for name, value in policy.backbone.saved_tensors().items():
        if "multi_modal_projector" in name:
            value.data += 0.1 * torch.randn_like(value)
    wanted = policy.predict_chunk(seen)
    merged = lattok.load(policy.merge(tmp_path / "merged").save_pretrained(tmp_path / "again"))
    assert isinstance(merged, LatentVLA)
    torch.testing.assert_close(merged.predict_chunk(seen), wanted, rtol=0, atol=1e-4)


def test_the_pair_of_the_paper_is_distilled_and_fine_tuned(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """PaliGemma, all of it, and a flow head with L_ee + L_gripper: as the page has it, in the sizes of a test."""
    monkeypatch.setenv("LATTOK_DATA", str(tiny("paligemma")))
    data = write_dataset(tmp_path / "data", [12, 9, 11, 10])
    info = data / "meta/info.json"
    info.write_text(info.read_text().replace('"z"', '"gripper"'))
    teacher = clip_lam(image_size=32, features_size=32, interpolation="bicubic").save_pretrained(tmp_path / "teacher")
    sizes = {"steps": 2, "batch_size": 2, "log_every": 1, "head_dim": 16, "head_heads": 2, "horizon": 4}
    sizes |= {"warmup_steps": 1, "memory_gb": 1.0}
    seen = {"image_size": 32, "prompt": "{task}:", "backbone": str(tiny("paligemma")), "teacher": str(teacher)}
    recipe, preset = lattok.LatBotRecipe, "libero+latbot"
    lattok.train(recipe.from_preset(data, tmp_path / "student", preset, **sizes, **seen))
    goes_on = {"phase": "finetune", "student": str(tmp_path / "student"), "head": "flow", **sizes}
    policy = lattok.train(recipe.from_preset(data, tmp_path / "policy", preset, **goes_on))
    assert policy.config.gripper == (2,)
    assert (policy.config.backbone.train, policy.config.head.name) == ("full", "flow")
    again, given = lattok.load(tmp_path / "policy"), observation(policy.config)
    assert isinstance(again, LatentVLA)
    chunk = again.predict_chunk(given)
    assert torch.equal(chunk, policy.predict_chunk(given))
    assert again.action_normalizer(chunk)[..., 2].abs().max() <= 1 + 1e-6


def test_a_policy_goes_on_over_the_base_of_its_student(tiny: Callable[[str], Path], tmp_path: Path, monkeypatch):
    """A relative path finds the same base; adapters, and where they are, stay the student's."""
    base = tiny("internvl")
    data = str(write_dataset(tmp_path / "data", [12, 9, 11, 10]))
    teacher = clip_lam(image_size=56, features_size=56, interpolation="bicubic").save_pretrained(tmp_path / "teacher")
    sizes = {"image_size": 56, "head_dim": 16, "head_heads": 2, "horizon": 4, "log_every": 1, "steps": 1}
    seen = {
        **sizes,
        "prompt": "{task}:",
        "backbone_lora_rank": 2,
        "backbone_lora_vision": False,
        "backbone_lora_projector": True,
        "backbone_train": "lora",
        "batch_size": 2,
    }
    monkeypatch.chdir(base.parent)
    distil = {**seen, "backbone": base.name, "teacher": str(teacher)}
    lattok.train(lattok.LatBotRecipe.from_preset(data, tmp_path / "student", **distil))
    goes_on = {**sizes, "batch_size": 2, "phase": "finetune", "student": str(tmp_path / "student")}
    refused("`backbone` in `.*student`", lattok.LatBotRecipe.from_preset, data, tmp_path / "policy", **goes_on)
    again = lattok.LatBotRecipe.from_preset(data, tmp_path / "named", **goes_on, backbone=base.name)
    assert lattok.train(again).config.backbone.name == str(base.resolve())
    monkeypatch.setenv("LATTOK_DATA", str(base))
    for given in ({}, {"backbone": base.name}):
        recipe = lattok.LatBotRecipe.from_preset(data, tmp_path / f"policy{len(given)}", **goes_on, **given)
        kept = [recipe.options()[f"backbone{part}"] for part in ("_lora_rank", "_lora_vision", "_lora_projector", "")]
        assert kept == [2, False, True, str(base.resolve())]
    refused(
        "`backbone_lora_vision`",
        lattok.LatBotRecipe.from_preset,
        data,
        tmp_path / "other",
        **goes_on,
        backbone_lora_vision=True,
    )
    student, policy = lattok.LatentVLA.from_pretrained(tmp_path / "student"), lattok.train(recipe)
    ours, theirs = policy.backbone.saved_tensors(), student.backbone.saved_tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(tensor, theirs[name], atol=1e-2) for name, tensor in ours.items())
    weights = base / "model.safetensors"
    held = weights.read_bytes()
    weights.write_bytes(held[:-4] + bytes(4))
    try:
        refused(
            "backbone", lambda: lattok.train(lattok.LatBotRecipe.from_preset(data, tmp_path / "changed", **goes_on))
        )
    finally:
        weights.write_bytes(held)
