"""`cleareyed judge label`: a file of answers, judged row by row."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cleareyed.console import Display
from cleareyed.errors import InputError
from cleareyed.evaluation.evaluate import measured_task
from cleareyed.evaluation.stats import wilson
from cleareyed.oversensitivity.answer_files import match, read_answered
from cleareyed.oversensitivity.judges.human import HumanJudge
from cleareyed.oversensitivity.judges.open import open_judge
from cleareyed.oversensitivity.labels import json_lines
from cleareyed.oversensitivity.outcomes import DECLINED, OUTCOMES, UNREAD, Answered, Judge, Judgement
from cleareyed.oversensitivity.runs import SEEING, by_id
from cleareyed.recipe import TaskSpec
from cleareyed.report.summary import write_whole
from cleareyed.report.words import percent, percent_range, visible

AT_ONCE = 64
"""Answers that are judged between two looks at the progress."""
NAMED = 5
"""Ids that a remark names before it counts the rest."""


def label(
    responses: Path,
    *,
    judge_name: str,
    json_path: Path | None,
    task: str | None,
    data_root: Path | None,
    base_url: str | None,
) -> int:
    """Judge every row and write `id, state, refusal_probability, reason`; what could not be judged is counted.

    Returns 0, or 1 if no row came to an outcome that says something of the model.

    Raises:
        InputError: the file, the judge or the task cannot be read; a grader was given up.
    """
    if json_path is None and judge_name.startswith("paper"):
        raise InputError(f"--judge {judge_name}: name a file with --json; the grader's replies are kept beside it")
    read = read_answered(responses)
    journal = None if json_path is None else json_path.with_name(f"{json_path.name}.grades.jsonl")
    judge = open_judge(judge_name, base_url=base_url, journal=journal)
    answers, remarks = read.answers, [_remark("ids that occur more than once", list(read.repeated))]
    if task is not None:
        samples = by_id(measured_task(TaskSpec(name=task), data_root))
        matched = match(answers, samples, judge.name.startswith(SEEING))
        answers = matched.answers
        remarks += [
            _remark(f"answers to items that {task} does not have", matched.unknown),
            _remark(f"items of {task} without an answer", matched.unanswered),
            _remark("items whose picture is missing", matched.without_picture),
        ]
    if isinstance(judge, HumanJudge):
        unused = judge.unused([answer.id for answer in answers])
        remarks.append(_remark(f"labels of answers that {responses.name} does not have", unused))
    done = dict(read.settled)
    with Display(visible(f"{responses.name}, judged by {judge.name}"), Console(stderr=True)) as display:
        places = [place for place in range(len(answers)) if place not in done]
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            done.update(zip(some, _judged(judge, [answers[place] for place in some]), strict=True))
            display.status("judging", start + len(some), len(places), "")
    rows = [done[place] for place in range(len(answers))]
    if json_path is None:
        sys.stdout.write(json_lines(map(asdict, rows)))
    else:
        write_rows(json_path, rows)
    _print(rows, responses, judge, [remark for remark in remarks if remark], json_path)
    return int(all(row.state in UNREAD for row in rows))


def write_rows(path: Path, rows: Sequence[Judgement]) -> None:
    """A JSON array, or lines where the name ends in .jsonl; whole or not at all."""
    held = list(map(asdict, rows))
    lines = path.suffix.lower() == ".jsonl"
    text = json_lines(held) if lines else json.dumps(held, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; name another file with --json") from error


def _judged(judge: Judge, answers: Sequence[Answered]) -> list[Judgement]:
    return judge.judge(answers) if answers else []


def _remark(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} {what}: {', '.join(names[:NAMED])}{more}."


def _print(rows: Sequence[Judgement], path: Path, judge: Judge, remarks: Sequence[str], out: Path | None) -> None:
    console = Console(stderr=True, highlight=False)
    counts = Counter(row.state for row in rows)
    console.print(Text(visible(f"{path.name}, judged by {judge.name}")), soft_wrap=True)
    table = Table()
    table.add_column("outcome")
    table.add_column("answers", justify="right")
    for state in OUTCOMES:
        if counts[state]:
            table.add_row(state, str(counts[state]))
    console.print(table)
    n = sum(row.state not in UNREAD for row in rows)
    if n:
        declined = sum(row.state in DECLINED for row in rows)
        interval = wilson(declined, n)
        console.print(
            Text(
                f"Declined (refusal, capability, filtered, empty): {declined} of {n}, {percent(declined / n)} % "
                f"({percent_range(interval.low, interval.high)})."
            ),
            soft_wrap=True,
        )
    for remark in remarks:
        console.print(Text(visible(remark)), soft_wrap=True)
    for row in [row for row in rows if row.state in UNREAD][:NAMED]:
        console.print(Text(visible(f"  {row.id}: {row.state}: {row.reason}")), soft_wrap=True)
    if out is not None:
        console.print(Text(f"labels: {out}"), soft_wrap=True)
