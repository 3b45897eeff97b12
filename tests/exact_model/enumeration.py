"""Every course the decode loop can take, with exact probabilities: the loop runs, its noise is scripted.

A script says what the noise is at each step of a row. Rows are replayed with every script, and a script is made longer
by every choice that the state it leads to allows; how likely a choice is comes from the answers, in fractions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from unittest import mock

import torch
from torch import Tensor

from dlm.api import prompt_job
from dlm.engine.loop import Decoder, StepEvent
from dlm.engine.sampler import Sampler
from dlm.exact_model import SolvedQuestion, oracle_model
from dlm.exact_model.rollouts import given, tokenizer_of
from dlm.exact_model.trajectories import Canvas, consistent, marginals


@dataclass(frozen=True)
class Noise:
    """The noise of one step, by slot: what orders positions, what draws a token, which of equal tokens is taken."""

    order: dict[int, float] = field(default_factory=dict)
    draw: dict[int, float] = field(default_factory=dict)
    tie: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    """A state that was reached, how likely it is, and a script that leads to it."""

    weight: Fraction
    canvas: Canvas
    script: tuple[Noise, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """Probability of a right answer, of any answer at all, and of each number of forwards of right ones."""

    right: Fraction
    all: Fraction
    forwards: dict[int, Fraction]


class Engine:
    """One question and one sampler in the real loop.

    ``reads_tokens``: the choice of positions depends on the tokens proposed (a threshold on drawn ones); else it is
    looked up first and tokens vary at the chosen positions alone.
    """

    def __init__(
        self, question: SolvedQuestion, sampler: Sampler, reads_tokens: bool, order: Sequence[str] | None = None
    ):
        self.question, self.reads_tokens = question, reads_tokens
        self.model = oracle_model([question], order)
        self.tokenizer = tokenizer_of(self.model)
        self.sampler = sampler.bind(self.tokenizer, len(self.tokenizer))
        self.columns = [1 + slot for slot in question.slots]
        self.drawn = sampler.proposer.temperature > 0
        self.ordered = type(sampler.score).__name__ == "Random" or bool(sampler.modifiers)

    def outcome(self) -> Outcome:
        start = Node(Fraction(1), (None,) * len(self.columns))
        nodes, right, every, forwards = [start], Fraction(0), Fraction(0), {}
        while nodes:
            merged: dict[Canvas, Node] = {}
            for node in self._after(nodes):
                known = merged.get(node.canvas)
                merged[node.canvas] = node if known is None else replace(known, weight=known.weight + node.weight)
            nodes = []
            for node in merged.values():
                alive = bool(consistent(self.question.answers, node.canvas))
                if alive and None in node.canvas:
                    nodes.append(node)
                    continue
                every += node.weight
                if alive:
                    right += node.weight
                    forwards[len(node.script)] = forwards.get(len(node.script), Fraction(0)) + node.weight
        return Outcome(right, every, forwards)

    def _after(self, nodes: list[Node]) -> list[Node]:
        """All states one step on."""
        scripts = [(node, noise, share) for node in nodes for noise, share in self._orders(node)]
        if not self.reads_tokens:
            # Where does this order lead? Different orders that choose the same positions are one choice.
            seen = self._run([(*node.script, noise) for node, noise, _ in scripts])
            found: dict[tuple[Canvas, frozenset[int]], tuple[Node, Noise, Fraction]] = {}
            for (node, noise, share), steps in zip(scripts, seen, strict=True):
                key = (node.canvas, steps[len(node.script)][1])
                before = found[key][2] if key in found else Fraction(0)
                found[key] = (node, noise, before + share)
            chosen = [(*entry, key[1]) for key, entry in found.items()]
        else:
            chosen = [(node, noise, share, frozenset(_open(node.canvas))) for node, noise, share in scripts]
        children = [
            (node, node.weight * share * odds, (*node.script, replace(tokens, order=noise.order)))
            for node, noise, share, places in chosen
            for tokens, odds in self._tokens(node, sorted(places))
        ]
        seen = self._run([script for _, _, script in children])
        return [
            Node(weight, steps[len(node.script)][0], script)
            for (node, weight, script), steps in zip(children, seen, strict=True)
        ]

    def _orders(self, node: Node) -> Iterator[tuple[Noise, Fraction]]:
        places = _open(node.canvas)
        if not self.ordered:
            yield Noise(), Fraction(1)
            return
        orders = list(itertools.permutations(range(len(places))))
        for order in orders:
            scores = {place: (rank + 1) / (len(places) + 1) for place, rank in zip(places, order, strict=True)}
            yield Noise(order=scores), Fraction(1, len(orders))

    def _tokens(self, node: Node, places: list[int]) -> Iterator[tuple[Noise, Fraction]]:
        """What may be proposed at these places, and how likely it is."""
        laws = marginals(self.question.answers, node.canvas)
        options = [self._draws(laws[i]) if self.drawn else self._best(laws[i]) for i in places]
        for combination in itertools.product(*options):
            odds = Fraction(1)
            for share, _ in combination:
                odds *= share
            values = dict(zip(places, [value for _, value in combination], strict=True))
            yield (Noise(draw=values) if self.drawn else Noise(tie=values)), odds  # type: ignore[arg-type]

    def _draws(self, law: dict[str, Fraction]) -> list[tuple[Fraction, float]]:
        """Each token with the uniform in the middle of its share, ids ascending."""
        below, found = Fraction(0), []
        for token in sorted(law, key=self.tokenizer.ids.__getitem__):
            found.append((law[token], float(below + law[token] / 2)))
            below += law[token]
        return found

    def _best(self, law: dict[str, Fraction]) -> list[tuple[Fraction, int]]:
        best = [token for token, p in law.items() if p == max(law.values())]
        if not self.sampler.transforms:  # without noise the lowest id wins
            best = [min(best, key=self.tokenizer.ids.__getitem__)]
        return [(Fraction(1, len(best)), self.tokenizer.ids[token]) for token in best]

    def _run(self, scripts: list[tuple[Noise, ...]]) -> list[list[tuple[Canvas, frozenset[int]]]]:
        """Per script and step the canvas after it, and the slots it committed."""
        fixed, width = given(self.model, self.question), len(self.question.layout)
        messages = self.question.instance.messages
        job = prompt_job(self.model, 0, messages, width, fixed)
        jobs = [replace(job, index=i, key=i) for i in range(len(scripts))]
        steps: list[list[tuple[Canvas, frozenset[int]]]] = [[] for _ in scripts]
        decoder = Decoder(self.model.backbone, self.model.description, self.sampler)
        with scripted(scripts, self.columns, len(self.tokenizer)):
            for event in decoder.run(jobs, 512, self.model.device):
                if isinstance(event, StepEvent):
                    self._note(event, steps)
        return steps

    def _note(self, event: StepEvent, steps: list[list[tuple[Canvas, frozenset[int]]]]) -> None:
        tokens = event.view.canvas.tokens[:, self.columns].tolist()
        chosen = event.view.on_canvas(event.chosen, False)[:, self.columns].tolist()
        for row, ids, picked in zip(event.rows, tokens, chosen, strict=True):
            canvas = tuple(self.tokenizer.texts[i] if i else None for i in ids)
            steps[row.job.index].append((canvas, frozenset(i for i, yes in enumerate(picked) if yes)))


def _open(canvas: Canvas) -> list[int]:
    return [i for i, token in enumerate(canvas) if token is None]


@contextmanager
def scripted(scripts: list[tuple[Noise, ...]], columns: list[int], vocabulary: int) -> Iterator[None]:
    """Let the noise be what the scripts say; the key of a row is its place among them."""
    slot_of = {column: slot for slot, column in enumerate(columns)}

    def noise(key: int, step: int) -> Noise:
        script = scripts[key]
        return script[step] if step < len(script) else Noise()

    def fixed(kind: str):
        def uniform(key: Tensor, step: Tensor, purpose: object, positions: Tensor) -> Tensor:
            rows = zip(key.tolist(), step.tolist(), positions.tolist(), strict=True)
            values = [[getattr(noise(k, s), kind).get(slot_of.get(p, -1), 0.5) for p in line] for k, s, line in rows]
            return torch.tensor(values, dtype=torch.float64)

        return uniform

    def ties(key: Tensor, step: Tensor, purpose: object, address: Tensor) -> Tensor:
        values = torch.full(address.shape, 0.25, dtype=torch.float64)
        lines = zip(key.tolist(), step.tolist(), (address[:, 0] // vocabulary).tolist(), strict=True)
        for line, (k, s, column) in enumerate(lines):
            token = noise(k, s).tie.get(slot_of.get(column, -1))
            if token is not None:
                values[line, token] = 0.75
        return values

    with (
        mock.patch("dlm.engine.forward.uniform", fixed("draw")),
        mock.patch("dlm.engine.step.uniform", fixed("order")),
        mock.patch("dlm.exact_model.ties.uniform", ties),
    ):
        yield
