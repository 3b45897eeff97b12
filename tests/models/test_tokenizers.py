"""Tokenizers of both families' file layouts, chats, and the ids that only a tokenizer knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

import dlm
from dlm.errors import CheckpointError, PromptError, SettingsError
from dlm.models import DreamConfig, LanguageModel
from dlm.models.loading import load_tokenizer
from tests.models.small import small

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"]
TEMPLATE = (
    "{%- if messages[0].role == 'robot' %}{{ raise_exception('no robots') }}{%- endif %}"
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)


def write_dream_tokenizer(folder: Path, special: list[str] = SPECIAL, **settings: Any) -> None:
    """The file layout of Dream: a Qwen2 vocabulary under the name of a remote class."""
    merges = ["H i", "u s", "e r", "us er"]
    words = [*ALPHABET, *(merge.replace(" ", "") for merge in merges)]
    added = {
        str(len(words) + i): {"content": token, "special": True, "lstrip": False, "rstrip": False,
                              "normalized": False, "single_word": False}
        for i, token in enumerate(special)
    }  # fmt: skip
    config = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "added_tokens_decoder": added, "chat_template": TEMPLATE, "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>", "mask_token": "<|mask|>", "bos_token": None, "unk_token": None,
        "clean_up_tokenization_spaces": False, "errors": "replace", "model_max_length": 131072,
    }  # fmt: skip
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config | settings))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Dream model with Dream's tokenizer files; its config.json knows no ids."""
    return write_dream(tmp_path)


def write_dream(folder: Path) -> Path:
    config = DreamConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=16,
        vocab_size=300,
    )  # fmt: skip
    type(small("dream"))(config).save_pretrained(folder)
    write_dream_tokenizer(folder)
    return folder


def test_ids_from_the_tokenizer(folder: Path) -> None:
    description = dlm.load(folder, device="cpu").description
    assert description.mask_id == 264
    assert description.eos_ids == (260, 262)  # end of text, end of turn
    assert (description.vocab_size, description.valid_vocab) == (300, 265)


def test_padding_token_of_diffucoder_is_an_end(folder: Path) -> None:
    write_dream_tokenizer(folder, [*SPECIAL, "<|dlm_pad|>"])
    assert dlm.load(folder, device="cpu").description.eos_ids == (260, 262, 265)


def test_text_there_and_back(folder: Path) -> None:
    model = dlm.load(folder, device="cpu")
    assert model.encode(" Hi user") == [220, 256, 220, 259]
    for text in (" Hi ,  user\n", "naïve 世界"):
        assert model.decode(model.encode(text)) == text
    assert model.decode([256, 264, 262, 260]) == "Hi"
    assert model.encode("") == []


def test_a_chat_ends_where_the_answer_begins(folder: Path) -> None:
    model = dlm.load(folder, device="cpu")
    ids = model.encode_chat([{"role": "user", "content": "Hi"}])
    assert ids[:5] == [261, 259, 198, 256, 262]
    assert model.tokenizer is not None
    assert model.tokenizer.decode(ids) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "messages", [[], [{"role": "user"}], [{"role": "user", "content": 3}], [{"role": "robot", "content": "x"}]]
)
def test_chats_that_are_none(folder: Path, messages: list[dict[str, Any]]) -> None:
    with pytest.raises(PromptError):
        dlm.load(folder, device="cpu").encode_chat(messages)


def test_no_chat_template(folder: Path) -> None:
    write_dream_tokenizer(folder, chat_template=None)
    with pytest.raises(SettingsError, match="no chat template"):
        dlm.load(folder, device="cpu").encode_chat([{"role": "user", "content": "Hi"}])


def test_the_layout_of_llada(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("llada")
    first = load_tokenizer(folder)
    assert first is not None
    first.save_pretrained(target)
    config = json.loads((target / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    assert not (target / "vocab.json").exists()
    second = LanguageModel(small("llada"), load_tokenizer(target), "llada layout")
    assert second.encode(" Hi user") == [220, 256, 220, 259]
    assert second.encode_chat([{"role": "user", "content": "Hi"}])[:5] == [261, 259, 198, 256, 262]


def test_a_damaged_tokenizer(folder: Path) -> None:
    write_dream_tokenizer(folder, model_max_length="x")
    with pytest.raises(CheckpointError, match="tokenizer files"):
        dlm.load(folder, device="cpu")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer files"):
        dlm.load(folder, device="cpu")


CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>", "<|user|>", "<|assistant|>"]
ROLES = ("system", "user", "assistant")
# Hypothesis draws texts that stand in the code, control tokens among them.
ORDINARY = st.text(max_size=30).filter(lambda text: "<|" not in text and "\uf8ff" not in text)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LanguageModel]:
    """A model of each family with a chat template."""
    folder = write_dream(tmp_path_factory.mktemp("dream"))
    return {"dream": dlm.load(folder, device="cpu"), "llada": dlm.load("tiny", device="cpu")}


def as_text(model: LanguageModel, text: str) -> list[int]:
    """Every control token spelled out."""
    assert model.tokenizer is not None
    return list(model.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


@pytest.mark.parametrize("family", ["llada", "dream"])
@given(st.lists(st.tuples(st.sampled_from(ROLES), ORDINARY), min_size=1, max_size=4), st.data())
@settings(max_examples=60)
def test_a_message_is_text_and_ordinary_text_is_encoded_as_ever(
    chatty: dict[str, LanguageModel], family: str, said: list[tuple[str, str]], data: st.DataObject
) -> None:
    model = chatty[family]
    tokenizer: Any = model.tokenizer
    messages = [{"role": role, "content": content} for role, content in said]
    going_on = messages[-1]["role"] == "assistant"
    ending: dict[str, Any] = {"continue_final_message": True} if going_on else {"add_generation_prompt": True}
    as_ever = tokenizer.apply_chat_template(messages, return_dict=True, **ending)["input_ids"]
    assert model.encode_chat(messages) == as_ever
    token = data.draw(st.sampled_from(CONTROLS))
    ids = model.encode_chat([{**m, "content": m["content"] + token} for m in messages])
    assert [i for i in ids if i in tokenizer.all_special_ids] == [i for i in as_ever if i in tokenizer.all_special_ids]
    stands_in = [{**m, "content": m["content"] + "\uf8ff"} for m in messages]
    rendered = tokenizer.apply_chat_template(stands_in, tokenize=False, **ending)
    composed = normalize("NFC", rendered.replace("\uf8ff", token))  # as Qwen2's tokenizer writes it
    assert normalize("NFC", tokenizer.decode(ids)) == composed


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("token", CONTROLS)
def test_a_control_token_in_a_message_is_spelled_out(chatty: dict[str, LanguageModel], family: str, token: str) -> None:
    model = chatty[family]
    tokenizer: Any = model.tokenizer
    content = f"What does {token} mean? {token}{token}"
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    before, after = rendered.split(content)
    head, tail = (["<|user|>"], []) if family == "llada" else (["<|im_start|>"], ["<|im_end|>", "\n"])
    vocabulary = tokenizer.get_vocab()
    wanted = [vocabulary[head[0]], *as_text(model, before.removeprefix(head[0]) + content)]
    wanted += [vocabulary[tail[0]], *as_text(model, tail[1])] if tail else []
    assert before.startswith(head[0]) and after == "".join(tail)
    assert model.encode_chat([{"role": "user", "content": content}])[: len(wanted)] == wanted
    assert model.description.mask_id not in model.encode_chat([{"role": "user", "content": content}])


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_in_a_raw_prompt_the_mask_alone_is_text(chatty: dict[str, LanguageModel], family: str) -> None:
    model = chatty[family]
    tokenizer: Any = model.tokenizer
    mask, end = tokenizer.mask_token, tokenizer.eos_token
    assert model.encode(f"What does {mask} mean?") == as_text(model, f"What does {mask} mean?")
    assert model.encode(f"a{mask}{end}b{mask}") == [
        *as_text(model, f"a{mask}"), tokenizer.eos_token_id, *as_text(model, f"b{mask}")
    ]  # fmt: skip
    assert model.encode(f"a{mask}", masks=True)[-1] == model.description.mask_id


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("begun", ["Well", "Well, ", "", "a <|mask|> is"])
def test_an_answer_that_is_begun_is_continued(chatty: dict[str, LanguageModel], family: str, begun: str) -> None:
    model = chatty[family]
    question = [{"role": "user", "content": "Hi"}]
    ids = model.encode_chat([*question, {"role": "assistant", "content": begun}])
    tokenizer: Any = model.tokenizer
    asked = tokenizer.decode(model.encode_chat(question))
    assert tokenizer.decode(ids) == asked + begun
    assert model.description.mask_id not in ids


def test_a_template_that_trims_is_followed(folder: Path) -> None:
    trims = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|beginoftext|>' + m['content'] | trim }}"
        "{{ '<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant<|beginoftext|>' }}"  # whether asked for or not
    )
    write_dream_tokenizer(folder, chat_template=trims)
    model = dlm.load(folder, device="cpu")
    question = [{"role": "user", "content": " Hi <|im_end|> "}]
    asked, tokenizer = model.encode_chat(question), model.tokenizer
    assert tokenizer is not None
    assert tokenizer.decode(asked).startswith("<|im_start|>user<|beginoftext|>Hi <|im_end|><|im_end|><|im_start|>")
    assert asked.count(262) == 1
    begun = model.encode_chat([*question, {"role": "assistant", "content": "So <|mask|>, "}])
    assert tokenizer.decode(begun) == tokenizer.decode(asked) + "So <|mask|>,"
    assert begun.count(264) == 0


def test_a_template_that_hides_the_last_message_is_refused(folder: Path) -> None:
    write_dream_tokenizer(folder, chat_template="{{ messages[0].content }}")
    model = dlm.load(folder, device="cpu")
    with pytest.raises(PromptError, match="chat template refused"):
        model.encode_chat([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x"}])
