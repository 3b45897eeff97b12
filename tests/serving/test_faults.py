"""What goes wrong around a server: clients that leave, ask for too much or for nonsense, and a full memory."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dlm
from dlm.errors import CheckpointError
from dlm.models.transformer import Transformer
from dlm.serving.engine import Engine
from tests.serving.conftest import Served, serving

JSON = {"Content-Type": "application/json"}


def post(served: Served, body: bytes, path: str = "/v1/completions", **headers: str) -> tuple[int, dict[str, Any], Any]:
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=60)
    connection.request("POST", path, body, JSON | {key.replace("_", "-"): value for key, value in headers.items()})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response.status, json.loads(text or b"{}"), response.headers


def until(happens: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.01)


WRONG: list[tuple[Any, str]] = [
    (b"", "no JSON"),
    (b"[]", "must be a JSON object"),
    (b"{", "no JSON"),
    (b"\xff\xfe", "no JSON"),
    (b"[" * 100_000, "no JSON"),
    (b'{"prompt": "a", "temperature": NaN}', "NaN is no number"),
    ({}, "prompt"),
    ({"prompt": "a", "promt": 1}, "did you mean prompt"),
    ({"prompt": ""}, "is empty"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [-1]}, "contains the id -1"),
    ({"prompt": [99999]}, "contains the id 99999"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": "a" * 2000}, "more than the model's context"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens: Input should be greater"),
    ({"prompt": "a", "max_tokens": 10**9}, "at most"),
    ({"prompt": "a", "max_tokens": True}, "max_tokens"),
    ({"prompt": "a", "temperature": -1}, "temperature"),
    ({"prompt": "a", "temperature": 1e999}, "Infinity is no number"),
    ({"prompt": "a", "n": 100}, "n: Input should be less"),
    ({"prompt": "a", "stop": ""}, "none of which is empty"),
    ({"prompt": "a", "\ud800": 1}, "no setting"),
    ({"prompt": "a", "sampler": {"name": "topk", "tokens_per_step": 10**400}}, "one of its words"),
    ({"prompt": ["a"] * 3, "n": 9}, "at most 16"),
    ({"prompt": "a", "stop": ["x"] * 99}, "at most 16"),
    ({"prompt": "a", "sampler": "nope"}, "unknown sampler 'nope'; known are"),
    ({"prompt": "a", "sampler": {"name": "threshold", "treshold": 0.3}}, "did you mean threshold"),
    ({"prompt": "a", "sampler": {"name": "threshold", "threshold": "0.3"}}, "one of its words"),
    ({"prompt": "a", "sampler": {"name": "threshold", "threshold": 7}}, "threshold"),
    ({"prompt": "a", "sampler": {"name": "threshold", "_target_": "os.system"}}, "no setting _target_"),
    ({"prompt": "a", "sampler": {"name": "learn2pd", "filter": "filter"}}, "one of its words"),
    ({"prompt": "a", "sampler": {"name": "learn2pd", "filter": "/etc/passwd"}}, "one of its words"),
    ({"prompt": "a", "sampler": {"name": "threshold", "precision": "${oc.env:HOME}"}}, "one of its words"),
    ({"prompt": "a", "sampler": "\ud800"}, "unknown sampler"),
    ({"prompt": "a", "sampler": {"name": "\ud800"}}, "unknown sampler"),
    (b'{"prompt": "a", "sampler": {"name": "topk", "tokens_per_step": 1e999}}', "gives a number"),
    ({"prompt": "a", "cache": ["dual"]}, "cache"),
    ({"prompt": "a", "cache": "block_causal"}, "BlockCausal does not go with"),
    ({"prompt": "a", "blocks": {"name": "fixed", "length": 64}, "max_tokens": 32}, "longer than the canvas of 32"),
    ({"prompt": "a", "response_format": {"type": "json_object"}}, "response_format is"),
    ({"prompt": "a", "logit_bias": {"1": 5}}, "logit_bias"),
    ({"prompt": "a", "frequency_penalty": 0.5}, "frequency_penalty"),
    ({"prompt": "a", "pinned": {"500": 1}}, "pinned"),
    ({"prompt": "a", "pinned": {"5": 30}, "blocks": "growing", "stream": True}, "need blocks that do not grow"),
    ({"prompt": "a", "infill": True}, "nothing to fill"),
    ({"prompt": "\ud800"}, ""),
    ({"prompt": "a", "seed": 10**40}, ""),
]


@pytest.mark.parametrize(("body", "said"), WRONG, ids=range(len(WRONG)))
def test_each_wrong_request_is_told_what_is_wrong(served: Served, body: Any, said: str) -> None:
    status, answer, _ = post(served, body if isinstance(body, bytes) else json.dumps(body).encode())
    if said:
        assert status == 400, answer
    else:
        assert status in (200, 400), answer
    assert said in answer.get("error", {}).get("message", "")
    assert len(json.dumps(answer)) < 4000


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["prompt", "max_tokens", "sampler", "blocks", "cache", "drafting", "stop", "n", "stream", "seed", "pinned"]
FIELDS += ["response_format", "logprobs", "suffix", "infill", "stream_options", "temperature", "top_p", "model", "echo"]


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
def test_malformed_requests_get_4xx_and_the_server_goes_on(served: Served, body: dict[str, Any]) -> None:
    raw = json.dumps({"prompt": "1+1=", "max_tokens": 4} | body).encode()
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=60)
    connection.request("POST", "/v1/completions", raw, JSON)
    response = connection.getresponse()
    said = response.read()
    connection.close()
    assert response.status == 200 or 400 <= response.status < 500, said
    assert served.engine.alive


def test_limits_of_a_body_and_a_name() -> None:
    with serving(bytes=1000, hosts=("127.0.0.1", "localhost")) as served:
        assert post(served, b"x" * 2000)[0] == 413
        assert post(served, b"{}", Content_Type="text/plain")[0] == 400
        assert post(served, b"{}", Host="evil.example")[0] == 421
        assert post(served, b'{"prompt": "1+1=", "max_tokens": 4}')[0] == 200


def test_keys() -> None:
    with serving(keys=("secret", "other")) as served:
        with pytest.raises(openai.AuthenticationError):
            served.client(api_key="wrong").completions.create(model="tiny", prompt="1+1=", max_tokens=4)
        assert served.client(api_key="other").completions.create(model="tiny", prompt="1+1=", max_tokens=4).choices


class Slow:
    """Forwards of the model that wait until they may go on; and, of batches beyond a size, that find no memory."""

    def __init__(self, patch: pytest.MonkeyPatch, most: int = 1000) -> None:
        self.go, self.batches, self.most = threading.Event(), [0], most
        self.go.set()
        plain = Transformer.hidden

        def hidden(model: Any, tokens: torch.Tensor, *rest: Any) -> Any:
            self.go.wait(20)
            self.batches.append(tokens.shape[0])
            if tokens.shape[0] > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return plain(model, tokens, *rest)

        patch.setattr(Transformer, "hidden", hidden)


def ask(served: Served, prompt: str = "47+85=", **more: Any) -> Any:
    extra = {"sampler": "topk"} | more.pop("extra_body", {})
    return served.client().completions.create(model="tiny", prompt=prompt, max_tokens=32, extra_body=extra, **more)


def test_what_can_never_be_seated_is_no_matter_of_trying_again() -> None:
    with serving(rows=2, waiting=3, seed=5) as served:
        status, answer, headers = post(served, b'{"prompt": "1+1=", "n": 6}')
        assert (status, headers["Retry-After"]) == (400, None)
        assert "at most 5" in answer["error"]["message"]
        assert post(served, b"", "/v1/nothing")[1]["error"]["message"] == "POST /v1/nothing: Not Found"
        drawn = ask(served, temperature=1.0).choices[0].text
        assert drawn == ask(served, temperature=1.0, seed=5).choices[0].text


def test_beyond_the_queue_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    with serving(rows=1, waiting=1) as served, ThreadPoolExecutor(2) as pool:
        slow.go.clear()
        first = [pool.submit(ask, served) for _ in range(2)]
        until(lambda: served.engine.busy + served.engine.queued == 2)
        status, answer, headers = post(served, b'{"prompt": "1+1="}')
        assert (status, headers["Retry-After"]) == (429, "1")
        assert "wait already" in answer["error"]["message"]
        slow.go.set()
        assert first[0].result().choices[0].text == first[1].result().choices[0].text != ""


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_row(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    slow = Slow(monkeypatch)
    with serving() as served:
        slow.go.clear()
        where = urlsplit(served.url)
        body = json.dumps({"prompt": "47+85=", "max_tokens": 32, "sampler": "topk", "stream": stream}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        client = socket.create_connection((where.hostname or "", where.port or 0))
        client.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: served.engine.busy == 1)
        client.close()
        time.sleep(0.3)
        slow.go.set()
        until(lambda: served.engine.busy == 0)
        assert served.engine.figures.rows == {"done": 0, "failed": 0, "given up": 1}
        assert served.engine.figures.forwards < 32


def test_a_request_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    with serving(seconds=0.2) as served:
        slow.go.clear()
        threading.Timer(0.5, slow.go.set).start()
        with pytest.raises(openai.APIStatusError, match="longer than one may") as error:
            ask(served)
        assert error.value.status_code == 504
        slow.go.clear()
        threading.Timer(0.5, slow.go.set).start()
        with pytest.raises(openai.APIError, match="longer than one may"):
            list(ask(served, stream=True))
    assert served.engine.busy == 0


def test_a_full_memory_halves_the_batch_and_loses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [f"{n}+{n + 3}=" for n in range(11, 19)]
    slow = Slow(monkeypatch)
    with serving(rows=8) as served, ThreadPoolExecutor(8) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        wanted = [ask(served, prompt).choices[0].text for prompt in prompts]
        slow.most = 3
        slow.go.clear()
        found = [pool.submit(ask, served, prompt) for prompt in prompts]
        until(lambda: served.engine.busy + served.engine.queued == 8)
        slow.go.set()
        assert [one.result().choices[0].text for one in found] == wanted
        assert served.engine.figures.halved
        assert max(slow.batches) > 3


def test_requests_of_other_temperatures_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy ones join where others draw; a setting that a batch has in common keeps them apart."""
    slow, heats = Slow(monkeypatch), [0.7, 0.0, 1.5, 0.2, 0.0]
    asked = [{"temperature": heat, "extra_body": {"sampler": "topk"}} for heat in heats]
    with serving(rows=8) as served, ThreadPoolExecutor(6) as pool:
        wanted = [ask(served, **how).choices[0].text for how in asked]
        slow.go.clear()
        slow.batches.clear()
        found = []
        for number, how in enumerate([*asked, {"temperature": 0.7, "top_p": 0.5, "extra_body": {"sampler": "topk"}}]):
            found.append(pool.submit(ask, served, **how))
            until(lambda number=number: served.engine.busy + served.engine.queued > number)
        slow.go.set()
        assert [one.result().choices[0].text for one in found[:-1]] == wanted
        found[-1].result()
    assert max(slow.batches) == len(heats)


def test_a_model_is_loaded_where_it_is_used() -> None:
    """On the engine's own thread; what goes wrong there is raised by who wanted it."""
    seen: list[str] = []

    def load() -> Any:
        seen.append(threading.current_thread().name)
        return dlm.load("tiny")

    engine = Engine(load, 1, 1)
    engine.stop(5.0)
    assert seen == ["dlm-engine"] and engine.model.name == "tiny"
    with pytest.raises(CheckpointError, match="is not a folder"):
        Engine(lambda: dlm.load("/no/such/folder"), 1, 1)


def test_a_fault_in_the_model_is_one_request_s(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as served:
        with monkeypatch.context() as patch:
            patch.setattr(Transformer, "hidden", lambda *_: 1 / 0)
            with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
                ask(served)
            with pytest.raises(openai.APIError, match="ZeroDivisionError"):
                list(ask(served, stream=True))
        assert ask(served).choices[0].text


def test_a_server_that_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs is finished, nothing new is taken; a server that is killed leaves no answer that looks whole."""
    slow = Slow(monkeypatch)
    with serving(grace=10.0) as served, ThreadPoolExecutor(1) as pool:
        slow.go.clear()
        running = pool.submit(ask, served)
        until(lambda: served.engine.busy == 1)
        stopping = threading.Thread(target=served.engine.stop, args=(10.0,))
        stopping.start()
        until(lambda: not served.engine.alive)
        assert post(served, b'{"prompt": "1+1="}')[0] == 503
        slow.go.set()
        assert running.result().choices[0].text
        stopping.join()


def test_figures_for_an_operator(served: Served) -> None:
    ask(served)
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc)
    found = {}
    for path in ("/health", "/metrics", "/v1/settings", "/openapi.json", "/"):
        connection.request("GET", path)
        response = connection.getresponse()
        found[path] = response.read().decode()
        assert response.status == 200
    connection.close()
    lines = dict(line.rsplit(" ", 1) for line in found["/metrics"].splitlines() if not line.startswith("#"))
    assert float(lines['dlm_rows_total{outcome="done"}']) >= 1
    assert float(lines["dlm_forwards_total"]) >= 32
    assert float(lines['dlm_seconds_total{part="step"}']) > 0
    known = json.loads(found["/v1/settings"])
    assert known["groups"]["sampler"]["threshold"]["threshold"] == 0.9
    assert "sampler" in found["/openapi.json"]
    assert "http://" not in found["/"].replace("http://www.w3.org", "")
