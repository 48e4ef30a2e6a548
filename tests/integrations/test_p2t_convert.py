"""Conversion of published policies as a user meets it: names, sizes, adapter, language model, the report, refusals."""

import re
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.testing import assert_close

import lattok
from lattok.cli import main, run_verb
from lattok.cli.flags import Verb
from lattok_p2t_policy.__main__ import convert as command
from lattok_p2t_policy.convert import p2t_vla, read_p2t_vla
from lattok_p2t_policy.released import ReleasedVLA
from tests.backbones.conftest import need_transformers
from tests.errors import refused
from tests.process_jobs import afresh

ROOT = Path(__file__).parents[2]
PARITY = ROOT / "tests" / "parity"
FACTS = {"horizon": 8, "image_tokens": 12}
FLAGS = ["--horizon", "8", "--image-tokens", "12"]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
LAYERS = ("model.language_model.layers.0.self_attn.q_proj", "model.visual.blocks.0.attn.qkv")
EMBEDDING, NORM = "model.language_model.embed_tokens", "model.language_model.norm"


def convert(words):
    return main(words, partial(run_verb, "python -m lattok_p2t_policy", Verb(command)))


def load(name, part="weights"):
    return safetensors.torch.load_file(PARITY / name / f"{part}.safetensors")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def narrow(align):
    """The align module's weights for states that are 32 wide."""
    wide = ("norm.weight", "norm.bias", "fc1.weight")
    return {name: tensor[..., :32].clone() if name.endswith(wide) else tensor for name, tensor in align.items()}


def adapters(rank=4, width=24, prefix="vlm.base_model.model.", name="default."):
    """LoRA tensors of two layers, as peft names them in a model."""
    shapes = {"A": (rank, width), "B": (2 * width, rank)}
    keys = {f"{prefix}{layer}.lora_{x}.{name}weight": x for layer in LAYERS for x in "AB"}
    return {key: random(*shapes[x], seed=i) for i, (key, x) in enumerate(keys.items())}


def own_modules(variant="base"):
    """All parts but the language model, under the published names."""
    pooling = {"pooling.query": load("attention_pooling")["pooling.query"][:32].clone()}
    return load(f"vla_action_head_{variant}") | pooling | narrow(load("latent_align"))


def everything(variant="base"):
    """A file that has all parts, with an adapter of the language model."""
    return own_modules(variant) | adapters()


def full(variant="base"):
    """`everything` with the weights of the language model, wrapped by peft."""
    weights = {f"{layer}.base_layer.weight": random(48, 24, seed=9 + i) for i, layer in enumerate(LAYERS)}
    weights |= dict.fromkeys((f"{EMBEDDING}.weight", "lm_head.weight"), random(11, 24, seed=20))
    weights[f"{NORM}.weight"] = random(24, seed=21)
    return everything(variant) | {f"vlm.base_model.model.{name}": tensor for name, tensor in weights.items()}


def write(folder, weights, name="vla_step_80000.pt"):
    if name.endswith(".safetensors"):
        safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / name)
    else:
        torch.save(weights, folder / name)
    return folder / name


def same(first, second):
    return first.describe()["weights_sha256"] == second.describe()["weights_sha256"] and first.config == second.config


# What arrives.


@torch.no_grad()
@pytest.mark.parametrize("variant", ["base", "pro"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_converted_head_computes_what_the_published_one_does(variant, prefix, tmp_path):
    values = load(f"vla_action_head_{variant}", "io")
    weights = {prefix + name: tensor for name, tensor in everything(variant).items()}
    model = p2t_vla(write(tmp_path, weights), **FACTS)
    assert isinstance(model, ReleasedVLA)
    assert not model.training
    assert_close(model(values["hidden_states"], values["proprio"]), values["actions"], **CLOSE)
    assert (model.config.variant, model.config.pooling, model.config.latent_dim) == (variant, True, 24)


@torch.no_grad()
def test_converted_pooling_and_projector_compute_what_the_published_ones_do(tmp_path):
    def head(dim):
        weights, i = {}, 0
        layers = {"layer_norm1": (7 * dim,), "fc1": (dim, 7 * dim), "layer_norm2": (dim,), "fc2": (7, dim)}
        layers |= {f"mlp_resnet_blocks.0.{x}": (dim, dim) for x in ("q_proj", "k_proj", "v_proj", "o_proj", "ffn.1")}
        for i, (layer, shape) in enumerate((layers | {"mlp_resnet_blocks.0.ffn.0": (dim,)}).items()):
            weights[f"action_head.model.{layer}.weight"] = random(*shape, seed=i)
            weights[f"action_head.model.{layer}.bias"] = random(shape[0], seed=i)
        return weights | {"action_head.model.mlp_resnet_blocks.0.gating_factor": random(1)}

    values = load("attention_pooling", "io")
    model = p2t_vla(write(tmp_path, head(48) | load("attention_pooling")))
    assert (model.config.blocks, model.config.proprio_dim, model.align) == (1, 0, None)
    assert_close(model.pooling(values["tokens"]), values["pooled_as_shipped"], **CLOSE)
    values = load("latent_align", "io")
    model = p2t_vla(write(tmp_path, head(40) | load("latent_align"), "other.pt"))
    assert model.pooling is None
    assert_close(model.align(values["hidden"]), values["projected"], **CLOSE)


def test_published_sizes_are_the_defaults(tmp_path):
    refused("expected the 151 tensors", lambda: p2t_vla(write(tmp_path, {})))


# The adapter and the language model.


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.q_proj, self.o_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width)

    def forward(self, x):
        return x + self.o_proj(self.q_proj(x).relu())


class Language(nn.Module):
    """A model whose layers lie where those of transformers do."""

    def __init__(self, width=24, vocabulary=11):
        super().__init__()
        self.model = nn.Module()
        self.model.language_model = nn.Module()
        self.model.language_model.embed_tokens = nn.Embedding(vocabulary, width)
        self.model.language_model.layers = nn.ModuleList(Layer(width) for _ in range(2))
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.lm_head.weight = self.model.language_model.embed_tokens.weight

    def forward(self, ids):
        x = self.model.language_model.embed_tokens(ids)
        for layer in self.model.language_model.layers:
            x = layer(x)
        return self.lm_head(x)


@pytest.fixture
def wrapped():
    """peft, a base model, the same with a trained adapter, and some ids."""
    need_transformers()
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = Language()
    spec = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "o_proj"])
    again = Language()
    again.load_state_dict(base.state_dict())
    model = peft.get_peft_model(again, spec)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    return peft, base, model.eval(), torch.arange(6)[None]


@torch.no_grad()
def test_peft_loads_the_adapter(wrapped, tmp_path):
    peft, base, model, ids = wrapped
    weights = own_modules() | {f"vlm.{name}": tensor for name, tensor in model.state_dict().items()}
    out, merged = tmp_path / "out", tmp_path / "merged"
    read_p2t_vla(write(tmp_path, weights), **FACTS).save(out, merged)
    assert float((base(ids) - model(ids)).abs().max()) > 0.01
    plain = Language()
    plain.load_state_dict(base.state_dict())
    assert_close(peft.PeftModel.from_pretrained(plain, out / "adapter").eval()(ids), model(ids))
    config = peft.PeftConfig.from_pretrained(out / "adapter")
    assert (config.r, config.lora_alpha, config.peft_type) == (4, 16, "LORA")
    tensors = safetensors.torch.load_file(merged / "model.safetensors")
    assert tensors.keys() == base.state_dict().keys() - {"lm_head.weight"}
    plain = Language()
    plain.load_state_dict(tensors, strict=False)
    assert_close(plain(ids), model(ids), atol=1e-4, rtol=1e-4)


# The command.


@torch.no_grad()
def test_the_command_writes_what_python_gives(tmp_path, capsys):
    path, out = write(tmp_path, full("pro")), tmp_path / "released"
    assert convert([str(path), str(out), *FLAGS]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "Found: pro head of 3 blocks of width 32 for 7 action dimensions, proprio of 8 numbers, the pooling of "
        "LA-Direct, the projector of LA-Align to width 24, LoRA of rank 4 on 2 layers, 5 tensors of the language model"
        "; taken as given: horizon 8, 8 heads, 12 image tokens, alpha 16.\n"
    )
    assert printed.endswith(
        f"Saved in {out}, with these facts as conversion.json; adapter/ is for peft. Use it: lattok.load('{out}')\n"
    )
    model = lattok.load(out)
    assert isinstance(model, ReleasedVLA)
    assert same(model, p2t_vla(path, **FACTS))
    values = load("vla_action_head_pro", "io")
    assert_close(model(values["hidden_states"], values["proprio"]), values["actions"], **CLOSE)
    assert sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()) == [
        "README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "config.json",
        "conversion.json",
        "model.safetensors",
    ]


# Refusals.


def changed(changes, variant="base"):
    """`full` without the tensors that are None in `changes`, and with the others."""
    weights = full(variant) | {name: tensor for name, tensor in changes.items() if tensor is not None}
    return {name: tensor for name, tensor in weights.items() if changes.get(name, tensor) is not None}


HEAD, BLOCKS = "action_head.model.", "action_head.model.mlp_resnet_blocks."
QV = f"vlm.base_model.model.{LAYERS[0]}"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({f"{HEAD}fc1.bias": None, "extra": torch.ones(1)}, f"missing {HEAD}fc1.bias; unexpected extra."),
        ({f"{HEAD}fc1.weight": torch.ones(32, 223)}, "fc1.weight has shape [32, 223], expected [32, 224]"),
        ({f"{HEAD}fc2.weight": torch.ones(7)}, "fc2.weight has shape [7], expected [7, 2048]"),
        ({f"{HEAD}fc1.bias": torch.full((32,), torch.nan)}, "fc1.bias holds NaN or infinity"),
        ({f"{BLOCKS}1.gating_factor": None}, f"missing {BLOCKS}1.gating_factor"),
        ({f"{BLOCKS}3.q_proj.bias": torch.ones(32)}, f"missing {BLOCKS}3.q_proj.weight"),
        ({f"{BLOCKS}0.film_gen.1.bias": torch.ones(32)}, f"unexpected {BLOCKS}0.film_gen.1.bias"),
        ({"proprio_projector.fc1.weight": None}, "missing proprio_projector.fc1.weight"),
        ({"pooling.key": torch.ones(32)}, "unexpected pooling.key"),
        ({"pooling.query": torch.ones(33)}, "pooling.query has shape [33], expected [32]"),
        ({"latent_action_head.norm.weight": None}, "missing latent_action_head.norm.weight"),
        ({f"{QV}.lora_A.default.weight": None}, f"missing vlm.{LAYERS[0]}.lora_A of a LoRA pair"),
        ({f"{QV}.lora_A.default.weight": torch.ones(4, 25)}, "lora_A has shape [4, 25], its layer [48, 24]"),
        ({f"{QV}.lora_B.default.weight": torch.ones(48, 3)}, "lora_B has shape [48, 3], expected [out, r], r 4"),
        ({f"{QV}.lora_B.default.weight": torch.full((48, 4), torch.inf)}, "lora_B holds NaN or infinity"),
        ({f"{QV}.lora_A.other.weight": torch.ones(4, 24)}, "several adapters: default, other"),
        ({f"{QV}.lora_magnitude_vector.default.weight": torch.ones(4)}, "unexpected vlm.base_model.model.model"),
        ({"vlm.model.x.modules_to_save.default.weight": torch.ones(4)}, "unexpected vlm.model.x.modules_to_save"),
        ({f"vlm.{LAYERS[0]}.weight": torch.ones(48, 24)}, "unexpected"),
        ({f"{QV}.base_layer.weight": torch.full((48, 24), torch.nan)}, "base_layer.weight holds NaN"),
    ],
)
def test_what_does_not_fit_is_listed(changes, text, tmp_path):
    refused(re.escape(text), lambda: read_p2t_vla(write(tmp_path, changed(changes)), **FACTS))


def no_base_layer():
    return changed({f"{QV}.base_layer.weight": None})


@pytest.mark.parametrize(
    ("content", "words", "text"),
    [
        (everything, ["--backbone-out", "B"], "`backbone_out`: expected a file with the weights of the language model"),
        (no_base_layer, ["--backbone-out", "B"], "one without 1 layers, such as model.language_model.layers.0."),
        (full, ["--backbone-out", "OUT"], "`backbone_out`: expected a folder outside /"),
        (full, ["--backbone-out", "IN"], "out, got /"),
        (full, ["--backbone-out", "FULL"], "`backbone_out`: expected a new or empty folder"),
        (full, ["--heads", "5"], "`heads`"),
        (lambda: changed({"action_head.model.fc1.bias": None}), [], "missing action_head.model.fc1.bias"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(content, words, text, tmp_path, capsys):
    path = write(tmp_path, content())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    places = {"B": tmp_path / "b", "OUT": tmp_path / "out", "FULL": tmp_path / "full", "IN": tmp_path / "out/adapter"}
    words = [str(places.get(word, word)) for word in words]
    assert convert([str(path), str(tmp_path / "out"), *FLAGS, *words]) != 0
    errors = capsys.readouterr().err
    assert text in errors
    assert len(errors.strip().splitlines()) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full", path.name]


def test_where_the_package_is_installed_load_finds_the_family(tmp_path):
    """Its entry point, as an installer writes it, in a Python that has not imported the package."""
    project = ROOT / "integrations" / "p2t_policy"
    (entry,) = re.findall(r'^p2t-released-vla = "(.+)"', (project / "pyproject.toml").read_text(), re.MULTILINE)
    installed = tmp_path / "lattok_p2t_policy-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: lattok_p2t_policy\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text(f"[lattok.artefacts]\np2t-released-vla = {entry}\n")
    saved = p2t_vla(write(tmp_path, own_modules()), **FACTS).save_pretrained(tmp_path / "saved")
    code = f"import lattok; assert type(lattok.load({str(saved)!r})).__module__ == 'lattok_p2t_policy.released'"
    afresh(code, tmp_path, ROOT, tmp_path, project / "src")
