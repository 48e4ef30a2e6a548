import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lattok
from lattok.cli import main
from lattok.cli.subjects import unfinished
from lattok.data import LeRobotV3, open_dataset
from lattok.evaluation import evaluate
from lattok.recipes.study import BLIND, PROPRIO, title_of, train_study
from lattok.samples.batches import PolicyBatches
from lattok.utils.findings import Finding
from lattok.utils.options import flat
from lattok.vla import STRATEGIES
from lattok.vla.observations import policy_batch
from tests.conftest import CAMERAS, write_dataset
from tests.errors import refused
from tests.recipes.policies import SIZES, TINY, annotated, with_absurd_actions

RUNS = (*STRATEGIES, BLIND, PROPRIO)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("policies")
    annotated(place)
    return place


@pytest.fixture(scope="module")
def dataset(folder) -> Path:
    return folder / "annotated"


def recipe(dataset: Path, out: Path, strategy: str = "baseline", **options) -> lattok.VLARecipe:
    options = {"backbone": "scratch", "steps": 3, "batch_size": 4, **SIZES, **options}
    return lattok.VLARecipe.from_preset(dataset, out, strategy=strategy, **options)


def drawn(given: lattok.VLARecipe) -> PolicyBatches:
    """The batches that a recipe's run learns from."""
    data = given.policy_data(given.open())
    return data.batches(data.windows(data.sources[0]), given.learner(data).policy)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.saved_tensors().items()}


@pytest.mark.parametrize(
    ("name", "head"), [*((name, "regression") for name in STRATEGIES), ("baseline", "flow"), ("la_direct", "flow")]
)
def test_the_command_trains_a_policy_that_acts(name: str, head: str, dataset: Path, tmp_path: Path, capsys):
    words = ["--strategy", name, "--head", head, *TINY]
    assert main(["train", "vla", str(dataset), "--out", str(tmp_path / "p"), *words]) == 0
    assert "Held-out episodes: error" in capsys.readouterr().out
    policy = lattok.load(tmp_path / "p")
    assert (policy.config.fps, policy.config.instructions) == (10, ("lift", "push"))
    frames = open_dataset(dataset).frames(0, CAMERAS, [0, 5])
    seen: dict = {key: torch.from_numpy(frames[:, i]) for i, key in enumerate(CAMERAS)}
    seen |= {"observation.state": torch.zeros(2, 2), "task": ["lift", "push"]}
    assert policy.select_action(seen).shape == (2, 3)
    logged = [json.loads(line) for line in (tmp_path / "p/run/metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in logged] == [1, 2, 3]
    assert "loss/action" in logged[0]
    if STRATEGIES[name].needs == ("codes",):
        assert {"loss/latent", "latent_accuracy", "samples_per_second", "memory_gb"} <= logged[0].keys()


def test_presets_are_table_8():
    for name, steps, horizon in (("libero", 80_000, 8), ("robotwin", 30_000, 25), ("jaka", 30_000, 20)):
        made = lattok.VLARecipe.from_preset("data", "out", name)
        loop = made.loop
        assert (loop.steps, loop.batch_size, loop.lr, loop.optimizer) == (steps, 128, 1e-4, "adamw")
        assert (loop.schedule, loop.decay_every, loop.decay_factor) == ("step", 10_000, 0.5)
        assert made.model.horizon == horizon
    assert lattok.VLARecipe.from_preset("data", "out", "libero+p2t_code").model.action_loss == "l1"


README = """--vla_id baseline --default_image_size 224 --window_size 8 --use_proprio True --max_steps 20000
--global_batch_size 128 --learning_rate 1e-4 --weight_decay 0.01 --max_grad_norm 1.0 --lr_scheduler_type constant
--warmup_ratio 0.03"""  # of P2T's own command, what lattok has an option for


@pytest.mark.parametrize(
    ("recipe", "base"),
    [
        (lattok.VLARecipe, "libero"),
        (lattok.LatBotRecipe, "libero"),
        (lattok.ImageLAMRecipe, "small"),
        (lattok.ActionVQRecipe, "p2t"),
    ],
)
def test_presets_that_stand_over_others_need_one(recipe, base):
    for preset in recipe.joined:
        for given in (preset, f"{preset}+{preset}"):
            refused(
                re.escape(f"expected one before it, such as {base}+{given}"), recipe.from_preset, "data", "out", given
            )


@pytest.mark.parametrize(
    ("out", "preset", "text"),
    [("out", 5, "`preset`"), ("out", ["scratch"], "`preset`"), (None, "scratch", "`out`"), (3, "scratch", "`out`")],
)
def test_what_is_no_preset_and_no_folder(out, preset, text):
    refused(text, lattok.VLARecipe.from_preset, "data", out, preset)


def test_a_policy_without_cameras_sees_proprio_alone(dataset: Path, tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LeRobotV3, "frames", None)  # nothing is decoded
        trained = lattok.train(recipe(dataset, tmp_path / "p", cameras=(), crop=0.5, prompt=""))
    assert json.loads((tmp_path / "p/held_out.json").read_text())["windows"] == 28
    policy = lattok.load(tmp_path / "p")
    assert policy.config.cameras == ()
    seen = {"observation.state": torch.tensor([[0.0, 1.0], [2.0, 3.0]]), "task": ["lift", "push"]}
    chunks = policy.predict_chunk(seen)
    assert torch.equal(chunks, trained.predict_chunk(seen))
    assert (chunks[0] - chunks[1]).abs().max() > 1e-4
    other = {**seen, "task": ["push", "lift"]}  # the prompt has no {task}
    assert torch.equal(policy.predict_chunk(other), chunks)
    found = policy_batch(policy.config, seen, learning=False)
    refused(
        "`images`", lambda: policy.predict_chunk(found._replace(images=torch.zeros(2, 1, 16, 16, 3, dtype=torch.uint8)))
    )
    refused("the robot's state", policy.predict_chunk, {"task": ["lift"]})


def test_held_out_actions_that_never_change_leave_nothing_to_gain(tmp_path, capsys):
    data = write_dataset(tmp_path / "data", [12, 9, 11, 10])
    path = next((data / "data").rglob("*.parquet"))
    table = pq.read_table(path)
    still = pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 3 * len(table), pa.float32()), 3)
    pq.write_table(table.set_column(table.column_names.index("action"), "action", still), path)
    options = {**SIZES, "backbone": "scratch", "steps": 1, "batch_size": 2}
    lattok.train(lattok.VLARecipe.from_preset(data, tmp_path / "out", **options))
    assert "(mean action 0.000): nothing to gain, since held-out" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/held_out.json").read_text())["gain"] == 0
    report = evaluate(str(tmp_path / "out"), data)
    assert [verdict.holds for verdict in report.verdicts if verdict.key == "action_error"] == [None]
    sides = {side for size in lattok.LatentVLA.from_pretrained(tmp_path / "out").config.camera_sizes for side in size}
    assert "lattok rollout" not in report.to_text()  # no simulator knows what it was told
    report = evaluate(str(tmp_path / "out"), data, tasks=["line/left"])
    assert ("lattok rollout" in report.to_text()) == (len(sides) == 1)  # what simulators render is square


def test_the_scratch_backbone_comes_with_the_preset_of_the_closed_loop_study():
    made = lattok.VLARecipe.from_preset("data", "out", backbone="scratch")
    assert made.preset == "scratch"
    assert (made.loop.steps, made.loop.lr, made.loop.schedule) == (3000, 1e-3, "one_cycle")
    model = made.options()
    found = [model[name] for name in ("backbone_depth", "backbone_patch_size", "prompt", "action_loss")]
    assert found == [3, 32, "{task}", "l1"]
    assert (made.data.crop, made.data.colours) == (0.9, False)
    flow = lattok.VLARecipe.from_preset("data", "out", backbone="scratch", head="flow")  # whose loss l1 cannot be
    assert flow.options() == {**model, "head": "flow", "action_loss": "l2"}


def test_a_tokenizer_on_the_fly_gives_what_its_columns_give(folder: Path, dataset: Path, tmp_path: Path):
    for name in ("la_tok", "la_tok_c"):
        columns = lattok.train(recipe(dataset, tmp_path / f"{name}-columns", name))
        fly = lattok.train(recipe(folder / "data", tmp_path / f"{name}-fly", name, tokenizer=str(folder / "vq")))
        before, after = weights(columns), weights(fly)
        for key in before:
            torch.testing.assert_close(after[key], before[key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        ("la_direct", {"dataset": "data"}, "Make them: lattok annotate DATASET --model LAM --prefix latent --out DIR"),
        ("la_tok", {"dataset": "data"}, "Make them: lattok annotate DATASET --model TOKENIZER --prefix latent --out"),
        ("ph_cond", {"dataset": "data"}, "lattok annotate DATASET --model LAM"),
        ("la_tok", {"prefix": "latent"}, "`latent`"),
        ("la_align", {"prefix": "tokens"}, "`tokens`"),
        ("la_tok", {"horizon": 6}, "`horizon`"),
        ("la_direct", {"latent_stride": "5"}, "`stride`"),
        ("la_direct", {"tokenizer": "vq"}, "`tokenizer` .* was given, but la_direct learns nothing from tokens"),
        ("baseline", {"layer": 3}, "`layer`"),
        ("baseline", {"state_key": "proprio"}, "`state_key`"),
        ("baseline", {"cameras": ("left",)}, "`cameras`"),
        ("baseline", {"crop": 1.5}, "`crop`"),
    ],
)
def test_what_does_not_fit_is_one_line(strategy: str, options: dict, message: str, folder: Path, tmp_path: Path):
    options = dict(options)
    source = folder / options.pop("dataset", "annotated")
    if "tokenizer" in options:
        options["tokenizer"] = str(folder / options["tokenizer"])
    refused(message, lambda: lattok.train(recipe(source, tmp_path / "p", strategy, **options)))
    assert not (tmp_path / "p" / "config.json").exists()


def test_two_image_models_need_a_choice(folder: Path, dataset: Path, tmp_path: Path):
    lam = lattok.load(folder / "lam")
    both = lattok.annotate(lattok.open_dataset(dataset), {"other": lam}, tmp_path / "both")
    refused("`prefix`", lambda: lattok.train(recipe(both, tmp_path / "p", "la_direct")))


def test_the_held_out_error_is_plain_arithmetic(dataset: Path, tmp_path: Path):
    policy = lattok.train(recipe(dataset, tmp_path / "p"))
    said = json.loads((tmp_path / "p/held_out.json").read_text())
    source = open_dataset(dataset)
    train = np.concatenate([source.columns(e, ["action"])["action"] for e in (0, 1, 3)])
    errors, mean_errors = [], []
    for e in (2, 4):
        actions = source.columns(e, ["action"])["action"]
        states = source.columns(e, ["observation.state"])["observation.state"]
        frames = source.frames(e, CAMERAS)
        seen: dict = {key: torch.from_numpy(frames[:, i]) for i, key in enumerate(CAMERAS)}
        seen |= {
            "observation.state": torch.from_numpy(states).float(),
            "task": [source.episodes[e].tasks[0]] * len(actions),
        }
        chunks = policy.predict_chunk(seen).numpy()
        for t in range(len(actions)):
            for h in range(min(4, len(actions) - t)):
                errors.append(((chunks[t, h] - actions[t + h]) / train.std(0)) ** 2)
                mean_errors.append(((train.mean(0) - actions[t + h]) / train.std(0)) ** 2)
    assert said["error"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert said["mean_action"] == pytest.approx(np.mean(mean_errors), rel=1e-4)
    assert said["windows"] == 28


def test_the_held_out_error_of_dimensions_that_never_moved_is_in_their_own_units(dataset: Path, tmp_path: Path):
    still = with_absurd_actions(dataset, (0, 1, 3), tmp_path / "still")
    lattok.train(recipe(still, tmp_path / "p"))
    source = open_dataset(still)
    held_out = (source.columns(e, ["action"])["action"] for e in (2, 4))
    chunks = np.concatenate([a[t : t + 4] for a in held_out for t in range(len(a))])
    said = json.loads((tmp_path / "p/held_out.json").read_text())
    assert said["mean_action"] == pytest.approx(np.square(7e3 - chunks).mean(), rel=1e-4)


@pytest.mark.ci
def test_the_study_compares_all_strategies_and_goes_on_where_it_was(dataset: Path, tmp_path: Path, capsys):
    out = tmp_path / "study"
    assert main(["train", "vla", str(dataset), "--out", str(out), "--study", *TINY]) == 0
    table = (out / "study.md").read_text()
    for name in map(title_of, RUNS):
        assert f"| {name} |" in table
    results = json.loads((out / "study.json").read_text())
    assert set(results) == set(RUNS)
    assert (out / "study.svg").read_text().count("<svg") == len(RUNS) + 1
    assert all(run["seconds"] > 0 for run in results.values())
    assert results["la_tok"]["held_out"]["latent"].keys() == {"latent", "latent_accuracy"}
    shutil.rmtree(out / "la_cond")
    (out / "la_align/held_out.json").unlink()  # as if it had been killed while it was judged
    (out / "study.md").unlink()
    before = (out / "baseline/model.safetensors").stat().st_mtime_ns
    assert main(["train", "vla", str(dataset), "--out", str(out), "--study", "--resume"]) == 0
    again = (out / "study.md").read_text()
    assert [line.split("|")[:7] for line in again.splitlines()] == [line.split("|")[:7] for line in table.splitlines()]
    assert (out / "baseline/model.safetensors").stat().st_mtime_ns == before
    assert not [found for found in unfinished(str(out), None) if isinstance(found, Finding)]
    (out / "study.json").unlink()
    (finding,) = (found for found in unfinished(str(out), None) if isinstance(found, Finding))
    assert str(finding).endswith(f"lattok train vla --out {out} --resume --study")
    assert main(["train", "vla", "--out", str(out), "--resume"]) == 2
    assert "`study`: expected True as in the run to resume, got False. Or start" in capsys.readouterr().err
    assert main(["train", "vla", "--out", str(out / "baseline"), "--resume", "--study"]) == 2
    assert "`study`: expected False as in the run to resume, got True. Or start" in capsys.readouterr().err
    assert main(["train", "vla", str(dataset), "--out", str(out), "--study", *TINY]) == 2
    assert "`out`: expected a new or empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_weight": 0.5, "strategy": "la_tok"}, "`latent_weight` cannot be set in a study"),
        ({"strategy": "la_direct"}, "`strategy` cannot be set in a study, which trains them all"),
        ({"episodes": "0:"}, "`episodes`"),
    ],
)
def test_what_a_study_cannot_be_told(options: dict, message: str, dataset: Path, tmp_path: Path):
    refused(message, lambda: train_study(recipe(dataset, tmp_path / "study", **options)))


def held_out(folder: Path) -> tuple[list, int]:
    """Episodes that a run was judged on, and how many windows they have."""
    said = json.loads((folder / "held_out.json").read_text())
    return said["episodes"], said["windows"]


def test_actions_that_are_not_known_teach_nothing(dataset: Path, tmp_path: Path):
    """Not through the loss, nor through the normaliser, nor through the scale of the held-out error."""
    other = with_absurd_actions(dataset, (0,), tmp_path / "other")
    found = []
    for place, options in ((dataset, {}), (other, {}), (dataset, {"action_episodes": "0:"})):
        options = {"action_episodes": "1:", **options}
        policy = lattok.train(recipe(place, tmp_path / str(len(found)), "la_direct", episodes="0,1,3", **options))
        found.append((weights(policy), (tmp_path / str(len(found)) / "held_out.json").read_text()))
    assert found[0][0].keys() == found[1][0].keys()
    for name, value in found[0][0].items():
        assert torch.equal(value, found[1][0][name]), name
    assert found[0][1] == found[1][1] != found[2][1]
    said = json.loads((tmp_path / "0/training.json").read_text())
    assert said["labels"] == {"episodes": "1:5"}
    assert not torch.equal(found[0][0]["action_normalizer.shift"], found[2][0]["action_normalizer.shift"])


def test_any_number_of_processes_learns_from_the_same_noise(dataset: Path, tmp_path: Path):
    given = recipe(dataset, tmp_path / "x", head="flow", batch_size=8)
    batches = drawn(given)
    whole, halves = batches(3, 0, 1).draws, [batches(3, share, 2).draws for share in range(2)]
    for part in range(2):
        assert torch.equal(torch.stack([half[part] for half in halves], 1).flatten(0, 1), whole[part])
    assert not torch.equal(batches(4, 0, 1).draws.noise, whole.noise)


def test_shares_of_a_batch_add_up_where_not_every_sample_has_actions(dataset: Path, tmp_path: Path):
    given = recipe(dataset, tmp_path / "p", "la_direct", action_episodes="0", episodes="0,1", steps=1, batch_size=8)
    policy, batches = lattok.train(given), drawn(given)
    whole, shares = batches(3, 0, 1), [batches(3, i, 2) for i in range(2)]
    counts = [int(share.valid.any(1).sum()) for share in shares]
    assert counts[0] != counts[1]
    assert 0 < int(whole.shares.acted) == sum(counts) < 8
    expected, parts = policy(whole), [policy(share) for share in shares]
    for name in ("action", "latent"):
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, expected[name])


def test_a_share_of_each_batch_may_come_from_the_episodes_with_actions(dataset: Path, tmp_path: Path):
    options = {"action_episodes": "0", "episodes": "0,1,2", "batch_size": 8, "steps": 1, "acted_share": 0.75}
    given = recipe(dataset, tmp_path / "p", "la_direct", **options)
    batches = drawn(given)
    for step in (0, 1, 7):
        whole, half = batches(step, 0, 1), batches(step, 0, 2)
        assert int(whole.shares.acted) == int(whole.valid.any(1).sum()) == 6
        assert int(half.valid.any(1).sum()) == 3
    for wrong in ({"acted_share": 1.0}, {"acted_share": -0.1}):
        refused("`acted_share`", recipe, dataset, tmp_path / "p", "la_direct", **{**options, **wrong})
    refused("`acted_share` was", lambda: lattok.train(recipe(dataset, tmp_path / "p", "la_direct", acted_share=0.5)))


def test_other_episodes_than_train_are_judged_on_the_same_held_out_ones(dataset: Path, tmp_path: Path):
    """So that policies of less data compare; what was trained on never counts as held out."""
    found = {}
    for episodes in ("train", "0", "0,2", "0,2,4", "0:"):
        lattok.train(recipe(dataset, tmp_path / episodes, episodes=episodes, steps=1))
        if episodes != "0:":
            found[episodes] = held_out(tmp_path / episodes)
    assert found["train"] == found["0"] == ([[2, 2], [4, 4]], 13 + 15)
    assert found["0,2"] == ([[4, 4]], 15)
    assert found["0,2,4"] == ([[1, 1], [3, 3]], 12 + 12)  # none of the test episodes is left
    assert not (tmp_path / "0:/held_out.json").exists()


def test_the_control_on_proprio_is_small_and_blind_whatever_the_others_are_built_on(dataset, tmp_path, monkeypatch):
    begun = {}

    def begin(self: lattok.VLARecipe, *_: object) -> None:
        begun[Path(self.out).name] = self
        if Path(self.out).name == PROPRIO:
            raise KeyboardInterrupt

    monkeypatch.setattr(lattok.VLARecipe, "train", begin)
    options = {"backbone": "org/model", "head_layers": (14, 28), "image_size": 100, "horizon": 4}
    made = lattok.VLARecipe.from_preset(dataset, tmp_path / "s", "libero", **options)
    with pytest.raises(KeyboardInterrupt):
        train_study(made, strategies=("baseline",))
    assert begun["baseline"].options()["backbone"] == "org/model"
    control = begun[PROPRIO]
    policy = control.learner(control.policy_data(control.open())).policy
    assert (policy.config.cameras, policy.config.prompt, policy.config.proprio_dim) == ((), "", 2)
    assert (policy.config.backbone.name, policy.layers) == ("scratch", (2, 3, 4))


def test_a_study_of_policies_trained_further_has_no_control_with_another_prompt(dataset: Path, tmp_path: Path):
    """It was refused for its prompt once all others had been trained."""
    lattok.train(recipe(dataset, tmp_path / "before", steps=1))
    options = {"steps": 1, "init": str(tmp_path / "before")}
    train_study(recipe(dataset, tmp_path / "s", **options), strategies=("baseline",))
    assert json.loads((tmp_path / "s/study.json").read_text()).keys() == {"baseline", "proprio"}


def test_presets_normalise_as_the_published_code(dataset: Path, tmp_path: Path):
    """LIBERO and JAKA: percentiles and clipped, but for the gripper; RoboTwin: extremes. Action tokenizers alike."""
    for name, kind, last in (
        ("libero", "quantile", "bounded"), ("jaka", "quantile", "bounded"), ("robotwin", "min_max", "min_max"),
    ):  # fmt: skip
        for made in (lattok.VLARecipe, lattok.ActionVQRecipe):
            model = made.from_preset("data", "out", name).model
            names = ("x", "y", "gripper_open")
            config = lattok.P2TActionVQ.config_class(
                action_dim=3, action_names=names, **{k: v for k, v in vars(model).items() if k.startswith("normalize")}
            )
            assert config.action_kinds == [kind, kind, last]
            assert config.action_clipped == [True, True, last == "min_max"]
    model = lattok.VLARecipe.from_preset("data", "out", "libero").model
    libero = {k: v for k, v in flat(model).items() if "normalize" in k and k != "normalizers"}
    policy = lattok.train(recipe(dataset, tmp_path / "p", steps=1, **libero))
    assert policy.action_normalizer.limit is not None
    assert lattok.load(tmp_path / "p").proprio_normalizer.limit.tolist() == [1.0, 1.0]
    source = open_dataset(dataset)
    values = np.concatenate([source.columns(e, ["action"])["action"] for e in (0, 1, 3)])
    low, high = np.quantile(values.astype(np.float64), [0.01, 0.99], axis=0)
    expected = np.clip((2 * values - low - high) / (high - low), -1, 1)
    np.testing.assert_allclose(policy.action_normalizer(torch.from_numpy(values)), expected, atol=1e-4)


UNGUIDED = {"la_align": "baseline", "la_direct": "ph_direct", "la_cond": "ph_cond", "la_tok": "baseline"}
UNGUIDED |= {"la_direct_c": "ph_direct", "la_tok_c": "baseline", "la_cond_c": "ph_cond"}


@pytest.mark.parametrize("name", UNGUIDED)
def test_without_weight_a_strategy_trains_what_placeholders_alone_train(name: str, dataset: Path, tmp_path: Path):
    """λ = 0 and E.2: equal weights but for the order of sums; the latent loss takes no share of a clipped gradient."""
    options = {"prefix": "tokens" if name.startswith("la_tok") else "latent", "ema": 0.5, "clip_norm": 0.1}
    guided = lattok.train(recipe(dataset, tmp_path / "guided", name, **options))
    given = lattok.train(recipe(dataset, tmp_path / "p", name, latent_weight=0.0, **options))
    options |= {"prefix": None} if STRATEGIES[UNGUIDED[name]].labels is None else {}
    control = weights(lattok.train(recipe(dataset, tmp_path / "q", UNGUIDED[name], **options)))
    own, differ = weights(given), 0
    assert {key for key in own if not key.startswith("supervision.")} == control.keys()
    for key, value in control.items():
        torch.testing.assert_close(own[key], value, rtol=0, atol=1e-5, msg=key)
        differ += bool((weights(guided)[key] - value).abs().max() > 1e-4)
    assert differ > len(control) / 4


def test_a_study_without_labels_says_so_before_anything_is_trained(folder: Path, tmp_path: Path):
    made = recipe(folder / "data", tmp_path / "study")
    refused("has no `latent.codes`", train_study, made)
    assert not list(tmp_path.glob("study/*/config.json"))


def test_other_verbs_know_what_a_policy_is(dataset: Path, tmp_path: Path, capsys):
    lattok.train(recipe(dataset, tmp_path / "p"))
    policy = str(tmp_path / "p")
    assert "nearer than the mean action" in (tmp_path / "p/README.md").read_text()
    assert main(["evaluate", policy, str(dataset)]) == 0
    judged = json.loads((tmp_path / "p/report/report.json").read_text())
    held_out = json.loads((tmp_path / "p/held_out.json").read_text())
    assert judged["figures"] == {
        "action_error": pytest.approx(held_out["error"]),
        "action_error/mean_action": pytest.approx(held_out["mean_action"]),
    }
    assert "Are its actions like those of held-out episodes?" in (tmp_path / "p/report/report.html").read_text()
    capsys.readouterr()
    for verb in (["annotate", "--out", str(tmp_path / "o"), "--prefix", "other"], ["verify"]):
        assert main([verb[0], str(dataset), "--model", policy, *verb[1:]]) == 2
        assert "`model`: expected an action tokenizer or a latent action model" in capsys.readouterr().err
    main(["doctor", policy])
    assert "held-out actions" in capsys.readouterr().out
