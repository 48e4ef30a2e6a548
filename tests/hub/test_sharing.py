"""Models on the Hub, pushed and fetched: the real client against a Hub on this machine."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import lattok
from lattok.action_vq import UniformBins
from lattok.cli import main
from lattok.hub.client import ASSETS, SAMPLES
from tests.conftest import write_dataset
from tests.errors import refused
from tests.hub.server import READER, REPO, WRITER, LocalHub, forget, serving, use
from tests.vla.fakes import policy

# the client itself, where it sends large files to LFS
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
CHUNKS = torch.randn(40, 6, 3, generator=torch.Generator().manual_seed(0))
FILES = {"config.json", "model.safetensors", "README.md"}


@pytest.fixture
def model() -> UniformBins:
    return UniformBins.fit(CHUNKS)


@pytest.fixture
def hub(model: UniformBins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub that has the model, and a client with an empty cache that is not logged in."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with serving(model.save_pretrained(tmp_path / "remote"), tmp_path / "cache", monkeypatch, "models") as served:
        yield served


def weights(model: UniformBins) -> str:
    return model.describe()["weights_sha256"]


def test_a_model_comes_once_and_knows_its_commit(hub: LocalHub, model: UniformBins):
    loaded = lattok.load(REPO)
    assert (weights(loaded), loaded.source, loaded.revision) == (weights(model), REPO, hub.head)
    assert hub.fetched().keys() == FILES
    UniformBins.from_pretrained(REPO, revision="main")
    assert hub.fetched() == {}
    lattok.load(REPO, force_download=True)
    assert hub.fetched().keys() == FILES


def test_branches_commits_and_subfolders(hub: LocalHub, tmp_path: Path):
    first = hub.head
    other = UniformBins.fit(CHUNKS, bins=7)
    other.save_pretrained(hub.folder / "models" / "small")
    hub.branches["v2"] = hub.commit()
    small = lattok.load(REPO, revision="v2", subfolder="models/small", cache_dir=tmp_path / "elsewhere")
    assert (small.config.bins, small.source) == (7, f"{REPO}/models/small")
    assert {name.split("/")[0] for name in hub.fetched()} == {"models"}
    assert lattok.load(REPO, revision=first).revision == first
    refused("`subfolder`: expected a folder in .*, got 'nowhere'", lattok.load, REPO, subfolder="nowhere")


def test_what_comes_short_is_no_model(hub: LocalHub, model: UniformBins):
    hub.faults["model.safetensors"] = ["short"] * 9
    refused("`model`: 'org/arm' could not be fetched: .*run it again", lattok.load, REPO)
    hub.faults.clear()
    assert weights(lattok.load(REPO)) == weights(model)


def test_without_network_the_cache_will_do(hub: LocalHub, model: UniformBins, monkeypatch: pytest.MonkeyPatch):
    refused("it is not in the cache, and .*", lattok.load, REPO, local_files_only=True)
    lattok.load(REPO)
    hub.asked.clear()
    assert weights(lattok.load(REPO, local_files_only=True)) == weights(model)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget()
    for options in ({}, {"revision": "main"}, {"revision": hub.head}):
        assert lattok.load(REPO, **options).revision == hub.head
    refused("downloads are switched off .*Where there is network, run `hf download org/ot", lattok.load, "org/other")
    refused("'org/other' could not be pushed: .* or set HF_HUB_OFFLINE=0", model.push_to_hub, "org/other")
    assert not hub.asked


@pytest.mark.parametrize(
    ("facts", "options", "says"),
    [
        ({}, {"revision": "v9"}, "it has no revision 'v9'. Its branches, tags and commits: https://hugg.*/org/arm/com"),
        ({"exists": False}, {}, "there is no such repository, or it is private and you are not logged in. Check"),
        ({"private": True}, {}, "there is no such repository, or it is private and you are not logged in. Check"),
        ({"private": True}, {"token": "hf_old"}, "there is no such repository, or it is private.* Check"),
        ({"gated": True}, {}, "it is gated. Accept the terms at https://huggingface.co/org/arm, and log in"),
        ({"gated": True}, {"token": READER}, "it is gated. Accept the terms at https://huggingface.co/org/arm, and lo"),
        ({"denied": 403}, {}, "your token does not allow it, or there is none .403.. With a token of the right that"),
        ({"denied": 503}, {}, "HfHubHTTPError: .*503.* Check the network and run it again"),
        ({"denied": 429}, {}, "the Hub was asked too often .429.. Wait five minutes. More is allowed to"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_with_the_way_out(hub: LocalHub, facts: dict, options: dict, says: str):
    vars(hub).update(facts)
    for load in (lattok.load, UniformBins.from_pretrained):
        said = refused(says, load, REPO, **options)
        assert ".." not in said
        unseen = any(part in says for part in ("private", "not logged in", "Check"))
        assert said.endswith(" There is no folder org/arm here either.") == unseen


def test_nobody_answers(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use("http://127.0.0.1:9", tmp_path / "empty", monkeypatch)
    refused("the network failed. Check it|Check the network and run", lattok.load, REPO)


def test_a_pushed_model_is_the_same_when_it_comes_back(hub: LocalHub, model: UniformBins, tmp_path: Path):
    shutil.rmtree(hub.folder)
    hub.folder.mkdir()
    hub.commit()
    hub.exists, hub.guarded = False, True
    address = model.push_to_hub(REPO, token=WRITER, private=True, license="mit", commit_message="first")
    assert (address, hub.messages, hub.private) == (f"{hub.url}/{REPO}/commit/{hub.head}", ["first"], True)
    assert hub.files().keys() == FILES
    loaded = lattok.load(REPO, token=READER)
    assert (weights(loaded), loaded.license, loaded.revision) == (weights(model), "mit", hub.head)


def test_a_push_takes_away_what_an_earlier_one_left(hub: LocalHub, model: UniformBins):
    hub.add("main", {**hub.files(), ".gitattributes": b"x", "notes.txt": b"mine", "parts/old.bin": b"old"})
    model.evaluation = {"headline": "Good.", "verdicts": [], "figures": {}}
    model.push_to_hub(REPO)
    assert hub.files().keys() == {*FILES, "evaluation.json", ".gitattributes", "notes.txt"}
    model.evaluation = None
    model.push_to_hub(REPO)
    assert hub.files().keys() == {*FILES, ".gitattributes", "notes.txt"}
    assert lattok.load(REPO).evaluation is None


def test_a_branch_and_a_pull_request_leave_main_as_it_is(hub: LocalHub, tmp_path: Path, capsys):
    before, other = hub.head, UniformBins.fit(CHUNKS, bins=7)
    folder = other.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id=REPO, revision="try")
    assert (hub.head, lattok.load(REPO, revision="try").config.bins) == (before, 7)
    assert main(["push", str(folder), REPO, "--create-pr", "--message", "please", "--license", "mit"]) == 0
    assert capsys.readouterr().out == f"{hub.url}/{REPO}/discussions/1\n"
    assert (hub.head, hub.messages[-1]) == (before, "please")
    pulled = lattok.load(REPO, revision="refs/pr/1")
    assert (pulled.config.bins, pulled.license) == (7, "mit")
    refused("`revision`: expected to be left out with", other.push_to_hub, REPO, revision="try", create_pr=True)


@pytest.mark.parametrize(
    ("facts", "token", "says"),
    [
        ({"guarded": True}, None, "could not be pushed: your token does not allow it, or there is none (401). With a"),
        ({"guarded": True}, READER, "could not be pushed: your token does not allow it, or there is none (403)."),
        ({}, "hf_old", "could not be pushed: your token does not allow it, or there is none (401)"),
        ({"denied": 500}, WRITER, "could not be pushed: HfHubHTTPError"),
    ],
)
def test_a_push_that_is_refused_is_one_line_and_changes_nothing(
    hub: LocalHub, model: UniformBins, facts: dict, token: str | None, says: str
):
    vars(hub).update(facts)
    before = dict(hub.branches)
    refused(re.escape(says), model.push_to_hub, REPO, token=token)
    assert hub.branches == before


def test_only_policies_come_in_another_dtype(hub: LocalHub, tmp_path: Path):
    folder = policy("baseline").save_pretrained(tmp_path / "policy")
    for asked in ("bfloat16", torch.bfloat16):
        half = lattok.load(folder, dtype=asked)
        assert (half.placeholders.dtype, half.action_normalizer.scale.dtype) == (torch.bfloat16, torch.float32)
    assert UniformBins.from_pretrained(REPO, dtype="float32").config.bins
    refused("`dtype`: expected to be left out: UniformBins is float32, got", lattok.load, REPO, dtype="float16")


def test_the_how_to_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """docs/howto/share_a_model.md in its order; the Hub here has one repository, which stands for each of them."""
    page = (Path(__file__).parents[2] / "docs/howto/share_a_model.md").read_text(encoding="utf-8")
    (bash, python), names = re.findall(r"```(?:bash|python)\n(.*?)```", page, re.DOTALL), {}
    login, *pushes = [shlex.split(line, comments=True) for line in bash.splitlines()]
    assert login == ["hf", "auth", "login"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    shutil.copytree(ASSETS / SAMPLES["sample/lam"], "my-lam")
    lattok.annotate(write_dataset(tmp_path / "arm", (6, 9), cameras=False), UniformBins.fit(CHUNKS), "annotated")
    for kind, words in zip(("models", "datasets"), pushes, strict=True):
        (tmp_path / kind).mkdir()
        with serving(tmp_path / kind, tmp_path / "cache", monkeypatch, kind) as hub:
            hub.exists = False
            assert main([REPO if word.startswith("my-name/") else word for word in words[1:]]) == 0
            if kind == "models":
                exec(python.replace("my-name/my-lam", REPO), names)
                assert (names["lam"].revision, names["lam"].license) == (hub.head, "apache-2.0")
            else:
                assert {"README.md", "meta/info.json", "meta/lattok.json"} <= hub.files().keys()
