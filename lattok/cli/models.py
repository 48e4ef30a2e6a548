"""`lattok train`, `presets`, `convert` and `push`: models are made, of published ones too, and published.

A recipe's options are declared once, as fields of its dataclasses. Their types make the flags, their documentation the
help, and the preset the defaults. Only what was typed counts, so flags win over `--config`, and that over the preset.
"""

import inspect
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import lattok
from lattok.cli import flags
from lattok.cli.flags import Arg, Datasets, File, Folder, Format, MaybeFile, Names, Out, Verb
from lattok.utils import checks
from lattok.utils.checks import LattokError, did_you_mean
from lattok.utils.options import as_flags, docs_of
from lattok.utils.output import Output

WIDTH = 100


def train_verb(kind: str, words: Sequence[str]) -> Verb:
    """Return the verb `lattok train KIND`; its help shows what the preset among `words` sets."""
    from lattok.image_lam.base.bottlenecks import BOTTLENECKS
    from lattok.recipes import recipe_of

    recipe_class: Any = recipe_of(kind)
    shown = _defaults(recipe_class, words)
    groups, first = recipe_class.option_groups(), recipe_class.common
    every = {name: option for known in groups.values() for name, option in known.items()}
    parts = {"common": [every[name] for name in first if name in every]}
    for group in ("data", "model", "loop"):
        parts[group] = [every[name] for name in groups[group] if name not in first]
    devices = ("auto", "cpu", "cuda", "mps")
    choices = {"device": devices, "quantizer": [*BOTTLENECKS], **recipe_class.choices}  # words that types do not say
    _, dataset, *run = flags.words_of(_train)
    dataset = dataset._replace(unless=("mix", "config", "resume"))
    listed = [dataset, *(each._replace(group="run") for each in run if each.name != "study" or kind == "vla")]
    for group, options in parts.items():
        for each in options:
            said, names = docs_of(each.owner).get(each.path[-1], ""), choices.get(each.name, ())
            word = flags.word_of(each.name, each.kind, said, shown.get(each.name), names)
            listed.append(word._replace(group=group, more=group != "common"))
    presets = f"Presets: {', '.join(_different(recipe_class))} (default: {recipe_class.default_preset}).\n\n"
    presets *= len(recipe_class.presets) > 1
    example = ["lattok", "train", kind, "path/to/dataset", "--out", "my-model", *as_flags(recipe_class.example)]
    text = f"{recipe_class.about()}\n\n{presets}Example: {shlex.join(example)}"
    return Verb(lambda **values: _train(recipe_class, **values), text=text, listed=listed)


def _train(
    recipe_class: Any,
    dataset: Datasets = (),
    *,
    out: Folder,
    preset: str | None = None,
    config: MaybeFile = None,
    resume: bool = False,
    study: bool = False,
    format: Format = None,
    **given: Any,
) -> None:
    """Train with the options that were typed, and those of a file.

    Args:
        out: New folder for the model and its run.
        preset: Named settings, joined by "+"; `lattok presets` says what each sets.
        config: JSON file with options: flags win over it, it over the preset. The run/recipe.json of a run also names
            its dataset and preset.
        resume: Continue the run in --out.
        study: Train all strategies, and controls, with the same seed and data order, and compare them.
    """
    from lattok.data.opening import in_format
    from lattok.hub.weights import trust_hint
    from lattok.recipes.run_folder import leave_others, read_options

    options, own_preset, own_dataset = read_options(config, recipe_class.kind)
    preset, options = preset or own_preset, recipe_class.over(options, given)
    if format is not None and not dataset:
        checks.fail("format", "a DATASET, whose format it is", repr(format), f"Of a mixture: --mix {format}::PATH:1.0")
    named = [in_format(each, format) for each in dataset]
    if len(named) > 1:
        if "mix" not in recipe_class.option_types() or given.get("mix"):
            checks.fail("dataset", "one folder, file, Hub id or description file", " ".join(dataset))
        options |= {"mix": tuple(f"{each}:1.0" for each in named)}
    one = named[0] if len(named) == 1 else None if options.get("mix") else own_dataset
    if resume:
        recipe = recipe_class.resumed(one, out, preset, options)
    else:
        recipe = recipe_class.from_preset(one, out, preset, **options)
    source = [] if one is None else [one]
    words = ["lattok", "train", recipe_class.kind, *source, "--out", out, "--resume"]
    if study:
        from lattok.recipes.study import train_study

        train_study(recipe, resume, shlex.join([*words, "--study"]))
    else:
        model = lattok.train(recipe, resume=resume, resume_command=shlex.join(words))
        named = trust_hint(getattr(model, "config", None))  # recipes of others may return anything
        print(f"Saved in {out}. {recipe.next_step()}{named}")
    leave_others()


def _defaults(recipe_class: Any, words: Sequence[str]) -> dict[str, Any]:
    """Return the options of the preset that is asked for; that there is no such one is told where the verb runs."""
    split = [word.partition("=") for word in words]
    for (name, equals, value), after in zip(split, [*words[1:], ""], strict=False):
        if name == "--preset":
            with suppress(LattokError):
                return recipe_class.from_preset("DATASET", "OUT", value if equals else after).options()
    return recipe_class.from_preset("DATASET", "OUT").options()


def not_trained(word: str) -> str:
    """How to get what a word names that is no kind: a preset, a strategy or a published model; "" where none is."""
    from lattok.hub.checkpoint import IMPORTERS
    from lattok.recipes import kinds, recipe_of
    from lattok.vla import STRATEGIES

    start = "lattok train {} path/to/dataset --out my-model"
    having = [kind for kind in kinds() if word in getattr(recipe_of(kind), "presets", ())]
    if having:
        typed = f"{start.format(having[0])} --preset {word}"
        return f"It is a preset of {', '.join(having)}: {typed}."
    if (strategy := word.replace("-", "_")) in STRATEGIES:
        return f"It is a strategy of vla: {start.format('vla')} --strategy {strategy}."
    published = [name for name in IMPORTERS if name.startswith(f"{word}-")]
    if published:
        return f"It is a published model: lattok convert {published[0]} FILE my-model."
    return ""


def presets(kind: Annotated[str | None, Arg("KIND", positional=True)] = None) -> None:
    """Say which presets there are and what each of them sets.

    Example: lattok presets image-lam

    Args:
        kind: What is trained, as in `lattok train KIND` (default: all, without what their presets set).
    """
    from lattok.recipes import kinds, recipe_of

    if kind is None:
        for name in kinds():
            print(f"{name:<14} {', '.join(_different(recipe_of(name)))}")
        print("\nWhat each sets: lattok presets KIND")
        return
    recipe_class = recipe_of(kind.replace("_", "-"))
    if recipe_class is None:
        raise LattokError(f"nothing is called `{kind}`. {did_you_mean(kind, kinds()) or 'See lattok presets.'}")
    print(f"{recipe_class.about()}\n")
    for name, options in _different(recipe_class).items():
        default = " (default)" if recipe_class.default_preset in name.split(" = ") else ""
        print(f"{name}{default}")
        said = shlex.join(as_flags(options)) or "nothing but the defaults of lattok train --help"
        print(textwrap.fill(said, WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False))
    if recipe_class.default_preset not in recipe_class.presets:
        print(f"\nDefault: {recipe_class.default_preset}")


def _different(recipe_class: Any) -> dict[str, Mapping[str, Any]]:
    """Return what presets set, each once: names of equal ones are joined."""
    known = recipe_class.presets
    return {" = ".join(name for name in known if known[name] == options): options for options in known.values()}


def convert_verb(name: str) -> Verb:
    """Return the verb `lattok convert NAME`: its options are the keywords of the importer."""
    from lattok.hub.checkpoint import IMPORTERS

    importer = IMPORTERS[name]
    about = (inspect.getdoc(importer.read) or "").partition("\n")[0]
    _, *listed = flags.words_of(_convert)
    _, *options = flags.words_of(importer.read)
    listed += [each._replace(group="model") for each in options]
    text = f"{about}\n\nExample: {importer.example}"
    return Verb(lambda **values: _convert(importer, **values), text=text, listed=listed)


def _convert(importer: Any, file: File, out: Out, **model: Any) -> None:
    from lattok.hub import OWN
    from lattok.hub.weights import trust_hint

    place = Output(Path(out).expanduser())
    place.check_new()
    converted = importer.read(file, **model)
    bound = inspect.signature(importer.read).bind(file, **model)
    bound.apply_defaults()
    (_, *known) = bound.arguments.items()
    given = [f"{option} {flags.text_of(value)}" for option, value in known if value not in (None, (), {})]
    print(f"Found: {converted.summary()}; taken as given: {', '.join(given)}.")
    if importer.mind:
        print(importer.mind.replace("`", ""))
    with place.filled(OWN):
        converted.save_pretrained(place.place)
    print(f"Saved in {out}. {converted.next_step(out)}{trust_hint(converted.config)}")


def push(
    folder: Annotated[str, Arg("DIR", positional=True)],
    repo_id: Annotated[str, Arg("ORG/NAME", positional=True)],
    private: bool = False,
    license: str | None = None,
    message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    include: Names = (),
    dry_run: bool = False,
) -> None:
    """Publish a model or an annotated dataset on the Hub, with its card. Log in before (`hf auth login`).

    Example: lattok push my-lam my-name/my-lam --license apache-2.0

    Args:
        folder: Folder of a model, of a LeRobot dataset, or of labels that annotate wrote for another dataset.
        repo_id: Name on the Hub.
        private: Make the repository private.
        license: Short name of a licence for the card, such as apache-2.0.
        message: Message of the commit.
        revision: Branch, created if it does not exist.
        create_pr: Open a pull request instead.
        include: Further files of a dataset's folder, by their paths in it; otherwise only the dataset is uploaded.
        dry_run: Say what would be sent, and send nothing.
    """
    from lattok.labels.sharing import listing

    options: dict[str, Any] = {"license": license, "commit_message": message, "revision": revision}
    options |= {"create_pr": create_pr, "private": private or None, "dry_run": dry_run}
    if (Path(folder) / "report.json").is_file():
        hint = "Push the model: its card says what its last evaluation gave."
        checks.fail("folder", "that of a model, a dataset or labels", f"{folder}, which holds a report", hint)
    if (Path(folder) / "meta").is_dir():
        if not dry_run:
            print(listing(folder, include).report(), flush=True)  # before anything is sent
        print(lattok.push_dataset(folder, repo_id, include=include, **options))
    elif include:
        checks.fail("include", "to be left out: a model goes up with its own files", " ".join(include))
    else:
        print(lattok.load(folder).push_to_hub(repo_id, **options))
