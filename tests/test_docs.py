"""The documents tell the truth: their code runs, and every preset is described with all its settings."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import cache
import samplers
from dlm.cli import main

Shell = Callable[[str], str]
ROOT = Path(__file__).parent.parent
SAMPLERS = (ROOT / "docs" / "samplers.md").read_text(encoding="utf-8")
CACHES = (ROOT / "docs" / "caches.md").read_text(encoding="utf-8")
WALK = (ROOT / "docs" / "write_a_sampler.md").read_text(encoding="utf-8")


# Where citations are looked for; a changelog names what there was.
ROOMS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "dlm").iterdir()) if path.name[0] not in "_."]
ROOMS += ["samplers", "cache", "scripts", "tests", "docs", "examples", "conf"]
ROOMS += ["README.md", "CONTRIBUTING.md", "Makefile", "Dockerfile"]
CITED = re.compile(
    r"(?<![\w/.-])(?:(?:docs|scripts|tests|conf|dlm|samplers|cache)/[\w./-]+\.(?:md|py|yaml)\b|specs[/]\S+)"
)
LINKED = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a document in one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """The headings of a document as GitHub's links name them."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Does in a folder of its own what a line of a document says, or its Python; returns what that printed."""
    monkeypatch.chdir(tmp_path)

    def shell(text: str) -> str:
        capsys.readouterr()
        first, _, rest = text.partition(" ")
        if first == "PYTHONPATH=.":
            monkeypatch.syspath_prepend(tmp_path)
            first, _, rest = rest.partition(" ")
        if first == "dlm":
            assert main(shlex.split(rest)) == 0
        else:
            exec(compile(text, "document", "exec"), {})
        return capsys.readouterr().out

    return shell


@pytest.mark.parametrize("room", ROOMS)
def test_what_is_cited_is_there(room: str) -> None:
    kinds = (".py", ".md", ".yaml")
    files = [ROOT / room] if (ROOT / room).is_file() else [p for p in (ROOT / room).rglob("*.*") if p.suffix in kinds]
    missing = []
    for path in (path for path in files if ROOT / "tests" / "data" not in path.parents):
        text = path.read_text(encoding="utf-8")
        missing += [f"{path}: {cited}" for cited in CITED.findall(text) if not (ROOT / cited).exists()]
        for link, anchor in LINKED.findall(text) if path.suffix == ".md" else []:
            there = path.parent / link if link else path
            if not there.exists() or (anchor and anchor not in anchors(there.read_text(encoding="utf-8"))):
                missing.append(f"{path}: {link}#{anchor}")
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("page", sorted(p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")))
def test_every_page_is_in_the_index(page: str) -> None:
    assert page == "index.md" or f"]({page})" in INDEX


@pytest.mark.parametrize("page", ["first_decode", "compare_samplers"])
def test_the_tutorials_are_true_transcripts(page: str, shell: Shell) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    pairs = re.findall(r"```(?:python|sh)\n((?:(?!```).)*?)```\n```text\n(.*?)```", text, re.DOTALL)
    assert pairs
    for code, printed in pairs:
        assert shell(code) == printed


def test_the_walk_through_runs_as_it_stands(tmp_path: Path, shell: Shell) -> None:
    module, use = blocks(WALK, "python")
    (tmp_path / "my_sampler.py").write_text(module, encoding="utf-8")
    (command,) = blocks(WALK, "sh")
    assert shell(command).startswith("7+5")
    assert shell(use).startswith("7+5")
    assert len(WALK.splitlines()) < 65


def test_the_composition_of_the_document_runs(shell: Shell) -> None:
    (command,) = blocks(SAMPLERS, "sh")
    assert '"Anna"' in shell(command)


@pytest.mark.parametrize("name", samplers.PRESETS)
def test_every_preset_is_described(name: str) -> None:
    found = [p for p in SAMPLERS.split("\n\n") if f"**`{name}`**" in p]
    assert len(found) == 1
    assert re.search(r"arXiv \d{4}\.\d{5}|no arXiv id", found[0])
    text = (ROOT / "conf" / "sampler" / f"{name}.yaml").read_text(encoding="utf-8")
    own = set(yaml.safe_load(text)) - {"defaults", "_target_"}
    shared = found[0] + next(p for p in SAMPLERS.split("\n\n") if "**`prophet`**" in p) * (name == "sched")
    assert [key for key in own if f"`{key}" not in shared and f"{key}=" not in shared] == []
    assert f"| `{name}` |" in SAMPLERS


def test_the_examples_of_the_caches_run(shell: Shell) -> None:
    (command,), (code,) = blocks(CACHES, "sh"), blocks(CACHES, "python")
    assert '"Cleo"' in shell(command)
    answer, fed = shell(code).split()
    assert answer.endswith("132")
    assert int(fed) > 100


@pytest.mark.parametrize("name", cache.PRESETS)
def test_every_cache_is_described(name: str) -> None:
    found = [p for p in CACHES.split("\n\n") if p.startswith(f"**`{name}`**")]
    assert len(found) == 1
    assert re.search(r"arXiv \d{4}\.\d{5}|no arXiv id|No arXiv id", found[0])
    settings = yaml.safe_load((ROOT / "conf" / "cache" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert [key for key in settings if key != "_target_" and f"`{key}`" not in found[0]] == []
    assert f"| `{name}` |" in CACHES


def test_the_examples_of_drafting_run(shell: Shell) -> None:
    text = (ROOT / "docs" / "drafting.md").read_text(encoding="utf-8")
    (command,), (code,) = blocks(text, "sh"), blocks(text, "python")
    assert '"accepted_drafts"' in shell(command)
    answer, forwards, acceptance = shell(code).split(maxsplit=2)
    assert answer.endswith("132")
    assert int(forwards) + sum(n * times for n, times in enumerate(ast.literal_eval(acceptance))) == 32
    assert int(forwards) < 20


def test_the_page_of_tasks_runs_as_it_stands(tmp_path: Path, shell: Shell) -> None:
    text = (ROOT / "docs" / "write_a_task.md").read_text(encoding="utf-8")
    (module, use), (command,) = blocks(text, "python"), blocks(text, "sh")
    (tmp_path / "my_task.py").write_text(module, encoding="utf-8")
    assert "mine/backwards" in shell(command) or (tmp_path / "runs" / "mine" / "backwards").is_dir()
    assert "score (letters in place)" in shell(use)
    assert "right answers score 1" in shell("PYTHONPATH=. dlm check my_task.Backwards letters=3")


def test_the_page_of_caches_runs_as_it_stands(tmp_path: Path, shell: Shell) -> None:
    text = (ROOT / "docs" / "write_a_cache.md").read_text(encoding="utf-8")
    (module, use), (command,) = blocks(text, "python"), blocks(text, "sh")
    (tmp_path / "my_cache.py").write_text(module, encoding="utf-8")
    assert "132" in shell(command)
    fed = [int(line.split()[-1]) for line in shell(use).splitlines()]
    assert fed[0] > fed[1] > fed[2]
