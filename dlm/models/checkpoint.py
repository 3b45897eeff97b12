"""Model files: where they are, and whether their tensors are the ones the architecture needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from dlm.errors import CheckpointError, SettingsError
from dlm.models.masked_lm import MaskedLM, MaskedLMConfig

TINY = Path(__file__).parent / "tiny"
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_LISTED = 12
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.jinja")

Shape = tuple[int, ...]


def resolve(name_or_path: str | Path) -> Path:
    """The local folder of a model: the packaged one, the folder itself, or a download from the hub.

    Raises:
        SettingsError: the name is neither a folder nor can it be a hub id.
        CheckpointError: the folder or the hub repository cannot be reached.
    """
    name = str(name_or_path)
    if name == "tiny":
        if not (TINY / "config.json").is_file():
            raise CheckpointError(f"{TINY} holds no model; train it with python scripts/train_tiny.py")
        return TINY
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(name_or_path, Path) or name.startswith((".", "/", "~")) or folder.is_file():
        raise CheckpointError(f"{name} is not a folder; give the one with config.json and *.safetensors")
    if name.count("/") != 1:
        raise SettingsError(
            f"unknown model {name!r}: use 'tiny', a folder, or a hub id such as GSAI-ML/LLaDA-8B-Instruct"
        )
    return _download(name)


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=list(_PATTERNS)))
    except Exception as error:  # the client raises its own, its HTTP library's and the system's errors
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{repo} is not a local folder and could not be fetched from the hub ({first}); check the "
            "name and the connection, or give the folder of a downloaded copy"
        ) from error


def check_weights(folder: Path, family: type[MaskedLM], config: MaskedLMConfig) -> None:
    """Compare the tensors on disk with the ones the architecture needs; CheckpointError lists what differs.

    Reads the headers only. A truncated file fails here, because its header does not cover it.
    """
    stored = stored_shapes(folder)
    needed = needed_shapes(family, config)
    missing = sorted(needed.keys() - stored.keys())
    if config.tie_word_embeddings:
        tied = family._tied_weights_keys or {}
        missing = [key for key in missing if tied.get(key) not in stored]
    surplus = sorted(stored.keys() - needed.keys())
    wrong = [
        f"{key} is {list(stored[key])}, needed {list(needed[key])}"
        for key in sorted(stored.keys() & needed.keys())
        if stored[key] != needed[key]
    ]
    if missing or surplus or wrong:
        faults = {"missing": missing, "surplus": surplus, "of the wrong shape": wrong}
        lists = " ".join(f"{len(found)} {kind}: {_cut(found)}." for kind, found in faults.items() if found)
        raise CheckpointError(
            f"the weights in {folder} do not fit its config.json ({family.__name__}). {lists} "
            "Correct config.json or use the weights it was made for."
        )


def needed_shapes(family: type[MaskedLM], config: MaskedLMConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of a model, without making any."""
    with torch.device("meta"):
        model = family(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def stored_shapes(folder: Path) -> dict[str, Shape]:
    """Name and shape of every tensor in a folder's safetensors files.

    Raises:
        CheckpointError: there are none, a shard named by the index is absent, or a file is damaged.
    """
    shapes: dict[str, Shape] = {}
    for path in _files(folder):
        try:
            with safe_open(path, framework="pt") as tensors:
                names = tensors.keys()
                shapes.update((name, tuple(tensors.get_slice(name).get_shape())) for name in names)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged or cut off ({error}); download it again") from error
    return shapes


def _files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if not index.is_file():
        other = " Pickled weights (*.bin) are not read: convert them." if list(folder.glob("*.bin")) else ""
        raise CheckpointError(f"{folder} has neither {_SINGLE} nor {_INDEX}.{other}")
    try:
        names: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = [folder / name for name in sorted(set(names.values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged ({error!r}); download it again") from error
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise CheckpointError(f"{folder} lacks shards that its index names: {_cut(absent)}; download them")
    return files


def _cut(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
    return ", ".join(entries[:_LISTED]) + more
