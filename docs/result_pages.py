"""mkdocs hook: the page of benchmarks, and short tables elsewhere, made from stored results."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDERS = ROOT / "benchmarks/results", ROOT / "studies/results"
GROUPS = {
    "Installation": ("extras", "interop"),
    "Tokenizers": (
        "tokenizers",
        "policy_error",
        "tokenizer_figures",
        "collapse",
        "mask_loss",
        "action_tokenizer_speed",
        "published_speed",
    ),
    "Latent action models": (
        "lam_labels",
        "lam_robust",
        "lam_start",
        "lam_distractors",
        "unseen_tasks",
        "latbot",
        "main_job",
        "annotate_speed",
        "zoo_speed",
    ),
    "Policies": (
        "closed_loop",
        "closed_loop_labels",
        "closed_loop_refined",
        "out_of_domain",
        "few_actions",
        "inferred_actions",
        "real_robots",
        "real_policies",
        "real_latents",
        "real_tokenizers",
        "real_video",
        "known_elsewhere",
        "robots_act",
        "few_actions_predicts",
        "acting_by_tokens",
        "acting_by_tokens_again",
        "acting_by_tokens_predicts",
        "recited_codes",
        "vla_study",
        "vla_step",
        "joint_step",
        "compiled",
        "shuffle_lam",
        "shuffle_policy",
    ),
    "Datasets": (
        "checkers",
        "angles",
        "scale",
        "ray_engine",
        "windows_speed",
        "video_decode",
        "streaming_start",
        "streaming_rate",
        "streaming_wait",
        "lerobot_v21_rate",
        "lerobot_v21_open",
    ),
    "On a GPU": ("gpu", "compiled_gpu"),
    "What goes wrong": ("kill", "kill_runs"),
}
ELSEWHERE = {  # results whose maker does not name them, and what they are shown by
    "closed_loop": ("studies/tables.py", "[All tables](studies/closed_loop_tables.md)."),
    "closed_loop_labels": (
        "studies/quality.py",
        "[What it says](studies/closed_loop_details.md#which-figure-of-the-labels-goes-with-the-gain).",
    ),
    "out_of_domain": ("studies/out_of_domain.py", "[The study](studies/out_of_domain.md#results)."),
    "few_actions": ("studies/planned.py", "[The study](studies/few_actions.md#results)."),
    "acting_by_tokens": ("studies/planned.py", "[The study](studies/acting_by_tokens.md#results)."),
    "acting_by_tokens_again": ("studies/planned.py", "[The study](studies/acting_by_tokens.md#fresh-seeds)."),
    "inferred_actions": (
        "studies/inferred.py",
        "[What they say](studies/few_actions_labels.md#inferred-actions-in-four-tasks).",
    ),
    **{
        name: (f"studies/{name}.py", "[The study](studies/real_robots.md#what-was-found).")
        for name in ("real_robots", "real_policies", "real_latents", "real_tokenizers", "real_video")
    },
    "unseen_tasks": ("studies/unseen_tasks.py", ""),
    "several_robots": ("studies/several_robots.py", ""),
    "robots_act": ("studies/robots_act.py", "[The study](studies/several_robots.md#what-was-found)."),
    "few_actions_predicts": ("studies/predicts.py", ""),
    "acting_by_tokens_predicts": ("studies/predicts.py", ""),
    "tokenizer_figures": ("studies/learnable.py", ""),
    "scale": ("benchmarks/speed/scale.py", ""),
    "vla_study": ("lattok/recipes/study.py", ""),
}
REWRITTEN = "was rewritten before it was published"
CHANGED = "was followed by changes that no commit holds"
UNTRACKED = "lacks the script, which was committed later"
AGAIN = {  # entries that no published commit can repeat, and why: to be run again, and then to be taken out here
    "zoo_speed": {"2625d5d": REWRITTEN, "2625d5d+": REWRITTEN, "36bbcca+": CHANGED},
    "shuffle_policy": {"2f35219": UNTRACKED},
    "closed_loop_labels": {"e0acf30+": CHANGED},
}
# changes that give a seed other weights: figures of what was trained before are of other draws of the same quantity
MOVED = {"8817ab5": "Adam is torch's fused one", "ad8f7f4": "dead codes are revived by other draws"}
EARLIER = ("vla_study",)  # results of training, from before both
COMMIT = re.compile(r"[0-9a-f]{7,40}\+?")
MOST_ROWS = 60  # of tables made from JSON; what is longer is a link
MOST_COLUMNS = 8
SPREAD = {"mean", "min", "max"}
COMMAND = re.compile(
    r"^ *((?:python|lattok) .*?--out (?:benchmarks|studies)/results/(\w+)(?:\.json)?)(?: .*)?$", re.MULTILINE
)
WHOLE = {  # tables that a study writes, by what stands where they go
    "few actions": "few_actions.md",
    "changed scenes": "out_of_domain.md",
    "real robots": "real_robots.md",
    "real policies": "real_policies.md",
    "real latents": "real_latents.md",
    "real tokenizers": "real_tokenizers.md",
    "real video": "real_video.md",
    "acting by tokens": "acting_by_tokens.md",
    "fresh seeds": "acting_by_tokens_again.md",
    "unseen tasks": "unseen_tasks.md",
    "several robots": "several_robots.md",
}
SCRIPTS = "benchmarks/*/*.py", "studies/*.py", "scripts/*.py"
MARKS: dict[str, Callable[[], str]] = {
    name: lambda file=file: stored(file).read_text(encoding="utf-8") for name, file in WHOLE.items()
}


def mark(name: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Let a function write what stands in place of `<!-- NAME -->`."""

    def keep(write: Callable[[], str]) -> Callable[[], str]:
        MARKS[name] = write
        return write

    return keep


@cache
def makers() -> dict[str, tuple[Path, str]]:
    """Return what makes each result, by its name: the file, and the command that its docstring says."""
    found = {name: (ROOT / path, "") for name, (path, _) in ELSEWHERE.items()}
    for path in sorted(path for glob in SCRIPTS for path in ROOT.glob(glob)):
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for command, name in COMMAND.findall(said.replace("\\\n", "")):
            found[name] = (path, " ".join(command.split()))
    return found


@cache
def results(name: str) -> Any:
    """Read a result."""
    return json.loads(stored(f"{name}.json").read_text(encoding="utf-8"))


def stored(name: str) -> Path:
    """Return where a file of results is: with the benchmarks or with the studies."""
    return next((folder / name for folder in FOLDERS if (folder / name).is_file()), FOLDERS[0] / name)


def commits(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield every commit that a result names, with the place of its entry."""
    for key, each in value.items() if isinstance(value, Mapping) else ():
        if key == "commit":
            yield from ((commit, path[-1] if path else "") for commit in COMMIT.findall(each))
        else:
            yield from commits(each, (*path, key))


def provenance(name: str) -> Iterator[str]:
    """Yield what to know of the code that a result comes from, where it is not the code of today."""
    for commit, why in AGAIN.get(name, {}).items():
        places = [place for other, place in commits(results(name)) if other == commit and place != "environment"]
        which = f" ({', '.join(places)})" if places else ""
        yield f"**To be run again**{which}: commit {commit.rstrip('+')} {why}."
    if name in EARLIER:
        since = " and ".join(f"{what} (`{commit}`)" for commit, what in MOVED.items())
        yield f"Trained by earlier code: since then {since}, so that a seed gives other weights."


@mark("every result")
def every_result() -> str:
    """Return a section for each result, by what it is about."""
    names = sorted(path.stem for folder in FOLDERS for path in folder.glob("*.json"))
    known = [name for group in GROUPS.values() for name in group]
    groups = {**GROUPS, "Others": tuple(name for name in names if name not in known)}
    lines: list[str] = []
    for title, members in groups.items():
        there = [name for name in members if name in names]
        lines += [f"## {title}", *(part for name in there for part in section(name))] if there else []
    return "\n\n".join(lines)


def section(name: str) -> Iterator[str]:
    """Yield the parts of a result: what it is, how it was made, where, and its figures."""
    path, command = makers().get(name, (None, ""))
    said = "" if path is None else ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = said.partition("\n\n")[0]
    yield f"### {name.replace('_', ' ')}"
    if first:
        yield first
    if command:
        yield f"```bash\n{command}\n```"
    note, alt = ELSEWHERE.get(name, ("", ""))[1], re.sub(r"[`\[\]]", "", first.partition("\n")[0] or name)
    facts = ". ".join(filter(None, (machine(results(name)), f"[All figures as JSON](results/{name}.json)"))) + "."
    yield f"{note} {facts}".strip()
    yield from provenance(name)
    picture = next((kind for kind in ("png", "svg") if stored(f"{name}.{kind}").is_file()), None)
    if picture is not None:
        yield f"![{alt}](results/{name}.{picture})"
    table = stored(f"{name}.md")
    if note:
        return
    if table.is_file():
        yield below(table.read_text(encoding="utf-8"))
    else:
        yield from tables({key: value for key, value in results(name).items() if key != "environment"})


def below(markdown: str) -> str:
    """Return a page as part of a section: its headings three levels down, without its pictures and its title."""
    lines = [line for line in markdown.splitlines() if not line.startswith(("# ", "!["))]
    return "\n".join(re.sub(r"^(#+) ", r"##\1 ", line) for line in lines).strip()


def machine(found: Mapping[str, Any]) -> str:
    """Say where a result was made."""
    facts = found.get("environment") or next((v["environment"] for v in found.values() if _has(v, "environment")), None)
    if not isinstance(facts, Mapping):
        return ""
    threads = f"{facts.get('threads')} thread{'s' * (facts.get('threads') != 1)}"
    cpu, cores, torch, commit = (facts.get(name) for name in ("cpu", "cores", "torch", "commit"))
    return f"{cpu}, {cores} cores, {threads}, torch {torch}, commit {commit}"


def tables(value: Mapping[str, Any]) -> Iterator[str]:
    """Yield tables of nested figures, as far as they are short."""
    found = list(_tables(value, ()))
    if sum(text.count("\n") for text in found) <= MOST_ROWS:
        yield from found


def _tables(value: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {key: each for key, each in value.items() if _figure(each)}
    rows = {key: each for key, each in value.items() if not _figure(each) and isinstance(each, Mapping) and _flat(each)}
    head = f"**{' · '.join(path)}**\n\n" if path else ""
    if plain:
        yield head + "\n".join(["| | |", "|---|---|", *(f"| {key} | {number(each)} |" for key, each in plain.items())])
    if rows:
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        if len(columns) > max(MOST_COLUMNS, len(rows)):
            rows, columns = {c: {key: row.get(c) for key, row in rows.items()} for c in columns}, list(rows)
        table = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        table += [f"| {key} | {' | '.join(number(row.get(c)) for c in columns)} |" for key, row in rows.items()]
        yield head + "\n".join(table)
    for key, each in value.items():
        if (
            isinstance(each, Mapping) and key not in plain and not _flat(each) and key != "runs"
        ):  # "figures" sums those up
            yield from _tables(each, (*path, key))


def _figure(value: Any) -> bool:
    return not isinstance(value, Mapping | list) or (isinstance(value, Mapping) and set(value) == SPREAD)


def _flat(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(map(_figure, value.values()))


def _has(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and key in value


def number(value: Any) -> str:
    """Write a figure."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return f"{number(value['mean'])} ({number(value['min'])} to {number(value['max'])})"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return " ".join(str(value).split())[:80].replace("|", "\\|")


@mark("closed loop")
def closed_loop() -> str:
    """Return the rows of each regime of the closed-loop study that have several seeds, without secondary columns."""
    parts, said = [], []
    for section in stored("closed_loop.md").read_text(encoding="utf-8").split("### ")[1:]:
        title, table = section.split("\n\n")[:2]
        rows = [[cell.strip() for cell in line.strip("|").split("|")[:6]] for line in table.splitlines()]
        rows = [cells for cells in rows if cells[1] != "1"]
        said += [cells[4] for cells in rows[2:] if cells[4] and ":*" not in cells[0]]
        parts += [f"**{title}**", "\n".join(f"| {' | '.join(cells)} |" for cells in rows)]
    better, worse = (sum(verdict.startswith(word) for verdict in said) for word in ("better", "worse"))
    count = f"Of {len(said)} comparisons with the Baseline {better} come out better, {worse} worse, "
    count += f"and {len(said) - better - worse} show nothing that counts, once p values are corrected for their number."
    return "\n\n".join([*parts, count])


@mark("gpu memory")
def gpu_memory() -> str:
    """Return what steps took of a GPU's memory, next to what was counted without one."""
    found = results("gpu")["memory"]
    rows = {name: row for name, row in found.items() if "counted_gb" in row}
    lines = [
        f"| preset, on one {found['device']} | samples | counted | allocated | reserved |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        each = (f"{row[f'{key}_gb']:.2f} GB" for key in ("counted", "allocated", "reserved"))
        lines.append(f"| `{name}` | {row['samples']} | {' | '.join(each)} |")
    return "\n".join(lines)


@mark("labels")
def labels() -> str:
    """Return R^2 by objective and share of labels."""
    study, controls = results("lam_labels")["studies"]["sample"], results("lam_labels")["controls"]["sample"]
    kinds = ("labels only", "reconstruction", "reconstruction and flow")
    lines = [f"| labelled pairs | {' | '.join(kinds)} |", "|---|---|---|---|"]
    for share in ("0%", "1%", "5%", "100%"):
        cells = []
        for kind in kinds:
            found = study.get(f"{kind}, {share} labels")
            cells.append(spread(found["figures"]["r2/codes/mean"], len(found["runs"])) if found else "–")
        lines.append(f"| {share} | {' | '.join(cells)} |")
    for name, what in (("change", "the change of pixels"), ("flow", "block flow")):
        lines.append(f"| *control:* k-means on {what} | {controls[f'r2/{name}, k-means/mean']:.2f} | | |")
    return "\n".join(lines)


@mark("tokenizers")
def tokenizers() -> str:
    """Return the error of each tokenizer at about 64 bits."""
    rows = {name: row for name, row in results("tokenizers")["rows"].items() if row["at_64_bits"]}
    lines = ["| tokenizer | codes | held-out episodes | tasks nobody trained on |", "|---|---|---|---|"]
    for name, row in rows.items():
        error = [f"{row[part]['mse_normalised']['mean']:.4f}" for part in ("test", "new_tasks")]
        title = f"*control:* {name.removeprefix('control: ')}" if name.startswith("control") else name
        lines.append(f"| {title} | {row['test']['tokens_per_chunk']['mean']:.3g} | {' | '.join(error)} |")
    return "\n".join(lines)


def spread(figure: Mapping[str, float], runs: int) -> str:
    """Write a mean with its least and greatest."""
    between = f" ({figure['min']:.2f} to {figure['max']:.2f})" if runs > 1 else ", one seed"
    return f"{figure['mean']:.2f}{between}"


def on_files(files: Any, config: Any) -> Any:
    """Add what the page of benchmarks links to."""
    from mkdocs.structure.files import File  # an extra; tests do without

    for path in sorted(path for folder in FOLDERS for path in folder.iterdir()):
        if path.suffix in (".json", ".png", ".svg"):
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put tables in their places."""
    for name, write in MARKS.items():
        if f"<!-- {name} -->" in markdown:
            markdown = markdown.replace(f"<!-- {name} -->", write())
    return markdown
