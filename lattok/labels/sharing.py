"""Datasets with labels on the Hub: a LeRobot dataset or a folder of labels, and a card that says how they were made."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import Unpack

from lattok.data.opening import open_dataset
from lattok.data.schema import PROVENANCE, RobotDataset
from lattok.hub import CARD, client
from lattok.hub.records import HUB_ID, TAGS, divided, license_of, plain, quoted, signed, written_by_somebody
from lattok.labels.sidecar import Sidecar
from lattok.labels.spec import INFO, provenance_of
from lattok.utils import checks, files
from lattok.utils.untrusted import inside, walk
from lattok.version import INSTALL, __version__

# in meta/, of LeRobot and of our own: what a dataset is, and where its frames, actions and labels come from
META = ("info.json", "stats.json", "tasks.parquet", "subtasks.parquet")
META += ("tasks.jsonl", "episodes.jsonl", "episodes_stats.jsonl")  # of LeRobot v2
META += ("action_space.json", "export.json", "lattok.json", "metaworld.json", "simulation.json")
REPLACED = ("data/*", "labels/*", "meta/*", "videos/*")  # of an earlier push
SHOWN = 20  # of the files that stay
OURS = re.compile(r"\blattok\b")
MEANING = {
    "codes": "codes of the latent action",
    "embedding": "latent vectors before quantization, one after the other",
    "quantized": "latent vectors after quantization, one after the other",
    "valid": "whether the frame has a label",
}


class Listing(NamedTuple):
    sent: list[str]  # by their paths in the folder
    left: list[str]
    size: int  # bytes that are sent

    def report(self) -> str:
        """Say what goes up, by folder, and what does not."""
        parts = Counter(name.split("/")[0] for name in self.sent if "/" in name)
        alone = sorted(name for name in self.sent if "/" not in name)
        shown = ", ".join([*alone, *(f"{name}/ ({count})" for name, count in sorted(parts.items()))])
        text = f"Goes up: {shown}; {self.size / 1e6:,.3g} MB."
        if self.left:
            more = f" and {len(self.left) - SHOWN} more" if len(self.left) > SHOWN else ""
            text += f"\nStays here: {checks.listed(self.left[:SHOWN])}{more}. `include` takes a file along."
        return checks.printable(text)


def push_dataset(
    folder: str | os.PathLike[str], repo_id: str, *, include: Sequence[str] = (), **options: Unpack[client.PushOptions]
) -> str:
    """Upload a LeRobot dataset, or the labels that `annotate` wrote for another one; return the address.

    It uploads the card, the dataset's own files in meta/, and the files that hold its episodes or labels: see
    `listing`. `include` names further files, by their paths in the folder.

    `options` are those of a model's `push_to_hub`. A dataset card is written as README.md. An existing card stays below
    it; one with the tag `lattok` is kept as it is. A LeRobot dataset gets the tag of its version, which LeRobot asks
    for. Raises `LattokError` where a link in the folder leads out of it, or to a hidden file, which would be uploaded.
    """
    client.check_push(repo_id, options)
    root = Path(folder).expanduser()
    subject = _subject(root)
    found = listing(root, include)
    if options.get("dry_run"):
        return f"Nothing was sent. {found.report()}"
    version = None if isinstance(subject, Sidecar) else files.read_json(root / INFO)["codebase_version"]

    def prepare(repo: str) -> Path:
        before = written_by_somebody(root / CARD)
        if before is None or not OURS.search(divided(before)[0]):
            named = options.get("license") or license_of(root / CARD)
            files.write_text(root / CARD, signed(_card(subject, repo, named, before)))
        return root

    message, tag = f"lattok {__version__}: dataset with latent actions", None if version is None else str(version)
    return client.push(repo_id, prepare, message, options, REPLACED, "dataset", only=found.sent, tag=tag)


def listing(folder: str | os.PathLike[str], include: Sequence[str] = ()) -> Listing:
    """Return what `push_dataset` sends of this folder."""
    root = Path(folder).expanduser()
    subject = _subject(root)
    if isinstance(subject, Sidecar):
        own = {subject.file_of(index) for index in subject.episodes}
    else:
        own = {path for episode in subject.episodes for path in subject.files_of(episode.index)}
        own |= {*(subject.root / "meta" / "episodes").rglob("*.parquet")}
    names = {path.relative_to(subject.root) for path in own} | {Path("meta") / name for name in META} | {Path(CARD)}
    for name in include:
        if not inside(root, name, "`include`").is_file():
            checks.fail("include", f"files in {root}", repr(name)[:200])
        names.add(Path(name))
    there = list(walk(root, lambda path: path.name.startswith(".")))  # refuses links that leave it
    found = [path for path in there if path in names]
    top = Path(os.path.realpath(root))
    for path in found:  # hidden files and folders never go up, not by links either
        real = Path(os.path.realpath(root / path))
        names_there = real.relative_to(top).parts if real.is_relative_to(top) else (real.name,)
        if any(name.startswith(".") for name in names_there):
            checks.fail("folder", "links to files that are not hidden", f"{path}, which leads to {real}", "Remove it.")
    size = sum((root / path).stat().st_size for path in found)
    return Listing(sorted({*map(Path.as_posix, found), CARD}), [str(path) for path in there if path not in names], size)


def _subject(root: Path) -> RobotDataset | Sidecar:
    """Open what lies there: a LeRobot dataset or labels."""
    if (root / INFO).is_file():
        return open_dataset(root)
    if (root / PROVENANCE).is_file():
        return Sidecar(root)
    hint = "Push the labels that lattok annotate wrote, or what lattok export makes of a dataset."
    return checks.fail("folder", "a LeRobot dataset or labels on this machine", repr(os.fspath(root)), hint)


def _card(subject: RobotDataset | Sidecar, name: str, license: str | None, before: str | None) -> str:
    """Return what the dataset is, how to read it, and how its labels were made; below that the card of `before`."""
    sidecar = isinstance(subject, Sidecar)
    labels = subject.provenance if sidecar else provenance_of(subject)
    sources = sorted({entry["dataset"]["name"] for entry in labels.values() if "name" in entry.get("dataset", {})})
    tags = TAGS if sidecar else (*TAGS, "LeRobot")
    lines = ["---", "task_categories: [robotics]", f"tags: [{', '.join(tags)}]"]
    if license:
        lines.append(f"license: {license}")
    if found := [source for source in sources if HUB_ID.fullmatch(source)]:
        lines += ["source_datasets:", *(f"- {source}" for source in found)]
    lines += ["configs:", "- config_name: default"]
    lines += [f"  data_files: {'labels/*.parquet' if sidecar else 'data/*/*.parquet'}", "---"]
    frames = sum(subject.lengths if sidecar else (episode.length for episode in subject.episodes))
    rate = "" if sidecar else f" at {subject.fps:g} frames a second"
    made = ", with latent actions by lattok" if labels else ""
    lines += [
        f"# {plain(name)}",
        "",
        f"{checks.counted(len(subject.episodes), 'episode')}, {checks.counted(frames, 'frame')}{rate}{made}.",
        "",
    ]
    if sidecar:
        lines += [f"Labels only, for {plain(', '.join(sources))}, by `episode_index` and `frame_index`.", ""]
    lines += [*_code(name, labels, sources if sidecar else None), ""]
    for prefix, entry in labels.items():
        lines += [*_made(prefix, entry), ""]
    if before is not None:
        lines += ["## The dataset's own card", "", divided(before)[1].strip(), ""]
    return "\n".join([*lines, ""])


def _code(name: str, labels: Mapping[str, Any], sources: list[str] | None) -> list[str]:
    opened = f"lattok.open_dataset({quoted(name)})"
    lines = ["```python", f"import lattok  # {INSTALL}", ""]
    if sources is not None:
        lines += ["from huggingface_hub import snapshot_download", "from lattok.labels import with_labels", ""]
        lines += [f'labels = snapshot_download({quoted(name)}, repo_type="dataset")']
        opened = f"with_labels(lattok.open_dataset({quoted(sources[0] if sources else 'DATASET')}), labels)"
    lines.append(f"dataset = {opened}")
    for prefix, entry in list(labels.items())[:1]:
        column = quoted(next(iter(entry.get("columns", {})), f"{prefix}.valid"))
        lines.append(f"values = dataset.columns(0, [{column}])[{column}]  # of the first episode: [T, ...]")
    return [*lines, "```"]


def _made(prefix: str, entry: Mapping[str, Any]) -> list[str]:
    model, spec = entry.get("model", {}), entry.get("spec", {})
    lines = [f"## {plain(prefix)}", "", "| column | type | shape | |", "|---|---|---|---|"]
    for column, facts in entry.get("columns", {}).items():
        means = MEANING.get(column.rpartition(".")[2], "")
        if means == MEANING["codes"] and spec.get("codebook_size"):
            means += f", each of {spec['codebook_size']}"
        lines.append(f"| {plain(column)} | {plain(facts['dtype'])} | {facts['shape']} | {means} |")
    facts = {"model": model.get("model"), "type": model.get("type"), "revision": model.get("revision")}
    facts |= {"weights (SHA-256)": model.get("weights_sha256"), "cameras": ", ".join(entry.get("cameras", []))}
    acts = entry.get("options", {}).get("action_key") if spec.get("target") == "chunk" else None
    facts |= {"actions": acts, "seconds between frames": entry.get("stride_seconds")}
    missing = sum(len(gap["episodes"]) for gap in entry.get("unlabelled", []))
    facts |= {"episodes without labels": missing or None, "lattok": entry.get("versions", {}).get("lattok")}
    lines += ["", *(f"- {name}: {plain(value)}" for name, value in facts.items() if value)]
    if isinstance(source := model.get("model"), str) and HUB_ID.fullmatch(source):
        lines += ["", "Made again and compared: `lattok verify DATASET --model " + source + "`"]
    return lines
