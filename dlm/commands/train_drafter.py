"""``dlm train drafter``: a masked diffusion model learns to draft for an autoregressive one (DEER)."""

from __future__ import annotations

from dlm.choices import listed
from dlm.commands.common import command
from dlm.commands.train import kept, picture, place, trainable, trained
from dlm.configuration import check_counts, check_switches, compose_config, part_of
from dlm.errors import SettingsError
from dlm.evaluation.progress import progress_bar

HELP = """dlm train drafter: a masked diffusion model learns to draft for an autoregressive one (DEER).

usage: dlm train drafter verifier=DIR out=DIR [key=value ...]

  verifier=DIR                    folder or hub id of a causal language model of transformers, which gives the answers
  model=tiny                      what is trained, of the verifier's tokenizer
  task=waiting_line/copy n=160    training questions of each task (one or a list); temperature=0: greedy answers
  training.steps=300              and the other settings of dlm.training.drafter.DrafterTraining: stage II, which masks
                                  the nearest tokens alone, begins at training.refine_from=0.5 of the run
  training.lora=null              the rank of an adapter in place of all weights (pip install 'dlm[adapters]')
  out=DIR                         model/ (or adapter/), answers/, log.jsonl, training.json, curve.png

groups:
{groups}

examples:
  dlm train ar out=verifier
  dlm train drafter verifier=verifier/model task=waiting_line/copy,arithmetic/addition out=drafter
  dlm deer verifier=verifier/model drafter=drafter/model task=arithmetic/addition draft_length=[8,16]
"""


@command("train_drafter", HELP, ("out", "task", "verifier"))
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    config = compose_config("train_drafter", overrides)
    config.merge_with(texts)
    check_switches(config, "pictures")
    check_counts(config, "n", "portion")
    check_counts(config, "held_out", least=0)
    out = place(config)
    if not config.verifier:
        raise SettingsError("verifier is not given: add verifier=DIR, a causal language model (dlm train ar makes one)")
    from accelerate import PartialState

    from dlm.models.causal import load_causal
    from dlm.speculation.deer import Deer, check_pair
    from dlm.tasks.registry import open_task
    from dlm.training.answers import Answers, collect
    from dlm.training.drafter import Drafter, DrafterTraining
    from dlm.training.trainee import Trainee

    how: DrafterTraining = part_of(config, "training", DrafterTraining)
    names = listed(str(config.task))
    if not names:
        raise SettingsError("task names none: one, or a list")
    asked, model = [open_task(name) for name in names], trainable(config, lora=how.lora)
    portions, state = len(names) * -(-config.n // config.portion), PartialState()
    # One process makes the answers, the others read them.
    with state.main_process_first(), progress_bar(quiet=not state.is_main_process) as bar:
        verifier = load_causal(config.verifier)
        check_pair(verifier, model)
        made = collect(verifier, asked, Deer(0, config.temperature), config.n, out / "answers", portion=config.portion,
                       seed=how.seed, held_out=config.held_out)  # fmt: skip
        answers = Answers.cat(list(bar.track(made, portions, description="answering")))
    trainee = Trainee.of(model, how.lora, seed=how.seed)
    loop = Drafter(trainee, answers, how, out / "checkpoint.safetensors")
    lines = trained(loop, out, ("loss", "right"))
    if loop.rank == 0:
        told = {"verifier": str(config.verifier), "tasks": names, "n": config.n, "answers": len(answers)}
        folder = kept(loop, out, told)
        if right := [line["right"] for line in lines if "right" in line]:
            print(f"masked tokens it is right about: {right[0]:.1%} -> {right[-1]:.1%}")
        print(folder)
        picture(config, lines, ("loss",), out)
    return 0
