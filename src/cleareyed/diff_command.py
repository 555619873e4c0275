"""`cleareyed diff`: how far two runs of a task differ, and where on the way from prompt to score they part."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from cleareyed.console import table_console
from cleareyed.errors import InputError
from cleareyed.evaluation.compare import Comparison, Tested, compare_runs
from cleareyed.evaluation.explain import Asked, Explanation, explain
from cleareyed.evaluation.models import HOSTED
from cleareyed.records.parts import read_answers
from cleareyed.records.rows import AnswerRow
from cleareyed.records.run import RunFolder, open_run
from cleareyed.report.summary import write_whole
from cleareyed.report.words import p_value, percent, points, points_range, visible
from cleareyed.tasks.names import counted

UNKNOWN = "nothing that is recorded"
MODEL = ("revision", "dtype")
PIXELS = ("min_pixels", "max_pixels")
ELSEWHERE = (*HOSTED, "replay")
"""Kinds of models whose precision, pixel limits and batches are not ours to know."""
PARAMETERS = ("temperature", "top_p", "seed", "system", "batch")


@dataclass(frozen=True)
class Choice:
    """Which answers of a run; None where the run leaves no choice."""

    label: str | None = None
    step: int | None = None


def diff(
    first: Path,
    second: Path,
    *,
    task: str | None = None,
    rule: str = "strict",
    second_rule: str | None = None,
    label: str | None = None,
    second_label: str | None = None,
    step: int | None = None,
    second_step: int | None = None,
    json_path: Path | None = None,
) -> None:
    """Compare two runs on every task that both answered (or on `task`), print it, and write it to `json_path`.

    The second run's rule, label and step are the first's unless given.

    Raises:
        InputError: a folder is no run, no task is shared, a choice of label or step is missing or matches nothing,
            or answers were not judged under the rule.
    """
    runs = (open_run(first), open_run(second))
    choices = (Choice(label, step), Choice(second_label or label, step if second_step is None else second_step))
    answers = tuple(_matching(run, choice) for run, choice in zip(runs, choices, strict=True))
    found = []
    console = table_console()
    for name in _tasks(runs, answers, task):
        sides = [
            _only(run, rows, name, option) for run, rows, option in zip(runs, answers, ("", "second-"), strict=True)
        ]
        asked = [read_asked(run, rows[0], rows) for run, rows in zip(runs, sides, strict=True)]
        compared = compare_runs(sides[0], sides[1], rule, second_rule)
        explained = explain(sides[0], sides[1], asked[0], asked[1], rule, second_rule)
        for title, run, rows in zip(("first", "second"), runs, sides, strict=True):
            described = f"{title}: {run.path}, label {rows[0].label}, step {rows[0].step}, {len(rows)} answers"
            console.print(shown(described), soft_wrap=True)
        console.print(difference_table(name, compared))
        console.print(sources_table(explained))
        if explained.shares:
            console.print(shares_table(explained))
        for sentence in sentences(compared, explained):
            console.print(shown(sentence), soft_wrap=True)
        found.append(
            {
                "task": name,
                "runs": [
                    {
                        "path": str(run.path),
                        "label": rows[0].label,
                        "step": rows[0].step,
                        "settings": dict(one.settings),
                    }
                    for run, rows, one in zip(runs, sides, asked, strict=True)
                ],
                "comparison": asdict(compared),
                "explanation": asdict(explained),
            }
        )
    if json_path is not None:
        try:
            write_whole(json_path, json.dumps({"tasks": found}, indent=2, allow_nan=False, default=str) + "\n")
        except OSError as error:
            raise InputError(f"{json_path}: cannot be written ({error.strerror}); name another file") from error


def read_asked(run: RunFolder, row: AnswerRow, rows: Sequence[AnswerRow] = ()) -> Asked:
    """What `recipe.yaml` and `environment.json` say of how the answers with `row`'s task, label and step came about.

    `rows` are these answers, which hold what was sent where they were made from a journal. A model that was trained
    in the run is named by label and folder. A revision that was not pinned and a commit with changes on top count
    as not recorded.

    Raises:
        InputError: one of the two files cannot be read.
    """
    recipe = _mapping(_parsed(run.recipe, yaml.safe_load))
    environment = _mapping(_parsed(run.environment, json.loads)) if run.environment.exists() else {}
    model = _mapping(recipe.get("model"))
    settings: dict[str, Any] = {"step": row.step}
    settings |= {name: model[name] for name in (*MODEL, *PIXELS) if name in model}
    settings["revision"] = model.get("weights") or model.get("revision")
    if settings["revision"] is None:
        del settings["revision"]
    training = recipe.get("method") in ("grpo", "sft")
    if "path" in model:
        untrained = not training or row.label.partition("/")[0] == "base"
        settings["model"] = model["path"] if untrained else f"{row.label.partition('/')[0]} of {run.path}"
    measured = _measurement(recipe, row, training)
    if measured is not None:
        settings |= {name: measured[name] for name in PARAMETERS if name in measured}
        style = measured.get("prompt") or (recipe.get("prompt") if training else None)
        own = _mapping(recipe.get("sampling")).get("max_tokens") or recipe.get("max_tokens")
        longest = measured.get("max_tokens") or (own if training else None)
        settings |= {name: value for name, value in (("style", style), ("max_tokens", longest)) if value is not None}
    if str(model.get("path")).startswith(tuple(f"{kind}:" for kind in ELSEWHERE)):
        for name in ("dtype", *PIXELS, "batch"):
            settings.pop(name, None)
    packages = _mapping(environment.get("packages"))
    commit = _mapping(environment.get("commit"))
    settings |= {
        name: packages[name] for name in ("torch", "transformers", "tokenizers", "numpy", "pillow") if name in packages
    }
    settings |= {
        name: environment[name]
        for name in ("python", "machine", "accelerator", "torch_threads")
        if name in environment
    }
    if "id" in commit and not commit.get("dirty"):
        settings["commit"] = commit["id"]
    return Asked(
        settings=settings,
        prompts={one.sample_id: one.prompt_hash for one in rows if one.prompt_hash},
        pixels={one.sample_id: one.images_hash for one in rows if one.images_hash},
    )


def difference_table(task: str, found: Comparison) -> Table:
    """Accuracy of both, by skill and over all, with the paired difference."""
    rules = " and ".join(dict.fromkeys(found.rules))
    table = Table(title=shown(f"{task}, rule {rules}: accuracy in %, difference in points"), title_justify="left")
    table.add_column("skill")
    for heading in ("n", "first", "second", "difference (95 %)", "now right", "now wrong", "p"):
        table.add_column(heading, justify="right")
    for skill, tested in (*found.by_skill.items(), ("all", found.whole)):
        table.add_row(shown(skill or "(none)"), *_row(tested))
    return table


def sources_table(found: Explanation) -> Table:
    """Where the two runs differ, station by station."""
    table = Table(title=f"Where they differ ({counted(found.n, 'item')})", title_justify="left")
    for heading in ("station", "items", "what differs", "not recorded", "such as"):
        table.add_column(heading, justify="right" if heading == "items" else "left")
    for source in found.sources:
        table.add_row(
            source.cause,
            "not recorded" if source.items is None else str(source.items),
            shown("; ".join(f"{name}: {_value(a)} → {_value(b)}" for name, (a, b) in source.settings.items())),
            shown(", ".join(source.not_recorded)),
            shown(", ".join(source.examples[:2])),
        )
    return table


def shares_table(found: Explanation) -> Table:
    """The changed verdicts by cause; the points add up to the difference."""
    table = Table(title="Verdicts that changed, by what differs before them", title_justify="left")
    table.add_column("with another")
    for heading in ("now right", "now wrong", "points"):
        table.add_column(heading, justify="right")
    table.add_column("such as")
    for share in found.shares:
        examples = (*share.gained[:2], *share.lost[:2])
        table.add_row(
            " + ".join(UNKNOWN if cause == "unknown" else cause for cause in share.causes),
            str(len(share.gained)),
            str(len(share.lost)),
            points(share.effect),
            shown(", ".join(examples)),
        )
    return table


def sentences(found: Comparison, explained: Explanation) -> list[str]:
    """The comparison in plain words, one statement each."""
    whole, test = found.whole.paired, "exact, whole groups swapped" if found.grouped else "exact McNemar"
    n, low, high = whole.n, whole.interval.low, whole.interval.high
    p = p_value(found.whole.p)
    said = [
        f"Second minus first: {points(whole.difference)} points (95 % {points_range(low, high)}; "
        f"{test}, p {p if p.startswith('<') else f'= {p}'}) on the {n} items that both answered."
    ]
    said.append(
        f"Verdicts that became right: {len(found.gained)}, wrong: {len(found.lost)}. "
        f"Texts that differ: {explained.other_text} of {n}."
    )
    if found.detectable is not None:
        said.append(
            f"With so many items and changes, a true difference under {100 * found.detectable:.1f} points "
            "is missed more often than 1 time in 5."
        )
    elif found.gained or found.lost:
        said.append("With so few items and changes, no true difference would be found 4 times in 5.")
    for side, keys in (("first", found.only_first), ("second", found.only_second)):
        if keys:
            named = ", ".join(sample for _, sample in keys[:3]) + (", ..." if len(keys) > 3 else "")
            said.append(f"Left out: {counted(len(keys), 'item')} only in the {side} run ({named}).")
    for side, states in (("first", found.unjudged_first), ("second", found.unjudged_second)):
        if states:
            named = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
            said.append(
                f"Left out: {counted(sum(states.values()), 'item')} without an answer in the {side} run ({named})."
            )
    if found.regrouped:
        said.append(
            f"{counted(found.regrouped, 'item')} in another group in the second run; the first's groups are used."
        )
    if explained.other_gold:
        said.append(f"The gold answer differs in {counted(explained.other_gold, 'item')}: the data changed.")
    if any(share.causes == ("unknown",) for share in explained.shares):
        said.append(
            "Some texts differ though nothing that is recorded does: what is not recorded differs, answers were "
            "drawn at random, or two tokens were nearly tied."
        )
    if any(len(share.causes) > 1 for share in explained.shares):
        said.append("Causes that come together can only be told apart by asking again with one of them changed.")
    if found.by_skill:
        said.append("The p-values of the skills are adjusted for their number (Holm).")
    return said


def shown(text: str) -> Text:
    """Untrusted text for the terminal: on one line, without markup or control characters."""
    return Text(visible(" ".join(text.split())))


def _row(tested: Tested) -> list[str]:
    found = tested.paired
    return [
        str(found.n),
        percent(found.first),
        percent(found.second),
        f"{points(found.difference)} ({points_range(found.interval.low, found.interval.high)})",
        str(found.second_only),
        str(found.first_only),
        p_value(tested.p_holm),
    ]


def _value(value: Any) -> str:
    return "none" if value is None else str(value)[:60]


def _matching(run: RunFolder, choice: Choice) -> list[AnswerRow]:
    rows = read_answers(run)
    found = [row for row in rows if choice.label in (None, row.label) and choice.step in (None, row.step)]
    if not rows:
        raise InputError(f"{run.path}: no answers are recorded; evaluate first")
    if not found:
        raise InputError(f"{run.path}: no answers under that label and step; there are: {_kinds(rows)}")
    return found


def _tasks(runs: Sequence[RunFolder], answers: Sequence[Sequence[AnswerRow]], task: str | None) -> list[str]:
    first, second = ({row.task: None for row in rows} for rows in answers)
    shared = [name for name in first if name in second and task in (None, name)]
    if not shared:
        raise InputError(
            f"{runs[1].path}: no {'task' if task is None else f'answers to {task}'} in common with {runs[0].path}; "
            f"the first has {visible(', '.join(first))}, the second {visible(', '.join(second))}"
        )
    return shared


def _only(run: RunFolder, rows: Sequence[AnswerRow], task: str, option: str) -> list[AnswerRow]:
    """The answers to the task, which must be of one label and step."""
    found = [row for row in rows if row.task == task]
    if len({(row.label, row.step) for row in found}) > 1:
        raise InputError(
            f"{run.path}: answers to {task} come under several labels or steps: {_kinds(found)}; "
            f"choose with --{option}label and --{option}step"
        )
    return found


def _kinds(rows: Sequence[AnswerRow]) -> str:
    kinds = list(dict.fromkeys((row.label, row.step) for row in rows))
    return visible(", ".join(f"{label} (step {step})" for label, step in kinds[:8])) + (
        ", ..." if len(kinds) > 8 else ""
    )


def _measurement(recipe: Mapping[str, Any], row: AnswerRow, training: bool) -> Mapping[str, Any] | None:
    """The recipe's measurement that these answers are from; None if it cannot be told."""
    if training and row.label == "validation":
        return _mapping(recipe.get("validate_on")) or None
    listed = recipe.get("measure")
    specs = [_mapping(spec) for spec in listed] if isinstance(listed, list) else []
    if training:
        style = row.label.partition("/")[2] or recipe.get("prompt")
        specs = [spec for spec in specs if (spec.get("prompt") or recipe.get("prompt")) == style]
    named = [spec for spec in specs if row.task in _task_names(_mapping(spec.get("task")))]
    return named[0] if len(named) == 1 else None


def _task_names(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """What the answers to a recipe's task may be filed under: its name, with its split or its file's name."""
    name, path = str(spec.get("name")), spec.get("path")
    part = spec.get("split") or (Path(str(path)).stem if path else None)
    return (f"{name}-{part}",) if part else (name,)


def _parsed(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); restore it, or run again") from error


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
