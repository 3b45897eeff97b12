"""What is looked at before a pattern or a schema is turned into an automaton: can it be honoured, and is it small."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from dlm.errors import SettingsError

MOST = 20_000  # characters of a pattern once its repetitions are written out, and states of its automaton
_REPEATED = re.compile(r"\{(\d+)(,?)(\d*)\}")
# Of a schema, what the library's translation passes over in silence.
_IGNORED = {
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "uniqueItems", "not", "if", "then",
    "else", "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas", "contains", "minContains",
    "maxContains", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef",
}  # fmt: skip
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def checked_pattern(pattern: str) -> str:
    """The pattern without anchors around it, which mean nothing where the whole answer must match. SettingsError: its
    brackets do not close, or it is too long once its repetitions are written out."""
    pattern = pattern.removeprefix("^")
    if pattern.endswith("$") and (len(pattern) - len(pattern[:-1].rstrip("\\"))) % 2 == 1:
        pattern = pattern[:-1]
    sizes, last, i = [0], 0, 0
    while i < len(pattern):
        c, step, atom = pattern[i], 1, 1
        if c == "\\":
            step = 2
        elif c == "[":
            close = re.compile(r"\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]", re.DOTALL).match(pattern, i)
            if close is None:
                raise SettingsError(f"constraint: {pattern!r:.200} is no pattern that can be used: [ without ]")
            step = close.end() - i
        elif c == "(":
            sizes.append(0)
            atom = 0
        elif c == ")":
            if len(sizes) == 1:
                raise SettingsError(f"constraint: {pattern!r:.200} is no pattern that can be used: ) without (")
            atom = sizes.pop()
        elif (found := _REPEATED.match(pattern, i)) is not None:
            times, step = int(found[3] or found[1]), found.end() - i
            sizes[-1] += last * (times - 1)
            last, atom = last * times, -1
        elif c in "*+?|":
            atom = -1
        if atom >= 0:
            last = atom
            sizes[-1] += atom
        if max(sizes) > MOST:
            raise SettingsError(
                f"constraint: the pattern is longer than {MOST} characters once repetitions are written out"
            )
        i += step
    if len(sizes) > 1:
        raise SettingsError(f"constraint: {pattern!r:.200} is no pattern that can be used: ( without )")
    return pattern


def checked_schema(text: str) -> str:
    """A JSON schema that can be honoured as a whole. SettingsError: it cannot; the place is named."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"the JSON schema is no JSON: {error}") from error
    if not isinstance(schema, dict):
        raise SettingsError('the JSON schema must be an object, such as {"type": "object", ...}')
    _check(schema, schema, "the JSON schema", ())
    return text


def _check(node: Any, root: Mapping[str, Any], place: str, seen: tuple[str, ...]) -> None:
    if not isinstance(node, dict):
        raise SettingsError(f"{place} must be an object, got {node!r:.80}")
    if ignored := sorted(_IGNORED & node.keys()):
        raise SettingsError(f"{place}: {', '.join(ignored)} cannot be held to by a regular expression: leave it out")
    for key in _COUNTS:
        if key in node and (type(node[key]) is not int or not 0 <= node[key] <= MOST):
            raise SettingsError(f"{place}: {key} must be a whole number from 0 to {MOST}, got {node[key]!r:.80}")
    if "$ref" in node:
        name = str(node["$ref"])
        if name in seen:
            raise SettingsError(f"{place}: {name} refers to itself; a regular expression knows no recursion")
        found: Any = root
        for part in name.removeprefix("#").split("/")[1:]:
            found = found.get(part) if isinstance(found, dict) else None
        if not name.startswith("#") or found is None:
            raise SettingsError(f"{place}: $ref {name!r:.80} leads nowhere in this schema")
        return _check(found, root, name, (*seen, name))
    if "enum" in node and not node["enum"]:
        raise SettingsError(f"{place}: enum is empty")
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for number, part in enumerate(node.get(key) or ()):
            _check(part, root, f"{place}, {key}[{number}]", seen)
    kinds = node.get("type")
    if not node.keys() & {"type", "enum", "const", "anyOf", "oneOf", "allOf", "properties"}:
        raise SettingsError(f"{place} allows anything: give it a type")
    for name, part in (node.get("properties") or {}).items():
        _check(part, root, f"{place}, {name}", seen)
    if kinds == "object" and not node.get("properties") and not isinstance(node.get("additionalProperties"), dict):
        raise SettingsError(f"{place} allows any object: give it properties")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            _check(node[key], root, f"{place}, {key}", seen)
    if kinds == "array" and not node.keys() & {"items", "prefixItems"}:
        raise SettingsError(f"{place} allows any list: give it items")
    return None
