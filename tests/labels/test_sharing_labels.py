"""Datasets with labels, pushed to a Hub on this machine with the real client and opened from there."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import DatasetCard

import lattok
from lattok.action_vq import UniformBins
from lattok.cli import main
from lattok.data.opening import open_dataset
from lattok.labels.sharing import Listing, _card, listing
from tests.conftest import write_dataset
from tests.data.rlds_sample import write_rlds
from tests.errors import refused
from tests.hub.server import REPO, WRITER, LocalHub, serving
from tests.samples.policies import Demonstrations

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty Hub, and a client that is not logged in."""
    (tmp_path / "remote").mkdir()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with serving(tmp_path / "remote", tmp_path / "cache", monkeypatch) as served:
        served.exists = False
        yield served


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "arm", (6, 9), tasks=("open the drawer", "close it"))


def annotated(source, out: Path) -> Path:
    dataset = open_dataset(source)
    chunks = np.concatenate([dataset.columns(e.index, ["action"])["action"] for e in dataset.episodes])[:12]
    tokenizer = UniformBins.fit(chunks.reshape(3, 4, -1), bins=5)
    tokenizer.source = "org/tok"
    return lattok.annotate(dataset, {"tokens": tokenizer}, out)


def card_of(hub: LocalHub) -> DatasetCard:
    return DatasetCard(hub.files()["README.md"].decode())


def run_code(card: str) -> dict:
    found: dict = {}
    exec(card.split("```python\n")[1].split("```")[0], found)
    return found


def test_an_annotated_dataset_comes_back_the_same_with_a_card(hub: LocalHub, source: Path, tmp_path: Path, capsys):
    (source / "README.md").write_text("---\nlicense: mit\ntags: [LeRobot]\n---\n# My arm\nRecorded at home.\n")
    folder = annotated(source, tmp_path / "annotated")
    hub.guarded = True
    address = lattok.push_dataset(folder, REPO, token=WRITER, commit_message="labels")
    assert address == f"{hub.url}/datasets/{REPO}/commit/{hub.head}"
    assert (hub.messages, hub.branches["v3.0"]) == (["labels"], hub.head)
    found = run_code(card_of(hub).text)
    here = open_dataset(folder)
    assert found["dataset"].name == REPO
    np.testing.assert_array_equal(found["values"], here.columns(0, ["tokens.codes"])["tokens.codes"])
    np.testing.assert_array_equal(found["dataset"].frames(1), here.frames(1))
    card = card_of(hub)
    known = card.data.to_dict()
    assert (known["license"], known["task_categories"]) == ("mit", ["robotics"])
    assert {"LeRobot", "latent-action-model", "lattok"} <= set(known["tags"])
    assert known["configs"] == [{"config_name": "default", "data_files": "data/*/*.parquet"}]
    for text in (
        "2 episodes, 15 frames",
        "| tokens.codes | int64 | [",
        "each of 5",
        "- model: org/tok",
        "lattok verify",
    ):
        assert text in card.text
    assert card.text.count("Recorded at home.") == 1
    assert (source / "README.md").read_text().startswith("---\nlicense: mit")  # only that of the copy has changed


def test_pushed_again_the_card_is_written_again_and_the_tag_moves(hub: LocalHub, source: Path, tmp_path: Path):
    folder = annotated(source, tmp_path / "annotated")
    assert main(["push", str(folder), REPO, "--license", "mit"]) == 0
    first = hub.head
    hub.add("main", {**hub.files(), "videos/old.mp4": b"old", "notes.txt": b"mine"})
    lattok.push_dataset(folder, REPO, license="apache-2.0")
    assert card_of(hub).data.license == "apache-2.0"
    assert card_of(hub).text.count("# org/arm") == 1
    assert "videos/old.mp4" not in hub.files()
    assert "notes.txt" in hub.files()
    assert hub.branches["v3.0"] == hub.head != first
    mine = "---\ntags: [lattok]\n---\nMy own words.\n"
    (folder / "README.md").write_text(mine)
    lattok.push_dataset(folder, REPO)
    assert hub.files()["README.md"].decode() == mine


def test_labels_of_a_dataset_that_is_not_lerobot_are_pushed_alone(hub: LocalHub, tmp_path: Path):
    write_rlds(tmp_path / "bridge")
    rlds = tmp_path / "bridge.json"
    rlds.write_text('{"dataset": "bridge", "fps": 5}')
    folder = annotated(rlds, tmp_path / "labels")
    for name in ("labels/notes.txt", "meta/token.json", "key"):
        (folder / name).write_text("secret")
    lattok.push_dataset(folder, REPO)
    assert set(hub.files()) == {"README.md", "meta/lattok.json", "labels/file-000.parquet"}
    card = card_of(hub)
    assert card.data.to_dict()["configs"][0]["data_files"] == "labels/*.parquet"
    assert "LeRobot" not in card.data.to_dict()["tags"]
    assert "Labels only, for" in card.text
    name = open_dataset(rlds).name
    found = run_code(card.text.replace(f'open_dataset("{name}")', f"open_dataset({str(rlds)!r})"))
    assert len(found["values"]) == found["dataset"].episodes[0].length


def test_what_cannot_be_pushed_is_one_line(hub: LocalHub, source: Path, tmp_path: Path):
    for folder in (tmp_path / "nowhere", write_rlds(tmp_path / "bridge")):
        refused("`folder`: expected a LeRobot dataset or labels on this machine", lattok.push_dataset, folder, REPO)
    hub.guarded = True
    refused("'org/arm' could not be pushed: your token does not allow it", lattok.push_dataset, source, REPO)
    shutil.rmtree(source / "meta")
    assert main(["push", str(source), REPO]) == 2


CARD = """\
## latent

| column | type | shape | |
|---|---|---|---|
| latent.codes | int64 | [2] | codes of the latent action, each of 50 |
| latent.valid | bool | [1] | whether the frame has a label |
| latent.more | float32 | [4] |  |

- model: org/lam
- type: image-lam
- revision: 0123
- weights (SHA-256): 4567
- cameras: front, wrist
- actions: action
- seconds between frames: 0.2
- episodes without labels: 3
- lattok: 1.0

Made again and compared: `lattok verify DATASET --model org/lam`

## tok

| column | type | shape | |
|---|---|---|---|
"""


def test_a_card_says_how_labels_were_made(tmp_path: Path):
    dataset, none = Demonstrations(tmp_path, [5, 4]), Demonstrations(tmp_path, [5, 4])
    columns = {"codes": ("int64", [2]), "valid": ("bool", [1]), "more": ("float32", [4])}
    latent = {"columns": {f"latent.{name}": {"dtype": d, "shape": s} for name, (d, s) in columns.items()}}
    latent |= {"model": {"model": "org/lam", "type": "image-lam", "revision": "0123", "weights_sha256": "4567"}}
    latent |= {"spec": {"target": "chunk", "codebook_size": 50}, "cameras": ["front", "wrist"]}
    latent |= {"options": {"action_key": "action"}}
    latent |= {"stride_seconds": 0.2, "versions": {"lattok": "1.0"}, "dataset": {"name": "org/raw"}}
    latent["unlabelled"] = [{"episodes": [1], "reason": "torn"}, {"episodes": [3, 4], "reason": "gone"}]
    tok = {"model": {"model": "/home/tok"}, "dataset": {"name": "here"}}
    dataset.labels = SimpleNamespace(provenance={"latent": latent, "tok": tok})
    card = _card(dataset, "org/arm", None, None)
    assert CARD in card
    assert "2 episodes, 9 frames at 10 frames a second, with latent actions by lattok." in card
    assert card.count("values = ") == card.count("lattok verify") == 1
    assert DatasetCard(card).data.to_dict()["source_datasets"] == ["org/raw"]
    text = _card(none, "org/arm", "mit", "---\nlicense: x\n---\n\nMine --- all.\n")
    assert "\n2 episodes, 9 frames at 10 frames a second.\n" in text
    assert text.endswith("## The dataset's own card\n\nMine --- all.\n\n")


SECRETS = ("id_rsa", "secrets.env", "meta/wandb-token.json", "run/checkpoint.pt", "sub/notes.txt", "data/other.parquet")


def test_only_what_belongs_to_a_dataset_goes_up(hub: LocalHub, source: Path, tmp_path: Path, capsys):
    folder = annotated(source, tmp_path / "annotated")
    own = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} | {"README.md"}
    for name in (*SECRETS, ".env", ".git/config", "videos/.key"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("secret")
    (folder / "meta" / "env.txt").symlink_to(folder / ".env")
    assert main(["push", str(folder), REPO]) == 0
    assert set(hub.files()) == own == {*listing(folder).sent}
    assert not [name for name, content in hub.files().items() if content == b"secret"]
    told = capsys.readouterr().out
    assert "Goes up: README.md, data/ (1), meta/ (5), videos/ (2); " in told
    assert "Stays here: id_rsa, secrets.env, data/other.parquet, meta/env.txt, meta/wandb-token.json, run/" in told
    assert main(["push", str(folder), REPO, "--include", "sub/notes.txt"]) == 0
    assert set(hub.files()) == own | {"sub/notes.txt"}
    for name in ("../key", "nowhere.txt", "sub"):
        refused("`include`", lattok.push_dataset, folder, REPO, include=[name])
    hub.add("main", {**hub.files(), "meta/wandb-token.json": b"secret"})  # of an earlier push
    lattok.push_dataset(folder, REPO)
    assert "meta/wandb-token.json" not in hub.files()


@pytest.mark.parametrize(("count", "more"), [(20, "19. `include`"), (21, "19 and 1 more. `include`")])
def test_of_many_files_that_stay_twenty_are_named(count: int, more: str):
    told = Listing(["data/a"], [str(number) for number in range(count)], 1_500_000).report()
    assert told.startswith("Goes up: data/ (1); 1.5 MB.\nStays here: 0, 1, ")
    assert told.endswith(f"{more} takes a file along.")


@pytest.mark.parametrize(
    ("name", "target", "says"),
    [
        ("meta/notes.txt", "../key", "notes.txt: expected a path below .*, but .* leads to .*key"),
        ("README.md", ".env", "links to files that are not hidden, got README.md, which leads to .*.env"),
        ("meta/stats.json", ".env", "links to files that are not hidden, got meta/stats.json, which leads to .*.env"),
    ],
)
def test_links_out_of_a_folder_or_to_a_hidden_file_do_not_go_up(
    hub: LocalHub, source: Path, tmp_path: Path, name: str, target: str, says: str
):
    folder = annotated(source, tmp_path / "annotated")
    (folder / target).write_text('{"secret": "secret"}')
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to((folder / target).resolve())
    refused(says, lattok.push_dataset, folder, REPO, token=WRITER)
    assert not hub.exists


def test_a_branch_and_a_pull_request_leave_main_as_it_is(hub: LocalHub, source: Path, tmp_path: Path):
    folder = annotated(source, tmp_path / "annotated")
    before = hub.head
    assert lattok.push_dataset(folder, REPO, create_pr=True) == f"{hub.url}/datasets/{REPO}/discussions/1"
    assert (hub.head, "v3.0" in hub.branches) == (before, False)
    lattok.push_dataset(folder, REPO, revision="try")
    assert (hub.head, hub.branches["v3.0"]) == (before, hub.branches["try"])


def test_hostile_names_are_shown_as_text(hub: LocalHub, source: Path, tmp_path: Path):
    folder = annotated(source, tmp_path / "annotated")
    path = folder / "meta" / "lattok.json"
    path.write_text(path.read_text().replace("org/tok", "<script>alert(1)</script> `x` [l](http://e)"))
    lattok.push_dataset(folder, REPO)
    text = card_of(hub).text
    assert "<script" not in text
    assert "[l](" not in text


def test_families_are_listed():
    found = lattok.list_families()
    assert {"action-vq", "fast", "fsq", "residual-vq", "uniform-bins", "image-lam", "latent-vla"} <= found.keys()
    assert all(text and "\n" not in text for text in found.values())
    assert found["residual-vq"].startswith("Chunks [B, H, m] to `tokens` codes each")
