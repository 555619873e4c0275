"""Questions about scenes with exact gold answers, and the margins that keep them unambiguous.

A question is asked only if the answer is the same by the continuous geometry with a margin and by the whole-cell
places that a careful onlooker could write down:

- Relation: the two objects differ by at least MARGIN cells in x, in different cells, and by 3 pixels in the image.
- Depth: by at least MARGIN cells in z, in different cells, and the distances to the camera agree.
- Distance: the two distances to the third object differ by at least MARGIN cells straight, and by at least 2 when
  whole cells are counted along x and z.
- Count: every object is in view and hardly any covers another (`world.CLEARANCE`).
"""

import math
from dataclasses import dataclass

import numpy as np

from cleareyed.tasks.prompts import offer
from cleareyed.tasks.scenes.world import COLOURS, PLURALS, SHAPES, Kind, Scene, Thing, draw_scene

SKILLS = ("Count", "Relation", "Depth", "Distance")
MARGIN = 1.25  # cells
PIXELS = 3.0
MOST = 5
"""Most objects a Count question asks for; each count from 1 to MOST is equally frequent where the scene holds it."""


@dataclass(frozen=True)
class Question:
    """A question about a scene. `things` are the objects it names; for Count, the objects counted."""

    skill: str
    text: str
    choices: tuple[str, ...]
    answer: str
    things: tuple[Thing, ...]
    target: str = ""  # Count: the colour or shape counted


def cells_apart(a: Thing, b: Thing) -> int:
    """Whole cells between two objects, counted along x and then along z."""
    return abs(a.cell[0] - b.cell[0]) + abs(a.cell[1] - b.cell[1])


def left_of(scene: Scene, a: Thing, b: Thing) -> bool | None:
    """Whether a is left of b; None if that is too close to call."""
    columns = [scene.camera.project(t.x, 0.0, t.z)[0] for t in (a, b)]
    by_place, by_image, by_cell = b.x - a.x, columns[1] - columns[0], b.cell[0] - a.cell[0]
    if abs(by_place) < MARGIN or abs(by_image) < PIXELS or by_cell == 0 or (by_image > 0) != (by_place > 0):
        return None
    return by_place > 0


def nearer(scene: Scene, a: Thing, b: Thing) -> bool | None:
    """Whether a is closer to the camera than b; None if that is too close to call."""
    by_place, by_cell = b.z - a.z, b.cell[1] - a.cell[1]
    by_range = scene.camera.range_to(b) - scene.camera.range_to(a)
    if abs(by_place) < MARGIN or by_cell == 0 or (by_range > 0) != (by_place > 0):
        return None
    return by_place > 0


def closer_to(reference: Thing, a: Thing, b: Thing) -> bool | None:
    """Whether a is closer to `reference` than b; None if that is too close to call."""
    straight = math.hypot(b.x - reference.x, b.z - reference.z) - math.hypot(a.x - reference.x, a.z - reference.z)
    counted = cells_apart(reference, b) - cells_apart(reference, a)
    if abs(straight) < MARGIN or abs(counted) < 2 or (straight > 0) != (counted > 0):
        return None
    return straight > 0


def _pick(rng: np.random.Generator, scene: Scene, number: int) -> tuple[Thing, ...]:
    return tuple(scene.things[i] for i in rng.permutation(len(scene.things))[:number])


def ask_relation(rng: np.random.Generator, scene: Scene) -> Question | None:
    a, b = _pick(rng, scene, 2)
    left = left_of(scene, a, b)
    if left is None:
        return None
    text = f"Is the {a.name} to the left or to the right of the {b.name}?"
    choices = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    return Question("Relation", text, choices, "left" if left else "right", (a, b))


def ask_depth(rng: np.random.Generator, scene: Scene) -> Question | None:
    a, b = _pick(rng, scene, 2)
    first = nearer(scene, a, b)
    if first is None:
        return None
    text = f"Which object is closer to the camera, the {a.name} or the {b.name}?"
    return Question("Depth", text, (a.name, b.name), (a if first else b).name, (a, b))


def ask_distance(rng: np.random.Generator, scene: Scene) -> Question | None:
    reference, a, b = _pick(rng, scene, 3)
    first = closer_to(reference, a, b)
    if first is None:
        return None
    text = f"Which object is closer to the {reference.name}, the {a.name} or the {b.name}?"
    return Question("Distance", text, (a.name, b.name), (a if first else b).name, (reference, a, b))


def ask_count(rng: np.random.Generator, scene: Scene, target: str) -> Question:
    counted = tuple(t for t in scene.things if target in (t.colour, t.shape))
    number = len(counted)
    text = f"How many {PLURALS.get(target, target + ' objects')} are in the image?"
    lowest = max(0, number - int(rng.integers(0, 4)))
    choices = tuple(str(n) for n in range(lowest, lowest + 4))
    return Question("Count", text, choices, str(number), counted, target)


ASK = {"Relation": ask_relation, "Depth": ask_depth, "Distance": ask_distance}


def draw_target(rng: np.random.Generator, kind: Kind) -> tuple[str, int]:
    """What a Count question counts, and how many of it the scene shall hold."""
    target = str(rng.choice(SHAPES if rng.random() < 0.7 else COLOURS))
    most = min(MOST, kind.things[1]) if target in SHAPES else 3
    return target, int(rng.integers(1, most + 1))


def draw_question(rng: np.random.Generator, kind: Kind, skill: str) -> tuple[Scene, Question]:
    """A scene and a question of the given skill about it, drawn again until the margins hold."""
    if skill == "Count":
        target, times = draw_target(rng, kind)
        scene = draw_scene(rng, kind, target, times)
        return scene, ask_count(rng, scene, target)
    while True:
        scene = draw_scene(rng, kind)
        question = ASK[skill](rng, scene)
        if question is not None:
            return scene, question


def plan(question: Question) -> str:
    """A sentence that says how the question could be answered, and neither looks nor answers.

    Of the kind that instruction-tuned models write under the paper's prompt (arXiv 2503.05132, Figure 3).
    """
    match question.skill:
        case "Count":
            counted = PLURALS.get(question.target, f"{question.target} objects")
            return f"To find how many {counted} there are, I will count them."
        case "Relation":
            first, second = question.things
            return f"To tell where the {first.name} is, I will compare its position with that of the {second.name}."
        case "Depth":
            return "To tell which object is closer to the camera, I will compare how far away each of them is."
        case _:
            return f"To tell which object is closer to the {question.things[0].name}, I will compare the distances."


def sat_wording(question: Question) -> str:
    """The question as SAT's data asks it (VisualThinker, its code): choices in the text, no letters."""
    return f"Answer in natural language. {offer(question.text, question.choices)}"


def cvbench_wording(question: Question) -> str:
    """The question as CV-Bench's `prompt` column asks it: lettered choices on lines of their own."""
    lines = [f"({'ABCDEFGH'[i]}) {choice}" for i, choice in enumerate(question.choices)]
    return "\n".join([f"{question.text} Select from the following choices.", *lines])
