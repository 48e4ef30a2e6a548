"""`HFBackbone` with random weights of all seven families: wiring, causality, what is trained, what is saved."""

import copy
import functools
import inspect
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lattok.backbones import BackboneOut, LoraSpec
from lattok.utils.checks import LattokError
from tests.backbones.conftest import need_transformers

need_transformers()

from lattok.backbones import fewer, hf  # noqa: E402
from lattok.backbones.hf import HFBackbone  # noqa: E402
from lattok.backbones.pretrained import TEXT  # noqa: E402
from tests.errors import refused  # noqa: E402

pytestmark = pytest.mark.ci

IMAGES = {"qwen3_vl": 4, "qwen2_5_vl": 4, "smolvlm": 4, "paligemma": 16, "gemma3": 4, "internvl": 4}  # tokens at 64²
FAMILIES = (*IMAGES, "text")
TEXTS = ["lift it", "push the red block to the wall"]
LORA = LoraSpec(rank=4, alpha=2)
QWEN_TOWER = ("visual.patch_embed", "visual.pos_embed", "visual.blocks")
TOWERS = dict.fromkeys(IMAGES, ("vision_tower",)) | {"smolvlm": ("vision_model",)}
TOWERS |= {"qwen3_vl": QWEN_TOWER, "qwen2_5_vl": QWEN_TOWER, "text": ("none",)}
PROJECTORS = dict.fromkeys(IMAGES, ("multi_modal_projector",)) | {"smolvlm": ("connector",), "text": ("none",)}
PROJECTORS |= dict.fromkeys(("qwen3_vl", "qwen2_5_vl"), ("visual.merger", "visual.deepstack_merger_list"))
every_family = pytest.mark.parametrize("family", FAMILIES)
SOME = ("qwen3_vl", "paligemma")
in_either_mode = pytest.mark.parametrize(
    ("family", "training"),
    [*((family, False) for family in FAMILIES), *((family, True) for family in (*SOME, "gemma3"))],
)
Load = Callable[[str], HFBackbone]


@pytest.fixture(scope="session")
def load(tiny: Callable[[str], Path]) -> Load:
    """A backbone of one's own, as it was loaded."""
    loaded: dict[str, HFBackbone] = {}

    def fresh(family: str) -> HFBackbone:
        if family not in loaded:
            loaded[family] = HFBackbone.load(str(tiny(family)))
        return copy.deepcopy(loaded[family])

    return fresh


def images(count: int = 2, cameras: int = 2, size: int = 64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, cameras, size, size, 3), dtype=torch.uint8, generator=generator)


def queries(backbone: HFBackbone, count: int = 2, length: int = 5, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return backbone.embedding_rms * torch.randn(count, length, backbone.hidden_size, generator=generator)


def run(backbone: HFBackbone, placeholders: Tensor, layers: tuple[int, ...] = (2, 4)) -> BackboneOut:
    return backbone(backbone.prepare(images(), TEXTS), placeholders, layers)


def adapted(backbone: HFBackbone, train: str = "lora", checkpointing: bool = False, lora: LoraSpec = LORA):
    """In training mode; LoRA's zero half is filled, so that adapters act."""
    torch.manual_seed(3)
    backbone.adapt(train, lora, checkpointing)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in backbone.saved_tensors().items() if train == "lora" else ():
            if "lora_B" in name:
                value.copy_(0.05 * torch.randn(value.shape, generator=generator))
    return backbone.train()


def loss_of(backbone: HFBackbone, placeholders: Tensor) -> Tensor:
    out = run(backbone, placeholders)
    return sum(state[:, out.queries].float().square().mean() for state in out.hidden.values())


@in_either_mode
def test_a_sample_is_the_same_alone_in_a_batch_and_with_more_padding(load: Load, family: str, training: bool):
    backbone = load(family)
    if training:
        adapted(backbone)
    placeholders, inputs = queries(backbone), backbone.prepare(images(), TEXTS)
    together = backbone(inputs, placeholders, (2, 4))
    more = {**inputs}
    for key in {"input_ids", "attention_mask", "position_ids", *backbone.family.placeholder_types} & {*inputs}:
        filler = {"input_ids": inputs["input_ids"][0, 0]}.get(key, 0)  # the first sample is padded
        more[key] = nn.functional.pad(inputs[key], (7, 0), value=int(filler))
    padded = backbone(more, placeholders, (2, 4))
    assert not together.valid[0, 0]
    assert together.valid[1].all()
    for row, text in enumerate(TEXTS):
        alone = backbone(backbone.prepare(images()[row : row + 1], [text]), placeholders[row : row + 1], (2, 4))
        assert alone.valid.all()
        for layer in (2, 4):
            expected = alone.hidden[layer][0]
            for other in (together, padded):
                states = other.hidden[layer][row][other.valid[row]]
                torch.testing.assert_close(states, expected, rtol=0, atol=1e-5)


@in_either_mode
def test_placeholders_see_what_is_before_them_only(load: Load, family: str, training: bool):
    backbone = load(family)
    if training:
        adapted(backbone)
    placeholders = queries(backbone)
    changed = placeholders.clone()
    changed[:, 2] *= -1
    one, other = run(backbone, placeholders), run(backbone, changed)
    first = one.queries.start + 2
    for layer in (2, 4):
        difference = (one.hidden[layer] - other.hidden[layer]).abs().amax(-1) * one.valid
        assert difference[:, :first].max() == 0
        assert difference[:, first:].min() > 1e-6


@pytest.mark.parametrize("family", SOME)
def test_layers_are_the_same_where_transformers_cannot_select_them(
    load: Load, family: str, monkeypatch: pytest.MonkeyPatch
):
    """From 5.17 to 5.22 it gives the states of other layers for a list."""
    backbone = load(family)
    inputs, placed = backbone.prepare(images(), TEXTS), queries(backbone)
    with torch.no_grad():
        expected = backbone(inputs, placed, (1, 4)).hidden
        monkeypatch.setattr(hf, "_selects_states", lambda: False)
        found = backbone(inputs, placed, (1, 4)).hidden
    assert found.keys() == expected.keys() == {1, 4}
    for layer, states in expected.items():
        torch.testing.assert_close(found[layer], states, rtol=0, atol=0)


def test_images_are_attended_to_at_once(load: Load):
    """With the numbers and gradients of transformers, which attends to one after the other; of any sizes."""
    backbone, plain = load("qwen3_vl"), load("qwen3_vl")
    parts = [part for part in plain.model.modules() if type(part).__name__ == fewer.IMAGE_ATTENTION]
    assert parts
    for part in parts:
        del part.forward
    inputs = backbone.prepare(images(), TEXTS)
    found = []
    for each in (copy.deepcopy(backbone), plain):
        each.model.requires_grad_(True)
        with torch.profiler.profile() as seen:
            each(inputs, queries(each), (4,)).hidden[4].square().mean().backward()
        calls = sum(event.name == "aten::scaled_dot_product_attention" for event in seen.events())
        found.append((calls, [p.grad for p in each.model.parameters() if p.grad is not None]))
    assert found[1][0] - found[0][0] == len(parts) * (4 - 1)  # two samples of two cameras
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    tower = parts[0].qkv.weight
    draw = torch.Generator().manual_seed(0)
    states, ends = torch.randn(10, tower.shape[1], generator=draw), torch.tensor([0, 4, 10])
    own = next(part for part in backbone.model.modules() if type(part).__name__ == fewer.IMAGE_ATTENTION)
    places = (torch.ones(10, own.head_dim), torch.zeros(10, own.head_dim))
    torch.testing.assert_close(own(states, ends, places), parts[0](states, ends, places), rtol=0, atol=0)


@every_family
def test_queries_that_are_real_embeddings_give_what_the_model_gives_for_those_tokens(load: Load, family: str):
    backbone = load(family)
    inputs, word = backbone.prepare(images(), TEXTS), torch.tensor([[70, 71, 72], [73, 74, 75]])
    with torch.no_grad():
        out = backbone(inputs, backbone.model.get_input_embeddings()(word), range(5))
        types = {
            key: torch.cat([inputs[key], torch.full_like(word, value)], 1)
            for key, value in backbone.family.placeholder_types.items()
        }
        ids = torch.cat([inputs["input_ids"], word], 1)
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(word)], 1)
        plain = {**inputs, **types, "input_ids": ids, "attention_mask": mask}
        plain.pop("position_ids", None)  # the model finds them itself
        states = backbone.model.model(**plain, output_hidden_states=True, use_cache=False).hidden_states
    assert len(states) == backbone.num_layers + 1
    for layer, expected in enumerate(states):
        torch.testing.assert_close(out.hidden[layer], expected, rtol=0, atol=1e-6)


@every_family
def test_text_logits_are_those_of_the_model(load: Load, family: str):
    backbone = load(family)
    inputs = backbone.prepare(images(), TEXTS)
    with torch.no_grad():
        expected = backbone.model(**inputs, use_cache=False).logits
        got = backbone.text_logits(backbone(inputs, queries(backbone, length=1), (4,)).hidden[4])
    rows, length = inputs["input_ids"].shape
    assert got.shape == (rows, length + 1, backbone.model.config.get_text_config().vocab_size)
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(got[:, :-1][seen], expected[seen], rtol=0, atol=1e-5)


def test_text_logits_of_gemma_2_are_capped(tiny: Callable[[str], Path]):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 260}
    config = transformers.Gemma2Config(**sizes, final_logit_softcapping=0.1, attn_implementation="eager")
    torch.manual_seed(0)
    model = transformers.Gemma2ForCausalLM(config).eval()
    backbone = HFBackbone(model, transformers.AutoTokenizer.from_pretrained(tiny("text")), TEXT)
    inputs = backbone.prepare(images(cameras=0), TEXTS)
    with torch.no_grad():
        expected = model(**inputs, use_cache=False).logits
        got = backbone.text_logits(backbone(inputs, queries(backbone, length=1), (2,)).hidden[2])[:, :-1]
    seen = inputs["attention_mask"].bool()
    assert 0.09 < expected[seen].abs().max() < 0.1
    torch.testing.assert_close(got[seen], expected[seen], rtol=0, atol=1e-6)


@every_family
def test_only_the_layers_that_are_asked_for(load: Load, family: str):
    backbone = load(family)
    out = run(backbone, queries(backbone), layers=(3, 1, 3))
    assert sorted(out.hidden) == [1, 3]
    assert out.hidden[1].shape == (*out.valid.shape, 64)
    assert out.queries == slice(out.valid.shape[1] - 5, out.valid.shape[1])
    for layers in ((), (-1,), (5,)):
        refused("`layers`", run, backbone, queries(backbone), layers)


@pytest.mark.parametrize(("family", "tokens"), IMAGES.items())
def test_image_tokens_are_found_and_cameras_keep_their_order(load: Load, family: str, tokens: int):
    backbone = load(family)
    pictures, placeholders = images(cameras=3), queries(backbone)
    inputs = backbone.prepare(pictures, TEXTS)
    out = backbone(inputs, placeholders, (4,))
    assert out.image is not None
    assert out.image.sum(1).tolist() == [3 * tokens] * 2
    assert not out.image[:, out.queries].any()
    assert not (out.image & ~out.valid).any()
    single = [backbone.prepare(pictures[:, [camera]], TEXTS)["pixel_values"] for camera in range(3)]
    rows = inputs["pixel_values"].reshape(2, 3, -1)
    torch.testing.assert_close(rows, torch.stack([view.reshape(2, -1) for view in single], 1))
    swapped = backbone(backbone.prepare(pictures.flip(1), TEXTS), placeholders, (4,))
    assert (swapped.hidden[4] - out.hidden[4])[:, out.queries].abs().max() > 1e-6


@pytest.mark.parametrize(("family", "tokens"), [("qwen3_vl", 49), ("qwen2_5_vl", 64)])
def test_qwen_sees_images_in_the_size_they_come(load: Load, family: str, tokens: int):
    inputs = load(family).prepare(images(1, 1, 224), TEXTS[:1])
    count = inputs["image_grid_thw"].prod() // 4
    assert int(count) == tokens


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_positions_are_found_once_for_samples_of_one_layout(load: Load, family: str, monkeypatch: pytest.MonkeyPatch):
    """They are those that the model finds for the whole batch, also for images of another size."""
    backbone = load(family)
    model, asked = backbone.model.model, []
    own = model.get_rope_index
    spied = functools.wraps(own)(lambda **given: asked.append(given) or own(**given))
    monkeypatch.setattr(model, "get_rope_index", spied)
    for count, size, texts, more in ((2, 64, TEXTS, 2), (3, 64, [*TEXTS, "lift me"], 0), (2, 224, TEXTS, 2)):
        before = len(asked)
        for _ in range(2):
            inputs = backbone.prepare(images(count, size=size), texts)
            given = {key: inputs[key] for key in inspect.signature(own).parameters if key in inputs}
            assert torch.equal(inputs["position_ids"], own(**given)[0])
        new = len(asked) - before
        assert new == more if "mm_token_type_ids" in given else new <= count
    known, fresh = backbone.prepare(images(seed=1), TEXTS), load(family).prepare(images(seed=1), TEXTS)
    assert known.keys() == fresh.keys()
    assert all(torch.equal(known[key], fresh[key]) for key in known if key != hf.IMAGE_COUNTS)


def test_a_text_model_sees_no_images(load: Load):
    backbone = load("text")
    out = run(backbone, queries(backbone))
    assert out.image is None
    blind = backbone(backbone.prepare(images(cameras=0), TEXTS), queries(backbone), (4,))
    torch.testing.assert_close(blind.hidden[4], out.hidden[4])


@every_family
def test_embedding_rms_is_that_of_what_the_layers_get(load: Load, family: str):
    backbone = load(family)
    weight = backbone.model.get_input_embeddings().weight
    scale = 8.0 if family in ("paligemma", "gemma3") else 1.0  # Gemma multiplies by the root of the width
    assert backbone.embedding_rms == pytest.approx(scale * weight.square().mean().sqrt().item(), rel=1e-5)
    assert (backbone.hidden_size, backbone.num_layers) == (64, 4)


@pytest.mark.parametrize(
    ("family", "train"),
    [
        *((family, train) for family in FAMILIES for train in ("lora", "full", "all_but_vision")),
        *((family, "frozen") for family in SOME),
    ],
)
def test_gradient_reaches_queries_and_what_is_trained_and_nothing_else(load: Load, family: str, train: str):
    backbone = load(family)
    linear = backbone.linear_layers(vision=True)
    adapted(backbone, train)
    placeholders = queries(backbone).requires_grad_()
    loss_of(backbone, placeholders).backward()
    assert placeholders.grad is not None
    assert (placeholders.grad.abs().amax((0, 2)) > 0).all()
    trained = {id(value) for value in backbone.saved_tensors().values()}
    for name, value in backbone.model.named_parameters():
        assert (value.grad is not None) == (id(value) in trained), name
        assert value.requires_grad == (id(value) in trained), name
    if train == "lora":
        adapters = backbone.saved_tensors()
        assert len(adapters) == 2 * len(linear)
        assert all("lora_" in name for name in adapters)
        silent = [name for name, value in adapters.items() if not value.grad.abs().max() > 0]
        assert not silent
    assert "lm_head.weight" not in backbone.saved_tensors()
    assert bool(trained) == (train != "frozen")


@every_family
def test_all_but_vision_is_the_text_model_and_the_projector(load: Load, family: str):
    backbone = load(family)
    backbone.adapt("all_but_vision", LORA)
    names = [name.removeprefix("model.") for name, _ in backbone.model.model.named_parameters()]
    tower = {name for name in names if name.startswith(TOWERS[family])}
    assert bool(tower) == (family != "text")
    kept = {name.removeprefix("model.") for name in backbone.saved_tensors()}
    assert kept == set(names) - tower
    assert any(name.startswith(PROJECTORS[family]) for name in kept) == (family != "text")
    backbone.train()
    for name, part in backbone.model.model.named_modules():
        if name.startswith(TOWERS[family]):
            assert not part.training, name


@every_family
def test_lora_with_the_whole_projector(load: Load, tiny: Callable[[str], Path], family: str, tmp_path: Path):
    """Over weights in bfloat16: it is trained in float32, comes back exactly, and is merged with the adapters."""
    lora = LoraSpec(rank=4, alpha=2, vision=family == "qwen3_vl", projector=True)
    backbone = adapted(HFBackbone.load(str(tiny(family)), dtype="bfloat16"), lora=lora)
    saved, placeholders = backbone.saved_tensors(), queries(backbone).requires_grad_()
    below = [tuple(f"model.{name}" for name in part[family]) for part in (PROJECTORS, TOWERS)]
    whole = {name: value for name, value in saved.items() if name.startswith(below[0])}
    parameters = backbone.model.model.named_parameters()
    assert len(whole) == sum(name.startswith(PROJECTORS[family]) for name, _ in parameters)
    assert bool(whole) == (family != "text")
    assert all("lora_" in name for name in saved.keys() - whole.keys())
    assert not any("lora_" in name for name in whole)
    assert any(name.startswith(below[1]) for name in saved) == lora.vision
    loss_of(backbone, placeholders).backward()
    assert all(value.dtype == torch.float32 for value in saved.values())
    assert all(value.grad is not None and value.grad.any() for value in saved.values())
    with torch.no_grad():
        for value in whole.values():
            value += 0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(4))
        expected = run(backbone.eval(), placeholders).hidden[4].float()
        other = HFBackbone.load(str(tiny(family)), dtype="bfloat16")
        other.adapt("lora", lora)
        assert other.saved_tensors().keys() == saved.keys()
        for name, value in other.saved_tensors().items():
            value.copy_(saved[name])
        assert torch.equal(run(other, placeholders).hidden[4].float(), expected)
        other.merge()
        assert other.saved_tensors() == {}
        opened = HFBackbone.load(str(other.save_base(tmp_path)))
        merged = dict(opened.model.named_parameters())
    for name, value in whole.items():
        assert torch.equal(merged[name], value), name


@pytest.mark.parametrize("family", ["smolvlm", "paligemma"])
def test_a_name_alone_is_of_the_image_tower_too(load: Load, family: str):
    """To peft, which is why layers are named by their paths."""
    from peft import LoraConfig, inject_adapter_in_model

    model = load(family).model
    inject_adapter_in_model(LoraConfig(target_modules=["q_proj"]), model)
    adapted = {name.partition(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert any(tower in name for name in adapted for tower in TOWERS[family])
    assert any("language_model" in name or "text_model" in name for name in adapted)


@every_family
def test_lora_without_the_image_tower(load: Load, family: str):
    backbone = load(family)
    linear = backbone.linear_layers(vision=False)
    backbone.adapt("lora", LoraSpec(rank=4, alpha=2, vision=False))
    names = [name.rpartition(".lora_")[0] for name in backbone.saved_tensors()]
    assert len(set(names)) == 4 * 7  # q k v o, gate up down
    assert sorted(set(names)) == sorted(linear)


@pytest.mark.parametrize(
    ("family", "names"),
    {
        "qwen3_vl": ("visual.blocks.0.attn.qkv", "language_model.layers.3.self_attn.q_proj"),
        "paligemma": ("vision_tower.encoder.layers.0.mlp.fc1", "multi_modal_projector.linear"),
        "gemma3": ("vision_tower.encoder.layers.1.self_attn.out_proj", "language_model.layers.0.mlp.up_proj"),
        "smolvlm": ("vision_model.encoder.layers.0.mlp.fc1", "connector.modality_projection.proj"),
        "text": ("layers.0.mlp.gate_proj",),
    }.items(),
)
def test_saved_names_are_those_of_every_release_of_transformers(load: Load, family: str, names: tuple[str, ...]):
    backbone = load(family)
    backbone.adapt("lora", LORA)
    wanted = {f"model.{name}.lora_{half}.weight" for name in names for half in "AB"}
    assert wanted <= set(backbone.saved_tensors())


def test_lora_starts_as_the_base_model_with_the_scale_of_the_paper(load: Load):
    backbone = load("qwen3_vl")
    before = run(backbone, queries(backbone)).hidden[4]
    backbone.adapt("lora", LoraSpec(rank=64, alpha=16))
    torch.testing.assert_close(run(backbone, queries(backbone)).hidden[4], before, rtol=0, atol=0)
    layer = backbone.model.model.language_model.layers[0].mlp.down_proj
    assert layer.scale == 0.25
    down = backbone.saved_tensors()["model.language_model.layers.0.mlp.down_proj.lora_A.weight"]
    assert down.std().item() == pytest.approx(1 / 64, rel=0.1)


@pytest.mark.parametrize(
    ("family", "train"), [*((family, "lora") for family in FAMILIES), *((family, "frozen") for family in SOME)]
)
def test_checkpointing_runs_layers_twice_and_gives_the_same_gradients(load: Load, family: str, train: str):
    gradients, calls = [], []
    for checkpointing in (False, True):
        backbone = adapted(load(family), train, checkpointing)
        layer, count = backbone.model.get_decoder().layers[0].mlp, []
        layer.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        placeholders = queries(backbone).requires_grad_()
        loss_of(backbone, placeholders).backward()
        gradients.append([placeholders.grad, *(value.grad for value in backbone.saved_tensors().values())])
        calls.append(len(count))
    assert calls == [1, 2]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@every_family
def test_frozen_parts_stay_in_evaluation_mode(load: Load, family: str):
    backbone = adapted(load(family), lora=LoraSpec(4, 2, dropout=0.1, vision=False))
    layers = backbone.model.get_decoder().layers
    assert backbone.training
    assert layers[0].training
    assert layers[0].mlp.down_proj.dropout.training
    assert not layers[0].mlp.down_proj.base_layer.training
    assert not backbone.model.get_input_embeddings().training
    if family != "text":
        vision, modules = (*TOWERS[family], *PROJECTORS[family]), dict(backbone.model.model.named_modules())
        assert {part.training for name, part in modules.items() if name.startswith(vision)} == {False}
    backbone.eval()
    assert not any(module.training for module in backbone.modules())


@every_family
def test_adapters_come_back_and_can_be_merged_and_saved(load: Load, family: str, tmp_path: Path):
    backbone = adapted(load(family)).eval()
    placeholders = queries(backbone)
    expected = run(backbone, placeholders).hidden[4]
    assert (run(load(family), placeholders).hidden[4] - expected).abs().max() > 1e-3
    other = load(family)
    other.adapt("lora", LORA)
    with torch.no_grad():
        for name, value in other.saved_tensors().items():
            value.copy_(backbone.saved_tensors()[name])
    torch.testing.assert_close(run(other, placeholders).hidden[4], expected, rtol=0, atol=0)
    refused(r"a model with its adapters merged.*Call merge\(\) first", other.save_base, tmp_path)
    other.merge()
    assert other.saved_tensors() == {}
    torch.testing.assert_close(run(other, placeholders).hidden[4], expected, rtol=0, atol=1e-4)
    opened = HFBackbone.load(str(other.save_base(tmp_path)))
    assert opened.revision != backbone.revision
    torch.testing.assert_close(run(opened, placeholders).hidden[4], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "how"), [*((family, "bfloat16 base") for family in FAMILIES), *((family, "autocast") for family in SOME)]
)
def test_bfloat16(load: Load, tiny: Callable[[str], Path], family: str, how: str):
    reference = load(family)
    inputs = reference.prepare(images(1, 1), TEXTS[:1])
    placeholders = queries(reference, 1).requires_grad_()
    expected = reference(inputs, placeholders, (4,)).hidden[4]
    backbone = HFBackbone.load(str(tiny(family)), dtype="bfloat16") if how == "bfloat16 base" else reference
    backbone.adapt("lora", LORA, gradient_checkpointing=family in SOME)
    backbone.train()
    assert {value.dtype for value in backbone.saved_tensors().values()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        out = backbone(inputs, placeholders, (4,))
        out.hidden[4][:, out.queries].float().square().mean().backward()
    assert (out.hidden[4].float() - expected).square().mean() < 0.05**2 * expected.square().mean()
    assert placeholders.grad is not None
    assert placeholders.grad.abs().max() > 0
    assert all(value.grad.isfinite().all() for value in (placeholders, *backbone.saved_tensors().values()))


def test_nothing_is_left_of_a_forward_pass(load: Load):
    backbone = load("qwen3_vl")
    embedding = backbone.model.get_input_embeddings()
    with pytest.raises(RuntimeError):
        run(backbone, queries(backbone)[..., :3])  # wrong width
    assert not embedding._forward_hooks
    assert embedding(torch.tensor([[1, 2, 3, 4, 5, 6]])).shape == (1, 6, 64)


def test_adapt_is_for_once(load: Load):
    backbone = load("text")
    refused("`train`", backbone.adapt, "some", LORA)
    backbone.adapt("frozen", LORA)
    with pytest.raises(RuntimeError, match=r"adapt\(\) was called before"):
        backbone.adapt("lora", LORA)


def test_bad_images_and_texts(load: Load):
    backbone = load("qwen3_vl")
    refused(r"at least one camera for qwen3_vl, got none", lambda: backbone.prepare(images(cameras=0), TEXTS))
    with pytest.raises(LattokError, match=r"text without '<\|image_pad\|>', which stands for an image, got 'see"):
        backbone.prepare(images(), ["see <|image_pad|>", "lift"])


def test_a_prompt_goes_into_the_chat_template_and_begins_once(load: Load):
    backbone = load("gemma3")
    ids = backbone.prepare(images(1), ["lift it"])["input_ids"][0]
    tokenizer = backbone.processor.tokenizer
    assert (ids == tokenizer.bos_token_id).sum() == 1
    view = "\n\n<start_of_image>" + "<image_soft_token>" * 4 + "<end_of_image>\n\n"
    turn = f"<bos><start_of_turn>user\n{view * 2}lift it<end_of_turn>\n<start_of_turn>assistant\n"
    assert tokenizer.decode(ids) == turn
    backbone.processor.chat_template = {"default": "{{ messages[0]['content'][-1]['text'] }}<start_of_image>"}
    ids = backbone.prepare(images(1, 1), ["lift it"])["input_ids"][0]
    assert tokenizer.decode(ids).startswith("<bos>lift it\n\n<start_of_image>")


def test_a_text_model_without_padding_token_or_template(load: Load):
    reference = load("text")
    tokenizer = copy.deepcopy(reference.processor)
    tokenizer.pad_token = tokenizer.chat_template = None
    backbone = HFBackbone(reference.model, tokenizer, reference.family)
    inputs = backbone.prepare(images(), TEXTS)
    assert inputs["attention_mask"].sum(1).tolist() == [len(text) for text in TEXTS]  # a byte is a token
    assert tokenizer.decode(inputs["input_ids"][1]) == TEXTS[1]


def test_a_chat_model_without_its_template_is_refused(load: Load):
    reference = load("qwen3_vl")
    processor = copy.deepcopy(reference.processor)
    processor.chat_template = processor.tokenizer.chat_template = None
    backbone = HFBackbone(reference.model, processor, reference.family)
    refused("`backbone`", lambda: backbone.prepare(images(), TEXTS))


def test_models_that_are_built_otherwise_are_refused(tiny: Callable[[str], Path], tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=300, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny("text") / name, tmp_path / name)
    refused("`backbone`", HFBackbone.load, str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    refused("`backbone`", HFBackbone.load, str(tmp_path))


@pytest.mark.parametrize("family", ["internvl", "paligemma", "qwen3_vl"])
def test_errors_of_a_text_are_those_of_the_whole_model(family, tiny):
    """Its own logits over prompt and text, one sample at a time; the end counts, "" does not."""
    backbone = HFBackbone.load(str(tiny(family)))
    images = torch.randint(0, 256, (3, 1, 32, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    prompts, texts = ["lift it:", "close the drawer:", "push:"], ["reach the cup", "", "grasp"]
    with torch.no_grad():
        found, valid = backbone.text_errors(backbone.prepare(images, prompts), backbone.tokens_of(texts))
        assert not valid[1].any()
        for row in (0, 2):
            inputs = dict(backbone.prepare(images[row : row + 1], prompts[row : row + 1]))
            for ours in {"position_ids", *(key for key in inputs if key.startswith("image_"))} - {"image_grid_thw"}:
                inputs.pop(ours, None)  # the model finds these itself
            ids = backbone._tokenizer(texts[row], add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*ids, backbone._tokenizer.eos_token_id]])
            before = inputs["input_ids"].shape[1]
            tails = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            tails |= {key: torch.full_like(ids, value) for key, value in backbone.family.placeholder_types.items()}
            inputs |= {key: torch.cat([inputs[key], tail], 1) for key, tail in tails.items()}
            logits = backbone.model(**inputs).logits[0, before - 1 : -1].double().log_softmax(-1)
            wanted = -logits.gather(1, ids[0, :, None])[:, 0]
            assert int(valid[row].sum()) == ids.shape[1]
            torch.testing.assert_close(found[row][valid[row]].double(), wanted, rtol=1e-4, atol=1e-6)
