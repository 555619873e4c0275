"""What a study is, as strict data: the schema of `studies/*.yaml`, and reading it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from cleareyed.recipe import Positive, Strict, TaskSpec
from cleareyed.recipe_files import read_yaml, validated

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]


class MeasureSpec(Strict):
    """A task that every arm's model is asked, greedily."""

    task: TaskSpec
    max_tokens: Positive = 256
    batch: Positive = 64


class ArmSpec(Strict):
    """One kind of run: a model that is measured, or a recipe that is run once a seed and then measured."""

    name: Name
    about: str
    """What it is, in a line, for the report."""
    recipe: str | None = None
    """A recipe file beside the study file, or a shipped one's name; left out: nothing is trained."""
    model: str | None = None
    """The start: a name in the study's `models`, or another arm, whose trained model it is; the recipe's own if left
    out."""
    set: tuple[str, ...] = ()
    """Overrides of the recipe, such as `optimizer.lr=1e-4`, on top of the study's own."""
    seeds: tuple[int, ...] | None = None
    """Instead of the study's, for what is made once."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    """Prompt styles in which its model is measured; the first is the one that claims go by."""
    probe: bool = True
    """Whether its thoughts are probed, in the first prompt."""
    optional: bool = False
    """Run only when named by --only, and left out of what the study is said to lack."""


class StudySpec(Strict):
    about: str
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    models: dict[str, str]
    """Name to folder, hub id or `tiny-base`."""
    set: tuple[str, ...] = ()
    """Overrides of every recipe that has the field's first part: `steps=10`; an arm's own come after them."""
    measure: Annotated[tuple[MeasureSpec, ...], Field(min_length=1)]
    """The first is the one that claims go by."""
    probe: MeasureSpec | None = None
    """What thoughts are probed on (`cleareyed.thinking.probes`)."""
    notes: tuple[str, ...] = ()
    """Sentences that the report shows under its title."""
    arms: Annotated[tuple[ArmSpec, ...], Field(min_length=1)]
    """In the order in which they are run within a seed."""

    @model_validator(mode="after")
    def _names_are_known(self) -> "StudySpec":
        names = [arm.name for arm in self.arms]
        if twice := next((name for name in names if names.count(name) > 1 or name in self.models), None):
            raise ValueError(f"`{twice}` names two things; models and arms need names of their own")
        before: set[str] = set()
        for arm in self.arms:
            if arm.recipe is None and arm.model not in self.models:
                raise ValueError(f"arm {arm.name} has no recipe, so `model` must be one of {', '.join(self.models)}")
            if arm.recipe is None and (arm.set or arm.seeds):
                raise ValueError(f"arm {arm.name} trains nothing; leave `set` and `seeds` out")
            if arm.model is not None and arm.model not in {*self.models, *before}:
                known = ", ".join((*self.models, *sorted(before)))
                raise ValueError(f"arm {arm.name} starts from `{arm.model}`, which is none of {known}")
            if arm.recipe is not None:
                before.add(arm.name)
        return self


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read a study file, apply overrides such as `seeds=[1]` or `models.base=FOLDER`, and validate it.

    Raises:
        InputError: one line with the file, the dotted field, what is wrong and the remedy.
    """
    return validated(read_yaml(path, "study", "seeds: [1, 2, 3]"), StudySpec, path, overrides)
