"""Templated stories of four sentences whose slots must agree."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dlm.tasks.base import Draft, Instance, Stream, Verdict
from dlm.tasks.people import NAMES
from dlm.tasks.reading import kept

ANIMALS = ("cat", "dog", "horse", "bird", "fox", "rabbit")
PLACES = ("garden", "forest", "park", "house", "school", "market")
MOODS = ("happy", "tired", "hungry", "curious")


@dataclass(frozen=True)
class Story:
    """Who and which animal are given; place and mood are free, but must be the same wherever they are named."""

    name: str = "text/story"
    canvas: int = 48

    def draw(self, stream: Stream) -> Draft:
        who, animal, place, mood = (stream.choice(s) for s in (NAMES, ANIMALS, PLACES, MOODS))
        return Draft((who, animal), f"Tell a story about {who} and a {animal}.", self._tell(who, animal, place, mood),
                     {"who": who, "animal": animal})  # fmt: skip

    @staticmethod
    def _tell(who: str, animal: str, place: str, mood: str) -> str:
        return (
            f"{who} went to the {place}. In the {place} there was a {animal}. The {animal} was {mood}."
            f" {who} stayed with the {mood} {animal} all day."
        )

    def judge(self, instance: Instance, output: str) -> Verdict:
        found = re.match(r"\w+ went to the (\w+)\..*? was (\w+)\. ", output.strip())
        if found is None:
            return Verdict(0.0, error="unparsable")
        place, mood = found[1], found[2]
        parsed = dict(zip(("place", "mood"), kept([place, mood]), strict=True))
        if place not in PLACES or mood not in MOODS:
            return Verdict(0.0, error="foreign", parsed=parsed)
        right = output.strip() == self._tell(instance.meta["who"], instance.meta["animal"], place, mood)
        return Verdict(float(right), error=None if right else "inconsistent", parsed=parsed)
