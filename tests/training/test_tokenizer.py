"""The tiny model's tokenizer: lossless on any text, one token per name, digit and piece of list punctuation."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dlm import tasks
from dlm.models import load
from dlm.tasks.waiting_line import NAMES
from dlm.training.tokenizer import SPECIALS


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_comes_back(tokenizer, text):
    if not any(special in text for special in SPECIALS):
        assert decode(tokenizer, encode(tokenizer, text)) == text


def test_spaces_and_scripts_come_back(tokenizer):
    for text in ('  two  spaces\n\n\ttab "quoted"', "naïve 東京 \U0001f600", '["Anna","Bob"]', "", " "):
        assert decode(tokenizer, encode(tokenizer, text)) == text


def test_list_pieces_are_single_tokens(tokenizer):
    for name in NAMES:
        assert len(encode(tokenizer, name)) == len(encode(tokenizer, f" {name}")) == 1
    assert len(encode(tokenizer, '["Anna", "Bob", "Cleo"]')) == 2 * 3 + 1


def test_digits_are_never_merged_and_never_carry_a_space(tokenizer):
    digits = [encode(tokenizer, d)[0] for d in "0123456789"]
    assert len(set(digits)) == 10
    assert encode(tokenizer, "0123456789") == digits
    assert encode(tokenizer, " 7") == [*encode(tokenizer, " "), digits[7]]


def test_no_task_falls_back_to_bytes(tokenizer):
    for name in tasks.names():
        for i in range(50):
            instance = tasks.get(name).instance(i)
            for text in (instance.prompt, instance.target):
                pieces = tokenizer.tokenize(text)
                assert not any(len(p) == 1 and p.isalpha() and p.isascii() and p.islower() for p in pieces), pieces


def test_special_ids_and_the_chat_template(tokenizer):
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id) == (0, 0, 1)
    chat = [{"role": "user", "content": "47+85="}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == "<|user|>47+85=<|assistant|>"
    assert len(encode(tokenizer, text)) == 8


def test_the_packaged_tokenizer_is_what_the_code_builds(tokenizer):
    packaged = load("tiny").tokenizer
    assert packaged.get_vocab() == tokenizer.get_vocab()
    assert packaged.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert packaged.chat_template == tokenizer.chat_template


def test_saved_files_load_again(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = 'Copy the list: ["Anna", "Bob"]'
    assert encode(again, text) == encode(tokenizer, text)
    assert again.chat_template == tokenizer.chat_template
