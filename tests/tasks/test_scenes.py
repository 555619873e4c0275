"""The world of scenes: the same today and tomorrow, never ambiguous, fast to draw."""

import itertools
import math
import time
from collections import Counter

import numpy as np
import pytest

from cleareyed.tasks.scenes.questions import (
    ASK,
    MARGIN,
    SKILLS,
    Question,
    cells_apart,
    closer_to,
    cvbench_wording,
    draw_question,
    left_of,
    nearer,
    sat_wording,
)
from cleareyed.tasks.scenes.render import render
from cleareyed.tasks.scenes.task import SEEDS, SIZES, scenes_task
from cleareyed.tasks.scenes.world import BENCH, CLEARANCE, HELD_OUT, RADII, SIDE, TRAIN, Camera, Scene, Thing


def scenes_of(split, count):
    kind = BENCH if split == "bench" else TRAIN
    for index in range(count):
        rng = np.random.default_rng([SEEDS[split], index])
        yield draw_question(rng, kind, SKILLS[index % 4])


@pytest.mark.parametrize("split", ["train", "val", "bench"])
def test_an_item_is_a_function_of_split_and_index(split):
    samples, again = scenes_task(split).samples, scenes_task(split).samples
    assert len(samples) == SIZES[split]
    for index in (0, 7, len(samples) - 1):
        a, b = samples[index], again[index]
        assert (a.id, a.question, a.answer, a.choices) == (b.id, b.question, b.answer, b.choices)
        assert a.images[0]().tobytes() == b.images[0]().tobytes()
    assert samples[-1].id == samples[len(samples) - 1].id
    assert [s.id for s in samples[2:5]] == [samples[i].id for i in (2, 3, 4)]
    with pytest.raises(IndexError):
        samples[len(samples)]


def test_the_bench_list_is_fixed():
    """A change here changes every recorded figure."""
    first = scenes_task("bench").samples[1]
    assert first.question.startswith("Is the blue cone to the left or to the right of the orange cube?")
    assert (first.answer, first.choices) == ("left", ("left", "right"))


@pytest.mark.parametrize("split", ["train", "bench"])
def test_answers_follow_from_the_geometry_with_a_margin(split):
    for scene, question in scenes_of(split, 400):
        named = question.things
        if question.skill == "Count":
            assert question.answer == str(sum(question.target in (t.colour, t.shape) for t in scene.things))
        elif question.skill == "Relation":
            a, b = named
            assert abs(a.x - b.x) >= MARGIN
            assert question.answer == ("left" if a.x < b.x else "right")
        elif question.skill == "Depth":
            a, b = named
            assert abs(a.z - b.z) >= MARGIN
            ranges = {t.name: scene.camera.range_to(t) for t in named}
            assert question.answer == min(ranges, key=ranges.__getitem__)
        else:
            reference, a, b = named
            straight = {t.name: math.dist((t.x, t.z), (reference.x, reference.z)) for t in (a, b)}
            assert question.answer == min(straight, key=straight.__getitem__)
            assert abs(straight[a.name] - straight[b.name]) >= MARGIN
            assert abs(cells_apart(reference, a) - cells_apart(reference, b)) >= 2


@pytest.mark.parametrize("split", ["train", "bench"])
def test_nothing_is_hidden_or_cut_off(split):
    for scene, _ in scenes_of(split, 200):
        discs = []
        for thing in scene.things:
            column, row, scale = scene.camera.project(thing.x, RADII[thing.size], thing.z)
            discs.append((column, row, scale * RADII[thing.size]))
            assert -2 <= column <= SIDE + 2
            assert 4 <= row <= SIDE - 4
        for (c, r, a), (d, s, b) in itertools.combinations(discs, 2):
            assert math.hypot(c - d, r - s) >= CLEARANCE * (a + b) - 1e-9
        assert len({t.name for t in scene.things}) == len(scene.things)


def test_ties_and_near_ties_are_not_asked():
    camera = Camera(height=20.0, distance=12.0, shift=(0.0, 0.0))
    things = (Thing("red", "cube", "large", 4.9, 4.9), Thing("blue", "ball", "large", 5.9, 5.9))
    scene = Scene(things, camera, (200, 200, 200), (100, 100, 100), False)
    assert left_of(scene, *things) is None
    assert nearer(scene, *things) is None
    assert closer_to(things[0], things[1], Thing("green", "cone", "small", 4.0, 4.0)) is None
    rng = np.random.default_rng(0)
    assert ASK["Relation"](rng, scene) is None
    assert ASK["Depth"](rng, scene) is None


def test_only_the_bench_shows_held_out_pairs():
    def seen(split):
        return {(t.colour, t.shape) for scene, _ in scenes_of(split, 400) for t in scene.things}

    assert not seen("train") & HELD_OUT
    assert not seen("val") & HELD_OUT
    assert seen("bench") >= HELD_OUT


def test_the_bench_is_shifted_in_every_stated_way():
    train, bench = ([scene for scene, _ in scenes_of(split, 200)] for split in ("train", "bench"))
    assert max(len(s.things) for s in bench) > max(len(s.things) for s in train)
    assert min(s.camera.height for s in bench) > max(s.camera.height for s in train)
    assert max(max(s.floor) for s in bench) < 153
    assert all(s.lines for s in bench)
    assert not any(s.lines for s in train)


@pytest.mark.parametrize("split", ["train", "bench"])
def test_no_answer_or_position_gives_much_away(split):
    samples = scenes_task(split).samples[:2000]
    for skill in SKILLS:
        some = [s for s in samples if s.skill == skill]
        assert len(some) == 500
        for counts in (Counter(s.choices.index(s.answer) for s in some), Counter(s.answer for s in some)):
            assert max(counts.values()) / len(some) < (0.5 if skill == "Count" else 0.6)


def test_drawing_takes_no_time_to_speak_of():
    start = time.process_time()
    for scene, _ in scenes_of("train", 100):
        render(scene)
    assert time.process_time() - start < 1.0  # 64 rollouts need 8 of them


def test_wordings():
    thing = Thing("red", "cube", "small", 1.0, 1.0)
    question = Question("Count", "How many cubes are in the image?", ("1", "2", "3"), "1", (thing,), "cube")
    assert sat_wording(question) == (
        "Answer in natural language. How many cubes are in the image? Choose between the following options: 1, 2 or 3"
    )
    assert cvbench_wording(question) == (
        "How many cubes are in the image? Select from the following choices.\n(A) 1\n(B) 2\n(C) 3"
    )
