"""What the page is told beside OpenAI's fields."""

from __future__ import annotations

from typing import Any

import pytest

import dlm
from dlm.configuration import Composer
from dlm.serving.asked import Asking
from tests.serving.conftest import Served

CHOICES = (("sampler", "topk"), ("sampler", "parts"), ("blocks", "auto"), ("cache", "d2cache"), ("drafting", "none"))


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_what_may_be_set_is_what_hydra_composes(group: str, name: str) -> None:
    known = Asking(dlm.load("tiny"), ["sampler=topk"], 32, 512).known()[group][name]
    node = Composer("serve")([f"{group}={name}"])[group]
    assert known.items() <= node.items()
    assert all(isinstance(node[key], dict | list) or key in ("_target_", "name") for key in node.keys() - known.keys())


def test_what_is_chosen_where_nothing_is_named() -> None:
    asking = Asking(dlm.load("tiny"), ["sampler=topk", "sampler.steps=8", "cache=dual"], 32, 512)
    assert asking.chosen() == {"sampler": "topk", "blocks": "auto", "cache": "dual", "drafting": "none"}


def test_the_first_canvas_has_the_prompt_and_each_its_block(served: Served) -> None:
    ask: Any = {"model": "tiny", "prompt": "47+85=", "max_tokens": 40, "stream_options": {"canvas": True}}
    chunks = served.client().completions.create(**ask, stream=True)
    told = [chunk.canvas for chunk in chunks if getattr(chunk, "canvas", None)]
    assert told[0]["prompt"] == served.model.encode("47+85=")
    assert all("prompt" not in each for each in told[1:])
    blocks = [each["block"] for each in told if "done" not in each]
    assert [block for block, before in zip(blocks, [None, *blocks], strict=False) if block != before] == [
        [0, 32],
        [32, 40],
    ]
