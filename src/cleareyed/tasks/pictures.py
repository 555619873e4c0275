"""The same questions with something else in the place of their pictures: controls of what a model goes by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args, overload

from PIL import Image

from cleareyed.errors import InputError
from cleareyed.tasks.task import LoadImage, Sample, Task

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
    """The task with its pictures replaced; ids, gold answers and groups stay, so that items can be compared."""
    return task if pictures == "own" else replace(task, samples=_Replaced(task.samples, pictures))


def replaced(sample: Sample, pictures: Pictures) -> Sample:
    """InputError: `description` of a sample that has none."""
    if pictures == "own":
        return sample
    if pictures == "blank":
        return replace(sample, images=tuple(BlankImage(load) for load in sample.images))
    question = sample.question
    if pictures == "description":
        question = f"{description_of(sample)} {question}"
    return replace(sample, question=question, images=())


def description_of(sample: Sample) -> str:
    """What its picture shows, in the words of those who made the task. InputError if they left none."""
    description = str(sample.columns.get("description") or "").strip()
    if not description:
        raise InputError(f"sample {sample.id}: has no description of its picture; its data need a field `description`")
    return description


@dataclass(frozen=True)
class _Replaced(Sequence[Sample]):
    samples: Sequence[Sample]
    pictures: Pictures

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        found = self.samples[index]
        if isinstance(found, Sample):
            return replaced(found, self.pictures)
        return [replaced(sample, self.pictures) for sample in found]
