"""``dlm train policy``: an unmasking policy, by rewards for right answers in few forwards."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from dlm.building import role_of
from dlm.choices import listed
from dlm.commands.common import command
from dlm.commands.train import picture, place, trainable, trained
from dlm.configuration import check_switches, compose_config, part_of
from dlm.errors import SettingsError
from dlm.files import write_whole

HELP = """dlm train policy: a policy for sampler=policy, by rewards for right answers in few forwards.

usage: dlm train policy out=DIR [key=value ...]

  model=tiny task=all                   any model, which does not change; all tasks, one, or a list, by turns
  training.alpha=6                      weight of few forwards: the reward is score x ((L - forwards + 1) / L) ** alpha
  training.threshold=0.9                the rule it begins as; null: every position alike; start=PATH: a policy
  training.steps=200                    rollouts; training.questions=8 of training.answers=8 each
  training.iterations=2                 updates on a rollout; training.ratio_clip=0.5
  training.width=16                     and the other settings of dlm.training.policy.UnmaskingTraining
  'blocks={{_target_: samplers.Whole}}'   what it learns to fill at once; blocks of 32 unless said otherwise
  out=DIR                               policy.safetensors, log.jsonl, training.json, curve.png

groups:
{groups}

examples:
  dlm train policy out=policies/tiny
  dlm train policy task=[waiting_line/shuffle,text/story] training.alpha=12 out=policies/bold
  dlm generate 'prompt=47+85=' sampler=policy sampler.policy=policies/tiny/policy.safetensors
"""


@command("train_policy", HELP, ("out", "task", "start"))
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    config = compose_config("train_policy", overrides)
    config.merge_with(texts)
    check_switches(config, "pictures")
    out = place(config)
    from dlm import __version__, tasks
    from dlm.engine.sampler import Sampler
    from dlm.evaluation.scoring import score
    from dlm.tasks.registry import open_task
    from dlm.training.filter_file import vocabulary_of
    from dlm.training.policy import Unmasking, UnmaskingTraining
    from dlm.training.policy_file import Policy, read_policy, write_policy

    how: UnmaskingTraining = part_of(config, "training", UnmaskingTraining)
    names = tasks.names() if str(config.task) == "all" else listed(str(config.task))
    if not names:
        raise SettingsError("task names none: all, one, or a list")
    asked, part = [open_task(name) for name in names], part_of(config, "policy", role_of("sampler"))
    blocks = part_of(config, "blocks", role_of("blocks"))
    start = None if config.start is None else read_policy(str(config.start))
    model = trainable(config, gradients=False)

    def make(policy: Policy, explore: bool) -> Sampler:
        made: Sampler = part(policy=policy, explore=explore, blocks=blocks)
        return made

    def judge(policy: Policy) -> dict[str, Any]:
        """Score and forwards on held-out questions, without exploring."""
        found = [score(model, task, make(policy, False), n=how.held_out, batch_size=how.batch_size) for task in asked]
        kinds = ("accuracy", "forwards")
        return {f"held_out_{kind}": sum(float(one[kind]) for one in found) / len(found) for kind in kinds}

    checkpoint = out / "checkpoint.safetensors"
    loop = Unmasking(model, asked, make, how, checkpoint, start, judge if how.held_out else None)
    lines = trained(loop, out, ("reward", "right", "forwards"))
    if loop.rank == 0:
        told: dict[str, Any] = {"dlm": __version__, "model": model.name, "tasks": names}
        told |= {"vocabulary": vocabulary_of(model.tokenizer), "blocks": repr(blocks), "training": asdict(how)}
        write_policy(out / "policy.safetensors", replace(loop.policy(), card=told))
        write_whole(out / "training.json", json.dumps(told, indent=1))
        held = [line for line in lines if "held_out_accuracy" in line]
        for word, line in zip(("before", "after"), (held[0], held[-1]) if held else (), strict=False):
            print(f"{word}: {line['held_out_accuracy']:.1%} right in {line['held_out_forwards']:.2f} forwards")
        print(out / "policy.safetensors")
        picture(config, lines, ("reward",), out)
    return 0
