"""``dlm train rl``: reinforcement on a model's own rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm.building import build, role_of
from dlm.commands.common import command
from dlm.commands.train import kept, picture, place, trainable, trained
from dlm.configuration import check_switches, compose_config, part_of, parts_of, plain_of
from dlm.errors import SettingsError

if TYPE_CHECKING:
    from dlm.models import LanguageModel
    from dlm.training.reinforcement import PolicyTraining

HELP = """dlm train rl: reinforcement on a model's own rollouts (GRPO over decoding trajectories).

usage: dlm train rl out=DIR [key=value ...]

  model=tiny task=waiting_line/shuffle  questions are of the task's training split; its judge gives the rewards
  sampler=ass sampler.temperature=1     how rollouts are decoded; blocks= and an exact cache= likewise
  training.estimator=trajectory         log-probabilities as the rollout saw them (CJ-GRPO), coupled (coupled-GRPO),
                                        or full (diffu-GRPO)
  training.weighting=tokens             every token alike; transitions: every step alike, as CJ-GRPO has it
  training.baseline=mean                also standardised, leave_one_out
  training.steps=60                     rollouts; training.questions=4 of training.answers=8 each
  training.iterations=1                 updates on a rollout; training.ratio_clip=0.5, training.kl=0
  training.lora=null                    the rank of an adapter in place of all weights (pip install 'dlm[adapters]')
  training.rate=3e-5                    and the other settings of dlm.training.reinforcement.PolicyTraining
  reward=null                           one of your own, {{_target_: my_package.MyReward}}: called with the question and
                                        the answer, it returns a number
  out=DIR                               model/ (or adapter/), log.jsonl, training.json, curve.png

Steps whose answers all have the same reward teach nothing; the log counts them (equal).

groups:
{groups}

examples:
  dlm train rl out=trained
  dlm train rl task=math/word_problem training.estimator=coupled training.lora=8 out=trained
  dlm eval model=local model.path=trained/model task=waiting_line/shuffle sampler=ass
"""


@command("train_rl", HELP, ("out",))
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    config = compose_config("train_rl", overrides)
    config.merge_with(texts)
    check_switches(config, "pictures")
    out = place(config)
    from dlm.evaluation.scoring import score
    from dlm.training.reinforcement import PolicyTraining, Reinforcement
    from dlm.training.trainee import Trainee

    how: PolicyTraining = part_of(config, "training", PolicyTraining)
    plain = plain_of(config)
    node = {key: value for key, value in plain["task"].items() if key not in ("limit", "form")}
    task = build(node, role_of("task"), "task")
    parts = parts_of(config)
    sampler = parts.sampler
    if parts.drafter is not None:
        raise SettingsError(
            "drafted rollouts cannot be replayed, tokens of one step saw different states: leave drafting out"
        )
    if config.max_new_tokens != 1:
        raise SettingsError("the task's canvas is what is filled: leave max_new_tokens out")
    reward = None if config.reward is None else part_of(config, "reward", object)
    trainee = Trainee.of(trainable(config, lora=how.lora), how.lora, seed=how.seed)

    def judge(model: LanguageModel) -> float:
        """The score on held-out questions, answered as in a rollout."""
        found = score(model, task, sampler, n=how.held_out, batch_size=how.batch_size)
        return float(found["accuracy"])

    checkpoint, judging = out / "checkpoint.safetensors", judge if how.held_out else None
    loop = Reinforcement(trainee, task, sampler, how, checkpoint, reward, judging, parts.cache)
    lines = trained(loop, out, ("reward", "equal", "clipped"))
    if loop.rank == 0:
        _report(lines, kept(loop, out, {"task": task.name, "sampler": repr(sampler)}))
        picture(config, lines, ("reward",), out)
    return 0


def _report(lines: list[dict[str, Any]], folder: Path) -> None:
    held = [line["held_out"] for line in lines if "held_out" in line]
    rewards = [line["reward"] for line in lines if "reward" in line]
    if not rewards:
        print(folder)
        return
    tenth = max(1, len(rewards) // 10)
    first, last = (sum(part) / len(part) for part in (rewards[:tenth], rewards[-tenth:]))
    print(f"mean reward {first:.3f} in the first tenth of the steps, {last:.3f} in the last; {folder}")
    if held:
        print(f"held-out questions, answered as in a rollout: {held[0]:.1%} before, {held[-1]:.1%} after")
    if equal := sum(line.get("equal", 0) for line in lines):
        print(f"{equal / len(rewards):.0%} of the groups had equal rewards and taught nothing")
