"""A study as the list of its runs: each with its recipe as resolved, where it starts from and where it is kept."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleareyed.errors import InputError
from cleareyed.recipe import GrpoRecipe, ModelSpec, PretrainRecipe, Recipe, SftRecipe
from cleareyed.recipe_files import load_recipe, nearest, shipped_recipe
from cleareyed.study.schema import ArmSpec, StudySpec, load_study
from cleareyed.tasks.prompts import prompt_style

RULES = ("strict", "any-form", "paper-reward", "paper-eval")
"""Every answer is judged under these; claims go by the first and the second."""
FREE = ("threads", "save_every", "log_tensorboard")
"""Recipe fields that do not change what is learned."""


@dataclass(frozen=True)
class PlannedRun:
    """One seed of one arm."""

    arm: ArmSpec
    seed: int
    folder: Path
    recipe: Recipe | None
    """With the seed and the start filled in, and nothing for it to measure itself; None: nothing is trained."""
    recipe_path: Path | None
    source: "PlannedRun | None"
    """The run whose trained model it starts from."""
    model: ModelSpec
    """What is measured, once it is there."""
    training: str
    """A hash of all that decides what is learned."""
    measuring: str
    """A hash of all that decides what is measured."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def steps(self) -> int:
        return self.recipe.steps if self.recipe else 0

    @property
    def summary(self) -> Path:
        """There once the run is done."""
        return self.folder / "summary.json"


@dataclass(frozen=True)
class Study:
    path: Path
    spec: StudySpec
    folder: Path
    runs: Sequence[PlannedRun]
    """In the order in which they are run: seed by seed, what is made once before all."""

    @property
    def name(self) -> str:
        return self.path.stem

    def chosen(self, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[PlannedRun]:
        """The runs of these arms and seeds (all but optional ones if none is named), and those they start from.

        Raises:
            InputError: an arm or seed that the study does not have.
        """
        names, known = [arm.name for arm in self.spec.arms], {run.seed for run in self.runs}
        if unknown := next((name for name in only if name not in names), None):
            raise InputError(f"{self.path}: there is no arm {unknown}; {nearest(unknown, names)}")
        if strange := next((seed for seed in seeds if seed not in known), None):
            raise InputError(f"{self.path}: no run has seed {strange}; seeds are {', '.join(map(str, sorted(known)))}")
        wanted = [
            run
            for run in self.runs
            if (run.arm.name in only if only else not run.arm.optional)
            and (not seeds or run.seed in seeds or len(self.of(run.arm.name)) == 1)
        ]
        needed = {id(run) for one in wanted for run in (one, *_sources(one))}
        return [run for run in self.runs if id(run) in needed]

    def of(self, arm: str) -> list[PlannedRun]:
        return [run for run in self.runs if run.arm.name == arm]


def open_study(path: Path, runs: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file and everything it names; its runs are kept in RUNS/STUDY.

    Raises:
        InputError: anything wrong with the file, a recipe it names, an override or a prompt.
    """
    spec = load_study(path, overrides)
    folder = runs / path.stem
    by_arm: dict[str, list[PlannedRun]] = {}
    for arm in spec.arms:
        for prompt in arm.prompts:
            prompt_style(prompt)
        seeds = arm.seeds or (spec.seeds if arm.recipe else (0,))
        by_arm[arm.name] = [_planned(spec, arm, seed, folder, path, by_arm) for seed in seeds]
    made_once = [run for runs_ in by_arm.values() if len(runs_) == 1 for run in runs_]
    by_seed = [
        run for seed in spec.seeds for runs_ in by_arm.values() if len(runs_) > 1 for run in runs_ if run.seed == seed
    ]
    others = [run for runs_ in by_arm.values() for run in runs_ if len(runs_) > 1 and run.seed not in spec.seeds]
    if len(spec.seeds) == 1:
        made_once = [run for runs_ in by_arm.values() for run in runs_]
    return Study(path, spec, folder, _sources_first([*made_once, *by_seed, *others]))


def _planned(
    spec: StudySpec, arm: ArmSpec, seed: int, folder: Path, path: Path, by_arm: Mapping[str, Sequence[PlannedRun]]
) -> PlannedRun:
    own = folder / f"{arm.name}-seed{seed}"
    measuring = _hash(
        {
            "measure": [one.model_dump(mode="json") for one in spec.measure],
            "probe": spec.probe.model_dump(mode="json") if spec.probe and arm.probe else None,
            "prompts": arm.prompts,
            "rules": RULES,
        }
    )
    source = _source(arm, seed, by_arm)
    start = str(source.folder / "final") if source else spec.models.get(arm.model or "")
    if arm.recipe is None:
        assert start is not None
        model = ModelSpec(path=start)
        return PlannedRun(arm, seed, own, None, None, None, model, _hash(start), measuring)
    recipe_path = path.parent / arm.recipe
    recipe_path = recipe_path if recipe_path.is_file() else shipped_recipe(arm.recipe)
    try:
        fields = type(load_recipe(recipe_path)).model_fields
        shared = [override for override in spec.set if override.partition("=")[0].split(".")[0].strip() in fields]
        recipe = load_recipe(recipe_path, [*shared, *arm.set, f"seed={seed}"])
    except InputError as error:
        raise InputError(f"{path}: arm {arm.name}: {str(error).replace('command line: ', 'set: ')}") from None
    if isinstance(recipe, PretrainRecipe):
        if start is not None:
            raise InputError(f"{path}: arm {arm.name} pretrains and so starts from nothing; leave `model` out")
        model = ModelSpec(path=str(own / "final"))
    else:
        changes: dict[str, Any] = {"measure": ()}
        if start is not None:
            changes["model"] = recipe.model.model_copy(update={"path": start, "revision": None})
        recipe = recipe.model_copy(update=changes)
        measured = {"path": str(own / "final"), "revision": None, "lora": None}
        model = recipe.model.model_copy(update=measured)
    return PlannedRun(arm, seed, own, recipe, recipe_path, source, model, _learned(recipe, source), measuring)


def _source(arm: ArmSpec, seed: int, by_arm: Mapping[str, Sequence[PlannedRun]]) -> PlannedRun | None:
    """The run of the same seed of the arm it starts from, or the only one."""
    runs = by_arm.get(arm.model or "", ())
    same = [run for run in runs if run.seed == seed]
    if runs and not same and len(runs) > 1:
        raise InputError(f"arm {arm.name}: {arm.model} has no run of seed {seed}; give both the same seeds")
    return next(iter(same or runs), None)


def _learned(recipe: GrpoRecipe | SftRecipe | PretrainRecipe, source: PlannedRun | None) -> str:
    settings = {key: value for key, value in recipe.model_dump(mode="json").items() if key not in FREE}
    if source:  # by what was learned there, not by where it is kept
        settings["model"] = {**settings["model"], "path": source.training}
    return _hash(settings)


def _sources(run: PlannedRun) -> list[PlannedRun]:
    return [run.source, *_sources(run.source)] if run.source else []


def _sources_first(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    found: list[PlannedRun] = []
    for run in runs:
        found += [one for one in (*reversed(_sources(run)), run) if all(one is not other for other in found)]
    return found


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
