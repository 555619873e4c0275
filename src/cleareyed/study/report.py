"""A study's report: the paper's tables and figures in their form, beside the published numbers, and its claims."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cleareyed.evaluation.stats import Estimate, seeds_and_items
from cleareyed.report.pages import environment
from cleareyed.report.plots import FURTHER, Line, curves, moving_mean, svg
from cleareyed.report.summary import write_whole
from cleareyed.study import claims
from cleareyed.study.claims import Arms, bounds_of, judge, table_of
from cleareyed.study.plan import RULES, Study
from cleareyed.study.summary import RunSummary

PUBLISHED = Path(__file__).with_name("published.json")
STAND_INS = ("scenes-bench", "cvbench")
"""Tasks beside which the published numbers of CV-Bench are shown."""

# Rows of the paper's tables: title, arm, which of its prompts (None: the first), the published row.
TABLE_3 = (
    ("Base", claims.BASE, None, "Base"),
    ("Base, asked without reasoning", claims.BASE, "no-reasoning", None),
    ("SFT", claims.SFT, None, "SFT"),
    ("GRPO", claims.GRPO, None, "GRPO"),
    ("GRPO, modern loss", claims.MODERN, None, None),
    ("GRPO, base without corrections", "grpo-uncorrected", None, None),
)
TABLE_4 = (
    ("Instruct, bare question", claims.INSTRUCT, "instruct-no-reasoning", "Instruct, bare question"),
    ("Instruct, asked to think", claims.INSTRUCT, "instruct-eval", None),
    ("Instruct + GRPO, bare question", claims.ON_INSTRUCT, "instruct-no-reasoning", None),
    ("Instruct + GRPO, asked to think", claims.ON_INSTRUCT, "instruct-eval", "Instruct + GRPO, asked to think"),
)
TABLE_5 = (
    ("Nothing frozen", claims.ON_INSTRUCT, None, "Nothing frozen"),
    ("Vision frozen", claims.FROZEN_VISION, None, "Vision frozen"),
    ("Language model frozen", claims.FROZEN_LANGUAGE, None, "Language model frozen"),
)


@dataclass(frozen=True)
class Row:
    title: str
    cells: list[Estimate | None]
    """By column, the total last, under `strict`; None where the study has not measured it."""
    any_form: Estimate | None
    paper_eval: Estimate | None
    tokens: Estimate | None
    seeds: int
    published: Sequence[float] | None


@dataclass(frozen=True)
class PaperTable:
    number: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    remark: str


@dataclass(frozen=True)
class PaperFigure:
    number: str
    title: str
    panels: Sequence[tuple[str, Markup]]
    published: str


def write_report(study: Study, summaries: Mapping[str, RunSummary]) -> Path:
    """report.html and report.json in the study's folder, from the summaries of runs by name, finished or not.

    Tables and claims are of finished runs; curves show unfinished ones too, as far as they are.
    """
    arms: dict[str, list[RunSummary]] = {}
    for run in study.runs:
        if run.name in summaries:
            arms.setdefault(run.arm.name, []).append(summaries[run.name])
    finished = {name: [run for run in runs if run.finished] for name, runs in arms.items()}
    finished = {name: runs for name, runs in finished.items() if runs}
    required = [run for run in study.runs if not run.arm.optional]
    missing = [run.name for run in required if run.name not in summaries or not summaries[run.name].finished]
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    judged = judge(arms)
    tables = paper_tables(finished, published)
    comparisons = _comparisons(finished)
    content = {
        "study": study.name,
        "about": study.spec.about,
        "complete": not missing,
        "missing": missing,
        "claims": [asdict(claim) for claim in judged],
        "tables": [asdict(table) for table in tables],
        "comparisons": [{"what": what, **asdict(found)} for what, found in comparisons],
        "published": published["source"],
        "environment": next(iter(summaries.values())).environment,
    }
    page = (
        environment()
        .get_template("study.html")
        .render(
            title=f"Study {study.name}",
            about=study.spec.about,
            notes=study.spec.notes,
            runs=len(required),
            seeds=len(study.spec.seeds),
            missing=missing,
            claims=judged,
            tables=tables,
            rules=RULES,
            comparisons=comparisons,
            figures=paper_figures(arms, published),
            thinking=_thinking(finished),
            examples=_examples(finished),
            arms=[(arm, finished.get(arm.name, []), arms.get(arm.name, [])) for arm in study.spec.arms],
            source=published["source"],
            environment=json.dumps(content["environment"], indent=2),
        )
    )
    study.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(study.folder / "report.json", text + "\n")
    write_whole(study.folder / "report.html", page)
    return study.folder / "report.html"


def paper_tables(arms: Arms, published: Mapping[str, Any]) -> list[PaperTable]:
    """Tables 3 to 5, on every task that the study measures."""
    tasks = list(dict.fromkeys(one.task for runs in arms.values() for run in runs for one in run.asked))
    found = []
    for task in tasks:
        for number, title, rows in (
            ("3", "Base, SFT and GRPO", TABLE_3),
            ("4", "The instruct model, and GRPO from it", TABLE_4),
            ("5", "Parts of the instruct model frozen", TABLE_5),
        ):
            beside = published["tables"][number] if task in STAND_INS else {}
            table = _table(number, f"{title}, on {task}", rows, arms, task, beside, published)
            if table.rows:
                found.append(table)
    return found


def _table(
    number: str,
    title: str,
    rows: Sequence[tuple[str, str, str | None, str | None]],
    arms: Arms,
    task: str,
    beside: Mapping[str, Sequence[float]],
    published: Mapping[str, Any],
) -> PaperTable:
    skills: list[str] = []
    for runs in arms.values():
        for run in runs:
            skills += [name for one in run.asked if one.task == task for name in one.skills if name not in skills]
    order = [name for name in published["columns"] if name in skills]
    columns = [*order, *(name for name in skills if name not in order)]
    made = []
    for name, arm, prompt, row in rows:
        runs = arms.get(arm, ())
        cells = [_estimate(runs, prompt, "strict", skill, task) for skill in (*columns, None)]
        numbers = beside.get(row) if row else None
        if numbers is None and cells[-1] is None:
            continue
        made.append(
            Row(
                name,
                cells,
                _estimate(runs, prompt, "any-form", None, task),
                _estimate(runs, prompt, "paper-eval", None, task),
                _estimate(runs, prompt, "tokens", None, task),
                len(runs),
                numbers if numbers and columns == published["columns"][:-1] else None,
            )
        )
    remark = published["remarks"][number] if beside else ""
    if number == "3" and (others := published["elsewhere"].get(task)):
        remark = f"Published, {others}."
    return PaperTable(number, title, [*columns, "Total"], made, remark)


def _estimate(
    runs: Sequence[RunSummary], prompt: str | None, what: str, skill: str | None, task: str
) -> Estimate | None:
    found = table_of(runs, prompt, what, skill, task)
    return None if found is None else seeds_and_items(found[0], found[1], draws=1000, within=bounds_of(what))


def _comparisons(arms: Arms) -> list[tuple[str, Estimate]]:
    """Differences that belong to no claim, under `strict`."""
    pairs = (
        (claims.GRPO, claims.MODERN),
        (claims.INSTRUCT, claims.ON_INSTRUCT),
        (claims.GRPO, claims.ON_INSTRUCT),
        (claims.ON_INSTRUCT, claims.FROZEN_VISION),
        (claims.ON_INSTRUCT, claims.FROZEN_LANGUAGE),
        (claims.GRPO, "grpo-uncorrected"),
    )
    found = []
    for first, second in pairs:
        if first in arms and second in arms:
            estimate = claims.difference(arms, first, second, "strict")
            if estimate is not None:
                found.append((f"{second} less {first}", estimate))
    return found


def paper_figures(arms: Arms, published: Mapping[str, Any]) -> list[PaperFigure]:
    """Figures 1, 2, 4 and 5, and reflection over training; of all runs, as far as they are."""
    grpo, sft, length = (arms.get(name, ()) for name in (claims.GRPO, claims.SFT, claims.LENGTH))
    frozen = {
        "nothing frozen": arms.get(claims.ON_INSTRUCT, ()),
        "vision frozen": arms.get(claims.FROZEN_VISION, ()),
        "language model frozen": arms.get(claims.FROZEN_LANGUAGE, ()),
    }
    with_and_without = {"with the length reward": length, "without": arms.get(claims.ON_INSTRUCT, ())}
    levels = {"base": arms.get(claims.BASE, ()), "instruct": arms.get(claims.INSTRUCT, ())}
    plan = [
        ("1", "GRPO from the base model", [_accuracy({"GRPO": grpo}), _length({"GRPO": grpo})]),
        ("2", "GRPO against SFT", [_accuracy({"GRPO": grpo, "SFT": sft}, levels)]),
        ("4", "Response length of GRPO on the instruct model", [_length(frozen)]),
        ("5", "A reward for length", [_length(with_and_without), _accuracy(with_and_without)]),
        ("", "Reflection over training", _reflection(arms)),
    ]
    found = []
    for number, title, panels in plan:
        drawn = [panel for panel in panels if panel is not None]
        if drawn:
            found.append(PaperFigure(number, title, drawn, published["figures"].get(number, "")))
    return found


Panel = tuple[str, Markup]


def _accuracy(runs: Mapping[str, Sequence[RunSummary]], levels: Arms | None = None) -> Panel | None:
    lines = _lines(runs, "validation/accuracy", smooth=False)
    if not lines:
        return None
    steps = [step for line in lines for step, _ in line.points]
    for number, (name, level) in enumerate((levels or {}).items(), len(lines)):
        found = claims.accuracy_of([run for run in level if run.finished])
        if found is not None:
            ends = [(min(steps), found.value), (max(steps), found.value)]
            lines.append(Line(f"{name} (measured)", ends, FURTHER[number % len(FURTHER)], "points"))
    return _drawn("Accuracy on the validation questions", lines, "", True)


def _length(runs: Mapping[str, Sequence[RunSummary]]) -> Panel | None:
    lines = _lines(runs, "completion_tokens", smooth=True)
    return _drawn("Mean length of sampled completions", lines, "tokens", False) if lines else None


def _reflection(arms: Arms) -> list[Panel | None]:
    """By definition: share of sampled completions that reflect, by windows of steps."""
    shown = {"GRPO": arms.get(claims.GRPO, ()), "GRPO from the twin": arms.get(claims.ON_INSTRUCT, ())}
    panels: list[Panel | None] = []
    for definition in ("visualthinker", "understand-r1-zero", "revision"):
        lines = []
        for number, (name, runs) in enumerate(shown.items()):
            series = [
                [(step, hits / n) for step, hits, n in run.reflection_rollouts.get(definition, ()) if n]
                for run in runs
            ]
            if any(series):
                lines.append(_over_seeds(name, [one for one in series if one], FURTHER[number], "points"))
        panels.append(_drawn(f"Reflection, {definition}", lines, "", False) if lines else None)
    return panels


def _lines(runs: Mapping[str, Sequence[RunSummary]], curve: str, smooth: bool) -> list[Line]:
    lines = []
    for number, (name, of) in enumerate(runs.items()):
        series = []
        for run in of:
            points = [(step, value) for step, value in run.curves.get(curve, ()) if value is not None]
            if smooth and points:
                means = moving_mean([value for _, value in points])
                points = [(step, mean) for (step, _), mean in zip(points, means, strict=True)]
            if points:
                series.append(points)
        if series:
            lines.append(
                _over_seeds(name, series, FURTHER[number % len(FURTHER)], "points" if not smooth else "plain")
            )
    return lines


def _over_seeds(name: str, series: Sequence[Sequence[tuple[int, float]]], colour: str, form: Any) -> Line:
    """The mean over the seeds that have a step, with a band from the lowest to the highest of them."""
    by_step: dict[int, list[float]] = {}
    for points in series:
        for step, value in points:
            by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    mean = [(step, sum(by_step[step]) / len(by_step[step])) for step in steps]
    band = ([(step, min(by_step[step])) for step in steps], [(step, max(by_step[step])) for step in steps])
    named = f"{name} ({len(series)} {'seed' if len(series) == 1 else 'seeds'})"
    return Line(named, mean, colour, form, band if len(series) > 1 else None)


def _drawn(title: str, lines: Sequence[Line], unit: str, shares: bool) -> Panel:
    return title, svg(curves(lines, unit=unit, shares=shares), f"{title}: {', '.join(line.name for line in lines)}.")


def _thinking(arms: Arms) -> list[dict[str, Any]]:
    """Necessity and sight of each probed run."""
    return [
        {
            "arm": name,
            "seed": run.seed,
            "necessity": run.necessity,
            "sight": run.sight,
            "quality": run.asked[0].quality if run.asked else None,
        }
        for name, runs in arms.items()
        for run in runs
        if run.necessity
    ]


def _examples(arms: Arms) -> list[tuple[str, int, str]]:
    return [(name, run.seed, text) for name, runs in arms.items() for run in runs[:1] for text in run.examples]
