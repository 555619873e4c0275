"""`cleareyed stages`: the refused items of a run, asked again, and each refusal attributed to a stage."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError
from rich.text import Text

from cleareyed.console import Display, table_console
from cleareyed.errors import InputError
from cleareyed.eval_command import JOURNAL, look_at_pictures, quiet
from cleareyed.eval_plan import AskSpec, asked_task, asking_of, eval_recipe, refuse_other
from cleareyed.eval_text import progress_text
from cleareyed.evaluation.ask import Summary
from cleareyed.evaluation.journal import Journal
from cleareyed.evaluation.models import HOSTED, AskedModel, limits_of, open_answerer
from cleareyed.oversensitivity.judges.open import open_judge
from cleareyed.oversensitivity.labels import json_lines, lines_of
from cleareyed.oversensitivity.outcomes import DECLINED, Judge
from cleareyed.oversensitivity.published import named
from cleareyed.oversensitivity.runs import by_id, judge_answers
from cleareyed.oversensitivity.stage_asking import Model, Studied, Study
from cleareyed.oversensitivity.stage_notes import Notes, Override, Question, read_overrides, read_questions
from cleareyed.oversensitivity.stages import Label, Part, Step, stage_table
from cleareyed.recipe import Strict
from cleareyed.records.parts import read_answers
from cleareyed.records.run import RunFolder, create_run, open_run
from cleareyed.report.stages import attribution_table, probes_table, published_sentence, sentences, stages_picture
from cleareyed.report.summary import write_whole
from cleareyed.report.words import visible
from cleareyed.tasks.mossbench import SHIPPED, TASKS
from cleareyed.tasks.names import unknown
from cleareyed.tasks.task import Sample, Task

LABELS, QUESTIONS, OVERRIDES = "labels.jsonl", "questions.jsonl", "overrides.jsonl"
FOUND, PICTURE = "stages.json", "stages.png"


class StagesRecipe(Strict):
    """What `cleareyed stages` ran, kept as the `recipe.yaml` of its folder."""

    method: Literal["stages"] = "stages"
    run: str
    model: AskedModel
    grader: AskedModel
    writer: AskedModel | None
    judge: str
    states: tuple[str, ...]


def run_stages(
    run_path: Path,
    *,
    model: str | None,
    grader: str,
    writer: str | None,
    base_url: str | None,
    grader_base_url: str | None,
    questions: Path | None,
    overrides: Path | None,
    judge_name: str,
    states: Sequence[str],
    limit: int | None,
    grader_tokens: int,
    batch: int,
    concurrency: int,
    timeout: float,
    folder: Path,
    resume: bool,
    json_path: Path | None,
    data_root: Path | None,
) -> int:
    """Ask, grade, attribute, print and keep. Returns 0, or 1 if some request brought no answer.

    Raises:
        InputError: anything wrong with the run, the models, the files or the folder; a model that was given up.
    """
    if not resume and folder.exists():
        raise InputError(f"{folder}: exists already; go on with --resume, or name another folder with --out")
    for state in states:
        if state not in DECLINED:
            raise unknown("declined outcome", state, sorted(DECLINED))
    run, judge = open_run(run_path), open_judge(judge_name)
    spec, asked = _asked(run)
    asked_now = _model(asked, model, base_url)
    task = asked_task(spec, data_root)
    refused, left_out = _refused(run, task, judge, states, limit)
    recipe = StagesRecipe(
        run=str(run.path.resolve()),
        model=asked_now,
        grader=_other(asked_now, grader, grader_base_url),
        writer=_other(asked_now, writer, grader_base_url) if writer else None,
        judge=judge.name,
        states=tuple(states),
    )
    given = _questions(questions, spec)
    console = table_console()
    for reason, names in left_out.items():
        console.print(Text(visible(f"Left out, {reason}: {len(names)} ({named(names)}).")), soft_wrap=True)
    if not refused:
        console.print(f"{run.path}: no item was refused ({', '.join(states)}), so there is nothing to attribute.")
        return 0
    if asked_now.kind in HOSTED:
        look_at_pictures(Task(task.name, refused))
    with ExitStack() as stack:
        kept, recipe, models = _begin(stack, recipe, folder, resume, batch, concurrency, timeout)
        notes = Notes({**_written(kept), **given}, _overrides(kept, overrides))
        journal = stack.enter_context(Journal.open(kept.path / JOURNAL))
        with Display(f"stages of {len(refused)} refusals of {recipe.model.path}") as display:

            def progress(what: str, summary: Summary) -> None:
                done = summary.reused + summary.asked
                display.status(what, done, summary.total or 0, progress_text(summary))

            study = Study(
                refused,
                asking_of(spec),
                *models,
                judge,
                journal,
                notes,
                grader_tokens=grader_tokens,
                before=_labels(kept),
                progress=progress,
                keep=lambda labels: _write(kept.path / LABELS, json_lines(asdict(one) for one in labels)),
            )
            found = asyncio.run(study.run())
    _write(kept.path / LABELS, json_lines(asdict(one) for one in found.labels))
    _write(kept.path / QUESTIONS, json_lines(one.model_dump() for one in found.questions.values()))
    table = stage_table(found.cases)
    text = json.dumps(_as_json(recipe, task, table, found, left_out), indent=2, allow_nan=False, ensure_ascii=False)
    for path in (kept.path / FOUND, json_path):
        if path is not None:
            _write(path, text + "\n")
    (kept.path / PICTURE).write_bytes(stages_picture(table))
    title = f"{recipe.model.path} on {task.name}"
    console.print(attribution_table(table, f"{title}: where refusals come from, % (95 %)"))
    console.print(probes_table(table, f"{title}: probes, % of answers; grader {recipe.grader.path}"))
    for sentence in (*sentences(found, notes), *([published_sentence()] if spec.task.name in TASKS else [])):
        console.print(Text(visible(sentence)), soft_wrap=True)
    console.print(Text(f"labels: {kept.path / LABELS}\npicture: {kept.path / PICTURE}"), soft_wrap=True)
    return int(any(one.label == "failed" for one in found.labels))


def _asked(run: RunFolder) -> tuple[AskSpec, AskedModel]:
    """How the run asked. InputError if that leaves nothing to find out."""
    recipe = eval_recipe(run)
    if recipe is None:
        raise InputError(f"{run.recipe}: not a run of eval; name the folder of one")
    (spec,) = recipe.measure
    if spec.pictures == "description":
        raise InputError(
            f"{run.path}: asked with the description already, which the first step would add; "
            "name a run with pictures, blank ones or none"
        )
    return spec, recipe.model


def _model(asked: AskedModel, named: str | None, base_url: str | None) -> AskedModel:
    if named is not None:
        asked = _other(asked, named, base_url)
    elif base_url is not None:
        asked = asked.model_copy(update={"base_url": base_url})
    if asked.kind == "replay":
        raise InputError(
            f"{asked.path}: recorded answers, and new questions must be asked; name the model with --model"
        )
    return asked.model_copy(update={"weights": None})


def _other(asked: AskedModel, named: str, base_url: str | None) -> AskedModel:
    """A model by its flag; with the settings of `asked` where it is the same one."""
    if named == asked.path:
        return asked.model_copy(update={"base_url": base_url or asked.base_url, "weights": None})
    return AskedModel(path=named, base_url=base_url)


def _refused(
    run: RunFolder, task: Task, judge: Judge, states: Sequence[str], limit: int | None
) -> tuple[list[Sample], dict[str, list[str]]]:
    """The refused samples, and those that cannot be studied, by reason."""
    answers = [row for row in read_answers(run) if row.task == task.name]
    if not answers:
        raise InputError(f"{run.path}: no answers to {task.name}; go on with `cleareyed eval --resume` first")
    samples = by_id(task)
    rows = judge_answers(run, answers, samples, judge)
    refused = [row.id for row in rows if row.state in states and row.id in samples][:limit]
    left_out: dict[str, list[str]] = {}
    kept = []
    for name in refused:
        sample = samples[name]
        reason = sample.missing or ("" if sample.columns.get("description") else "no description of the picture")
        if reason:
            left_out.setdefault("their pictures are not there" if sample.missing else reason, []).append(name)
        else:
            kept.append(sample)
    return kept, left_out


def _begin(
    stack: ExitStack,
    recipe: StagesRecipe,
    folder: Path,
    resume: bool,
    batch: int,
    concurrency: int,
    timeout: float,
) -> tuple[RunFolder, StagesRecipe, tuple[Model, Model, Model | None]]:
    """The models, each loaded once, and the folder, made or gone on with."""
    opened: dict[str, Model] = {}
    named = {"model": recipe.model, "grader": recipe.grader, "writer": recipe.writer}
    known: dict[str, AskedModel | None] = {}
    found: dict[str, Model | None] = {}
    for part, asked in named.items():
        if asked is None:
            known[part] = found[part] = None
            continue
        key = asked.model_dump_json()
        if key not in opened:
            quiet(asked)
            opened[key] = Model(open_answerer(asked, batch), limits_of(asked, batch, concurrency, timeout))
        found[part] = opened[key]
        known[part] = asked.model_copy(update={"weights": opened[key].answerer.revision})
    recipe = recipe.model_copy(update=known)
    if resume:
        kept = open_run(folder)
        refuse_other(kept, _recipe(kept), recipe)
    else:
        kept = create_run(folder, recipe)
    model, grader = found["model"], found["grader"]
    assert model is not None and grader is not None
    return kept, recipe, (model, grader, found["writer"])


def _recipe(run: RunFolder) -> StagesRecipe:
    try:
        return StagesRecipe.model_validate(yaml.safe_load(run.recipe.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError):
        raise InputError(f"{run.recipe}: not a run of stages; name the folder of one with --out") from None


def _questions(path: Path | None, spec: AskSpec) -> dict[str, Question]:
    """From the file, or those that come with the task."""
    if path is not None:
        return read_questions(path)
    if SHIPPED.get(spec.task.name) == "benign":
        return read_questions(Path(str(files("cleareyed"))) / "assets" / "timidity-mini" / "intents.json")
    return {}


def _written(run: RunFolder) -> dict[str, Question]:
    """The questions of an earlier call."""
    path = run.path / QUESTIONS
    return read_questions(path) if path.exists() else {}


def _overrides(run: RunFolder, path: Path | None) -> dict[tuple[str, Step], Override]:
    """Those of earlier calls and those of the file, which are added to what is kept."""
    kept = run.path / OVERRIDES
    before = read_overrides(kept) if kept.exists() else {}
    if path is None:
        return before
    now = datetime.now(UTC).isoformat(timespec="seconds")
    new = {key: one.model_copy(update={"source": str(path), "at": now}) for key, one in read_overrides(path).items()}
    fresh = {key: one for key, one in new.items() if key not in before or not _alike(before[key], one)}
    with kept.open("a", encoding="utf-8") as file:
        file.write(json_lines(one.model_dump() for one in fresh.values()))
    return {**before, **fresh}


def _alike(one: Override, other: Override) -> bool:
    return (one.label, one.person, one.reason) == (other.label, other.person, other.reason)


def _labels(run: RunFolder) -> list[Label]:
    """The labels of an earlier call."""
    path = run.path / LABELS
    if not path.exists():
        return []
    try:
        return TypeAdapter(list[Label]).validate_python(
            [json.loads(line) for line in lines_of(path.read_text(encoding="utf-8"))]
        )
    except ValueError as error:
        raise InputError(f"{path}: not as cleareyed wrote it; remove it to have the answers judged again") from error


def _as_json(
    recipe: StagesRecipe,
    task: Task,
    table: Mapping[str, Part],
    found: Studied,
    left_out: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    return {
        "task": task.name,
        "run": recipe.run,
        "model": recipe.model.path,
        "grader": recipe.grader.path,
        "writer": recipe.writer.path if recipe.writer else None,
        "judge": recipe.judge,
        "states": recipe.states,
        "left_out": {reason: len(names) for reason, names in left_out.items()},
        "questions": Counter(one.author for one in found.questions.values()),
        "overruled": sum(one.overruled is not None for one in found.labels),
        "by_stimulus": {name: asdict(part) for name, part in table.items()},
        "items": [{"id": one.id, "stimulus": one.stimulus, **one.labels, "stage": one.stage} for one in found.cases],
    }


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free some space or name another") from error
