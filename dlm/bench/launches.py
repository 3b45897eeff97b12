"""``dlm bench launches``: what a step asks of a GPU, counted without one.

The parts decode on the pretended device of :mod:`dlm.bench.counting`, with a narrow model that has the layers of the
shape asked for: how many kernels a step launches depends on its layers and not on their width. Beside the counts stand
the time that launching alone takes, at 5 and 10 microseconds a kernel, and the time the card needs to read the weights.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dlm.bench import engine
from dlm.bench.counting import CountingDevice, Tally
from dlm.bench.engine import Cell, Contender, Measured, random_rounds
from dlm.bench.limits import forward_cost
from dlm.bench.samplers import bound
from dlm.bench.tables import Column, table
from dlm.engine.interfaces import Cache
from dlm.engine.loop import Decoder, StepEvent
from dlm.engine.sampler import Sampler
from dlm.errors import DlmError, SettingsError
from dlm.models import LanguageModel, load, random_model
from dlm.models.untrained import SHAPES
from dlm.speculation import FreeDave
from dlm.words import unknown_name

# Bytes a second that a card reads from its memory, by its maker.
CARDS = {"a100": 2.04e12, "h100": 3.35e12, "h200": 4.8e12, "b200": 8.0e12}
PARTS = ("body", "head", "outside")
NO_DRAFTS = "none"


@dataclass(frozen=True, kw_only=True)
class LaunchesBenchSettings(engine.Settings):
    """Settings of the count, those of ``conf/bench_launches.yaml``, which explains them.

    Raises:
        SettingsError: also an unknown shape, card or kind of drafts.
    """

    MAY_BE_ZERO: ClassVar[Sequence[str]] = ("warmup",)
    shape: str = "llada-8b"
    card: str = "h200"
    batches: Sequence[int] = (1,)
    drafting: Sequence[Any] = (NO_DRAFTS,)
    prompt: int = 64
    new: int = 32
    warmup: int = 2
    steps: int = 3
    dtype: str | None = "bfloat16"
    detail: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (("shape", self.shape, SHAPES), ("card", self.card, CARDS)):
            if value not in known:
                raise SettingsError(unknown_name(name, value, known))
        for length in self.drafting:
            if length not in (NO_DRAFTS, "auto") and (type(length) is not int or length < 1):
                raise SettingsError(f"drafting must name none, auto or draft lengths from 1 on, got {length!r}")


def bench_launches(
    settings: LaunchesBenchSettings, samplers: Mapping[str, Sampler | str], caches: Mapping[str, Cache | str]
) -> dict[str, Any]:
    """Count every combination; prints a table and returns (and prints, as the last line) all figures.

    Args:
        settings: what is counted.
        samplers, caches: name -> the part, or the reason why it could not be built.
    """
    cases = list(_cases(settings, samplers, caches))
    refused = {name: why for group in (samplers, caches) for name, why in group.items() if isinstance(why, str)}
    figures, console = [], Console()
    model = narrow(SHAPES[settings.shape]().architecture().layers, settings.dtype, settings.shape)
    shown = track(cases, "counting", console=Console(stderr=True), transient=True)
    for labels, contender, batch in shown:
        try:
            figures.append(_measured(settings, model, labels, contender, batch))
        except DlmError as error:
            refused[" ".join(map(str, labels[:3]))] = str(error)
    console.print(_table(settings, figures))
    if settings.detail:
        for f in figures:
            console.print(_lines(f))
    for name, why in refused.items():
        console.print(f"refused: {name}: {why}", soft_wrap=True, markup=False, highlight=False)
    rows = [{k: v for k, v in vars(f).items() if k != "lines"} for f in figures]
    result = {"settings": asdict(settings), "rows": rows, "refused": refused}
    print(json.dumps(result))
    return result


# What is narrow in a narrow model, by the names of all families; experts stay as many as they are.
_NARROW = {
    "d_model": 32, "hidden_size": 32, "n_heads": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
    "mlp_hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 16, "expert_intermediate_size": 16,
    "max_sequence_length": 4096, "max_position_embeddings": 4096, "rotary_dim": None,
}  # fmt: skip


def narrow(layers: int, dtype: str | None, shape: str = "llada-8b") -> LanguageModel:
    """A model of the family of ``shape`` with so many layers on which counting is quick, with the packaged tokenizer's
    ids."""
    vocabulary, config = load("tiny", device="cpu").description.vocab_size + 2, SHAPES[shape]
    small: dict[str, Any] = {**_NARROW, "n_layers": layers, "num_hidden_layers": layers, "embedding_size": vocabulary}
    small |= {"mask_token_id": vocabulary - 1, "eos_token_id": vocabulary - 2, "pad_token_id": vocabulary - 2}
    fields = {name: value for name, value in small.items() if name in config.fields}
    return random_model(config(**fields, vocab_size=vocabulary), device="cpu", dtype=dtype)


Labels = tuple[str, str, Any]


def _cases(
    settings: LaunchesBenchSettings, samplers: Mapping[str, Sampler | str], caches: Mapping[str, Cache | str]
) -> Iterator[tuple[Labels, Contender, int]]:
    built = {name: sampler for name, sampler in samplers.items() if isinstance(sampler, Sampler)}
    for name, sampler in bound(load("tiny", device="cpu"), built).items():
        for cached, cache in caches.items():
            for length in settings.drafting:
                drafter = None if length == NO_DRAFTS else FreeDave(length)
                if isinstance(cache, Cache):
                    contender = Contender(name, sampler, cache, drafter)
                    yield from (((name, cached, length), contender, batch) for batch in settings.batches)


class Counted(NamedTuple):
    """A step: what is told of it, what it asked for, and positions pushed through the body, all rows together."""

    event: StepEvent
    tally: Tally
    fed: int


def counted_steps(
    model: LanguageModel, contender: Contender, batch: int, settings: LaunchesBenchSettings
) -> list[Counted]:
    """The steps after ``warmup``: those that recompute no row whole, if there are any.

    Raises:
        SettingsError: the parts do not go together, or the decode is over before.
    """
    device = CountingDevice()
    decoder = Decoder(model.backbone, model.description, contender.sampler, contender.cache, contender.drafter)
    (jobs,) = random_rounds(Cell(model, "", batch), settings.prompt, settings.new, 0)
    steps: list[Counted] = []
    fed = 0
    backbone: Any = model.backbone
    with device.holding(backbone, hidden="body", attentive="body", head="head"), device:
        events = decoder.run(jobs, batch, device.device)
        for event in events:
            if isinstance(event, StepEvent):
                before, fed = fed, sum(row.token_forwards for row in event.rows)
                steps.append(Counted(event, device.tally.taken(), fed - before))
            if len(steps) == settings.warmup + settings.steps:
                break
        events.close()
    if len(steps) <= settings.warmup:
        raise SettingsError(f"the decode is over after {len(steps)} steps: use more new tokens or less warmup")
    steps = steps[settings.warmup :]
    return [step for step in steps if not step.event.refreshed] or steps


def _measured(
    settings: LaunchesBenchSettings, model: LanguageModel, labels: Labels, contender: Contender, batch: int
) -> Measured:
    steps = counted_steps(model, contender, batch, settings)
    counts = {
        (part, kind): median(step.tally.counts[part, kind] for step in steps)
        for part in PARTS
        for kind in ("launch", "wait", "copy", "allocation")
    }
    total = {kind: sum(counts[part, kind] for part in PARTS) for kind in ("launch", "wait", "copy", "allocation")}
    layers: int = model.backbone.arch.layers  # type: ignore[attr-defined]
    width = median(step.event.view.positions.numel() for step in steps)
    weights = _weight_bytes(settings, round(width)) / CARDS[settings.card]
    name, cached, drafting = labels
    return Measured(
        sampler=name,
        cache=cached,
        drafting=str(drafting),
        batch=batch,
        body_per_layer=round(counts["body", "launch"] / layers, 2),
        body=counts["body", "launch"],
        head=counts["head", "launch"],
        outside=counts["outside", "launch"],
        waits=total["wait"],
        copies=total["copy"],
        allocations=total["allocation"],
        fed=median(step.fed for step in steps),
        scored=width,
        seconds_at_5us=total["launch"] * 5e-6,
        seconds_at_10us=total["launch"] * 10e-6,
        seconds_weights=weights,
        lines=steps[-1].tally.lines,
    )


def _weight_bytes(settings: LaunchesBenchSettings, rows: int) -> float:
    """What a step of the full shape reads of its weights."""
    config = SHAPES[settings.shape]()
    backbone = SimpleNamespace(arch=config.architecture())
    dtype, device = getattr(torch, str(settings.dtype)), torch.device("meta")  # one that reads the head once
    shown: Any = SimpleNamespace(backbone=backbone, dtype=dtype, device=device)
    return forward_cost(shown, rows, 0, rows)[1]


def _table(settings: LaunchesBenchSettings, figures: Sequence[Measured]) -> Table:
    def beside(f: Measured) -> str:
        return f.cache if f.drafting == NO_DRAFTS else f"{f.cache}, drafts {f.drafting}"

    columns = [
        Column("sampler", "sampler", words=True),
        Column("cache", beside, words=True),
        Column("x", "batch"),
        Column("fed", "fed", "g"),
        Column("body/\nlayer", "body_per_layer", ".1f"),
        Column("head", "head", "g"),
        Column("out-\nside", "outside", "g"),
        Column("waits", "waits", "g"),
        Column("cop-\nies", "copies", "g"),
        Column("ms at\n5 us", lambda f: f"{f.seconds_at_5us * 1e3:.1f}"),
        Column("ms at\n10 us", lambda f: f"{f.seconds_at_10us * 1e3:.1f}"),
        Column("ms of\nweights", lambda f: f"{f.seconds_weights * 1e3:.1f}"),
    ]
    title = f"kernels a step launches: {settings.shape}, {settings.dtype}"
    caption = f"weights: the time {settings.card} needs to read them once"
    return table(title, caption, columns, figures, grouped=True)


def _lines(figures: Measured) -> Table:
    """Where the counts come from."""
    tallied: Counter[tuple[str, str, str]] = Counter()
    for (part, kind, operation, line), times in figures.lines.items():
        if kind != "allocation":
            tallied[part, line, operation if kind == "launch" else f"{kind}: {operation}"] += times
    columns = [
        Column("part", lambda entry: entry[0][0], words=True),
        Column("line", lambda entry: entry[0][1], words=True, width=30),
        Column("operation", lambda entry: entry[0][2], words=True, width=16),
        Column("times", lambda entry: str(entry[1])),
    ]
    title = f"{figures.sampler} {figures.cache} x{figures.batch}"
    return table(title, "", columns, sorted(tallied.items()), grouped=True)
