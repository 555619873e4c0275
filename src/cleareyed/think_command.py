"""`cleareyed think`: how a model thinks, from a run's records or any recorded answers, and by probing it anew."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cleareyed.console import Display, table_console
from cleareyed.errors import InputError
from cleareyed.eval_text import progress_text
from cleareyed.evaluation.ask import Summary
from cleareyed.evaluation.journal import Journal
from cleareyed.evaluation.models import AskedModel, limits_of, open_answerer
from cleareyed.recipe import EvalSpec, ModelSpec, TaskSpec, probed
from cleareyed.recipe_files import load_recipe
from cleareyed.records.parts import read_answers, write_probes
from cleareyed.records.run import RunFolder, open_run
from cleareyed.report.summary import write_whole
from cleareyed.report.thinking import Page, page_of, plain_rows
from cleareyed.scoring.rules import any_form
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.names import counted
from cleareyed.tasks.prompts import prompt_style
from cleareyed.tasks.task import Sample, Task
from cleareyed.thinking.collect import Thinking, add_items, add_probes
from cleareyed.thinking.grade import grade
from cleareyed.thinking.items import Item, items_of_answers
from cleareyed.thinking.of_run import MARKER, settings_of, thinking_of_run
from cleareyed.thinking.summary import plain

GRADER_JOURNAL = "thinking-grader.jsonl"


class Recorded(BaseModel):
    """A line of a file of answers; further fields are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: str
    answer: str | None = None
    correct: bool | None = None
    choices: tuple[str, ...] = ()
    question: str = ""
    sample_id: str = ""
    group: str = ""
    step: int = 0
    tokens: int | None = None
    finish: str = ""
    state: str = "answered"


def think(
    source: Path,
    *,
    model: str | None = None,
    task: TaskSpec | None = None,
    prompt: str | None = None,
    items: int = 200,
    max_tokens: int = 256,
    batch: int = 64,
    rule: str = "strict",
    grader: str | None = None,
    base_url: str | None = None,
    data_root: Path | None = None,
    json_path: Path | None = None,
) -> None:
    """Print how the answers of a run, or of a file, think; into a run's report too.

    With `model` its thoughts and pictures are changed as well (`cleareyed.thinking.probes`) on the first `items`
    questions of `task`, or of what the run measured; with `grader` that model confirms reflection.

    Raises:
        InputError: no such run or file, records that cannot be read, no task to probe, whatever the model finds wrong.
    """
    run = open_run(source) if source.is_dir() else None
    if run is None and not source.is_file():
        raise InputError(f"{source}: no such run folder or file; give runs/NAME, or a .jsonl file of answers")
    asked = _asked(run, task, prompt)
    loaded = _first(load_task(asked.task, data_root), items) if asked and (model or run is None) else None
    with Display(f"cleareyed think {source.name}") as display:
        if model is not None:
            if asked is None or loaded is None:
                raise InputError(f"{source}: does not say what to ask {model}; name a task with --task")
            answers = _probe(model, loaded, asked, max_tokens, batch, display)
            if run is not None:
                write_probes(run, answers)
        display.status("reading the records", 0, 0)
        if run is not None:
            found = thinking_of_run(run, rule)
        else:
            found = Thinking()
            add_items(found, source.name, read_items(source, loaded))
            if model is not None:
                add_probes(found, answers)
        if grader is not None:
            chosen, journal = _to_grade(source, run, rule, loaded)
            marks = _grade(chosen, grader, base_url, journal, display)
            add_items(found, f"{source.name}, graded by {grader}", chosen, graded=marks)
    page = page_of(found)
    console = table_console()
    print_page(console, page)
    if json_path is not None:
        write_whole(json_path, json.dumps(plain(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if run is not None:
        write_whole(run.path / MARKER, json.dumps({"rule": rule}) + "\n")
        from cleareyed.commands import report

        report(run.path, data_root)


def read_items(path: Path, task: Task | None = None) -> list[Item]:
    """The answers of a `.jsonl` file, one object a line: `text`, and `answer` or `correct`; see `Recorded`.

    Where a line gives no `answer`, `task` does by `sample_id`; where it does not say whether it is `correct`, the
    rule `any-form` does. InputError naming the line: not such an object, nothing to judge it by.
    """
    samples = {one.id: one for one in (task.samples[at] for at in range(len(task.samples)))} if task else {}
    found = []
    try:
        with path.open(encoding="utf-8", errors="strict") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    found.append(_item(line, f"{path}: line {number}", samples))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}); give a .jsonl file of answers") from error
    if not found:
        raise InputError(f"{path}: holds no answers; give one JSON object a line, with text and answer")
    return found


def _item(line: str, where: str, samples: Mapping[str, Sample]) -> Item:
    try:
        one = Recorded.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the line"
        raise InputError(
            f"{where}: {field}: {first['msg']}; give an object with text, and answer or correct"
        ) from None
    known = samples.get(one.sample_id)
    gold = one.answer if one.answer is not None else known.answer if known else None
    choices = one.choices or (known.choices if known else ())
    if one.correct is None and gold is None:
        raise InputError(f"{where}: neither answer nor correct; add one, or name the task with --task")
    correct = one.correct
    if correct is None:
        correct = any_form(one.text, Sample("", one.question, gold or "", choices)).correct
    return Item(
        text=one.text,
        gold=gold or "",
        correct=correct,
        choices=choices,
        question=one.question or (known.question if known else ""),
        sample_id=one.sample_id,
        step=one.step,
        group=one.group or (known.group if known else ""),
        tokens=one.tokens,
        cut_off=one.finish == "length" or one.state == "cut-off",
    )


def print_page(console: Console, page: Page) -> None:
    for sheet in page.sheets:
        table = Table(title=Text(sheet.title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for at, column in enumerate(sheet.columns):
            table.add_column(Text(column), justify="right" if at else "left")
        for row in plain_rows(sheet):
            table.add_row(*map(Text, row))
        console.print(table)
        console.print(Text(sheet.sentence, style="dim"), soft_wrap=True)
    for where, text in page.examples[:6]:
        console.print(Text(f"\n{where}", style="bold"), Text(text), sep="\n", soft_wrap=True)
    for sentence in (*page.verdicts, page.left_out):
        if sentence:
            console.print(Text(sentence), soft_wrap=True)


def _asked(run: RunFolder | None, task: TaskSpec | None, prompt: str | None) -> EvalSpec | None:
    """What is to be asked: the task named, else what the run's probes, validation or first measurement asked."""
    settings = settings_of(run) if run is not None else {}
    measured = settings.get("measure") or []
    style = prompt or (measured[0].get("prompt") if measured and settings.get("method") == "eval" else None)
    if task is None and run is not None:
        if settings.get("method") == "eval":
            task = TaskSpec.model_validate(measured[0]["task"])
        else:
            recipe = load_recipe(run.recipe)
            if recipe.method == "pretrain":
                raise InputError(f"{run.recipe}: method is pretrain; give a run of grpo, sft or eval")
            spec = probed(recipe) or recipe.validate_on or (recipe.measure or (EvalSpec(task=recipe.task),))[0]
            task, style = spec.task, prompt or spec.prompt or (recipe.prompt if recipe.method == "grpo" else None)
    if task is None:
        return None
    return EvalSpec(task=task, prompt=prompt_style(style or "base").name)


def _first(task: Task, items: int) -> Task:
    return replace(task, samples=[task.samples[at] for at in range(min(items, len(task.samples)))])


def _probe(model: str, task: Task, asked: EvalSpec, max_tokens: int, batch: int, display: Display) -> list[Any]:
    """The answers of all arms; named after the model beside the task, so that training's own probes stay."""
    from cleareyed.commands import set_up
    from cleareyed.models.load import load_vlm
    from cleareyed.thinking.probes import probe

    spec = AskedModel(path=model)
    if spec.kind != "local":
        raise InputError(f"--model {model}: thoughts are changed in our own engine only; give a folder or tiny-base")
    set_up(None)
    vlm = load_vlm(ModelSpec(path=spec.name))
    named = replace(task, name=f"{task.name} by {'/'.join(Path(spec.name).parts[-2:])}")
    display.note(f"probing {spec.name} on {task.name}, {counted(len(task.samples), 'question')}")
    answers = probe(
        vlm,
        named,
        prompt_style(asked.prompt or "base"),
        max_tokens=max_tokens,
        batch=batch,
        progress=lambda done, total: display.status(f"probing {spec.name}", done, total),
    )
    return [row for rows in answers.values() for row in rows]


def _to_grade(source: Path, run: RunFolder | None, rule: str, task: Task | None) -> tuple[list[Item], Path]:
    if run is None:
        return read_items(source, task), source.with_name(f"{source.stem}-grader.jsonl")
    rows = [row for row in read_answers(run) if rule in row.correct]
    last = max((row.step for row in rows), default=0)
    return items_of_answers([row for row in rows if row.step == last], rule), run.path / GRADER_JOURNAL


def _grade(
    items: Sequence[Item], grader: str, base_url: str | None, journal: Path, display: Display
) -> list[bool | None]:
    model = AskedModel(path=grader, base_url=base_url)
    answerer = open_answerer(model, 64)

    def progress(summary: Summary) -> None:
        display.status(f"asking {grader}", summary.reused + summary.asked, 0, progress_text(summary))

    with Journal.open(journal) as held:
        return asyncio.run(grade(items, answerer, held, limits_of(model, 64, 100, 300.0), progress))
