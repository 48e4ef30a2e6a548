"""Page and summary of an action tokenizer, arranged from the evidence that `tokenizer` gathers."""

from __future__ import annotations

import numpy as np

from lattok.data import RobotDataset
from lattok.evaluation import pictures
from lattok.evaluation.report import Progress, Report, Row, Section, Table, Verdict
from lattok.evaluation.split import Split
from lattok.evaluation.tokenizer import Method, Rate, gather
from lattok.quantize import CodeStatistics
from lattok.types import ActionTokenizer

NAMES = {
    "model": "tokenizer",
    "kmeans": "k-means",
    "uniform_bins": "uniform bins",
    "fast": "FAST",
    "mean": "mean action",
}


def evaluate_tokenizer(
    tokenizer: ActionTokenizer,
    dataset: RobotDataset,
    split: Split,
    action_key: str,
    seed: int,
    title: str,
    progress: Progress,
) -> Report:
    """Judge `tokenizer` on the held-out episodes of `split`."""
    progress("held-out windows", 0, 1)
    evidence = gather(tokenizer, dataset, split, action_key, seed)
    progress("held-out windows", 1, 1)
    methods, rate, windows = evidence.methods, evidence.rate, evidence.windows
    shown = pictures.trajectories(windows, evidence.decoded, evidence.kmeans)
    sections = (
        _error_section(methods, windows.action_names, shown),
        _code_section(methods, tokenizer.vocab_size, rate),
    )
    provenance = {
        "tokens_per_chunk": tokenizer.tokens_per_chunk,
        "horizon": tokenizer.horizon,
        "vocab_size": tokenizer.vocab_size,
        "held_out_windows": len(windows),
    }
    figures, vocab = _figures(methods, rate), tokenizer.vocab_size
    verdicts = (*_control_verdicts(figures), _code_verdict(methods[0].train, vocab))
    headline = _headline(figures, vocab)
    return Report("action-vq", title, headline, verdicts, figures, sections, provenance)


def _row(method: Method, values: tuple[float | None, ...]) -> Row:
    control = method.key != "model"
    return Row(method.key, NAMES[method.key], values if not method.not_run else (), control, not_run=method.not_run)


def _error_section(methods: list[Method], names: tuple[str, ...], shown: tuple[pictures.Pictures, ...]) -> Section:
    def per_dimension(title: str, field: str, decides_note: str) -> Table:
        rows = []
        for method in methods:
            each = getattr(method.errors, field).tolist() if method.errors else []
            mean = (max(each) if field == "worst" else float(np.mean(each))) if each else 0.0
            rows.append(_row(method, (mean, *each)))
        first = "largest" if field == "worst" else "mean"
        folded = field in ("l1", "worst")
        return Table(title, (first, *names), tuple(rows), better="lower", note=decides_note, folded=folded)

    tables = [
        per_dimension(
            "Normalised squared error",
            "normalised",
            "Divided by the training split's variance, not by the tokenizer's own scale, so that tokenizers compare.",
        ),
        per_dimension("Squared error, physical units", "mse", ""),
        per_dimension("Absolute error, physical units", "l1", ""),
        per_dimension("Largest error, physical units", "worst", ""),
    ]
    if methods[0].errors and methods[0].errors.gripper is not None:
        rows = tuple(_row(m, (m.errors.gripper if m.errors else None,)) for m in methods)
        note = "Share of steps on the right side of the midpoint between the training split's 1st and 99th percentile."
        tables.append(Table("Gripper open or closed", ("accuracy",), rows, better="higher", digits=".4f", note=note))
    text = (
        "Every held-out frame starts a chunk; steps beyond the end of an episode are not counted. All controls spend "
        "the same bits per step as the tokenizer, or fewer. k-means on single actions is the practical bound of a "
        "decoder that sees one code at a time: only a decoder with context can pass it. FAST is a transform code, with "
        "codes of different lengths (the mean counts): where it wins, the tokenizer is a target for supervision but no "
        "codec, and ResidualVQ, FSQ or FAST are what to store or replay actions with."
    )
    bars = pictures.error_bars(
        names,
        [
            (NAMES[m.key], m.key, m.errors.normalised.tolist() if m.errors else None)
            for m in methods
            if m.key != "mean"  # in the table; its bar would flatten all others
        ],
    )
    return Section("Reconstruction", text, tuple(tables), (bars, *shown))


def _code_section(methods: list[Method], vocab: int, rate: Rate) -> Section:
    columns = ("used, held-out", "perplexity, held-out", "used, training", "perplexity, training", "codes")
    rows = []
    for method in methods:
        if method.held_out and method.train and method.sorted_use is not None:
            shares = [(float(min(s.used)), min(s.perplexity)) for s in (method.held_out, method.train)]
            rows.append(_row(method, (*shares[0], *shares[1], float(len(method.sorted_use)))))
        elif method.not_run:
            rows.append(_row(method, ()))
    usage = Table(
        "Code usage",
        columns,
        tuple(rows),
        digits=(".0f", ".1f", ".0f", ".1f", ".0f"),
        note="Usage is health, not quality: the best k-means leaves codes unused on held-out data, too. Where each "
        "position has a codebook of its own, the least used and the least perplexity of all.",
    )
    own = (rate.tokens_per_chunk, rate.tokens_per_second, rate.bits_per_second, rate.bits_per_step)
    raw = Row("float32", "raw actions, float32", (None, None, *_raw_bits(methods, rate)), reference=True)
    rates = Table(
        "Rate",
        ("tokens per chunk", "tokens per second", "bits per second", "bits per step"),
        (Row("model", NAMES["model"], own, control=False), raw),
        digits=("#.3g", "#.3g", ",.0f", "#.3g"),
    )
    chart = pictures.usage_curve(
        [(NAMES[m.key], m.key, m.sorted_use.tolist()) for m in methods if m.sorted_use is not None], vocab
    )
    text = "How many codes do the work, how evenly, and what they cost at the dataset's frame rate."
    return Section("Codes", text, (usage, rates), (chart,))


def _raw_bits(methods: list[Method], rate: Rate) -> tuple[float, float]:
    """Bits per second and per step of the actions as stored."""
    dims = len(methods[0].errors.mse) if methods[0].errors else 0
    per_step = 32.0 * dims
    return per_step * rate.fps, per_step


def _figures(methods: list[Method], rate: Rate) -> dict[str, float]:
    """Flat summary: `name` is the tokenizer's, `name/control` stands beside it."""
    figures: dict[str, float] = {}
    for method in methods:
        suffix = "" if method.key == "model" else f"/{method.key}"
        if method.errors:
            figures[f"normalised_mse{suffix}"] = float(method.errors.normalised.mean())
            figures[f"normalised_l1{suffix}"] = method.errors.normalised_l1
            if method.errors.gripper is not None:
                figures[f"gripper_accuracy{suffix}"] = method.errors.gripper
        if method.held_out and method.train:
            figures[f"codes_used{suffix}"] = float(min(method.held_out.used))
            figures[f"perplexity{suffix}"] = min(method.held_out.perplexity)
            figures[f"codes_used_train{suffix}"] = float(min(method.train.used))
            figures[f"perplexity_train{suffix}"] = min(method.train.perplexity)
    figures["tokens_per_second"] = rate.tokens_per_second
    figures["bits_per_second"] = rate.bits_per_second
    return figures


def _headline(figures: dict[str, float], vocab: int) -> str:
    names = [key for key in ("kmeans", "uniform_bins", "fast") if f"normalised_mse/{key}" in figures]
    beside = "the controls at equal bits were not run"
    if names:
        others = [f"{NAMES[key]} {figures[f'normalised_mse/{key}']:.3g}" for key in names]
        beside = f"at equal bits {', '.join(others)}"
    return (
        f"Held-out error {figures['normalised_mse']:.3g} (1 is as far off as the mean action; {beside}); "
        f"{int(figures['codes_used'])} of {vocab} codes in use, perplexity {figures['perplexity']:.0f}."
    )


def _control_verdicts(figures: dict[str, float]) -> list[Verdict]:
    mse, lines = figures["normalised_mse"], []
    for key in ("kmeans", "uniform_bins", "fast", "mean"):
        other = figures.get(f"normalised_mse/{key}")
        if other is None:
            lines.append(Verdict(f"{NAMES[key]} at equal bits: not run", None, f"error_against_{key}"))
            continue
        word = "below" if mse < other else "not below"
        lines.append(
            Verdict(f"Error {mse:.3g} is {word} {NAMES[key]} ({other:.3g})", mse < other, f"error_against_{key}")
        )
    return lines


def _code_verdict(statistics: CodeStatistics | None, vocab: int) -> Verdict:
    """Whether the codes are used, in the worst position where each has a codebook of its own."""
    used, perplexity = (statistics.used, statistics.perplexity) if statistics else ([0], [0.0])
    health = [min(4 * u / vocab, 10 * p / vocab) for u, p in zip(used, perplexity, strict=True)]
    worst = health.index(min(health))
    state = "in use" if health[worst] >= 1 else "in use: the codebook has collapsed"
    where = f" at position {worst + 1} of {len(used)}" if len(used) > 1 else ""
    numbers = f"(training split, perplexity {perplexity[worst]:.0f})"
    return Verdict(f"{used[worst]} of {vocab} codes{where} {state} {numbers}", health[worst] >= 1, "tokens_in_use")
