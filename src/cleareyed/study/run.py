"""Running a study: run by run, each from where it stopped, none a second time."""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cleareyed import commands
from cleareyed.commands import Measurement, measure
from cleareyed.console import Display
from cleareyed.errors import InputError
from cleareyed.evaluation.evaluate import measured_task
from cleareyed.models.load import load_vlm
from cleareyed.models.vlm import VLM
from cleareyed.recipe import GrpoRecipe, PretrainRecipe
from cleareyed.recipe_files import load_recipe
from cleareyed.records.parts import read_answers, write_answers
from cleareyed.records.run import RunFolder, create_run, open_run
from cleareyed.report.pages import VALIDATION
from cleareyed.report.summary import write_whole
from cleareyed.scoring.rewards import load_rewards
from cleareyed.study.plan import FREE, RULES, PlannedRun, Study
from cleareyed.study.schema import MeasureSpec
from cleareyed.study.summary import PROBE, RunSummary, read_summary, summarise_run
from cleareyed.tasks.catalog import load_task
from cleareyed.tasks.names import counted
from cleareyed.tasks.prompts import prompt_style
from cleareyed.thinking.gains import AS_IS
from cleareyed.thinking.probes import probe

Say = Callable[[str], None]


def run_study(study: Study, chosen: Sequence[PlannedRun], data_root: Path | None, allow_code: bool, say: Say) -> int:
    """Do what is missing of `chosen`, in order; the number of runs that failed.

    A run that fails (its reason is said) does not keep the others from going on, but those that start from it; one
    that another process holds is passed over.

    Raises:
        InputError: data, rewards or settings that cannot be right, before anything is run.
    """
    check(study, chosen, data_root, allow_code)
    failed: list[PlannedRun] = []
    for planned in chosen:
        if planned.source in failed:
            say(f"{planned.name}: passed over, since {planned.source.name} failed")
            failed.append(planned)
        elif not done(planned):
            with held(planned) as ours:
                if not ours:
                    say(f"{planned.name}: another process is running it")
                    continue
                try:
                    do_run(study, planned, data_root, allow_code, say)
                except InputError as error:
                    say(f"{planned.name}: failed: {error}")
                    failed.append(planned)
    return len(failed)


def check(study: Study, chosen: Sequence[PlannedRun], data_root: Path | None, allow_code: bool) -> None:
    """Whether everything that runs read can be read. InputError if not."""
    for one in (*study.spec.measure, *([study.spec.probe] if study.spec.probe else [])):
        measured_task(one.task, data_root)
    for planned in chosen:
        recipe = planned.recipe
        done(planned)
        if recipe is None or isinstance(recipe, PretrainRecipe):
            continue
        prompt_style(recipe.prompt)
        task = load_task(recipe.task, data_root)
        if recipe.validate_on:
            measured_task(recipe.validate_on.task, data_root)
        if isinstance(recipe, GrpoRecipe) and planned.recipe_path:
            load_rewards(recipe.rewards, task.rule, allow_code, planned.recipe_path.parent)


def done(planned: PlannedRun) -> bool:
    """Whether the run is finished as the study asks for it.

    Raises:
        InputError: it is finished, but under other settings.
    """
    if not planned.summary.is_file():
        return False
    found = read_summary(planned.summary)
    if found.training != planned.training:
        raise InputError(
            f"{planned.summary}: this run was made with other settings than the study now asks for; "
            "put them back, or keep the new study elsewhere with --runs"
        )
    return found.finished and found.measuring == planned.measuring


def trained(planned: PlannedRun) -> bool:
    """Whether the run's model is there: `final/` is put in place whole, after the last step."""
    return planned.recipe is None or (planned.folder / "final" / "config.json").is_file()


def do_run(study: Study, planned: PlannedRun, data_root: Path | None, allow_code: bool, say: Say) -> None:
    """Train, measure, probe and sum up, each from where it stopped."""
    seconds: dict[str, float] = {}
    if planned.source and not trained(planned.source):  # its summary may be here without its weights
        say(f"{planned.source.name}: its weights are needed")
        with held(planned.source) as ours:
            if not ours:
                raise InputError(f"{planned.source.folder}: in use by another process; run this again when it ends")
            _train(planned.source, data_root, allow_code)
    with _timed(seconds, "training"):
        if not trained(planned):
            say(f"{planned.name}: {planned.arm.about}")
            _train(planned, data_root, allow_code)
    _refuse_other_settings(planned)
    run = open_run(planned.folder) if planned.folder.exists() else create_run(planned.folder, planned.model)
    _forget_other_answers(run, planned.measuring)
    commands.set_up(planned.recipe.threads if planned.recipe else None)
    vlm = load_vlm(planned.model)
    with Display(f"{study.name}: {planned.name}") as display:
        with _timed(seconds, "measuring"):
            for spec in study.spec.measure:
                for prompt in planned.arm.prompts:
                    task = measured_task(spec.task, data_root)
                    what = Measurement(task, prompt_style(prompt), spec.max_tokens, spec.batch)
                    measure(vlm, what, run, prompt, planned.steps, display, RULES)
        with _timed(seconds, "probing"):
            if study.spec.probe and planned.arm.probe:
                _probe(vlm, study.spec.probe, planned, run, data_root, display)
    summary = summarise_run(study.spec, study.name, planned, data_root, seconds)
    write_whole(planned.summary, summary.model_dump_json(indent=None) + "\n")
    for spent in (run.checkpoint, run.best):  # what is measured is final/, and nothing is left to resume
        shutil.rmtree(spent, ignore_errors=True)
    say(f"{planned.name}: done")


def summary_of(study: Study, planned: PlannedRun, data_root: Path | None) -> RunSummary | None:
    """What is known of a run: its summary once it is done, else from its records so far; None if there are none."""
    if planned.summary.is_file():
        return read_summary(planned.summary)
    if not (planned.folder / "recipe.yaml").is_file():
        return None
    return summarise_run(study.spec, study.name, planned, data_root, None)


def _train(planned: PlannedRun, data_root: Path | None, allow_code: bool) -> None:
    recipe, path, folder = planned.recipe, planned.recipe_path, planned.folder
    assert recipe is not None
    assert path is not None
    if isinstance(recipe, PretrainRecipe):
        commands.pretrain_model(recipe, path, folder=folder, resume=folder.exists())
        return
    resume, kept = (folder / "recipe.yaml").is_file(), folder.with_name(f"{folder.name}-summary.json")
    if not resume and planned.summary.is_file():  # a summary alone: a run is only made where nothing is
        planned.summary.replace(kept)
        folder.rmdir()
    commands.train(recipe, path, folder=folder, resume=resume, data_root=data_root, allow_code=allow_code)
    if kept.is_file():
        kept.replace(planned.summary)


def _refuse_other_settings(planned: PlannedRun) -> None:
    """InputError if the trained model in the folder was made by another recipe than the study now has."""
    if planned.recipe is None:
        return
    made, asked = (
        {key: value for key, value in recipe.model_dump(mode="json").items() if key not in FREE}
        for recipe in (load_recipe(planned.folder / "recipe.yaml"), planned.recipe)
    )
    if changed := next((key for key, value in asked.items() if made.get(key) != value), None):
        raise InputError(
            f"{planned.folder}: {changed} was {made.get(changed)!r} and is now {asked[changed]!r}; "
            "put it back, or keep the new study elsewhere with --runs"
        )


def _forget_other_answers(run: RunFolder, measuring: str) -> None:
    """Drop what was measured of the trained model under other settings than `measuring` is the hash of."""
    marker = run.path / "measuring"
    if marker.is_file() and marker.read_text(encoding="utf-8") != measuring:
        kept = [row for row in read_answers(run) if row.label == VALIDATION]
        shutil.rmtree(run.answers)
        run.answers.mkdir()
        write_answers(run, kept)
    write_whole(marker, measuring)


def _probe(
    vlm: VLM, spec: MeasureSpec, planned: PlannedRun, run: RunFolder, data_root: Path | None, display: Display
) -> None:
    """Answers by arm, labelled `probe/ARM`, those as they are written last; an interrupted probe is asked anew."""
    task, style = measured_task(spec.task, data_root), prompt_style(planned.arm.prompts[0])
    if any(row.label == f"{PROBE}{AS_IS}" for row in read_answers(run)):
        return
    display.note(f"probing {planned.name} on {counted(len(task.samples), 'question')}")
    found = probe(
        vlm,
        task,
        style,
        max_tokens=spec.max_tokens,
        batch=spec.batch,
        step=planned.steps,
        progress=lambda done, total: display.status("probing", done, total),
    )
    rows = [replace(row, label=f"{PROBE}{arm}") for arm, answers in reversed(found.items()) for row in answers]
    write_answers(run, rows)


@contextmanager
def held(planned: PlannedRun) -> Iterator[bool]:
    """Hold a run against other processes; False if one has it. What is held is let go of when the process ends."""
    lock = _lock_file(planned)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def is_held(planned: PlannedRun) -> bool:
    """Whether a process is at it now."""
    if not _lock_file(planned).exists():
        return False
    with held(planned) as ours:
        return not ours


def _lock_file(planned: PlannedRun) -> Path:
    return planned.folder.parent / ".locks" / planned.name


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[phase] = time.monotonic() - start
