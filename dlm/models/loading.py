"""From a name to a model: find the files, check them, build, describe. Safetensors, never remote code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.utils import logging

from dlm.errors import CheckpointError, DlmError, OutOfMemoryError, SettingsError
from dlm.models.adapters import base_and_adapters, check_adapter, merge, read_adapter
from dlm.models.backbone import ModelDescription
from dlm.models.checkpoint import check_weights, read_object, refuse_adapters, stored_shapes
from dlm.models.dream import DreamModel
from dlm.models.fast_dllm import Fast_dLLM_QwenForCausalLM
from dlm.models.fields import ROPE_FIELDS, read_value, token_ids
from dlm.models.language_model import LanguageModel
from dlm.models.llada import LLaDAModelLM
from dlm.models.llada_moe import LLaDA2MoeModelLM, LLaDAMoEModelLM
from dlm.models.masked_lm import MaskedLM, MaskedLMConfig, refuse_unlike, register
from dlm.models.packed import quantisation_of, refuse_together, settle
from dlm.models.quantising import Quantisation, quantise, refuse_odd_shapes, refuse_where_impossible
from dlm.models.quiet import quiet_imports
from dlm.models.sdar import SDARForCausalLM, SDARMoeForCausalLM

# By the class a checkpoint names, not by model_type: LLaDA and LLaDA-MoE share the latter.
FAMILIES: dict[str, type[MaskedLM]] = {
    family.__name__: family
    for family in (
        LLaDAModelLM, DreamModel, SDARForCausalLM, SDARMoeForCausalLM, Fast_dLLM_QwenForCausalLM, LLaDAMoEModelLM,
        LLaDA2MoeModelLM,
    )
}  # fmt: skip
_SMALL = 1 << 30  # bytes; below it a progress bar is noise
_LARGE = 2 << 30  # bytes; from here on weights for the CPU stay where they are, mapped from the files, and unpacked
# transformers sets torch's default dtype while it loads, for all threads.
_LOADING = RLock()


def load(
    name_or_path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    quantize: Quantisation | None = None,
    adapter: str | Path | None = None,
    attention_block: int | None = None,
    compile: bool = False,
    graphs: bool = False,
    trainable: bool = False,
) -> LanguageModel:
    """Load a model with its tokenizer.

    Args:
        name_or_path: ``"tiny"`` or ``"tiny-block"`` (packaged), a folder, or a Hugging Face id. The folder of an
            adapter stands for its base model with the adapter.
        device: where to put it (``"cpu"``, ``"cuda:1"``, ``"mps"``, ``"xpu"``); by default the GPU if there is one.
        dtype: number format of the weights; by default float32 on the CPU, bfloat16 elsewhere.
        device_map: spread the layers over devices (transformers' ``device_map``, such as ``"auto"``).
        quantize: keep the matrices of the blocks in fewer bits (``"int8"``, ``"int4"``, ``"fp8"``); embedding, norms
            and head stay in ``dtype``, in which everything is computed. Needs torchao. Not with ``device_map``.
        adapter: folder or Hugging Face id of a LoRA adapter, which is merged into the weights. Needs peft.
        attention_block: length of an attention block, in families that have them; by default what config.json says.
        compile: compile the layers with torch.compile: slow at first. Tokens are the same up to rounding.
        trainable: weights want gradients, and stay as their files have them, a projection each.
        graphs: steps of fixed shape, which a GPU replays as CUDA graphs. A decoder refuses parts that have none.

    Raises:
        SettingsError: unknown name, device or dtype, or an architecture that is not supported.
        CheckpointError: files are absent, damaged, or do not fit the architecture; all faults are listed.
        OutOfMemoryError: the weights do not fit on the device.
    """
    _refuse_pairs({"graphs": graphs, "device": device is not None}, device_map is not None, "device_map")
    _refuse_pairs({"quantize": quantize is not None}, trainable, "trainable=True")
    target = pick_device(device)
    precision = pick_dtype(dtype, target)
    if quantize is not None:
        refuse_where_impossible(quantize, target, precision, device_map is not None)
    folder, folders = base_and_adapters(name_or_path, adapter)
    adapters = [read_adapter(found) for found in folders]
    family, config = _configured(folder, str(name_or_path), attention_block)
    packed = getattr(config, "quantization_config", {}).get("quant_method")
    refuse_together(packed, quantize, bool(adapters), precision)
    refuse_odd_shapes(quantize, config.architecture(), target)
    tokenizer = load_tokenizer(folder)
    description = describe(folder, config, family, tokenizer)
    check_weights(folder, family, config, packed is not None)
    for part in adapters:
        check_adapter(part, family, config)
    # {"": target}: straight to the device, without a second copy in main memory. What is quantised goes there in parts.
    placement = device_map if device_map is not None else {"": target if quantize is None else torch.device("cpu")}
    model = _weights(folder, family, config, precision, placement)
    model.description, model.graphs = description, graphs
    settle(model, packed, None if dtype is None else precision)
    for part in adapters:
        merge(model, part)
    model.settle_experts()
    if packed is None and device_map is None and not trainable:
        _settle_blocks(model, folder, quantize, target)
    if compile:
        model.compile_blocks()
    name = str(name_or_path) if adapter is None else f"{name_or_path} with {adapter}"
    return LanguageModel(model.eval().requires_grad_(trainable), tokenizer, name)


def _refuse_pairs(given: Mapping[str, bool], there: bool, other: str) -> None:
    for name, asked in given.items():
        if there and asked:
            raise SettingsError(f"{name} and {other} contradict each other; give one of them")


def _configured(folder: Path, name: str, attention_block: int | None) -> tuple[type[MaskedLM], MaskedLMConfig]:
    """What the folder's configuration says, with the length of an attention block that was asked for (or that the name
    ends with, as in SDAR-8B-Chat-b32, where the configuration says nothing), and the layout of its files."""
    family, config = read_config(folder)
    named = re.search(r"-b(\d{1,4})$", name.rstrip("/"))
    if attention_block is None and named and read_object(folder / "config.json").get(config.block_field or "") is None:
        attention_block = int(named.group(1)) if config.block_field else None
    if attention_block is not None:
        if config.block_field is None:
            raise SettingsError(
                f"attention_block={attention_block}: {family.__name__} has full attention; leave attention_block out"
            )
        setattr(config, config.block_field, read_value("attention_block", attention_block, config.block_field, 0))
    config.merged_experts = family.stores_merged(stored_shapes(folder, packed=True))
    return family, config


def _settle_blocks(model: MaskedLM, folder: Path, quantize: Quantisation | None, target: torch.device) -> None:
    """Pack the projections of the blocks, and quantise them where that is asked for."""

    def pack(block: Any) -> None:
        block.pack()

    if quantize is not None:
        with _no_memory_told(folder, f"quantised to {quantize}"):
            quantise(model, quantize, target, ready=pack)
    elif target.type != "cpu" or model.get_memory_footprint() < _LARGE:
        model.pack()


def _weights(
    folder: Path, family: type[MaskedLM], config: MaskedLMConfig, dtype: torch.dtype, placement: Any
) -> MaskedLM:
    settings = {"config": config, "dtype": dtype, "device_map": placement, "local_files_only": True}
    try:
        with undisturbed(folder, dtype):
            return family.from_pretrained(folder, use_safetensors=True, **settings)
    except DlmError:
        raise
    except Exception as error:  # whatever the libraries below raise about files they were not made for
        raise CheckpointError(f"the weights in {folder} could not be loaded: {error}") from error


@contextmanager
def undisturbed(folder: Path, dtype: torch.dtype) -> Iterator[None]:
    """Inside, transformers loads: alone, without a word about what is small, torch's default dtype as it was
    afterwards. Raises OutOfMemoryError for torch's own."""
    small = sum(path.stat().st_size for path in folder.glob("*.safetensors")) < _SMALL
    with _no_memory_told(folder, f"as {dtype}"), _LOADING, _default_dtype_kept(), _quiet(small), quiet_imports():
        yield


@contextmanager
def _no_memory_told(folder: Path, how: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{folder} does not fit on the device {how}; try dtype=bfloat16, quantize=int4, device_map=auto, device=cpu"
        ) from error


@contextmanager
def _default_dtype_kept() -> Iterator[None]:
    before = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Without transformers' progress bars, if ``quiet``."""
    was_on = logging.is_progress_bar_enabled()
    if quiet and was_on:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if quiet and was_on:
            logging.enable_progress_bar()


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the GPU if there is one; those of other makers are taken where they are named."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise SettingsError(f"unknown device {device!r}; use cpu, cuda, cuda:N, mps or xpu") from error
    if picked.type in ("cuda", "xpu", "mps"):
        module = getattr(torch, picked.type)
        count = module.device_count() if module.is_available() else 0
        if (picked.index or 0) >= count:
            raise SettingsError(f"{device} is not there ({count} {picked.type.upper()} devices found); use device=cpu")
    return picked


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The number format asked for, or the usual one of the device."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    named = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if named not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise SettingsError(f"unknown dtype {dtype!r}; use float32, bfloat16, float16 or float64")
    return named


def read_config(folder: Path) -> tuple[type[MaskedLM], MaskedLMConfig]:
    """The model class a folder's config.json names, and the configuration."""
    path = folder / "config.json"
    refuse_adapters(folder)
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json; give the folder of a downloaded model")
    settings = read_object(path)
    named = settings.get("architectures")
    architecture = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else named
    if isinstance(architecture, str):
        refuse_unlike(architecture)
    if not isinstance(architecture, str) or architecture not in FAMILIES:
        raise SettingsError(
            f"{path} names the architecture {architecture!r} (field 'architectures'), which is unknown; "
            f"known: {', '.join(FAMILIES)}"
        )
    packed = quantisation_of(folder, settings)
    family = FAMILIES[architecture]
    config: Any = family.config_class
    spellings = {**config.attribute_map, **config.spellings}
    _check_named(path, settings, spellings, config.indispensable)
    for field in ("model_type", "dtype", "torch_dtype"):
        if not isinstance(settings.get(field), str | None):
            raise CheckpointError(f"{path}: {field} must be a text, got {settings[field]!r}")
    # Nothing else goes in: transformers acts on more (where the weights are, how they are packed, labels).
    own = {*config.fields, *spellings, *ROPE_FIELDS, "partial_rotary_factor", "architectures"}
    config = config.from_dict({key: value for key, value in settings.items() if key in own})
    config.architecture()
    if packed is not None:
        config.quantization_config = packed
    return family, config


def _check_named(
    path: Path, settings: Mapping[str, Any], spellings: Mapping[str, str], indispensable: Sequence[str]
) -> None:
    """Raise CheckpointError unless the fields stand there that nothing else could tell: a default of ours would go
    unnoticed, since no tensor's shape depends on them."""
    inner = [value for key in ROPE_FIELDS if isinstance(value := settings.get(key), dict)]
    inner += [entry for value in inner for entry in value.values() if isinstance(entry, dict)]
    known = {key for entry in (settings, *inner) for key, value in entry.items() if value is not None}
    for field in indispensable:
        names = {field, spellings.get(field, field), *(key for key, name in spellings.items() if name == field)}
        if not known & names:
            raise CheckpointError(f"{path} does not name {' or '.join(sorted(names))}; add it")


def _generation_settings(folder: Path) -> dict[str, Any]:
    """What generation_config.json holds; nothing when there is none."""
    path = folder / "generation_config.json"
    return read_object(path) if path.is_file() else {}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast | None:
    """The fast tokenizer of a folder, or None when it has no tokenizer files.

    Dream ships the files of a Qwen2 tokenizer under the name of a remote class; Qwen2's own class reads them.
    """
    how: dict[str, Any] = {"local_files_only": True, "split_special_tokens": False}
    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, **how)
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            tokenizer = Qwen2Tokenizer.from_pretrained(folder, **how)
        else:
            return None
        tokenizer("a")  # some settings are not looked at before
    except Exception as error:  # tokenizers raises bare Exception on a damaged file
        raise CheckpointError(f"the tokenizer files in {folder} cannot be read: {error}") from error
    return tokenizer


def describe(
    folder: Path, config: MaskedLMConfig, family: type[MaskedLM], tokenizer: PreTrainedTokenizerFast | None
) -> ModelDescription:
    """The mask from the first place that names one, end ids from all of them, defined ids from the tokenizer.

    Places are, in this order, the configuration, the folder's generation_config.json and the tokenizer; the end of a
    turn is an end by its name. Raises SettingsError: an id outside the vocabulary, or none at all.
    """
    generation = _generation_settings(folder)
    vocabulary = tokenizer.get_vocab() if tokenizer is not None else {}
    masks = [generation.get("mask_token_id")]
    if tokenizer is not None:
        masks += [tokenizer.mask_token_id, *(vocabulary.get(token) for token in config.mask_tokens)]
    if config.mask_token_id is None:
        found = next((i for i in masks if i is not None), None)
        config.mask_token_id = token_ids("mask_token_id", found, "generation_config.json")
    if vocabulary:
        turn_ends = [vocabulary[token] for token in config.turn_ends if token in vocabulary]
    else:
        turn_ends = list(config.public_turn_ends.get(config.vocab_size, ()))
    places = {
        "config.json": config.eos_token_id,
        "generation_config.json": generation.get("eos_token_id"),
        "the tokenizer": None if tokenizer is None else tokenizer.eos_token_id,
        "the tokenizer's end of a turn": turn_ends,
    }
    width = config.architecture().vocab_size
    ends: dict[int, None] = {}
    for place, value in places.items():
        read = token_ids("eos_token_id", value, place)
        ids = read if isinstance(read, list) else [] if read is None else [read]
        if wrong := [i for i in ids if i >= width]:
            raise SettingsError(f"eos_token_id {wrong} of {place} is outside the vocabulary of {width}; correct it")
        ends |= dict.fromkeys(ids)
        if config.eos_token_id is None and place != "the tokenizer's end of a turn":
            config.eos_token_id = read
    description = config.describe()
    known = {token: vocabulary[token] for token in config.mask_tokens if token in vocabulary}
    if vocabulary and description.mask_id not in (known.values() or vocabulary.values()):
        _mask_unknown(folder, description.mask_id, known)
    defined = min(max(vocabulary.values(), default=width - 1) + 1, width)
    return replace(description, eos_ids=tuple(ends), valid_vocab=defined)


def _mask_unknown(folder: Path, mask: int, known: Mapping[str, int]) -> None:
    named = ", ".join(f"{token} is {i}" for token, i in known.items())
    raise SettingsError(
        f"mask_token_id is {mask}, but in the tokenizer of {folder} {named or 'no token has this id'}; correct"
        " mask_token_id in config.json, or use the tokenizer that belongs to the model"
    )


for _family in FAMILIES.values():
    register(_family)
