"""Policies over several datasets: one model, normalisers and labels of each."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lattok
from lattok.cli import main
from lattok.data import open_dataset
from lattok.nn.normalize import Normalizer
from lattok.samples import PolicyWindows, WindowOptions
from lattok.samples.batches import PolicyBatches
from tests.conftest import CAMERAS
from tests.errors import refused
from tests.recipes.policies import SIZES, annotated, stopped

SCALE, SHIFT = 20.0, 3.0
NONE = r"`policy`: expected one of its datasets to be chosen \(a, b\), got none. policy.for_dataset\('a'\) has"


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """`a`, and `b`, the same with actions and states in other units."""
    folder = tmp_path_factory.mktemp("mixed")
    roots = {"a": annotated(folder).rename(folder / "a"), "b": folder / "b"}
    shutil.copytree(roots["a"], roots["b"])
    for file in (roots["b"] / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        for name in ("action", "observation.state"):
            kind = table.schema.field(name)
            values = [[SCALE * x + SHIFT for x in row] for row in table[name].to_pylist()]
            table = table.set_column(table.schema.get_field_index(name), kind, pa.array(values, kind.type))
        pq.write_table(table, file)
    return roots


def recipe(roots, out: Path, strategy: str = "la_direct", **options) -> lattok.VLARecipe:
    mix = tuple(f"{roots[name]}:{weight}" for name, weight in options.pop("weights", {"a": 1.0, "b": 0.5}).items())
    options = {"backbone": "scratch", "steps": 4, "batch_size": 6, "mix": mix, **SIZES, **options}
    return lattok.VLARecipe.from_preset(None, out, strategy=strategy, **options)


@pytest.fixture(scope="module")
def trained(roots, tmp_path_factory):
    out = tmp_path_factory.mktemp("policy") / "p"
    return lattok.train(recipe(roots, out, save_every=2)), out


def observation(scale: float = 1.0, shift: float = 0.0) -> dict:
    generator = torch.Generator().manual_seed(0)
    seen: dict = {key: torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=generator) for key in CAMERAS}
    return seen | {
        "observation.state": scale * torch.randn(2, 2, generator=generator) + shift,
        "task": ["lift", "push"],
    }


def test_each_dataset_has_normalisers_of_its_own_and_one_policy(trained, roots):
    loaded = lattok.load(trained[1])
    assert loaded.datasets == ("a", "b")
    for name in ("a", "b"):
        windows = PolicyWindows(open_dataset(roots[name]), WindowOptions(4, size=16, episodes="train"))
        chosen = loaded.for_dataset(name)
        for values, found in ((windows.actions, chosen.action_normalizer), (windows.states, chosen.proprio_normalizer)):
            expected = Normalizer(values.shape[1]).fit(values, chosen.config.normalize)
            assert torch.equal(found.shift, expected.shift)
            assert torch.equal(found.scale, expected.scale)
    first = loaded.for_dataset("a").predict_chunk(observation())
    second = loaded.for_dataset("b").predict_chunk(observation(SCALE, SHIFT))  # the same state, in units of b
    torch.testing.assert_close(second, SCALE * first + SHIFT, rtol=1e-4, atol=1e-3)
    assert torch.equal(trained[0].for_dataset("a").predict_chunk(observation()), first)
    assert not torch.equal(loaded.for_dataset("a").predict_chunk(observation(SCALE, SHIFT)), first)


def test_a_chosen_policy_is_saved_as_one_of_one_dataset(trained, tmp_path):
    loaded = lattok.load(trained[1])
    loaded.queues.n_action_steps = 2
    chosen = loaded.for_dataset("b")
    chosen.save_pretrained(tmp_path / "b")
    again = lattok.load(tmp_path / "b")
    assert again.datasets == chosen.datasets == ()
    assert "for_dataset" not in (tmp_path / "b/README.md").read_text()
    assert 'model = model.for_dataset("a")\n# or that of b\n' in (trained[1] / "README.md").read_text()
    assert torch.equal(again.predict_chunk(observation()), chosen.predict_chunk(observation()))
    assert chosen.queues.n_action_steps == 2


def test_without_a_choice_nothing_is_predicted(trained):
    loaded = lattok.load(trained[1])
    for use in (loaded.predict_chunk, loaded.select_action, loaded.imitate, loaded):
        refused(NONE, use, observation())
    refused("`dataset`", loaded.for_dataset, "c")
    refused(r"\(it has one normaliser for all, and needs no", lambda: loaded.for_dataset("b").for_dataset("b"))
    for names in (("a",), ("a", "a")):
        refused("`normalizers`", replace, loaded.config, normalizers=names)


def test_evaluation_chooses_by_the_name_of_the_dataset(trained, roots):
    held_out = json.loads((trained[1] / "held_out.json").read_text())["mixture"]
    assert main(["evaluate", str(trained[1]), str(roots["b"]), "--device", "cpu"]) == 0
    said = json.loads((trained[1] / "report/report.json").read_text())
    assert said["figures"]["action_error"] == pytest.approx(held_out["b"]["error"], rel=1e-5)
    assert "for_dataset" in (trained[1] / "README.md").read_text()  # the card is still that of all


def test_a_rollout_says_what_to_choose(trained, capsys):
    for module in ("gymnasium", "mujoco"):
        pytest.importorskip(module)
    assert main(["rollout", str(trained[1]), "--env", "metaworld/reach", "--device", "cpu"]) == 2
    assert "`policy`: expected one of its datasets to be chosen (a, b)" in capsys.readouterr().err


def test_a_server_wants_a_choice_and_takes_the_action_space_of_the_mixture(trained):
    pytest.importorskip("vla_eval")
    from lattok_vla_eval import PolicyServer

    loaded, cameras, space = lattok.load(trained[1]), {"front": "front", "wrist": "wrist"}, [{"part": "position"}]
    refused(NONE, PolicyServer, loaded, cameras, space, state="state")
    chosen = loaded.for_dataset("a")
    refused("`policy_actions`", PolicyServer, chosen, cameras, space, state="state")
    chosen.trained_on = {"mixture": [{"dataset": "a"}, {"dataset": "b", "action_space": space}]}  # they are alike
    assert PolicyServer(chosen, cameras, space, state="state").policy_space.dim == 3


def test_held_out_errors_are_those_of_each_dataset(trained):
    said = json.loads((trained[1] / "held_out.json").read_text())["mixture"]
    assert said["a"]["error"] == pytest.approx(said["b"]["error"], rel=1e-3)  # they differ in units alone
    assert {"error", "latent", "episodes"} <= said["b"].keys()
    assert trained[0].evaluation["figures"]["b/error"] == said["b"]["error"]
    assert [entry["dataset"] for entry in trained[0].trained_on["mixture"]] == ["a", "b"]


def test_samples_come_by_weight_and_with_labels_of_their_own_however_many_processes(roots, tmp_path, monkeypatch):
    seen = []
    call = PolicyBatches.gather
    monkeypatch.setattr(
        PolicyBatches, "gather", lambda self, *step: (seen.append((self, call(self, *step))), seen[-1][1])[1]
    )
    weights = {"a": 1.0, "b": 2.0}
    lattok.train(recipe(roots, tmp_path / "p", weights=weights, steps=1, action_episodes="0"))
    assert json.loads((tmp_path / "p/training.json").read_text())["labels"] == {"episodes": "0"}
    batches, batch = seen[0]
    rows = batches.stream.samples(0)
    first = batches.windows.sizes[0]
    assert int((rows >= first).sum()) == 4
    for i, row in enumerate(rows.tolist()):  # b holds the frames, texts and labels of a, in the same order
        own = batches.windows.batch(torch.tensor([row % first]))
        assert own.texts == [batch.texts[i]]
        torch.testing.assert_close(batch.actions[i], own.actions[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(batch.proprio[i], own.proprio[0], rtol=1e-4, atol=1e-4)
        assert torch.equal(batch.latent.codes[i], own.latent.codes[0])
    assert 0 < int(batch.shares.acted) == int(batch.valid.any(1).sum()) < 6
    shares = [call(batches, 0, process, 2) for process in range(2)]
    assert sum(float(share.shares.labelled) for share in shares) == float(batch.shares.labelled)
    for process, share in enumerate(shares):
        for name in ("images", "proprio", "actions", "valid"):
            assert torch.equal(getattr(share, name), getattr(batch, name)[process::2]), name
        assert list(share.texts) == list(batch.texts)[process::2]
        assert torch.equal(share.latent.codes, batch.latent.codes[process::2])


def test_a_mixture_resumes_to_the_same_weights(trained, roots, tmp_path):
    with stopped(PolicyBatches, 3):
        lattok.train(recipe(roots, tmp_path / "p", save_every=2))
    again = lattok.train(lattok.VLARecipe.resumed(None, tmp_path / "p", None, {}), resume=True)
    assert again.describe()["weights_sha256"] == trained[0].describe()["weights_sha256"]


def test_one_tokenizer_of_a_mixture_labels_each_dataset_in_its_units(roots, tmp_path):
    """The tokens are those of the normalised actions, which `a` and `b` share."""
    mix = recipe(roots, tmp_path / "p").data.mix
    options = {"horizon": 4, "steps": 2, "dim": 8, "codebook_size": 5, "mix": mix}
    lattok.train(lattok.ActionVQRecipe.from_preset(None, tmp_path / "vq", "quick", **options))
    lattok.train(recipe(roots, tmp_path / "p", "la_tok", tokenizer=str(tmp_path / "vq"), steps=1))
    said = json.loads((tmp_path / "p/held_out.json").read_text())["mixture"]
    assert said["a"]["latent"]["latent"] == pytest.approx(said["b"]["latent"]["latent"], rel=1e-3)


def relabelled(roots, place: Path, model: dict, spec: dict) -> dict[str, Path]:
    """`a` and a copy of it whose image labels are said to come from another model, or to be others."""
    shutil.copytree(roots["a"], place)
    file = place / "meta/lattok.json"
    said = json.loads(file.read_text())
    said["latent"]["model"] |= model
    said["latent"]["spec"] |= spec
    file.write_text(json.dumps(said))
    return {"a": roots["a"], "b": place}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"labels": "x"}, r"`labels` are of one dataset, not of a mixture\. Mix folders of labels"),
        ({"acted_share": 0.5, "action_episodes": "0"}, r"`acted_share` is of one dataset\. In a mixture the weights"),
    ],
)
def test_options_of_one_dataset_are_refused(options, text, roots, tmp_path):
    refused(text, lambda: lattok.train(recipe(roots, tmp_path / "p", **options)))


@pytest.mark.parametrize(
    ("model", "spec", "text"), [({"weights_sha256": "0" * 64}, {}, "`mix`"), ({}, {"codebook_size": 5}, "`mix`")]
)
def test_labels_of_a_mixture_are_of_one_kind_and_one_model(model, spec, text, roots, tmp_path):
    other = relabelled(roots, tmp_path / "c", model, spec)
    refused(text, lambda: lattok.train(recipe(other, tmp_path / "p")))


def test_a_mixture_of_one_is_that_dataset(roots, tmp_path):
    policy = lattok.train(recipe(roots, tmp_path / "p", weights={"a": 1.0}, steps=1))
    assert policy.datasets == ()
    assert policy.predict_chunk(observation()).shape == (2, 4, 3)
    assert "error" in json.loads((tmp_path / "p/held_out.json").read_text())
