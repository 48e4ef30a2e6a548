"""scripts/publish_models.py: its commands are whole, and a rehearsal ends on a Hub on this machine."""

from pathlib import Path

import pytest

import lattok
from lattok import cli
from scripts import publish_models
from tests.hub import server


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: server.WRITER)
    monkeypatch.setattr(server, "REPO", "org/lattok-libero-beast")
    (tmp_path / "empty").mkdir()
    with server.serving(tmp_path / "empty", tmp_path / "cache", monkeypatch, "models") as served:
        yield served


def test_every_command_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli.flags, "call", lambda run, values: None)
    for model in publish_models.MODELS:
        for words in publish_models.commands(model, "org", tmp_path, False, False):
            assert cli.main(words) == 0, (words, capsys.readouterr().err)
        assert (publish_models.hours(model) is None) == (model.kind in ("beast", "fast", "oat"))
    assert "| bridge-idm | IPEC-COMMUNITY/bridge_orig_lerobot | small |" in publish_models.listing(3)


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
def test_a_rehearsal_ends_on_the_hub_and_does_nothing_twice(hub, tmp_path, capsys):
    words = ["org", "--folder", str(tmp_path / "models"), "--rehearse", "--only", "libero-beast"]
    assert publish_models.main(words) == 0, capsys.readouterr()
    assert capsys.readouterr().out.count("$ lattok") == 3
    assert publish_models.main(words) == 0
    assert "$ lattok" not in capsys.readouterr().out
    loaded = lattok.load(server.REPO)
    assert loaded.type == "beast"
    own = lattok.load(tmp_path / "models/libero-beast")
    assert loaded.describe()["weights_sha256"] == own.describe()["weights_sha256"]
    with pytest.raises(SystemExit):
        publish_models.main([*words[:-1], "beast"])


@pytest.mark.ci
def test_a_rehearsal_of_every_kind(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lattok.evaluation.questions.learnability.STEPS", 20)  # of 600, which take a minute each
    words = ["org", "--folder", str(tmp_path), "--rehearse", "--only", "bridge", "--dry-run"]
    assert publish_models.main(words) == 0, capsys.readouterr()
