"""Tables: on the terminal while checking, and docs/fidelity.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from scripts.goldens.cases import Case
from scripts.goldens.coverage import covered, table
from scripts.goldens.explain import Verdict
from scripts.goldens.plan import Plan
from scripts.goldens.rules import RULES

_COLUMNS = ("cases", "matched", "explained", "unexplained", "skipped")
_SHOWN = 5
# Where no public code is: what was run in its place.
TRANSCRIBED = {
    "credit_paper": "our transcription of the equations of CreditDecoding (arXiv 2510.06133): decay, deposit, fuse,"
    " threshold"
}


@dataclass
class MethodReport:
    """The verdicts of one method."""

    method: str
    verdicts: list[tuple[Case, Verdict]] = field(default_factory=list)

    def count(self, status: str) -> int:
        """Cases with a status; ``"cases"`` counts all."""
        if status == "cases":
            return len(self.verdicts)
        return sum(verdict.status == status for _, verdict in self.verdicts)

    @property
    def references(self) -> list[str]:
        """Where the reference's code lies."""
        if self.method in TRANSCRIBED:
            return [TRANSCRIBED[self.method]]
        found = {f"{c.reference.get('repo', '?')} {c.reference.get('file', '')}".strip() for c, _ in self.verdicts}
        return sorted(found)

    @property
    def why_not(self) -> str:
        """Why no case was compared, when the reason is another than that nobody has translated it yet."""
        reasons = {verdict.details[0] for _, verdict in self.verdicts if verdict.status == "skipped"}
        return "; ".join(sorted(reasons - {"no translation yet"}))

    @property
    def waiting(self) -> str:
        """A note when some case belongs to a method that nobody has translated yet."""
        waits = any(verdict.details == ("no translation yet",) for _, verdict in self.verdicts)
        return "some belong to methods without a translation yet" if waits else ""

    @property
    def rules(self) -> Counter[str]:
        """Explained cases by the rules that were needed."""
        return Counter(" + ".join(v.rules) for _, v in self.verdicts if v.status == "explained")


def print_report(console: Console, reports: list[MethodReport]) -> None:
    """A row per method, then what is unexplained."""
    table = Table(title="recorded reference runs against dlm")
    table.add_column("method", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    table.add_column("explained by")
    for report in reports:
        counts = [str(report.count(name)) for name in _COLUMNS]
        table.add_row(report.method, *counts, _by_rule(report.rules))
    total = [str(sum(report.count(name) for report in reports)) for name in _COLUMNS]
    table.add_section()
    table.add_row("all", *total, "")
    console.print(table)
    for report in reports:
        for case, verdict in report.verdicts:
            if verdict.status == "unexplained":
                console.print(f"[bold]{case.id}[/bold] {case.settings}", highlight=False)
                for detail in _shortened(verdict.details):
                    console.print(f"    {detail}", highlight=False, markup=False)
        skipped = Counter(v.details[0] for _, v in report.verdicts if v.status == "skipped")
        known = {reason: n for reason, n in skipped.items() if reason != "no translation yet"}
        for reason, n in known.items():
            console.print(f"{report.method}: {n} skipped, {reason}", highlight=False, markup=False)


def _shortened(details: tuple[str, ...]) -> list[str]:
    """The first few; what follows the first difference is often its consequence."""
    more = len(details) - _SHOWN
    return [*details[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _by_rule(rules: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in rules.most_common())


def markdown(reports: list[MethodReport], plans: Mapping[str, tuple[str, Plan]], command: str) -> str:
    """The text of docs/fidelity.md; ``plans``: see :class:`scripts.goldens.check.Checker`."""
    checked = [report for report in reports if report.count("skipped") < report.count("cases")]
    later = [report for report in reports if report not in checked]
    lines = [_INTRODUCTION, "## Methods", ""]
    lines += [
        "| method | reference | cases | matched | explained | unexplained |",
        "|---|---|---|---|---|---|",
    ]
    for report in checked:
        cases = report.count("cases") - report.count("skipped")
        explained = f"{report.count('explained')}"
        if report.rules:
            explained += f" ({_by_rule(report.rules)})"
        lines.append(
            f"| `{report.method}` | {'; '.join(report.references)} | {cases} | {report.count('matched')}"
            f" | {explained} | {report.count('unexplained')} |"
        )
    totals = {name: sum(report.count(name) for report in checked) for name in _COLUMNS}
    lines.append(
        f"| all | | {totals['cases'] - totals['skipped']} | {totals['matched']} | {totals['explained']}"
        f" | {totals['unexplained']} |"
    )
    verdicts = {case.id: verdict for report in reports for case, verdict in report.verdicts}
    by_sampler, by_cache, drafted = covered(verdicts, plans)
    lines += ["", *_skipped(checked, later), "## Presets", "", _PRESETS, ""]
    lines += [*table(by_sampler, "sampler"), "", *table(by_cache, "cache"), "", *table({"freedave": drafted}, "drafts")]
    lines += ["", "## Rules", "", _RULES_TEXT, ""]
    used = {name for report in reports for _, verdict in report.verdicts for name in verdict.rules}
    for name, text in RULES.items():
        lines += [f"**{name}**{'' if name in used else ' (not needed by these cases)'}. {text}", ""]
    lines += [
        "## Settings that had to be found out",
        "",
        _FOUND,
        "",
        "## Regenerate",
        "",
        "```",
        command,
        "```",
        "",
    ]
    return "\n".join(lines)


def _skipped(checked: list[MethodReport], later: list[MethodReport]) -> list[str]:
    lines = []
    partly = [report for report in checked if report.count("skipped")]
    for report in partly:
        number, reasons = report.count("skipped"), [r for r in (report.why_not, report.waiting) if r]
        lines += [f"{number} cases of `{report.method}` are not compared: {'; '.join(reasons)}.", ""]
    waiting = [report for report in later if not report.why_not]
    if waiting:
        names = ", ".join(f"`{report.method}` ({report.count('cases')})" for report in waiting)
        lines += [f"Not translated yet: {names}.", ""]
    refused = [report for report in later if report.why_not]
    lines += [f"- `{r.method}` ({r.count('cases')} cases) is left out: {r.why_not}." for r in refused]
    return [*lines, ""] if refused else lines


_INTRODUCTION = """# Fidelity

Recorded runs of the reference implementations (float32, CPU) against this package on the same checkpoints. A
case is *matched* when every generated token, the forward at which each position was committed, the number of
forwards and the positions fed are equal. It is *explained* when every single call of the recorded run is
accounted for by our own parts together with one of the rules below; a rule is tested on the case's own data,
never a list of cases.
"""

_PRESETS = """Every preset has tests of its rule: worked examples, a naive decoder, the laws. These have recorded runs
of the authors' code beside that, each counted for its sampler and for its cache."""

_RULES_TEXT = """The recorded run is replayed call by call: the canvas before a call is the recorded one, and
our logits, proposal, score, budget and selector say what they would commit there. A call that agrees needs no
rule. Otherwise a rule must turn our decision into the recorded one. Our own free run must agree with the
record up to the first call that needed a rule; masks left in the answer, tokens written into the prompt and
calls without work are checked too.

Decoders with a cache are not replayed: a stored key depends on all calls before. There our run must equal the record
in every token, commit step and forward, and in the positions fed at every call (for dLLM-Cache in which parts every
layer recomputes), as they stand in the calls themselves. Where it does not, the released code's fault is put into
our own decoder as a small policy or sampler part, and that run must equal the record in all of it; the rule names the
fault. Each is a few lines in scripts/goldens/faults.py and dream_faults.py.

Records of block-diffusion models are compared in tokens, in the denoising call that committed each of them (with
editing: that changed it last), and in the number of those calls, with our exact cache and without one; calls that only
store keys are not counted. Drafted ones are compared in tokens and in the number of calls.

Records that show the canvas after every call are compared canvas by canvas, number of forwards included: samplers that
take tokens back, and those with a memory."""

_FOUND = """- Dream: the recorded runs truncate to the 50 largest logits (`top_k=50`), which no setting
  mentions: the checkpoint's generation_config.json has no `top_k`, and transformers then fills in its own
  default of 50. Without it 15 of 710 recorded calls cannot be reproduced; with it all can.
- d2Cache: `num_transfer_tokens` is the least number of positions a step commits; a threshold or a factor can
  only raise it.
- LLaDA ranks by float32 probabilities, Fast-dLLM (both versions) by float64 ones.
- Fast-dLLM's `factor` (`compat="reference"`) and d2Cache's (`compat="d2cache"`) have opposite slips at the
  last rank, Dream's schedule truncates (`compat="reference"`), and LLaDA's `confidence_eos_eot_inf` removes
  the end ids from the softmax (`suppress_end="reference"`): reproduced, because they shaped published
  numbers, and therefore matched here.
- dInfer commits everything within 1e-5 of the best confidence (`compat="dinfer"`), and its `hier` decoder is the
  main one, not the fast variant. d2Cache's KLASS remembers how positions outside the block moved
  (`compat="d2cache"`) and ran in float64.
- EOSER's reference counts its steps anew in every block (`compat="reference"`).
- dKV-Cache for LLaDA makes the first two calls of every block whole (`cadence="reference"`); its random order is
  taken from the record, since a cache that works ahead must know it. A missing `window_size` is 0.
- dLLM-Cache recomputes the share of the answer whose values moved most; ours takes positions with a new token first.
  In the recorded runs those are among them at every call, and the two agree.
- d2Cache drops finished rows from a batch inside a block."""
