"""The command line: one verb per job, no logic of its own. Imports wait until a verb runs, so that help is quick."""

from __future__ import annotations

import errno
import io
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.conf import Positional, UseAppendAction, arg
from tyro.extras import SubcommandApp

import lattok
from lattok import checks, signals
from lattok.checks import LattokError, known_keys
from lattok.command_hints import hint_for

app = SubcommandApp()
train_app = SubcommandApp()
convert_app = SubcommandApp()
WINDOWS = ("action_key", "state_key", "cameras", "episodes", "stride", "horizon")
CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
Number = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Dataset = Annotated[Positional[str], arg(metavar="DATASET", help="Folder, file, Hub id or description file (*.json).")]
MaybeDataset = Annotated[
    Positional[str | None],
    arg(metavar="DATASET", help="Folder, description file (*.json) or Hub id.", help_behavior_hint=""),
]


@dataclass(frozen=True)
class Reading:
    """What to read and where to compute. Left out: the preset's or the model's own choice."""

    action_key: Text = None
    """Column with the actions (default: action)."""
    state_key: Text = None
    """Column with the robot state, used as a control (default: observation.state)."""
    cameras: Annotated[tuple[str, ...] | None, arg(metavar="NAME ...", help_behavior_hint="")] = None
    """Cameras in order, short names allowed (default: all)."""
    episodes: Text = None
    """"train", "test" (the last episode of every task), "0:40" or "0,3,5:9"."""
    stride: Text = None
    """Gap of a frame pair: frames ("16") or seconds ("0.2s")."""
    horizon: Number = None
    """Steps of an action chunk."""
    batch_size: Number = None
    """Samples per step."""
    device: Text = None
    """auto, cpu, cuda or mps."""
    config: Text = None
    """JSON file with options; flags win over it."""

    def given(self) -> dict[str, Any]:
        """Flags that were given."""
        flags = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "config"}
        return {name: value for name, value in flags.items() if value is not None}

    def options(self, uses: tuple[str, ...]) -> dict[str, Any]:
        """What a verb that only reads was given, by file and flags, checked; a note for what it has no use for."""
        if self == Reading():
            return {}  # without the seconds that importing all recipes takes
        from lattok.recipes.common import read_options, typed

        hints = get_type_hints(Reading)
        merged = {**read_options(self.config)[0], **self.given()}
        known_keys("config", merged, sorted(hints.keys() - {"config"}))
        _note_unused(set(self.given()) - set(uses))
        return {name: typed(name, value, hints[name]) for name, value in merged.items()}


@dataclass(frozen=True)
class Training:
    """How to train."""

    out: Annotated[str, arg(metavar="DIR")]
    """New folder for the model and its run."""
    steps: Number = None
    """Training steps (default: the preset's)."""
    seed: Number = None
    """Seed of everything random (default: 0)."""
    preset: Text = None
    """Named settings, joined by "+"."""
    features: Text = None
    """Frozen features of an image model: pixels, timm:MODEL or hf:MODEL."""
    resume: bool = False
    """Continue the run in --out."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE", help_behavior_hint="")] = ()
    """Any other option of the model, the data or the loop; may be repeated."""


@dataclass(frozen=True)
class MixTraining(Training):
    """How to train, and on several datasets."""

    mix: Annotated[tuple[str, ...], arg(metavar="DATASET:WEIGHT ...", help_behavior_hint="")] = ()
    """Several datasets and the share of the samples that each gives, in place of DATASET: data/a:1.0 data/b:0.5."""


@dataclass(frozen=True)
class LAMTraining(MixTraining):
    """How to train, and from which earlier models."""

    stage: Annotated[int | None, arg(metavar="1|2", help_behavior_hint="")] = None
    """1: environment codes, from instructions; 2: controllable codes in addition (default: all in one stage)."""
    env_codebook: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Model of stage 1, for stage 2."""
    init: Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="")] = None
    """Model to fine-tune, a folder or a Hub id; its architecture stays."""
    feature_cache: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder that keeps frozen features, for this run and others (default: computed at every step)."""


@dataclass(frozen=True)
class VLATraining(Training):
    """How to train a policy."""

    strategy: Text = None
    """baseline, ph_direct, ph_cond, la_align, la_direct, la_cond, la_tok, la_direct_c or la_tok_c."""
    backbone: Text = None
    """Vision-language model: Hub id or folder (default: Qwen/Qwen3-VL-2B-Instruct), or scratch: a small one."""
    prefix: Text = None
    """Prefix of the label columns (default: the only one that fits the strategy)."""
    labels: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of labels for the dataset, as annotate wrote it."""
    tokenizer: Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="")] = None
    """Action tokenizer that labels while la_tok trains, in place of label columns."""
    study: bool = False
    """Train all strategies, and controls, with the same seed and data order, and compare them."""


@dataclass(frozen=True)
class LAMFacts:
    """What the file of a latent action model does not hold; left out: as published."""

    heads: Annotated[int, arg(metavar="N")] = 12
    """Attention heads."""
    cameras: Annotated[tuple[str, ...], arg(metavar="NAME")] = ("image",)
    """The one camera that the model shall look at in datasets, short name allowed."""
    stride: Annotated[str, arg(metavar="TEXT")] = "32"
    """Gap of a frame pair: frames ("32") or seconds ("0.2s")."""
    features: Annotated[str, arg(metavar="TEXT")] = "timm:vit_base_patch14_reg4_dinov2.lvd142m"
    """Frozen features the model was trained on."""
    features_revision: Text = None
    """Revision of features from the Hub."""
    image_size: Annotated[int, arg(metavar="N")] = 224
    """Side of the frames in pixels."""
    language: Annotated[str, arg(metavar="TEXT")] = "t5:google-t5/t5-base"
    """Text encoder of a stage-1 model: t5:MODEL or precomputed."""
    features_out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """New folder for the image backbone in the file; the model then uses that, at this place, and needs no download."""


@app.command(name="demo")
def demo(
    out: str = "lattok-demo",
    features: str = "pixels",
    seed: int = 0,
    fast: bool = False,
    device: str = "auto",
) -> None:
    """The whole path on the bundled robot demonstrations: train, judge, annotate. A few minutes on one core.

    Example: lattok demo --out my-demo

    Args:
        out: Folder for models, reports and the annotated dataset. Run again with the same folder to continue.
        features: Frozen image features: pixels, or timm:MODEL such as timm:vit_small_patch14_reg4_dinov2.lvd142m.
        seed: Seed of everything random.
        fast: A few steps only, to see that it runs; the figures then mean nothing.
        device: auto, cpu, cuda or mps.
    """
    _load_everything()
    from lattok.recipes.demo import run_demo

    run_demo(Path(out), features=features, seed=seed, fast=fast, device=device)


@app.command(name="inspect")
def inspect_(dataset: Dataset, reading: Reading = Reading()) -> None:
    """Say what a dataset holds and what in it will hurt: constant dimensions, outliers, missing videos, wrong rates.

    Example: lattok inspect path/to/dataset
    """
    _load_everything("lattok.doctor.inspecting")  # no models: in half the time
    from lattok.doctor.inspecting import inspect_verb

    inspect_verb(dataset, reading.options(WINDOWS))


TRAIN = {  # verb: (recipe, its flags, what it does, options of its example)
    "action-vq": (
        "ActionVQRecipe",
        MixTraining,
        "Train the paper's tokenizer, one code per step. Presets: p2t (default), libero, robotwin, jaka or quick.",
        "--preset quick",
    ),
    "fast": (
        "FASTRecipe",
        Training,
        "Fit FAST: frequencies in byte-pair codes, of different lengths.",
        "--set scale=10",
    ),
    "residual-vq": (
        "ResidualVQRecipe",
        Training,
        "Fit residual codes of whole chunks, coarse to fine.",
        "--set tokens=8",
    ),
    "fsq": ("FSQRecipe", Training, "Train finite-scalar codes of whole chunks, coarse to fine.", "--set tokens=8"),
    "uniform-bins": (
        "UniformBinsRecipe",
        Training,
        "Fit uniform bins: one code per step and dimension.",
        "--set bins=64",
    ),
    "vla": (
        "VLARecipe",
        VLATraining,
        "Train a policy, with or without latent actions. Presets: libero (default), robotwin, jaka, scratch.",
        "--strategy la_direct --backbone scratch",
    ),
    "image-lam": (
        "ImageLAMRecipe",
        LAMTraining,
        "Train a latent action model of video. Presets: full, small, tiny, with p2t or robust, and flow.",
        "--preset tiny+robust --features pixels",
    ),
}


def _add_train_verb(verb: str, recipe: str, flags: type[Training], text: str, example: str) -> None:
    def train_verb(training: Training, dataset: MaybeDataset = None, reading: Reading = Reading()) -> None:
        _load_everything()
        _train(getattr(import_module("lattok.recipes"), recipe), dataset, training, reading)

    train_verb.__annotations__["training"] = flags
    train_verb.__doc__ = f"{text}\n\nExample: lattok train {verb} path/to/dataset --out my-model {example}"
    train_app.command(name=verb)(train_verb)


for _verb, _facts in TRAIN.items():
    _add_train_verb(_verb, *_facts)
app.command(train_app, name="train", help="Train an action tokenizer, a latent action model or a policy (vla).")


@app.command(name="evaluate")
def evaluate(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    dataset: Dataset,
    out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None,
    controls: str = "quick",
    seed: int = 0,
    revision: Text = None,
    reading: Reading = Reading(),
) -> None:
    """Judge a tokenizer or latent action model on held-out episodes, with controls: report.json and report.html.

    Example: lattok evaluate my-lam path/to/dataset --out my-report --controls trained

    Args:
        model: Folder of a model, or a Hub id.
        out: Folder for the report (default: report/ in the model's folder).
        controls: quick, or trained: also train the same encoder on labels alone, and a decoder without latents.
        seed: Seed of the controls.
        revision: Revision of a Hub model.
    """
    _load_everything()
    from lattok.recipes.verbs import evaluate_verb

    evaluate_verb(model, dataset, out, controls, seed, revision, reading.options((*WINDOWS, "device")))


@app.command(name="doctor")
def doctor(
    subjects: Annotated[Positional[tuple[str, ...]], arg(metavar="[MODEL|DATASET ...]")] = (),
    revision: Text = None,
) -> int:
    """Say what is wrong with this machine, with models and with datasets, and what to do about it. Changes nothing.

    Example: lattok doctor my-lam path/to/dataset

    Args:
        subjects: Folders or Hub ids of models and datasets; none for the environment only.
        revision: Revision of a Hub model or dataset.
    """
    from lattok.doctor import diagnose

    diagnosis = diagnose(subjects, revision)
    print(diagnosis.render())
    return 0 if diagnosis.healthy else 1


@dataclass(frozen=True)
class Engines:
    """Where labels are computed; they are the same everywhere."""

    engine: str = "local"
    """local, or ray: the processes of this machine or of a cluster."""
    address: Text = None
    """Running Ray cluster, such as auto or ray://host:10001 (default: Ray starts here)."""
    workers: Number = None
    """Workers (default: as many as there is room for)."""
    cpus_per_worker: float = 1
    """Cores of a worker."""
    gpus_per_worker: float = 0
    """GPUs of a worker; a fraction lets workers share one."""


@app.command(name="annotate")
def annotate(
    dataset: Dataset,
    model: Annotated[tuple[str, ...], arg(metavar="MODEL ...")],
    out: Annotated[str, arg(metavar="DIR")],
    prefix: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = (),
    revision: Text = None,
    embedding: bool = True,
    quantized: bool = False,
    precision: str = "float32",
    backend: str = "torch",
    threads: int = 1,
    engines: Engines = Engines(),
    reading: Reading = Reading(),
) -> int:
    """Label a dataset with latent actions: a copy with more columns, or a folder of labels where it is not LeRobot v3.

    Example: lattok annotate path/to/dataset --model my-lam --out annotated

    Args:
        model: One or more models (folders or Hub ids).
        out: New folder. Run again to continue after an interruption, or to fill gaps once files are repaired.
        prefix: Column prefix of each model (default: latent for the only one).
        revision: Revision of a Hub model.
        embedding: Leave out the latents before quantization (they are written by default).
        quantized: Also write the quantized vectors.
        precision: float32, or bfloat16: faster, a few codes differ; for models of video.
        backend: torch, or onnxruntime: faster in float32 on CPUs where torch is slow; for models of video.
        threads: Threads of torch on a CPU; part of the result, since sums in another order round differently.
    """
    _load_everything()
    from lattok.annotation import Options
    from lattok.recipes.label_verbs import annotate_verb, make_engine

    where = (engines.engine, engines.address, engines.workers, engines.cpus_per_worker, engines.gpus_per_worker)
    result = annotate_verb(
        dataset,
        model,
        out,
        prefix,
        revision=revision,
        options=Options(embedding, quantized, threads=threads),
        reading=reading.options((*WINDOWS, "device")),
        backend=backend,
        precision=precision,
        engine=make_engine(*where),
    )
    return 0 if result.complete else 1


@app.command(name="verify")
def verify(
    dataset: Dataset,
    model: Annotated[tuple[str, ...], arg(metavar="MODEL ...")],
    prefix: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = (),
    labels: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None,
    sample: int = 20,
    seed: int = 0,
    revision: Text = None,
    device: str = "auto",
) -> int:
    """Make a random sample of labels again: do they come from this model, with this preprocessing, code for code?

    Example: lattok verify annotated --model my-lam

    Args:
        model: The models (folders or Hub ids), in the order of --prefix.
        prefix: Column prefix of each model (default: latent for the only one).
        labels: Folder of labels for a dataset of another format than LeRobot v3, as annotate wrote it.
        sample: Episodes to label again.
        seed: Which episodes are drawn.
        revision: Revision of a Hub model.
        device: auto, cpu, cuda or mps.
    """
    _load_everything()
    from lattok.recipes.label_verbs import verify_verb

    return 0 if verify_verb(dataset, model, prefix, labels, sample, seed, revision, device) else 1


@app.command(name="export")
def export_(
    dataset: Dataset,
    out: Annotated[str, arg(metavar="DIR")],
    labels: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None,
    episodes: Text = None,
    images: str = "auto",
    video_codec: str = "libsvtav1",
    size: Annotated[tuple[int, int] | None, arg(metavar="H W", help_behavior_hint="")] = None,
    skip_damaged: bool = False,
) -> None:
    """Write a dataset of any format as LeRobot v3, together with its labels.

    Example: lattok export path/to/dataset --out exported --labels path/to/labels

    Args:
        out: New folder for the dataset.
        labels: Labels that `lattok annotate` wrote for a dataset of another format.
        episodes: "train", "test" (the last episode of every task), "0:40" or "0,3,5:9".
        images: auto (keep stored JPEG and PNG as they are, else video), video, or image (all frames, without loss).
        video_codec: libsvtav1 or h264.
        size: Height and width to resize all frames to; needed where they differ in size.
        skip_damaged: Leave out episodes that cannot be read, and say which.
    """
    _load_everything()
    from lattok.recipes.verbs import export_verb

    export_verb(dataset, out, labels, episodes, images, video_codec, size, skip_damaged)


@convert_app.command(name="p2t-action-vq")
def convert_p2t_action_vq(
    file: Annotated[Positional[str], arg(metavar="FILE")],
    out: Annotated[Positional[str], arg(metavar="OUT")],
    horizon: Annotated[int, arg(metavar="H")],
    heads: Annotated[int, arg(metavar="N")] = 4,
    dilations: Annotated[tuple[int, ...], arg(metavar="N ...")] = (1, 2, 4),
    statistics: Text = None,
    normalize: Text = None,
    action_names: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = (),
    action_kind: str = "unspecified",
) -> None:
    """Convert a published action tokenizer (P2T, tokenizer_step_N.pt or safetensors).

    Example: lattok convert p2t-action-vq tokenizer_step_50000.pt my-tokenizer --horizon 8

    Args:
        file: The checkpoint. Nothing in it is run; a file that holds anything but tensors is refused.
        out: New folder for the model.
        horizon: Steps of an action chunk; the file does not hold it (8 on LIBERO, 25 on RoboTwin, 20 on JAKA).
        heads: Attention heads; the file does not hold it.
        dilations: Dilation of each convolution; the file does not hold it.
        statistics: JSON file with the statistics that actions were normalised with in training: mean and std, q01
            and q99, or min and max, one number per dimension; or meta/stats.json of a LeRobot dataset. Left out,
            actions are taken as they are.
        normalize: Which of several statistics: mean_std, quantile or min_max (default: the first that is there).
        action_names: Names of the action dimensions, for reports.
        action_kind: relative, absolute or unspecified.
    """
    _load_everything()
    from lattok.convert import convert_p2t_action_vq as verb

    facts = {"horizon": horizon, "heads": heads, "dilations": dilations, "action_names": action_names}
    verb(file, out, **facts, action_kind=action_kind, statistics=statistics, normalize=normalize)


@convert_app.command(name="p2t-image-lam")
def convert_p2t_image_lam(
    file: Annotated[Positional[str], arg(metavar="FILE")],
    out: Annotated[Positional[str], arg(metavar="OUT")],
    action_dim: Annotated[int, arg(metavar="M")] = 7,
    facts: LAMFacts = LAMFacts(),
) -> None:
    """Convert a published latent action model of P2T, stage 1 or 2 (Lightning checkpoint or safetensors).

    Example: lattok convert p2t-image-lam last.ckpt my-lam --stride 11

    Args:
        file: The checkpoint. Nothing in it is run; weights that are anything but tensors are refused.
        out: New folder for the model.
        action_dim: Dimensions of the action head, which is checked and left out.
    """
    _load_everything()
    from lattok.convert import convert_p2t_image_lam as verb

    verb(file, out, action_dim=action_dim, **vars(facts))


@convert_app.command(name="univla-lam")
def convert_univla_lam(
    file: Annotated[Positional[str], arg(metavar="FILE")],
    out: Annotated[Positional[str], arg(metavar="OUT")],
    facts: LAMFacts = LAMFacts(),
) -> None:
    """Convert UniVLA's latent action model, stage 1 or 2 (lam-stage-1.ckpt, lam-stage-2.ckpt or safetensors).

    Example: lattok convert univla-lam lam-stage-2.ckpt my-lam

    Args:
        file: The checkpoint. Nothing in it is run; weights that are anything but tensors are refused.
        out: New folder for the model.
    """
    _load_everything()
    from lattok.convert import convert_univla_lam as verb

    verb(file, out, **vars(facts))


@convert_app.command(name="p2t-vla")
def convert_p2t_vla(
    file: Annotated[Positional[str], arg(metavar="FILE")],
    out: Annotated[Positional[str], arg(metavar="OUT")],
    horizon: Annotated[int, arg(metavar="H")],
    heads: Annotated[int, arg(metavar="N")] = 8,
    image_tokens: Annotated[int, arg(metavar="N")] = 512,
    lora_alpha: Annotated[float, arg(metavar="X")] = 16,
    base_model: Annotated[str, arg(metavar="MODEL")] = "Qwen/Qwen3-VL-2B-Instruct",
    backbone_out: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None,
) -> None:
    """Convert a published policy (P2T): its own modules, its LoRA for peft, and a report of what LatentVLA cannot hold.

    Example: lattok convert p2t-vla vla_step_80000.pt released --horizon 8

    Args:
        file: The checkpoint. Nothing in it is run; a file that holds anything but tensors is refused.
        out: New folder for the modules, adapter/ and conversion.json.
        horizon: Steps of an action chunk; the file does not hold it (8 on LIBERO, 25 on RoboTwin, 20 on JAKA).
        heads: Attention heads of the action head; the file does not hold it.
        image_tokens: Tokens that the action head takes for image tokens.
        lora_alpha: Alpha of the adapter; the file does not hold it.
        base_model: Language model that the adapter is for.
        backbone_out: New folder for the language model's weights, adapter merged, where the file holds them.
    """
    _load_everything()
    from lattok.convert import convert_p2t_vla as verb

    facts = {"horizon": horizon, "heads": heads, "image_tokens": image_tokens, "lora_alpha": lora_alpha}
    verb(file, out, backbone_out, **facts, base_model=base_model)


app.command(convert_app, name="convert", help="Convert a published checkpoint into a lattok model.")


@app.command(name="push")
def push(
    folder: Annotated[Positional[str], arg(metavar="DIR")],
    repo_id: Annotated[Positional[str], arg(metavar="ORG/NAME")],
    private: bool = False,
    license: Text = None,
    message: Text = None,
    revision: Text = None,
    create_pr: bool = False,
) -> None:
    """Publish a model on the Hub, with its model card. Log in before (`hf auth login`), or set HF_TOKEN.

    Example: lattok push my-lam my-name/my-lam --license apache-2.0

    Args:
        folder: Folder of a model.
        repo_id: Name on the Hub.
        private: Make the repository private.
        license: Short name of a licence for the card, such as apache-2.0.
        message: Message of the commit.
        revision: Branch; it is made where it is not there.
        create_pr: Open a pull request instead.
    """
    options = {"license": license, "commit_message": message, "revision": revision, "create_pr": create_pr}
    print(lattok.load(folder).push_to_hub(repo_id, private=private or None, **options))


def _train(recipe_class: Any, dataset: str | None, training: Training, reading: Reading) -> None:
    from lattok.recipes import train
    from lattok.recipes.common import parse_settings, read_options

    steering = ("out", "preset", "resume", "set", "study")
    own = {name: value for name, value in vars(training).items() if name not in steering}
    flags = {**reading.given(), **{name: value for name, value in own.items() if value not in (None, ())}}
    idle = {"image-lam": {"state_key"}, "vla": {"stride"}}.get(recipe_class.kind, {"state_key", "cameras"})
    unused = set(flags) & (idle | {n for n in flags if n not in recipe_class.option_types()})
    _note_unused(unused)
    stored, preset = read_options(reading.config)
    used = {name: value for name, value in flags.items() if name not in unused}
    options = {**stored, **used, **parse_settings(training.set)}
    preset = training.preset or preset
    if training.resume:
        recipe = recipe_class.resumed(dataset, training.out, preset, options)
    else:
        recipe = recipe_class.from_preset(dataset, training.out, preset, **options)
    source = [] if dataset is None else [dataset]
    words = ["lattok", "train", recipe_class.kind, *source, "--out", training.out, "--resume"]
    if getattr(training, "study", False):
        from lattok.recipes.study import train_study

        train_study(recipe, training.resume, shlex.join([*words, "--study"]))
        return
    train(recipe, training.resume, resume_command=shlex.join(words))
    print(f"Saved in {training.out}. {recipe.next_step()}")


def _load_everything(needed: str = "lattok.recipes.demo") -> None:
    """Import what verbs need. Ctrl-C in the middle of torch's own imports is swallowed or mangled, so it ends us."""
    with signals.ending("\nlattok: interrupted; run the same command again\n"):
        import_module(needed)


def _note_unused(names: set[str]) -> None:
    """Every verb takes the same flags, so that scripts can share them; one without effect is mentioned."""
    for name in sorted(names):
        print(f"note: --{name.replace('_', '-')} has no effect here", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Exit code 1: a finding, such as labels that differ; 2: bad input, in one line; 128 + the signal's
    number: Ctrl-C (130), SIGTERM (143), SIGHUP (129), after saving."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"lattok {lattok.__version__}")
        return 0
    _say_anything()
    if wrong := _unreadable(arguments) or hint_for(arguments, _train_flags(), _train_options):
        print(f"lattok: {wrong}", file=sys.stderr)
        return 2
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin for one another starve on a busy machine
    run: Callable[..., Any] = app.cli
    try:
        with signals.raising():
            code = run(prog="lattok", description=_description(), args=arguments or ["--help"], config=CONFIG)
            if sys.stdout is not None:
                sys.stdout.flush()
    except LattokError as error:
        print(f"lattok: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\nlattok: {str(stop) or 'interrupted; run the same command again'}", file=sys.stderr)
        return 128 + signals.number_of(stop)
    except (MemoryError, RuntimeError) as error:
        if not checks.out_of_memory(error):
            raise
        print("lattok: out of memory. Close other programs, or take fewer episodes at a time.", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stdout = None  # the reader left; nothing to say to it
        return 0
    except OSError as error:
        print(f"lattok: {_of_system(error, arguments)}", file=sys.stderr)
        return 2
    return code or 0  # a verb that found something wrong says so


def _of_system(error: OSError, arguments: list[str]) -> str:
    """What the system refused: a file, or, without a name, our own output."""
    why = error.strerror or str(error)
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF):
        sys.stdout = None  # nothing more can be said there
        return f"cannot write what there is to say: {why}."
    writes = any(word == "--out" or word.startswith("--out=") for word in arguments) or arguments[:1] == ["demo"]
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{why}." + (" Free space or choose another --out." if writes else "")


def _say_anything() -> None:
    """A terminal or a file that knows no `×` gets a `?`, rather than ending the verb."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _unreadable(arguments: list[str]) -> str:
    """Names that are not UTF-8 cannot stand in the JSON and HTML that verbs write."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = word.encode(errors="replace").decode()
            return f"`{shown}`: expected text in UTF-8, got other bytes. Rename it, or make a link with a plain name."
    return ""


def _train_flags() -> dict[str, list[str]]:
    return {verb: [f.name for part in (facts[1], Reading) for f in fields(part)] for verb, facts in TRAIN.items()}


def _train_options(verb: str) -> list[str]:
    return sorted(getattr(import_module("lattok.recipes"), TRAIN[verb][0]).option_types())


def _description() -> str:
    return f"lattok {lattok.__version__}: latent-action tokenizers for robot learning. Start with: lattok demo"
