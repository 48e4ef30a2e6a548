"""Verification: it holds for labels as they were made, and says what is wrong with others."""

import json
import re
import sys
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lattok.annotation import annotate, verify
from lattok.annotation.labels import Work
from lattok.annotation.verify import MAX_RELATIVE_DEVIATION, _Tally
from lattok.data import open_dataset
from lattok.labels import latent_spec
from lattok.labels.spec import Options
from lattok.utils.files import read_json, write_json
from tests.annotation.fakes import MODELS, FakeLAM, FakeTokenizer
from tests.annotation.test_fill import model as inverse_dynamics
from tests.errors import refused


@pytest.fixture
def labelled(make_dataset, tmp_path):
    return open_dataset(annotate(make_dataset([12, 7, 9, 25]), MODELS, tmp_path / "out", quantized=True))


def change(labelled, prefix: str, **entries) -> None:
    path = labelled.root / "meta/lattok.json"
    record = read_json(path)
    record[prefix] |= entries
    write_json(path, record)


def test_labels_as_they_were_made(labelled):
    result = verify(labelled, MODELS)
    assert result.holds
    text = result.render()
    assert "+ latent.codes: 53 rows equal" in text
    assert "+ tok.embedding: 53 rows equal" in text
    assert "+ stride: 3 frames at 10 fps" in text
    assert "+ columns: latent.codes, latent.embedding, latent.quantized, " in text
    assert "+ horizon: 4 steps" in text
    assert text.endswith("\n  53 frames of 4 of 4 episodes were labelled again")


def test_a_sample_is_drawn_by_its_seed(labelled):
    one, again = (verify(labelled, {"tok": FakeTokenizer()}, episodes=2, seed=1) for _ in range(2))
    assert one == again
    assert "of 2 of 4 episodes" in one.render()
    assert one != verify(labelled, {"tok": FakeTokenizer()}, episodes=2)
    assert verify(labelled, {"tok": FakeTokenizer()}, episodes=2) == verify(
        labelled, {"tok": FakeTokenizer()}, episodes=2, seed=0
    )
    assert "25 frames of 1 of 4" in verify(labelled, {"tok": FakeTokenizer()}, episodes=[3]).render()


def test_another_device_explains_and_what_a_restored_record_lacks_says_nothing(labelled):
    made = read_json(labelled.root / "meta/lattok.json")["tok"]["model"]
    change(labelled, "tok", model={**made, "device": "cuda"})
    result = verify(labelled, {"tok": FakeTokenizer()})
    assert result.holds
    assert "? made with device cuda, here cpu" in result.render()
    lacking = {name: value for name, value in made.items() if not name.endswith("sha256")}
    change(labelled, "tok", model=lacking)
    assert not verify(labelled, {"tok": FakeTokenizer()}).holds
    change(labelled, "tok", model=lacking, restored=True)
    assert "sha256" not in verify(labelled, {"tok": FakeTokenizer()}).render()


@pytest.mark.parametrize("seed", [-1, 10**25])
def test_a_seed_that_draws_nothing_is_refused(labelled, seed):
    refused("`seed`: expected ", lambda: verify(labelled, {"tok": FakeTokenizer()}, episodes=2, seed=seed))


def test_one_changed_code_is_found(labelled):
    path = labelled.data_file(2)
    table = pq.read_table(path)
    row = labelled.episode_rows(path)[2][0] + 4
    codes = table["tok.codes"].to_pylist()
    codes[row] = [77, codes[row][1]]
    index = table.column_names.index("tok.codes")
    column = pa.array(codes, table.schema.field(index).type)
    pq.write_table(table.set_column(index, table.schema.field(index), column), path)
    result = verify(open_dataset(labelled.root), MODELS)
    assert not result.holds
    assert "- tok.codes: 1 of 53 rows differ, first in episode 2, frame 4: [77, " in result.render()
    assert "+ latent.codes: 53 rows equal" in result.render()


def test_another_model_is_named(labelled):
    class Other(FakeTokenizer):
        horizon = 5

        def describe(self):
            return {"type": "fake", "weights_sha256": "f" * 64}

        def latent_actions(self, chunks, valid=None):
            return super().latent_actions(chunks + 1, valid)

    text = verify(labelled, {"tok": Other()}).render()
    assert "- weights_sha256 was 0, here ffffffffffffffff: another model made these labels" in text
    assert "- horizon was 4, here 5" in text
    assert "- tok.codes: 53 of 53 rows differ" in text
    assert "- tok.embedding: largest deviation" in text


def test_a_model_of_another_kind(labelled):
    entry = read_json(labelled.root / "meta/lattok.json")["latent"]
    change(labelled, "latent", model={**entry["model"], "type": "fake-lam", "precision": "float32", "backend": "torch"})
    result = verify(labelled, {"latent": FakeTokenizer()})
    assert not result.holds
    assert "None" not in result.render()
    assert "- labels were made from video, this model looks at actions" in result.render()


def test_other_versions_are_an_explanation(labelled):
    versions = read_json(labelled.root / "meta/lattok.json")["tok"]["versions"]
    change(labelled, "tok", versions={**versions, "torch": "1.0"})
    result = verify(labelled, {"tok": FakeTokenizer()})
    assert result.holds
    assert "? made with torch 1.0, here" in result.render()


def test_the_largest_rounding_is_none():
    tally = _Tally()
    tally.scale, tally.deviation = 2.0, 2.0 * MAX_RELATIVE_DEVIATION
    assert tally.line("latent.embedding", 9, []).startswith("+")


@pytest.mark.parametrize(("deviation", "sign"), [(1e-6, "+"), (9e-5, "+"), (1.1e-4, "-")])
def test_rounding_is_no_difference(labelled, deviation, sign):
    class Rounded(FakeTokenizer):
        def latent_actions(self, chunks, valid=None):
            out = super().latent_actions(chunks, valid)
            return replace(out, latents=out.latents * (1 + deviation), quantized=out.quantized * (1 + deviation))

    result = verify(labelled, {"tok": Rounded()})
    assert result.holds == (sign == "+")
    assert f"{sign} tok.embedding: largest deviation" in result.render()


def test_small_labels_are_compared_by_their_own_size():
    tally = _Tally()
    tally.count(np.full((2, 1), 1e-6), np.full((2, 1), 2e-6), 0)
    assert tally.line("latent.embedding", 2, []).startswith("-")


def test_a_rate_that_was_changed_since_is_said(labelled):
    made = read_json(labelled.root / "meta/lattok.json")["tok"]["dataset"]
    change(labelled, "tok", dataset={**made, "fps": 5})
    assert "- the dataset had 5 frames a second, here 10" in verify(labelled, {"tok": FakeTokenizer()}).render()


def test_a_dataset_that_the_model_cannot_read_is_named(labelled):
    lam = FakeLAM()
    lam.cameras = ("front", "wrist", "top")
    result = verify(labelled, {"latent": lam})
    assert not result.holds
    assert "- the model does not fit the dataset: `dataset`: expected the 3 cameras" in result.render()
    assert "labelled again" not in result.render()


def test_columns_that_went_missing(labelled):
    info = read_json(labelled.root / "meta/info.json")
    del info["features"]["latent.env.codes"]
    info["features"]["latent.codes"]["shape"] = [2]
    write_json(labelled.root / "meta/info.json", info)
    text = verify(open_dataset(labelled.root), {"latent": FakeLAM()}).render()
    assert "- column latent.env.codes is missing" in text
    assert "- column latent.codes is int64 [2], not int64 [1]" in text


def test_columns_that_are_not_declared(labelled):
    """What nothing says of is not compared: codes could be anything."""
    columns = read_json(labelled.root / "meta/lattok.json")["tok"]["columns"]
    change(labelled, "tok", columns={})
    text = verify(labelled, {"tok": FakeTokenizer()}).render()
    for name in ("codes", "embedding", "quantized", "valid"):
        assert f"- column tok.{name} is not declared" in text
    info = read_json(labelled.root / "meta/info.json")
    del info["features"]["tok.codes"]
    write_json(labelled.root / "meta/info.json", info)
    change(labelled, "tok", columns={name: facts for name, facts in columns.items() if name != "tok.codes"})
    text = verify(open_dataset(labelled.root), {"tok": FakeTokenizer()}).render()
    assert "- column tok.codes is neither there nor declared, but the model gives it" in text


def test_columns_of_a_longer_prefix_are_its_own(labelled, tmp_path):
    more = annotate(labelled, {"latent.two": FakeTokenizer()}, tmp_path / "more", embedding=False)
    assert verify(more, {"latent": FakeLAM(), "latent.two": FakeTokenizer()}).holds


@pytest.mark.parametrize("facts", [{"codebook_size": 512}, {"vectors": 3, "latent_dim": 2}, {"per_step": True}])
def test_sizes_that_are_not_those_of_the_model(labelled, facts):
    """Vectors of 2 x 3 numbers and of 3 x 2 are equally wide; policies are built for what is written."""
    spec = read_json(labelled.root / "meta/lattok.json")["tok"]["spec"]
    change(labelled, "tok", spec=spec | facts)
    text = verify(labelled, {"tok": FakeTokenizer()}).render()
    for name, value in facts.items():
        assert f"- {name} of the labels was {value}, here {spec[name]}" in text


def test_labels_are_made_again_with_the_options_that_made_them(make_dataset, tmp_path, monkeypatch):
    """Every option is one that `verify` knows: those that have no part in this test are found by it."""
    asked: list[Options] = []
    for name in ("lattok.annotation", "lattok.annotation.verify"):
        monkeypatch.setattr(sys.modules[name], "Work", lambda *parts: asked.append(parts[2]) or Work(*parts))

    class OfStates(FakeTokenizer):
        action_dim = 2

    class OfOtherCameras(FakeLAM):
        cameras = ("left", "right")

    source = make_dataset([12, 7])
    cases = (
        (OfStates(), {"embedding": False, "quantized": True, "action_key": "observation.state", "threads": 2}),
        (OfOtherCameras(), {"cameras": source.cameras[::-1], "any_rate": True}),
        (inverse_dynamics(), {"fill": True, "cameras": source.cameras[:1], "action_key": "expert"}),
    )
    for number, (model, options) in enumerate(cases):
        assert verify(annotate(source, {"new": model}, tmp_path / str(number), **options), {"new": model}).holds
    assert asked[::2] == asked[1::2]
    changed = {name for one in asked for name, value in asdict(one).items() if value != getattr(Options(), name)}
    assert changed == asdict(Options()).keys()


def test_episodes_without_labels_are_mentioned(labelled):
    change(labelled, "tok", unlabelled=[{"episodes": [1], "reason": "a damaged file"}])
    text = verify(labelled, {"tok": FakeTokenizer()}).render()
    assert "- tok.codes: episode 1 counts as unlabelled, but holds labels" in text
    assert "? 1 episode without labels, first 1: a damaged file" in text
    assert "46 frames of 3 of 4" in text


def test_gaps_are_drawn_by_seed(labelled, monkeypatch):
    """No choice of places for stolen labels is safe from every seed."""
    monkeypatch.setattr(sys.modules["lattok.annotation.verify"], "MAX_GAPS", 1)
    change(labelled, "tok", unlabelled=[{"episodes": [0, 1, 2], "reason": "a damaged file"}])
    found = [verify(labelled, {"tok": FakeTokenizer()}, seed=seed).render() for seed in range(12)]
    named = {episode for text in found for episode in re.findall(r"codes: episode (\d) counts", text)}
    assert named == {"0", "1", "2"}


def test_frames_that_were_encoded_anew(labelled):
    change(labelled, "latent", frames="source")
    text = verify(labelled, {"latent": FakeLAM()}).render()
    assert "- not checked: labels were made from frames that were encoded again since" in text


def test_a_damaged_source_is_a_finding(labelled):
    labelled.video_span(0, labelled.cameras[0])[0].unlink()
    result = verify(open_dataset(labelled.root), {"latent": FakeLAM()})
    assert not result.holds
    assert result.lines[-1].endswith("0 frames of 0 of 4 episodes were labelled again")
    assert "- episode 0 cannot be labelled again: missing video file" in result.render()
    assert "rows equal" not in result.render()


def test_what_cannot_be_verified(labelled, make_dataset):
    refused(r"was not annotated, or .* lost\. Run lattok", lambda: verify(make_dataset([5], name="plain"), MODELS))
    refused(r"`prefix`: expected one of the labels of .* \(latent", lambda: verify(labelled, {"other": FakeLAM()}))
    refused("`models`: expected at least one model", verify, labelled, {})
    refused("`episodes`: expected episodes with labels, got 99", verify, labelled, MODELS, episodes=[1, 99])
    assert np.isfinite(json.loads((labelled.root / "meta/stats.json").read_text())["latent.codes"]["mean"]).all()


def test_labels_that_lerobots_tools_went_over_are_known_by_their_features(labelled):
    (labelled.root / "meta/lattok.json").unlink()  # features stay as they were
    dataset = open_dataset(labelled.root)
    result = verify(dataset, MODELS)
    assert result.holds, result.render()
    text = result.render()
    assert "? no meta/lattok.json: LeRobot's own tools drop it" in text
    assert "+ model: weights_sha256 as when the labels were made" in text
    assert "+ latent.codes: 53 rows equal" in text
    assert latent_spec(dataset, "latent", "steps", 4).stride == 3

    class Other(FakeTokenizer):
        def describe(self):
            return {"type": "fake", "weights_sha256": "f" * 64}

    assert "- weights_sha256 was 0, here ffff" in verify(dataset, {"tok": Other()}).render()


def test_label_columns_about_which_nothing_is_known_are_labelled_again(labelled):
    (labelled.root / "meta/lattok.json").unlink()
    info = read_json(labelled.root / "meta/info.json")
    del info["features"]["tok.valid"]["info"]
    write_json(labelled.root / "meta/info.json", info)
    dataset = open_dataset(labelled.root)
    assert verify(dataset, {"latent": FakeLAM()}).holds
    refused(r"labels of .* \(latent\), got 'tok'\. .* annotate again", verify, dataset, MODELS)
    del info["features"]["latent.valid"]["info"]
    write_json(labelled.root / "meta/info.json", info)
    refused(r"described its labels was lost\. Run lattok annotate, if need be again", verify, labelled.root, MODELS)


def test_datasets_labelled_by_one_model_can_still_be_merged(make_dataset, tmp_path):
    """LeRobot merges only datasets of equal features: nothing that differs between them may stand there."""
    one = annotate(make_dataset([6], name="one"), MODELS, tmp_path / "a")
    other = annotate(make_dataset([9, 4], name="other"), MODELS, tmp_path / "b")
    notes = [read_json(root / "meta/info.json")["features"] for root in (one, other)]
    assert notes[0] == notes[1]
    assert notes[0]["tok.valid"]["info"]["lattok"]["spec"]["horizon"] == 4


@pytest.mark.parametrize(
    "entry",
    [
        {"spec": 3},
        {"spec": {"target": "frames"}},
        {"dataset": []},
        {"dataset": {}},
        {"dataset": {"name": 3}},
        {"columns": [1]},
        {"columns": {"tok.codes": {"dtype": "int64", "shape": [2**40]}}},
        {"columns": {"tok.codes": 3}},
        {"options": {"threads": "many"}},
        {"options": {"threads": 10**6}},
        {"versions": {"torch": 2}},
        {"unlabelled": [3]},
        {"unlabelled": [{"episodes": [], "reason": "torn"}]},
        {"unlabelled": [{"episodes": [3]}]},
        {"cameras": [3]},
        {"spec": {"stride": "3"}},
        {"spec": {"target": "chunk", "codebook_size": 10**12}},
        {"model": "x"},
    ],
    ids=str,
)
def test_odd_provenance_is_one_line(labelled, entry):
    change(labelled, "tok", **entry)
    refused("lattok.json", verify, labelled, MODELS)
