"""Artefacts: strict, whole, versioned; the Hub client is replaced by fakes, since there is no network in tests."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lattok
from lattok.action_vq import ActionVQConfig, P2TActionVQ, UniformBins, UniformBinsConfig
from lattok.checks import LattokError
from lattok.hub import CONFIG, WEIGHTS

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
        (
            lambda t: t.update({"decoder.net.0.bias": torch.zeros(5)}),
            r"decoder.net.0.bias has shape \[5\], expected \[8\]",
        ),
    ],
)
def test_tensors_must_fit_exactly(folder, change, text):
    edit_tensors(folder, change)
    with pytest.raises(LattokError, match=text):
        lattok.load(folder)


def test_all_problems_are_listed_at_once(folder):
    edit_tensors(folder, lambda t: (t.pop("decoder.net.0.bias"), t.update(extra=torch.zeros(1))))
    with pytest.raises(LattokError, match="missing decoder.net.0.bias; unexpected extra"):
        lattok.load(folder)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lattok_version": "99.0.0"}, "a config written by lattok .* or older, got 99.0.0. Upgrade lattok"),
        ({"type": "unknown"}, "expected one of action-vq, .*, got 'unknown'"),
        ({"mystery": 1}, "expected names among .*, got mystery"),
        ({"horizon": 0}, "`horizon`: expected a whole number of at least 1, got 0"),
    ],
)
def test_configs_that_do_not_fit(folder, changes, text):
    edit_config(folder, **changes)
    with pytest.raises(LattokError, match=text):
        lattok.load(folder)


def test_a_patch_release_newer_is_fine(folder):
    major, minor, patch = lattok.__version__.split(".")
    edit_config(folder, lattok_version=f"{major}.{minor}.{int(patch) + 1}")
    lattok.load(folder)


def test_files_that_are_not_there_or_broken(folder, tmp_path):
    with pytest.raises(LattokError, match="expected a folder with config.json, got .* without it"):
        lattok.load(tmp_path)
    with pytest.raises(LattokError, match="a folder with config.json, or a Hub id"):
        lattok.load(tmp_path / "nowhere")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])
    with pytest.raises(LattokError, match="expected a whole safetensors file"):
        lattok.load(folder)
    (folder / CONFIG).write_text("{")
    with pytest.raises(LattokError, match="config.json is not valid JSON"):
        lattok.load(folder)


def test_a_hub_id_is_downloaded_at_the_revision(folder, monkeypatch):
    asked = {}

    def fake_download(repo_id, revision=None, **options):
        asked.update(repo_id=repo_id, revision=revision)
        commit = folder.rename(folder.with_name("0123abc"))  # a snapshot lies in a folder named by its commit
        return str(commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake_download)
    model = lattok.load("org/name", revision="v1")
    assert asked == {"repo_id": "org/name", "revision": "v1"}
    assert (model.source, model.revision) == ("org/name", "0123abc")


def test_a_hub_id_that_cannot_be_fetched_is_one_line(monkeypatch):
    def offline(*args, **options):
        raise OSError("offline\nlong traceback")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(LattokError, match="'org/name' could not be fetched: offline") as caught:
        lattok.load("org/name")
    assert "\n" not in str(caught.value)


def test_push_uploads_one_complete_folder(folder, monkeypatch):
    uploaded = {}

    class FakeApi:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, private=None, exist_ok=False):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, commit_message):
            uploaded.update(files=sorted(p.name for p in folder_path.iterdir()), repo_id=repo_id)
            return "commit"

    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    assert lattok.load(folder).push_to_hub("org/name") == "commit"
    assert uploaded == {"repo_id": "org/name", "files": ["README.md", "config.json", "model.safetensors"]}


def test_model_card_holds_the_last_evaluation(folder):
    model = lattok.load(folder)
    assert "Not evaluated yet" in (folder / "README.md").read_text()
    model.evaluation = {"headline": "Good.", "figures": {"normalised MSE": 0.01234567}}
    model.save_card(folder)
    card = (folder / "README.md").read_text()
    assert "Good." in card
    assert "| normalised MSE | 0.01235 |" in card
    assert lattok.load(folder).evaluation == model.evaluation


def test_the_identity_of_a_configuration_stays():
    """Provenance of labels made with earlier versions names these hashes: a new field must not change them."""
    bins = UniformBins(UniformBinsConfig(action_dim=3))
    assert bins.describe()["config_sha256"].startswith("800066557935afc6")
    bins.config = replace(bins.config, normalizers=("bridge",))
    assert not bins.describe()["config_sha256"].startswith("800066557935afc6")
