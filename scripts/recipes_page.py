"""The part of docs/recipes.md that is made of conf/recipe: ``python scripts/recipes_page.py`` writes it anew."""

from __future__ import annotations

from pathlib import Path

from dlm.overrides import choices
from dlm.recipes import LISTS, every, named

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
MARK = "<!-- what follows is written by scripts/recipes_page.py -->\n"


def made() -> str:
    """A line per paper, and what is unclear, contradictory or done otherwise, with how many recipes it concerns."""
    lines = [
        f"{len(every())} recipes.",
        "",
        "| paper | recipes | with figures | models | tasks | sources |",
        "|" + "---|" * 6,
    ]
    said = []
    for paper in choices("recipe"):
        found = named(paper)
        models, tasks = (sorted({getattr(recipe, part) for recipe in found}) for part in ("model", "task"))
        sources = dict.fromkeys(figure.source for recipe in found for figure in recipe.published)
        figures = sum(bool(recipe.published) for recipe in found)
        cells = (f"`{paper}`: {found[0].about}", len(found), figures, *map(", ".join, (models, tasks, sources)))
        lines.append(f"| {' | '.join(map(str, cells))} |")
        said += ["", f"**`{paper}`**", ""]
        for key in LISTS:
            texts = [text for recipe in found for text in getattr(recipe, key)]
            said += [f"- *{key}* ({texts.count(text)}): {text}" for text in dict.fromkeys(texts)]
    return "\n".join([*lines, "", "### What is unclear, contradicts itself, or differs (number of recipes)", *said, ""])


def whole(page: str) -> str:
    """A page with this part made anew."""
    return page.partition(MARK)[0] + MARK + made()


if __name__ == "__main__":
    PAGE.write_text(whole(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
