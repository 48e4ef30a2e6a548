"""A question about that evidence: do labels change slowly?"""

from lattok.evaluation import Criterion, Outcome, Section, Table, TableRow, Verdict, question

STEADY = Criterion("steady")


@question("steady", of=("steadiness",), criteria=(STEADY,))
def steady(evidence):
    size = float(evidence.apart.square().mean())
    if not size:
        return None
    share = float(evidence.steps.square().mean()) / size
    table = Table("Squared difference", ("of any two frames",), (TableRow("steps", "steps", (share,), False),))
    verdict = Verdict(f"Steps of the latents are {share:.2f} of the difference of any two frames", share < 1, STEADY)
    return Outcome((Section("Are labels steady?", "", (table,), (), f"{verdict.text}."),), {"steps": share}, [verdict])
