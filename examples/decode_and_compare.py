"""One prompt, four ways to fill the canvas: what each costs, what it answers, and in which order it fills.

    python examples/decode_and_compare.py

A masked diffusion model starts from a canvas of masks and fills some of them at each forward. The sampler says which:
few at a time is slow and careful, many at a time is fast and may be wrong, because tokens that are committed in the
same forward do not know of one another.
"""

import dlm
import samplers

model = dlm.load("tiny")  # ships with the package: lists, sums, small puzzles
prompt = 'Shuffle the list: ["Anna", "Bob", "Cleo", "Dan"]'  # any order will do, but every name has to be there once
ways = {
    "one token a forward": samplers.topk(tokens_per_step=1),
    "four tokens a forward": samplers.topk(tokens_per_step=4),
    "all at once": samplers.topk(tokens_per_step=32),
    "whatever is sure (0.9)": samplers.threshold(0.9),
}

print(prompt)
for name, sampler in ways.items():
    (answer,) = dlm.generate(model, prompt, sampler=sampler, max_new_tokens=32)
    counts = answer.counts
    print(f"\n{name}: {counts.forwards} forwards, {counts.tokens_per_forward:.1f} tokens each")
    print(f"  {answer.text}")
    # commit_step says at which forward each position was filled; the answer is the first `counts.tokens` of them.
    print("  filled at forward", *(step + 1 for step in answer.commit_step[: counts.tokens]))
