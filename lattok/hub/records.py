"""What an artefact says of itself besides its weights, read with care, and its card.

config.json        {"type": ..., "lattok_version": ..., and the fields of the family's configuration}
evaluation.json    {"headline": ..., "dataset": ..., "verdicts": [{"text", "holds", "key"}], "figures": {name: number}}
evaluation.svg     pictures of the same evaluation, for the card
training.json      {"dataset", "split", "episodes": [[first, last], ...], "loop", ...}, or a "mixture" of such

All entries may be missing, and further ones may be there; what is there has the right type.

README.md is the model card, with the facts that the Hub reads at its top. Names, headlines and figures come from
datasets, folders and files: they are shown as text, with any markup they hold. A card ends with a mark and a hash of
what is above it. One without, or with another hash, was written by somebody: it is kept, and goes with the model.
"""

import hashlib
import html
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from packaging.version import Version
from typing_extensions import TypedDict

from lattok.hub.client import HUB_ID
from lattok.utils import checks, files
from lattok.utils.options import check_knows_data, required
from lattok.utils.run_files import RECIPE, RUN, recorded
from lattok.utils.untrusted import Rule, safe_path, typed
from lattok.version import INSTALL, __version__

CONFIG, CARD, TRAINING = "config.json", "README.md", "training.json"
EVALUATION, PICTURE = "evaluation.json", "evaluation.svg"
VERSION = re.compile(r"\d{1,6}(\.\d{1,6})?", re.ASCII)
TAGS = ("robotics", "latent-actions", "latent-action-model", "lattok")
AGAIN = "Copy the file again, or delete it: the model works without it."
MAX_CARD_BYTES = 1 << 20  # bytes of a card, or of its picture
_END = re.compile("_(low|high)/codes$")  # of an interval
LEGEND = "Blue is the model, orange the best control, grey the others. Of curves, black (white on dark) is the truth."
MAX_METRICS = 12  # figures that the Hub lists; the card has all
MARKS = {True: "holds up", False: "falls short", None: "unclear"}
_SPECIAL = re.compile(r"([\\`*\[\]|~#])")
_MARK = "<!-- lattok wrote this card and writes it again as long as nobody changes it: {} -->\n"
_LICENSE = re.compile(r"^license: *([A-Za-z0-9][\w.-]*)[ \r]*$", re.MULTILINE | re.ASCII)


NUMBERS = re.compile(r"b?float\d{0,3}|u?int\d{0,3}|bool", re.ASCII)  # types of columns
Count = Annotated[int, Rule("a whole number of at least 0", lambda it: it >= 0)]
Flat = Annotated[dict[str, str | bool | float | None], Rule("an object of numbers and texts")]
Run = Annotated[list[Count], Rule("[first, last], whole numbers in order", lambda it: len(it) == 2 and it[0] <= it[1])]
Space = Annotated[list[dict[str, Any]], Rule("a list of objects, its parts")]


class VerdictRecord(TypedDict, total=False):
    text: str
    holds: bool | None
    key: str


class EvaluationRecord(TypedDict, total=False):
    headline: str
    dataset: str
    figures: Flat
    verdicts: list[Annotated[VerdictRecord, Rule("an object with `text` and `holds`", {"text", "holds"}.issubset)]]


class InferredRecord(TypedDict, total=False):  # how many episodes had actions that a model inferred
    episodes: Count
    of: Count


class DatasetRecord(TypedDict, total=False):  # a dataset that a model has learned from
    dataset: str
    split: str | None
    weight: float
    fps: Annotated[float, Rule("frames per second between 1e-6 and 1e6", checks.is_frame_rate)]
    action_dtype: Annotated[str, Rule("a type of numbers such as float32", lambda it: bool(NUMBERS.fullmatch(it)))]
    episodes: list[Run]
    action_space: Space
    inferred_actions: Annotated[InferredRecord, Rule("two numbers of episodes", {"episodes", "of"}.issubset)]
    robot_spaces: dict[Literal["actions", "state"], Space]


class LabelsRecord(TypedDict, total=False):  # which samples had labels
    fraction: float
    unit: str
    episodes: str
    per_batch: Count


Several = list[Annotated[DatasetRecord, Rule("an object with a `dataset`", lambda it: "dataset" in it)]]


class TrainingRecord(DatasetRecord, total=False):
    mixture: Several
    earlier: Several
    samples_per_step: Count
    steps_before: Annotated[Count, Rule("at most a billion", lambda it: it <= 10**9)]  # of the model in `init`
    changes: Flat  # of images
    labels: LabelsRecord | None
    loop: Annotated[Flat, Rule("options, of which `seed` is a whole number", lambda it: type(it.get("seed", 0)) is int)]


def read_record(path: Path, kind: type[EvaluationRecord] | type[TrainingRecord]) -> dict[str, Any] | None:
    """Read what a model says of its training or last evaluation; None where it says nothing."""
    return typed(files.read_json(path), kind, "", str(path), AGAIN) if path.is_file() else None


def datasets_of(trained_on: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the datasets that a model has learned from."""
    known = trained_on or {}
    return [entry["dataset"] for entry in known.get("mixture", [known]) if "dataset" in entry]


def inferred_text(trained_on: Mapping[str, Any] | None) -> str:
    """Say how many of the episodes that a model learned from had inferred actions; empty where all were measured."""
    known = trained_on or {}
    found = [each["inferred_actions"] for each in known.get("mixture", [known]) if "inferred_actions" in each]
    counts = [sum(each[name] for each in found) for name in ("episodes", "of")]
    which = f"{counts[0]} of {checks.counted(counts[1], 'episode')} that it learned from"
    return f"The actions of {which} were inferred, not measured" if any(counts) else ""


def plain(text: object) -> str:
    """Turn any text into one line of Markdown that shows it and does nothing else."""
    return _SPECIAL.sub(r"\\\1", html.escape(_line(text), quote=False))


def quoted(text: str) -> str:
    """Return a text as a literal of Python, JSON and YAML, on one line."""
    return json.dumps(_line(text), ensure_ascii=False)


def _line(text: object) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def read_config(folder: Path, argument: str = "model") -> dict[str, Any]:
    """Read config.json of an artefact; check that it is complete, and its version."""
    path = safe_path(folder, folder / CONFIG, f"`{argument}`: {CONFIG}")
    if not path.is_file():
        known = {
            "meta/info.json": "It holds a dataset, for open_dataset.",
            "meta/lattok.json": "It holds labels of a dataset, for open_dataset.",
            f"{RUN}/{RECIPE}": f"Its training has not ended. Resume it: {_resumed(folder)}",
        }
        hint = next((text for name, text in known.items() if (folder / name).is_file()), "")
        checks.fail(argument, f"a folder with {CONFIG}", f"{folder} without it", hint)
    config = files.read_json(path)
    if not isinstance(config.get("type"), str):
        checks.fail(str(path), "an object with `type`", "none", "Is this a lattok artefact?")
    written = config.get("lattok_version", "0")
    found = VERSION.match(written) if isinstance(written, str) else None
    if found is None:
        checks.fail(f"lattok_version` in `{path}", f"a version such as {__version__}", f"{written!r:.60}")
    if Version(found[0]).release > Version(__version__).release[:2]:  # patch releases do not change the format
        expected = f"a config written by lattok {__version__} or older"
        checks.fail(str(path), expected, written, "Upgrade lattok to load it.")
    return config


def _resumed(folder: Path) -> str:
    """Return the command that ends the training in a folder, with KIND where its run does not say that."""
    return shlex.join(["lattok", "train", recorded(folder, "kind") or "KIND", "--out", str(folder), "--resume"])


def parse_config(config_class: Any, raw: Mapping[str, Any], path: Path | str) -> Any:
    """Return the frozen config dataclass from JSON; unknown and missing fields are errors that name them."""
    values = {key: value for key, value in raw.items() if key not in ("type", "lattok_version")}
    if absent := [each.name for each in required(config_class) if each.name not in values]:
        checks.fail(str(path), f"the fields of {config_class.__name__}", f"none of {checks.listed(absent)}")
    config = typed(values, config_class, "", str(path))
    check_knows_data(config)
    return config


def read_picture(path: Path) -> str | None:
    """Read the picture of the last evaluation; None where there is none, or something that is too large for one."""
    if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        return None
    return path.read_text(encoding="utf-8", errors="replace")


def written_by_somebody(path: Path) -> str | None:
    """Return the text of a card that is not as lattok wrote it; None where there is no card, or one of lattok's."""
    if (text := _beginning(path)) is None:
        return None
    body, _, mark = text.removesuffix("\n").rpartition("\n")
    return None if f"{mark}\n" == _signature(f"{body}\n") else text


def _beginning(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:  # a stranger's may be as large as a disk
        return file.read(MAX_CARD_BYTES).decode(errors="replace")


def _signature(text: str) -> str:
    return _MARK.format(hashlib.sha256(text.encode()).hexdigest()[:16])


def license_of(path: Path) -> str | None:
    """Return the licence that a card names; None where there is no card, or it names none."""
    found = _LICENSE.search(divided(_beginning(path) or "")[0])
    return found[1] if found else None


def divided(card: str) -> tuple[str, str]:
    """Divide a card into its facts for the Hub, which may be missing, and its text."""
    before, *parts = card.split("---", 2)
    return (parts[0], parts[1]) if len(parts) == 2 and not before.strip() else ("", card)


def card_of(model: Any, name: str) -> str:
    """Return the card of a `HubModel` of this name: what it is, how to use it, and the last evaluation as a table."""
    several = getattr(model, "datasets", ())  # of which one has to be chosen before it is used
    inferred = inferred_text(model.trained_on)
    what = f"A lattok `{model.type}` model ({type(model).__name__}, {model.size}).{inferred and f' {inferred}.'}"
    lines = ["---", _front(model, name), "---", f"# {plain(name)}", "", what, ""]
    lines += ["```python", f"import lattok  # {INSTALL}", "", f"model = lattok.load({quoted(name)})"]
    lines += [f"model = model.for_dataset({quoted(one)})" for one in several[:1]]
    if len(several) > 1:
        lines.append(f"# or that of {_line(', '.join(several[1:]))}")
    lines += [*model.usage(), "```", "", "## Evaluation", ""]
    judged = model.evaluation and _judged(model.evaluation, model.picture is not None)
    lines += judged or [f"Not evaluated yet: {model.judged_by}."]
    dumped = json.dumps(files.finite(asdict(model.saved_config)), indent=2)
    return signed("\n".join([*lines, "", "## Configuration", "", "```json", dumped, "```", "", ""]))


def signed(text: str) -> str:
    """Return a card with the mark by which it is known to be as lattok wrote it."""
    return text + _signature(text)


def _front(model: Any, name: str) -> str:
    """Return facts for the Hub, with the first figures of the model itself, controls left out."""
    from huggingface_hub import EvalResult, ModelCardData

    evaluation = model.evaluation or {}
    dataset = _line(evaluation.get("dataset") or "unknown")
    known = evaluation.get("figures", {}).items()
    figures = [(key.removesuffix("/codes"), value) for key, value in known if not _END.search(key)]  # of an LAM's codes
    numbers = [(_line(key), value) for key, value in figures if "/" not in key and checks.is_number(value)]
    numbers = [(key, float(f"{value:.6g}")) for key, value in numbers if math.isfinite(value)][:MAX_METRICS]
    results = [EvalResult("robotics", dataset, dataset, key, value, task_name=model.type) for key, value in numbers]
    data = ModelCardData(
        library_name="lattok",
        pipeline_tag="robotics",
        tags=[*TAGS, model.type, *([f"arxiv:{model.arxiv}"] if model.arxiv else [])],
        license=model.license,
        base_model=model.base_model,
        datasets=[one for one in dict.fromkeys(datasets_of(model.trained_on)) if HUB_ID.fullmatch(one)] or None,
        metrics=[key for key, _ in numbers] or None,
        model_name=_line(name) if numbers else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _judged(evaluation: Mapping[str, Any], pictured: bool) -> list[str]:
    lines = [plain(evaluation.get("headline", "")), ""]
    if pictured:
        lines += [f"![Pictures of the evaluation]({PICTURE})", "", LEGEND, ""]
    verdicts = evaluation.get("verdicts", [])
    lines += [*(f"- **{MARKS[verdict['holds']]}**: {plain(verdict['text'])}" for verdict in verdicts), ""]
    lines += ["<details><summary>All figures</summary>", "", "| figure | value |", "|---|---|"]
    for key, value in evaluation.get("figures", {}).items():
        lines.append(f"| {plain(key)} | {plain(f'{value:.4g}' if isinstance(value, float) else value)} |")
    return [*lines, "", "</details>"]
