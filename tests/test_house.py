"""Rules of the house that code can check: what importing costs, and that names agree everywhere."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import cache
import dlm
import samplers

ROOT = Path(__file__).parent.parent


def test_the_core_imports_neither_hydra_nor_datasets() -> None:
    code = (
        "import json, sys, dlm, samplers, cache, dlm.bench.decode;"
        "print(json.dumps([m for m in ('hydra', 'omegaconf', 'datasets', 'matplotlib') if m in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []


def test_every_preset_has_a_configuration_of_its_name() -> None:
    for package, group in ((samplers, "sampler"), (cache, "cache")):
        for name in package.PRESETS:
            text = (ROOT / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8")
            assert f"_target_: {package.__name__}.{name}\n" in text
            assert callable(getattr(package, name))


def test_what_is_exported_exists() -> None:
    for package in (dlm, samplers, cache):
        assert all(hasattr(package, name) for name in package.__all__)
        assert package.__all__ == sorted(package.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))


def test_no_part_waits_for_the_device() -> None:
    for path in (ROOT / "samplers").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.parent.name == "constraints":  # made on the host once; a step waits once, and says what for
            continue
        assert not any(call in text for call in (".item()", ".tolist()", ".nonzero(", ".cpu()")), path


def test_no_pickle_no_remote_code() -> None:
    for folder in ("dlm", "samplers", "cache", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not any(word in text for word in ("torch.load(", "trust_remote_code=True", "import pickle")), path


def test_the_picture_of_the_house_is_the_tree() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = text.split("```")[1]
    words = set(re.findall(r"[\w.]+/?", drawn))
    core = ROOT / "dlm"
    rooms = {f"{p.name}/" for p in core.iterdir() if (p / "__init__.py").exists()}
    files = {p.name for p in core.glob("*.py") if not p.name.startswith("__")}
    engine = {p.stem for p in (core / "engine").glob("*.py") if not p.name.startswith("__")}
    assert rooms | files | engine <= words
    places = {w for w in words if w.endswith(("/", ".py"))}
    assert all((core / place).exists() or (ROOT / place).exists() for place in places)


def test_files_and_functions_are_short() -> None:
    for path in (path for room in ("dlm", "samplers", "cache") for path in (ROOT / room).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 400, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 65, f"{path}: {node.name}"
