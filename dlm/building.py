"""From plain values with ``_target_`` to parts: what is named is looked at before it is called."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, get_type_hints

from dlm.engine.settings import checked, kinds_of
from dlm.errors import DlmError, SettingsError

# What each group of the configuration is: module and class.
_ROLES = {
    "model": ("dlm.models.language_model", "LanguageModel"),
    "task": ("dlm.tasks.base", "Task"),
    "blocks": ("dlm.engine.interfaces", "BlockSchedule"),
    "sampler": ("dlm.engine.sampler", "Sampler"),
    "cache": ("dlm.engine.interfaces", "Cache"),
    "drafting": ("dlm.engine.interfaces", "Speculator"),
}


def role_of(group: str) -> type | None:
    """The class that a choice of a group must give; None for what is no group."""
    if group not in _ROLES:
        return None
    module, name = _ROLES[group]
    role: type = getattr(import_module(module), name)
    return role


def typed(node: Mapping[str, Any], role: type | tuple[type, ...] | None, name: str) -> dict[str, Any]:
    """A node with every value of the kind its part wants (8.0 is 8 for a whole number); nothing is called.

    Args:
        node: plain values with ``_target_``.
        role: what must come of it, of several any; None: any part of a decoder, or a dataclass.
        name: where it stands in the configuration, for messages.

    Raises:
        SettingsError: there is no such target, it gives something else, or a value is of another kind.
    """
    copy: dict[str, Any] = json.loads(_typed(json.dumps(node), role, name))
    return copy


@lru_cache(maxsize=4096)
def _typed(node: str, role: type | tuple[type, ...] | None, name: str) -> str:
    """Kept, because the points of a sweep have most of their parts in common; as text, so that nobody changes it."""

    def nested(hint: Any, value: Any, name: str) -> dict[str, Any]:
        wanted = tuple(
            kind for kind in kinds_of(hint) if isinstance(kind, type) and kind not in (Any, object, type(None))
        )
        return walked(value, wanted, name)

    def walked(values: Mapping[str, Any], roles: tuple[type, ...], name: str) -> dict[str, Any]:
        target = _located(values["_target_"], roles, name)
        own = {key: value for key, value in values.items() if key not in ("_target_", "_partial_")}
        if _blocks_unasked(values):
            del own["blocks"]
        return {**values, **checked(target, own, name, nested)}

    values = json.loads(node)
    if not isinstance(values, dict) or not isinstance(values.get("_target_"), str):
        raise SettingsError(f"{name} names no part: give one of its choices, or {name}={{_target_: MODULE.CLASS, ...}}")
    roles = role if isinstance(role, tuple) else () if role is None else (role,)
    return json.dumps(walked(values, roles, name))


def build(node: Mapping[str, Any], role: type | tuple[type, ...] | None, name: str) -> Any:
    """The part that plain values stand for, checked by :func:`typed` first. Raises SettingsError as that does, and for
    what the part itself refuses; another error of ours comes out as itself."""
    return _made(typed(node, role, name), name)


def _made(node: Any, name: str) -> Any:
    if isinstance(node, list):
        return [_made(entry, f"{name}[{i}]") for i, entry in enumerate(node)]
    if not isinstance(node, dict) or "_target_" not in node:
        return node
    target, given = _object(node["_target_"], name), dict(node)
    if _blocks_unasked(node):
        given["blocks"] = None
    values = {k: _made(v, f"{name}.{k}") for k, v in given.items() if k not in ("_target_", "_partial_")}
    try:
        return partial(target, **values) if node.get("_partial_") is True else target(**values)
    except DlmError:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        # A value of the wrong kind is named by the annotations; what is left are parts without them.
        odd = {k: v for k, v in given.items() if k != "_target_" and isinstance(v, str | None)}
        told = f" (given {', '.join(f'{k}={v!r}' for k, v in odd.items())})" if odd else ""
        raise SettingsError(f"cannot build {node['_target_']}: {said}{told}") from error


def _located(path: Any, roles: tuple[type, ...], name: str) -> Any:
    """What a dotted name stands for, if one of the roles can come of it: a class that extends it, or a function that
    says so (``-> Sampler``). Anything else that can be called (``os.system``) is not."""
    found = _object(path, name)
    gives: tuple[Any, ...] = (found,)
    if not isinstance(found, type):
        try:
            gives = kinds_of(get_type_hints(found).get("return"))
        except (NameError, TypeError, AttributeError):
            gives = ()
    classes = [given for given in gives if isinstance(given, type)]
    if any(_plays(given, role) for given in classes for role in roles):
        return found
    if not roles and any(is_dataclass(given) or issubclass(given, _roots()) for given in classes):
        return found
    wanted = " or ".join(role.__name__ for role in roles) or "part of a decoder"
    raise SettingsError(
        f"{name}: {path} gives no {wanted}: name a class that extends it, or a function that says '-> {wanted}'"
    )


def _plays(given: type, role: type) -> bool:
    """Whether a class extends a role; of a protocol it need only have the methods."""
    if not getattr(role, "_is_protocol", False):
        return issubclass(given, role)
    return role in given.__mro__ or all(hasattr(given, name) for name, method in vars(role).items()
                                        if inspect.isfunction(method) and not name.startswith("_"))  # fmt: skip


@lru_cache(maxsize=1)
def _roots() -> tuple[type, ...]:
    from dlm.engine.interfaces import Cache, Part, Speculator

    return Part, Cache, Speculator


def _object(path: Any, name: str) -> Any:
    """Import what a dotted name stands for. Raises SettingsError: there is none."""
    words = str(path).split(".")
    if len(words) < 2 or not all(word.isidentifier() for word in words):
        raise SettingsError(f"{name}._target_ is MODULE.NAME, got {path!r}")
    try:
        found: Any = import_module(words[0])
        for end, word in enumerate(words[1:], start=2):
            if inspect.ismodule(found) and not hasattr(found, word):
                import_module(".".join(words[:end]))
            found = getattr(found, word)
    except DlmError:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingsError(f"there is no {path} to build: {said}") from error
    return found


def _blocks_unasked(node: Mapping[str, Any]) -> bool:
    """Whether a node is one of our presets with nobody's blocks: it has blocks of its own, which None stands for.

    ``conf/blocks/auto.yaml`` cannot say ``null`` itself: the configuration of a point is hashed as it stands there, and
    another spelling would give every folder of results another name (and ``blocks.length=16`` nothing to set).
    """
    if not str(node.get("_target_", "")).startswith("samplers."):
        return False
    blocks = node.get("blocks")
    return isinstance(blocks, Mapping) and dict(blocks) == {"_target_": "samplers.Fixed", "length": None}
