"""The tables of benchmarks/speed/vla_step.py."""

from collections.abc import Mapping
from typing import Any

from benchmarks.speed.vla_models import CODEBOOK, CODES, DEPTH, HORIZON, IMAGE_TOKENS, LENGTH, WIDE
from benchmarks.speed.vla_states import MODES, OURS, PLAIN

PUBLISHED = ("baseline", "la_align", "la_direct", "la_cond", "la_tok")  # what the straightforward way has
BARS = {"time": 50, "memory": 100, "states": 3.5, "value": 1e-6}


def markdown(results: Mapping[str, Any]) -> str:
    """The figures as tables, bars beside what was measured."""
    machine, made = results["environment"], results["setting"]
    about = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, device {made['device']},",
        f"torch {machine['torch']}, transformers {machine['transformers']}, commit {machine['commit']}.",
        f"Text layers of Qwen3-VL-2B, {made['layers']} of {DEPTH}, {made['dtype']}; B = {made['batch']},",
        f"L = {LENGTH}, H = {HORIZON}, P = {CODES}, K = {CODEBOOK}, {IMAGE_TOKENS} image tokens.",
        f"Wall time, least of {made['rounds']} interleaved rounds.",
    ]
    if made["quick"]:
        about.append("A narrow model, to see that everything runs: these figures mean nothing.")
    lines = ["# A policy's step", "", " ".join(about)]
    lines += [*_loss(results["latent_loss"]), *_states(results["hidden_states"], made["depth"]), *_steps(results)]
    return "\n".join([*lines, "", *results["notes"], ""])


def _loss(found: Mapping[str, Any]) -> list[str]:
    rows, value = found["rows"], found["value"]
    lines = ["", "## Latent loss, forward and backward", ""]
    lines += ["| way | ms | peak MB | times the time | times the memory |", "|---|---:|---:|---:|---:|"]
    for name, row in rows.items():
        time, memory = (row[key] / rows[OURS][key] for key in ("seconds", "peak_bytes"))
        numbers = f"{1e3 * row['seconds']:,.2f} | {row['peak_bytes'] / 1e6:,.2f} | {time:,.0f} | {memory:,.0f}"
        lines.append(f"| {name} | {numbers} |")
    text = [
        f"Bars, against the whole sequence: {BARS['time']} times the time, {BARS['memory']} times the memory.",
        f"The same objective in float32: {value[OURS]:.7f} and, from logits over all rows,",
        f"{value['full logits, rows of the codes']:.7f}; difference {value['difference']:.1e}",
        f"(bar {BARS['value']:.0e}), of the gradients {value['relative difference of gradients']:.1e}.",
        f"With all rows as classes it is another objective: {value['full logits, all rows']:.2f}.",
    ]
    return [*lines, "", " ".join(text)]


def _states(rows: Mapping[str, Any], depth: int) -> list[str]:
    text = [
        f"All layers whole, and what head and loss of lattok are given (bar {BARS['states']}); then what is alive when",
        "the head starts, copies included: straightforward / lattok = ratio. In training, autograd or the checkpoints",
        "hold the states of all layers until the backward pass, whoever asked for them: only the copies differ.",
    ]
    lines = ["", f"## Hidden states of {depth} layers (narrow model, float32), MB", "", " ".join(text), ""]
    lines += [f"| strategy | L | all | given | ratio | {' | '.join(MODES)} |", f"|---|{'---:|' * (4 + len(MODES))}"]
    for name, row in rows.items():
        cells = [str(row["length"]), f"{row['all_layers'] / 1e6:.1f}", f"{row[MODES[0]][OURS]['given'] / 1e6:.1f}"]
        cells.append(f"{row['ratio_given']:.2f}")
        for mode in MODES:
            plain, ours = ((row[mode][way]["states"] + row[mode][way]["copies"]) / 1e6 for way in (PLAIN, OURS))
            cells.append(f"{plain:.1f} / {ours:.1f} = {row['ratio_alive'][mode]:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _steps(results: Mapping[str, Any]) -> list[str]:
    steps, latency, base = results["steps"], results["latency"], results["steps"]["baseline"]
    beyond = (
        f"Memory is beyond the backbone's {results['backbone_bytes'] / 1e6:,.0f} MB, own modules and AdamW's states."
    )
    lines = ["", "## Training step (forward, backward, AdamW), and a chunk for one observation", ""]
    lines += [f"{beyond} Ratios to lattok's Baseline.", ""]
    lines += ["| policy | L | step s | ratio | peak MB | ratio | chunk ms | ratio |", f"|---|{'---:|' * 7}"]
    for name, row in steps.items():
        wait = latency[name]["seconds"]
        cells = [str(results["tokens"][name.removeprefix(f"{PLAIN} ")])]
        cells += [f"{row['seconds']:.2f}", f"{row['seconds'] / base['seconds']:.2f}"]
        cells += [f"{row['peak_bytes'] / 1e6:,.0f}", f"{row['peak_bytes'] / base['peak_bytes']:.2f}"]
        cells += [f"{1e3 * wait:,.0f}", f"{wait / latency['baseline']['seconds']:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| straightforward / lattok | step | peak memory | chunk |", "|---|---:|---:|---:|"]
    for name in (name for name in PUBLISHED if name in steps):
        other = f"{PLAIN} {name}"
        ratios = [steps[other][key] / steps[name][key] for key in ("seconds", "peak_bytes")]
        ratios.append(latency[other]["seconds"] / latency[name]["seconds"])
        lines.append(f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return lines


def notes(results: Mapping[str, Any]) -> list[str]:
    """What the cut hides, and whether both ways do the same."""
    layers, head = results["setting"]["layers"], WIDE["vocab_size"] * WIDE["hidden_size"]
    width, heads = WIDE["head_dim"], WIDE["num_attention_heads"] + WIDE["num_key_value_heads"]
    layer = (2 * heads * width + 3 * WIDE["intermediate_size"]) * WIDE["hidden_size"]
    cut, whole = (head / (head + count * layer) for count in (layers, DEPTH))
    texts = (
        [
            f"Arithmetic: the language-model head is {cut:.0%} of the multiplications of itself and {layers} layers,",
            f"{whole:.0%} with all {DEPTH}: of a whole model's step logits take a smaller share than above. The memory",
            "of the logits does not depend on the layers.",
        ],
        [
            f"Arithmetic: LA-Direct gives head and loss {_given(LENGTH):.2f} times less than all layers whole at",
            f"L = {LENGTH}, {_given(LENGTH - 30):.2f} times where the prompt is 30 tokens shorter, because it leaves",
            "out the text.",
        ],
        [
            "From the same embedded placeholders both ways predict the same actions: largest difference over their",
            f"deviation {max(results['agreement'].values()):.1e}.",
        ],
    )
    return [f"- {' '.join(text)}" for text in texts]


def _given(length: int) -> float:
    """All states of `DEPTH` layers over those of the upper half at images and steps, and of the last at codes."""
    return (DEPTH + 1) * length / ((DEPTH // 2 + 1) * (IMAGE_TOKENS + HORIZON) + HORIZON * CODES)
