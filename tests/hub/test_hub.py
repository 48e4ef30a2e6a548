"""Artefacts: strict, whole, versioned; the Hub client is replaced by fakes. test_sharing.py has the real one."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.errors as errors
import pytest
import torch
from safetensors.torch import load_file, save_file

import lattok
from lattok.action_vq import FAST, ActionVQConfig, P2TActionVQ
from lattok.hub import CONFIG, WEIGHTS, HubModel
from lattok.utils.checks import LattokError
from tests.errors import refused
from tests.evaluation.worlds import tiny_lam

SMALL = ActionVQConfig(action_dim=3, horizon=4, dim=8, codebook_size=4, heads=2, hidden=8)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    return P2TActionVQ(SMALL).save_pretrained(tmp_path / "tok")


def edit_config(folder, **changes):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def edit_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_nothing_of_an_artefact_stays_in_another_one_that_takes_its_place(folder, monkeypatch):
    model = lattok.load(folder)
    model.trained_on = {"dataset": "arm"}
    model.save_pretrained(folder)
    assert lattok.load(folder).trained_on == {"dataset": "arm"}
    model.trained_on = None
    monkeypatch.setattr(HubModel, "save_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save_pretrained(folder)
    with pytest.raises(LattokError):  # which has new weights
        lattok.load(folder)
    monkeypatch.undo()
    model.save_pretrained(folder)
    assert lattok.load(folder).trained_on is None


def test_load_picks_the_class_and_equal_weights_give_equal_hashes(folder, tmp_path):
    model = lattok.load(folder)
    assert isinstance(model, P2TActionVQ)
    assert not model.training
    copy = lattok.load(model.save_pretrained(tmp_path / "copy"))
    first, second = model.describe(), copy.describe()
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["config_sha256"] == second["config_sha256"]
    with torch.no_grad():
        copy.encoder.project.bias[0] += 1e-6
    assert copy.describe()["weights_sha256"] != first["weights_sha256"]
    assert str(tmp_path) not in json.dumps(first)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"config_class": ActionVQConfig}, "`Mine.type`: expected lower-case words with hyphens"),
        ({"type": "my_family", "config_class": ActionVQConfig}, "such as action-vq, got 'my_family'"),
        ({"type": "mine"}, "`Mine.config_class`: expected a frozen dataclass, got None"),
        ({"type": "fsq", "config_class": ActionVQConfig}, "'fsq' is the name of lattok.action_vq.fsq.FSQ: choose"),
        ({"type": "mine", "config_class": dict}, "`Mine.config_class`: expected a frozen dataclass"),
    ],
)
def test_a_family_without_type_or_configuration_is_refused_when_its_class_is_made(members, text):
    refused(text, type, "Mine", (HubModel,), members)


def test_no_temporary_files_stay_and_a_failed_save_leaves_the_old_artefact(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"config.json", "model.safetensors", "README.md"}

    def full_disk(path, content):
        path.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        P2TActionVQ(SMALL).save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("decoder.net.0.bias"), "missing decoder.net.0.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda t: (t.pop("decoder.net.0.bias"), t.update(extra=torch.zeros(1))), "missing decoder.net.0.bias"),
        (lambda t: t.update({"decoder.net.0.bias": torch.zeros(5)}), r"decoder.net.0.bias has shape \[5\]"),
    ],
)
def test_tensors_must_fit_exactly(folder, change, text):
    edit_tensors(folder, change)
    refused(text, lattok.load, folder)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lattok_version": "99.0.0"}, "a config written by lattok .* or older, got 99.0.0. Upgrade lattok"),
        ({"type": "unknown"}, "expected a `type` among action-vq, .*, got 'unknown'"),
        ({"mystery": 1}, "expected names among .*, got mystery"),
        ({"horizon": 0}, "`horizon`: expected a whole number of at least 1, got 0"),
    ],
)
def test_configs_that_do_not_fit(folder, changes, text):
    edit_config(folder, **changes)
    refused(text, lattok.load, folder)


def test_a_patch_release_newer_is_fine(folder):
    major, minor, patch = lattok.__version__.split(".")
    edit_config(folder, lattok_version=f"{major}.{minor}.{int(patch) + 1}")
    lattok.load(folder)


def test_files_that_are_not_there_or_broken(folder, tmp_path):
    refused("expected a folder with config.json, got .* without it", lattok.load, tmp_path)
    refused("a folder with config.json, or a Hub id", lattok.load, tmp_path / "nowhere")
    begun = tmp_path / "my run"
    (begun / "run").mkdir(parents=True)
    (begun / "run/recipe.json").write_text('{"kind": "idm"}')
    refused(f"Resume it: lattok train idm --out '{begun}' --resume$", lattok.load, begun)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])
    refused("expected a whole safetensors file", lattok.load, folder)
    (folder / CONFIG).write_text("{")
    refused("config.json is not valid JSON", lattok.load, folder)


@pytest.fixture
def hub(monkeypatch, folder):
    """What snapshot_download is asked, and what it does then: a function, by default the snapshot of `folder`."""
    edge = SimpleNamespace(asked=[], answer=None)

    def download(repo_id, revision=None, allow_patterns=None, **options):
        edge.asked.append({"repo_id": repo_id, "revision": revision, "patterns": allow_patterns, **options})
        if edge.answer is not None:
            raise edge.answer
        return str(folder.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    return edge


KEYWORDS = {"token": "hf_x", "cache_dir": "/c", "force_download": True, "local_files_only": True}


@pytest.mark.parametrize("load", [lattok.load, P2TActionVQ.from_pretrained])
def test_the_usual_keywords_reach_the_client(load, hub, folder):
    model = load("org/name", revision="v1", subfolder=folder.name, **KEYWORDS)
    (asked,) = hub.asked
    assert {name: asked[name] for name in KEYWORDS} == KEYWORDS
    assert asked["patterns"][0] == f"{folder.name}/config.json"
    assert (model.source, model.revision) == (f"org/name/{folder.name}", folder.parent.name)
    load(folder, **KEYWORDS)  # harmless for a folder
    load(folder.parent, subfolder=folder.name)
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"dtype": torch.int8}, "`dtype`: expected one of float32, bfloat16, float16, got 'int8'"),
        ({"torch_dtype": "auto"}, "`options`: expected names among .*, got torch_dtype. Did you mean dtype?"),
        ({"strict": False}, "`options`: expected names among .*, got strict"),
        ({"config": {}}, "`options`: expected names among .*, got config"),
        ({"trust_remote_code": True}, "`options`: expected names among .*, got trust_remote_code"),
        ({"tokn": "x"}, "`options`: expected names among .*token.*, got tokn. Did you mean token?"),
        ({"token": 3}, r"`token`: expected a value of type str \| bool \| None, got 3"),
        ({"force_download": "yes"}, "`force_download`: expected a value of type bool, got 'yes'"),
        ({"subfolder": "../x"}, "`subfolder`: expected a folder of the repository"),
        ({"subfolder": "/etc"}, "`subfolder`: expected a folder of the repository"),
        ({"device": "tpu"}, "`device`: expected auto, cpu, or an accelerator that torch knows, .* got 'tpu'"),
    ],
    ids=str,
)
def test_keywords_that_cannot_work_are_refused_by_name_before_any_download(keywords, text, hub, folder):
    for place in ("org/name", folder):
        for load in (lattok.load, P2TActionVQ.from_pretrained):
            refused(text, load, place, **keywords)
    assert not hub.asked


def test_keywords_that_change_nothing_are_taken(folder):
    lattok.load(folder, torch_dtype=None, map_location=None)
    assert lattok.load(folder, device="cpu").normalizer.shift.device.type == "cpu"
    refused("`backbone`: expected to be left out: P2TActionVQ has none", lattok.load, folder, backbone="x")


def test_proxies_are_passed_on_where_the_client_has_them(monkeypatch, folder):
    asked = {}

    def old_client(repo_id, *, repo_type=None, revision=None, proxies=None, allow_patterns=None):
        asked["proxies"] = proxies
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", old_client)
    lattok.load("org/name", proxies={"https": "http://proxy:1"})
    assert asked == {"proxies": {"https": "http://proxy:1"}}


class RemoteProtocolError(Exception):
    """As httpx has it: neither an OSError nor one of the client's own."""


RemoteProtocolError.__module__ = "httpx2"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RemoteProtocolError("peer closed connection"), "RemoteProtocolError: peer closed connection. Check"),
        (errors.OfflineModeIsEnabled("x"), "downloads are switched off or the network failed. Check it. Wh"),
        (errors.LocalEntryNotFoundError("outgoing traffic has been disabled"), "downloads are switched off"),
        (OSError(28, "No space left on device", "/cache"), "its files cannot be written /cache"),
        (RuntimeError("something\nlong"), "RuntimeError: something. Check the network and run it again"),
    ],
)
def test_what_the_client_raises_is_one_line_with_the_reason_and_the_way_out(error, text, hub):
    """What a Hub itself answers is in test_sharing.py."""
    hub.answer = error
    for load in (lattok.load, lattok.open_dataset, lambda *a, **o: FAST.from_published(*a, **o)):
        said = refused(re.escape(text), load, "org/name", revision="v9")
        assert "'org/name' at v9 could not be fetched" in said
        assert ".." not in said
        unseen = "switched off" in text or "Check" in text
        assert said.endswith(" There is no folder org/name here either.") == unseen


@pytest.mark.parametrize("name", ["../x", "org/..", "a/b/c", "org name/x", "-x/y", "org/na\0me", "org/" + "n" * 5000])
def test_odd_names_never_reach_the_client(name, hub):
    for load in (lattok.load, lattok.open_dataset):
        refused(None, load, name)
    assert not hub.asked


def test_a_file_of_an_artefact_is_answered_with_its_folder(folder):
    refused(f"Give {folder}, the folder", lattok.load, folder / "config.json")


def test_datasets_take_the_keywords_too(monkeypatch):
    asked = {}

    def download(repo_id, **options):
        asked.update(options)
        return str(lattok.sample_dataset_path().parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    name = lattok.sample_dataset_path().name
    assert lattok.open_dataset("org/name", subfolder=name, **KEYWORDS).name == "org/name"
    assert {key: asked[key] for key in KEYWORDS} == KEYWORDS
    assert asked["allow_patterns"] == [f"{name}/*"]
    asked.clear()
    lattok.open_dataset(lattok.sample_dataset_path(), **KEYWORDS)
    refused("got strict", lattok.open_dataset, "org/name", strict=False)
    assert not asked


@pytest.mark.parametrize(
    ("repo_id", "options", "text"),
    [
        ("org/name/x", {}, "`repo_id`: expected a name on the Hub"),
        ("org/..", {}, "`repo_id`: expected a name on the Hub"),
        ("org/name", {"license": "mit\nevil: 1"}, "`license`: expected the short name"),
    ],
)
def test_a_push_that_cannot_work_is_refused_before_anything_is_sent(repo_id, options, text, folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    refused(text, lambda: lattok.load(folder).push_to_hub(repo_id, **options))
    refused("keywords of an upload together with", lambda: lattok.load(folder).save_pretrained(folder, private=True))


def test_cards_show_hostile_names_as_text(folder, tmp_path):
    model = lattok.load(folder)
    evil = "<script>alert(1)</script> | `x` \n# big ![i](http://e/x) <img onerror=x>"
    verdicts = [{"text": evil, "holds": None, "key": ""}]
    model.evaluation = {"headline": evil, "verdicts": verdicts, "figures": {evil: evil}}
    model.trained_on = {"dataset": "x\nlicense: evil", "episodes": [[0, 1]]}
    card = model.card(evil)
    prose = card.split("```python")[0] + card.split("## Evaluation")[1].split("## Configuration")[0]
    for bad in ("<script", "<img", "\n# big", "![i](", " | `x`"):
        assert bad not in prose
    assert "evil" not in card.split("---")[1]
    assert card.count("```") == 4
    model.trained_on = {"mixture": [{"dataset": "org/data", "episodes": []}, {"dataset": "mine", "episodes": []}]}
    assert "datasets:\n- org/data\nlib" in model.card("x")
    assert "pipeline_tag: robotics\n" in model.card("x")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluation.json", "[1]"),
        ("evaluation.json", '{"headline": 3}'),
        ("evaluation.json", '{"verdicts": {"a": 1}}'),
        ("evaluation.json", '{"verdicts": [3]}'),
        ("evaluation.json", '{"verdicts": [{"text": "x"}]}'),
        ("evaluation.json", '{"verdicts": [{"text": "x", "holds": "yes"}]}'),
        ("evaluation.json", '{"figures": [1]}'),
        ("evaluation.json", '{"figures": {"a": [[1]]}}'),
        ("training.json", '{"dataset": ["a"]}'),
        ("training.json", '{"dataset": "a", "episodes": 3}'),
        ("training.json", '{"dataset": "a", "episodes": [[1, "b"]]}'),
        ("training.json", '{"dataset": "a", "episodes": [[5, 1]]}'),
        ("training.json", '{"mixture": "a"}'),
        ("training.json", '{"mixture": [{"episodes": []}]}'),
        ("training.json", '{"earlier": [1]}'),
        ("training.json", '{"loop": []}'),
        ("training.json", '{"loop": {"lr": {}}}'),
        ("training.json", '{"loop": {"seed": "a"}}'),
        ("training.json", '{"samples_per_step": -1}'),
        ("training.json", '{"labels": {"fraction": "x"}}'),
        ("training.json", '{"split": 3}'),
    ],
)
def test_records_beside_the_weights_are_checked_where_they_are_read(name, content, folder):
    (folder / name).write_text(content)
    refused(name, lattok.load, folder)


@pytest.mark.parametrize("edit", [lambda card: card.replace("# ", "# My own title: ", 1), lambda card: "My words.\n"])
def test_a_card_that_somebody_wrote_stays_and_goes_along(folder, tmp_path, edit):
    card = folder / "README.md"
    assert lattok.load(folder).own_card is None
    card.write_text(edit(card.read_text()))
    mine, model = card.read_text(), lattok.load(folder)
    model.evaluation = {"headline": "Good.", "verdicts": [], "figures": {}}
    assert not model.save_card(folder)
    assert card.read_text() == mine
    assert json.loads((folder / "evaluation.json").read_text())["headline"] == "Good."
    model.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == mine
    refused("`license`: expected the licence of a README.md that lattok", model.push_to_hub, "org/name", license="mit")
    other = tmp_path / "mine"
    other.mkdir()
    (other / "README.md").write_text("# A folder of mine\n")
    model.save_pretrained(other)
    assert (other / "README.md").read_text() == "# A folder of mine\n"


def test_a_declared_action_space_is_read_back(folder):
    model = lattok.load(folder)
    space = [{"part": "gripper", "convention": "open_is_1"}]
    model.trained_on = {"dataset": "d", "episodes": [[0, 3]], "action_space": space}
    assert lattok.load(model.save_pretrained(folder)).trained_on["action_space"] == space
    for wrong in ("complex", "float32" * 1000, "", 32, ["float32"]):
        (folder / "training.json").write_text(json.dumps({"dataset": "d", "action_dtype": wrong}))
        text = (
            "`action_dtype` in `.*training.json`: expected a type of numbers such as float32, got .{2,60}\\. Copy the"
        )
        refused(text, lattok.load, folder)
    (folder / "training.json").write_text('{"action_space": [3]}')
    refused("`action_space` in `.*training.json`: expected a list of objects", lattok.load, folder)


def test_a_card_of_lattoks_is_written_again_with_the_last_evaluation(folder):
    assert "Not evaluated yet" in (folder / "README.md").read_text()
    for headline in ("Good.", "Better."):
        model = lattok.load(folder)
        model.evaluation = {"headline": headline, "figures": {"normalised MSE": 0.01234567}}
        assert model.save_card(folder)
        card = (folder / "README.md").read_text()
        assert headline in card
        assert "| normalised MSE | 0.01235 |" in card
        assert lattok.load(folder).evaluation == model.evaluation


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda model: setattr(model, "config", replace(SMALL, action_names=("\udc80", "y", "z"))), "what JSON can"),
        (lambda model: object.__setattr__(model.config, "fft", 1), "`fft` in `config.json`: expected a value of type"),
        (lambda model: setattr(model, "trained_on", {"loop": object()}), "`training.json`: expected what JSON can"),
        (lambda model: model.encoder.project.bias.data.fill_(torch.nan), "expected weights that are sound"),
    ],
)
def test_what_could_not_be_loaded_again_is_not_saved_over_a_model(folder, spoil, text):
    model, before = lattok.load(folder), {path.name: path.read_bytes() for path in folder.iterdir()}
    spoil(model)
    refused(text, model.save_pretrained, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_rounded_weights_are_not_saved(tmp_path):
    refused("expected float32, got torch.bfloat16", lambda: tiny_lam().bfloat16().save_pretrained(tmp_path / "lam"))
    assert not (tmp_path / "lam").exists()


def test_parts_of_a_model_are_not_written_before_it_is_checked(tmp_path):
    tokenizer = FAST.fit(torch.randn(20, 4, 2), vocab_size=300)
    tokenizer.trained_on = {"loop": object()}
    refused("`training.json`: expected what JSON can", tokenizer.save_pretrained, tmp_path / "fast")
    assert not (tmp_path / "fast").exists()


def test_a_push_together_with_saving_takes_the_card_that_lies_there(folder, monkeypatch):
    card = "---\nlicense: mit\n---\n# Mine\n"
    (folder / "README.md").write_text(card)
    pushed = []
    monkeypatch.setattr(
        "lattok.hub.client.push", lambda repo, save, *_: pushed.append((save(repo) / "README.md").read_text())
    )
    P2TActionVQ(SMALL).save_pretrained(folder, push_to_hub=True, repo_id="org/name")
    assert pushed == [card]
