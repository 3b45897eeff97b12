"""The fields of a config.json: every spelling of each, its kind of value, and the rotary ones wherever they stand."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from dlm.errors import SettingsError

# Fields whose default does not say what they hold; what is not named here and has no default is a whole number.
_SWITCHES = ("multi_query_attention",)
_MAY_BE_NULL = (
    "mlp_hidden_size", "num_key_value_heads", "max_window_layers", "pad_token_id", "bos_token_id", "moe_layer_freq",
)  # fmt: skip
ROPE_FIELDS = ("rope_parameters", "rope_scaling")
# Outside these a number is a slip, or made to exhaust the machine: refused before anything is made of it.
_LIMITS: dict[str, tuple[float, float]] = {
    "vocab_size": (1, 2**22), "embedding_size": (1, 2**22), "d_model": (1, 2**16), "hidden_size": (1, 2**20),
    "_layers": (1, 1000), "_heads": (1, 2**12), "intermediate_size": (1, 2**20), "mlp_ratio": (1, 1000),
    "head_dim": (2, 2**12), "partial_rotary_factor": (1e-3, 1), "num_experts": (1, 2**14), "block_size": (1, 2**20),
    "bd_size": (1, 2**20), "attention_block": (0, 2**20),
    "rope_theta": (1, 1e12), "rms_norm_eps": (1e-30, 0.1), "init_std": (1e-12, 100), "initializer_range": (1e-12, 100),
    "_dropout": (0, 1), "max_position_embeddings": (1, 1e8), "max_sequence_length": (1, 1e8),
}  # fmt: skip
_LARGEST = 10**9
_PLAIN_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


def read_fields(settings: dict[str, Any], defaults: Mapping[str, Any], spellings: Mapping[str, str]) -> dict[str, Any]:
    """Take a family's fields out of ``settings``, each under its own name and as its kind of value.

    Args:
        settings: a config.json; what is taken is removed from it.
        defaults: field -> default, which also tells its kind.
        spellings: other name -> field.

    Raises:
        SettingsError: a value of the wrong kind, or two spellings that contradict each other; the field is named.
    """
    theta = read_theta(settings, "partial_rotary_factor" in defaults)
    found: dict[str, tuple[str, Any]] = {}
    for spelling, name in [*((name, name) for name in defaults), *spellings.items()]:
        if spelling not in settings:
            continue
        value = settings.pop(spelling)
        value = value if value is None else read_value(spelling, value, name, defaults[name])
        if name in found and None not in (found[name][1], value) and found[name][1] != value:
            raise _wrong(f"{found[name][0]}={found[name][1]!r} and {spelling}={value!r} contradict each other")
        if name not in found or found[name][1] is None:
            found[name] = (spelling, value)
    fields = dict(defaults) if theta is None else {**defaults, "rope_theta": theta}
    for name, (spelling, value) in found.items():
        fields[name] = read_value(spelling, None, name, defaults[name]) if value is None else value
    return fields


def read_value(spelling: str, value: Any, name: str, default: Any) -> Any:
    """The value of a field as its kind; numbers written as text are read. Raises SettingsError."""
    if name.endswith("_token_id"):
        return token_ids(spelling, value)
    if value is None and (default is None or name in _MAY_BE_NULL):
        return None
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple):
            raise _wrong(f"{spelling} must be a list of whole numbers, got {_short(value)}")
        return [whole(spelling, entry) for entry in value]
    if isinstance(default, bool) or name in _SWITCHES:
        if not isinstance(value, bool):
            raise _wrong(f"{spelling} must be true or false, got {value!r}")
        return value
    if isinstance(default, str):
        if not isinstance(value, str):
            raise _wrong(f"{spelling} must be a text such as {default!r}, got {value!r}")
        return value
    read = number(spelling, value) if isinstance(default, float) else whole(spelling, value)
    least, most = next((limits for end, limits in _LIMITS.items() if name.endswith(end)), (0, _LARGEST))
    if not least <= read <= most:
        raise _wrong(f"{spelling} must be from {least:g} to {most:g}, got {_short(value)}")
    return read


def number(name: str, value: Any) -> float:
    """A finite number of at least 0, from a number or its text. Raises SettingsError."""
    try:
        read = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except (ValueError, OverflowError):
        read = math.nan
    if not (math.isfinite(read) and read >= 0):
        raise _wrong(f"{name} must be a number of at least 0, got {_short(value)}")
    return read


def whole(name: str, value: Any, place: str = "config.json") -> int:
    """A whole number of at least 0, from a number or its text. Raises SettingsError."""
    read = int(value) if isinstance(value, str) and re.fullmatch(r"\s*\d{1,18}\s*", value, re.ASCII) else value
    read = int(read) if isinstance(read, float) and read.is_integer() else read
    if type(read) is not int or read < 0:
        raise _wrong(f"{name} must be a whole number of at least 0, got {_short(value)}", place)
    return read


def token_ids(name: str, value: Any, place: str = "config.json") -> int | list[int] | None:
    """An id, a list of ids, or None. A negative padding id stands for none. Raises SettingsError."""
    if value is None or (name in ("pad_token_id", "bos_token_id") and value == -1):
        return None
    if isinstance(value, list | tuple) and name != "mask_token_id":
        return [whole(name, entry, place) for entry in value] or None
    return whole(name, value, place)


def read_theta(settings: dict[str, Any], partial: bool = False) -> float | None:
    """The base of the rotary angles from every place that may name it (None: none does); these places are emptied.
    ``partial``: a part of a head may be rotated; how large it is stays in ``settings``.

    Known are ``rope_theta`` by itself, ``rope_parameters`` (transformers 5, also one a kind of layer) and
    ``rope_scaling`` (older). Raises SettingsError: a kind of rotation other than the default one, or two bases.
    """
    thetas: dict[str, float] = {}
    for field, value in _rope_dicts(settings):
        kinds = [value[key] for key in ("rope_type", "type") if value.get(key) is not None]
        surplus = sorted(map(str, value.keys() - _PLAIN_ROPE))
        if any(kind != "default" for kind in kinds) or (not kinds and surplus):
            named = next((kind for kind in kinds if kind != "default"), None)
            what = f"rope_type {named!r}" if kinds else f"{', '.join(surplus)} without a rope_type"
            raise _wrong(f"{field} asks for {what}, which is not supported; only 'default' is")
        part = value.get("partial_rotary_factor")
        if part is not None and partial:
            settings.setdefault("partial_rotary_factor", part)
        elif part is not None:
            _all_rotated(f"{field}.partial_rotary_factor", part)
        if value.get("rope_theta") is not None:
            thetas[f"{field}.rope_theta"] = read_value(f"{field}.rope_theta", value["rope_theta"], "rope_theta", 0.0)
    if settings.get("rope_theta") is not None:
        thetas["rope_theta"] = read_value("rope_theta", settings["rope_theta"], "rope_theta", 0.0)
    if settings.get("partial_rotary_factor") is not None and not partial:
        _all_rotated("partial_rotary_factor", settings["partial_rotary_factor"])
    settings.pop("rope_theta", None)
    if len(set(thetas.values())) > 1:
        raise _wrong(" and ".join(f"{name}={value!r}" for name, value in thetas.items()) + " contradict each other")
    return next(iter(thetas.values()), None)


def _rope_dicts(settings: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What ``settings`` says about the rotation, by place."""
    found: list[tuple[str, dict[str, Any]]] = []
    for field in ROPE_FIELDS:
        value = settings.pop(field, None)
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise _wrong(f"{field} must be an object, got {_short(value)}")
        by_layer = {key: entry for key, entry in value.items() if isinstance(entry, Mapping)}
        found += [(f"{field}.{key}", dict(entry)) for key, entry in by_layer.items()]
        found.append((field, {key: entry for key, entry in value.items() if key not in by_layer}))
    return found


def _all_rotated(name: str, value: Any) -> None:
    if number(name, value) != 1:
        raise _wrong(f"{name}={_short(value)} is not supported; every pair of a head is rotated (1.0)")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _wrong(what: str, place: str = "config.json") -> SettingsError:
    return SettingsError(f"config field {what}; correct {place}")
