"""`cleareyed preflight`: does a recipe fit on this machine, what to change if not, and how long will it take?"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from cleareyed.commands import set_up
from cleareyed.console import Display, clock, table_console
from cleareyed.errors import InputError
from cleareyed.models.ghost import ghost_vlm, outline
from cleareyed.recipe import GrpoRecipe, PretrainRecipe, SftRecipe
from cleareyed.recipe_files import load_recipe
from cleareyed.records.environment import describe_environment
from cleareyed.scoring.rewards import load_rewards
from cleareyed.tasks.catalog import load_task
from cleareyed.training.footprint import Footprint, Parameters, count_parameters, step_flops
from cleareyed.training.preflight import (
    MARGIN,
    Change,
    Scan,
    advise,
    disk_free,
    disk_needed,
    matrix_speed,
    memory_available,
    peaks,
    process_memory,
    scan,
    with_pixel_limit,
)
from cleareyed.training.trial import OutOfMemory, Trial, run_trial

HOPELESS = 2.0
"""No trial is made of what was worked out to take this many times the memory that there is."""
SHOWN = 3
"""So many of the prompts that are too long are named."""


@dataclass(frozen=True)
class Findings:
    """Memory and disk in bytes."""

    device: str
    scan: Scan
    parameters: Parameters
    computed: Footprint
    trial: Trial | None
    """None if the weights are not there, or if it did not fit."""
    peak: int
    """Measured where there was a trial, else computed."""
    available: int
    fits: bool
    """In memory, with the margin."""
    changes: list[Change]
    seconds: float | None
    """Of the whole run; None without a trial."""
    seconds_at_least: float
    """The run's arithmetic alone, at full length and at the measured speed of matrix products."""
    disk: int
    disk_free: int
    notes: list[str]

    @property
    def ready(self) -> bool:
        """Whether the run can begin as it is."""
        return self.fits and self.disk <= self.disk_free and not self.scan.too_long


def preflight(
    recipe_path: Path,
    overrides: list[str],
    *,
    data_root: Path | None,
    allow_code: bool,
    json_path: Path | None = None,
    runs: Path = Path("runs"),
) -> int:
    """Look ahead at `cleareyed train RECIPE`, print what is found, and return 0 if it can begin as it is, else 1.

    Raises:
        InputError: whatever is wrong with the recipe, the data, the model or the rewards.
    """
    recipe = load_recipe(recipe_path, overrides)
    if isinstance(recipe, PretrainRecipe):
        raise InputError(f"{recipe_path}: method is pretrain; preflight looks at recipes of grpo and sft")
    set_up(recipe.threads)
    with Display(f"preflight {recipe_path.name}") as display:
        found = look_ahead(recipe, recipe_path.parent, data_root, allow_code, runs, display.status)
    console = table_console()
    console.print(findings_table(recipe, found, str(recipe_path)))
    if found.changes:
        console.print(changes_table(found))
    for note in found.notes:
        console.print(Text(note), soft_wrap=True)
    if json_path is not None:
        content = {"ready": found.ready, **asdict(found), "environment": describe_environment(recipe.seed)}
        try:
            json_path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{json_path}: cannot be written ({error.strerror}); name another file") from error
    return 0 if found.ready else 1


def look_ahead(
    recipe: GrpoRecipe | SftRecipe, folder: Path, data_root: Path | None, allow_code: bool, runs: Path, status: Any
) -> Findings:
    """Scan, compute, try where the weights are there, and advise. `folder` is what reward files are relative to."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = load_task(recipe.task, data_root)
    if isinstance(recipe, GrpoRecipe):
        load_rewards(recipe.rewards, task.rule, allow_code, folder)
    of = outline(recipe.model)
    numbers = count_parameters(ghost_vlm(of, device))
    found = scan(recipe, task, of, status)
    status("working out the memory", 0, 1)
    footprint_of = peaks(of, found, device, process_memory())
    computed = footprint_of(recipe)
    available = memory_available(device)
    room, notes = available * (1 - MARGIN), []
    trial, stopped = None, False
    if not of.has_weights:
        notes.append(f"The weights of {recipe.model.path} are not here: all is worked out, nothing measured.")
    elif found.too_long:
        notes.append("No trial was made: the largest sample is longer than max_prompt_tokens.")
    elif computed.peak > HOPELESS * available:
        notes.append("No trial was made: by what was worked out, it could not have fitted.")
    else:
        try:
            trial = run_trial(recipe, folder, data_root, found.index, allow_code, status)
        except OutOfMemory:
            stopped = True
            notes.append("The trial ran out of memory.")
    peak = trial.reserved if trial else computed.peak
    if stopped:
        peak = max(peak, available)
    scale = peak / computed.peak  # what is worked out for changes is brought to what was seen
    fits = peak <= room and not stopped
    changes: list[Change] = []
    if not fits:
        changes = advise(
            with_pixel_limit(recipe, found, of),
            lambda one: round(footprint_of(one).peak * scale),
            peak,
            room,
            status,
            notes,
        )
        if not changes or not changes[-1].fits:
            notes.append("No change that is known here makes it fit: a smaller model, or a larger machine, would.")
    flops = step_flops(recipe, ghost_vlm(of, device), found.prompt)
    return Findings(
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        scan=found,
        parameters=numbers,
        computed=computed,
        trial=trial,
        peak=peak,
        available=available,
        fits=fits,
        changes=changes,
        seconds=recipe.steps * trial.seconds_expected + trial.seconds_measuring if trial else None,
        seconds_at_least=recipe.steps * flops / matrix_speed(device, recipe.model.dtype == "bf16"),
        disk=disk_needed(recipe, numbers),
        disk_free=disk_free(runs.absolute()),
        notes=notes,
    )


def findings_table(recipe: GrpoRecipe | SftRecipe, found: Findings, title: str) -> Table:
    """What was found, in plain words."""
    table = Table(title=Text(title), title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    seen, computed, trial = found.scan, found.computed, found.trial

    def row(name: str, text: str) -> None:
        table.add_row(Text(name), Text(text))

    verdict = "fits, and can begin as it is" if found.ready else "does not fit" if not found.fits else "cannot begin"
    row("verdict", verdict)
    row("parameters", f"{found.parameters.total:,}, of which {found.parameters.trained:,} are trained")
    looked = f"all {seen.total:,} samples" if seen.samples == seen.total else f"{seen.samples:,} of {seen.total:,}"
    about = "" if seen.counted else "about "
    images = ", ".join(f"{width} x {height} px" for width, height in seen.sizes) or "none"
    row("largest sample", f"{seen.sample_id}: {about}{seen.tokens:,} tokens; images: {images} (looked at {looked})")
    if seen.too_long:
        named = ", ".join(f"{name} ({tokens:,})" for name, tokens in seen.too_long[:SHOWN])
        more = f" and {len(seen.too_long) - SHOWN:,} more" if len(seen.too_long) > SHOWN else ""
        longest = max(tokens for _, tokens in seen.too_long)
        row("too long", f"{named}{more}: raise max_prompt_tokens to {longest} or lower model.max_pixels")
    margin = f"{gigabytes(found.available)} are free on {found.device}, of which a tenth is to stay so"
    how = "measured" if trial else "worked out"
    row("peak memory", f"{gigabytes(found.peak)} ({how}); {margin}")
    if trial and trial.reserved != trial.peak:
        row("", f"of it {gigabytes(trial.peak)} in use, the rest set aside by torch")
    parts = [f"{name} {gigabytes(size)}" for name, size in computed.held.items() if size]
    busiest = f"{computed.busiest} {gigabytes(computed.phases[computed.busiest])}"
    row("worked out", f"{gigabytes(computed.peak)}: {', '.join(parts)}, {busiest}")
    if trial and found.seconds is not None:
        row(
            "a step",
            f"{trial.seconds_expected:.3g} s at the lengths the start model writes; {trial.seconds_full:.3g} s on the "
            "largest sample at full length, which is the most",
        )
        most = clock(recipe.steps * trial.seconds_full + trial.seconds_measuring)
        measuring = clock(trial.seconds_measuring)
        row("the whole run", f"{clock(found.seconds)} expected, {measuring} of it for measurements; {most} at most")
    else:
        least = clock(found.seconds_at_least)
        row("the whole run", f"at least {least}: its arithmetic at full length, as fast as matrix products are here")
    row("disk", f"{gigabytes(found.disk)} for checkpoints; {gigabytes(found.disk_free)} are free")
    return table


def changes_table(found: Findings) -> Table:
    """What to change, one after the other."""
    table = Table(title=Text("What to change, one on top of the other, until it fits"), title_justify="left")
    for name in ("change", "peak memory", "fits", "at the cost of"):
        table.add_column(name)
    for change in found.changes:
        fits = "yes" if change.fits else "no"
        table.add_row(Text(change.setting), Text(gigabytes(change.peak)), Text(fits), Text(change.costs))
    return table


def gigabytes(count: float) -> str:
    """Bytes as GB (10^9), with three digits."""
    return f"{count / 1e9:.3g} GB"
