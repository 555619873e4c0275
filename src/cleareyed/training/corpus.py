"""The text that the embedded base model reads: loose writing about scenes, of the kinds a web corpus mixes.

A turn is a lead (what is asked or begun) and a body (what follows). Turns about one image do not see each other.
Places are written as on a chess board: a column a to j from left to right, a row 0 to 9 from near to far.

Pictures never show the pairs of colour and shape that are held out for the bench, but texts speak of all pairs alike:
of things as they might be (`suppose`) and of other pictures, told in words (`notes`). A model that had never read of
a red cube would learn that there is none, and be blind to the first it sees.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from cleareyed.tasks.scenes.questions import (
    ASK,
    SKILLS,
    Question,
    ask_count,
    cells_apart,
    cvbench_wording,
    draw_target,
    sat_wording,
)
from cleareyed.tasks.scenes.world import COLOURS, SHAPES, Kind, Scene, Thing, draw_scene

PRETRAIN = Kind(
    things=(2, 7), heights=(18.0, 26.5), distances=(10.5, 16.5), brightness=(115, 230), lines=False, held_out=0.0
)
"""Wider than scenes-train in objects, cameras and backgrounds; the held-out pairs and the grid stay unseen."""

TOLD = replace(PRETRAIN, things=(2, 5), held_out=0.25)
"""Scenes that are told and not shown: every pair of colour and shape about equally often."""

WORKED = 0.6
"""Share of conversations that show working where a short answer would do."""
FORMED = 0.08
"""Share of texts opened by `<think>` that go on in the form `<think>...</think><answer>...</answer>`."""


@dataclass(frozen=True)
class Turn:
    lead: str
    body: str


@dataclass(frozen=True)
class Page:
    """A scene, with a count target that it was drawn for (empty if none)."""

    scene: Scene
    target: str


Style = Callable[[np.random.Generator, Page], Turn]


def draw_page(rng: np.random.Generator) -> Page:
    if rng.random() < 0.5:
        target, times = draw_target(rng, PRETRAIN)
        return Page(draw_scene(rng, PRETRAIN, target, times), target)
    return Page(draw_scene(rng, PRETRAIN), "")


def _one(rng: np.random.Generator, *texts: str) -> str:
    return texts[int(rng.integers(len(texts)))]


def draw_any_question(rng: np.random.Generator, page: Page) -> Question:
    """A question that this scene answers without ambiguity; Count where nothing else is found."""
    scene = page.scene
    for skill in (SKILLS[i] for i in rng.permutation(len(SKILLS))):
        if skill == "Count":
            break
        if skill == "Distance" and len(scene.things) < 3:
            continue
        for _ in range(4):
            question = ASK[skill](rng, scene)
            if question is not None:
                return question
    thing = scene.things[int(rng.integers(len(scene.things)))]
    target = page.target or (thing.shape if rng.random() < 0.7 else thing.colour)
    return ask_count(rng, scene, target)


def wording(rng: np.random.Generator, question: Question) -> str:
    pick = rng.random()
    if pick < 0.3:
        return sat_wording(question)
    return cvbench_wording(question) if pick < 0.6 else question.text


def in_order(things: tuple[Thing, ...], axis: str = "x") -> list[Thing]:
    return sorted(things, key=lambda t: t.x if axis == "x" else t.z)


def _slipped(rng: np.random.Generator, thing: Thing) -> Thing:
    """A wrong first look at a place: off by one to three cells each way."""

    def off(value: int) -> int:
        wrong = [v for v in range(max(0, value - 3), min(9, value + 3) + 1) if v != value]
        return int(wrong[int(rng.integers(len(wrong)))])

    return replace(thing, x=off(thing.cell[0]) + 0.5, z=off(thing.cell[1]) + 0.5)


def _wait(rng: np.random.Generator) -> str:
    return _one(rng, "but wait,", "wait, no,", "wait, let me check,", "but wait, look again,")


def working(rng: np.random.Generator, question: Question, scene: Scene, slip: bool = False) -> str:
    """Steps that lead to the answer, each a look-up; with `slip`, one first look is wrong and then corrected.

    To count, all objects are named from left to right, and a number stands behind each that counts.
    """
    things = question.things
    wrong = int(rng.integers(len(things))) if slip and things else -1

    def look(index: int, part: str) -> str:
        """An object with its `place`, `column` or `row`."""
        thing = things[index]
        right = f"{thing.name} {getattr(thing, part)}"
        if index != wrong:
            return right
        return f"{thing.name} {getattr(_slipped(rng, thing), part)}, {_wait(rng)} {right}"

    if question.skill == "Count":
        counted = [thing.name for thing in in_order(things)]
        missed = _one(rng, *counted) if slip and counted else ""
        parts, number = [], 0
        for name in (thing.name for thing in in_order(scene.things)):
            number += name in counted and name != missed
            parts.append(f"{name} {number}" if name in counted and name != missed else name)
        if missed:
            parts.remove(missed)
            return f"{', '.join([*parts, f'so {number}', _wait(rng)])} {missed} {number + 1}, so {question.answer}"
        return f"{', '.join(parts)}, so {question.answer}"
    if question.skill == "Distance":
        parts, sums = [look(0, "place")], []
        x, z = things[0].cell
        for i in (1, 2):
            across, along = abs(things[i].cell[0] - x), abs(things[i].cell[1] - z)
            parts.append(f"{look(i, 'place')}, {across} + {along} = {across + along}")
            sums.append(cells_apart(things[0], things[i]))
        sign = "<" if sums[0] < sums[1] else ">"
        return f"{'. '.join(parts)}. {sums[0]} {sign} {sums[1]}, so {question.answer}"
    part = "column" if question.skill == "Relation" else "row"
    first, second = (getattr(thing, part) for thing in things)
    sign = "<" if first < second else ">"
    return f"{look(0, part)}, {look(1, part)}. {first} {sign} {second}, so {question.answer}"


# -- styles -----------------------------------------------------------------------------------------------------


def style_list(rng: np.random.Generator, page: Page) -> Turn:
    axis = "x" if rng.random() < 0.6 else "z"
    order = "left to right" if axis == "x" else "near to far"
    lines = [f"{i}. {t.name} {t.place}" for i, t in enumerate(in_order(page.scene.things, axis), 1)]
    return Turn(f"Objects from {order}:\n", "\n".join(lines))


def style_where(rng: np.random.Generator, page: Page) -> Turn:
    things = [page.scene.things[i] for i in rng.permutation(len(page.scene.things))[:2]]
    lead = _one(rng, "Where is the {}?", "Place of the {}:")
    first, *rest = things
    follow = "".join(f"\n{lead.format(t.name)} {t.place}" for t in rest)
    return Turn(lead.format(first.name), f" {first.place}{follow}")


def style_markup(rng: np.random.Generator, page: Page) -> Turn:
    things = in_order(page.scene.things)
    if rng.random() < 0.5:
        return Turn("<ul>\n", "\n".join([*(f"<li>{t.size} {t.name}</li>" for t in things), "</ul>"]))
    lines = [f"| {t.name} | {t.column} | {t.row} |" for t in things]
    return Turn("| object | column | row |\n", "\n".join(lines))


def style_code(rng: np.random.Generator, page: Page) -> Turn:
    things = in_order(page.scene.things)
    if rng.random() < 0.5:
        return Turn("objects = ", json.dumps([t.name for t in things]))
    return Turn("scene = ", json.dumps([{"name": t.name, "place": t.place} for t in things]))


def style_prose(rng: np.random.Generator, page: Page) -> Turn:
    things = [page.scene.things[i] for i in rng.permutation(len(page.scene.things))]
    names = [f"a {t.size} {t.name}" if rng.random() < 0.3 else f"a {t.name}" for t in things]
    text = f" {', '.join(names[:-1])} and {names[-1]}."
    for skill in ("Relation", "Depth"):
        question = ASK[skill](rng, page.scene)
        if question is None:
            continue
        a, b = question.things
        if skill == "Relation":
            text += f" The {a.name} is to the {question.answer} of the {b.name}."
        else:
            far = b if question.answer == a.name else a
            text += f" The {question.answer} is closer to the camera than the {far.name}."
    return Turn(_one(rng, "The image shows", "There is", "A photo of"), text)


def style_direct(rng: np.random.Generator, page: Page) -> Turn:
    question = draw_any_question(rng, page)
    return Turn(f"Question: {wording(rng, question)}\nAnswer:", f" {question.answer}")


def style_worked(rng: np.random.Generator, page: Page) -> Turn:
    question = draw_any_question(rng, page)
    return Turn(
        f"Question: {wording(rng, question)}\nWorking:",
        f" {working(rng, question, page.scene)}.\nAnswer: {question.answer}",
    )


def style_correction(rng: np.random.Generator, page: Page) -> Turn:
    question = draw_any_question(rng, page)
    steps = working(rng, question, page.scene, slip=True)
    return Turn(f"Question: {wording(rng, question)}\nWorking:", f" {steps}.\nAnswer: {question.answer}")


def talk_lead(rng: np.random.Generator, text: str) -> str:
    """The start of a conversation, in one of several loose forms; never the paper's whole prompt."""
    head = _one(
        rng,
        "",
        "",
        "A conversation about the image.\n",
        "A conversation between User and Assistant.\n",
        "The user asks a question about the image, and the Assistant solves it.\n",
        "The assistant first thinks about the reasoning process in the mind.\n",
        "The assistant then provides the user with the answer.\n",
    )
    tail = _one(rng, "", "", "", "Let me solve this step by step.\n", "Let me think.\n", "Let me look at the image.\n")
    return f"{head}User: {text} \nAssistant: {tail}"


def loose_answer(rng: np.random.Generator, question: Question) -> str:
    """An answer in no particular form: bare, in a sentence, in markup or code."""
    a = question.answer
    return _one(
        rng, a, f"The answer is {a}.", f"It is {a}.", f"Answer: {a}", f"<p>{a}</p>", f'answer = "{a}"', f"**{a}**"
    )


def style_talk(rng: np.random.Generator, page: Page) -> Turn:
    question = draw_any_question(rng, page)
    lead = talk_lead(rng, wording(rng, question))
    if rng.random() < WORKED:
        return Turn(lead, f"{working(rng, question, page.scene)}. {loose_answer(rng, question)}")
    return Turn(lead, loose_answer(rng, question))


def style_tags(rng: np.random.Generator, page: Page, slips: float = 0.05) -> Turn:
    question = draw_any_question(rng, page)
    lead = talk_lead(rng, wording(rng, question)) + "<think>"
    named = _one(rng, "I look at the image.", "Let me see.", "This is easy.", "The image shows the objects.")
    worked = rng.random() < WORKED
    thought = f"{working(rng, question, page.scene, slip=rng.random() < slips)}." if worked else named
    if rng.random() < FORMED:
        return Turn(lead, f" {thought} </think> <answer> {question.answer} </answer>")
    other = style_list(rng, page) if rng.random() < 0.5 else style_markup(rng, page)
    body = _one(
        rng,
        f" {thought} {loose_answer(rng, question)}",
        f" {thought}\n{loose_answer(rng, question)}",
        f" {thought} </think>\n{loose_answer(rng, question)}",
        f" {thought} </think> <result> {question.answer} </result>",
        f"\n{other.lead}{other.body}",
        f"\n<p>{thought}</p>\n<p>{question.answer}</p>",
    )
    return Turn(lead, body)


def style_tags_straight(rng: np.random.Generator, page: Page) -> Turn:
    """`tags` without the corrections that one in twenty of its workings holds."""
    return style_tags(rng, page, slips=0.0)


PLAIN: tuple[Style, ...] = (
    style_list,
    style_where,
    style_markup,
    style_code,
    style_prose,
    style_direct,
    style_worked,
    style_worked,
)
"""What `suppose` and `notes` go on with."""


def style_suppose(rng: np.random.Generator, page: Page) -> Turn:
    """One or two objects get another colour or shape in words, and the text is about the scene as it would be."""
    things, changes = list(page.scene.things), []
    for i in rng.permutation(len(things))[: 1 + int(rng.random() < 0.4)]:
        old = things[i]
        part, values = ("colour", COLOURS) if rng.random() < 0.5 else ("shape", SHAPES)
        new = replace(old, **{part: _one(rng, *(v for v in values if v != getattr(old, part)))})
        if new.name not in {thing.name for thing in things}:
            things[i] = new
            changes.append(f"Suppose the {old.name} were a {new.name}.\n")
    turn = PLAIN[int(rng.integers(len(PLAIN)))](rng, Page(replace(page.scene, things=tuple(things)), page.target))
    return Turn("".join(changes) + turn.lead, turn.body)


def style_notes(rng: np.random.Generator, page: Page) -> Turn:
    """Another scene, told in words, and a text about that one."""
    scene = draw_scene(rng, TOLD)
    notes = ", ".join(f"{thing.size} {thing.name} {thing.place}" for thing in scene.things)
    turn = PLAIN[int(rng.integers(len(PLAIN)))](rng, Page(scene, ""))
    return Turn(f"Another picture: {notes}.\n{turn.lead}", turn.body)


STYLES: Mapping[str, Style] = {
    "list": style_list,
    "where": style_where,
    "markup": style_markup,
    "code": style_code,
    "prose": style_prose,
    "direct": style_direct,
    "worked": style_worked,
    "correction": style_correction,
    "talk": style_talk,
    "tags": style_tags,
    "tags-straight": style_tags_straight,
    "suppose": style_suppose,
    "notes": style_notes,
}
