"""A probe of one's own: what would the model say if this token were there?

    python examples/write_a_probe.py

Tokens committed in the same forward do not know of one another. A probe asks about versions of a row that it is not
in; one forward answers for the row and all of them. Here the version has the two surest tokens that the selector left
open, and the row becomes it where that makes the model surer of everything else. docs/write_a_probe.md has the rest.
"""

from dataclasses import dataclass

import torch

import dlm
import samplers
from dlm.speculation.probes import Choice, Edits, Probe


@dataclass(frozen=True)
class IfThoseWereThere(Probe):
    """One version beside the row: with the ``edits`` surest tokens that were left open at the last step."""

    edits: int = 2

    @property
    def versions(self):
        return 1

    def init(self, canvas):  # no edits yet: the scratch column stands for none
        nowhere = canvas.start.new_full((len(canvas.start), self.edits), canvas.scratch)
        return nowhere, torch.zeros_like(nowhere), torch.zeros_like(nowhere, dtype=torch.float64)

    def propose(self, canvas, blocks, state):
        return Edits(*(x[:, None] for x in state))  # positions, tokens, probabilities: [rows, versions, edits]

    def choose(self, views, state):
        # Compare the two on the positions that are open in both. Sums that are compared go through float64.
        left = views.eligible.all(dim=1, keepdim=True)
        sure = (views.proposal.prob.double() * left).sum(dim=2)
        return Choice((views.exists[:, 1] & (sure[:, 1] > sure[:, 0])).long())

    def learn(self, view, chosen, state):  # what the next step asks about
        sure = view.proposal.prob.double().masked_fill(~view.eligible | chosen, -1.0)
        sure, best = sure.topk(min(self.edits, sure.shape[1]), dim=1)
        position = view.positions.gather(1, best).masked_fill(sure < 0, view.canvas.scratch)
        return position, view.proposal.token.gather(1, best), sure


if __name__ == "__main__":
    model = dlm.load("tiny")
    print("20 questions each: score, forwards an answer, positions fed an answer")
    parts = samplers.Probability(), samplers.Threshold(0.9), samplers.Fixed(16)
    asked = {"without": None, "one token": IfThoseWereThere(1), "two tokens": IfThoseWereThere(2)}
    for task in ("waiting_line/shuffle", "arithmetic/addition"):
        for name, probe in asked.items():
            told = dlm.evaluate(model, task, sampler=dlm.Sampler("mine", *parts, probe=probe), n=20).figures
            numbers = f"{told['accuracy']:5.2f} {told['forwards']:5.1f} {told['token_forwards']:7.0f}"
            print(f"{task:22} {name:11} {numbers}")
