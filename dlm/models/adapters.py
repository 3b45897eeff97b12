"""LoRA adapters: small matrices that were trained beside a base model, merged into its weights by peft.

Only numbers are taken from an adapter: safetensors, and of its settings those that say how large the change is. What it
holds is compared with the base model before that is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dlm.errors import CheckpointError, SettingsError
from dlm.models.checkpoint import Shape, cut, needed_shapes, read_object, resolve, shapes_in
from dlm.models.masked_lm import MaskedLM, MaskedLMConfig
from dlm.models.quiet import quiet_imports

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # what peft puts before a module's name
_PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<which>(embedding_)?[AB]|magnitude_vector)(\.weight)?")
# What the size of the change depends on, what only says how it was trained, and what must stand at one value.
_USED = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save")
_TRAINING = (
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern", "fan_in_fan_out",
    "eva_config", "qalora_group_size", "megatron_core", "runtime_config", "ensure_weight_tying",
)  # fmt: skip
_FIXED: dict[str, tuple[Any, ...]] = {
    "bias": ("none",), "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, its settings and the shapes of its tensors, under the names of the modules they change."""

    folder: Path
    settings: Mapping[str, Any]
    shapes: Mapping[str, Shape]

    @property
    def pairs(self) -> dict[str, dict[str, Shape]]:
        """Shapes of A and B (and what DoRA adds), by module."""
        found: dict[str, dict[str, Shape]] = {}
        for name, shape in self.shapes.items():
            if match := _PAIR.fullmatch(name):
                found.setdefault(match["module"], {})[match["which"]] = shape
        return found

    def of(self, module: str, pattern: str, default: str) -> Any:
        """A setting of one module: by the first pattern that fits its name, or the one of all."""
        for key, value in (self.settings.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return self.settings.get(default, 8)  # peft's


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / SETTINGS).is_file() and not any(folder.glob("model*.safetensors*"))


def base_of(folder: Path) -> str | None:
    """What an adapter in place of a model names as its base: a path or a hub id. None: no adapter, or it names none."""
    base = read_object(folder / SETTINGS).get("base_model_name_or_path") if is_adapter(folder) else None
    return base if isinstance(base, str) and base else None


def base_and_adapters(name_or_path: str | Path, adapter: str | Path | None) -> tuple[Path, list[Path]]:
    """The folder of the model itself, and those of the adapters that go into it, in this order.

    An adapter in place of a model names its base: a folder (seen from the adapter's or from the working directory) or
    a hub id. Raises CheckpointError: it names none, or one that is not there.
    """
    given = [] if adapter is None else [resolve(adapter)]
    folder = resolve(name_or_path)
    if not is_adapter(folder):
        return folder, given
    base = base_of(folder)
    if base is None:
        raise CheckpointError(
            f"{folder} holds an adapter and names no base model (base_model_name_or_path in {SETTINGS}): load the base"
            f" with adapter={folder}"
        )
    try:
        beside = folder / base
        found = resolve(beside if not base.startswith("~") and beside.is_dir() else base)
    except (CheckpointError, SettingsError, OSError, ValueError) as error:
        raise CheckpointError(
            f"the base model of the adapter {folder} is not there ({error}); load yours with adapter={folder}"
        ) from error
    if is_adapter(found):
        raise CheckpointError(f"the base model of {folder} is itself an adapter, {found}: merge that one first")
    return found, [folder, *given]


def read_adapter(folder: Path) -> Adapter:
    """Look at an adapter's files, tensors by their headers only.

    Raises:
        SettingsError: peft is not installed.
        CheckpointError: no LoRA adapter in safetensors, or a kind of LoRA that is not merged here.
    """
    if find_spec("peft") is None:
        raise SettingsError(f"the adapter {folder} needs peft: pip install 'dlm[adapters]'")
    if not (folder / SETTINGS).is_file():
        raise CheckpointError(f"{folder} has no {SETTINGS}: give the folder that peft's save_pretrained() wrote")
    settings = read_object(folder / SETTINGS)
    if not (folder / WEIGHTS).is_file():
        others = sorted(path.name for path in folder.glob("adapter_model*"))
        pickled = f"; {cut(others)} is not read: save it with safe_serialization=True" if others else ""
        raise CheckpointError(f"{folder} has no {WEIGHTS}{pickled}")
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder} is a {settings.get('peft_type')!r} adapter: only LORA is merged")
    odd = {key: value for key, value in settings.items() if value and key not in (*_USED, *_TRAINING, *_FIXED)}
    odd |= {key: settings[key] for key, values in _FIXED.items() if settings.get(key, values[0]) not in values}
    odd |= {key: settings[key] for key in _USED if not _fits(key, settings.get(key))}
    if odd:
        told = cut([f"{key}={value!r}" for key, value in odd.items()])
        raise CheckpointError(f"{folder} is a kind of LoRA that is not merged here ({told}): merge it with peft")
    return Adapter(folder, settings, {k.removeprefix(_PREFIX): v for k, v in shapes_in([folder / WEIGHTS]).items()})


def _fits(key: str, value: Any) -> bool:
    """Whether a setting is of its kind; None stands for the default."""
    if value is None or key.startswith("use_"):
        return value in (None, True, False)
    if key == "modules_to_save":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    if not key.endswith("_pattern"):
        return isinstance(value, int | float) and 0 < value < 1e6
    try:
        return isinstance(value, dict) and all(re.compile(name) and _fits("r", size) for name, size in value.items())
    except re.error:
        return False


def check_adapter(adapter: Adapter, family: type[MaskedLM], config: MaskedLMConfig) -> None:
    """Compare an adapter with the base model it goes into; CheckpointError says what does not fit."""
    needed, pairs = needed_shapes(family, config), adapter.pairs
    whole = {name: shape for name, shape in adapter.shapes.items() if not _PAIR.fullmatch(name)}
    saved = tuple(adapter.settings.get("modules_to_save") or ())
    unknown = [name for name in pairs if f"{name}.weight" not in needed]
    unknown += [name for name in whole if name not in needed or not _ends(_module(name), saved)]
    wrong = [f"{name} is {list(shape)}, needed {list(needed[name])}" for name, shape in whole.items()
             if name not in unknown and shape != needed[name]]  # fmt: skip
    known = {name: pair for name, pair in pairs.items() if name not in unknown}
    wrong += [fault for name, pair in known.items() if (fault := _fault(adapter, name, pair, needed[f"{name}.weight"]))]
    missing = [name for name in saved if not any(_ends(_module(key), (name,)) for key in whole)]
    missing += [name for name in _targets(adapter, needed) if name not in pairs]
    ends = (family.names.embedding, family.names.head)
    tied = [name for name in (*pairs, *whole) if config.tie_word_embeddings and _ends(_module(name), ends)]
    faults = {"no such module": unknown, "wrong shape": wrong, "missing": missing, "tied to another": tied}
    if not pairs or any(faults.values()):
        told = " ".join(f"{kind}: {cut(names)}." for kind, names in faults.items() if names)
        raise CheckpointError(
            f"the adapter {adapter.folder} does not fit {family.__name__}. {told or 'It holds no LoRA matrices.'} Use"
            " it with the base model it was trained on."
        )


def _targets(adapter: Adapter, needed: Mapping[str, Shape]) -> list[str]:
    """The modules that the settings name, where they name them one by one."""
    targets = adapter.settings.get("target_modules")
    partly = any(adapter.settings.get(key) for key in ("layers_to_transform", "exclude_modules"))
    if partly or not isinstance(targets, list):
        return []
    matrices = [_module(name) for name, shape in needed.items() if len(shape) == 2]
    return [name for name in matrices if _ends(name, tuple(map(str, targets)))]


def _module(name: str) -> str:
    return name.removesuffix(".weight").removesuffix(".bias")


def _fault(adapter: Adapter, name: str, pair: Mapping[str, Shape], weight: Shape) -> str | None:
    """What is wrong with the matrices of one module, whose weight has the shape ``weight``."""
    embedding = "embedding_A" in pair or "embedding_B" in pair
    a, b = (pair.get("embedding_A" if embedding else "A"), pair.get("embedding_B" if embedding else "B"))
    if a is None or b is None or len(weight) != 2:
        return f"{name} has no pair of A and B"
    rank = adapter.of(name, "rank_pattern", "r")
    outs, ins = reversed(weight) if embedding else weight
    wanted = (rank, ins), (outs, rank)
    return None if (a, b) == wanted else f"{name} is {list(a)} and {list(b)}, needed {' and '.join(map(str, wanted))}"


def _ends(name: str, ends: tuple[str, ...]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


@torch.no_grad()
def merge(model: MaskedLM, adapter: Adapter) -> None:
    """Add what an adapter changes to the weights, in place. Raises CheckpointError: what the libraries find wrong."""
    with quiet_imports():
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    if any(weight.is_meta for weight in model.parameters()):
        raise SettingsError("an adapter is merged into weights on a device: give a device_map without cpu and disk")
    names = sorted(adapter.pairs)
    own = {key: value for key in _USED if (value := adapter.settings.get(key)) is not None}
    own["rank_pattern"] = {re.escape(name): adapter.of(name, "rank_pattern", "r") for name in names}
    own["alpha_pattern"] = {re.escape(name): adapter.of(name, "alpha_pattern", "lora_alpha") for name in names}
    try:
        placed = get_peft_model(model, LoraConfig(target_modules=names, **own))
        result: Any = set_peft_model_state_dict(placed, load_file(adapter.folder / WEIGHTS))
        if result.unexpected_keys:
            raise ValueError(f"{cut(result.unexpected_keys)} has no place")
        placed.merge_and_unload(safe_merge=True)
    except Exception as error:  # whatever peft raises about adapters it was not made for
        raise CheckpointError(f"the adapter {adapter.folder} could not be merged: {error}") from error
    for left in ("peft_config", "_hf_peft_config_loaded"):
        model.__dict__.pop(left, None)
