"""What an evaluation says of itself: tables and sentences made of its rows and of how the asking went."""

from collections.abc import Iterable, Sequence

import numpy as np
from rich.table import Table
from rich.text import Text

from cleareyed.console import clock
from cleareyed.evaluation.ask import Summary
from cleareyed.evaluation.compare import judged
from cleareyed.evaluation.rows import Collected
from cleareyed.evaluation.stats import majority_class
from cleareyed.evaluation.verdicts import Verdicts
from cleareyed.records.rows import AnswerMark, AnswerRow
from cleareyed.report.summary import summary_of
from cleareyed.report.words import percent, percent_range, visible
from cleareyed.tasks.cvbench import cvbench_totals
from cleareyed.tasks.names import counted
from cleareyed.tasks.task import Task


def rules_table(found: Verdicts, rules: Sequence[str]) -> Table:
    """Accuracy with 95 % intervals: one row per skill and one for all, one column per accuracy rule.

    n is what is judged; where that is not all that was asked, it says of how many.
    """
    by_rule = [summary_of(found, rule) for rule in rules]
    skills = sorted(skill for skill in found.skills if skill)
    table = Table()
    table.add_column("skill")
    table.add_column("n", justify="right")
    for rule in rules:
        table.add_column(Text(rule), justify="right")
    for skill in [*(skills if len(skills) > 1 else ()), None]:
        own = found.skill == found.skills.index(skill) if skill is not None else np.ones(len(found), bool)  # (N,)
        total, n = int(own.sum()), int((own & found.is_judged).sum())
        shares = [one["by_skill"].get(skill) if skill is not None else one for one in by_rule]
        cells = (
            f"{percent(share['accuracy'])} ({percent_range(*share['interval'])})" if share else percent(None)
            for share in shares
        )
        table.add_row(
            "all" if skill is None else Text(visible(skill)), str(n) if n == total else f"{n} of {total}", *cells
        )
    return table


def majority(rows: Sequence[AnswerMark]) -> str:
    """What always giving the same answer would score, in a sentence; rows of one label and step, or of all."""
    labels = {(row.label, row.step) for row in rows}
    if len(labels) == 1:
        return majority_text(*majority_class(row.answer for row in rows))
    return majority_text(*majority_class({row.sample_id: row.answer for row in rows}.values()))


def majority_text(answer: str, share: float) -> str:
    return f"Always answering {visible(answer)!r} would score {percent(share)} %."


def progress_text(*summaries: Summary) -> str:
    """How the asking goes, of one model or several side by side, for the line that is shown while it does."""
    errors = sum(sum(one.errors.values()) for one in summaries)
    left = max((one.seconds_left for one in summaries if one.seconds_left is not None), default=None)
    parts = [
        f"{sum(one.rate for one in summaries):.1f}/s",
        f"{sum(one.in_flight for one in summaries)} in flight",
        f"{errors} errors",
        f"{sum(one.prompt_tokens + one.completion_tokens for one in summaries):,} tokens",
    ]
    return ", ".join(parts + ([f"{clock(left)} left"] if left is not None else []))


def asked_text(summary: Summary) -> str:
    """What was asked in this call, in a sentence."""
    errors = ", ".join(f"{count} {kind}" for kind, count in summary.errors.items() if count) or "none"
    return (
        f"Asked: {summary.asked} in {clock(summary.seconds)} ({summary.rate:.1f}/s), "
        f"{summary.reused} answered before; tokens: {summary.prompt_tokens:,} in, {summary.completion_tokens:,} out; "
        f"attempts that failed: {errors}."
    )


def coverage_text(found: Collected) -> str:
    """How many samples the figures rest on, in a sentence."""
    states = ", ".join(f"{count} {state}" for state, count in found.states.items())
    text = f"Coverage {percent(found.coverage)} %: {found.judged} of {found.total} samples judged ({states})."
    if found.foreign:
        text += f" Answers to samples that the task does not have: {found.foreign}."
    if found.changed:
        text += (
            f" Answers to other prompts or pictures than the task has now, as the data changed: {found.changed}, not "
            "counted; --resume asks these samples again."
        )
    if found.unmarked:
        text += (
            f" Answers of which the journal does not say to what: {found.unmarked}, taken to be to these questions."
        )
    if found.missing:
        text += (
            f" The pictures of {counted(len(found.missing), 'sample')} are not there, so that only recorded answers "
            f"to them count: {', '.join(found.missing)}."
        )
    return text


def cvbench_text(rows: Iterable[AnswerRow], rule: str, task: Task) -> str:
    """The benchmark's own total, averaged over its sources, beside that over all items."""
    sources = {sample.id: str(sample.columns["source"]) for sample in task.samples}
    totals = cvbench_totals((sources[row.sample_id], row.correct[rule]) for row in rows if judged(row))
    return (
        f"CV-Bench's own total ({rule}): {percent(totals.averaged)} % (2D {percent(totals.two_d)}, "
        f"3D {percent(totals.three_d)}); over all items alike: {percent(totals.micro)} %."
    )
