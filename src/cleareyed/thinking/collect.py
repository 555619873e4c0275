"""What is known of the thinking in a run, or in any recorded answers: measures, rises and gains with their names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cleareyed.evaluation.compare import judged
from cleareyed.records.rows import AnswerRow, RolloutRow
from cleareyed.thinking.gains import AS_IS, RULE, Necessity, Sight, necessity, sight
from cleareyed.thinking.items import CountTokens, Item, items_of_answers, items_of_rollouts
from cleareyed.thinking.reflection import Reflection, Rise, examples, reflection, rises
from cleareyed.thinking.summary import Choices, Measures, arms_of, measure

WINDOWS = 8
"""So many windows, or fewer, are the steps of training parted into where its rollouts are studied."""
VALIDATION = "validation"


@dataclass
class Thinking:
    """By name of what was measured, in the order in which it is shown. Filled by the `add_...` functions."""

    measures: dict[str, Measures] = field(default_factory=dict)
    rises: dict[str, dict[str, Rise]] = field(default_factory=dict)
    """By definition within."""
    necessity: dict[str, Necessity] = field(default_factory=dict)
    sight: dict[str, Sight] = field(default_factory=dict)
    examples: dict[str, list[Item]] = field(default_factory=dict)
    """Answers that reflect, by definition and where they are from."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Why records are in no figure, and how many."""


def add_answers(
    found: Thinking,
    rows: Sequence[AnswerRow],
    rule: str,
    count: CountTokens | None = None,
    choices: Choices | None = None,
) -> None:
    """Measured answers by label, task and step; of those given while training (`validation`) also when they rise."""
    kept = [row for row in rows if judged(row) and rule in row.correct]
    _leave_out(found, "no answer to judge", sum(not judged(row) for row in rows))
    _leave_out(found, f"not judged under {rule}", sum(judged(row) and rule not in row.correct for row in rows))
    parts: dict[tuple[str, str], dict[int, list[AnswerRow]]] = {}
    for row in kept:
        parts.setdefault((row.label, row.task), {}).setdefault(row.step, []).append(row)
    for (label, task), by_step in parts.items():
        items = {step: items_of_answers(by_step[step], rule, choices) for step in sorted(by_step)}
        _add(found, f"{label} on {task}", items, count, over_steps=label == VALIDATION)


def add_rollouts(
    found: Thinking, rows: Sequence[RolloutRow], count: CountTokens | None = None, choices: Choices | None = None
) -> None:
    """The completions of training, in up to eight windows of as many steps, each named by its first step."""
    if not rows:
        return
    first, last = min(row.step for row in rows), max(row.step for row in rows)
    width = -(-(last - first + 1) // WINDOWS)
    windows: dict[int, list[Item]] = {}
    for item in items_of_rollouts(sorted(rows, key=lambda row: row.step), choices):
        windows.setdefault(first + (item.step - first) // width * width, []).append(item)
    _add(found, f"rollouts, by {width} steps", windows, count, over_steps=len(windows) > 1)


def add_probes(
    found: Thinking,
    rows: Sequence[AnswerRow],
    count: CountTokens | None = None,
    choices: Choices | None = None,
    rule: str = RULE,
) -> None:
    """The answers to probes (`thinking/` of a run): measures as they are, and what thought and picture are worth."""
    for task in dict.fromkeys(row.task for row in rows):
        own = [row for row in rows if row.task == task]
        steps = sorted({row.step for row in own})
        as_is = {step: arms_of(own, step).get(AS_IS, []) for step in steps}
        items = {step: items_of_answers(answers, rule, choices) for step, answers in as_is.items() if answers}
        _add(found, f"probe on {task}", items, count, over_steps=len(items) > 1)
        for step in steps if len(steps) < 3 else (steps[0], steps[-1]):
            arms = arms_of(own, step)
            if len(arms) > 1:
                name = _named(task, step, steps)
                found.necessity[name], found.sight[name] = necessity(arms, rule), sight(arms, rule)


def add_items(
    found: Thinking,
    name: str,
    items: Sequence[Item],
    count: CountTokens | None = None,
    graded: Sequence[bool | None] | None = None,
) -> None:
    """Items as they are; with several steps among them, also when reflection rises."""
    steps = sorted({item.step for item in items})
    if len(steps) < 2 or graded is not None:
        found.measures[name] = measure(items, count, graded)
        _add_examples(found, name, items, found.measures[name].reflection)
        return
    _add(found, name, {step: [item for item in items if item.step == step] for step in steps}, count, over_steps=True)


def _add(
    found: Thinking, name: str, items: Mapping[int, Sequence[Item]], count: CountTokens | None, over_steps: bool
) -> None:
    """Measures of the first and the last step; with `over_steps`, when reflection rises."""
    steps = sorted(items)
    for step in dict.fromkeys((*steps[:1], *steps[-1:])) if over_steps else steps:
        found.measures[_named(name, step, steps)] = measure(items[step], count)
    if not over_steps:
        for step in steps:
            title = _named(name, step, steps)
            _add_examples(found, title, items[step], found.measures[title].reflection)
        return
    by_step = {step: reflection(items[step]) for step in steps}
    found.rises[name] = rises(by_step)
    for definition, rise in found.rises[name].items():
        step = rise.step if rise.step is not None else steps[-1]
        _add_examples(found, f"{name}, step {step}", items[step], by_step[step], (definition,))


def _add_examples(
    found: Thinking, name: str, items: Sequence[Item], of: Reflection, definitions: Sequence[str] | None = None
) -> None:
    for definition in definitions or tuple(of.flags):
        if shown := examples(items, of.flags[definition]):
            found.examples[f"{definition}: {name}"] = shown


def _named(name: str, step: int, steps: Sequence[int]) -> str:
    """With the step, but for weights that were never trained and measured at no other."""
    return name if list(steps) == [0] else f"{name}, step {step}"


def _leave_out(found: Thinking, why: str, count: int) -> None:
    if count:
        found.left_out[why] = found.left_out.get(why, 0) + count
