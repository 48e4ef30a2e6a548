"""`LatentVLA` over Hugging Face backbones, tiny and random; test_model.py has all strategies."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lattok
from lattok.backbones.model import open_backbone, with_backbone
from lattok.vla import LatentVLA
from lattok.vla.config import TokenSpec
from tests.backbones.conftest import need_transformers
from tests.errors import refused
from tests.learning import learn
from tests.vla import fakes
from tests.vla.fakes import batch, config, rows

need_transformers()

pytestmark = pytest.mark.ci

FAMILIES = ("qwen3_vl", "smolvlm", "paligemma", "qwen2_5_vl", "gemma3", "internvl")
Tiny = Callable[[str], Path]


def policy(folder: Path, strategy: str, tokenizer=None, **changes) -> LatentVLA:
    torch.manual_seed(0)
    size = {"camera_sizes": ((56, 56),) * 2, "image_size": 56, "backbone_lora_rank": 4}
    made = config(strategy, backbone=str(folder), **size | changes)
    model = LatentVLA(made, open_backbone(made), tokenizer)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # else adapters do nothing, and their other half gets no gradient
            torch.nn.init.normal_(parameter, std=0.02)
    model.action_normalizer.fit(3 + torch.randn(50, fakes.M))
    return model


CASES = [(FAMILIES[0], "la_align"), *((family, "la_cond") for family in FAMILIES)]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_batch_is_learnt_and_the_base_stays(family: str, name: str, tiny: Tiny):
    model = policy(tiny(family), name).train()
    data = batch(model.config)
    frozen = {key: value.clone() for key, value in model.backbone.named_parameters() if not value.requires_grad}
    first, *_, last = learn(model, lambda: model(data), 12, 5e-3, model.config.loss_weights)
    groups = {key.split(".")[0] for key, value in model.named_parameters() if value.grad is not None}
    assert {"placeholders", "backbone", "head"} <= groups
    assert all("lora_" in key for key, value in model.backbone.named_parameters() if value.grad is not None)
    lora = [value for key, value in model.backbone.named_parameters() if "lora_" in key]
    assert all(value.grad is not None for value in lora)
    assert sum(bool(value.grad.any()) for value in lora) > 0.8 * len(lora)
    assert last["action"] < 0.8 * first["action"]
    if "latent" in last:
        assert last["latent"] < 0.97 * first["latent"]
    assert all(torch.equal(value, dict(model.backbone.named_parameters())[key]) for key, value in frozen.items())


@pytest.mark.parametrize(("family", "name"), CASES)
def test_alone_or_in_a_batch_the_steps_of_a_chunk_differ(family: str, name: str, tiny: Tiny):
    model = policy(tiny(family), name).eval()
    data = batch(model.config)
    together = model.predict_chunk(data)
    alone = torch.cat([model.predict_chunk(rows(data, [i])) for i in range(fakes.B)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    assert (together[:, 1:] - together[:, :-1]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize(
    ("family", "kind", "order"),
    [("qwen3_vl", lattok.FAST, "autoregressive"), ("smolvlm", lattok.UniformBins, "parallel")],
)
def test_a_policy_acts_by_tokens(family: str, kind, order: str, tiny: Tiny, tmp_path: Path):
    tokenizer = kind.fit(3 + torch.randn(50, fakes.H, fakes.M, generator=torch.Generator().manual_seed(0)))
    head = {"head": "tokens", "head_order": order, "tokens": TokenSpec.of(tokenizer), "tokenizer": tokenizer}
    model = policy(tiny(family), "baseline", **head).train()
    data = batch(model.config)
    first, *_, last = learn(model, lambda: model(data), 8, 5e-3, {"action": 1.0})
    assert last["action"] < 0.8 * first["action"]
    together = model.eval().predict_chunk(data)
    alone = torch.cat([model.predict_chunk(rows(data, [i])) for i in range(fakes.B)])
    torch.testing.assert_close(alone, together)
    model.save_pretrained(tmp_path / "policy")
    torch.testing.assert_close(lattok.load(tmp_path / "policy", backbone=tiny(family)).predict_chunk(data), together)


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_cannot_see_the_placeholders_of_actions(family: str, tiny: Tiny):
    """PaliGemma's prefix is bidirectional: placeholders of the wrong type would see one another."""
    model = policy(tiny(family), "la_cond").eval()
    data, latents = batch(model.config), fakes.H * fakes.P
    with torch.no_grad():
        before = model(data)
        model.placeholders[latents:] += torch.randn_like(model.placeholders[latents:])
        after = model(data)
    torch.testing.assert_close(after["latent"], before["latent"], atol=1e-6, rtol=0)
    assert after["action"] != before["action"]


def test_a_saved_policy_acts_the_same_in_another_process(tiny: Tiny, tmp_path: Path):
    models = {family: policy(tiny(family), "la_direct").eval() for family in FAMILIES[:3]}
    models["scratch"] = fakes.policy("la_cond", camera_sizes=((56, 56),) * 2, image_size=56).eval()
    for family, model in models.items():
        model.save_pretrained(tmp_path / family)
        assert (tmp_path / family / "model.safetensors").stat().st_size < 2_000_000  # no base model in it
    seen = fakes.observation(models["qwen3_vl"].config)
    torch.save(seen, tmp_path / "seen.pt")
    code = (
        "import lattok, sys, torch; torch.set_num_threads(1); seen = torch.load('seen.pt', weights_only=True);"
        "torch.save({n: lattok.load(n).predict_chunk(seen) for n in sys.argv[1:]}, 'chunks.pt')"
    )
    named = {"LATTOK_DATA": os.pathsep.join(str(tiny(family)) for family in FAMILIES[:3])}  # folders of this machine
    subprocess.run([sys.executable, "-c", code, *models], cwd=tmp_path, check=True, env=os.environ | named)
    chunks = torch.load(tmp_path / "chunks.pt", weights_only=True)
    for family, model in models.items():
        torch.testing.assert_close(chunks[family], model.predict_chunk(seen), atol=1e-6, rtol=0)


def test_another_base_model_is_refused(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tests.backbones.tiny import tiny_backbone

    base = tiny_backbone("qwen3_vl", tmp_path / "base")
    made = config("baseline", backbone=str(base), camera_sizes=((56, 56),) * 2, image_size=56, backbone_lora_rank=2)
    backbone = open_backbone(made)
    LatentVLA(with_backbone(made, revision=backbone.revision), backbone).save_pretrained(tmp_path / "policy")
    refused(f"say so: backbone=FOLDER when you load it, or LATTOK_DATA={base} ", lattok.load, tmp_path / "policy")
    assert lattok.load(tmp_path / "policy", backbone=base).config.backbone.revision == backbone.revision
    monkeypatch.setenv("LATTOK_DATA", str(base))
    assert lattok.load(tmp_path / "policy").config.backbone.revision == backbone.revision
    moved = base.rename(tmp_path / "moved")
    refused("`backbone`", lattok.load, tmp_path / "policy")
    assert LatentVLA.from_pretrained(tmp_path / "policy", backbone=str(moved)).config.backbone.name == str(moved)
    moved.rename(base)
    tiny_backbone("qwen3_vl", base, seed=1)
    refused("revision", lattok.load, tmp_path / "policy")


def test_a_model_that_reads_only_text_has_no_cameras_and_nothing_to_look_at_them_with(tiny: Tiny):
    model = policy(tiny("text"), "la_tok", cameras=(), camera_sizes=()).train()
    terms = model(batch(model.config))
    sum(terms[name] for name in model.config.loss_weights).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    seen = {"observation.state": torch.randn(2, fakes.S), "task": ["open it", "close the drawer"]}
    assert model.eval().predict_chunk(seen).shape == (2, fakes.H, fakes.M)
    refused("`cameras` were given .*, but the backbone reads only text", lambda: policy(tiny("text"), "baseline"))


def test_bfloat16_is_near_and_keeps_the_frequencies_of_positions(tiny: Tiny):
    model = policy(tiny("qwen3_vl"), "la_cond").eval()
    seen = fakes.observation(model.config)
    exact = model.predict_chunk(seen)
    buffers = {name: value.clone() for name, value in model.backbone.named_buffers() if value.is_floating_point()}
    assert buffers
    torch.testing.assert_close(model.to(torch.bfloat16).predict_chunk(seen), exact, atol=0.1, rtol=0.05)
    half = dict(model.backbone.named_buffers())
    assert all(torch.equal(half[name], value) for name, value in buffers.items())
    assert model.describe()["weights_sha256"]


def test_checkpointing_gives_the_same_gradients(tiny: Tiny):
    gradients = []
    for checkpointing in (False, True):
        model = policy(tiny("qwen3_vl"), "la_cond", backbone_gradient_checkpointing=checkpointing).train()
        terms = model(batch(model.config))
        sum(terms[name] for name in model.config.loss_weights).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_a_merged_policy_needs_nothing_else_and_takes_its_backbone_along(tiny: Tiny, tmp_path: Path):
    for name, train in (("lora", "lora"), ("full", "full")):
        model = policy(tiny("qwen3_vl"), "baseline", backbone_train=train).eval()
        seen = fakes.observation(model.config)
        before = model.predict_chunk(seen)
        merged = model.merge(tmp_path / name)
        torch.testing.assert_close(merged.predict_chunk(seen), before, atol=1e-4, rtol=0)
        assert not any("lora" in key for key in lattok.load(tmp_path / name).state_dict())
        merged.save_pretrained(tmp_path / f"{name}-again")
        merged.save_pretrained(tmp_path / name)  # over itself
        assert [part.name for part in (tmp_path / name / "parts").iterdir()] == ["backbone"]
        same = lattok.load(tmp_path / name)
        torch.testing.assert_close(same.predict_chunk(seen), merged.predict_chunk(seen))
        shutil.rmtree(tmp_path / name)
        again = lattok.load(tmp_path / f"{name}-again")
        torch.testing.assert_close(again.predict_chunk(seen), merged.predict_chunk(seen))


def test_a_policy_over_a_folder_of_mine_is_not_published(tiny: Tiny):
    refused("`backbone`", lambda: policy(tiny("qwen3_vl"), "baseline").push_to_hub("org/name"))


def test_the_head_starts_the_same_in_every_strategy(tiny: Tiny):
    heads = [policy(tiny("qwen3_vl"), name).head.state_dict() for name in ("baseline", "la_cond", "la_tok_c")]
    for other in heads[1:]:
        assert all(torch.equal(heads[0][name], other[name]) for name in heads[0])


def test_the_example_for_fsdp2_names_layers_that_are_there(tiny: Tiny):
    text = (Path(__file__).parents[2] / "examples/accelerate/fsdp2.yaml").read_text()
    named = text.split("fsdp_transformer_layer_cls_to_wrap: ")[1].splitlines()[0].split(",")
    there = {type(module).__name__ for module in policy(tiny("qwen3_vl"), "baseline").modules()}
    assert set(named) <= there
