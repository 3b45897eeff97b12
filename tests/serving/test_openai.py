"""The server by OpenAI's own client: the answers are those of the library, streamed or not."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import openai
import pytest

import dlm
import samplers
from tests.serving.conftest import Served

PROMPTS = ["47+85=", 'Reverse the list: ["Anna", "Bob", "Cleo"]', 'Copy the list: ["Dave", "Eve"]']


def alone(served: Served, prompt: Any, new: int = 32, **options: Any) -> Any:
    sampler = options.pop("sampler", "threshold")
    return dlm.generate(served.model, [prompt], sampler=sampler, max_new_tokens=new, **options)[0]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_completion_is_the_library_s_answer(served: Served, prompt: str) -> None:
    found = served.client().completions.create(model="tiny", prompt=prompt, max_tokens=32)
    answer = alone(served, prompt)
    assert found.choices[0].text == answer.text
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None
    assert found.usage.completion_tokens == answer.counts.tokens
    assert found.usage.prompt_tokens == len(answer.prompt_tokens)


@pytest.mark.covering
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("sampler", [None, "topk", {"name": "credit", "threshold": 0.7}, "wino", "remdm"])
def test_a_stream_adds_up_to_the_whole(served: Served, prompt: str, sampler: Any) -> None:
    client, ask = served.client(), {"model": "tiny", "prompt": prompt, "max_tokens": 32}
    extra = {} if sampler is None else {"sampler": sampler}
    whole = client.completions.create(**ask, extra_body=extra)
    chunks = list(
        client.completions.create(**ask, stream=True, stream_options={"include_usage": True}, extra_body=extra)
    )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_chats(served: Served) -> None:
    client, messages = served.client(), [{"role": "user", "content": "47+85="}]
    found = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=32)
    answer = alone(served, messages)
    assert found.choices[0].message.content == answer.text
    parts = client.chat.completions.create(model="tiny", messages=messages, max_tokens=32, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in parts) == answer.text
    listed = [{"role": "user", "content": [{"type": "text", "text": "47+85="}]}]
    again = client.chat.completions.create(model="default", messages=listed, max_tokens=32)
    assert again.choices[0].message.content == answer.text


def test_the_canvas_is_told_step_by_step(served: Served) -> None:
    options = {"canvas": True}
    ask = {"model": "tiny", "prompt": PROMPTS[1], "max_tokens": 32, "extra_body": {"sampler": "topk"}}
    chunks = served.client().completions.create(**ask, stream=True, stream_options=options)
    told = [chunk.canvas for chunk in chunks if getattr(chunk, "canvas", None)]
    answer = alone(served, PROMPTS[1], sampler="topk")
    tokens: dict[int, int] = {}
    for step in told:
        for place, token, text, sure in step["set"]:
            assert text
            assert 0 <= sure <= 1
            tokens[place] = token
        assert all(place not in tokens for place, *_ in step["guess"])
    assert tokens == dict(enumerate(answer.tokens))
    assert told[-1]["done"]
    assert told[-1]["counts"]["forwards"] == answer.counts.forwards == len(told) - 1


def test_what_was_taken_back_is_told(served: Served) -> None:
    extra = {"sampler": {"name": "remdm"}, "seed": 3}
    ask = {"model": "tiny", "prompt": "1+1=", "max_tokens": 32, "stream": True, "stream_options": {"canvas": True}}
    told = [c.canvas for c in served.client().completions.create(**ask, extra_body=extra) if getattr(c, "canvas", None)]
    canvas: list[int | None] = [None] * 32
    taken = 0
    for step in told:
        for place in step["masked"]:
            assert canvas[place] is not None
            canvas[place], taken = None, taken + 1
        for place, token, *_ in step["set"]:
            canvas[place] = token
    sampler = samplers.remdm()
    answer = alone(served, "1+1=", sampler=sampler, seed=3)
    assert canvas == answer.tokens
    assert taken == sum(len(step["masked"]) for step in told) > 0


def test_settings_of_a_request(served: Served) -> None:
    client = served.client()
    extra = {
        "sampler": {"name": "topk", "tokens_per_step": 4},
        "blocks": {"name": "fixed", "length": 8},
        "cache": "dual",
    }
    found = client.completions.create(model="tiny", prompt="47+85=", max_tokens=32, extra_body=extra)
    sampler = samplers.topk(tokens_per_step=4, blocks=samplers.Fixed(8))
    answer = alone(served, "47+85=", sampler=sampler, cache="dual")
    counts = found.model_extra["dlm"]["counts"][0]
    assert found.choices[0].text == answer.text
    assert counts["forwards"] == answer.counts.forwards == 8
    drafted = client.completions.create(
        model="tiny", prompt="47+85=", max_tokens=32, extra_body={"sampler": "topk", "drafting": {"name": "freedave"}}
    )
    assert drafted.model_extra["dlm"]["counts"][0]["accepted_drafts"] > 0


def test_several_answers_and_prompts(served: Served) -> None:
    found = served.client().completions.create(
        model="tiny", prompt=PROMPTS[:2], n=2, temperature=1.0, seed=7, max_tokens=32, echo=True
    )
    texts = [choice.text for choice in found.choices]
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    sampler = samplers.threshold(temperature=1.0)
    answers = dlm.generate(served.model, prompts, sampler=sampler, max_new_tokens=32, seed=7)
    assert texts == [prompt + answer.text for prompt, answer in zip(prompts, answers, strict=True)]


@pytest.mark.parametrize("stop", [["="], ["1", "="], [",4"], ["12,4+8"], ["+5", "7+5=12"], ["=1", "5=12,"]])
def test_stop_strings(served: Served, stop: list[str]) -> None:
    client, ask = served.client(), {"model": "tiny", "prompt": "47+85=", "max_tokens": 32, "stop": stop}
    full = alone(served, "47+85=").text
    wanted = full[: min(full.find(s) for s in stop if s in full)]
    whole = client.completions.create(**ask, extra_body={"sampler": "topk"})
    parts = list(client.completions.create(**ask, stream=True, extra_body={"sampler": "topk"}))
    assert whole.choices[0].text == wanted
    assert whole.choices[0].finish_reason == "stop"
    assert "".join(c.text for chunk in parts for c in chunk.choices) == wanted
    assert [c.finish_reason for chunk in parts for c in chunk.choices][-1] == "stop"
    asked = client.completions.create(**ask, stream=True, logprobs=1, extra_body={"sampler": "topk"})
    last = [c.logprobs for chunk in asked for c in chunk.choices][-1]
    assert last is not None
    assert len(last.tokens) == whole.usage.completion_tokens


def test_a_stop_string_that_is_a_special_token(served: Served) -> None:
    special = served.model.tokenizer.convert_ids_to_tokens(2)
    extra = {"sampler": "topk", "pinned": {"3": 2}}
    ask: Any = {"model": "tiny", "prompt": "47+85=", "max_tokens": 8, "stop": [special], "extra_body": extra}
    whole = served.client().completions.create(**ask)
    parts = served.client().completions.create(**ask, stream=True)
    assert whole.choices[0].text == alone(served, "47+85=", 8, sampler="topk", pinned={3: 2}, stop=[special]).text
    assert "".join(c.text for chunk in parts for c in chunk.choices) == whole.choices[0].text


def test_probabilities_at_which_tokens_were_committed(served: Served) -> None:
    answer = alone(served, "47+85=")
    found = served.client().completions.create(model="tiny", prompt="47+85=", max_tokens=32, logprobs=1)
    told = found.choices[0].logprobs
    assert told is not None
    assert "".join(told.tokens or []) == answer.text
    assert told.text_offset is not None
    assert told.text_offset[0] == 0
    ids = served.model.encode("47+85=")
    echoed = served.client().completions.create(model="tiny", prompt=ids, max_tokens=4, logprobs=1, echo=True)
    shown, of_echo = served.model.decode(ids), echoed.choices[0].logprobs
    assert echoed.choices[0].text.startswith(shown)
    assert of_echo is not None
    assert of_echo.text_offset is not None
    assert of_echo.text_offset[0] == len(shown)
    assert told.token_logprobs == [math.log(p) for p in answer.confidence[: answer.counts.tokens]]
    messages = [{"role": "user", "content": "47+85="}]
    chat = served.client().chat.completions.create(model="tiny", messages=messages, max_tokens=32, logprobs=True)
    assert chat.choices[0].logprobs is not None
    assert len(chat.choices[0].logprobs.content or []) == alone(served, messages).counts.tokens


def test_given_tokens(served: Served) -> None:
    client = served.client()
    pinned = client.completions.create(model="tiny", prompt="47+85=", max_tokens=32, extra_body={"pinned": {"0": "7+"}})
    assert pinned.choices[0].text == alone(served, "47+85=", pinned={0: "7+"}).text
    marked = "47+85=7+5=[MASK][MASK],4+8+1=13,132"
    filled = client.completions.create(model="tiny", prompt=marked, extra_body={"infill": True})
    assert filled.choices[0].text == dlm.infill(served.model, marked, sampler="threshold")[0].text
    assert filled.usage is not None
    assert filled.usage.completion_tokens == 2
    between = client.completions.create(model="tiny", prompt="47+85=7+5=", suffix=",4+8+1=13,132", max_tokens=2)
    assert between.choices[0].text == "12"
    assert between.usage is not None
    assert between.usage.completion_tokens == 2


def test_a_schema(served: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    ask: Any = {"model": "tiny", "messages": [{"role": "user", "content": "47+85="}], "response_format": form}
    found = served.client().chat.completions.create(**ask, max_tokens=32)
    assert isinstance(json.loads(found.choices[0].message.content or "")["n"], int)
    form["json_schema"]["schema"] = {"type": "string", "maxLength": 500}
    text = served.client().chat.completions.create(**ask, max_tokens=32).choices[0].message.content
    assert isinstance(json.loads(text or ""), str)


def test_models(served: Served) -> None:
    client = served.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "dlm"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4' here: it is tiny"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4' here: it is tiny"):
        client.completions.create(model="gpt-4", prompt="1+1=")


def test_the_page_of_documentation_is_a_true_transcript(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    pairs = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", text, re.DOTALL)
    assert len(pairs) == 2
    for code, printed in pairs:
        exec(compile(code.replace("http://127.0.0.1:8000", served.url), "serve.md", "exec"), {})
        assert capsys.readouterr().out == printed
