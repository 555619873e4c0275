"""The tasks `scenes-train`, `scenes-val` and `scenes-bench`.

Every item is a function of (split, index): the same today and tomorrow, drawn when it is asked for. Skills take
turns. The bench differs from the training split in its objects (two in five are of colour-shape pairs never seen in
training), their number, the camera, the backgrounds and the wording. The column `thought` holds
a short sentence for `forms` of SFT (`recipes/tiny-instruct.yaml`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import overload

import numpy as np

from cleareyed.tasks.scenes.questions import SKILLS, cvbench_wording, draw_question, plan, sat_wording
from cleareyed.tasks.scenes.render import render
from cleareyed.tasks.scenes.world import BENCH, TRAIN
from cleareyed.tasks.task import Sample, Task

SIZES = {"train": 20_000, "val": 1_000, "bench": 3_000}
SEEDS = {"train": 1, "val": 2, "bench": 3}


def scene_sample(split: str, index: int) -> Sample:
    """Item `index` of `split`."""
    rng = np.random.default_rng([SEEDS[split], index])
    bench = split == "bench"
    scene, question = draw_question(rng, BENCH if bench else TRAIN, SKILLS[index % len(SKILLS)])
    return Sample(
        id=f"scenes-{split}/{index:05d}",
        question=cvbench_wording(question) if bench else sat_wording(question),
        answer=question.answer,
        choices=question.choices,
        images=(partial(render, scene),),
        skill=question.skill,
        columns={"thought": plan(question)},
    )


@dataclass(frozen=True)
class SceneSamples(Sequence[Sample]):
    """The items of a split, made when indexed."""

    split: str

    def __len__(self) -> int:
        return SIZES[self.split]

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [scene_sample(self.split, i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"scenes-{self.split} has {len(self)} items, index {index} is out of range")
        return scene_sample(self.split, index % len(self))


def scenes_task(split: str) -> Task:
    """The task `scenes-SPLIT`, split being `train`, `val` or `bench`."""
    return Task(name=f"scenes-{split}", samples=SceneSamples(split))
