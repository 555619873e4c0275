"""The same questions with something else in the place of their pictures: controls of what a model goes by."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from PIL import Image

from cleareyed.errors import InputError
from cleareyed.tasks.task import MISSING, LoadImage, Made, Sample, Task

Pictures = Literal["own", "blank", "none", "description"]
"""own: as the task has them. blank: grey, of the same size. none: the question alone. description: the sample's
column `description` in front of the question, and no picture."""
GREY = (128, 128, 128)
PICTURES: tuple[Pictures, ...] = get_args(Pictures)


@dataclass(frozen=True)
class BlankImage:
    """Grey all over, of the size that the picture has when it is shown upright."""

    load: LoadImage

    def __call__(self) -> Image.Image:
        return Image.new("RGB", self.load().size, GREY)


def with_pictures(task: Task, pictures: Pictures) -> Task:
    """The task with its pictures replaced; ids, gold answers and groups stay, so that items can be compared.

    InputError: `description` of a task that has none at all.
    """
    samples = (task.samples[index] for index in range(len(task.samples)))
    if pictures == "description" and not any(_description(sample) for sample in samples):
        raise InputError(f"task {task.name}: has no description of its pictures; its data need a field `description`")
    if pictures == "own":
        return task
    return replace(task, samples=Made(len(task.samples), lambda index: replaced(task.samples[index], pictures)))


def replaced(sample: Sample, pictures: Pictures) -> Sample:
    """Without its picture a sample can be asked also where that is missing; by description only if it has one."""
    if pictures == "own":
        return sample
    if pictures == "blank":
        return replace(sample, images=tuple(BlankImage(load) for load in sample.images))
    columns = {name: value for name, value in sample.columns.items() if name != MISSING}
    question = sample.question
    if pictures == "description":
        description = _description(sample)
        question = f"{description} {question}" if description else question
        columns |= {} if description else {MISSING: "there is no description of its picture"}
    return replace(sample, question=question, images=(), columns=columns)


def _description(sample: Sample) -> str:
    return str(sample.columns.get("description") or "").strip()
