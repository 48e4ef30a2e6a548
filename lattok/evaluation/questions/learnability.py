"""How well can a policy act by the codes of an action tokenizer?

    policy error = mean over valid steps and dimensions of ((decode(c^) - a) / σ)^2     c^: codes that a policy chose

The policy is small, sees state and instruction alone, and learns for the same number of steps whatever the tokenizer
(`reference_policy`); its control regresses the chunk. Beside it what is thought to matter: how often a choice of codes
begins as no training chunk does, how far one replaced code moves a chunk, and whether chunks that are near one another
stay so (OAT; ProAct; ActionPiece: their definitions in words, where these are all that is published).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lattok.evaluation.evidence.probes import Bootstrap, above_zero
from lattok.evaluation.evidence.reference_policy import ReferencePolicy, Seen, what_is_seen
from lattok.evaluation.evidence.tokenizer_evidence import Scale, TokenizerEvidence
from lattok.evaluation.questions import question
from lattok.evaluation.questions.reconstruction import codec_decision
from lattok.evaluation.report import Criterion, Decision, Interval, Outcome, Section, Table, TableRow, Verdict
from lattok.types import ActionTokenizer

ACTED_BY = Criterion(
    "acted_by",
    "Compare with other families and with fewer codes of a chunk: lattok compare.",
    elsewhere="Train a tokenizer on this dataset, and compare them: lattok compare.",
)
CHUNKS, POSITIONS, CANDIDATES = 64, 8, 32  # whose codes are replaced, by how many others
RANKED, NEIGHBOURS = 256, 16  # chunks, and those near each of them


class Acted(NamedTuple):
    """The error of chunks by row [n], and their mean."""

    rows: Tensor
    mean: float


@question("learnability", of=("chunks",), criteria=(ACTED_BY,), place=5)
def learnability_outcome(evidence: TokenizerEvidence) -> Outcome | None:
    """Train the reference policy with the tokenizer and without one, and let both act on held-out windows."""
    case, tokenizer = evidence.case, evidence.case.model
    both = what_is_seen(case, evidence.training, evidence.windows)
    if both is None or tokenizer.vocab_size < 2:
        return None
    train, held_out = both
    scale, known, meant = evidence.scale, evidence.known, evidence.codes[held_out.rows]
    found, codes = dict[str, Acted](), torch.empty(0)
    for name, chosen in (("model", tokenizer), ("regression", None)):
        torch.manual_seed(case.options.seed)
        policy = ReferencePolicy(train.inputs.shape[1], tokenizer.action_dim, tokenizer.horizon, chosen)
        policy.fit(train, known, scale.normalizer, case.options.seed)
        chunks, made = policy.act(held_out, scale.normalizer)
        codes = codes if made is None else made
        found[name] = _error(scale, chunks, held_out)
    truth, valid = held_out.windows.batch(held_out.rows)
    found["mean"] = _error(scale, train.windows.actions.mean(0).expand_as(truth), held_out)
    bootstrap = Bootstrap(held_out.windows.episode_of[held_out.rows.numpy()], case.options.seed)
    gain = bootstrap.interval(bootstrap.mean(found["regression"].rows - found["model"].rows))
    figures = {f"policy_error{'' if name == 'model' else f'/{name}'}": each.mean for name, each in found.items()}
    if (span := bootstrap.interval(bootstrap.mean(found["model"].rows))) is not None:
        figures |= {"policy_error_low": span[0], "policy_error_high": span[1]}
    figures |= {f"unseen_prefixes_{part}": unseen(codes, known, part) for part in ("half", "whole")}
    figures |= replaced(tokenizer, meant, scale)
    whole = valid.all(1)
    figures["rank_consistency"] = rank_consistency(truth[whole], evidence.decoded[held_out.rows][whole], scale)
    own, other = figures["policy_error"], figures["policy_error/regression"]
    text = f"A policy that acts by its codes errs by {own:.3g}, one that regresses actions by {other:.3g}"
    verdict = Verdict(text, above_zero(other - own, gain), ACTED_BY)
    return Outcome((_section(figures, gain),), figures, [verdict], _decision(evidence, figures), f"{text}.")


def _error(scale: Scale, chunks: Tensor, seen: Seen) -> Acted:
    truth, valid = seen.windows.batch(seen.rows)
    gaps = ((chunks - truth) / scale.normalizer.scale).square().mean(-1) * valid
    rows = (gaps.sum(1) / valid.sum(1).clamp_min(1)).double()
    return Acted(rows, float(rows.mean()))


def unseen(codes: Tensor, known: Tensor, part: str) -> float:
    """Return the share of rows of codes [n, P] whose first half, or whole, is that of none of the known [N, p]."""
    width = min(codes.shape[1], known.shape[1])
    length = width if part == "whole" else (width + 1) // 2
    seen = set(map(tuple, known[:, :length].tolist()))
    return sum(tuple(row) not in seen for row in codes[:, :length].tolist()) / max(1, len(codes))


def replaced(tokenizer: ActionTokenizer, codes: Tensor, scale: Scale) -> dict[str, float]:
    """Return by how much a chunk changes, in units of the variance, where one of its codes [n, P] is another one.

    `neighbour_error`: the candidate that changes it least; `other_error`: the mean over candidates, drawn of all codes.
    """
    generator = torch.Generator().manual_seed(0)
    nearest, all_of_them = list[Tensor](), list[Tensor]()
    codes = codes[torch.linspace(0, len(codes) - 1, min(CHUNKS, len(codes))).long()]
    before = tokenizer.decode(codes).cpu()
    for place in torch.linspace(0, codes.shape[1] - 1, min(POSITIONS, codes.shape[1])).long().tolist():
        there = codes[:, place] >= 0
        if not bool(there.any()):
            continue
        others = torch.randint(tokenizer.vocab_size - 1, (int(there.sum()), CANDIDATES), generator=generator)
        others = others + (others >= codes[there, place, None])  # any but its own
        changed = codes[there].repeat_interleave(CANDIDATES, 0)
        changed[:, place] = others.flatten()
        gaps = (
            tokenizer.decode(changed, repair=True).cpu() - before[there].repeat_interleave(CANDIDATES, 0)
        ) / scale.normalizer.scale
        errors = gaps.square().flatten(1).mean(1).view(-1, CANDIDATES)
        nearest.append(errors.amin(1))
        all_of_them.append(errors.mean(1))
    return {
        "neighbour_error": float(torch.cat(nearest).mean()),
        "other_error": float(torch.cat(all_of_them).mean()),
    }


def rank_consistency(chunks: Tensor, decoded: Tensor, scale: Scale) -> float:
    """Return the rank correlation, over the nearest of each chunk [n, H, m], of distances before and after coding."""
    rows = torch.linspace(0, len(chunks) - 1, min(RANKED, len(chunks))).long()
    sizes = scale.normalizer.scale
    before, after = (torch.cdist(each, each) for each in ((x[rows] / sizes).flatten(1) for x in (chunks, decoded)))
    near = before.topk(min(NEIGHBOURS + 1, len(before)), largest=False).indices[:, 1:]
    ranks = [each.gather(1, near).argsort(1).argsort(1).double() for each in (before, after)]
    centred = [each - each.mean(1, keepdim=True) for each in ranks]
    spread = centred[0].square().sum(1).clamp_min(1e-12)
    return float(((centred[0] * centred[1]).sum(1) / spread).mean())


def _section(figures: dict[str, float], gain: Interval | None) -> Section:
    names = {"": "tokenizer", "/regression": "regression, no tokenizer", "/mean": "mean action"}
    rows = tuple(
        TableRow(key.removeprefix("/") or "model", name, (figures[f"policy_error{key}"],), bool(key))
        for key, name in names.items()
    )
    said = "" if gain is None else f" The difference to regression lies between {gain[0]:.3g} and {gain[1]:.3g}."
    errors = Table("Error of a small policy's actions", ("error",), rows, better="lower")
    columns = {
        "unseen_prefixes_half": "half of the codes as in no training chunk",
        "unseen_prefixes_whole": "all codes as in none",
        "neighbour_error": "error of a near code",
        "other_error": "of any other code",
        "rank_consistency": "ranks kept",
    }
    row = TableRow("model", "tokenizer", tuple(figures[name] for name in columns), control=False)
    more = Table("What may lie behind it", tuple(columns.values()), (row,), folded=True)
    text = (
        "What a policy decodes counts, not what the encoder knew. A small network sees state and instruction and "
        "predicts the codes one after another; a chunk that it gets wrong costs what its codes decode to. Errors are "
        "divided by the variance of training actions, over held-out chunks. Without images neither way is good; the "
        f"difference is the tokenizer's.{said}"
    )
    return Section("Can a policy act by it?", text, (errors, more))


def _decision(evidence: TokenizerEvidence, figures: dict[str, float]) -> Decision:
    own, other = figures["policy_error"], figures["policy_error/regression"]
    codec = codec_decision(evidence)
    if own >= figures["policy_error/mean"]:
        return Decision(25, False, "No: a policy that acts by its codes errs more than the mean action.", caveats=False)
    text = f"A policy will err by {own:.3g} of the variance of actions, one that regresses them by {other:.3g}."
    return replace(codec, weight=25, text=f"{codec.text} {text}")
