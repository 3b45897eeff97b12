"""A few policy-gradient steps on the packaged model: rollouts, rewards from the task's own judge, replay, update.

    python examples/policy_gradient.py [STEPS]

Eight answers a question are drawn; each is worth its score less the mean of its question's (GRPO's advantage without
the standard deviation), times the log-probability of its trajectory, token by token at the step that committed it.
"""

import sys

import torch

import dlm
import samplers
from dlm.tasks.registry import open_task

torch.manual_seed(0)
model = dlm.load("tiny", device="cpu", trainable=True)
task, sampler = open_task("waiting_line/shuffle"), samplers.topk(tokens_per_step=4, temperature=0.7)
optimiser = torch.optim.AdamW(model.backbone.parameters(), lr=3e-5, weight_decay=0.0)
questions, answers = 4, 8

for step in range(int(sys.argv[1]) if sys.argv[1:] else 3):
    asked = [task.instance(1000 + questions * step + i) for i in range(questions) for _ in range(answers)]
    prompts = [instance.prompt for instance in asked]
    runs = dlm.generate(model, prompts, sampler=sampler, max_new_tokens=task.canvas, seed=step, batch_size=32)
    rewards = torch.tensor([task.judge(one, run.text).score for one, run in zip(asked, runs, strict=True)])
    groups = rewards.view(questions, answers)
    advantages = (groups - groups.mean(dim=1, keepdim=True)).flatten()
    told = dlm.replay(model, runs, gradients=True, checkpoint=True)
    loss = -(advantages[:, None] * told.log_probs).sum() / told.committed.sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    mean, states = float(rewards.mean()), told.forwards
    print(f"step {step}: mean reward {mean:.2f}, {states} states replayed, loss {loss.item():+.3f}")
