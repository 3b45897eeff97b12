"""Tasks of the published ParallelBench, read from a checkout that the user has (arXiv 2510.04767).

Nothing of it is part of this package. Prompts, worked examples and right answers are taken as they stand in the files;
lists and puzzles are scored by the published rules, defects included (of the first version; the second has the same).
Text is scored by the published products of the first version, but with the grammar and similarity of
:mod:`dlm.tasks.text`: do not compare it with published figures. What is left of differences: docs/evaluation.md.
"""

from __future__ import annotations

import hashlib
import json
from ast import literal_eval
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from dlm.errors import SettingsError
from dlm.tasks.base import Instance, Task, Template, Verdict, instance_id
from dlm.tasks.lists import ListQuestion, judge_list
from dlm.tasks.reading import kept, loose_digits, published_list, strict_digits

# Where the files lie: in the first version of the checkout, after it was made a package, and in a folder that the
# package's own command generated them into (the second version ships none).
FOLDERS = (
    "dataset/parallel_bench/data/output/test",
    "parallelbench/dataset/data/output/test",
    "parallelbench/datasets/data/output/test",
    "test",
)
CANVAS = {"waiting_line": 32, "waiting_line_n15": 128}
OTHER_CANVAS = 64
MASK = "[MASK]"
OTHER_ENDS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # of lines, for Python


@dataclass(frozen=True)
class Upstream:
    """A task of the published benchmark.

    Attributes:
        name: ``upstream/<group>/<task>``.
        metric: the published name of its scorer.
        instances: its questions.
        identity: hashes of the two files they were read from.
    """

    name: str
    metric: str
    instances: tuple[Instance, ...] = field(repr=False)
    identity: dict[str, Any]

    @property
    def canvas(self) -> int:
        """Positions to fill, as published: 32 for lists, 128 for lists of 15, else 64."""
        return CANVAS.get(self.name.split("/")[1], OTHER_CANVAS)

    @property
    def size(self) -> int:
        """How many questions the file has."""
        return len(self.instances)

    def instance(self, index: int) -> Instance:
        """The question of the ``index``-th line, from 0."""
        return self.instances[index]

    def judge(self, instance: Instance, output: str) -> Verdict:
        """Score an answer as published."""
        return SCORERS[self.metric](instance.meta, output)


def open_upstream(name: str, *, dir: str | None = None, task: str | None = None) -> Upstream:
    """Read ``upstream/<group>/<task>`` from the checkout ``dir``.

    Args:
        task: ``<group>/<task>`` again, as the configuration has it.

    Raises:
        SettingsError: no ``dir``, no such task, a file that cannot be used; the message names file and line.
    """
    group, _, leaf = name.removeprefix("upstream/").partition("/")
    if not group or not leaf or "/" in leaf or ".." in (group, leaf):
        raise SettingsError(f"a task of a checkout is called upstream/GROUP/TASK, got {name!r}")
    if task is not None and task != f"{group}/{leaf}":
        raise SettingsError(f"task {name} is given task={task!r}: leave it out")
    if dir is None:
        raise SettingsError(f"task {name} needs dir=FOLDER, a checkout of the published benchmark")
    questions, settings = _files(Path(dir).expanduser(), group, leaf)
    config = _settings(settings, f"{group}/{leaf}")
    raw = questions.read_bytes()
    identity: dict[str, Any] = {"data_sha256": hashlib.sha256(raw).hexdigest(),
                "config_sha256": hashlib.sha256(settings.read_bytes()).hexdigest()}  # fmt: skip
    if config["metric"] in TEXTS:
        own = _writer(TEXTS[config["metric"]]).identity
        identity |= {key: value for key, value in own.items() if key != "data_sha256"}
    return Upstream(name, config["metric"], tuple(_instances(name, config, questions, raw)), identity)


def _files(checkout: Path, group: str, leaf: str) -> tuple[Path, Path]:
    for folder in FOLDERS:
        found = checkout / folder / group
        if (found / f"{leaf}.jsonl").is_file() and (found / "task_config.yaml").is_file():
            return found / f"{leaf}.jsonl", found / "task_config.yaml"
    known = sorted({path.stem for folder in FOLDERS for path in (checkout / folder / group).glob("*.jsonl")})
    have = f"; {group} there has {', '.join(known)}" if known else ""
    raise SettingsError(
        f"{checkout} has no {FOLDERS[0]}/{group}/{leaf}.jsonl with a task_config.yaml beside it: set task.dir to a"
        f" checkout of ParallelBench{have}"
    )


def _settings(path: Path, task: str) -> dict[str, str]:
    """The entry of a task, with ``prompt`` and ``metric``."""
    import yaml

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise SettingsError(f"{path}{line} is no YAML: {str(error).splitlines()[0]}") from error
    entry = entries.get(task) if isinstance(entries, dict) else None
    if not isinstance(entry, dict):
        raise SettingsError(f"{path} says nothing about {task}")
    for key in ("prompt", "metric"):
        if not isinstance(entry.get(key), str):
            raise SettingsError(f"{path}: {task} has no {key}")
    if entry["metric"] not in SCORERS:
        raise SettingsError(f"{path}: {task} is scored by {entry['metric']!r}; known are {', '.join(SCORERS)}")
    return {"prompt": entry["prompt"], "metric": entry["metric"]}


def _instances(name: str, config: dict[str, str], path: Path, raw: bytes) -> list[Instance]:
    instances: list[Instance] = []
    seen: Counter[str] = Counter()
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            asked = _instance(name, config, record)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise SettingsError(f"{path}, line {number} is no question of this task: {reason}") from error
        if again := seen[asked.instance_id]:  # a question that is there twice counts twice, as published
            again_id = instance_id(name, asked.prompt, {"answer": asked.meta["answer"], "again": again})
            instances.append(replace(asked, instance_id=again_id))
        else:
            instances.append(asked)
        seen[asked.instance_id] += 1
    if not instances:
        raise SettingsError(f"{path} holds no question")
    return instances


def _instance(name: str, config: dict[str, str], record: dict[str, Any]) -> Instance:
    given, answer = record["input"], record["answer"]
    prompt = _filled(config["prompt"], given)
    shots = [
        (_filled(config["prompt"], shot["input"]), _right(shot["answer"])) for shot in given.get("icl_examples", ())
    ]
    context = published_list(given["context"]) if isinstance(given.get("context"), str) else []
    word = given.get("word")
    newcomer = word if isinstance(word, str) else ""
    meta = {"answer": answer, "context": context}
    SCORERS[config["metric"]](meta, "")  # an answer that cannot be scored is found here, not after hours of decoding
    masked, items = record.get("output_format"), dict.fromkeys([*context, *([newcomer] if newcomer else [])])
    template = None
    if isinstance(masked, str) and MASK in masked and items:
        template = Template(tuple(masked.split(MASK)), tuple(items))
    return Instance(instance_id(name, prompt, {"answer": answer}), name, prompt, _right(answer), meta, tuple(shots),
                    template)  # fmt: skip


def _filled(prompt: str, values: dict[str, Any]) -> str:
    """The published filling: named slots, then a written backslash-n becomes a line end."""
    return prompt.format(**values).replace("\\n", "\n")


def _right(answer: Any) -> str:
    """One right answer: the answer, or the example or summary within it."""
    if isinstance(answer, str):
        return answer
    for key in ("example", "summary"):
        if isinstance(answer.get(key), str):
            return str(answer[key])
    examples = answer.get("examples")
    if isinstance(examples, str):  # the published file has the list's text; a text that is none is taken as it stands
        try:
            examples = literal_eval(examples)
        except (ValueError, SyntaxError):
            return str(examples)
    return str(examples[0]) if isinstance(examples, list) and examples else ""


def _equal(meta: dict[str, Any], output: str) -> Verdict:
    target = published_list(meta["answer"])
    return judge_list(ListQuestion("equal", meta["context"] or target, "", target), output, published_list)


def _open(operation: str) -> Callable[[dict[str, Any], str], Verdict]:
    """The scorer of an operation with several right answers."""

    def judged(meta: dict[str, Any], output: str) -> Verdict:
        answer = meta["answer"]
        word = answer["word"] if "word" in answer or operation in ("insert_random", "replace_random") else ""
        asked = ListQuestion(operation, list(answer["input"]), word, published_list(answer["example"]))
        return judge_list(asked, output, published_list)

    return judged


def _latin(meta: dict[str, Any], output: str) -> Verdict:
    """Rows and columns hold all symbols; a longer row may hold some twice. There is no strict parser."""
    symbols = set(meta["answer"]["symbols"])
    lines = ([cell.strip() for cell in line.split(",")] for line in output.split("\n"))
    rows = list(islice((row for row in lines if set(row) == symbols), len(symbols)))
    whole = len(rows) == len(symbols)
    right = whole and all(set(column) == symbols for column in zip(*rows, strict=False))
    error = None if right else "invalid" if whole else "unparsable"
    return Verdict(float(right), float(right), error, [kept(row) for row in rows])


def _sudoku(meta: dict[str, Any], output: str) -> Verdict:
    """Equality with the stored grid; digits of any script count, and only a line feed ends a line."""
    plain = "".join(str(int(c)) if c.isdecimal() else " " if c in OTHER_ENDS else c for c in output)
    right, rows = strict_digits(meta["answer"]), loose_digits(plain)
    if right is None:
        raise ValueError("the answer is no 4x4 grid")
    error = None if rows == right else "unparsable" if rows is None else "invalid"
    return Verdict(float(rows == right), float(strict_digits(plain) == right), error, rows and kept(rows))


def _text(short: str, **fields: str) -> Callable[[dict[str, Any], str], Verdict]:
    """The product of a text task; ``fields``: what its scorer calls the entries of the published answer."""

    def judged(meta: dict[str, Any], output: str) -> Verdict:
        own = {mine: meta["answer"][theirs] for mine, theirs in fields.items()}
        verdict = _writer(short).judge(Instance("", "", "", "", own), output)
        parts = verdict.parts
        if "inclusion_substring" in parts:  # published: a word counts wherever its letters are found
            return replace(verdict, score=parts["inclusion_substring"] * parts["grammar"])
        return replace(verdict, score=parts["composite"])

    return judged


@cache
def _writer(short: str) -> Task:
    from dlm.tasks.text import open_text

    return open_text(f"parallelbench/text/{short}")


TEXTS = {
    "paraphrase_score": "paraphrase",
    "summary_score": "summarise",
    "sentence_to_words_score": "words_to_sentence_easy",
}
SCORERS: dict[str, Callable[[dict[str, Any], str], Verdict]] = {
    "list_match_score": _equal,
    "list_shuffle_score": _open("shuffle"),
    "list_random_insert_score": _open("insert_random"),
    "list_random_remove_score": _open("remove_random"),
    "list_random_replace_score": _open("replace_random"),
    "latin_square_score": _latin,
    "sudoku_score": _sudoku,
    "paraphrase_score": _text("paraphrase", source="text"),
    "summary_score": _text("summarise", summary="summary"),
    "sentence_to_words_score": _text("words_to_sentence_easy", words="words"),
}
