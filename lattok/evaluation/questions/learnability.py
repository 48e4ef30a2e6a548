"""How well can a policy act by the codes of an action tokenizer?

    policy error = mean over chunks, of each over its valid steps and its dimensions, of ((decode(c^) - a) / σ)^2
                                                                                c^: codes that a policy chose

The policy is small, sees state and instruction alone, and learns for the same number of steps whatever the tokenizer,
with the head that policies have (`lattok.vla.tokens`, code by code); its control regresses the chunk. The better of its
two ways to act (likeliest codes, mean of draws) decides whether the tokenizer may be used: where `LEAST_KEPT` is kept.

    kept = (error of the mean action - policy error) / (error of the mean action - error of the control)

Beside it what is thought to matter: how often a choice of codes begins as no training chunk does, how far one replaced
code moves a chunk, and whether chunks that are near one another stay so (OAT; ProAct; ActionPiece: their definitions in
words, where these are all that is published).
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lattok.evaluation.evidence import Case, evenly
from lattok.evaluation.evidence.probes import Bootstrap, above_zero, one_hot_tasks
from lattok.evaluation.evidence.tokenizer_evidence import Scale, TokenizerEvidence
from lattok.evaluation.questions import question
from lattok.evaluation.questions.reconstruction import codec_decision, codec_figures, codec_loss
from lattok.evaluation.report import Criterion, Decision, Interval, Outcome, Section, Table, TableRow, Verdict
from lattok.evaluation.wording import FEW_EPISODES
from lattok.nn.normalize import Normalizer
from lattok.samples import ActionWindows
from lattok.samples.policy import PolicyWindows, WindowOptions
from lattok.types import ActionTokenizer
from lattok.utils import checks
from lattok.utils.commands import DATASET, MODEL, OTHER, advise, command
from lattok.vla.config import HeadConfig, TokenSpec, VLAConfig
from lattok.vla.head import LayerStates
from lattok.vla.model import HEADS
from lattok.vla.tokens import TokenHead

COMPARE = command("compare", DATASET, "--models", MODEL, OTHER)
ACTED_BY = Criterion(
    "acted_by",
    advise("Compare with other families and with fewer codes of a chunk", COMPARE),
    elsewhere=advise("Train a tokenizer on this dataset, and compare them", COMPARE),
)
BEHIND = {  # columns, by their figures
    "unseen_prefixes_half": "share of chunks whose first half of codes is new",
    "unseen_prefixes_whole": "share whose row of codes is new",
    "neighbour_error": "error of a near code",
    "other_error": "of any other code",
    "rank_consistency": "ranks kept",
}
CHUNKS, POSITIONS, CANDIDATES = 64, 8, 32  # whose codes are replaced, by how many others
RANKED, NEIGHBOURS = 256, 16  # chunks, and those near each of them
WIDTH, LAYERS, STEPS, BATCH, RATE = 128, (0, 1), 600, 64, 1e-3
MOST_CODES, MOST_TOKENS = 2**15, 256  # of a tokenizer and of a training chunk: beyond, a minute is not enough
MOST_TRAINED, MOST_JUDGED = 20_000, 512  # windows
LEAST_KEPT = 0.9  # our choice: of what a policy without codes gains over the mean action, for the answer Yes
WAYS = "", "/draws"  # to act: figures of the likeliest codes, of the mean of draws
BY_MEAN: Mapping[str, float] = MappingProxyType({"temperature": 0.7, "draws": 32})  # a head acts by what it draws
TITLE = "Can a policy act by it?"
ABOUT = (
    "What a policy decodes counts, not what the encoder knew. A small network sees state and instruction and "
    "predicts the codes one after another; a chunk that it gets wrong costs what its codes decode to. Errors are "
    "divided by the variance of training actions, over held-out chunks. The policy can also act by the mean of "
    f"chunks that it draws ({', '.join(f'head_{name}={value}' for name, value in BY_MEAN.items())}). Without images "
    "neither way is good; the difference is the tokenizer's."
)


class Inputs(NamedTuple):
    """What the policy sees, [n, k], the windows that start there, and their rows among these, [n]."""

    inputs: Tensor
    windows: ActionWindows
    rows: Tensor


def policy_inputs(case: Case, training: ActionWindows, held_out: ActionWindows) -> tuple[Inputs, Inputs] | None:
    """Return state and instruction of these windows; None where there is neither."""
    key, state = case.options.action_key, case.options.state_of(case.dataset)
    options: dict[str, Any] = {"cameras": (), "size": 1, "action_key": key, "state_key": state}
    train, judged = (
        PolicyWindows(case.dataset, WindowOptions(case.model.horizon, episodes=episodes, **options))
        for episodes in (case.split.train, case.split.held_out)
    )
    told = one_hot_tasks(train, judged)
    if train.states is None and told[0].shape[1] < 2:
        return None
    scale = None if train.states is None else Normalizer(train.states.shape[1]).fit(train.states)

    def seen(states: Tensor | None, told: Tensor, windows: ActionWindows, most: int) -> Inputs:
        rows = evenly(len(windows), most)
        if scale is None or states is None:
            return Inputs(told[rows], windows, rows)
        return Inputs(torch.cat([scale(states[rows]).clamp(-10, 10), told[rows]], 1), windows, rows)

    return seen(train.states, told[0], training, MOST_TRAINED), seen(judged.states, told[1], held_out, MOST_JUDGED)


class ReferencePolicy(nn.Module):
    """Inputs [B, k] to chunks, by up to `tokens` codes of a tokenizer or without one; all else is the same."""

    def __init__(self, inputs: int, action_dim: int, horizon: int, tokenizer: ActionTokenizer | None, tokens: int = 0):
        super().__init__()
        head = HeadConfig("regression" if tokenizer is None else "tokens", WIDTH, 4)
        spec = None
        if tokenizer is not None:  # which may be somebody's own, and no artefact
            spec = TokenSpec("", tokens, tokenizer.vocab_size, tokenizer.fixed_length, tokenizer.shared_vocabulary)
        sizes: dict[str, Any] = {"action_dim": action_dim, "horizon": horizon, "cameras": (), "camera_sizes": ()}
        config = VLAConfig(**sizes, head=head, tokens=spec, action_loss="l2")  # errors are squared
        self.read = nn.Sequential(nn.Linear(inputs, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.head = HEADS[head.name](WIDTH, LAYERS, config)
        self.tokenizer = (tokenizer,)  # no submodule: it learns nothing

    def states(self, inputs: Tensor) -> dict[int, LayerStates]:
        """Return inputs [B, k] as the one state that the head reads in each of its layers."""
        return dict.fromkeys(LAYERS, LayerStates(self.read(inputs)[:, None], None, None))

    def fit(self, seen: Inputs, codes: Tensor, normalizer: Normalizer, seed: int) -> "ReferencePolicy":
        """Learn the windows, or their `codes` [N, p] if it acts by a tokenizer, for STEPS batches."""
        tokenizer, (batch, valid) = self.tokenizer[0], seen.windows.batch(seen.rows)
        target = normalizer(batch) if tokenizer is None else codes[seen.rows]
        generator, count = torch.Generator().manual_seed(seed), len(seen.rows)
        optimizer = torch.optim.AdamW(self.parameters(), RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
        for _ in range(STEPS):
            rows = torch.randint(count, (min(BATCH, count),), generator=generator)
            loss = self.head.learn(self.states(seen.inputs[rows]), None, target[rows], valid[rows])[0]["action"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        return self.eval()

    def by_mean(self) -> "ReferencePolicy":
        """Act by the mean of drawn chunks from now on, instead of the likeliest codes."""
        for name, value in BY_MEAN.items():
            setattr(self.head, name, value)
        return self

    @torch.no_grad()
    def act(self, seen: Inputs, normalizer: Normalizer) -> tuple[Tensor, Tensor | None]:
        """Return chunks [n, H, m] in physical units, and the codes that it chose."""
        chunks, codes = list[Tensor](), list[Tensor]()
        for inputs in seen.inputs.split(max(1, MOST_JUDGED // getattr(self.head, "draws", 1))):  # draws take memory
            shown: Any = SimpleNamespace(images=inputs, proprio=None, texts=[""] * len(inputs))
            found = self.head.sample(self.states(inputs), None, shown, 0)
            if (tokenizer := self.tokenizer[0]) is None:
                chunks.append(normalizer.inverse(found))
                continue
            decoded = tokenizer.decode(found, repair=True).float().cpu()
            chunks.append(cast(TokenHead, self.head).average_of_draws(decoded))
            codes.append(found)
        return torch.cat(chunks), torch.cat(codes) if codes else None


@question("learnability", of=("chunks",), criteria=(ACTED_BY,), place=5)
def learnability_outcome(evidence: TokenizerEvidence) -> Outcome:
    """Train the reference policy with the tokenizer and without one, and let both act on held-out windows."""
    case, tokenizer = evidence.case, evidence.case.model
    scale, known, both = evidence.scale, evidence.known, None
    known = known[:, : int((known >= 0).sum(1).max())]  # as long as the longest row
    codec = codec_figures(evidence.methods, evidence.rate)
    why = "held-out actions never change" if codec["normalised_mse/mean"] == 0 else _too_large(tokenizer, known)
    if not why:
        both = policy_inputs(case, evidence.training, evidence.windows)
    if both is None:
        text = f"Not run: {why or 'the dataset has neither states nor several instructions'}."
        return Outcome((Section(TITLE, ABOUT, reading=text),), headline=f"Can a policy act by its codes? {text}")
    train, held_out = both
    meant = evidence.codes[held_out.rows]
    found, codes = dict[str, Tensor](), torch.empty(0)
    for of, chosen in (("", tokenizer), ("/regression", None)):  # as figures end
        torch.default_generator.manual_seed(case.options.seed)
        policy = ReferencePolicy(train.inputs.shape[1], tokenizer.action_dim, tokenizer.horizon, chosen, known.shape[1])
        policy.fit(train, known, scale.normalizer, case.options.seed)
        chunks, made = policy.act(held_out, scale.normalizer)
        codes = codes if made is None else made
        found[of] = chunk_errors(scale, chunks, held_out)
        if chosen is not None:
            found["/draws"] = chunk_errors(scale, policy.by_mean().act(held_out, scale.normalizer)[0], held_out)
    truth, valid = held_out.windows.batch(held_out.rows)
    found["/mean"] = chunk_errors(scale, train.windows.actions.mean(0).expand_as(truth), held_out)
    bootstrap = Bootstrap(held_out.windows.episode_of[held_out.rows.numpy()], case.options.seed)
    gain = bootstrap.interval(bootstrap.mean(found["/regression"] - found[""]))
    figures = {f"policy_error{of}": float(errors.mean()) for of, errors in found.items()}
    for way in WAYS:
        if (span := bootstrap.interval(bootstrap.mean(found[way]))) is not None:
            figures |= {f"policy_error{way}_low": span[0], f"policy_error{way}_high": span[1]}
    figures |= {f"unseen_prefixes_{part}": unseen(codes, known, part) for part in ("half", "whole")}
    figures |= replaced(tokenizer, meant, scale)
    if int((whole := valid.all(1)).sum()) > 1:
        figures["rank_consistency"] = rank_consistency(truth[whole], evidence.decoded[held_out.rows][whole], scale)
    own, other = figures["policy_error"], figures["policy_error/regression"]
    text = f"A policy that acts by its codes errs by {own:.3g}, one that regresses actions by {other:.3g}"
    worth = bootstrap.interval(bootstrap.mean(found["/mean"] - found["/regression"]))
    decision = replace(_decision(codec, figures, worth), by=ACTED_BY)
    asked = f"; by the better way it should keep {LEAST_KEPT:.0%} of what regression gains over the mean action"
    verdict = Verdict(f"{text}{asked}", decision.holds, ACTED_BY)
    return Outcome((_section(figures, gain),), figures, [verdict], decision, f"{text}.")


def better_way(figures: Mapping[str, float]) -> str:
    """Return which of `WAYS` a policy errs less by."""
    return min(WAYS, key=lambda way: figures[f"policy_error{way}"])


def _too_large(tokenizer: ActionTokenizer, known: Tensor) -> str:
    """Say why codes like the known [n, p] cannot be learned in a minute; an empty text where they can."""
    if not 2 <= tokenizer.vocab_size <= MOST_CODES:
        return f"the tokenizer has {tokenizer.vocab_size:,} codes, and a small policy learns from 2 to {MOST_CODES:,}"
    if (longest := known.shape[1]) > MOST_TOKENS:
        return f"a training chunk has {longest} codes, and a small policy learns at most {MOST_TOKENS}"
    return ""


def chunk_errors(scale: Scale, chunks: Tensor, seen: Inputs) -> Tensor:
    """Return the error of each chunk [n, H, m], float64 [n]."""
    truth, valid = seen.windows.batch(seen.rows)
    checks.finite("the policy's actions", chunks)
    gaps = scale.gaps(chunks, truth).square().mean(-1) * valid
    return (gaps.sum(1) / valid.sum(1).clamp_min(1)).double()


def unseen(codes: Tensor, known: Tensor, part: str) -> float:
    """Return the share of rows of codes [n, P] whose first half, or whole, is that of none of the known [N, p].

    Where lengths vary, half of a row is half of its own codes, without the -1 behind them.
    """
    rows, others = ([tuple(row[row >= 0].tolist()) for row in each] for each in (codes, known))
    if part == "half":
        rows = [row[: (len(row) + 1) // 2] for row in rows]
        seen = {row[:length] for length in set(map(len, rows)) for row in others}
    else:
        seen = set(others)
    return sum(row not in seen for row in rows) / max(1, len(rows))


def replaced(tokenizer: ActionTokenizer, codes: Tensor, scale: Scale) -> dict[str, float]:
    """Return by how much a chunk changes, in units of the variance, where one of its codes [n, P] is another one, drawn
    of all codes, in places from a row's first code to its last. `neighbour_error`: by the candidate that changes it
    least; `other_error`: the mean of all."""
    generator = torch.Generator().manual_seed(0)
    nearest, others_too = list[Tensor](), list[Tensor]()
    codes = codes[torch.linspace(0, len(codes) - 1, min(CHUNKS, len(codes))).long()]
    codes = codes[(codes >= 0).any(1)]
    before, last = tokenizer.decode(codes).cpu(), (codes >= 0).sum(1, keepdim=True) - 1  # n 1
    for i in range(count := min(POSITIONS, codes.shape[1])):
        place = i * last // max(1, count - 1)
        others = torch.randint(tokenizer.vocab_size - 1, (len(codes), CANDIDATES), generator=generator)
        others = others + (others >= codes.gather(1, place))  # any but its own
        changed = codes.repeat_interleave(CANDIDATES, 0)
        changed.scatter_(1, place.repeat_interleave(CANDIDATES, 0), others.view(-1, 1))
        gaps = scale.gaps(tokenizer.decode(changed, repair=True).cpu(), before.repeat_interleave(CANDIDATES, 0))
        errors = gaps.square().flatten(1).mean(1).view(-1, CANDIDATES)
        nearest.append(errors.amin(1))
        others_too.append(errors.mean(1))
    return {"neighbour_error": float(torch.cat(nearest).mean()), "other_error": float(torch.cat(others_too).mean())}


def rank_consistency(chunks: Tensor, decoded: Tensor, scale: Scale) -> float:
    """Return the rank correlation, over the nearest of each chunk [n, H, m], of distances before and after coding. A
    chunk whose nearest are all equally far has no ranks to keep; 0 where all decode to the same."""
    rows = torch.linspace(0, len(chunks) - 1, min(RANKED, len(chunks))).long()
    sizes = scale.normalizer.scale
    exact = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")  # equal chunks have no distance
    before, after = (exact(each, each) for each in ((x[rows] / sizes).flatten(1) for x in (chunks, decoded)))
    near = before.topk(min(NEIGHBOURS + 1, len(before)), largest=False).indices[:, 1:]
    there = [each.gather(1, near) for each in (before, after)]
    ranks = [torch.sign(each[:, :, None] - each[:, None]).sum(2).double() for each in there]  # of equals the mean one
    ranks = [each[ranks[0].any(1)] for each in ranks]
    spread = ranks[0].norm(dim=1) * ranks[1].norm(dim=1)
    return float(((ranks[0] * ranks[1]).sum(1) / spread.clamp_min(1e-12)).mean().nan_to_num(0.0))


def _section(figures: dict[str, float], gain: Interval | None) -> Section:
    names = {
        "": "tokenizer, likeliest codes",
        "/draws": f"tokenizer, mean of {BY_MEAN['draws']} drawn chunks",
        "/regression": "regression, no tokenizer",
        "/mean": "mean action",
    }
    rows = tuple(
        TableRow(key.removeprefix("/") or "model", name, (figures[f"policy_error{key}"],), key not in ("", "/draws"))
        for key, name in names.items()
    )
    said = "" if gain is None else f" The difference to regression lies between {gain[0]:.3g} and {gain[1]:.3g}."
    errors = Table("Error of a small policy's actions", ("error",), rows, better="lower")
    row = TableRow("model", "tokenizer", tuple(map(figures.get, BEHIND)), control=False)
    more = Table("What may lie behind it", tuple(BEHIND.values()), (row,), folded=True)
    return Section(TITLE, f"{ABOUT}{said}", (errors, more))


def _decision(codec: Mapping[str, float], figures: Mapping[str, float], worth: Interval | None) -> Decision:
    """Judge by what acting by the codes keeps of the gain over the mean action, which must be `worth` something."""
    likeliest, drawn, other, mean = (figures[f"policy_error{of}"] for of in ("", "/draws", "/regression", "/mean"))
    if codec["normalised_mse"] >= codec["normalised_mse/mean"]:
        return replace(codec_decision(codec), weight=25)
    said = f"Without codes a policy errs by {other:.3g}, the mean action by {mean:.3g}"
    if worth is None:
        return Decision(25, None, f"Unclear: {FEW_EPISODES}. {said}, with codes by {likeliest:.3g}.")
    if above_zero(mean - other, worth) is not True:
        text = f"Unclear: there is too little to learn from. {said}."
        return Decision(25, None, text, caveats=False)
    if (own := min(likeliest, drawn)) >= mean:
        text = f"No: a policy that acts by its codes errs by {own:.3g} of the variance of actions, the mean action by"
        return Decision(25, False, f"{text} {mean:.3g}.", caveats=False)
    kept, policy = (mean - own) / (mean - other), "A policy that acts by its codes"
    said = f"Yes. {policy}"
    if kept < LEAST_KEPT:
        share = f"keeps only {math.floor(100 * kept)} % of what a policy without codes gains over the mean action"
        said = f"No: {policy.lower()} {share}. It"
    ways = {"the likeliest codes": likeliest, f"the mean of {BY_MEAN['draws']} drawn chunks": drawn}
    (better, _), (second, worse) = sorted(ways.items(), key=lambda each: each[1])
    errs = f"will err by {own:.3g} of the variance of actions if it acts by {better} ({worse:.3g} by {second}), "
    errs += f"one that regresses them by {other:.3g}"
    text = f"{said} {errs}, the mean action by {mean:.3g}. Decoding the right codes {codec_loss(codec)}"
    return Decision(25, kept >= LEAST_KEPT, text)
