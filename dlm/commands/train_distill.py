"""``dlm train distill``: certainty-forcing distillation of a model's own right answers (dParallel)."""

from __future__ import annotations

from dlm.building import role_of
from dlm.choices import listed
from dlm.commands.common import command
from dlm.commands.train import kept, picture, place, trainable, trained
from dlm.configuration import check_counts, check_switches, compose_config, part_of
from dlm.errors import SettingsError
from dlm.evaluation.progress import progress_bar

HELP = """dlm train distill: certainty-forcing distillation of a model's own right answers (dParallel).

usage: dlm train distill out=DIR [key=value ...]

  model=tiny                      any model without attention blocks; it answers one token a step
  task=all n=160                  training questions of each task (all, one, or a list); right answers are kept
  held_out=100                    of a task without a training split: its first questions, which are left alone
  training.beta=2                 weight of the certainty term; 0: consistency with its own answers alone
  training.block_length=32        positions that are masked in part; training.whole_answer=true for Dream
  training.steps=400              and the other settings of dlm.training.distillation.DistillationTraining
  training.lora=null              the rank of an adapter in place of all weights (pip install 'dlm[adapters]')
  out=DIR                         model/ (or adapter/), answers/, log.jsonl, training.json, curve.png

It is decoded with sampler=entropy_threshold or sampler=threshold.

groups:
{groups}

examples:
  dlm train distill out=distilled
  dlm train distill model=llada-8b-instruct task=math/word_problem training.lora=32 training.batch=1 out=distilled
  dlm compare model=local model.path=distilled/model task=waiting_line/copy samplers=[entropy_threshold,threshold]
"""


@command("train_distill", HELP, ("out", "task"))
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    config = compose_config("train_distill", overrides)
    config.merge_with(texts)
    check_switches(config, "pictures")
    check_counts(config, "n", "portion")
    check_counts(config, "held_out", least=0)
    out = place(config)
    from accelerate import PartialState

    from dlm import tasks
    from dlm.tasks.registry import open_task
    from dlm.training.answers import Answers, collect
    from dlm.training.distillation import Distillation, DistillationTraining
    from dlm.training.trainee import Trainee

    how: DistillationTraining = part_of(config, "training", DistillationTraining)
    names = tasks.names() if str(config.task) == "all" else listed(str(config.task))
    if not names:
        raise SettingsError("task names none: all, one, or a list")
    asked, sampler = [open_task(name) for name in names], part_of(config, "answers", role_of("sampler"))
    model = trainable(config, lora=how.lora)
    portions = len(names) * -(-config.n // config.portion)
    # One process makes the answers, the others read them.
    state = PartialState()
    with state.main_process_first(), progress_bar(quiet=not state.is_main_process) as bar:
        made = collect(model, asked, sampler, config.n, out / "answers", portion=config.portion, seed=config.seed,
                       held_out=config.held_out)  # fmt: skip
        answers = Answers.cat(list(bar.track(made, portions, description="answering")))
    trainee = Trainee.of(model, how.lora, seed=how.seed)
    loop = Distillation(trainee, answers, how, out / "checkpoint.safetensors")
    lines = trained(loop, out, ("consistency", "certainty", "right"))
    if loop.rank == 0:
        told = {"tasks": names, "n": config.n, "answers": len(answers), "asked": answers.asked}
        folder = kept(loop, out, told)
        print(f"{len(answers)} right answers of {answers.asked}")
        told_of = [line for line in lines if "consistency" in line]
        for name in ("consistency", "certainty", "right") if told_of else ():
            print(f"{name:<12} {told_of[0][name]:.3f} -> {told_of[-1][name]:.3f}")
        print(folder)
        picture(config, lines, ("consistency", "certainty"), out)
    return 0
