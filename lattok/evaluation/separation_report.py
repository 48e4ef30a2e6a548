"""Does a moving distractor change the labels? Table, figures and verdicts."""

from __future__ import annotations

from lattok.evaluation import pictures
from lattok.evaluation.intervals import Bootstrap
from lattok.evaluation.latent import Evidence
from lattok.evaluation.report import Part, Row, Section, Table, Verdict, percent, printed
from lattok.evaluation.separation import MOST, Carried, Separation, mean_r2, separation

KEEPS = 0.8  # share of the action's R^2 that has to be left
DRAWN = {  # names that fit beside a bar
    "codes": "codes",
    "latents": "latents",
    "env_codes": "env codes",
    "env_latents": "env latents",
    "pca_change": "frame change",
    "untrained": "untrained",
}
REFERENCES = (
    "Nikulin et al. 2025, Latent action learning requires supervision in the presence of distractors",
    "Bu et al. 2025, UniVLA (task-centric and task-irrelevant latent actions)",
)


def separation_part(evidence: Evidence) -> Part:
    """The section, its figures and verdicts."""
    found = separation(evidence)
    carried = {result.key: result for result in found.carried}
    own = carried.get("codes", carried["latents"])
    figures: dict[str, float] = {}
    for result in found.carried:
        for name in ("clean", "distracted", "fixed", "distractor"):
            if (probe := getattr(result, name)) is not None:
                kind = name if name == "distractor" else f"action_{name}"
                figures[f"separation/{kind}/{result.key}"] = mean_r2(probe)
        if result.changed is not None:
            figures[f"separation/changed/{result.key}"] = result.changed
        if result.kept is not None:
            figures[f"separation/action_kept/{result.key}"] = result.kept
    verdicts = [] if own.kept is None else [_action_verdict(own, own.kept, found.bootstrap)]
    if "env_latents" in carried:
        verdicts.append(_distractor_verdict(carried["latents"], carried["env_latents"], found.bootstrap))
    section = Section(
        "Do labels survive something else that moves?",
        "A coloured patch, a quarter of the frame wide, moves over both frames of every pair with a velocity of its "
        f"own, in all cameras alike; {min(MOST[0], len(evidence.train.rows))} training and "
        f"{min(MOST[1], len(evidence.held_out.rows))} held-out pairs are encoded again with it. A linear probe reads "
        "the action from the result, an MLP the patch's motion. What is under the patch is lost to everyone: the "
        "controls say how much. The model was not trained for this patch, unless its own videos held such things.",
        (_table(found),),
        (_picture(found.carried),),
        " ".join([*(f"{verdict.text}." for verdict in verdicts), *_motion_reading(carried)]),
        REFERENCES,
    )
    return Part(section, figures, verdicts)


def _action_verdict(own: Carried, kept: float, bootstrap: Bootstrap) -> Verdict:
    assert own.clean is not None
    assert own.distracted is not None
    span = own.kept_interval(bootstrap)
    between = "" if span is None else f"; {percent(span[0])} … {percent(span[1])}"
    numbers = [printed(mean_r2(probe), ".2f") for probe in (own.distracted, own.clean)]
    text = (
        f"Under a moving distractor the {own.name} keep {percent(kept)} of what they say about the action "
        f"(R² {numbers[0]} of {numbers[1]}{between}); it should be {percent(KEEPS)} at least"
    )
    return Verdict(text, kept >= KEEPS, "action_under_distractors")


def _distractor_verdict(own: Carried, env: Carried, bootstrap: Bootstrap) -> Verdict:
    gain = bootstrap.r2(env.distractor).nanmean(1) - bootstrap.r2(own.distractor).nanmean(1)
    span, values = bootstrap.interval(gain), [mean_r2(each.distractor) for each in (env, own)]
    unclear = span is None or span[0] <= 0 <= span[1]
    holds = None if unclear else values[0] > values[1]
    word = {None: "no clear difference", True: "more than the controllable one", False: "less than it"}[holds]
    shown = [printed(value, ".2f") for value in values]
    text = (
        f"Of the distractor's motion the environment stream's latents carry R² {shown[0]}, the controllable stream's "
        f"{shown[1]}: {word}"
    )
    return Verdict(text, holds, "env_takes_distractor")


def _motion_reading(carried: dict[str, Carried]) -> list[str]:
    """What a single stream sees of the patch, which no verdict is about."""
    if "env_latents" in carried:
        return []
    shown = [printed(mean_r2(carried[key].distractor), ".2f") for key in ("latents", "pca_change")]
    return [f"The latents carry R² {shown[0]} of the distractor's motion, the raw frame change {shown[1]}."]


def _table(found: Separation) -> Table:
    actions = found.carried[0].clean is not None
    columns = (
        "action, without it",
        "action, with it",
        "share kept",
        "action, old probe",
        "motion of the distractor",
        "changed by it",
    )
    rows = []
    for r in found.carried:
        probes = (r.clean, r.distracted, None, r.fixed, r.distractor, None)
        values = [None if p is None else mean_r2(p) for p in probes]
        spans = [None if p is None else found.bootstrap.interval(found.bootstrap.r2(p).nanmean(1)) for p in probes]
        values[2], spans[2], values[5] = r.kept, r.kept_interval(found.bootstrap), r.changed
        first = 0 if actions else 4
        rows.append(Row(r.key, r.name, tuple(values[first:]), r.control, intervals=tuple(spans[first:])))
    return Table(
        "R² with a moving distractor",
        columns if actions else columns[4:],
        tuple(rows),
        digits=".2f",
        note="Action with it: the probe is fitted anew on frames with the patch, so that it asks whether the action is "
        "still there. Old probe: fitted without the patch, judged with it: whether the labels still mean the same. "
        "Changed by it: squared change of the labels ÷ their variance; 0 is untouched, 2 as far as another pair's.",
    )


def _picture(results: list[Carried]) -> pictures.Pictures:
    return pictures.separation_bars(
        [
            (
                DRAWN[r.key],
                "control" if r.control else "model",
                None if r.distracted is None else mean_r2(r.distracted),
                mean_r2(r.distractor),
            )
            for r in results
        ]
    )
