"""DEER: whatever the drafter, the answers and the law are the verifier's (arXiv 2512.15176)."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

import dlm
from dlm.cli import main
from dlm.errors import CheckpointError, SettingsError
from dlm.models.causal import CausalModel, load_causal
from dlm.models.checkpoint import TINY
from dlm.models.loading import load_tokenizer
from dlm.speculation.deer import Deer, accept, log_law
from tests.doubles import random_dream, random_llada

SHAPE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": None,
}  # fmt: skip
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [3, 4, 5, 9, 9, 9, 9, 2, 2, 2, 4], [1, 2]]
WINDOW: dict[str, Any] = {"head_dim": 8, "sliding_window": 6}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
OTHERS: dict[str, dict[str, Any]] = {
    "GPT2": {"n_positions": 64, "n_embd": 32, "n_head": 4, "bos_token_id": 38}, "Qwen2": {}, "Qwen3": {"head_dim": 8},
    "GPTNeoX": {}, "Phi3": {}, "Olmo2": {}, "Gemma2": WINDOW, "Gemma3Text": WINDOW, "Cohere2": WINDOW,
    "Lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32}, "Falcon": {}, "Mixtral": EXPERTS,
    "GptOss": {**WINDOW, **EXPERTS},
    "Llama4Text": {"head_dim": 8, "intermediate_size_mlp": 48, "attention_chunk_size": 6, "num_local_experts": 2},
    "DeepseekV3": {
        "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "n_group": 1, "topk_group": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4, "v_head_dim": 8, "first_k_dense_replace": 1,
    },
}  # fmt: skip
DRAFTERS = {"llada": random_llada(), "dream": random_dream()}


def causal(seed: int = 0, vocab: int = 40, window: int | None = None, eos: int | None = 38) -> CausalModel:
    """A small causal model with random weights and peaked distributions."""
    torch.manual_seed(seed)
    ids = {"vocab_size": vocab, "eos_token_id": eos, "pad_token_id": eos}
    network: Any = LlamaForCausalLM(LlamaConfig(**SHAPE, **ids))
    if window is not None:
        network = MistralForCausalLM(MistralConfig(**SHAPE, **ids, sliding_window=window))
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() == 2:
                weight.normal_(0, 2.5 / math.sqrt(weight.shape[1]))
    return CausalModel(network.double().eval(), None, "random")


def greedy(model: CausalModel, prompt: list[int], new: int) -> list[int]:
    """What transformers itself generates."""
    network: Any = model.backbone
    found = network.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=new)
    return found[0, len(prompt) :].tolist()


def test_acceptance_by_hand() -> None:
    p, q = torch.tensor([[[0.3, 0.7], [0.5, 0.5]]]).double().log(), torch.tensor([[[0.6, 0.4]]]).double().log()

    def held(token: int, u: float) -> tuple[int, list[float]]:
        drafts, one = torch.tensor([[token]]), torch.ones(1, dtype=torch.long)
        count, law = accept(p, q, drafts, one, torch.tensor([[u]], dtype=torch.float64))
        return int(count), (law[0] / law.sum()).tolist()

    assert held(0, 0.499)[0] == 1  # min(1, .3 / .6)
    assert held(0, 0.501) == (0, pytest.approx([0.0, 1.0]))
    assert held(1, 0.999) == (1, pytest.approx([0.5, 0.5]))
    assert 0.6 * 0.5 + 0.4 * 1 == pytest.approx(0.7)
    assert [0.6 * 0.5, 0.4 + 0.6 * 0.5] == pytest.approx([0.3, 0.7])
    # A draft of no length is never held, whatever stands there.
    none, law = accept(p, q, torch.tensor([[1]]), torch.zeros(1, dtype=torch.long), torch.tensor([[0.1]]).double())
    assert int(none) == 0 and law[0].tolist() == pytest.approx([0.3, 0.7])


def test_the_law_is_the_verifiers_and_that_of_the_published_loop_is_not() -> None:
    """All of two drafted bits, integrated over every uniform: the tests are steps at p / q."""
    first = torch.tensor([0.3, 0.7]).double()
    second = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).double()  # by the token before
    third = torch.tensor([[[0.6, 0.4], [0.5, 0.5]], [[0.1, 0.9], [0.7, 0.3]]]).double()
    q = torch.tensor([[0.6, 0.4], [0.35, 0.65]]).double()
    ours, theirs = Counter[tuple[int, ...]](), Counter[tuple[int, ...]]()
    for y in itertools.product(range(2), repeat=2):
        p = torch.stack([first, second[y[0]], third[y[0], y[1]]])
        share = float(q[0, y[0]] * q[1, y[1]])
        limits = [min(1.0, float(p[i, y[i]] / q[i, y[i]])) for i in range(2)]
        for held in itertools.product((True, False), repeat=2):
            chance = share * math.prod(a if h else 1 - a for a, h in zip(limits, held, strict=True))
            # A uniform in the middle of what gives this outcome; none does where it has no chance.
            u = torch.tensor([[a / 2 if h else (1 + a) / 2 for a, h in zip(limits, held, strict=True)]]).double()
            if chance == 0:
                continue
            count, rest = accept(p[None].log(), q[None].log(), torch.tensor([y]), torch.tensor([2]), u)
            for token, mass in enumerate((rest[0] / rest.sum()).tolist()):
                ours[(*y[: int(count)], token)] += chance * mass
            # The published loop goes on behind what it replaced.
            kept = [[y[i]] if held[i] else [0, 1] for i in range(2)]
            laws = [(p[i] - q[i]).clamp_min(0) for i in range(2)]
            for pair in itertools.product(*kept):
                mass = math.prod(1.0 if held[i] else float(laws[i][pair[i]] / laws[i].sum()) for i in range(2))
                theirs[pair] += chance * mass
    assert sum(ours.values()) == pytest.approx(1)
    begins = {a: sum(mass for out, mass in ours.items() if out[0] == a) for a in range(2)}
    assert begins == pytest.approx({0: 0.3, 1: 0.7})
    # What is emitted next, where one call gave one token only, is drawn from the verifier again.
    joint = dict.fromkeys(itertools.product(range(2), repeat=2), 0.0)
    for (out, mass), b in itertools.product(ours.items(), range(2)):
        joint[out[0], b] += mass * (float(second[out[0], b]) if len(out) == 1 else out[1] == b)
    right = {(a, b): float(first[a] * second[a, b]) for a, b in joint}
    assert joint == pytest.approx(right)
    for (a, b), c in itertools.product(right, range(2)):
        whole = sum(mass for out, mass in ours.items() if out == (a, b, c))
        both = sum(mass for out, mass in ours.items() if out[:2] == (a, b) and len(out) == 3)
        assert whole == pytest.approx(both * float(third[a, b, c]))
    assert max(abs(theirs[pair] - mass) for pair, mass in right.items()) > 0.02


@pytest.mark.parametrize("drafter", [*DRAFTERS, None])
@pytest.mark.parametrize("window", [None, 6])
def test_at_temperature_0_the_answers_are_those_of_transformers(drafter: str | None, window: int | None) -> None:
    """For any drafter, however it drafts; rows of a batch end, are compacted and go on."""
    model = causal(window=window)
    expected = [greedy(model, prompt, 16) for prompt in PROMPTS]
    for ways in ({"draft_length": 5}, {"draft_length": 3, "draft_temperature": 2.0, "masks": "all"}):
        found = dlm.deer(model, DRAFTERS.get(str(drafter)), PROMPTS, max_new_tokens=16, **ways)
        assert [answer.tokens for answer in found] == expected
        for answer in found:
            counts = answer.counts
            assert counts.canvas_tokens_per_forward >= 1  # what a call gives
            assert answer.commit_step == sorted(answer.commit_step) and answer.commit_step[-1] == counts.forwards - 1
            assert counts.draft_forwards == sum(counts.acceptance) <= counts.forwards
            if drafter is None:
                assert counts.token_forwards == len(answer.prompt_tokens) + len(answer.tokens) - 1
            assert (counts.draft_forwards == 0) == (drafter is None)


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
def test_other_families(family: str) -> None:
    """Learned positions, windows and chunks of attention, experts, latent keys; a recurrent memory is refused."""
    torch.manual_seed(0)
    shape = {**SHAPE, "num_hidden_layers": 4, "vocab_size": 40, "eos_token_id": 38, "pad_token_id": 38}
    config = getattr(transformers, f"{family}Config")(**{**shape, **OTHERS[family]})
    network = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() == 2:
                weight.normal_(0, 2.5 / math.sqrt(weight.shape[1]))
    model = CausalModel(network, None, family)
    if family == "Lfm2":
        with pytest.raises(SettingsError, match="does not keep a key and a value of each"):
            dlm.deer(model, None, PROMPTS, max_new_tokens=2)
        return
    found = dlm.deer(model, DRAFTERS["llada"], PROMPTS, draft_length=4, max_new_tokens=24)
    assert [answer.tokens for answer in found] == [greedy(model, prompt, 24) for prompt in PROMPTS]


def test_a_drafter_of_the_verifiers_law_is_always_right() -> None:
    """Two networks whose heads say the same at every position."""
    model, drafter = causal(eos=None), random_llada()
    law = torch.randn(40, generator=torch.Generator().manual_seed(1)).double()
    law[39] = -1e9  # the mask
    head = torch.nn.Linear(32, 40).double()
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(law)
    model.backbone.lm_head = head  # type: ignore[attr-defined]
    drafter.backbone.head = lambda rows: law.expand(*rows.shape[:-1], 40)
    for answer in dlm.deer(model, drafter, PROMPTS, draft_length=3, temperature=1.0, max_new_tokens=12):
        assert answer.counts.acceptance == (0, 0, 0, 3)
        assert answer.counts.forwards == 3
        assert answer.counts.canvas_tokens_per_forward == 4
        assert answer.confidence == pytest.approx(law.softmax(0)[answer.tokens].tolist())


@pytest.mark.parametrize("ways", [{}, {"draft_temperature": 0.0}])
def test_a_run_has_the_verifiers_law(ways: dict[str, Any]) -> None:
    """Pairs of tokens of many rows against their probabilities; point drafts (likeliest tokens) too."""
    model, rows = causal(vocab=5, eos=None), 2000
    run = dlm.deer(
        model, random_llada(vocab=5), [[1, 2, 0]] * rows, draft_length=2, temperature=1.5, max_new_tokens=3,
        batch_size=rows, **ways,
    )  # fmt: skip
    found = Counter(tuple(answer.tokens) for answer in run)
    every = list(itertools.product(range(5), repeat=3))
    with torch.no_grad():
        network: Any = model.backbone
        logits = network(torch.tensor([[1, 2, 0, *out] for out in every])).logits[:, 2:5] / 1.5
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(every)[..., None]).sum((1, 2)).exp()
    off = sum(abs(found[out] / rows - float(mass)) for out, mass in zip(every, expected, strict=True)) / 2
    # The mean distance of as many true draws.
    assert off < 1.25 * float((expected * (1 - expected) / rows / (2 * math.pi)).sqrt().sum())


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_is_alone(temperature: float) -> None:
    model = causal()

    def run(prompts: list[list[int]], size: int) -> list[Any]:
        answers = dlm.deer(
            model, DRAFTERS["dream"], prompts, draft_length=4, temperature=temperature, max_new_tokens=15, seed=7,
            batch_size=size,
        )  # fmt: skip
        return [(a.tokens, a.commit_step, a.counts.acceptance, a.counts.token_forwards, a.stop) for a in answers]

    prompts = [*PROMPTS, [7] * 20, [30, 2]]
    together = run(prompts, 5)
    assert together == run(prompts, 2)
    assert together == [run([prompt], 1)[0] for prompt in prompts]
    assert len({str(row[0]) for row in together}) > 2


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    tiny, tokenizer = dlm.load("tiny"), load_tokenizer(TINY)
    network = causal(vocab=478).backbone
    with pytest.raises(SettingsError, match="vocabularies of verifier v and drafter tiny differ"):
        dlm.deer(CausalModel(network, None, "v"), tiny, [[4]], max_new_tokens=2)
    other = load_tokenizer(TINY)
    assert tokenizer is not None and other is not None
    text = json.loads(other.backend_tokenizer.to_str())
    words = list(text["model"]["vocab"])
    text["model"]["vocab"] = {w: i for i, w in enumerate([*words[:300], words[301], words[300], *words[302:]])}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(text))
    with pytest.raises(SettingsError, match="take models of one tokenizer"):
        dlm.deer(CausalModel(network, load_tokenizer(tmp_path), "v"), tiny, "hi", max_new_tokens=2)
    with pytest.raises(SettingsError, match="attention in blocks"):
        dlm.deer(CausalModel(network, tokenizer, "v"), "tiny-block", "hi", max_new_tokens=2)
    with pytest.raises(SettingsError, match="verifier is what"):
        dlm.deer(tiny, tiny, "hi", max_new_tokens=2)  # type: ignore[arg-type]
    shape = transformers.BertConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1, vocab_size=40)
    bert = transformers.BertLMHeadModel(shape)
    with pytest.raises(SettingsError, match="take a verifier of causal attention"):
        dlm.deer(CausalModel(bert.eval(), None, "bert"), None, [[1, 2]], max_new_tokens=2)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="no autoregressive model that transformers knows"):
        load_causal("tiny")
    with pytest.raises(SettingsError, match="draft_length must be at least 0"):
        Deer(draft_length=-1)
    with pytest.raises(SettingsError, match="masks must be"):
        Deer(masks="some")  # type: ignore[arg-type]
    assert torch.equal(log_law(torch.tensor([[[1.0, 3.0, 3.0]]]), 0.0).exp(), torch.tensor([[[0, 1.0, 0]]]).double())


def test_a_verifier_is_trained_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, few = tmp_path / "ar", ["model.hidden_size=16", "model.num_hidden_layers=1", "model.num_attention_heads=2"]
    few += ["training.minutes=null", "training.steps=3", "tokens_per_batch=96", "held_out=1", "pictures=false"]
    assert main(["train", "ar", f"out={out}", *few]) == 0
    assert "arithmetic/addition" in capsys.readouterr().out
    assert [line["step"] for line in map(json.loads, (out / "log.jsonl").read_text().splitlines())] == [0, 3, 3]
    model = f"verifier={out / 'model'}"
    assert main(["deer", model, "prompt=47+85=", "max_new_tokens=6", "format=json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tokens"] == dlm.deer(out / "model", None, "47+85=", max_new_tokens=6)[0].tokens
    assert main(["deer", model, "task=waiting_line/copy", "n=2", "draft_length=[0,4]", "format=json"]) == 0
    plain, drafted = map(json.loads, capsys.readouterr().out.splitlines())
    assert (plain["same"], drafted["same"], plain["a call"]) == (2, 2, 1)
    assert drafted["calls"] <= plain["calls"]
    assert main(["deer", model, "prompt=1+1=", "draft_length=[0,4]"]) == 2
    assert "add task=NAME" in capsys.readouterr().err
    (out / "model" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="could not be loaded"):
        load_causal(out / "model")
