"""Model files: where they are, and whether their tensors are the ones the architecture needs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from dlm.errors import CheckpointError, SettingsError
from dlm.words import meant

if TYPE_CHECKING:
    from dlm.models.masked_lm import MaskedLM, MaskedLMConfig

TINY = Path(__file__).parent / "tiny"
# Packaged models, by name.
PACKAGED = {"tiny": TINY, "tiny-block": TINY.parent / "tiny_block"}
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_LISTED = 12
_PRECISIONS = ("F64", "F32", "F16", "BF16")
# What is fetched from the hub.
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.jinja")

Shape = tuple[int, ...]


def resolve(name_or_path: str | Path) -> Path:
    """The local folder of a model: the packaged one, the folder itself, or a download from the hub.

    Raises:
        SettingsError: the name is neither a folder nor can it be a hub id.
        CheckpointError: the folder or the hub repository cannot be reached.
    """
    name = str(name_or_path)
    if name in PACKAGED:
        packaged = PACKAGED[name]
        if not (packaged / "config.json").is_file():
            raise CheckpointError(f"{packaged} holds no model; train it with dlm train tiny")
        return packaged
    try:
        folder = Path(name).expanduser()
        there = bool(name) and folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a name too long or with a NUL
        raise SettingsError(f"{name!r} can be no folder ({error}); use 'tiny', a folder, or a hub id") from error
    if there:
        return folder
    if isinstance(name_or_path, Path) or name.startswith((".", "/", "~")) or folder.is_file():
        raise CheckpointError(f"{name} is not a folder; give the one with config.json and *.safetensors")
    if name.count("/") != 1:
        raise SettingsError(
            f"unknown model {name!r}{meant(name, PACKAGED)}: use 'tiny', 'tiny-block', a folder, or a hub id such as"
            " GSAI-ML/LLaDA-8B-Instruct"
        )
    return _download(name)


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=list(PATTERNS)))
    except Exception as error:  # the client raises its own, its HTTP library's and the system's errors
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{repo} is not a local folder and could not be fetched from the hub ({first}); check the "
            "name and the connection, or give the folder of a downloaded copy"
        ) from error


def check_weights(folder: Path, family: type[MaskedLM], config: MaskedLMConfig, packed: bool = False) -> None:
    """Compare the tensors on disk with the ones the architecture needs; CheckpointError lists what differs.

    Reads the headers only. A truncated file fails here, because its header does not cover it. ``packed``: matrices may
    be stored in any other way, under names below their module's.
    """
    stored, layers = stored_shapes(folder, packed), config.architecture().layers
    if layers > len(stored):
        raise CheckpointError(
            f"config.json in {folder} names {layers} layers, its weights are {len(stored)} tensors; correct the config"
        )
    needed = needed_shapes(family, config)
    if packed:
        stored = _unpacked(stored, needed)
    missing = sorted(needed.keys() - stored.keys())
    if config.tie_word_embeddings:
        tied = family._tied_weights_keys or {}
        missing = [key for key in missing if tied.get(key) not in stored]
    surplus = sorted(key for key in stored.keys() - needed.keys() if not _recomputed(family, key))
    wrong = [
        f"{key} is {list(stored[key])}, needed {list(needed[key])}"
        for key in sorted(stored.keys() & needed.keys())
        if stored[key] != needed[key]
    ]
    if missing or surplus or wrong:
        faults = {"missing": missing, "surplus": surplus, "of the wrong shape": wrong}
        lists = " ".join(f"{len(found)} {kind}: {cut(found)}." for kind, found in faults.items() if found)
        raise CheckpointError(
            f"the weights in {folder} do not fit its config.json ({family.__name__}). {lists} "
            "Correct config.json or use the weights it was made for."
        )


def _unpacked(stored: Mapping[str, Shape], needed: Mapping[str, Shape]) -> dict[str, Shape]:
    """What is stored, with every matrix that is packed as if it were not."""
    plain = {name: shape for name, shape in stored.items() if needed.get(name) == shape}
    for name in stored.keys() - plain.keys():
        parts = name.split(".")
        modules = (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))
        matrix = next((key for m in modules if len(needed.get(key := f"{m}.weight", ())) == 2), name)
        plain[matrix] = needed.get(matrix, stored[name])
    return plain


def needed_shapes(family: type[MaskedLM], config: MaskedLMConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of a model, without making any."""
    import torch  # `dlm list` does without

    with torch.device("meta"):
        model = family(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def memory(family: type[MaskedLM], config: MaskedLMConfig) -> dict[str, int]:
    """Parameters, and the bytes of the weights in bfloat16 and with the blocks' matrices quantised; from the shapes."""
    tied = family._tied_weights_keys or {} if config.tie_word_embeddings else {}
    rest = matrices = rows = 0
    for name, size in needed_shapes(family, config).items():
        if name not in tied:
            inside = family.names.blocks in name and len(size) == 2
            matrices, rest = matrices + prod(size) * inside, rest + prod(size) * (not inside)
            rows += size[0] * inside
    return {
        "parameters": rest + matrices,
        "bfloat16": 2 * (rest + matrices),
        "int8": 2 * rest + matrices + 5 * rows,  # a scale in float32 and a zero per row
        "fp8": 2 * rest + matrices + 4 * rows,  # a scale per row, in float32
        "int4": 2 * rest + matrices * 17 // 32,  # a scale and a zero per 128
    }


def stored_shapes(folder: Path, packed: bool = False) -> dict[str, Shape]:
    """Name and shape of every tensor in a folder's safetensors files.

    Raises:
        CheckpointError: there are none, a shard named by the index is absent, a file is damaged, or what is stored are
            no numbers of floating point (``packed``: those may be).
    """
    return shapes_in(_files(folder), packed)


def shapes_in(files: Sequence[Path], packed: bool = False) -> dict[str, Shape]:
    """As :func:`stored_shapes`, of given files."""
    shapes: dict[str, Shape] = {}
    odd: list[str] = []
    for path in files:
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    part = tensors.get_slice(name)
                    shapes[name] = tuple(part.get_shape())
                    odd += [f"{name} is {part.get_dtype()}"] if part.get_dtype() not in _PRECISIONS else []
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged or cut off ({error}); download it again") from error
    if odd and not packed:
        raise CheckpointError(
            f"the weights in {files[0].parent} are not in {', '.join(_PRECISIONS)}: {cut(odd)}; load weights that are"
        )
    return shapes


def _recomputed(family: type[MaskedLM], key: str) -> bool:
    return any(re.search(pattern, key) for pattern in family._keys_to_ignore_on_load_unexpected or ())


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError: it holds anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path} is not a JSON object: {error}; download it again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is not a JSON object but a {type(found).__name__}; download it again")
    return found


def refuse_adapters(folder: Path) -> None:
    """Raise CheckpointError for an adapter in a model's folder: transformers would load it by itself."""
    kinds = (".json", ".safetensors", ".bin", ".pt", ".pth", ".npz")
    found = sorted(path.name for path in folder.glob("adapter*") if path.suffix in kinds)
    if found:
        raise CheckpointError(
            f"{folder} holds an adapter beside its model: {cut(found)}. Move it to a folder of its own, and say"
            " adapter=that folder to merge it"
        )


def _files(folder: Path) -> list[Path]:
    index, single = folder / _INDEX, folder / _SINGLE
    if not index.is_file():
        if single.is_file():
            return [single]
        kinds = [kind for kind in ("*.bin", "*.pt", "*.pth", "*.gguf") if list(folder.glob(kind))]
        other = f" Other weights ({', '.join(kinds)}) are not read: convert them." if kinds else ""
        raise CheckpointError(f"{folder} has neither {_SINGLE} nor {_INDEX}.{other}")
    try:
        names = sorted(set(read_object(index)["weight_map"].values()))
    except (CheckpointError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged ({error!r}); download it again") from error
    # A name only: a path could lead out of the folder. (A link in the folder may: the hub's cache is made of them.)
    outside = [name for name in names if not isinstance(name, str) or not re.fullmatch(r"[^/\\\0]+\.safetensors", name)]
    if outside or not names:
        raise CheckpointError(
            f"{index} names {cut([repr(name) for name in outside]) or 'nothing'}; shards are plain"
            " file names in its folder that end in .safetensors"
        )
    files = [folder / name for name in names]
    absent = [path.name for path in files if not path.is_file()]
    if single.is_file() and files != [single]:
        if len(absent) < len(files):
            raise CheckpointError(
                f"{folder} holds {_SINGLE} and the shards of {_INDEX}: one of them is out of date; remove it"
            )
        return [single]
    if absent:
        raise CheckpointError(f"{folder} lacks shards that its index names: {cut(absent)}; download them")
    return files


def cut(entries: Sequence[str]) -> str:
    """Names in a message, the first of many."""
    more = f" and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
    return ", ".join(entries[:_LISTED]) + more
