"""`--policy.type=lattok` in the unmodified LeRobot: its scripts for training, resuming and evaluation, its loading, and
its loop for robots. Run with -s, it prints the figures."""

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from packaging.version import Version

import lattok
from lattok import annotate, open_dataset
from lattok.action_vq import ResidualVQ
from lattok.backbones.model import open_backbone
from lattok.nn.normalize import Normalizer
from lattok.version import installed
from tests.data.memory import SPEC, labels_for
from tests.errors import refused
from tests.lerobot.policies import batches, lerobot, processors, run_training, script

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.usefixtures("plugin"),
    pytest.mark.filterwarnings("ignore"),  # of LeRobot and of what it uses
]
H, STEPS = 4, 260
SMALL = {"image_size": 32, "backbone_patch_size": 8, "backbone_width": 32, "backbone_depth": 2, "head_dim": 32}
SMALL |= {"optimizer_lr": 3e-3}
DECAY = {"scheduler_decay_every": 200, "scheduler_decay_factor": 0.2}
FEW = {"chunk_size": H, "device": "cpu", "push_to_hub": False, "backbone": "scratch"}


@pytest.fixture(scope="module")
def annotated(point, tmp_path_factory) -> Path:
    return point.annotated(tmp_path_factory.mktemp("plugin"), 24)


def train(root: Path, out: Path, steps: int = STEPS, **policy: Any) -> Path:
    chosen = {"type": "lattok", **FEW, **SMALL, **DECAY, **policy}
    return run_training(root, out, steps, chosen, batch_size=16, log_freq=50)


@pytest.fixture(scope="module")
def trained(annotated, tmp_path_factory) -> Path:
    return train(annotated, tmp_path_factory.mktemp("train") / "run", strategy="la_cond")


@pytest.fixture
def dataset(lerobot_dataset, annotated):
    """LeRobot's dataset with the windows that LeRobot itself reads for such a policy."""
    return lerobot_dataset(annotated, delta_timestamps={"action": [step / 10 for step in range(H)]})


def config(**options: Any) -> Any:
    return lerobot("policies.factory").get_policy_class("lattok").config_class(**{**FEW, **SMALL, **options})


def fresh(dataset: Any, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return lerobot("policies.factory").make_policy(config(**options), ds_meta=dataset.meta)


def load(folder: Path) -> Any:
    return lerobot("policies.factory").get_policy_class("lattok").from_pretrained(folder)


def test_lerobot_finds_it():
    kinds = lerobot("configs.policies").PreTrainedConfig.get_known_choices()
    assert "lattok" in kinds
    made = lerobot("policies.factory").make_policy_config("lattok", device="cpu")
    policy = lerobot("policies.factory").get_policy_class("lattok")
    assert (policy.name, policy.config_class) == ("lattok", type(made))
    assert (made.backbone, made.image_size, made.optimizer_lr) == ("Qwen/Qwen3-VL-2B-Instruct", 224, 1e-4)


def test_a_training_run(trained, annotated, dataset):
    """What it writes, and that it learned: actions and latent actions."""
    assert {path.name for path in trained.iterdir()} >= {"config.json", "model.safetensors", "train_config.json"}
    stored = json.loads((trained / "config.json").read_text())
    facts = {"codes": 2, "codebook_size": 8, "latent_dim": 2, "steps": H, "prefix": "latent", "stride": 2}
    assert {key: stored["latent"][key] for key in facts} == facts
    assert stored["action_names"] == ["right", "up"]
    assert stored["cameras"] == ["observation.images.front"]
    first, last = fresh(dataset, strategy="la_cond"), load(trained)
    last.labels = first.labels
    (batch,) = batches(dataset, 1, processors(first)[0], 64)
    losses = []
    for policy in (first, last.train()):
        with torch.no_grad():
            losses.append(policy(batch))
    print("before", *losses[0], "after", *losses[1])
    assert losses[1][0] < 0.3 * losses[0][0]
    assert losses[1][1]["latent_loss"] < 0.7 * losses[0][1]["latent_loss"]
    assert set(losses[1][1]) == {"action_loss", "latent_loss", "latent_accuracy"}
    expected = losses[1][1]["action_loss"] + 0.1 * losses[1][1]["latent_loss"]
    assert float(losses[1][0]) == pytest.approx(expected, rel=1e-5)


def test_statistics_of_the_dataset_travel_with_it(trained, annotated):
    """They are those of all frames, in the checkpoint; LeRobot's steps change nothing."""
    ours, policy = open_dataset(annotated), load(trained)
    for key, normalizer in (("action", "action_normalizer"), ("observation.state", "proprio_normalizer")):
        values = np.concatenate([ours.columns(e.index, [key])[key] for e in ours.episodes])
        found = getattr(policy.model, normalizer)
        np.testing.assert_allclose(found.shift, values.mean(0), rtol=1e-4)
        np.testing.assert_allclose(found.scale, values.std(0), rtol=1e-4)
    before, after = processors(policy, trained)
    row = {"observation.state": torch.randn(3, 2), "action": torch.randn(3, H, 2), "task": ["a", "b", "c"]}
    out = before(row)
    torch.testing.assert_close(out["observation.state"], row["observation.state"], rtol=0, atol=0)
    torch.testing.assert_close(out["action"], row["action"], rtol=0, atol=0)
    torch.testing.assert_close(after(row["action"]), row["action"], rtol=0, atol=0)


def test_each_dimension_is_normalised_in_its_own_way(dataset, annotated):
    ours, exceptions = open_dataset(annotated), ["right=bounded"]
    policy = fresh(dataset, normalize="mean_std", normalize_exceptions=exceptions)
    values = np.concatenate([ours.columns(e.index, ["action"])["action"] for e in ours.episodes])
    wanted = Normalizer(2).fit(torch.from_numpy(values), ["bounded", "mean_std"])
    torch.testing.assert_close(policy.model.action_normalizer.shift, wanted.shift, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(policy.model.action_normalizer.scale, wanted.scale, rtol=1e-4, atol=1e-6)


def test_quantiles_are_those_of_the_rows(dataset, annotated):
    """LeRobot's file has weighted means of episodes' quantiles, which are others."""
    ours = open_dataset(annotated)
    values = np.concatenate([ours.columns(e.index, ["action"])["action"] for e in ours.episodes])
    dataset.meta.stats["action"] |= {"q01": np.array([0.0, 0.0]), "q99": np.array([9.0, 9.0])}
    wanted = Normalizer(2).fit(torch.from_numpy(values), "quantile")
    policy = fresh(dataset, normalize="quantile")
    torch.testing.assert_close(policy.model.action_normalizer.shift, wanted.shift, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(policy.model.action_normalizer.scale, wanted.scale, rtol=1e-4, atol=1e-6)


def test_resuming(trained, annotated, monkeypatch):
    """LeRobot's own way; the model that goes on is the one that was saved."""
    seen = []
    made = lerobot("scripts.lerobot_train").make_policy

    def spy(*args: Any, **options: Any) -> Any:
        policy = made(*args, **options)
        seen.append({key: value.clone() for key, value in policy.model.saved_tensors().items()})
        return policy

    monkeypatch.setattr("lerobot.scripts.lerobot_train.make_policy", spy)
    saved = safetensors.torch.load_file(trained / "model.safetensors")
    script("lerobot_train", config_path=trained / "train_config.json", resume="true", steps=STEPS + 4)
    assert {f"model.{key}" for key in seen[0]} == set(saved)
    assert all(torch.equal(saved[f"model.{key}"], value) for key, value in seen[0].items())
    state = trained.parents[1] / f"{STEPS + 4:06d}" / "training_state" / "training_step.json"
    assert json.loads(state.read_text())["step"] == STEPS + 4
    later = safetensors.torch.load_file(state.parents[1] / "pretrained_model" / "model.safetensors")
    assert any(not torch.equal(saved[key], later[key]) for key in saved)
    assert torch.equal(saved["model.action_normalizer.scale"], later["model.action_normalizer.scale"])


@pytest.mark.parametrize("strategy", ["la_cond", "la_align", "la_tok"])
def test_labels_are_those_that_lerobot_reads(lerobot_dataset, annotated, dataset, strategy):
    """Windows of labels by the number of the frame against LeRobot's own `delta_timestamps`."""
    policy = fresh(dataset, strategy=strategy)
    prefix = "tok" if strategy == "la_tok" else "latent"
    assert policy.labels.spec.prefix == prefix
    times = {"action": [step / 10 for step in range(H)]}
    keys = [f"{prefix}.{part}" for part in ("codes", "embedding", "valid")]
    times |= {} if strategy == "la_tok" else dict.fromkeys(keys, times["action"])
    theirs = lerobot_dataset(annotated, delta_timestamps=times, episodes=[3, 7, 8])
    (raw,) = batches(theirs, 1, lambda batch: batch, 40)
    seen = processors(policy)[0](raw)
    assert f"{prefix}.codes" not in seen  # LeRobot's preprocessors drop it
    found = policy.labels.add(seen)
    for key in keys[:2]:
        torch.testing.assert_close(found[key].float(), raw[key].float().reshape(found[key].shape), rtol=0, atol=0)
    padded = raw.get(f"{prefix}.valid_is_pad", torch.zeros_like(raw[keys[2]]))
    assert torch.equal(found[keys[2]], raw[keys[2]] & ~padded)
    assert strategy == "la_tok" or bool(padded.any())
    loss, logs = policy(seen)
    given, _ = policy({**seen, **{key: raw[key] for key in raw if key.startswith(prefix)}})
    assert float(loss) == pytest.approx(float(given))
    loss.backward()
    assert policy.model.placeholders.grad.abs().sum() > 0
    assert {"latent_cosine" if strategy == "la_align" else "latent_accuracy"} <= set(logs)


def test_a_baseline_as_long_as_others_needs_no_codes(point, lerobot_dataset, tmp_path):
    """Only the length of labels counts: those of a continuous model will do, as in lattok's own recipe."""

    class Smooth(point.Where):
        def label_video(self, frames, stride):
            found = super().label_video(frames, stride)
            return replace(found, codes=found.codes[:, :0])

    source = open_dataset(point.demonstrations(tmp_path / "d", 2))
    root = annotate(source, {"latent": Smooth("video")}, tmp_path / "out")
    smooth = lerobot_dataset(root, delta_timestamps={"action": [step / 10 for step in range(H)]})
    policy = fresh(smooth, strategy="ph_direct")
    assert policy.labels is None
    assert policy.model.segments["action"].per_step == 1  # vectors of a step
    (batch,) = batches(smooth, 1, processors(policy)[0])
    assert torch.isfinite(policy(batch)[0])
    refused("has no `latent.codes`. Its model is continuous", fresh, smooth, strategy="la_cond")


def test_a_baseline_needs_no_labels(point, lerobot_dataset, tmp_path):
    root = point.demonstrations(tmp_path / "plain", 2)
    plain = lerobot_dataset(root, delta_timestamps={"action": [step / 10 for step in range(H)]})
    policy = fresh(plain)
    (batch,) = batches(plain, 1, processors(policy)[0])
    loss, logs = policy(batch)
    assert set(logs) == {"action_loss"}
    assert float(loss) == pytest.approx(logs["action_loss"])
    refused("has no `latent.codes`, `latent.valid`.*lattok annotate", fresh, plain, strategy="la_cond")
    refused("`reduction`: expected mean", policy, batch, reduction="none")


def test_labels_beside_the_dataset(point, lerobot_dataset, tmp_path):
    """`--policy.labels`: codes that tell episode and frame, also of a subset of the episodes."""
    root = point.demonstrations(tmp_path / "plain", 4)
    columns = {"codes": ("int64", [2]), "valid": ("bool", [1]), "embedding": ("float32", [1, 3])}
    declared = {f"latent.{part}": {"dtype": dtype, "shape": shape} for part, (dtype, shape) in columns.items()}
    spec = replace(SPEC, codebook_size=20).to_json()
    folder = labels_for(open_dataset(root), tmp_path / "labels", spec=spec, columns=declared)
    part = lerobot_dataset(root, episodes=[1, 3], delta_timestamps={"action": [step / 10 for step in range(H)]})
    policy = fresh(part, strategy="la_cond", labels=str(folder))
    (raw,) = batches(part, 1, lambda batch: batch, 28)
    found = policy.labels.add(processors(policy)[0](raw))["latent.codes"]
    assert torch.equal(found[..., 0], raw["episode_index"][:, None].expand(-1, H))
    assert torch.equal(found[..., 1], (raw["frame_index"][:, None] + torch.arange(H)).clamp(max=13))
    assert torch.isfinite(policy(raw)[0])


def test_actions(trained, dataset, tmp_path):
    """Loading, LeRobot's processors, the queue of actions, and the same policy as an artefact of lattok."""
    policy = load(trained)
    assert not policy.training
    before, after = processors(policy, trained)
    item = {key: value for key, value in dataset[5].items() if key.startswith("observation.") or key == "task"}
    other = {key: value for key, value in dataset[100].items() if key in item}
    rows = {key: [item[key], other[key]] if key == "task" else torch.stack([item[key], other[key]]) for key in item}
    seen = before(rows)
    chunk = policy.predict_action_chunk(seen)
    assert chunk.shape == (2, H, 2)
    policy.reset()
    taken = torch.stack([after(policy.select_action(seen)) for _ in range(H)], 1)
    torch.testing.assert_close(taken, chunk)
    expected = torch.stack([dataset[5]["action"], dataset[100]["action"]])
    assert float((chunk - expected).abs().mean()) < 0.25
    policy.model.save_pretrained(tmp_path / "artefact")
    again = lattok.load(tmp_path / "artefact")
    torch.testing.assert_close(again.predict_chunk(rows), chunk)


@pytest.mark.parametrize(
    "given",
    [{}, {"normalize_clip": True, "normalize_exceptions": ("right=bounded",), "loss_reduction": "sum"}],
    ids=["scratch", "as the presets of robots"],
)
def test_a_policy_of_lattok_as_a_checkpoint(given, trained, annotated, dataset, tmp_path):
    """What lattok's own recipe trained, exported: LeRobot makes the same actions, and can train on."""
    export = importlib.import_module("lerobot_policy_lattok.export").export
    sizes = {"backbone_width": 32, "backbone_depth": 2, "backbone_heads": 2, "head_dim": 32, "image_size": 32}
    sizes |= {"steps": 3, "crop": 1.0, **given}
    made = lattok.VLARecipe.from_preset(
        str(annotated), tmp_path / "vla", "scratch", horizon=H, strategy="la_align", layer=0.5, **sizes
    )
    model = lattok.train(made)
    folder = export(tmp_path / "vla", tmp_path / "checkpoint")
    policy = load(folder)
    assert policy.model.config == model.config
    before, after = processors(policy, folder)
    (batch,) = batches(dataset, 1, before)
    theirs = after(policy.predict_action_chunk(batch))
    torch.testing.assert_close(theirs, model.predict_chunk(batch))
    policy.config.pretrained_path = folder
    further = lerobot("policies.factory").make_policy(policy.config, ds_meta=dataset.meta)
    loss, logs = further.train()(batch)
    loss.backward()
    assert set(logs) == {"action_loss", "latent_loss", "latent_cosine"}
    torch.testing.assert_close(further.model.action_normalizer.scale, model.action_normalizer.scale)
    refused(
        "`model`: expected a policy, got Where",
        lambda: export(importlib.import_module("tests.lerobot.point").Where("video"), tmp_path / "no"),
    )


def test_a_robot(trained, dataset):
    """The loop of `lerobot-record`: one observation of numpy arrays, without a batch."""
    policy = load(trained)
    before, after = processors(policy, trained)
    item = dataset[5]
    image = (item["observation.images.front"] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    seen = {"observation.images.front": image, "observation.state": item["observation.state"].numpy()}
    predict = pytest.importorskip("lerobot.utils.control_utils", reason="not in LeRobot 0.6").predict_action
    policy.reset()
    action = predict(seen, policy, torch.device("cpu"), before, after, False, item["task"])
    rows = {key: item[key][None] for key in seen} | {"task": [item["task"]]}
    torch.testing.assert_close(action, policy.predict_action_chunk(rows)[:, 0])


def test_an_evaluation_run(trained, point, tmp_path):
    """`lerobot-eval` on the environment of the demonstrations: the policy solves what a random one does not."""
    rates = {}
    for task in point.TARGETS:
        out = tmp_path / task.split()[0]
        options = {"eval__n_episodes": 10, "eval__batch_size": 5, "env__type": "point", "env__task": task}
        options["eval__use_async_envs"] = "false"  # other processes do not know this environment
        script("lerobot_eval", policy__path=trained, policy__n_action_steps=1, output_dir=out, **options)
        rates[task] = json.loads((out / "eval_info.json").read_text())["overall"]["pc_success"]
    by_chance = random_rate(point)
    print(rates, "random actions", by_chance)
    assert sum(rates.values()) / len(rates) >= 70
    assert by_chance < 30


def random_rate(point: Any) -> float:
    """Successes of random actions, per cent."""
    rng, successes = np.random.default_rng(0), 0
    for seed in range(50):
        env = point.Point("lift the point")
        env.reset(seed=seed)
        done = False
        while not done:
            *_, success, late, _ = env.step(rng.uniform(-1, 1, 2))
            done = success or late
        successes += success
    return 2 * successes


def test_loading_is_strict(trained, tmp_path):
    """Whatever `strict` says: LeRobot's default is False."""
    saved = safetensors.torch.load_file(trained / "model.safetensors")
    kind = type(load(trained))
    for name, change, expected in (
        ("missing", lambda t: t.pop("model.placeholders"), "missing placeholders"),
        ("more", lambda t: t.update({"model.extra": torch.ones(1)}), "unexpected extra"),
        ("shape", lambda t: t.update({"model.placeholders": torch.ones(1)}), r"placeholders has shape \[1\], expected"),
    ):
        folder, tensors = tmp_path / name, dict(saved)
        folder.mkdir()
        change(tensors)
        (folder / "config.json").write_bytes((trained / "config.json").read_bytes())
        safetensors.torch.save_file(tensors, folder / "model.safetensors")
        for strict in (False, True):
            refused(expected, kind.from_pretrained, folder, strict=strict)


def test_a_checkpoint_without_the_base_model(dataset, tmp_path, monkeypatch):
    """Of a pretrained backbone it holds what is trained, and which one it was; it is opened again by that."""
    scratch, opened = open_backbone, []

    class Adapted(torch.nn.Module):
        """The scratch backbone as if only its last norm were trained."""

        def __init__(self, made: Any):
            super().__init__()
            opened.append(made.backbone.revision)
            torch.manual_seed(5)
            self.inner, self.revision = scratch(made), "files-1234"

        def __getattr__(self, name: str) -> Any:
            return super().__getattr__(name) if name in ("inner", "_modules") else getattr(self.inner, name)

        def forward(self, *inputs: Any) -> Any:
            return self.inner(*inputs)

        def saved_tensors(self) -> dict[str, torch.Tensor]:
            return {"norm.weight": self.inner.norm.weight}

    monkeypatch.setattr("lerobot_policy_lattok.modeling_lattok.open_backbone", Adapted)
    policy = fresh(dataset)
    with torch.no_grad():
        policy.model.backbone.inner.norm.weight.fill_(2.0)
    policy.save_pretrained(tmp_path)
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert [name for name in saved if ".backbone." in name] == ["model.backbone.norm.weight"]
    again = load(tmp_path)
    assert opened == [None, "files-1234"]
    (batch,) = batches(dataset, 1, processors(policy)[0])
    torch.testing.assert_close(again.predict_action_chunk(batch), policy.predict_action_chunk(batch))


def test_a_checkpoint_learns_from_the_labels_that_it_knows(trained, dataset, point, tmp_path):
    """Resuming on labels of another model is an error."""

    class Other(point.Where):
        codebook_size = 9

    root = annotate(open_dataset(point.demonstrations(tmp_path / "d", 2)), {"latent": Other("video")}, tmp_path / "out")
    meta = lerobot("datasets.lerobot_dataset").LeRobotDatasetMetadata("org/name", root=root)
    loaded = load(trained).config
    loaded.pretrained_path = trained
    refused("`codebook_size`: expected 8, as in", lambda: lerobot("policies.factory").make_policy(loaded, ds_meta=meta))


def test_a_checkpoint_may_not_choose_a_folder_of_this_machine(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "theirs")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "backbone": str(tmp_path)}))
    refused("`backbone` in .*: expected a Hub id: a model may not choose", load, folder)


def test_bad_options(dataset):
    modes = lerobot("configs.types").NormalizationMode
    refused("`normalization_mapping`: expected IDENTITY for", config, normalization_mapping={"ACTION": modes.MEAN_STD})
    refused("`n_action_steps`: expected at most chunk_size 4, got 5", config, n_action_steps=5)
    refused("`strategy`: expected one of baseline", config, strategy="la")
    refused(r"`cameras`: expected cameras among observation.images.front, got top", fresh, dataset, cameras=["top"])
    refused("`normalize`: expected one of mean_std, quantile, min_max", fresh, dataset, normalize="other")
    refused("`peft`: expected none for this policy.*backbone_lora_rank", lambda: fresh(dataset).wrap_with_peft())


def test_pretrained_backbones_need_newer_packages(dataset):
    """Beside LeRobot 0.4 transformers is too old for them, or not there; the error says what is needed."""
    if Version(installed(["transformers"]).get("transformers", "0")) >= Version("5.4"):
        pytest.skip("transformers is new enough")
    refused(r"`backbone`: expected .*transformers.* \(pip", fresh, dataset, backbone="Qwen/Qwen3-VL-2B-Instruct")


def test_the_schedule():
    config_of = config(scheduler_decay_every=2, scheduler_decay_factor=0.5).get_scheduler_preset()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    schedule, rates = config_of.build(optimizer, 6), []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_a_policy_that_acts_by_tokens_is_trained_saved_loaded_and_goes_on(annotated, tmp_path):
    """Its checkpoint holds the tokenizer: the one that it was made with may be gone."""
    chunks = lattok.samples.ActionWindows(open_dataset(annotated), H).all()
    ResidualVQ.fit(*chunks, tokens=2, codebook_size=16, steps=0).save_pretrained(tmp_path / "tokenizer")
    options = {"head": "tokens", "tokenizer": str(tmp_path / "tokenizer"), "head_order": "parallel"}
    checkpoint = train(annotated, tmp_path / "run", 4, **options)
    shutil.rmtree(tmp_path / "tokenizer")
    policy = load(checkpoint)
    told = json.loads((checkpoint / "config.json").read_text())
    assert (told["head"], told["tokenizer"], told["tokens"]["type"]) == ("tokens", None, "residual-vq")
    seen = {"observation.state": torch.zeros(2, policy.config.proprio_dim), "task": ["push", "pull"]}
    seen |= {camera: torch.rand(2, *policy.config.image_features[camera].shape) for camera in policy.config.cameras}
    chunk = policy.predict_action_chunk(seen)
    assert chunk.shape == (2, H, policy.config.action_dim)
    policy.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(load(tmp_path / "again").predict_action_chunk(seen), chunk, rtol=0, atol=0)
    refused("an action tokenizer, whose codes head=tokens", train, annotated, tmp_path / "other", 1, head="tokens")
