"""A language model that knows the right answers: exact marginals where a network would have learned some.

It stands behind :func:`dlm.generate` like any other model, so that what comes out is what the decode loop, the sampler
and the task's scorer make of exact probabilities (docs/oracle.md). A row is a question's token, then the
answer. Positions behind the answer are end tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.errors import PromptError, SettingsError
from dlm.exact_model.question import SolvedQuestion
from dlm.models import LanguageModel, ModelDescription
from dlm.models.backbone import Backbone, Memory

MASK, END = 0, 1
NEVER = -1e9  # the logit of a token without probability; finite, exp() gives exactly 0


class OracleBackbone(Backbone):
    """Logarithms of the exact marginals of a question's answers, given the tokens a row already holds.

    Answers are equally likely, and those that disagree with a token of the row are out. A row that no answer agrees
    with is lost; it gets the marginals of all answers. Float64, so that 1/2 is 1/2.

    Args:
        laws: per question the id it is asked with, and its answers as token ids. ``[M, L]``
        vocabulary: number of ids.
    """

    def __init__(self, laws: Mapping[int, Int[Tensor, "M L"]], vocabulary: int) -> None:
        longest = max(answers.shape[1] for answers in laws.values())
        self.description = ModelDescription(MASK, (END,), 0, vocabulary, vocabulary, longest + 1024)
        self.laws = {question: _Law(answers) for question, answers in laws.items()}

    def parameters(self) -> Iterator[Tensor]:
        """Where the model is and how exact: one float64 number on the CPU."""
        yield torch.zeros(1, dtype=torch.float64)

    def hidden(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"] | None = None,
        valid: Bool[Tensor, "B S"] | Bool[Tensor, "B T S"] | None = None,
        memory: Memory | None = None,
    ) -> Float[Tensor, "B T V"]:
        """The logits themselves, see :class:`dlm.models.backbone.Backbone`.

        Raises:
            SettingsError: not the rows as they stand are fed (a cache, a shadow block), or they ask nothing known.
        """
        if positions is not None or memory is not None:
            raise SettingsError(
                "the oracle looks at whole rows as they stand: use cache=none and a sampler without a shadow block"
            )
        logits = torch.full((*tokens.shape, self.description.vocab_size), NEVER, dtype=torch.float64)
        logits[..., END] = 0.0
        asked = tokens[:, 0]
        unknown = torch.ones_like(asked, dtype=torch.bool)
        for question, law in self.laws.items():
            rows = asked == question
            unknown &= ~rows
            law.fill(logits, tokens, rows)
        if bool(unknown.any()):
            raise SettingsError("a row does not begin with the token of a question: ask what the oracle was made for")
        return logits

    def head(self, rows: Float[Tensor, "... V"]) -> Float[Tensor, "... V"]:
        """The logits, which the hidden rows are."""
        return rows.clone()


class _Law:
    """The uniform law over some answers, as a table of which answer has which token where."""

    def __init__(self, answers: Int[Tensor, "M L"]) -> None:
        length = answers.shape[1]
        pairs = {(place, token) for place in range(length) for token in answers[:, place].tolist()}
        self.place, self.token = torch.tensor(sorted(pairs)).T
        self.length = length
        self.has = (answers[:, self.place] == self.token).double()  # [M, F]
        self.everywhere = self.has.mean(dim=0)

    def fill(self, logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B T"], rows: Bool[Tensor, " B"]) -> None:
        """Write the logits of these rows, whose answers begin at position 1."""
        index = rows.nonzero().squeeze(1)
        if not len(index):
            return
        seen = tokens[index, 1 : 1 + self.length]
        fits = self.place < seen.shape[1]
        place, token, has = self.place[fits], self.token[fits], self.has[:, fits]
        agrees = (seen[:, place] == token).double() @ has.T  # [B, M] how many tokens each answer has right
        possible = (agrees == (seen != MASK).sum(dim=1, keepdim=True)).double()
        left = possible.sum(dim=1, keepdim=True)
        marginals = torch.where(left > 0, possible @ has / left.clamp_min(1.0), self.everywhere[fits])
        row = torch.arange(len(index))[:, None]
        answer = torch.full((*seen.shape, logits.shape[2]), NEVER, dtype=torch.float64)
        answer[row, place, token] = marginals.log().clamp_min(NEVER)
        logits[index, 1 : 1 + seen.shape[1]] = answer


class OracleTokenizer:
    """Tokens are whole pieces of text: the items, what stands between them, and each question as one token.

    Args:
        questions: whose texts are known. The ids of what stands in slots ascend with ``order`` where it is given,
            else alphabetically.
    """

    chat_template = "a question is one token"

    def __init__(self, questions: Sequence[SolvedQuestion], order: Sequence[str] | None = None) -> None:
        words = sorted({word for question in questions for answer in question.answers for word in answer})
        given = sorted({piece for question in questions for piece in question.pieces if piece} - set(words))
        self.texts = ["", "", *(words if order is None else order), *given]
        self.ids = {text: i for i, text in enumerate(self.texts) if i > END}
        missing = [word for word in words if word not in self.ids]
        if missing:
            raise SettingsError(f"order must hold every item, {missing[0]!r} is not in it")
        self.longest_first = sorted(self.ids, key=len, reverse=True)
        self.questions = {question.instance.prompt: len(self.texts) + i for i, question in enumerate(questions)}

    def __len__(self) -> int:
        return len(self.texts) + len(self.questions)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Token ids of a question or of an answer.

        Raises:
            PromptError: the text is none.
        """
        if text in self.questions:
            return {"input_ids": [self.questions[text]]}
        ids, at = [], 0
        while at < len(text):
            piece = next((p for p in self.longest_first if text.startswith(p, at)), None)
            if piece is None:
                raise PromptError(f"the oracle does not know the text {text[at : at + 40]!r}: ask one of its questions")
            ids.append(self.ids[piece])
            at += len(piece)
        return {"input_ids": ids}

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], **options: Any) -> dict[str, list[int]]:
        """The question that ends the conversation."""
        return self(messages[-1]["content"])

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        """The text of an answer; masks and end tokens have none."""
        return "".join(self.texts[i] for i in ids if i < len(self.texts))

    def convert_tokens_to_ids(self, text: str) -> int | None:
        """The id of one piece of text; None: there is none."""
        return self.ids.get(text)


def oracle_model(questions: Sequence[SolvedQuestion], order: Sequence[str] | None = None) -> LanguageModel:
    """A model for :func:`dlm.generate` that knows the answers to these questions and to no other.

    Args:
        questions: with different prompts.
        order: what may stand in slots, lowest id first; None: alphabetical.
    """
    tokenizer = OracleTokenizer(questions, order)
    if len(tokenizer.questions) < len(questions):
        raise SettingsError("two questions have one prompt: the oracle could not tell them apart")
    laws = {
        tokenizer.questions[q.instance.prompt]: torch.tensor(
            [[tokenizer.ids[token] for token in q.written(answer)] for answer in q.answers]
        )
        for q in questions
    }
    return LanguageModel(OracleBackbone(laws, len(tokenizer)), tokenizer, "oracle")  # type: ignore[arg-type]
