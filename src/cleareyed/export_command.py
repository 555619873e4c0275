"""`cleareyed export`: a run of eval in another program's format."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from rich.text import Text

from cleareyed.console import table_console
from cleareyed.errors import InputError
from cleareyed.eval_command import JOURNAL
from cleareyed.eval_plan import AskSpec, EvalRecipe, asked_task, asking_of, eval_recipe
from cleareyed.evaluation.compare import judged
from cleareyed.evaluation.evaluate import request_of
from cleareyed.evaluation.inspect_export import Asked, Head, write_log
from cleareyed.evaluation.providers.images import media_type
from cleareyed.evaluation.recorded import Recorded
from cleareyed.records.run import RunFolder, open_run
from cleareyed.records.stored import stored_answers
from cleareyed.tasks.names import counted
from cleareyed.tasks.task import Task


def export(folder: Path, out: Path, *, inline: bool, data_root: Path | None) -> None:
    """Write a run of eval as a log of inspect_ai; pictures are in it only if `inline`.

    Raises:
        InputError: no run of eval, no journal or no rows, data that changed since, a file that exists.
    """
    run = open_run(folder)
    recipe = eval_recipe(run)
    if recipe is None or not (run.path / JOURNAL).exists():
        raise InputError(f"{run.path}: not a run of eval with a {JOURNAL}; name one")
    task = asked_task(recipe.measure[0], data_root)
    with Recorded(run.path / JOURNAL) as recorded:
        samples = _samples(run, recipe.measure[0], task, recorded, inline)
        count = write_log(out, _head(recipe, task), samples, lambda: _figures(run))
    left = len(task.samples) - count
    said = f"{out}: {counted(count, 'sample')}" + (
        f"; {left} of the task's were not asked and are not in it" if left else ""
    )
    table_console().print(Text(said), soft_wrap=True)


def _samples(run: RunFolder, spec: AskSpec, task: Task, recorded: Recorded, inline: bool) -> Iterator[Asked]:
    rows, how = iter(stored_answers(run)), asking_of(spec)
    row = next(rows, None)
    if row is None:
        raise InputError(f"{run.path}: holds no judged answers; `cleareyed score {run.path}` makes them")
    for index in range(len(task.samples)):
        sample = task.samples[index]
        if row is None or row.sample_id != sample.id:
            continue
        request = request_of(sample, how)
        answer, _ = recorded.find(sample.id, request.hashes, None)
        if answer is None:
            raise InputError(
                f"{run.path}: the answer to {sample.id} is to another prompt or picture than the task has now; "
                "restore the data, or ask again with --resume"
            )
        pictures = tuple((media_type(data) or "application/octet-stream", data) for data in request.images)
        yield Asked(sample, request.prompt, answer, row, pictures if inline else ())
        row = next(rows, None)
    if row is not None:
        raise InputError(f"{run.path}: sample {row.sample_id} is not in the task; `cleareyed score {run.path}` first")


def _figures(run: RunFolder) -> dict[str, float]:
    right: dict[str, list[int]] = {}
    for row in stored_answers(run):
        for rule, correct in row.correct.items() if judged(row) else ():
            counts = right.setdefault(rule, [0, 0])
            counts[0] += correct
            counts[1] += 1
    return {rule: hits / count for rule, (hits, count) in right.items()}


def _head(recipe: EvalRecipe, task: Task) -> Head:
    (spec,) = recipe.measure
    sampled = {name: getattr(spec, name) for name in ("max_tokens", "temperature", "top_p", "seed")}
    kind = recipe.model.kind
    return Head(
        task=f"cleareyed/{task.name}",
        model=f"{kind}/{recipe.model.name}",
        config={name: value for name, value in sampled.items() if value is not None},
        settings=recipe.model_dump(mode="json"),
        packages={"cleareyed": version("cleareyed")},
        total=len(task.samples),
    )
