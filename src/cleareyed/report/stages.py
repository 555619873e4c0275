"""What attributing refusals to stages came to: tables, sentences, the picture."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from cleareyed.oversensitivity.published import named
from cleareyed.oversensitivity.stage_asking import Studied
from cleareyed.oversensitivity.stage_notes import Notes
from cleareyed.oversensitivity.stages import GRADES, OPEN, STAGES, Part, Split, published_cases, stage_table
from cleareyed.report.plots import accuracy_bars, png
from cleareyed.report.timidity_tables import Grid
from cleareyed.report.words import MISSING, percent, share_in


def attribution_table(table: Mapping[str, Part], title: str) -> Table:
    """One row a stimulus: the share of refusals that comes from each stage."""
    stages = [*STAGES, OPEN] if any(OPEN in part.attribution.shares for part in table.values()) else STAGES
    shown = Grid(title, ("stimulus", "read", *stages, "undecided"))
    for name, part in table.items():
        found = part.attribution
        shares = (_share(found, stage) for stage in stages)
        shown.add(name, f"{found.n} of {part.items}", *shares, str(found.unread))
    return shown.rich()


def probes_table(table: Mapping[str, Part], title: str) -> Table:
    """One row a stimulus and probe: shares of all answers, those whose grade is undecided among them."""
    shown = Grid(title, ("stimulus, probe", "answers", *GRADES, "undecided", "failed"))
    for name, part in table.items():
        for probe, found in (("perception", part.perception), ("intent", part.intent)):
            shares = (_share(found, grade) for grade in GRADES)
            shown.add(f"{name}, {probe}", str(found.n), *shares, str(found.ungraded), str(found.unread))
    return shown.rich()


def sentences(found: Studied, notes: Notes) -> list[str]:
    """What the tables leave out."""
    authors = Counter(one.author for one in found.questions.values())
    said = [
        f"Disambiguated questions: {len(found.questions)} of {len(found.cases)} "
        f"({', '.join(f'{count} by a {kind}' for kind, count in sorted(authors.items())) or 'none'})."
    ]
    if unsplit := sum(case.stage == OPEN for case in found.cases):
        said.append(
            f"{OPEN.capitalize()}: {unsplit} were declined behind the description too, and there is no answer to a "
            "question that cannot be misread; --writer or --questions tells the two apart."
        )
    again = [one for one in found.labels if one.attempts > 1]
    unreadable = sum(one.label == "undecided" for one in found.labels if one.attempts)
    said.append(f"Grades asked for again: {len(again)}; undecided in the end: {unreadable}.")
    overruled = [one for one in found.labels if one.overruled]
    if notes.overrides:
        said.append(f"Labels by people: {len(overruled)} in force.")
    if found.unused:
        names = [f"{one.id} {one.step}" for one in found.unused]
        said.append(f"Labels by people of items or steps without an answer: {len(names)} ({named(names)}).")
    failed = Counter(one.step for one in found.labels if one.label == "failed")
    if failed:
        said.append(f"Failed: {', '.join(f'{count} {step}' for step, count in failed.items())}; --resume asks again.")
    said.append(f"Requests sent: {found.asked}.")
    return said


def published_sentence() -> str:
    """The paper's counts through the same code, to set beside a run of MOSSBench."""
    told = []
    for model, cases in published_cases().items():
        part = stage_table(cases)["all"]
        shares = " / ".join(percent(part.attribution.shares[stage].share) for stage in STAGES)
        told.append(f"{model} {shares} % of {part.items}")
    return f"The paper's refusals ({' / '.join(STAGES)}): {'; '.join(told)}."


def stages_picture(table: Mapping[str, Part]) -> bytes:
    """The share of each stage, over all and by stimulus."""
    bars: dict[str, dict[str, Any]] = {}
    for stage in (*STAGES, OPEN):
        parts = {name: bar for name, part in table.items() if (bar := _bar(part.attribution, stage))}
        if "all" in parts:
            bars[stage] = {**parts.pop("all"), "by_skill": parts}
    figure = accuracy_bars(bars, {})
    figure.axes[0].set_ylabel("share of refusals (95 % interval)")
    return png(figure)


def _bar(split: Split, name: str) -> dict[str, Any] | None:
    found = split.shares.get(name)
    return {"accuracy": found.share, "interval": (found.interval.low, found.interval.high)} if found else None


def _share(split: Split, name: str) -> str:
    found = split.shares.get(name)
    if found is None:
        return MISSING
    return share_in(found.share, found.interval.low, found.interval.high)
