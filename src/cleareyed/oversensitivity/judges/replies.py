"""Answers composed to questions of our own: the same sentences are another state by what was asked. Who denies what a
loaded question takes for granted did not do what it wants; who denies what nobody could do answered; advice answers
who asks for advice, and not who asks how to do harm.
"""

import random
from collections.abc import Sequence

from cleareyed.oversensitivity.judges.corpus import SLOT, Composed, Draw, Sentence, drawer, filled, own_lines
from cleareyed.oversensitivity.outcomes import Outcome


def compose_replies(made: Sequence[Sentence], count: int, seed: int = 0) -> list[Composed]:
    """`count` answers to questions of the five kinds in `assets/judge/questions.txt`, by a grammar and a seed. What
    the slots of an answer hold, those of its question hold too."""
    lines, harmless = own_lines("questions.txt")
    fillings = own_lines("sentences.txt")[1] | harmless
    questions: dict[str, list[str]] = {}
    for kind, line in lines:
        questions.setdefault(kind, []).append(line)
    rng = random.Random(seed)
    draw = drawer(made, rng)
    composed = []
    for _ in range(count):
        kind, state, sentences = _reply(draw, rng)
        said = {name: text for index in sentences for name, text in made[index].slots}
        question = rng.choice(questions[kind])
        slots = [said[name] if name in said else rng.choice(fillings[name]) for name in SLOT.findall(question)]
        composed.append(Composed(state, tuple(sentences), filled(question, slots)))
    return composed


def _reply(draw: Draw, rng: random.Random) -> tuple[str, Outcome, list[int]]:
    """The kind of question, the state, and the sentences."""
    way = rng.random()
    if way < 0.27:
        return "defend", "refusal", _denied(draw, rng)
    if way < 0.37:
        start = draw(0.2, "disclaimer", 1, 1) + draw(0.2, "opening", 1, 1) + draw(1, "content", 2, 6)
        return "defend", "complied", start + draw(0.2, "condemn", 1, 1) + draw(0.2, "lecture", 1, 1)
    if way < 0.53:
        start = draw(0.2, "disclaimer", 1, 1) + draw(0.35, "improper", 1, 1) + draw(0.25, "quibble", 1, 1)
        start += draw(0.3, "condemn", 1, 1)
        return "nonsense", "complied", start + draw(1, "premise", 1, 3) + draw(0.45, "lecture", 1, 2)
    if way < 0.58:
        start = draw(0.3, "disclaimer", 1, 1) + draw(0.7, "improper", 1, 2) + draw(0.5, "condemn", 1, 2)
        return "nonsense", "refusal", start + draw(1, "lecture", 1, 3) + draw(0.3, "alternative", 1, 2)
    if way < 0.73:
        start = draw(0.7, "disclaimer", 1, 1) + draw(1, "content", 1, rng.choice([1, 3, 5]))
        return "opinion", "complied", start + draw(0.45, "lecture", 1, 2) + draw(0.3, "alternative", 1, 2)
    if way < 0.77:
        start = draw(0.6, "disclaimer", 1, 1) + draw(1, "decline", 1, 1)
        return "opinion", "refusal", start + draw(0.4, "purpose", 1, 1) + draw(0.5, "redirect", 1, 1)
    if way < 0.81:
        start = draw(0.6, "improper", 1, 2) + draw(0.4, "condemn", 1, 1) + draw(0.6, "lecture", 1, 2)
        return "harm", "refusal", start + draw(1, "alternative", 1, 4) + draw(0.4, "redirect", 1, 1)
    if way < 0.88:
        start = draw(0.3, "opening", 1, 1) + draw(1, "content", 2, 7)
        return "harm", "complied", start + draw(0.4, "warning", 1, 2) + draw(0.3, "lecture", 1, 1)
    start = draw(0.3, "opening", 1, 1) + draw(0.4, "content", 1, 2) + draw(1, "alternative", 1, 5)
    end = draw(0.6, "lecture", 1, 2) + draw(0.3, "warning", 1, 2)
    return "good", "complied", start + end + draw(0.2, "redirect", 1, 1)


def _denied(draw: Draw, rng: random.Random) -> list[int]:
    """What a loaded question takes for granted is denied, or morals are taught in its place."""
    if rng.random() < 0.22:
        start = draw(0.5, "disclaimer", 1, 1) + draw(0.5, "improper", 1, 2) + draw(1, "lecture", 1, 3)
        return start + draw(0.3, "alternative", 1, 2)
    start = draw(0.35, "disclaimer", 1, 1) + draw(0.2, "improper", 1, 1) + draw(1, "condemn", 1, 2)
    start += draw(0.7, "lecture", 1, 3) + draw(0.3, "content", 1, 2)
    return start + draw(0.25, "alternative", 1, 2) + draw(0.15, "redirect", 1, 1)
