"""Are decoded actions as smooth as true ones? Mean squared difference of successive steps, of true ones: 1."""

from lattok.evaluation import Criterion, Outcome, Section, Table, TableRow, Verdict, advise, question

SMOOTH = Criterion(
    "smooth",
    advice=advise("Let the decoder see the whole chunk ({decoder}).", decoder="context"),
    caveat="its actions jump from step to step",
    recipe="action-vq",  # what to train instead of a model that lattok did not train
)
MOST = 1.5


@question("smoothness", of=("chunks",), criteria=(SMOOTH,))
def smoothness(evidence):
    true = evidence.windows.all().chunks.diff(dim=1).square().mean()  # n h m
    own = float(evidence.decoded.diff(dim=1).square().mean() / true)
    rows = [TableRow("model", "tokenizer", (own,), control=False)]
    if evidence.kmeans is not None:  # [F, m], of every held-out action
        control = float(evidence.kmeans.diff(dim=0).square().mean() / true)
        rows.append(TableRow("kmeans", "k-means at equal bits", (control,)))
    table = Table("Squared difference of successive steps", ("of true ones",), tuple(rows), better="lower")
    verdict = Verdict(f"Decoded actions are {own:.2f} times as rough as true ones", own < MOST, SMOOTH)
    text = "If decoded actions jump from step to step, the robot shakes."
    section = Section("Are decoded actions as smooth as true ones?", text, (table,), (), f"{verdict.text}.")
    return Outcome((section,), {"roughness": own}, [verdict])
