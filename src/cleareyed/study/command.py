"""What `cleareyed study` does: run, status, preflight, report."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from cleareyed.console import Display, clock, table_console
from cleareyed.errors import InputError
from cleareyed.recipe import GrpoRecipe, PretrainRecipe, SftRecipe
from cleareyed.records.run import RunFolder, read_metrics
from cleareyed.study.plan import PlannedRun, open_study
from cleareyed.study.run import done, is_held, run_study, summary_of, trained
from cleareyed.study.summary import RunSummary, read_summary


def run_command(
    path: Path,
    overrides: Sequence[str],
    runs: Path,
    only: Sequence[str],
    seeds: Sequence[int],
    data_root: Path | None,
    allow_code: bool,
) -> int:
    """0 if nothing failed, else 1."""
    study = open_study(path, runs, overrides)
    console = table_console()

    def say(text: str) -> None:
        console.print(Text(f"[{study.name}] {text}"), soft_wrap=True)

    failed = run_study(study, study.chosen(only, seeds), data_root, allow_code, say)
    say(f"{failed} runs failed" if failed else f"cleareyed study report {path} --runs {runs} writes the report")
    return 1 if failed else 0


def status_command(
    path: Path, overrides: Sequence[str], runs: Path, only: Sequence[str], seeds: Sequence[int]
) -> None:
    study = open_study(path, runs, overrides)
    chosen = study.chosen(only, seeds)
    summaries = [read_summary(run.summary) for run in study.runs if run.summary.is_file() and done(run)]
    table = Table(title=Text(f"{study.name}: {study.spec.about}"), title_justify="left")
    for name in ("run", "state", "steps", "time"):
        table.add_column(name, no_wrap=True)
    left, unknown, finished = 0.0, 0, 0
    for run in chosen:
        steps, expected = _steps_done(run), expected_seconds(run, summaries)
        if done(run):
            finished += 1
            spent = sum(read_summary(run.summary).seconds.values())
            table.add_row(Text(run.name), "done", f"{run.steps}", clock(spent))
            continue
        state = "running" if is_held(run) else "interrupted" if run.folder.exists() else "missing"
        if expected is None:
            unknown += 1
            time_text = "not known yet"
        else:
            rest = max(0.0, expected * (1 - 0.8 * steps / run.steps)) if run.steps else expected
            left += rest
            time_text = f"about {clock(rest)} left"
        table.add_row(Text(run.name), state, f"{steps}/{run.steps}", time_text)
    console = table_console()
    console.print(table)
    more = f", and {unknown} runs of which no like has been seen" if unknown else ""
    console.print(f"{finished} of {len(chosen)} runs done; about {clock(left)} left one after the other{more}")


def expected_seconds(run: PlannedRun, summaries: Sequence[RunSummary]) -> float | None:
    """The mean of the arm's finished runs, else of those of the same method, by steps; None if there are none."""
    method = run.recipe.method if run.recipe else "none"
    same = [one for one in summaries if one.arm == run.arm.name] or [one for one in summaries if one.method == method]
    if not same:
        return None
    return sum(sum(one.seconds.values()) * max(run.steps, 1) / max(one.of_steps, 1) for one in same) / len(same)


def preflight_command(
    path: Path, overrides: Sequence[str], runs: Path, only: Sequence[str], data_root: Path | None, allow_code: bool
) -> int:
    """0 if every arm can begin as it is, else 1."""
    from cleareyed.commands import set_up
    from cleareyed.preflight_command import changes_table, findings_table, look_ahead

    study = open_study(path, runs, overrides)
    console, ready, seconds, unmeasured = table_console(), True, 0.0, []
    chosen = study.chosen(only)
    for arm in study.spec.arms:
        of_arm = [run for run in chosen if run.arm.name == arm.name and run.recipe is not None]
        recipe = of_arm[0].recipe if of_arm else None
        if recipe is None or of_arm[0].recipe_path is None:
            continue
        if isinstance(recipe, PretrainRecipe):
            console.print(Text(f"{arm.name}: pretrains; nothing is worked out for that"), soft_wrap=True)
            unmeasured.append(arm.name)
            continue
        recipe = _begun(of_arm[0], recipe)
        set_up(recipe.threads)
        with Display(f"preflight {arm.name}") as display:
            found = look_ahead(recipe, of_arm[0].recipe_path.parent, data_root, allow_code, runs, display.status)
        ready = ready and found.ready
        title = f"{arm.name}: {arm.about} ({len(of_arm)} {'run' if len(of_arm) == 1 else 'runs'})"
        console.print(findings_table(recipe, found, title))
        if found.changes:
            console.print(changes_table(found))
        for note in found.notes:
            console.print(Text(note), soft_wrap=True)
        seconds += len(of_arm) * (found.seconds or found.seconds_at_least)
        if found.seconds is None:
            unmeasured.append(arm.name)
    least = "at least " if unmeasured else ""
    console.print(f"training, one run after the other: {least}{clock(seconds)}; measuring and probing not counted")
    return 0 if ready else 1


def report_command(path: Path, overrides: Sequence[str], runs: Path, data_root: Path | None) -> None:
    from cleareyed.study.report import write_report

    study = open_study(path, runs, overrides)
    found = {run.name: summary for run in study.runs if (summary := summary_of(study, run, data_root))}
    if not found:
        raise InputError(f"{study.folder}: nothing has been run yet; begin with cleareyed study run {path}")
    page = write_report(study, found)
    table_console().print(Text(f"report: {page}"), soft_wrap=True)


def _begun(run: PlannedRun, recipe: GrpoRecipe | SftRecipe) -> GrpoRecipe | SftRecipe:
    """The recipe with a start that is there: that of the arm it starts from, if need be."""
    while run.source is not None and not trained(run.source):
        run = run.source
        if isinstance(run.recipe, GrpoRecipe | SftRecipe):
            start = recipe.model.model_copy(update={"path": run.recipe.model.path})
            recipe = recipe.model_copy(update={"model": start})
    return recipe


def _steps_done(run: PlannedRun) -> int:
    return max((int(row["step"] or 0) for row in read_metrics(RunFolder(run.folder))), default=0)
