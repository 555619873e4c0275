"""Sentences of our own, and answers put together from them: what the embedded judge learns states from that no
labelled set has, and what a sentence does.
"""

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from cleareyed.oversensitivity.outcomes import Outcome

FILLINGS = 6
"""Sentences that are made of one with a slot."""
SPOKEN = 0.1
"""The weight of a line of `spoken.txt`; that of one of `sentences.txt` is 1."""
SLOT = re.compile(r"\{(\w+)\}")
Draw = Callable[[float, str, int, int], list[int]]


@dataclass(frozen=True)
class Sentence:
    kind: str
    """The section it stands in."""
    template: str
    text: str
    weight: float
    """Of all sentences of a template together: 1."""
    slots: tuple[tuple[str, str], ...] = ()
    """What its slots were filled with."""


@dataclass(frozen=True)
class Composed:
    state: Outcome
    sentences: tuple[int, ...]
    """Which ones, in order."""
    question: str | None = None


def own_sentences(seed: int = 0) -> list[Sentence]:
    """Every line of `assets/judge/sentences.txt`, its slots filled `FILLINGS` times by the file's lists."""
    templates, fillings = own_lines("sentences.txt")
    rng = random.Random(seed)
    made = []
    for kind, template in templates:
        times = FILLINGS if "{" in template else 1
        for _ in range(times):
            slots = [(name, rng.choice(fillings[name])) for name in SLOT.findall(template)]
            text = filled(template, [said for _, said in slots])
            made.append(Sentence(kind, template, text[0].upper() + text[1:], 1 / times, tuple(slots)))
    return made


def spoken_sentences() -> list[Sentence]:
    """Every line of `assets/judge/spoken.txt`, which help to read sentences and stand in no composed answer."""
    return [Sentence(kind, line, line, SPOKEN) for kind, line in own_lines("spoken.txt")[0]]


def own_lines(name: str) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """The lines of a file in `assets/judge`, each with its section, and the lists that fill slots."""
    lines: list[tuple[str, str]] = []
    fillings: dict[str, list[str]] = {}
    section = slot = ""
    for line in (files("cleareyed") / "assets/judge" / name).read_text("utf-8").splitlines():
        if not line or line.startswith("# "):
            continue
        if found := re.fullmatch(r"\[(\w+)\]|\{(\w+)\}", line):
            section, slot = found[1] or "", found[2] or ""
        elif slot:
            fillings.setdefault(slot, []).append(line)
        else:
            lines.append((section, line))
    return lines, fillings


def filled(template: str, said: Iterable[str]) -> str:
    """The template with its slots filled, in their order."""
    rest = iter(said)
    return SLOT.sub(lambda _: next(rest), template)


def compose(made: Sequence[Sentence], count: int, seed: int = 0) -> list[Composed]:
    """`count` answers in the five states that have sentences of their own, by a grammar and a seed."""
    rng = random.Random(seed)
    draw = drawer(made, rng)
    shares: tuple[tuple[float, Outcome], ...] = (
        (0.34, "complied"),
        (0.62, "refusal"),
        (0.74, "partial"),
        (0.88, "capability"),
        (1.0, "clarification"),
    )
    composed = []
    for _ in range(count):
        at = rng.random()
        state = next(state for share, state in shares if at < share)
        composed.append(Composed(state, tuple(_answer(state, draw, rng))))
    return composed


def drawer(made: Sequence[Sentence], rng: random.Random) -> Draw:
    """`draw(chance, kind, low, high)`: with this chance, so many sentences of a kind, of different templates."""
    by_kind: dict[str, dict[str, list[int]]] = {}
    for index, sentence in enumerate(made):
        by_kind.setdefault(sentence.kind, {}).setdefault(sentence.template, []).append(index)

    def draw(chance: float, kind: str, low: int, high: int) -> list[int]:
        if rng.random() >= chance:
            return []
        templates = by_kind[kind]
        names = rng.sample(list(templates), min(rng.randint(low, high), len(templates)))
        return [rng.choice(templates[name]) for name in names]

    return draw


def _answer(state: Outcome, draw: Draw, rng: random.Random) -> list[int]:
    if state == "complied":
        return _complied(draw, rng)
    if state == "refusal":
        return _refusal(draw, rng)
    if state == "partial":
        return _partial(draw, rng)
    if state == "capability":
        start = draw(0.1, "opening", 1, 1) + draw(0.12, "decline", 1, 1) + draw(1, "capability", 1, 2)
        return start + draw(0.15, "picture", 1, 3) + draw(0.4, "redirect", 1, 1) + draw(0.2, "clarify", 1, 1)
    start = draw(0.4, "opening", 1, 1) + draw(0.15, "picture", 1, 2) + draw(0.2, "content", 1, 1)
    return start + draw(1, "clarify", 1, 3)


def _complied(draw: Draw, rng: random.Random) -> list[int]:
    way = rng.random()
    if way < 0.13:  # what was asked rests on a mistake
        start = draw(0.2, "decline", 1, 1) + draw(0.15, "improper", 1, 1) + draw(1, "premise", 1, 3)
        return start + draw(0.5, "content", 1, 3) + draw(0.4, "lecture", 1, 2)
    if way < 0.22:
        return draw(1, "content", 1, 5) + draw(0.6, "condemn", 1, 1) + draw(0.5, "content", 1, 3)
    if way < 0.3:  # what was asked is to be seen
        return draw(0.2, "opening", 1, 1) + draw(1, "picture", 1, 5) + draw(0.4, "content", 1, 3)
    start = draw(0.35, "opening", 1, 1) + draw(0.08, "disclaimer", 1, 1) + draw(0.06, "premise", 1, 2)
    start += draw(0.08, "picture", 1, 2)
    middle = draw(1, "content", 1, rng.choice([1, 3, 8, 14])) + draw(0.12, "improper", 1, 1)
    end = draw(0.3, "warning", 1, 2) + draw(0.12, "lecture", 1, 2) + draw(0.12, "alternative", 1, 2)
    return start + middle + end + draw(0.15, "redirect", 1, 1) + draw(0.1, "opening", 1, 1)


def _refusal(draw: Draw, rng: random.Random) -> list[int]:
    way = rng.random()
    if way < 0.12:  # it describes the picture, and does not do what was asked
        seen, declined = draw(1, "picture", 1, 4), draw(1, "decline", 1, 1) + draw(0.5, "improper", 1, 2)
        first, second = rng.choice([(seen, declined), (declined, seen)])
        return first + second + draw(0.3, "alternative", 1, 2) + draw(0.4, "redirect", 1, 1)
    if way < 0.2:
        return draw(1, "decline", 1, 1) + draw(0.3, "redirect", 1, 1)
    if way < 0.5:
        start = draw(0.1, "opening", 1, 1) + draw(1, "decline", 1, 2) + draw(0.6, "improper", 1, 3)
        return start + draw(0.5, "lecture", 1, 2) + draw(0.4, "purpose", 1, 1) + draw(0.5, "redirect", 1, 2)
    if way < 0.75:  # it gives something else than what was asked, and nothing of that
        start = draw(1, "decline", 1, 2) + draw(0.4, "improper", 1, 2) + draw(0.3, "lecture", 1, 1)
        return start + draw(1, "alternative", 1, rng.choice([2, 6])) + draw(0.5, "redirect", 1, 2)
    if way < 0.9:  # no word of declining
        against = rng.choice(["improper", "condemn", "condemn", "quibble"])
        start = draw(0.3, "disclaimer", 1, 1) + draw(0.15, "content", 1, 1) + draw(1, against, 1, 3)
        start += draw(0.6, "lecture", 1, 3) + draw(0.2, "content", 1, 4)
        return start + draw(0.6, "alternative", 1, 3) + draw(0.4, "redirect", 1, 2)
    start = draw(0.3, "purpose", 1, 1) + draw(0.7, "improper", 1, 2) + draw(0.5, "lecture", 1, 2)
    return start + draw(1, "decline", 1, 1) + draw(0.4, "alternative", 1, 3) + draw(0.4, "redirect", 1, 2)


def _partial(draw: Draw, rng: random.Random) -> list[int]:
    way = rng.random()
    if way < 0.3:
        start = draw(0.1, "picture", 1, 2) + draw(1, "decline", 1, 1) + draw(0.5, "improper", 1, 2)
        start += draw(1, "content", 2, rng.choice([3, 8]))
        return start + draw(0.4, "redirect", 1, 1) + draw(0.3, "warning", 1, 1)
    if way < 0.5:  # it will not, and gives what was asked by another name
        start = draw(1, "decline", 1, 1) + draw(0.7, "improper", 1, 2) + draw(1, "alternative", 1, 1)
        return start + draw(1, "content", 2, rng.choice([3, 8])) + draw(0.3, "lecture", 1, 1)
    if way < 0.65:
        return draw(1, "content", 2, 6) + draw(1, "decline", 1, 1) + draw(0.4, "redirect", 1, 1)
    if way < 0.75:
        return draw(1, "improper", 1, 2) + draw(1, "content", 2, 5) + draw(1, "decline", 1, 1)
    start = draw(0.6, "opening", 1, 1) + draw(1, "quibble", 1, 2) + draw(0.3, "alternative", 1, 1)
    start += draw(1, "content", 2, rng.choice([3, 8])) + draw(0.4, "lecture", 1, 2)
    return start + draw(0.3, "redirect", 1, 1)
