"""``dlm list``, ``dlm show``, ``dlm pull``: the models there are, and what of them is on this machine."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Column, Table

from dlm.commands.common import asks_help, split_texts, switch
from dlm.errors import CheckpointError, DlmError, SettingsError, StorageError
from dlm.overrides import choices, config_dirs
from dlm.words import meant, visible

HELP = """dlm list, dlm show, dlm pull: the models there are, and the Hugging Face cache of this machine.

usage: dlm list [json=true]
       dlm show MODEL [json=true]
       dlm pull MODEL

MODEL is a name that model= takes (llada-8b-instruct) or an id of the hub (GSAI-ML/LLaDA-8B-Instruct);
for show also a folder.

  list   the packaged models, those with a name, and others in the cache that dlm can read
  show   family, parameters, context, mask id, attention blocks, licence, size, memory in bfloat16, int8 and int4
  pull   fetch config, tokenizer and safetensors into the cache (HF_HOME); what was broken off goes on. Nothing that
         a repository holds is run

examples:
  dlm list
  dlm show tiny
  dlm pull llada-8b-instruct
"""


def run_list(words: list[str]) -> int:
    """``dlm list``; returns the exit status."""
    if (asked := _asked("list", words)) is None:
        return 0
    from dlm.models.checkpoint import PACKAGED

    cached, ours = _cached(), {name: repo_of(name) for name in _named()}
    others = [repo for repo, (folder, _) in sorted(cached.items()) if repo not in ours.values() and _readable(folder)]
    lines = list[dict[str, Any]]()
    for name in [*sorted(ours, key=lambda name: (name not in PACKAGED, name)), *others]:
        repo = ours.get(name, name)
        folder, size = cached.get(repo, (None, 0)) if name not in PACKAGED else (PACKAGED[name], _size(PACKAGED[name]))
        here = "packaged" if name in PACKAGED else _state(folder)
        lines.append({"name": name, "repository": repo, "cached": here, "bytes": size})
    if switch(asked, "json"):
        print(json.dumps(lines, indent=1))
        return 0
    table = Table("model", "repository", "cached", Column("size", justify="right"), box=None, pad_edge=False)
    for *texts, size in (line.values() for line in lines):
        table.add_row(*map(visible, map(str, texts)), _bytes(size))
    width = None if sys.stdout.isatty() else 150
    Console(file=sys.stdout, width=width, markup=False, highlight=False).print(table)
    return 0


def run_show(words: list[str]) -> int:
    """``dlm show``; returns the exit status."""
    if (asked := _asked("show", words)) is None:
        return 0
    facts = described(asked["model"])
    if switch(asked, "json"):
        print(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        shown = facts | {
            "parameters": f"{facts['parameters']:,}",
            "weights": _bytes(facts["weights"]),
            "memory": ", ".join(f"{kind} {_bytes(size)}" for kind, size in facts["memory"].items()),
        }
        print("\n".join(visible(f"{key:<18}{value}") for key, value in shown.items()))
    return 0


def run_pull(words: list[str]) -> int:
    """``dlm pull``; returns the exit status."""
    if (asked := _asked("pull", words)) is None:
        return 0
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    from dlm.models.checkpoint import PACKAGED, PATTERNS

    name, repo = asked["model"], repo_of(asked["model"])
    if repo in PACKAGED:
        print(f"{name} is a part of this package: there is nothing to fetch")
        return 0
    files = _files(repo, info := _info(repo))
    missing = [n for f, n in files.items() if not isinstance(try_to_load_from_cache(repo, f, revision=info.sha), str)]
    place = next(p for p in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if p.is_dir())
    if (free := shutil.disk_usage(place).free) < sum(missing):
        raise StorageError(
            f"{repo} needs {_bytes(sum(missing))} more, and {place} has {_bytes(free)} free: make room, or set HF_HOME"
            " to another place"
        )
    folder = _fetched(repo, allow_patterns=list(PATTERNS))
    print(visible(f"{repo} is in {folder}"), f"next: {_next(name)}", sep="\n")
    return 0


def repo_of(name: str) -> str:
    """The id of the hub that a name stands for; of a packaged model its name. Raises SettingsError: it is none."""
    known = _named()
    if name in known:
        places = (folder / "model" / f"{name}.yaml" for folder in config_dirs())
        node = yaml.safe_load(next(p for p in places if p.is_file()).read_text(encoding="utf-8"))
        return str(node.get("name_or_path", name))
    if name.count("/") == 1 and all(name.split("/")) and not name.startswith((".", "~")):
        return name
    raise SettingsError(
        f"unknown model {name!r}{meant(name, known)}; known are {', '.join(known)}, and ids of the hub, as OWNER/NAME"
    )


def described(name: str) -> dict[str, Any]:
    """What ``dlm show`` says of a model. Raises SettingsError, CheckpointError: it is unknown, neither in the cache nor
    to be reached, or none that dlm reads."""
    from dlm.models.checkpoint import PACKAGED, memory
    from dlm.models.loading import describe, load_tokenizer, read_config

    own = Path(name).expanduser() if name not in _named() and Path(name).expanduser().is_dir() else None
    repo, cached = repo_of(name) if own is None else name, _cached()
    folder = own or PACKAGED.get(repo) or cached.get(repo, (None, 0))[0]
    here = "a folder" if own else "packaged" if repo in PACKAGED else _state(folder)
    licence, weights = ("that of this package" if repo in PACKAGED else "unknown offline"), 0
    if repo not in PACKAGED and own is None:
        with suppress(DlmError):
            info = _info(repo)
            licence = getattr(info.card_data, "license", None) or "none is named"
            weights = sum(size for file, size in _files(repo, info).items() if file.endswith(".safetensors"))
    with tempfile.TemporaryDirectory() as other:
        if folder is None or not (folder / "config.json").is_file():
            folder = _fetched(repo, allow_patterns=["config.json", "generation_config.json"], local_dir=other)
        family, config = read_config(folder)
        mask: Any = "told by the tokenizer"
        with suppress(DlmError):
            mask = describe(folder, config, family, load_tokenizer(folder)).mask_id
        weights = weights or _size(folder)
    sizes, architecture = memory(family, config), config.architecture()
    kinds = ("bfloat16", "int8", "int4") if architecture.experts is None else ("bfloat16",)
    return {
        "model": name,
        "repository": repo,
        "family": config.model_type,
        "parameters": sizes["parameters"],
        "layers": architecture.layers,
        "context": config.max_position_embeddings,
        "mask id": mask,
        "attention blocks": (config.block_field and getattr(config, config.block_field)) or "none",
        "licence": licence,
        "weights": weights,
        "memory": {kind: sizes[kind] for kind in kinds},
        "cached": here,
        "next": _next(name) if here in ("yes", "packaged") else f"dlm pull {name}",
    }


def _named() -> list[str]:
    return [name for name in choices("model") if name != "local"]


def _next(name: str) -> str:
    return f"dlm generate --model {name} PROMPT, or dlm chat --model {name}"


def _asked(command: str, words: list[str]) -> dict[str, str] | None:
    """The model and the settings of a command line; None: it asked for help."""
    if asks_help(words):
        print(HELP, end="")
        return None
    words = ["json=true" if word == "--json" else word for word in words]
    texts, rest = split_texts(words, ("json", "debug", "model"))
    names = [*rest, *([texts["model"]] if "model" in texts else [])]
    wanted = 0 if command == "list" else 1
    if len(names) != wanted or any("=" in name or name.startswith("-") for name in names):
        takes = "no model" if not wanted else f"one model: dlm {command} llada-8b-instruct"
        raise SettingsError(f"dlm {command} takes {takes}, and json=true (dlm {command} --help)")
    return texts | ({"model": names[0]} if names else {})


def _cached() -> dict[str, tuple[Path | None, int]]:
    """Models in the cache: id of the hub -> the newest snapshot, and bytes."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    found: dict[str, tuple[Path | None, int]] = {}
    with suppress(CacheNotFound):
        for repo in scan_cache_dir(constants.HF_HUB_CACHE).repos:
            if repo.repo_type == "model":
                newest = max(repo.revisions, key=lambda each: ("main" in each.refs, each.last_modified), default=None)
                found[repo.repo_id] = (newest.snapshot_path if newest else None, repo.size_on_disk)
    return found


def _state(folder: Path | None) -> str:
    """Whether a snapshot is there: ``yes``, ``partly``, ``no``."""
    from dlm.models.checkpoint import stored_shapes

    if folder is None:
        return "no"
    try:
        return "yes" if (folder / "config.json").is_file() and stored_shapes(folder, packed=True) else "partly"
    except CheckpointError:
        return "partly"


def _readable(folder: Path | None) -> bool:
    from dlm.models.loading import read_config

    with suppress(DlmError, OSError):
        return folder is not None and bool(read_config(folder))
    return False


def _info(repo: str) -> Any:
    from huggingface_hub import HfApi

    with _hub(repo):
        return HfApi().model_info(repo, files_metadata=True)


def _fetched(repo: str, **what: Any) -> Path:
    from huggingface_hub import snapshot_download

    with _hub(repo):
        return Path(snapshot_download(repo, **what))


def _files(repo: str, info: Any) -> dict[str, int]:
    """The files of a repository that dlm reads, with their bytes. Raises CheckpointError: it could not be loaded."""
    from dlm.models.checkpoint import PATTERNS
    from dlm.models.loading import FAMILIES

    named = (info.config or {}).get("architectures")
    if isinstance(named, list) and named and named[0] not in FAMILIES:
        raise CheckpointError(f"{repo} is a {named[0]}, which dlm does not read; it reads {', '.join(FAMILIES)}")
    files = {f.rfilename: f.size or 0 for f in info.siblings if any(fnmatch(f.rfilename, p) for p in PATTERNS)}
    if not any(file.endswith(".safetensors") for file in files):
        raise CheckpointError(f"{repo} holds no safetensors, and other weights are not read: look for a converted copy")
    return files


@contextmanager
def _hub(repo: str) -> Iterator[None]:
    """Say in a sentence why the hub did not give what was asked of it. Raises CheckpointError."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo} is gated: accept its terms at https://huggingface.co/{repo}, then log in (hf auth login)"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        near = meant(repo, map(repo_of, _named()))
        raise CheckpointError(
            f"the hub has no model {repo!r}{near}; a private one wants a login (hf auth login)"
        ) from error
    except Exception as error:  # its own, its HTTP library's and the system's
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"{repo} could not be got from the hub ({first}): check connection and disk") from error


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _bytes(size: float | None) -> str:
    """``16.0 GB``; ``-`` for none."""
    if not size:
        return "-"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
