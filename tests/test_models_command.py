"""``dlm list``, ``dlm show`` and ``dlm pull``, over a cache that is made up and a hub that is played."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

from dlm.cli import main
from dlm.commands.models import repo_of
from dlm.models.checkpoint import PACKAGED, memory
from dlm.models.llada import LLaDAConfig, LLaDAModelLM

OURS, OTHER = "GSAI-ML/LLaDA-8B-Instruct", "somebody/small"
FILES = {"config.json": 10, "model.safetensors": 1000, "tokenizer.json": 20, "modeling.py": 5, "old.bin": 7}


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub that has one model, by default; ``info`` and ``download`` can be others."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))

    def info(repo: str) -> Any:
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in FILES.items()]
        about = {"architectures": ["LLaDAModelLM"]}
        return SimpleNamespace(sha="1" * 40, siblings=siblings, config=about, card_data=SimpleNamespace(license="mit"))

    def download(repo: str, **what: Any) -> str:
        played.fetched.append((repo, what))
        folder = what.get("local_dir") or cached(cache, repo)
        shutil.copytree(PACKAGED["tiny"], folder, dirs_exist_ok=True)
        return str(folder)

    played = SimpleNamespace(info=info, download=download, cache=cache, fetched=[])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, repo, **_: played.info(repo))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **what: played.download(repo, **what))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    return played


def cached(cache: Path, repo: str) -> Path:
    """A snapshot of a repository, as the hub's own client lays it out."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "blobs").mkdir(exist_ok=True)
    (place / "refs" / "main").write_text("1" * 40)
    folder = place / "snapshots" / ("1" * 40)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def raising(error: BaseException) -> Callable[..., Any]:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    return fails


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["list", "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_the_list_tells_what_is_here(hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    lines = listed(capsys)
    assert [line["name"] for line in lines[:2]] == ["tiny", "tiny-block"]
    assert {line["cached"] for line in lines} == {"packaged", "no"}
    for repo in (OURS, OTHER, "somebody/half", "somebody/gpt"):
        shutil.copytree(PACKAGED["tiny"], cached(hub.cache, repo), dirs_exist_ok=True)
    (cached(hub.cache, "somebody/half") / "model.safetensors").unlink()
    (cached(hub.cache, "somebody/gpt") / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    lines = listed(capsys)
    assert {line["name"]: line["cached"] for line in lines[2:] if line["cached"] != "no"} == {
        "llada-8b-instruct": "yes", OTHER: "yes", "somebody/half": "partly",
    }  # fmt: skip
    assert main(["list"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].split()[:3] == ["tiny", "tiny", "packaged"]
    assert next(line for line in out if line.startswith(OTHER)).split()[2:] == ["yes", "2.9", "MB"]


def test_show_counts_without_loading(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tiny-block", "json=true"]) == 0
    told = json.loads(capsys.readouterr().out)
    import dlm

    model: Any = dlm.load("tiny-block").backbone
    assert told["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert told["memory"]["bfloat16"] == 2 * told["parameters"] > told["memory"]["int8"] > told["memory"]["int4"]
    assert (told["mask id"], told["attention blocks"], told["cached"]) == (1, 8, "packaged")
    assert main(["show", "tiny"]) == 0
    shown = capsys.readouterr().out
    assert "attention blocks  none" in shown
    assert main(["show", str(Path(dlm.__file__).parent / "models" / "tiny")]) == 0
    of_folder = capsys.readouterr().out
    assert "cached            a folder" in of_folder
    assert re.findall("parameters.*|mask id.*|memory.*", of_folder) == re.findall(
        "parameters.*|mask id.*|memory.*", shown
    )


def test_show_asks_the_hub_and_leaves_no_trace(hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "llada-8b-instruct"]) == 0
    out = capsys.readouterr().out
    assert "licence           mit" in out
    assert "next              dlm pull llada-8b-instruct" in out
    assert not hub.cache.exists()
    shutil.copytree(PACKAGED["tiny"], cached(hub.cache, OURS), dirs_exist_ok=True)
    hub.info = raising(OfflineModeIsEnabled("offline"))
    assert main(["show", OURS]) == 0
    out = capsys.readouterr().out
    assert "licence           unknown offline" in out
    assert "cached            yes" in out


def test_pull_fetches_what_is_read_and_nothing_else(hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "llada-8b-instruct"]) == 0
    ((repo, what),) = hub.fetched
    assert repo == OURS
    assert set(what["allow_patterns"]) == {"*.json", "*.safetensors", "*.txt", "*.jinja"}
    assert "next: dlm generate --model llada-8b-instruct" in capsys.readouterr().out
    assert main(["pull", "tiny"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out
    assert {line["name"]: line["cached"] for line in listed(capsys)}["llada-8b-instruct"] == "yes"


RESPONSE: Any = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GatedRepoError("no", response=RESPONSE), "is gated: accept its terms at https://huggingface.co/GSAI-ML/"),
        (RepositoryNotFoundError("no", response=RESPONSE), "the hub has no model 'GSAI-ML/LLaDA-8B-Instrct' (did you"),
        (ConnectionError("no route"), "could not be got from the hub (no route): check connection"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    error: Exception, said: str, hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.info = raising(error)
    hub.download = raising(error)
    for command in ("pull", "show"):
        assert main([command, "GSAI-ML/LLaDA-8B-Instrct"]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert len(err.splitlines()) == 1
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"siblings": [SimpleNamespace(rfilename="model.bin", size=5)]}, "holds no safetensors"),
        ({"config": {"architectures": ["GPT2LMHeadModel"]}}, "is a GPT2LMHeadModel, which dlm does not read"),
        ({"siblings": [SimpleNamespace(rfilename="a.safetensors", size=10**18)]}, "free: make room, or set HF_HOME"),
    ],
)
def test_what_cannot_work_is_not_fetched(
    change: dict[str, Any], said: str, hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = hub.info
    hub.info = lambda repo: SimpleNamespace(**{**vars(plain(repo)), **change})
    assert main(["pull", OTHER]) == 2
    assert said in capsys.readouterr().err
    assert hub.fetched == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "llada-8b-instrct"], "(did you mean llada-8b-instruct?); known are"),
        (["show"], "dlm show takes one model"),
        (["pull", "a/b", "c/d"], "dlm pull takes one model"),
        (["list", "tiny"], "dlm list takes no model"),
        (["list", "json=maybe"], "json must be true or false"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_names_of_ones_own_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(f"_target_: dlm.load\nname_or_path: {OTHER}\n")
    assert main(["list", "--config-dir", str(tmp_path)]) == 0
    assert "mine" in capsys.readouterr().out
    assert repo_of("llada-8b-instruct") == OURS


def test_the_memory_is_what_the_published_table_says() -> None:
    sizes = memory(LLaDAModelLM, LLaDAConfig())
    assert [round(sizes[k] / 1e9, 2) for k in ("bfloat16", "int8", "int4")] == [
        16.03, 9.06, 5.78,
    ]  # fmt: skip
