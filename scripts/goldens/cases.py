"""Recorded cases as they lie in a folder (schema: README of the goldens)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One recorded run of a reference implementation.

    Attributes:
        id, method, checkpoint: names; ``checkpoint`` is a folder of the checkpoints directory.
        settings: the reference's own argument names and values.
        reference: where the reference's code lies (repo, file, function, edits).
        mask_id: the mask id of the checkpoint.
        prompt_ids: rows of the batch, all of one length (shorter prompts are padded on the left).
        gen_ids: what each row generated.
        commit_step: per row and generated position the 0-based call that committed it, -1 where none did.
        nfe: number of calls; a guided call counts once.
        seed: of torch's global generator, for references that draw.
        error: what the reference raised; the fields above it are then empty.
        rows_per_call, tokens_per_call: rows of each call, and positions fed in it.
        prompt_committed: per row the prompt positions (in the recorded layout) that the reference filled.
        final_prompt: the prompt part of the returned canvas.
        fed_per_call: what each call was fed: half-open ranges of positions, or for caches of features what was
            recomputed in every layer; None where the record does not say.
        reported: what the reference itself returned beside the canvas.
        extra: what else was recorded (the random order of dKV-Cache-Greedy).
        canvases: of a record of one row: the generated part after every call; None: not recorded.
        call_kinds: of block diffusion: one letter a call, p prefill, d denoising, s storing, v verifying drafts.
        rewrites: call, row and position of every token that was changed after its commit.
        folder: where the file lies.
        unreadable: why the case could not be read; None: it could.
    """

    id: str
    method: str
    checkpoint: str
    settings: dict[str, Any]
    reference: dict[str, str]
    mask_id: int
    prompt_ids: list[list[int]]
    gen_ids: list[list[int]] = field(default_factory=list)
    commit_step: list[list[int]] = field(default_factory=list)
    nfe: int = 0
    seed: int | None = None
    error: str | None = None
    rows_per_call: list[int] = field(default_factory=list)
    tokens_per_call: list[int] = field(default_factory=list)
    prompt_committed: list[list[int]] = field(default_factory=list)
    final_prompt: list[list[int]] = field(default_factory=list)
    fed_per_call: list[Any] | None = None
    reported: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    canvases: list[list[int]] | None = None
    call_kinds: str = ""
    rewrites: list[list[int]] = field(default_factory=list)
    folder: Path = Path()
    unreadable: str | None = None

    @classmethod
    def parse(cls, raw: dict[str, Any], folder: Path = Path()) -> Case:
        """A case from its JSON object."""
        final, length = raw.get("final_ids") or [], raw["prompt_len"]
        return cls(
            id=raw["id"],
            method=raw["method"],
            checkpoint=raw["checkpoint"],
            settings=raw["settings"],
            reference=_reference(raw["reference"]),
            mask_id=raw["mask_id"],
            prompt_ids=raw["prompt_ids"],
            gen_ids=raw.get("gen_ids") or [],
            commit_step=raw.get("commit_step") or [],
            nfe=raw.get("nfe") or 0,
            seed=raw.get("seed"),
            error=raw.get("error"),
            rows_per_call=raw.get("rows_per_call") or [],
            tokens_per_call=raw.get("tokens_per_call") or [],
            prompt_committed=raw.get("prompt_positions_committed") or [],
            final_prompt=[row[:length] for row in final],
            fed_per_call=raw.get("positions_per_call"),
            reported=raw.get("reported"),
            extra=raw.get("extra") or {},
            canvases=raw.get("canvas_after_call"),
            call_kinds=raw.get("call_kinds") or "",
            rewrites=raw.get("rewrite_events") or [],
            folder=folder,
        )

    @classmethod
    def broken(cls, name: str, method: str, reason: Exception) -> Case:
        """Stands for a case that cannot be read."""
        told = f"cannot be read: {type(reason).__name__}: {reason}"
        return cls(name, method, "", {}, {}, -1, [], unreadable=told)

    @property
    def pads(self) -> list[int]:
        """Padding columns on the left of each row."""
        attention = self.settings.get("attention_mask")
        if attention is None:
            return [0] * len(self.prompt_ids)
        return [row.index(1) for row in attention]

    @property
    def prompts(self) -> list[list[int]]:
        """The rows without their padding."""
        return [row[pad:] for row, pad in zip(self.prompt_ids, self.pads, strict=True)]


def _read_file(file: Path) -> tuple[str, list[Case]]:
    """The method of a file and its cases; what cannot be read is a case that says so."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        method, raws = str(content["method"]), list(content["cases"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return file.stem, [Case.broken(file.name, file.stem, error)]
    cases = []
    for number, raw in enumerate(raws):
        try:
            cases.append(Case.parse(raw, file.parent))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            name = raw.get("id") if isinstance(raw, dict) else None
            cases.append(Case.broken(str(name or f"{file.name} {number}"), method, error))
    return method, cases


def _reference(said: str | dict[str, str]) -> dict[str, str]:
    """Where the code lies; some records say it in a sentence that begins with the repository."""
    if isinstance(said, dict):
        return said
    repo, _, rest = said.partition(" ")
    return {"repo": repo, "file": rest}


def read_cases(folder: Path, patterns: Sequence[str]) -> dict[str, list[Case]]:
    """Cases by method, for the methods that match one of ``patterns`` (shell style; none given: all).

    A method is known by its name and by the name of its file.

    Raises:
        FileNotFoundError: the folder holds no case files.
        KeyError: a pattern that matches no method; the message lists them.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no case files (<method>.json)")
    found: dict[str, list[Case]] = {}
    names: dict[str, str] = {}
    for file in files:
        method, cases = _read_file(file)
        names[method] = file.stem
        found[method] = cases
    if not patterns:
        return found
    chosen: dict[str, list[Case]] = {}
    for pattern in patterns:
        hits = [m for m in found if fnmatchcase(m, pattern) or fnmatchcase(names[m], pattern)]
        if not hits:
            raise KeyError(f"no method matches {pattern!r}; the folder holds {', '.join(found)}")
        chosen |= {method: found[method] for method in hits}
    return chosen
