"""Conversion of published checkpoints as a user meets it: sizes, facts, statistics, the command, refusals."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import lattok
from lattok.action_vq.p2t import ActionVQConfig
from lattok.cli import main
from lattok.hub.checkpoint import IMPORTERS, systems
from lattok.hub.recognised import tensor_names
from tests.action_vq.plain import Facts, random_weights, shapes
from tests.errors import refused

PARITY = Path(__file__).parent / "parity"
H20 = PARITY / "action_tokenizer_h20_m7"
STATISTICS = {"mean": [1.0, 2, 3, 4, 5, 6, 7], "std": [1.0, 2, 3, 4, 5, 6, 0.5]}


def key_lists(path):
    lists = json.loads(path.read_text())
    return {name: keys for name, keys in lists.items() if name.startswith("action_tokenizer")}


def write(tmp_path, weights, name="file.safetensors"):
    safetensors.torch.save_file(weights, tmp_path / name)
    return tmp_path / name


@pytest.fixture
def weights():
    return safetensors.torch.load_file(H20 / "weights.safetensors")


@pytest.fixture
def actions():
    return safetensors.torch.load_file(H20 / "io.safetensors")["actions"]


def same(first, second):
    return first.describe()["weights_sha256"] == second.describe()["weights_sha256"] and first.config == second.config


@pytest.mark.parametrize("name", key_lists(PARITY / "action_tokenizer_keys.json"))
def test_every_key_of_the_full_size_files_is_recognised(name, tmp_path):
    keys = key_lists(PARITY / "action_tokenizer_keys.json")[name]
    config = lattok.convert.p2t_action_vq(write(tmp_path, random_weights(keys)), 8).config
    expected = ActionVQConfig(action_dim=14 if "m14" in name else 7, normalize="identity")
    for field in ("action_dim", "horizon", "dim", "codebook_size", "fft", "dilations", "depth", "heads", "hidden"):
        assert getattr(config, field) == getattr(expected, field), field


def test_leftovers_on_both_sides_are_listed(weights, tmp_path):
    del weights["vq.ema_w"], weights["encoder.conv2.bias"]
    weights |= {"vq.extra": torch.ones(1), "encoder.transformer.norm.weight": torch.ones(48)}
    weights["encoder.in_proj.bias"] = torch.ones(47)
    said = refused(None, lambda: lattok.convert.p2t_action_vq(write(tmp_path, weights), 20))
    assert said == (
        f"`{tmp_path / 'file.safetensors'}`: expected the 39 tensors of such a checkpoint, got "
        "missing encoder.conv2.bias; missing vq.ema_w; unexpected encoder.transformer.norm.weight; "
        "unexpected vq.extra; encoder.in_proj.bias has shape [47], expected [48]."
    )


@pytest.mark.parametrize("name", sorted(shapes(Facts())))
def test_no_tensor_may_be_missing(name, weights, tmp_path):
    del weights[name]
    refused(re.escape(f"missing {name}"), lambda: lattok.convert.p2t_action_vq(write(tmp_path, weights), 20))


def test_something_else_is_refused(tmp_path):
    refused(
        "for p2t-action-vq, got one for p2t-image-lam or univla-lam. Run: lattok",
        lambda: lattok.convert.p2t_action_vq(write(tmp_path, {"lam.action_latent": torch.ones(1, 1, 4, 768)}), 8),
    )
    for names, said in (
        (["mine"], r"expected the 39 tensors of such a checkpoint, got 1 other, such as mine\.$"),
        ([], r"got 0 others\.$"),
        (["net.conv_block.blocks.3.a", "net.b"], r"such as net.b, net.conv_.*\. By its names it is nearest to"),
        (["net.nested_dropout.dropout_mask_token.b"], r"\. By its names it is nearest to oat\.$"),
    ):
        refused(said, lattok.convert.p2t_action_vq, write(tmp_path, {name: torch.ones(1) for name in names}), 8)


NEEDS_FLAGS = ("image_lam_stage1", "lara_lam_a", "lary_laq_b", "univla_stage2", "lawam_lam_a")
SYSTEMS = {"action_tokenizer": "p2t-action-vq", "image_lam": "p2t-image-lam", "univla": "univla-lam", "quest": "quest"}
SYSTEMS |= {"adaworld": "adaworld-lam", "beast": "beast", "lapa": "lapa-laq", "lary": "lary-laq", "oat": "oat"}
SYSTEMS |= {"lara": "moto-lam", "lawam": "lawam-lam", "villax": "villax-lam", "vqbet": "vqbet"}
PUBLISHED = [path.name for path in sorted(PARITY.iterdir()) if path.is_dir() and path.name.startswith(tuple(SYSTEMS))]


def test_every_system_has_a_fixture_to_be_recognised():
    assert {SYSTEMS[key] for name in PUBLISHED for key in SYSTEMS if name.startswith(key)} == {*IMPORTERS}


@pytest.mark.parametrize("name", PUBLISHED)
def test_loading_a_published_file_or_folder_names_the_command_that_converts_it(name, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "published model"
    folder.mkdir()
    for file in PARITY.joinpath(name).iterdir():
        if file.name not in ("io.safetensors", "config.json"):
            shutil.copy(file, folder)
    settings = json.loads((PARITY / name / "config.json").read_text()).get("model", {})
    if not [*folder.glob("*.json")]:
        (folder / "settings.json").write_text(json.dumps(settings))
    monkeypatch.chdir(tmp_path)
    weights = next(path for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".pt", ".ckpt"))
    system = next(SYSTEMS[key] for key in SYSTEMS if name.startswith(key))
    for subject in (folder, weights):
        said = refused(f"It looks like a published checkpoint of .*{system}", lattok.load, subject)
    (folder / "config.json").write_text('{"model_type": "theirs"}')
    refused(f"Is this a lattok artefact. It looks like a .*{system}", lattok.load, folder)
    (folder / "config.json").unlink()
    words = command_of(said, system)
    known = {"HORIZON": name.partition("_h")[2].partition("_")[0], "STRIDE": "calvin"}
    for placeholder in {*known} & {*words}:
        assert f"; {placeholder}: {MEANT[placeholder]}" in said
    code = main([known.get(word, word) for word in words])
    error = capsys.readouterr().err
    assert code == 0 or (name in NEEDS_FLAGS and re.search(r"`heads`|num_heads|vit|features|shape", error)), error
    assert code != 0 or lattok.load("my-model")


MEANT = {"HORIZON": "Steps of an action chunk; the file does not hold it", "STRIDE": "Gap of a frame pair, always"}
MEANT |= {"CONFIG": "Settings that the tokenizer was built with", "ENTRY": "", "PREFIX": ""}


def command_of(said: str, system: str) -> list[str]:
    found = re.search(rf"lattok (convert {system} .*?)(;| or |$)", said)
    assert found is not None
    return shlex.split(found[1])


@pytest.mark.parametrize(
    ("name", "around", "given"),
    [
        ("quest_a", lambda tensors: {"model": prefixed("autoencoder.", tensors), "step": 3}, ("model", "autoencoder.")),
        ("oat_a", lambda tensors: {"state_dicts": {"ema_model": tensors, "optimizer": 3}}, ("state_dicts.ema_model",)),
    ],
)
def test_the_command_says_where_in_a_training_state_it_is(name, around, given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tensors = safetensors.torch.load_file(PARITY / name / "weights.safetensors")
    torch.save(around(tensors), "state.ckpt")
    Path("config.json").write_text(json.dumps(json.loads((PARITY / name / "config.json").read_text())["model"]))
    system = SYSTEMS[name.partition("_")[0]]
    words = command_of(refused(f"published checkpoint of {system}", lattok.load, "state.ckpt"), system)
    assert words[4:] == [
        *("--config", "config.json", "--entry", given[0]),
        *(word for prefix in given[1:] for word in ("--prefix", prefix)),
    ]
    assert main(words) == 0, capsys.readouterr().err
    assert lattok.load("my-model").type == system


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def test_weights_alone_of_a_system_that_needs_its_settings(tmp_path, monkeypatch):
    shutil.copy(PARITY / "villax_lam_b" / "weights.safetensors", tmp_path / "model.safetensors")
    assert command_of(refused(None, lattok.load, tmp_path), "villax-lam")[-2:] == ["--config", "CONFIG"]
    (tmp_path / "model_config.json").write_text("{}")
    said = refused(None, lattok.load, tmp_path / "model.safetensors")
    assert "--config" not in command_of(said, "villax-lam")


@pytest.mark.parametrize("family", [lattok.QueST, lattok.UniformBins, lattok.ImageLAM, lattok.LatentVLA])
def test_a_class_says_of_a_published_file_what_load_says(family, tmp_path):
    shutil.copy(PARITY / "quest_a" / "weights.safetensors", tmp_path / "quest.safetensors")
    for place in (tmp_path, tmp_path / "quest.safetensors"):
        said = refused(None, family.from_pretrained, place)
        assert said == refused(None, lattok.load, place)
        assert command_of(said, "quest")


def test_a_folder_in_the_format_of_fast_names_the_call_that_reads_it(tmp_path):
    chunks = torch.randn(200, 4, 3, generator=torch.Generator().manual_seed(0))
    fitted = lattok.FAST.fit(chunks, vocab_size=300, normalize="identity")
    fitted.save_published(tmp_path)
    facts = json.loads((tmp_path / "processor_config.json").read_text())
    for known in ({}, {"action_dim": None, "time_horizon": None}):
        (tmp_path / "processor_config.json").write_text(json.dumps({**facts, **known}))
        said = refused("It looks like a published tokenizer of FAST", lattok.load, tmp_path)
        call = re.search(r"lattok(\.FAST.*?\))", said)
        assert call is not None
        read = eval(f"lattok{call[1]}", {"lattok": lattok, "ACTION_DIM": 3, "HORIZON": 4})
        assert torch.equal(read.encode(chunks), fitted.encode(chunks))
    assert "; ACTION_DIM, HORIZON: dimensions of an action and steps of a chunk" in said


@pytest.mark.parametrize("golden", sorted(Path(__file__).parent.joinpath("golden").rglob("model.safetensors")), ids=str)
def test_a_model_of_lattok_looks_like_no_other(golden):
    assert not systems(tensor_names(golden))


@pytest.mark.parametrize("content", [b"", b"not weights", None])
def test_what_is_no_checkpoint_gets_no_advice(content, tmp_path):
    if content is None:
        torch.save({"mine": torch.ones(3)}, tmp_path / "x.pt")
    else:
        (tmp_path / "x.safetensors").write_bytes(content)
        (tmp_path / "x.pt").write_bytes(content)
    for subject in (tmp_path, tmp_path / "x.pt"):
        said = refused(None, lattok.load, subject)
        assert "looks like" not in said


def test_sizes_that_no_published_file_has(tmp_path):
    facts = Facts(horizon=5, action_dim=3, dim=12, codes=7, hidden=10, depth=3, heads=3, dilations=(2,), fft=False)
    path = write(tmp_path, random_weights(shapes(facts)))
    config = lattok.convert.p2t_action_vq(path, 5, heads=3, dilations=[2]).config
    for field in ("action_dim", "dim", "hidden", "depth", "dilations", "heads", "fft"):
        assert getattr(config, field) == getattr(facts, field), field
    assert config.codebook_size == 7


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"horizon": 0}, "`horizon`: expected a whole number of at least 1, got 0"),
        ({"horizon": 8.0}, "`horizon`: expected a whole number"),
        ({"heads": 5}, "`heads`: expected a divisor of the width 48 in the file, got 5"),
        ({"heads": 0}, "`heads`: expected a whole number of at least 1"),
        ({"dilations": (1, 2)}, "`dilations`: expected 3 numbers, one for each convolution in the file, got 2"),
        ({"dilations": (1, 2, 0)}, "`dilations[2]`: expected a whole number"),
        ({"dropout": 1.5}, "`dropout`: expected a number in [0, 1)"),
        ({"action_names": ("x",)}, "`action_names`: expected 7 names, one for each dimension, or none, got 1"),
        ({"action_kind": "wild"}, "`action_kind`: expected one of"),
        ({"dim": 64}, "`options`: expected names among"),
        ({"normalize": "quantile"}, "`normalize`: expected identity without statistics"),
        ({"statistics": {"median": [0.0] * 7}}, "`statistics`: expected mean and std, or q01 and q99, or min and max"),
        ({"statistics": {"mean": ["a"] * 7, "std": [1.0] * 7}}, "`statistics['mean']`: expected numbers"),
        ({"statistics": {"mean": [0.0] * 6, "std": [1.0] * 7}}, "expected 7"),
        ({"statistics": STATISTICS, "normalize": "min_max"}, "`normalize`: expected one of mean_std, got 'min_max'"),
        ({"statistics": "nowhere.json"}, "cannot read nowhere.json"),
    ],
)
def test_impossible_facts_are_said(facts, text):
    refused(re.escape(text), lattok.convert.p2t_action_vq, H20 / "weights.safetensors", **{"horizon": 20, **facts})


ALL = {**STATISTICS, "q01": [-1.0] * 7, "q99": [3.0] * 7, "min": [-2.0] * 7, "max": [6.0] * 7, "count": [100]}


@pytest.mark.parametrize(
    ("statistics", "normalize", "kind", "shift", "scale"),
    [
        (STATISTICS, None, "mean_std", STATISTICS["mean"], STATISTICS["std"]),
        (ALL, None, "mean_std", STATISTICS["mean"], STATISTICS["std"]),
        (ALL, "quantile", "quantile", [1.0] * 7, [2.0] * 7),
        (ALL, "min_max", "min_max", [2.0] * 7, [4.0] * 7),
        ({"action": ALL, "reward": {"mean": [0.0]}}, "min_max", "min_max", [2.0] * 7, [4.0] * 7),
        ({"min": [-2.0] * 7, "max": [6.0] * 7}, None, "min_max", [2.0] * 7, [4.0] * 7),
    ],
)
def test_statistics_make_the_normaliser(statistics, normalize, kind, shift, scale, tmp_path, actions):
    (tmp_path / "stats.json").write_text(json.dumps(statistics))
    plain = lattok.convert.p2t_action_vq(H20 / "checkpoint.pt", 20)
    for source in (statistics, tmp_path / "stats.json"):
        model = lattok.convert.p2t_action_vq(H20 / "checkpoint.pt", 20, statistics=source, normalize=normalize)
        assert model.config.normalize == kind
        torch.testing.assert_close(model.normalizer.shift, torch.tensor(shift))
        torch.testing.assert_close(model.normalizer.scale, torch.tensor(scale))
        physical = model.normalizer.inverse(actions)
        assert torch.equal(model.encode(physical), plain.encode(actions))


def test_the_command_writes_what_python_gives(tmp_path, capsys, actions):
    out = tmp_path / "tokenizer"
    words = ["convert", "p2t-action-vq", str(H20 / "checkpoint.pt"), str(out), "--horizon", "20"]
    assert main(words) == 0
    assert capsys.readouterr().out == (
        "Found: 7 action dimensions, 32 codes of width 48, 3 convolutions, 2 Transformer layers, with FFT; "
        "normalisation: identity; taken as given: horizon 20, heads 4, dilations 1 2 4, dropout 0.1, "
        "action_kind unspecified.\n"
        "The file does not say which statistics actions were normalised with: --statistics.\n"
        f"Saved in {out}. Evaluate it: lattok evaluate {out} DATASET\n"
    )
    model, expected = lattok.load(out), lattok.convert.p2t_action_vq(H20 / "weights.safetensors", 20)
    assert same(model, expected)
    assert torch.equal(model.encode(actions), expected.encode(actions))


def test_the_command_takes_every_fact(tmp_path, capsys):
    (tmp_path / "stats.json").write_text(json.dumps({"action": ALL}))
    facts = Facts(action_dim=7, heads=2, dilations=(1, 3))
    path = write(tmp_path, random_weights(shapes(facts)))
    words = ["convert", "p2t-action-vq", str(path), str(tmp_path / "out"), "--horizon", "9", "--heads", "2"]
    words += ["--dilations", "1", "3", "--statistics", str(tmp_path / "stats.json"), "--normalize", "quantile"]
    words += ["--action-kind", "relative", "--action-names", *"abcdefg"]
    assert main(words) == 0
    config = lattok.load(tmp_path / "out").config
    assert (config.horizon, config.heads, config.dilations, config.normalize) == (9, 2, (1, 3), "quantile")
    assert (config.action_kind, config.action_names) == ("relative", tuple("abcdefg"))
    assert "normalisation: quantile" in capsys.readouterr().out


NEEDED = {system: ["--config", "settings.json"] for system in ("beast", "oat", "quest", "vqbet")}
NEEDED |= {"p2t-action-vq": ["--horizon", "20"]}


@pytest.mark.parametrize("system", sorted(SYSTEMS.values()))
def test_what_cannot_be_converted_is_one_line_and_changes_nothing(system, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("settings.json").write_text("{}")
    write(tmp_path, {"mine": torch.ones(1)}, "other.safetensors")
    Path("full").mkdir()
    Path("full/note.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for file, out, text in (
        ("nowhere.safetensors", "out", "expected"),  # the settings, or the file
        ("settings.json", "out", "expected"),
        ("other.safetensors", "out", "expected"),
        ("other.safetensors", "full", "`out`: expected a new or empty folder"),
        ("other.safetensors", "full/note.txt", "`out`: expected a new or empty folder"),
    ):
        assert main(["convert", system, file, out, *NEEDED.get(system, ())]) == 2
        error = re.sub(r"^(lattok: )?note: .*\n", "", capsys.readouterr().err)
        assert re.fullmatch(r"lattok: `[^\n]*\n", error), error
        assert text in error
    assert sorted(tmp_path.rglob("*")) == before


def test_sizes_that_the_file_does_not_hold_take_no_memory(tmp_path):
    """A tensor of no numbers may have any other axis, as many as a codebook may have rows."""
    weights = {"vq.embedding": torch.zeros(10**6, 0), "vq.ema_w": torch.zeros(1)}
    refused(r"got a configuration with one of shape", lambda: lattok.convert.p2t_action_vq(write(tmp_path, weights), 8))
