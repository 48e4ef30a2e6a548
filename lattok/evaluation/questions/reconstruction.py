"""How well does an action tokenizer reconstruct actions, and what do its codes cost?

Every table has the controls of `tokenizer_evidence`, which spend the same bits per step or fewer.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch

from lattok.evaluation.evidence.tokenizer_evidence import Errors, Method, Rate, TokenizerEvidence, Usage
from lattok.evaluation.page import svg
from lattok.evaluation.page.episode import over_time
from lattok.evaluation.questions import question, train_one
from lattok.evaluation.report import Criterion, Decision, Outcome, Pictures, Section, Table, TableRow, Verdict
from lattok.evaluation.wording import percent
from lattok.utils.commands import advise

RIVALS = {"kmeans": "k-means", "uniform_bins": "uniform bins", "fast": "FAST"}  # controls at equal bits
NAMES = {"model": "tokenizer", **RIVALS, "mean": "mean action"}
MAX_TARGET_ERROR = 2.0  # a target for supervision may have this many times the error of an untrained codebook
to_train = partial(Criterion, recipe="action-vq")  # what helps is another training
AGAINST = {
    "kmeans": to_train(
        "error_against_kmeans",
        advise(
            "A decoder that sees one code at a time is bounded by k-means: use {decoder}, or ResidualVQ if you need a "
            "codec.",
            decoder="context",
        ),
    ),
    "uniform_bins": to_train(
        "error_against_uniform_bins", advise("Train longer or on more data: bins need no training and do better.")
    ),
    "fast": Criterion(
        "error_against_fast",
        advise("This is expected of a target for supervision; as a codec use FAST or ResidualVQ."),
        use=True,
    ),
    "mean": Criterion(
        "error_against_mean",
        advise("The codes say nothing: look at the loss and at the units of the actions."),
        elsewhere=train_one("action-vq", "a tokenizer"),
    ),
}
IN_USE = to_train(
    "tokens_in_use",
    advise(
        "Start the codebook from data ({codebook_start}) and revive dead codes ({revive_below}).",
        codebook_start="kmeans",
        revive_below="0.03",
    ),
    caveat="most of its codes are never used",
)


@question("reconstruction", of=("chunks",), criteria=(*AGAINST.values(), IN_USE), place=10)
def reconstruction_outcome(evidence: TokenizerEvidence) -> Outcome:
    methods, rate, windows = evidence.methods, evidence.rate, evidence.windows
    names = windows.action_names
    figures, vocab = codec_figures(methods, rate), evidence.case.model.vocab_size
    sections = (_error_section(methods, names), _code_section(methods, rate), _over_time(evidence))
    verdicts = [*_control_verdicts(figures), _code_verdict(methods[0].usage, vocab)]
    controls = ", ".join(f"{NAMES[key]} {error:.3g}" for key, error in _rivals(figures).items())
    beside = f"at equal bits {controls}" if controls else "the controls at equal bits were not run"
    headline = f"Held-out error {figures['normalised_mse']:.3g} (1 is the variance of training actions; {beside})"
    headline += f"; {int(figures['codes_used'])} of {vocab} codes in use, perplexity {figures['perplexity']:.0f}."
    return Outcome(sections, figures, verdicts, codec_decision(figures), headline)


def _row(method: Method, values: Iterable[float | None]) -> TableRow:
    return TableRow(method.key, NAMES[method.key], tuple(values), method.key != "model", not_run=method.not_run)


def _error_section(methods: list[Method], names: tuple[str, ...]) -> Section:
    def rows(values: Callable[[Errors], list[float | None]]) -> tuple[TableRow, ...]:
        return tuple(_row(each, values(each.errors) if each.errors else ()) for each in methods)

    note = "Divided by the training split's variance, not by the tokenizer's own scale, so that tokenizers compare. "
    note += "Dimensions that never move do not count in the mean."
    columns, shares = ("mean", *names), rows(lambda e: [e.error, *e.normalised.tolist()])
    squares = rows(lambda e: [float(e.mse.numpy().mean()), *e.mse.tolist()])
    tables = [Table("Normalised squared error", columns, shares, "lower", note=note)]
    tables.append(Table("Squared error, physical units", columns, squares, "lower"))
    if methods[0].errors and methods[0].errors.gripper is not None:
        note = "Share of steps on the right side of the midpoint between the training split's 1st and 99th percentile."
        right = rows(lambda e: [e.gripper])
        tables.append(Table("Gripper open or closed", ("accuracy",), right, "higher", digits=".4f", note=note))
    text = (
        "Every held-out frame starts a chunk; steps beyond the end of an episode are not counted. All controls spend "
        "the same bits per step as the tokenizer, or fewer. k-means on single actions is the practical bound of a "
        "decoder that sees one code at a time: only a decoder with context can pass it. FAST is a transform code, with "
        "codes of different lengths (the mean counts): where it wins, the tokenizer is a target for supervision but no "
        "codec, and ResidualVQ, FSQ or FAST are what to store or replay actions with."
    )
    compared = [method for method in methods if method.key != "mean"]  # whose bar would flatten all others
    errors = {method.key: method.errors.error for method in compared if method.errors and method.key in RIVALS}
    best = min(errors, key=lambda key: errors[key], default="")  # of equals the first
    kinds = {method.key: "control" for method in compared} | {best: "rival", "model": "model"}
    overall = [(NAMES[m.key], kinds[m.key], m.errors.error if m.errors else None) for m in compared]
    caption = "Held-out error; shorter is better, 1 is the variance of training actions. All spend the same bits. "
    caption += "Orange: the best control."
    chart = Pictures(caption, (svg.bars("error of decoded actions", overall, ".3g"),), wide=True, top=True)
    return Section("Reconstruction", text, tuple(tables), (chart,))


def _code_section(methods: list[Method], rate: Rate) -> Section:
    columns = ("used, held-out", "perplexity, held-out", "used, training", "perplexity, training", "codes")
    digits, rows = (".0f", ".1f", ".0f", ".1f", ".0f"), []
    for method in methods:
        used = () if method.usage is None else (*_least(method.usage).values(), float(method.usage.size))
        if used or method.not_run:
            rows.append(_row(method, used))
    note = "Usage is health, not quality: the best k-means leaves codes unused on held-out data, too. "
    note += "Where each position has a codebook of its own, the least used and the least perplexity of all."
    usage = Table("Code usage", columns, tuple(rows), digits=digits, note=note)
    own = (rate.tokens_per_chunk, rate.tokens_per_second, rate.bits_per_second, rate.bits_per_step)
    bits = 32.0 * (len(methods[0].errors.mse) if methods[0].errors else 0)  # per step
    raw = TableRow("float32", "raw actions, float32", (None, None, bits * rate.fps, bits), reference=True)
    columns = ("tokens per chunk", "tokens per second", "bits per second", "bits per step")
    lines = (TableRow("model", NAMES["model"], own, control=False), raw)
    rates = Table("Rate", columns, lines, digits=("#.3g", "#.3g", ",.0f", "#.3g"))
    text = "How many codes do the work, how evenly, and what they cost at the dataset's frame rate."
    return Section("Codes", text, (usage, rates))


def _least(usage: Usage) -> dict[str, float]:
    """Name codes in use and perplexity of both splits, of the worst position."""
    found: dict[str, float] = {}
    for suffix, counts in (("", usage.held_out), ("_train", usage.train)):
        found |= {f"codes_used{suffix}": float(min(counts.used)), f"perplexity{suffix}": min(counts.perplexity)}
    return found


def codec_figures(methods: list[Method], rate: Rate) -> dict[str, float]:
    """Name the figures: `name` is the tokenizer's, `name/control` a control's."""
    figures: dict[str, float] = {}
    for method in methods:
        suffix = "" if method.key == "model" else f"/{method.key}"
        if method.errors:
            figures[f"normalised_mse{suffix}"] = method.errors.error
            figures[f"normalised_l1{suffix}"] = method.errors.normalised_l1
            if method.errors.gripper is not None:
                figures[f"gripper_accuracy{suffix}"] = method.errors.gripper
        if method.usage is not None:
            figures |= {f"{name}{suffix}": value for name, value in _least(method.usage).items()}
    return figures | {"tokens_per_second": rate.tokens_per_second, "bits_per_second": rate.bits_per_second}


def _rivals(figures: Mapping[str, float]) -> dict[str, float]:
    """Name the errors of the controls at equal bits that were run."""
    return {key: figures[f"normalised_mse/{key}"] for key in RIVALS if f"normalised_mse/{key}" in figures}


def _control_verdicts(figures: dict[str, float]) -> list[Verdict]:
    mse, lines = figures["normalised_mse"], []
    for key, about in AGAINST.items():
        other = figures.get(f"normalised_mse/{key}")
        if other is None:
            lines.append(Verdict(f"{NAMES[key]} at equal bits: not run", None, about))
        elif mse or other:  # otherwise there is nothing to compare: the actions never change
            text = f"Error {mse:.3g} is {'below' if mse < other else 'not below'} {NAMES[key]} ({other:.3g})"
            lines.append(Verdict(text, mse < other, about))
    return lines


def _code_verdict(usage: Usage | None, vocab: int) -> Verdict:
    """Judge whether the codes are used, in the worst position where each has a codebook of its own."""
    used, perplexity = (usage.train.used, usage.train.perplexity) if usage else ([0], [0.0])
    health = [min(4 * u / vocab, 10 * p / vocab) for u, p in zip(used, perplexity, strict=True)]
    worst = health.index(min(health))
    state = "in use" if health[worst] >= 1 else "in use: the codebook has collapsed"
    where = f" at position {worst + 1} of {len(used)}" if len(used) > 1 else ""
    numbers = f"(training split, perplexity {perplexity[worst]:.0f})"
    return Verdict(f"{used[worst]} of {vocab} codes{where} {state} {numbers}", health[worst] >= 1, IN_USE)


def codec_decision(figures: Mapping[str, float]) -> Decision:
    """Judge a tokenizer as a target for supervision, and as a codec."""
    own, rivals = figures["normalised_mse"], _rivals(figures)
    if figures["normalised_mse/mean"] == 0:
        return Decision(20, None, "Unclear: held-out actions never change.", caveats=False)
    if own >= figures["normalised_mse/mean"]:
        return Decision(20, False, "No: it reconstructs actions no better than their mean does.", caveats=False)
    if not rivals:
        return Decision(20, None, "Unclear: no control at equal bits could be run.", caveats=False)
    lost = f"It {codec_loss(figures)}"
    if own < min(rivals.values()):
        return Decision(20, True, f"Yes. {lost}")
    untrained = {key: value for key, value in rivals.items() if key != "fast"} or rivals
    bound = min(untrained, key=lambda key: untrained[key])
    if own > MAX_TARGET_ERROR * untrained[bound]:
        times = f"{own / untrained[bound]:.1f} times the error of {NAMES[bound]} at equal bits, which needs no training"
        return Decision(20, False, f"No: it has {times}.")
    target = "Yes as a target for supervision, no as a codec that stores or replays actions"
    return Decision(20, None, f"{target}. {lost}")  # part of the verdicts fall short


def codec_loss(figures: Mapping[str, float]) -> str:
    """Say what is lost by decoding the right codes, beside the strongest control: a sentence without its subject."""
    lost, rivals = f"loses {_fine(figures['normalised_mse'])} of the variance of held-out actions", _rivals(figures)
    if not rivals:
        return f"{lost}; no control at equal bits could be run."
    best = min(rivals, key=lambda key: rivals[key])
    return f"{lost}; {NAMES[best]} at equal bits, the strongest control, loses {_fine(rivals[best])}."


def _fine(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else percent(share)


def _over_time(evidence: TokenizerEvidence) -> Section:
    """Draw true actions, decoded chunks put end to end, and the k-means control's actions."""
    windows, dataset = evidence.windows, evidence.case.dataset
    step = torch.from_numpy(windows.frame_of % windows.horizon)  # one window per frame: it is also its action's row
    joined = evidence.decoded[torch.arange(len(step)) - step, step]
    lines = {"truth": ("true", windows.actions), "model": ("decoded", joined)}
    if evidence.kmeans is not None:
        lines["rival"] = NAMES["kmeans"], evidence.kmeans
    rows, names = (windows.episode_of, windows.frame_of), windows.action_names
    caption = "A held-out episode: its actions, and what is decoded from their codes, chunk by chunk."
    return over_time(dataset, dataset.cameras, rows, names, lines, caption)
