"""``dlm bench``: measurements, one word each; without a word it is ``decode``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dlm.choices import chosen, labels
from dlm.commands.common import answered_help, asks_help, flags_as_settings, split_texts
from dlm.configuration import compose_config, part_of
from dlm.errors import SettingsError
from dlm.words import unknown_name

HELP = """measurements (dlm bench WORD --help explains one):
{benches}
"""
DECODE = """dlm bench: seconds per step inside the model and outside it, beside a naive decoder on the same weights.

usage: dlm bench [decode] [key=value ...]

  bench.shapes=[tiny,mid,wide,narrow]   tiny is the packaged model; the others, and llada-8b and dream-7b,
                                        have random weights
  bench.batches=[1]                     batch sizes
  bench.prompt=32 bench.new=128 bench.block=32 bench.runs=3 bench.naive_steps=5
  bench.device=cuda bench.dtype=bfloat16 bench.threads=1
  sampler=topk                          any sampler; figures are those of its steps

Prints a table and, as the last line, everything as JSON. Medians over the steps of all runs; a "full block" is a step
with bench.block positions open. The limit is what arithmetic or weight reading alone would take, from speeds measured
in the same run.

groups:
{groups}

examples:
  dlm bench
  dlm bench bench.shapes=[narrow] bench.new=512 bench.naive_steps=0
  dlm bench bench.shapes=[llada-8b] bench.batches=[1,8] bench.device=cuda bench.dtype=bfloat16 bench.naive_steps=0
"""
SAMPLERS = """\
dlm bench samplers: seconds per step that each sampler spends outside the model, beside the threshold rule's.

usage: dlm bench samplers [key=value ...]

  samplers=all                          every choice below but parts, or a list; a sampler's own settings follow a
                                        colon: 'samplers=[klass,topk:tokens_per_step=2]'; threshold is always measured
  bench.shapes=[narrow]                 narrow has LLaDA's vocabulary under almost no body; also tiny, mid, wide,
                                        llada-8b, dream-7b
  bench.batches=[1,8]                   batch sizes
  bench.prompt=32 bench.new=32          positions of the prompt, and open positions: one block, at most 32
  bench.runs=5 bench.steps=3            rounds, and steps from a fresh canvas that are timed in each
  bench.device=cuda bench.dtype=bfloat16 bench.threads=1

Prints a table and, as the last line, everything as JSON. In every round each sampler decodes the same random canvases,
one after the other in an order of that round, threshold several times. Figures are medians over the rounds, ratios
those to threshold in the same round. "ms" and "ratio" are a step without the model's body and head, "step ratio" is
all of it, "scored" is how many positions per row the head was evaluated at for proposals. What is above a ratio of 3
and declares no reason is named below the table. Settings of a sampler (sampler.temperature=0.5) hold for all of them;
one that refuses is listed with its reason.

groups:
{groups}

examples:
  dlm bench samplers
  dlm bench samplers samplers=[klass,dawn] bench.runs=9 bench.threads=1
  dlm bench samplers bench.batches=[1] bench.shapes=[narrow,wide] sampler.temperature=0.5
  dlm bench samplers bench.device=cuda bench.dtype=bfloat16
"""
CACHES = """dlm bench caches: what each cache saves beside no cache, on the same model, prompts and sampler.

usage: dlm bench caches [key=value ...]

  caches=all                        every choice below, or a list; a cache's own settings follow a colon:
                                    'caches=[dual,dkv_decode:interval=4]'; none is always measured
  sampler=topk blocks.length=32     the same for all caches; one that must know the order beforehand (dkv_greedy) is
                                    measured with sampler=random, beside no cache with sampler=random
  bench.shapes=[body]               body is 512 wide, 8 layers, vocabulary 2048; also tiny, mid, wide, narrow,
                                    llada-8b, dream-7b
  bench.batches=[1]                 batch sizes
  bench.prompt=512 bench.generation=256
  bench.rounds=1                    whole generations of each cache; figures are medians over the rounds
  bench.turn=32                     steps a cache takes before it is the next one's turn; null: the whole generation
  bench.drift=32                    positions over which the drift is measured, untimed; 0: it is not
  bench.device=cuda bench.dtype=bfloat16 bench.threads=1

Prints what each cache saves (positions fed, seconds, tokens per second, ratio to none in the same round), then where
its time goes, the time that arithmetic and weight reading alone would take, memory and drift; the last line is
everything as JSON. A cache that refuses the sampler or the model is listed with its reason. Weights are random but for
shape tiny: the drift says which caches are exact, not what a trained model loses (dlm drift does). Heads of random
models are scaled so that they are about as sure of a token as a trained one; otherwise the caches that refresh after
an unsure commit (entropy, adaptive) would refresh at every step.

The default takes about a quarter of an hour on two CPU cores, 'caches=[dual,vicinity,dkv_decode]' five minutes.

groups:
{groups}

examples:
  dlm bench caches
  dlm bench caches 'caches=[dual,dual:every=8,dkv_decode]' bench.rounds=3
  dlm bench caches bench.shapes=[tiny] bench.prompt=64 bench.generation=64
  dlm bench caches bench.shapes=[llada-8b] bench.batches=[1,8] bench.prompt=800 bench.turn=null bench.device=cuda
"""
DRAFTING = """dlm bench drafting: FreeDave (draft and verify) beside the undrafted run of the same prompts.

usage: dlm bench drafting [key=value ...]

  bench.models=[tiny,body]          tiny answers held-out questions; the others have random weights and prompts of
                                    random tokens: body, mid, wide, narrow, llada-8b, dream-7b
  bench.draft_lengths=[2,4,8]       may hold auto
  bench.layouts=[batch,tree]        where the drafts stand
  'samplers=[topk,threshold:threshold=0.9]'   all, or a list; settings follow a colon
  caches=[none,dual]                likewise
  blocks.length=16                  the same for all
  bench.tasks=[puzzle/sudoku] bench.questions=4   what tiny is asked, questions of each task in every round
  bench.prompt=64 bench.generation=32             of models with random weights
  bench.batches=[1]                 batch sizes
  bench.rounds=3 bench.turn=8       whole decodes of each; forwards after which the next one has its turn
  bench.versions=[1,2,4,8]          versions of a row whose forward is timed
  bench.flip_dtypes=[float32,bfloat16,float64] bench.flip_questions=8
  bench.device=cuda bench.dtype=bfloat16 bench.threads=1

Per model and kind of prompts: forwards, drafts accepted, positions fed and answers that differ; then seconds, memory
and the time that arithmetic or weight reading alone would take. The undrafted run is measured twice: how far the second
is from a ratio of 1 is the noise. Then what one forward of several versions costs, whatever becomes of them, and from
it the share of drafts that must hold for drafting to pay (random weights say nothing of how many do). Then how many
answers of tiny differ from the undrafted ones in each number format: ties that rounding decides the other way; none in
float64. The last line is everything as JSON.

The default takes about half an hour on one CPU core, 'bench.models=[tiny] bench.flip_dtypes=[]' five minutes.

groups:
{groups}

examples:
  dlm bench drafting
  dlm bench drafting bench.models=[tiny] bench.draft_lengths=[4,auto] bench.rounds=5
  dlm bench drafting bench.models=[body] bench.batches=[1,4] 'samplers=[topk]' 'caches=[dual]'
  dlm bench drafting bench.models=[llada-8b] bench.prompt=256 bench.generation=128 blocks.length=32 bench.device=cuda
"""
LAUNCHES = """\
dlm bench launches: how many kernels a step launches on a GPU, and how often the host waits, counted without one.

usage: dlm bench launches [key=value ...]

  samplers=all caches=[none,dual]   all, or a list; settings follow a colon: 'samplers=[klass,topk:tokens_per_step=2]'
  bench.drafting=[none]             draft lengths of FreeDave, auto among them; none: without drafts
  bench.batches=[1]                 batch sizes
  bench.shape=llada-8b              whose layers are counted and whose weights are read: also dream-7b
  bench.card=h200                   the card that would read them: a100, h100, h200, b200
  bench.prompt=64 bench.new=32 bench.warmup=2 bench.steps=3
  bench.dtype=bfloat16 bench.detail=true   the second also shows which line of the program launches what

A narrow model with the layers of the shape decodes on a pretended device, which counts what it is asked to do. Steps
that recompute everything for a cache are left out where there are others; figures are medians of the rest. A step waits
for the GPU at least once: the host must hear what is left to do. Where "ms at 5 us" is above "ms of weights", launching
takes longer than reading the weights does, and the GPU stands idle. Needs no GPU; kernels of Triton (rotation, gate,
noise) count as one each, without Triton there are more. The last line is everything as JSON.

groups:
{groups}

examples:
  dlm bench launches
  dlm bench launches samplers=[threshold] caches=all bench.batches=[1,8]
  dlm bench launches samplers=[topk] caches=[dual] bench.drafting=[none,4] bench.detail=true
"""


def run(overrides: list[str]) -> int:
    """Run the measurement that the first word names; returns the exit status. Raises SettingsError: an unknown word."""
    named = bool(overrides) and overrides[0].isidentifier()  # neither key=value nor an option
    word = overrides[0] if named else "decode"
    if word not in BENCHES:
        raise SettingsError(unknown_name("bench", word, BENCHES))
    bench = BENCHES[word]
    keys = [f"{group}s" for group in bench.several]
    texts, rest = split_texts(flags_as_settings(overrides[1:] if named else overrides, bench.config, keys), keys)
    if not answered_help(rest, bench.help, bench.config, texts):
        bench.measure(Request(bench, texts, rest))
    elif not named and asks_help(overrides):
        width = max(map(len, BENCHES))
        lines = [f"  {name:<{width}}  {bench.line}" for name, bench in BENCHES.items()]
        print("\n" + HELP.format(benches="\n".join(lines)), end="")
    return 0


class Request:
    """What the command line of a bench asks for.

    Attributes:
        config: the composed configuration.
        settings: of the bench, built.

    Raises:
        SettingsError: ``sampler=NAME`` where the bench takes ``samplers=``, and likewise for caches.
    """

    def __init__(self, bench: Bench, texts: Mapping[str, str], overrides: Sequence[str]) -> None:
        self._name, self._several, self._texts, self._overrides = bench.config, bench.several, texts, overrides
        for override in self._overrides:
            key = override.partition("=")[0].lstrip("+~")
            group = key.partition(".")[0]
            # Settings of a cache are those of one cache; settings of a sampler hold for all that know them.
            if group in self._several and (key == group or group == "cache"):
                example = f"'{group}s=[NAME,NAME:KEY=VALUE]'"
                raise SettingsError(
                    f"{self._name.replace('_', ' ')} takes several {group}s: {example} instead of {group}=NAME"
                )
        self.config = compose_config(self._name, self._shared("sampler" not in self._several))
        for key in ("shapes", "batches"):  # one may stand without brackets
            if isinstance(one := self.config.bench.get(key), str | int):
                self.config.bench[key] = [one]
        self.settings = part_of(self.config, "bench")

    @property
    def sampler(self) -> Any:
        """The sampler that the group is set to."""
        return part_of(self.config, "sampler")

    def _shared(self, sampler: bool) -> list[str]:
        """The overrides; settings of a sampler where one is chosen: not every sampler knows them."""
        return [o for o in self._overrides if sampler or not o.lstrip("+~").startswith("sampler.")]

    def parts(self, group: str, always: Sequence[str] = ()) -> dict[str, Any]:
        """The parts that the list of a group names, by label; those that ``always`` names come first."""
        asked = self._texts.get(f"{group}s", self.config[f"{group}s"])
        listed = asked if isinstance(asked, str) else f"[{','.join(map(repr, asked))}]"
        names = labels(group, listed, self._several[group])
        return {label: self.part(group, label) for label in dict.fromkeys([*always, *names])}

    def part(self, group: str, label: str) -> Any:
        """The part of a label, or why its settings were refused."""
        from omegaconf.errors import OmegaConfBaseException

        shared = [o for o in self._shared(group == "sampler") if o.partition("=")[0].lstrip("+~") != group]
        try:
            return part_of(compose_config(self._name, [*shared, *chosen(group, label)]), group)
        except (SettingsError, OmegaConfBaseException) as error:
            return str(error).strip().splitlines()[0]


def _decode(request: Request) -> None:
    from dlm.bench.decode import bench_decode

    bench_decode(request.settings, request.sampler)


def _samplers(request: Request) -> None:
    from dlm.bench.samplers import BASELINE, bench_samplers

    bench_samplers(request.settings, request.parts("sampler", always=[BASELINE]))


def _caches(request: Request) -> None:
    from dlm.bench.caches import NONE, bench_caches

    caches, ahead = request.parts("cache", always=[NONE]), request.part("sampler", "random")
    bench_caches(request.settings, caches, request.sampler, ahead)


def _drafting(request: Request) -> None:
    from dlm.bench.drafting import bench_drafting

    samplers, caches = request.parts("sampler"), request.parts("cache")
    bench_drafting(request.settings, samplers, caches, stepper=request.sampler)


def _launches(request: Request) -> None:
    from dlm.bench.launches import bench_launches

    bench_launches(request.settings, request.parts("sampler"), request.parts("cache"))


class Bench(NamedTuple):
    """A measurement."""

    line: str  # for the overview
    config: str  # name of its configuration
    help: str
    measure: Callable[[Request], None]
    several: Mapping[str, Sequence[str]] = {}  # groups of which it takes a list, and the names that `all` leaves out


BENCHES = {
    "decode": Bench("a step inside the model and outside it (without a word, too)", "bench", DECODE, _decode),
    "samplers": Bench(
        "what each sampler costs beside the threshold rule",
        "bench_samplers",
        SAMPLERS,
        _samplers,
        {"sampler": ("parts",)},
    ),
    "caches": Bench("what each cache saves beside no cache", "bench_caches", CACHES, _caches, {"cache": ()}),
    "launches": Bench(
        "what a step asks of a GPU, counted without one",
        "bench_launches",
        LAUNCHES,
        _launches,
        {"sampler": ("parts",), "cache": ()},
    ),
    "drafting": Bench(
        "what drafts save beside no drafts", "bench_drafting", DRAFTING, _drafting, {"sampler": ("parts",), "cache": ()}
    ),
}
