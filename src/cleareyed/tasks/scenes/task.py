"""The tasks `scenes-train`, `scenes-val` and `scenes-bench`.

Every item is a function of (split, index): the same today and tomorrow, drawn when it is asked for. Skills take
turns. The bench differs from the training split in its objects (two in five are of colour-shape pairs never seen in
training), their number, the camera, the backgrounds and the wording. The column `thought` holds
a short sentence for `forms` of SFT (`recipes/tiny-instruct.yaml`).
"""

from functools import partial

import numpy as np

from cleareyed.tasks.scenes.questions import SKILLS, cvbench_wording, draw_question, plan, sat_wording
from cleareyed.tasks.scenes.render import render
from cleareyed.tasks.scenes.world import BENCH, TRAIN
from cleareyed.tasks.task import Made, Sample, Task

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


def scenes_task(split: str) -> Task:
    """The task `scenes-SPLIT`, split being `train`, `val` or `bench`."""
    return Task(name=f"scenes-{split}", samples=Made(SIZES[split], partial(scene_sample, split)))
