"""The draft length: on simulated machines drafting never costs, and gains nearly what the best fixed length does."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dlm.errors import SettingsError
from dlm.speculation.draft_length import DraftLengthController, Load

STEPS = 400
BLOCK = 32


@dataclass(frozen=True)
class Synthetic:
    """A machine whose forward takes ``body`` seconds by positions, and ``head`` per proposal."""

    body: Callable[[float], float]
    head: float = 0.0

    def seconds_of(self, positions: float, proposals: float) -> float:
        return self.body(positions) + self.head * proposals


def flat_then_linear(saturation_point: float) -> Synthetic:
    return Synthetic(lambda n: max(n, saturation_point) / saturation_point)


def linear(per_forward: float) -> Synthetic:
    return Synthetic(lambda n: per_forward + n / 64)


def steps(size: int) -> Synthetic:
    return Synthetic(lambda n: 0.2 + -(-n // size))


MACHINES = {
    "flat": flat_then_linear(1e6),
    "knee at 100": flat_then_linear(100),
    "knee at 256": flat_then_linear(256),
    "knee at 1000": flat_then_linear(1000),
    "linear": linear(0),
    "linear, 1 per forward": linear(1),
    "linear, 10 per forward": linear(10),
    "linear with a head": Synthetic(lambda n: 1 + n / 64, 1 / 64),
    "steps of 64": steps(64),
    "steps of 200": steps(200),
    "steps of 1000": steps(1000),
}


@dataclass(frozen=True)
class World:
    """What a run meets.

    Attributes:
        machine: what forwards really take.
        believed: what the curve says they take.
        accepted: the probability that a draft comes true, in the phases of a row, which are equally long.
        rows, positions: of the batch.
        rest: seconds outside the forward, per version.
        noise: relative spread of what is timed; one timing in 50 is five times too long.
        late: whether the length is asked for before the forward before has been reported.
        seed: of everything random.
    """

    machine: Synthetic
    believed: Synthetic
    accepted: tuple[float, ...]
    rows: int = 1
    positions: int = 64
    rest: float = 0.0
    noise: float = 0.0
    late: bool = False
    seed: int = 0

    def seconds(self, load: Load, versions: int) -> float:
        rows = load.rows * versions
        forward = self.machine.seconds_of(rows * load.positions, rows * load.proposals)
        return forward + self.rest * versions


@dataclass
class Run:
    """Decodes STEPS steps of every row, and counts the true seconds.

    Attributes:
        seconds: undisturbed, whatever was timed.
        lengths: what was evaluated, forward by forward.
    """

    world: World
    seconds: float = 0.0
    lengths: list[int] = field(default_factory=list)

    def go(self, ask: Callable[[Load], int], pace: DraftLengthController | None = None) -> Run:
        world, chance = self.world, random.Random(self.world.seed)
        left = [STEPS] * world.rows
        length, reports = 1, []
        while left:
            load = Load(len(left), world.positions, world.positions / 2)
            proposed = [self._drafts(rest, length) for rest in left]
            accepted = [self._accepted(chance, rest, n) for rest, n in zip(left, proposed, strict=True)]
            versions = 1 + max(proposed)
            took = world.seconds(load, versions)
            self.seconds += took
            self.lengths.append(versions)
            left = [rest - 1 - n for rest, n in zip(left, accepted, strict=True)]
            left = [rest for rest in left if rest]
            reports.append((load, versions, took * self._noise(chance), list(zip(proposed, accepted, strict=True))))
            if world.late:
                length = ask(load)
            if pace is not None:
                self._report(pace, *reports.pop())
            if not world.late:
                length = ask(load)
        return self

    def _drafts(self, left: int, length: int) -> int:
        """None at the start of a block, and none beyond its end."""
        inside = (left - 1) % BLOCK + 1
        return 0 if inside == BLOCK else min(length, inside) - 1

    def _accepted(self, chance: random.Random, left: int, proposed: int) -> int:
        phases = self.world.accepted
        probability = phases[(STEPS - left) * len(phases) // STEPS]
        return next((n for n in range(proposed) if chance.random() >= probability), proposed)

    def _noise(self, chance: random.Random) -> float:
        if not self.world.noise:
            return 1.0
        return chance.lognormvariate(0, self.world.noise) * (5 if chance.random() < 0.02 else 1)

    def _report(
        self, pace: DraftLengthController, load: Load, versions: int, took: float, rows: list[tuple[int, int]]
    ) -> None:
        for proposed, accepted in rows:
            pace.learn(proposed, accepted)
        rest = self.world.rest * versions
        pace.timed(load, versions, took - rest if took > rest else took, rest)


def adaptive(world: World, longest: int = 8) -> Run:
    pace = DraftLengthController(longest, world.believed)
    return Run(world).go(pace.length, pace)


def fixed(world: World, length: int) -> Run:
    return Run(world).go(lambda load: length)


def best_fixed(world: World, longest: int = 8) -> float:
    return min(fixed(world, length).seconds for length in range(1, longest + 1))


names, chances = st.sampled_from(sorted(MACHINES)), st.sampled_from([0.0, 0.3, 0.6, 0.9, 0.99])
worlds = {
    "accepted": st.lists(chances, min_size=1, max_size=4).map(tuple),
    "rows": st.sampled_from([1, 2, 4, 8]),
    "positions": st.sampled_from([8, 32, 64, 200]),
    "rest": st.sampled_from([0.0, 0.05, 0.3]),
    "late": st.booleans(),
    "seed": st.integers(0, 10**6),
}


@settings(max_examples=70, derandomize=True)
@given(machine=names, believed=names, noise=st.sampled_from([0.0, 0.1]), longest=st.sampled_from([2, 8, 12]), **worlds)
@example(machine="linear", believed="flat", noise=0.0, longest=8, accepted=(0.6,), rows=1, positions=8, rest=0.0,
         late=False, seed=896080)  # fmt: skip
@example(machine="steps of 64", believed="steps of 1000", noise=0.1, longest=8, accepted=(0.9, 0.99), rows=8,
         positions=8, rest=0.0, late=False, seed=748092)  # fmt: skip
def test_never_slower_than_undrafted_by_more_than_5_percent(machine, believed, noise, longest, **settings) -> None:
    world = World(MACHINES[machine], MACHINES[believed], noise=noise, **settings)
    assert adaptive(world, longest).seconds <= 1.05 * fixed(world, 1).seconds


@settings(max_examples=30, derandomize=True)
@given(machine=names, **worlds)
def test_nearly_as_fast_as_the_best_fixed_length(machine, **settings) -> None:
    world = World(MACHINES[machine], MACHINES[machine], **settings)
    best = best_fixed(world)
    if fixed(world, 1).seconds > 1.1 * best:
        assert adaptive(world).seconds <= 1.15 * best


def test_it_goes_far_where_drafts_are_free_and_comes_true() -> None:
    run = adaptive(World(MACHINES["flat"], MACHINES["flat"], (0.99,)))
    assert max(run.lengths) == 8
    assert run.seconds < STEPS / 4


def test_trials_alone_take_at_most_2_percent() -> None:
    world = World(MACHINES["linear, 1 per forward"], MACHINES["linear, 1 per forward"], (0.0,), positions=200)
    pace, run = DraftLengthController(8, world.believed), Run(world)
    for _ in range(40):  # what is hoped at first is soon forgotten
        pace.learn(7, 0)
        pace.timed(Load(1, 200, 100), 1, world.seconds(Load(1, 200, 100), 1))
    run.go(pace.length, pace)
    assert set(run.lengths) == {1, 2}
    assert run.seconds <= 1.02 * fixed(world, 1).seconds


def test_it_begins_again_when_drafts_come_true_again() -> None:
    run = adaptive(World(MACHINES["flat"], MACHINES["flat"], (0.0, 0.99)))
    assert run.lengths[-20:].count(1) < 5
    assert run.seconds < 0.75 * STEPS


def test_it_ends_soon_after_drafts_have_ceased_to_come_true() -> None:
    world = World(MACHINES["linear, 10 per forward"], MACHINES["linear, 10 per forward"], (0.99,), positions=256)
    pace, load, later = DraftLengthController(8, world.believed), Load(1, 256, 32), []
    for forward in range(600):
        versions = pace.length(load)
        accepted = versions - 1 if forward < 500 else 0
        pace.learn(versions - 1, accepted)
        pace.timed(load, versions, world.seconds(load, versions))
        later += [versions] if forward >= 500 else []
    assert later[0] > 4
    assert set(later[60:]) <= {1, 2}


def test_a_wrong_curve_is_corrected() -> None:
    never = World(MACHINES["linear"], MACHINES["flat"], (0.9,))
    assert adaptive(never).lengths[-100:].count(1) > 90
    always = World(MACHINES["flat"], MACHINES["linear"], (0.9,))
    assert max(adaptive(always).lengths) == 8
    assert adaptive(always).seconds < 0.5 * STEPS


def test_drafts_behind_a_miss_say_nothing() -> None:
    """Always exactly two in a row: the third is known to fail, of the fourth nothing is known but that."""
    pace, load = DraftLengthController(8, MACHINES["flat"]), Load(1, 64, 32)
    for _ in range(200):
        pace.learn(7, 2)
        pace.timed(load, 8, 1.0)
    assert pace._steps[2] == pytest.approx(2, abs=0.05)
    assert pace._steps[3] == pytest.approx(3, abs=0.1)
    assert pace._steps[8] == pytest.approx(3, abs=0.2)
    assert [link.seen for link in pace._chain[3:]] == [0, 0, 0, 0]


def test_nothing_is_drafted_before_undrafted_forwards_were_timed() -> None:
    pace, load = DraftLengthController(8, MACHINES["flat"]), Load(4, 64, 32)
    assert pace.length(load) == 1
    for _ in range(2):
        pace.timed(load, 1, 1.0)
    assert pace.length(load) == 2
    assert pace.length(Load(1, 64, 32)) == 1


def test_an_accident_does_not_end_drafting() -> None:
    pace, load = DraftLengthController(4, MACHINES["flat"]), Load(1, 64, 32)
    seconds = []
    for forward in range(120):
        versions = pace.length(load)
        took = 20.0 if versions > 1 and not any(seconds) else 1.0
        seconds.append(took > 1)
        pace.learn(versions - 1, versions - 1)
        pace.timed(load, versions, took)
        if forward > 100:
            assert versions >= 2
    assert sum(seconds) == 1


def test_equal_reports_lead_to_equal_choices() -> None:
    world = World(MACHINES["knee at 256"], MACHINES["flat"], (0.6, 0.9), rows=4, noise=0.1)
    assert adaptive(world).lengths == adaptive(world).lengths


def test_a_length_of_one_never_drafts() -> None:
    assert set(adaptive(World(MACHINES["flat"], MACHINES["flat"], (0.99,)), longest=1).lengths) == {1}


@pytest.mark.parametrize("longest", [0, -1, 2.0, True])
def test_a_longest_length_that_is_none_is_refused(longest) -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        DraftLengthController(longest, MACHINES["flat"])
