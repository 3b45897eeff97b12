"""Lists on a command line: ``[threshold,'threshold:threshold=0.7',topk:tokens_per_step=4]``.

An entry is a choice of a configuration group; a colon separates it from its settings, commas the settings from each
other. Brackets or braces around the list, and quotes around an entry, may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dlm.errors import SettingsError
from dlm.overrides import choices
from dlm.words import meant

_EXAMPLE = {"sampler": "topk:tokens_per_step=4", "cache": "dual:every=8"}


def split(text: str) -> list[str]:
    """The pieces between the commas outside quotes, brackets and braces; empty ones are left out."""
    pieces, depth, quote = [""], 0, ""
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"" and sign in text[place + 1 :] and not text[:place][-1:].isalnum():  # no apostrophe
            quote = sign
        elif sign in "[{":
            depth += 1
        elif sign in "]}":
            depth = max(0, depth - 1)
        if sign == "," and not quote and not depth:
            pieces.append("")
        else:
            pieces[-1] += sign
    return [piece.strip() for piece in pieces if piece.strip()]


def names(text: str) -> list[str]:
    """The entries of ``A`` or ``[A,'B, with a comma']``, without their quotes."""
    return [piece[1:-1] if _quoted(piece) else piece for piece in split(_inside(text))]


def listed(text: str) -> list[str]:
    """The entries of ``a`` or ``[a,'b',c:k=1,l=2]``, each once.

    The shell may have taken the quotes away: a ``key=value`` that names no choice belongs to the entry before it.
    """
    entries: list[str] = []
    for piece in split(_inside(text)):
        if entries and not _quoted(piece) and "=" in piece and ":" not in piece.partition("=")[0]:
            entries[-1] += f",{piece}"
        else:
            entries.append(piece[1:-1] if _quoted(piece) else piece)
    return list(dict.fromkeys(entries))


def labels(group: str, text: str, leave_out: Sequence[str] = ()) -> list[str]:
    """What was asked for as ``samplers=`` or ``caches=``, every name known; ``all`` is all but ``leave_out``.

    Raises:
        SettingsError: an unknown name (the known ones are listed), no name, settings that are not key=value.
    """
    known, entries = choices(group), listed(text)
    found = [name for name in known if name not in leave_out] if entries == ["all"] else entries
    if not found:
        raise SettingsError(f"{group}s names none: all, or some of {', '.join(known)}")
    for label in found:
        name, _, settings = label.partition(":")
        if name not in known:
            raise SettingsError(f"unknown {group} {name!r}{meant(name, known)}; known are all or {', '.join(known)}")
        if bad := [setting for setting in split(settings) if "=" not in setting]:
            example = f" (as {_EXAMPLE[group]})" if group in _EXAMPLE else ""
            raise SettingsError(f"{group}s: {bad[0]!r} in {label!r} is not key=value{example}")
    return found


def chosen(group: str, label: str) -> list[str]:
    """The overrides that an entry stands for: ``topk:steps=4`` is ``sampler=topk sampler.steps=4``."""
    name, _, settings = label.partition(":")
    return [f"{group}={name}", *(f"{group}.{setting}" for setting in split(settings))]


def _inside(text: str) -> str:
    found = re.fullmatch(r"\s*(?:\[(.*)\]|\{(.*)\})\s*", text, flags=re.DOTALL)
    return text if found is None else found[1] or found[2] or ""


def _quoted(piece: str) -> bool:
    return len(piece) > 1 and piece[0] in "'\"" and piece[-1] == piece[0]
