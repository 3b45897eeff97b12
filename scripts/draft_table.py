"""Forwards and positions fed with and without drafts, on the packaged model: the table of docs/drafting.md.

python scripts/draft_table.py [QUESTIONS]
"""

from __future__ import annotations

import sys

import cache
import dlm
import samplers
from dlm.drafting import FreeDave
from dlm.evaluation.compare import Questions

TASKS = ("waiting_line/shuffle", "puzzle/sudoku", "math/word_problem")
LENGTHS = (None, 2, 4, 8)


def main() -> None:
    """Print one line per task, sampler and cache: forwards / positions fed, and answers that are not the undrafted."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    model = dlm.load("tiny")
    blocks = samplers.Fixed(16)
    rules = {"topk": samplers.topk(blocks=blocks), "threshold 0.9": samplers.threshold(0.9, blocks=blocks)}
    for task in TASKS:
        questions = Questions.of(task, count)
        for name, sampler in rules.items():
            for label, policy in (("none", None), ("dual", cache.dual())):
                cells, plain = [], None
                for length in LENGTHS:
                    drafter = None if length is None else FreeDave(length)
                    answers = dlm.generate(
                        model, questions.chats, sampler=sampler, cache=policy, drafter=drafter,
                        max_new_tokens=questions.max_new_tokens, batch_size=count,
                    )  # fmt: skip
                    tokens = [answer.tokens for answer in answers]
                    plain = tokens if plain is None else plain
                    other = sum(a != b for a, b in zip(plain, tokens, strict=True))
                    forwards = sum(answer.counts.forwards for answer in answers) / count
                    fed = sum(answer.counts.token_forwards for answer in answers) / count
                    cells.append(f"{forwards:.1f} / {fed:.0f}" + (f" ({other} differ)" if other else ""))
                print(f"| {task}, {name}, {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
