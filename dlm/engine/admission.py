"""Rows that join a run between two of its steps, and rows that leave it: what a server's batch is made of."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import torch

from dlm.engine.canvas import Job
from dlm.engine.loop import Decoder, DecodeRun
from dlm.engine.sampler_run import SamplerRun
from dlm.errors import SettingsError


def admit(run: DecodeRun, job: Job) -> None:
    """Let a row join a run that has ``room`` for it: at once where fewer rows than its ``batch_size`` are live, else
    when one of them is done. Its index must be its own. It gives what it would give alone.

    Raises:
        SettingsError: the sampler does not fit the row, or the row is longer than the run's room, or the run is over.
        PromptError: in whole attention blocks it is longer than the model's context.
    """
    job, batch = fitting(run.decoder, job), run.batch
    if (job.temperature is None) != (batch.canvas.temperature is None):
        raise SettingsError("the rows of a run have all a temperature of their own, or none: begin another run")
    if job.end > run.room or not batch.rows:
        over = f"the row has {job.end} positions and the run room for {run.room}" if batch.rows else "the run is over"
        raise SettingsError(f"{over}: begin another run")
    if run.forward.constraint is not None:
        run.forward.constraint.admit(job)
    if job.stops is not None and not run.stops:
        run.stops = True
        if run.static is not None:
            run.static.kept.clear()  # the steps that were kept do not tell the tokens
    batch.waiting.append(replace(job, length=run.sampler.blocks.starting_length(job.end - job.start)))
    try:
        with torch.inference_mode():
            batch.join(run.batch_size)
    except BaseException:
        dismiss(run, job.index)
        raise


def fitting(decoder: Decoder, job: Job) -> Job:
    """The row in whole attention blocks. Raises SettingsError, PromptError: the decoder cannot take it."""
    about = decoder.description
    if about.attention_block:
        job = job.completed(about.attention_block, about.mask_id, about.context_length)
    SamplerRun.fitted(decoder.sampler, decoder.policy.stores, [job])
    return job


def dismiss(run: DecodeRun, index: int) -> None:
    """Let the row of this index leave at the next step without an answer; one that waits does not come in."""
    batch = run.batch
    batch.waiting = deque(job for job in batch.waiting if job.index != index)
    for row in batch.rows:
        row.failed = row.failed or row.job.index == index
