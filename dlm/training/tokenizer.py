"""The tiny model's tokenizer: whole words where it knows them, bytes where it does not, lossless on any text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dlm import tasks

EOS, MASK, USER, ASSISTANT = "<|endoftext|>", "<|mask|>", "<|user|>", "<|assistant|>"
SPECIALS = (EOS, MASK, USER, ASSISTANT)
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# List punctuation is one token each, digits stand alone (so that a number is its digits whatever precedes it), and a
# word carries the space before it.
_PIECES = r'\["|", "|"\]|\d| ?[A-Za-z]+|[^\sA-Za-z\d]|\s'
# Instances of each task that are read to find the words.
_SAMPLE = 1500


def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def build() -> PreTrainedTokenizerFast:
    """The tokenizer: special tokens, 256 bytes, then every piece that the tasks' training questions and answers hold.

    A byte-pair model without merges that looks whole pieces up first: a known piece is one token, an unknown one its
    bytes.
    """
    splitter, pieces = _splitter(), Counter[str]()
    for name in tasks.names():
        task = tasks.get(name)
        for i in range(_SAMPLE):
            instance = task.instance(i, "train")
            for text in (instance.prompt, instance.target):
                pieces.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = sorted(piece for piece in pieces if len(piece) > 1)
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *alphabet, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=EOS,
        mask_token=MASK,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def save(folder: Path) -> PreTrainedTokenizerFast:
    """Build and write the tokenizer files."""
    tokenizer = build()
    tokenizer.save_pretrained(folder)
    return tokenizer
