"""A model's answers to a task, judged in memory."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

from dlm.api import CacheLike, DrafterLike, SamplerLike, ready
from dlm.engine.calls import checked_call
from dlm.errors import SettingsError
from dlm.evaluation.asking import FORMS, Asker, Query, decoded, has_template
from dlm.evaluation.identity import Questions
from dlm.evaluation.sample import Sample
from dlm.evaluation.tally import figures
from dlm.models.language_model import LanguageModel
from dlm.prompts import whole_number
from dlm.tasks.base import Task
from dlm.tasks.checks import checked_task
from dlm.tasks.registry import metric, open_task
from dlm.trace import Recorder
from dlm.words import not_among, visible

_SHOWN = (
    "forwards",
    "token_forwards",
    "tokens",
    "tokens_per_forward",
    "canvas_tokens_per_forward",
    "tokens_per_second",
)


@dataclass(frozen=True)
class Evaluation(Sequence[Sample]):
    """The judged answers to a task's questions, in their order.

    Attributes:
        samples: a :class:`dlm.evaluation.sample.Sample` per question.
        task: the task's name.
        metric: what its score measures.
    """

    samples: tuple[Sample, ...]
    task: str
    metric: str

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The means, as ``metrics.json`` of a run holds them (:func:`dlm.evaluation.tally.figures`)."""
        return figures(self.samples)

    @property
    def score(self) -> float:
        """The mean score, from 0 to 1."""
        return float(self.figures["accuracy"])

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the score."""
        return self.figures["accuracy_low"], self.figures["accuracy_high"]

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``, a row per question. Raises SettingsError: pandas is not installed."""
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise SettingsError("to_pandas() needs the package pandas: pip install pandas") from error
        return pandas.DataFrame([vars(sample) for sample in self.samples])

    def report(self) -> str:
        """Score, interval, cost and errors as a table of text."""
        return "\n".join(f"{name:<26} {said}" for name, said in self._lines())

    def _lines(self) -> list[tuple[str, str]]:
        low, high = self.interval
        score = f"{self.score:.3f} [{low:.3f}, {high:.3f}]"
        lines = [
            ("task", visible(self.task)),
            ("questions", str(len(self))),
            (f"score ({visible(self.metric)})", score),
        ]
        lines += [("strict score", f"{strict:.3f}")] if (strict := self.figures["accuracy_strict"]) is not None else []
        lines += [(name.replace("_", " "), f"{self.figures[name]:.2f}") for name in _SHOWN]
        return lines + [(f"error: {visible(name)}", str(count)) for name, count in self.figures["errors"].items()]

    def _repr_html_(self) -> str:
        cells = (f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in self._lines())
        return f"<table>{''.join(cells)}</table>"

    def __repr__(self) -> str:
        return f"<{self.task}: {self.score:.3f} over {len(self)} questions>"

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __getitem__(self, at: Any) -> Any:
        return self.samples[at]


@checked_call
def evaluate(
    model: LanguageModel | str | Path,
    task: Task | str,
    *,
    sampler: SamplerLike,
    cache: CacheLike = None,
    drafter: DrafterLike = None,
    n: int | None = 100,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    form: str = "auto",
) -> Evaluation:
    """Ask a model that is loaded already, and keep the judged answers in memory: what ``dlm eval`` would write.

    Args:
        model, sampler, cache, drafter: as in :func:`dlm.generate`; names are looked up.
        task: a name, what ``dlm.tasks.open`` gives, or an object of yours (docs/write_a_task.md).
        n: the first so many questions; None: all there are.
        max_new_tokens: positions to fill; None: the task's own.
        batch_size, seed: neither changes what is asked; the batch changes no answer.
        form: ``chat``, ``text``, ``one_turn`` or ``infill``; ``auto``: a chat where the model has a template.

    Raises:
        SettingsError: an unknown name, a value out of range, settings that do not go together.
        DlmError: a question that cannot be answered.
    """
    model, task = ready(model), open_task(task) if isinstance(task, str) else checked_task(task)
    if form not in FORMS:
        raise SettingsError(not_among("form", form, FORMS))
    if n is None and task.size is None:
        raise SettingsError(f"task {task.name} has no end: say how many questions, n=100")
    count = min(x for x in (None if n is None else whole_number("n", n, 1), task.size) if x is not None)
    if form == "auto":
        form = "chat" if has_template(model) else "text"
    canvas = task.canvas if max_new_tokens is None else whole_number("max_new_tokens", max_new_tokens, 1)
    asker, seed = Asker(model, task, form, canvas), whole_number("seed", seed)
    queries = [Query(instance, index, seed) for index, instance in enumerate(Questions(task).first(count))]
    faults: list[BaseException] = []
    decoder = asker.decoder(sampler, cache, drafter)
    size = whole_number("batch_size", batch_size, 1)
    rows = decoded(asker, queries, decoder, size, Recorder(()), lambda _, fault: faults.append(fault))
    with ThreadPoolExecutor(int(getattr(task, "parallel", 1))) as judges:
        answers = [
            (row, text, judges.submit(task.judge, queries[row.index].instance, text))
            for row in chain.from_iterable(rows)
            for text in [asker.text(row)]
        ]
        judged = [asker.sample(queries[row.index], row, text, verdict.result()) for row, text, verdict in answers]
    if faults:
        raise faults[0]
    return Evaluation(tuple(sorted(judged, key=lambda sample: sample.index)), task.name, metric(task))


@checked_call
def score(
    model: LanguageModel | str | Path,
    task: Task | str,
    sampler: SamplerLike,
    *,
    n: int = 100,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """The figures alone of :func:`evaluate`."""
    found = evaluate(model, task, sampler=sampler, n=n, max_new_tokens=max_new_tokens, batch_size=batch_size)
    return found.figures
