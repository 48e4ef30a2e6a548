"""A question about the labels of video that needs a method which no model of lattok has."""

from typing import Protocol

from lattok.evaluation import Outcome, question


class Explains(Protocol):
    def explain(self, codes): ...


@question("agreement", of=("labels",), needs=(Explains,))
def agreement(evidence):
    return Outcome(figures={"explained": float(len(evidence.case.model.explain(evidence.held_out.latents.codes)))})
