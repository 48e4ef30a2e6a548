"""`--policy.type=lattok_supervised` in the unmodified LeRobot: its own ACT, Diffusion Policy and SmolVLA learn from
labels in its own training, and what is left acts without lattok. Run with -s, it prints the figures."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lattok import LattokError
from tests.errors import refused
from tests.lerobot.policies import NEEDS, batches, lerobot, needs, processors, run_training, script, tiny_smolvlm

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.usefixtures("plugin"),
    pytest.mark.filterwarnings("ignore"),  # of LeRobot and of what it uses
]
H, STEPS, CAMERA = 4, 4, "observation.images.front"
INNER: dict[str, dict[str, Any]] = {
    "act": {"chunk_size": H, "n_action_steps": H, "dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "latent_dim": 4}
    | {"n_encoder_layers": 1, "n_vae_encoder_layers": 1, "pretrained_backbone_weights": None},
    "diffusion": {"horizon": H, "n_action_steps": 2, "n_obs_steps": 2, "down_dims": [32, 64], "crop_shape": None}
    | {"diffusion_step_embed_dim": 32, "num_inference_steps": 2, "drop_n_last_frames": 1}
    | {"pretrained_backbone_weights": None, "use_group_norm": True},
    "smolvla": {"chunk_size": H, "n_action_steps": H, "load_vlm_weights": False, "num_vlm_layers": 4, "num_steps": 2}
    | {"max_state_dim": 8, "max_action_dim": 8, "resize_imgs_with_padding": [32, 32]},
}
STRATEGY = {"act": "la_align", "diffusion": "la_direct", "smolvla": "la_direct_c"}
ALONE = """
import sys, torch
sys.modules.update(lattok=None, lerobot_policy_lattok=None)  # importing them fails
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
torch.set_num_threads(1)
for folder in sys.argv[2:]:
    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder, strict=True)
    before, after = make_pre_post_processors(config, folder)
    torch.manual_seed(0)
    with torch.no_grad():
        action = after(policy.select_action(before(torch.load(sys.argv[1]))))
    torch.save((config.type, action), folder + "/acted.pt")
"""


@pytest.fixture(scope="module")
def annotated(point, tmp_path_factory) -> Path:
    return point.annotated(tmp_path_factory.mktemp("supervised"), 6)


def options_of(kind: str, folder: Path) -> dict[str, Any]:
    more = {"vlm_model_name": str(tiny_smolvlm(folder / "vlm"))} if kind == "smolvla" else {}
    return INNER[kind] | more


def train(root: Path, out: Path, inner: str, steps: int = STEPS, **policy: Any) -> Path:
    chosen = {"type": "lattok_supervised", "inner": inner, "device": "cpu", "push_to_hub": "false", **policy}
    return run_training(root, out, steps, chosen, batch_size=8, log_freq=1)


@pytest.fixture(scope="module")
def trained(annotated, tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of each policy that can be made here, after a few steps."""
    found = {}
    for kind in (kind for kind in INNER if kind not in NEEDS or importlib.util.find_spec(NEEDS[kind])):
        folder = tmp_path_factory.mktemp(kind)
        inner = json.dumps(options_of(kind, folder))
        found[kind] = train(annotated, folder / "run", kind, strategy=STRATEGY[kind], inner_options=inner)
    return found


def config(**options: Any) -> Any:
    given = {"device": "cpu", "push_to_hub": False, **options}
    return lerobot("configs.policies").PreTrainedConfig.get_choice_class("lattok_supervised")(**given)


def fresh(dataset: Any, inner: str = "act", **options: Any) -> Any:
    torch.manual_seed(0)
    given = {"inner": inner, "inner_options": INNER.get(inner, {}), **options}
    return lerobot("policies.factory").make_policy(config(**given), ds_meta=dataset.meta)


def kind_of() -> Any:
    return lerobot("policies.factory").get_policy_class("lattok_supervised")


def windows(policy: Any) -> dict[str, list[float]]:
    """What LeRobot's training reads for a policy."""
    found = {"action": [step / 10 for step in policy.action_delta_indices]}
    seen = policy.observation_delta_indices
    return found | {key: [step / 10 for step in seen] for key in (CAMERA, "observation.state") if seen}


def test_checkpoints_are_those_of_the_inner_policy(trained, annotated, lerobot_dataset, tmp_path):
    """Each opens in a process without lattok, with its processors, and acts as it does here."""
    item = lerobot_dataset(annotated)[5]
    seen = {key: item[key][None] for key in (CAMERA, "observation.state")} | {"task": [item["task"]]}
    torch.save(seen, tmp_path / "seen.pt")
    command = [sys.executable, "-c", ALONE, tmp_path / "seen.pt", *trained.values()]
    subprocess.run([str(word) for word in command], check=True, timeout=300)
    for kind, folder in trained.items():
        assert {path.name for path in folder.iterdir()} >= {"lattok_supervised.json", "lattok_supervised.safetensors"}
        assert not [name for name in safetensors.torch.load_file(folder / "model.safetensors") if "supervised" in name]
        named, action = torch.load(folder / "acted.pt")
        assert named == kind
        policy = kind_of().from_pretrained(folder)
        assert not policy.training
        before, after = processors(policy, folder)
        torch.manual_seed(0)
        torch.testing.assert_close(after(policy.select_action(before(seen))), action)
        assert policy.config.latent.codes == 2
        assert (policy.config.inner, policy.config.strategy) == (kind, STRATEGY[kind])


@pytest.mark.parametrize("kind", INNER)
def test_resuming(trained, annotated, kind, monkeypatch):
    """LeRobot's own way: policy, head and optimizer go on from what was saved."""
    needs(kind)
    seen, folder = [], trained[kind]
    made = lerobot("scripts.lerobot_train").make_policy

    def spy(*args: Any, **options: Any) -> Any:
        policy = made(*args, **options)
        seen.extend(
            {k: v.clone() for k, v in each.state_dict().items()} for each in (policy.inner, policy.supervised.loss)
        )
        return policy

    monkeypatch.setattr("lerobot.scripts.lerobot_train.make_policy", spy)
    script("lerobot_train", config_path=folder / "train_config.json", resume="true", steps=STEPS + 2)
    after = folder.parents[1] / f"{STEPS + 2:06d}"
    assert json.loads((after / "training_state" / "training_step.json").read_text())["step"] == STEPS + 2
    for name, state in zip(("model.safetensors", "lattok_supervised.safetensors"), seen, strict=True):
        was, now = (safetensors.torch.load_file(place / name) for place in (folder, after / "pretrained_model"))
        assert all(torch.equal(value, state[key]) for key, value in was.items())
        assert was.keys() == now.keys()
        assert any(not torch.equal(was[key], now[key]) for key in was)


def test_an_evaluation_run(trained, tmp_path):
    options = {"eval__n_episodes": 2, "eval__batch_size": 2, "eval__use_async_envs": "false"}
    options |= {"env__type": "point", "env__task": "lift the point"}
    script("lerobot_eval", policy__path=trained["act"], output_dir=tmp_path / "eval", **options)
    assert "pc_success" in json.loads((tmp_path / "eval" / "eval_info.json").read_text())["overall"]


@pytest.mark.parametrize(("kind", "strategy"), [("act", "la_align"), ("act", "la_tok"), ("diffusion", "la_direct")])
def test_labels_pass_the_processors(annotated, lerobot_dataset, kind, strategy):
    """They are those of the frames whose actions are predicted, as LeRobot itself reads them; Diffusion Policy's begin
    before the sample's own frame."""
    needs(kind)
    plain = lerobot_dataset(annotated)
    policy = fresh(plain, kind, strategy=strategy)
    prefix = "tok" if strategy == "la_tok" else "latent"
    times = windows(policy.config)
    keys = [f"{prefix}.{part}" for part in ("codes", "embedding", "valid")]
    times |= {} if strategy == "la_tok" else dict.fromkeys(keys, times["action"])
    assert times["action"][0] == (-0.1 if kind == "diffusion" else 0)
    (raw,) = batches(lerobot_dataset(annotated, delta_timestamps=times, episodes=[1, 3]), 1, lambda batch: batch, 28)
    before, _ = processors(policy, dataset_stats=plain.meta.stats)
    seen = before(dict(raw))
    assert f"{prefix}.codes" not in seen  # LeRobot's preprocessors drop it
    found = policy.labels.add(seen)
    padded = raw.get(f"{prefix}.valid_is_pad", torch.zeros_like(raw[keys[2]]))
    assert torch.equal(found[keys[2]], raw[keys[2]] & ~padded)
    assert strategy == "la_tok" or bool(padded.any())
    for key in keys[:2]:
        torch.testing.assert_close(found[key].float(), raw[key].float().reshape(found[key].shape), rtol=0, atol=0)
    policy.train()
    losses = []
    for model in (policy, policy.inner):
        torch.manual_seed(3)
        losses.append(model(seen))
    (loss, logs), (own, _) = losses
    weight = policy.config.plan.losses[0].weight
    assert float(loss) == pytest.approx(float(own) + weight * logs["latent_loss"], rel=1e-5)
    loss.backward()
    grouped = [group["params"] if isinstance(group, dict) else [group] for group in policy.get_optim_params()]
    trained = {id(p) for group in grouped for p in group}
    assert {id(p) for p in policy.supervised.loss.parameters()} <= trained
    assert all(p.grad is not None for p in policy.supervised.loss.parameters())
    print(kind, strategy, float(loss), logs)


def test_learning(annotated, lerobot_dataset):
    """Forty steps of ACT: the codes are learned."""
    plain = lerobot_dataset(annotated)
    policy = fresh(plain, strategy="la_direct")
    before, _ = processors(policy, dataset_stats=plain.meta.stats)
    data = batches(lerobot_dataset(annotated, delta_timestamps=windows(policy.config)), 3, before)
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-3)
    policy.train()
    seen = []
    for step in range(40):
        loss, logs = policy(data[step % 3])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(logs["latent_loss"])
    print("latent loss", seen[0], seen[-1])
    assert sum(seen[-3:]) < 0.7 * sum(seen[:3])


def test_the_log_has_both_losses(annotated, lerobot_dataset, caplog):
    """LeRobot's own line has only their sum."""
    plain = lerobot_dataset(annotated)
    policy = fresh(plain, strategy="la_direct", log_freq=2)
    before, _ = processors(policy, dataset_stats=plain.meta.stats)
    data = batches(lerobot_dataset(annotated, delta_timestamps=windows(policy.config)), 3, before)
    with caplog.at_level("INFO"):
        losses = [(float(loss), logs["latent_loss"]) for loss, logs in map(policy.train(), data)]
    loss, latent = losses[1]
    said = f"loss of act:{loss - 0.1 * latent:.3f} latent_loss:{latent:.3f} times 0.1"
    assert [line for line in caplog.messages if "latent_loss" in line] == [said]


def test_a_checkpoint_of_the_inner_policy_to_start_from(trained, annotated, tmp_path):
    """`--policy.inner=FOLDER`: its options and weights, another strategy; the checkpoint again needs no lattok."""
    options = {"strategy": "la_direct", "latent_weight": 0, "inner_options": json.dumps({"dropout": 0.0})}
    folder = train(annotated, tmp_path / "run", str(trained["act"]), 1, **options)
    stored, first = (json.loads((place / "config.json").read_text()) for place in (folder, trained["act"]))
    assert (stored["type"], stored["dim_model"], stored["dropout"]) == ("act", 32, 0.0)
    assert {k: v for k, v in first.items() if k not in ("dropout", "pretrained_path")}.items() <= stored.items()
    was, now = (safetensors.torch.load_file(place / "model.safetensors") for place in (trained["act"], folder))
    close = [float((was[key] - now[key]).abs().max()) for key in was if was[key].is_floating_point()]
    assert max(close) < 0.01  # one step away
    head = safetensors.torch.load_file(folder / "lattok_supervised.safetensors")
    assert head["head.weight"].shape == (2 * 8, 32)


def test_a_checkpoint_is_seen_before_anything_is_asked_of_it(plugin, tmp_path):
    """LeRobot 0.6 refuses a `rename_map` where no checkpoint is named, before it looks at the inner policy."""
    kind = importlib.import_module("lerobot_policy_lattok").LattokSupervisedConfig
    (tmp_path / "config.json").write_text("{}")
    named = {name: kind(inner=name, device="cpu").pretrained_path for name in ("act", "org/name", str(tmp_path))}
    assert named == {"act": None, "org/name": Path("org/name"), str(tmp_path): tmp_path}


def test_a_head_that_does_not_fit(trained, annotated, lerobot_dataset, tmp_path):
    kind = kind_of()
    refused("expected a checkpoint of lattok_supervised, with lattok_supervised.json", kind.from_pretrained, tmp_path)
    for path in trained["act"].iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "lattok_supervised.safetensors").unlink()
    refused(r"with lattok_supervised.safetensors, got .*--policy.inner=FOLDER", kind.from_pretrained, tmp_path)
    safetensors.torch.save_file({"head.weight": torch.ones(2)}, tmp_path / "lattok_supervised.safetensors")
    refused(r"the head of la_align \(.*project.weight \[2, 32\].* got head.weight", kind.from_pretrained, tmp_path)
    head = safetensors.torch.load_file(trained["act"] / "lattok_supervised.safetensors")
    head["project.weight"].fill_(torch.nan)
    safetensors.torch.save_file(head, tmp_path / "lattok_supervised.safetensors")
    refused("weights that are sound, got .*project.weight has 64 numbers that are not", kind.from_pretrained, tmp_path)


def test_errors_are_one_line(annotated, lerobot_dataset, point, tmp_path):
    root = point.demonstrations(tmp_path / "plain", 2)
    plain, labelled = lerobot_dataset(root), lerobot_dataset(annotated)
    refused("has no `latent.embedding`, `latent.valid`.*lattok annotate|has no `latent.", fresh, plain)
    refused("`inner`: expected one of .*act.*, or a checkpoint of one .*, got acting", fresh, labelled, "acting")
    refused(r"`inner`: .*a folder with config.json.*, got \S+plain", fresh, labelled, str(root))
    refused("`inner`: .*got lattok. .*--policy.type=lattok --policy.strategy", fresh, labelled, "lattok")
    refused("`inner_options`: expected options of act.*The fields `size`", fresh, labelled, inner_options={"size": 3})
    for strategy, why in (("la_cond", "puts placeholders of its own"), ("baseline", "has no latent loss")):
        refused(f"`strategy`: .*, got {strategy}, which {why}", fresh, labelled, strategy=strategy)
    refused("`strategy`: expected one of baseline", fresh, labelled, strategy="la")
    refused("`tap`: expected the module whose states learn, for vqbet", fresh, labelled, "vqbet", inner_options={})
    refused("`tap`: expected the name of a module of", lambda: fresh(labelled, tap=lerobot_tap("model.head")))
    refused("`horizon`: expected 4", fresh, labelled, strategy="la_tok", inner_options=INNER["act"] | {"chunk_size": 8})
    refused("`labels`: expected labels of the steps that diffusion", fresh, labelled, "diffusion", strategy="la_tok")
    kinds = lerobot("configs.policies").PreTrainedConfig.get_known_choices()
    single = "sac" if "sac" in kinds else "gaussian_actor"  # its name from 0.6 on
    refused("`inner`: expected a policy that predicts chunks of actions", fresh, labelled, single, inner_options={})
    refused("`peft`: expected none for this policy", lambda: fresh(labelled).wrap_with_peft())
    with pytest.raises(LattokError, match="`inner`: expected one of"):  # the last line of what lerobot-train prints
        train(annotated, tmp_path / "run", "acting")


def lerobot_tap(name: str) -> Any:
    return importlib.import_module("lattok.vla").Tap(name)


def test_other_states(annotated, lerobot_dataset):
    """A tap of one's own, and its width where the module does not tell."""
    labelled = lerobot_dataset(annotated)
    policy = fresh(labelled, tap=lerobot_tap("model.decoder.norm"), strategy="la_align")
    assert policy.supervised.loss.dim == 32
    refused(
        r"`dim`: .*`model.encoder_cam_feat_pos_embed` does not tell: --policy.dim=N",
        lambda: fresh(labelled, tap=lerobot_tap("model.encoder_cam_feat_pos_embed")),
    )
    assert fresh(labelled, tap=lerobot_tap("model.encoder_cam_feat_pos_embed"), dim=7).supervised.loss.dim == 7
