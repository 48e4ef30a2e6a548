"""Do latents compose, reverse and carry over? Tables, figures and verdicts."""

from __future__ import annotations

from lattok.evaluation.latent import Evidence
from lattok.evaluation.report import Part, Row, Section, Table, Verdict, percent, printed
from lattok.evaluation.structure import Law, Match, structure
from lattok.evaluation.transfer import Agreement, Transfer, transfer

HOLDS = 0.5  # share of variance that a law has to explain
STRUCTURE_REFERENCES = (
    "Rybkin et al. 2019, Learning what you can do before doing anything (composable latents)",
    "Schmidt & Jiang 2024, LAPO: learning to act without actions",
)
TRANSFER_REFERENCES = (
    "Chen et al. 2024, IGOR: image-goal representations",
    "Gao et al. 2025, AdaWorld: learning adaptable world models with latent actions",
    "Zhu et al. 2017, CycleGAN (cycle consistency)",
)


def structure_part(evidence: Evidence) -> Part:
    """Additivity and reversal."""
    found = structure(evidence)
    laws = {"additivity": found.additivity, "reversal": found.reversal}
    figures: dict[str, float] = {}
    tables, verdicts = [], []
    for name, law in laws.items():
        if law is None:
            continue
        figures |= {f"{name}/{key}": match.explained for key, match in _rows(law)}
        figures |= {f"{name}_scaled/{key}": match.scaled for key, match in _rows(law)}
        tables.append(_law_table(name, law))
        verdicts.append(_law_verdict(name, law))
    stride = evidence.held_out.frames.stride
    text = (
        f"Additivity: a and c are one stride apart ({stride} frames), b is halfway; half strides are shorter than what "
        "the model was trained on, but no motion is larger than it has seen. Reversal: the same two frames in the "
        "other order. Each kind of latent is centred by its own mean, so that a constant offset is forgiven; "
        "“best factor” also forgives a wrong size. Neither law is needed to supervise a policy with codes; both are "
        "needed to add latents up, to interpolate, or to undo. "
    )
    if found.additivity is None:
        text += "Additivity is not applicable: a stride of one frame has no middle."
    reading = " ".join(f"{verdict.text}." for verdict in verdicts)
    section = Section("Do latents add up and reverse?", text.strip(), tuple(tables), (), reading, STRUCTURE_REFERENCES)
    return Part(section, figures, verdicts)


def _rows(law: Law) -> list[tuple[str, Match]]:
    rows = [("model", law.model), ("random", law.random), ("untrained", law.untrained), ("raw_change", law.raw)]
    return [(key, match) for key, match in rows if match is not None]


def _law_table(name: str, law: Law) -> Table:
    titles = {
        "model": "latents before quantization",
        "random": "latents of other clips (random pairing)",
        "untrained": "untrained model",
        "raw_change": "raw frame change (exact by definition)",
    }
    rows = [
        Row(
            key,
            titles[key],
            (match.explained, match.relative_error, match.scaled, match.factor),
            key != "model",
            key == "raw_change",
        )
        for key, match in _rows(law)
    ]
    title = {
        "additivity": "Additivity: z(a→c) from z(a→b) + z(b→c)",
        "reversal": "Reversal: z(c→a) from −z(a→c)",
    }[name]
    columns = ("explained variance", "relative error", "explained, best factor", "best factor")
    return Table(title, columns, tuple(rows), digits=".2f")


def _law_verdict(name: str, law: Law) -> Verdict:
    holds = law.model.explained >= HOLDS
    law_text = {
        "additivity": "Latents of two half strides {} the latent of the whole one: the sum explains",
        "reversal": "Latents of reversed pairs {} the negative ones, which explain",
    }[name].format({"additivity": ("add up to", "do not add up to"), "reversal": ("are", "are not")}[name][not holds])
    text = (
        f"{law_text} {_share(law.model.explained)} of its variance"
        f" (with latents of other clips {_share(law.random.explained)}; scaled to fit best {_share(law.model.scaled)})"
    )
    if name == "reversal":
        text = text.replace("of its variance", "of their variance")
    return Verdict(text, holds, {"additivity": "additive", "reversal": "reversible"}[name])


def _share(explained: float) -> str:
    """A share of variance; what is further off than the mean explains none of it."""
    return percent(explained) if explained > 0 else "none"


def transfer_part(evidence: Evidence) -> Part:
    """Latents of one clip applied to another."""
    found = transfer(evidence)
    rows = {
        "model": ("A's latent in B, encoded again", found.transferred),
        "own": ("B's own latent, nothing transferred", found.own),
        "random": ("latent of a third pair", found.random),
        "same_scene": ("A's latent in A, encoded again", found.same_scene),
    }
    figures: dict[str, float] = {}
    for key, (_, agreement) in rows.items():
        for name in ("latents", "codes", "action"):
            if (value := getattr(agreement, name)) is not None:
                figures[f"transfer_{name}/{key}"] = value
    if found.own_action is not None:
        figures["transfer_action/of_b"] = found.own_action
    verdict = _transfer_verdict(found)
    text = (
        "The decoder applies the latent action of pair A to the current frame of pair B, and the encoder reads the "
        "result. If latents mean the same everywhere, A's latent comes back. Beside it: what B's own latent and that "
        "of a third pair have in common with A's, and, for scale, the same cycle within A. The environment stream, "
        "where there is one, stays B's. An encoder and a decoder can agree on a private language, so A's action is "
        "also read from what comes back, by the probe fitted on true latents."
    )
    section = Section(
        "Does a latent mean the same in another scene?",
        text,
        (_transfer_table(rows, found),),
        (),
        f"{verdict.text}.",
        TRANSFER_REFERENCES,
    )
    return Part(section, figures, [verdict])


def _transfer_verdict(found: Transfer) -> Verdict:
    back, own = found.transferred.latents, found.own.latents
    holds = back >= HOLDS and back > own
    word = "comes back" if holds else "comes back only in part" if back > max(own, 0) else "does not come back"
    text = (
        f"A latent applied to another clip {word}: {_share(back)} of its "
        f"variance (of the other clip's own latent {_share(own)}, in the same clip {_share(found.same_scene.latents)})"
    )
    if found.transferred.action is not None:
        text += f"; R² of its action {printed(found.transferred.action, '.2f')}"
    return Verdict(text, holds, "transfers")


def _transfer_table(rows: dict[str, tuple[str, Agreement]], found: Transfer) -> Table:
    shown = [("explained variance of A's latent", "latents")]
    if found.transferred.codes is not None:
        shown.append(("codes equal to A's", "codes"))
    if found.transferred.action is not None:
        shown.append(("R² of A's action", "action"))
    lines = [
        Row(key, title, tuple(getattr(each, name) for _, name in shown), key != "model", key == "same_scene")
        for key, (title, each) in rows.items()
    ]
    note = (
        ""
        if found.own_action is None
        else f"R² of B's action from what comes back: {printed(found.own_action, '.2f')}."
    )
    columns = tuple(title for title, _ in shown)
    return Table("Cycle consistency", columns, tuple(lines), better="higher", digits=".2f", note=note)
