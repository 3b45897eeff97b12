"""How often `dlm tune` breaks its promise: many tunings on made-up samplers whose true loss is known.

    python scripts/tune_promise.py [TUNINGS] [SAMPLERS]

Most of the samplers lose just more than epsilon, and those are the cheap ones; each tuning chooses, shortlists and
certifies by the functions of `dlm tune`. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from math import ceil

import numpy as np

from dlm.evaluation.tuning.certificate import CERTIFIED, needed, prospect, shortlist, verdict


@dataclass(frozen=True)
class Promise:
    """What became of the tunings."""

    tunings: int
    epsilon: float
    delta: float
    broken: int  # chose a setting that loses more than epsilon
    kept: int  # chose one that does not
    none: int  # certified nothing
    questions: float  # certifying questions of those that chose, mean over tunings


def promise(
    tunings: int, samplers: int = 40, good: float = 0.2, worst: float = 2.0, epsilon: float = 0.02, delta: float = 0.05
) -> Promise:
    """Tune ``tunings`` times on ``samplers`` made-up ones: a share ``good`` of them loses at most half of epsilon, the
    others between epsilon and ``worst`` times as much."""
    rng, choose, size = np.random.default_rng(0), 96, 4
    level = delta / size
    certify = ceil(2.5 * needed(epsilon, level, choose))
    broken = kept = 0
    asked = []
    for _ in range(tunings):
        fine = rng.random(samplers) < good
        loss = np.where(fine, rng.uniform(-0.5, 0.5, samplers), rng.uniform(1.0001, worst, samplers)) * epsilon
        cost = np.where(fine, rng.uniform(4, 12, samplers), rng.uniform(2, 8, samplers))
        noise = rng.uniform(0, 0.02, samplers)  # answers won, and as many lost beside the loss
        draws = rng.random((samplers, choose + certify))
        won = noise + np.maximum(-loss, 0)
        losses = (draws < (won + loss)[:, None]).astype(float) - (draws > 1 - won[:, None])
        hopes = [prospect(row[:choose], epsilon, level, certify) for row in losses]
        for i in shortlist(list(cost), hopes, size):
            found = verdict(losses[i, :choose], losses[i, choose:], epsilon, level, certify)
            if found.status == CERTIFIED:
                broken, kept = broken + int(loss[i] > epsilon), kept + int(loss[i] <= epsilon)
                asked.append(found.n)
                break
    mean = float(np.mean(asked)) if asked else float("nan")
    return Promise(tunings, epsilon, delta, broken, kept, tunings - broken - kept, mean)


def main() -> int:
    """Run; 1 where the promise is broken more often than delta."""
    given = [int(word) for word in sys.argv[1:3]]
    tunings, samplers = [*given, *(1000, 40)[len(given) :]]
    over = False
    for good, worst in ((0.0, 1.001), (0.0, 2.0), (0.05, 2.0), (0.2, 2.0)):
        found = promise(tunings, samplers, good, worst)
        share = found.broken / tunings
        over |= share > found.delta
        print(
            f"{good:.0%} good samplers, the others up to {worst:g} epsilon: broken {share:.1%} of {tunings:,} (at most"
            f" {found.delta:.0%} promised), kept {found.kept / tunings:.1%}, none {found.none / tunings:.1%}"
        )
        print(json.dumps(asdict(found)))
    return int(over)


if __name__ == "__main__":
    raise SystemExit(main())
