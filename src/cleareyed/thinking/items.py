"""What is studied: one answer as thought and answer, whatever record it comes from.

How a text is parted, by the tags it has (`Item.form`):

| form | tags | thought | answer |
|---|---|---|---|
| `closed` | one `<think>…</think>` | inside | all behind `</think>` |
| `empty` | the same, with nothing inside | empty | all behind `</think>` |
| `several` | more than one block | all blocks, a line break between | all behind the last `</think>` |
| `unclosed` | `<think>` without `</think>` | all behind it, up to a last `<answer>` | from there on, if so |
| `unopened` | `</think>` alone, as where the prompt opened the thought | all before the first | all behind the last |
| `none` | neither | none | all |
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from cleareyed.evaluation.compare import judged, verdict_of
from cleareyed.evaluation.stats import Interval, cluster_bootstrap, share_interval
from cleareyed.records.rows import AnswerRow, RolloutRow
from cleareyed.tasks.prompts import offered

Form = Literal["closed", "empty", "several", "unclosed", "unopened", "none"]
CountTokens = Callable[[str], int]
"""How many tokens a text has."""

OPEN, CLOSE = "<think>", "</think>"
_WORD = re.compile(r"[^\W\d_]+")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
_SAMPLED = 20_000
"""Characters from which the language is told."""
_ENGLISH, *_OTHERS = (
    frozenset(line.split())
    for line in (
        "the of and is to in that it for with as this on be are so not but which there",
        "der das und ist nicht ein eine den dem mit auf sich auch wird",
        "le la les et est une dans pas que qui du des pour sur",
        "el los las es una en que por con del para su hay",
        "il che di una per non con della sono nel gli alla",
        "os uma em que com para por na da do um não",
        "het een van niet zijn dat op te voor met aan wordt",
    )
)
"""Frequent words of English, German, French, Spanish, Italian, Portuguese and Dutch."""


@dataclass(frozen=True)
class Item:
    """One answer to study."""

    text: str
    """The completion, with what its prompt opened (such as `<think>`) in front."""
    gold: str = ""
    correct: bool = False
    choices: tuple[str, ...] = ()
    """What could be answered; empty for an open question, or where the record does not tell."""
    question: str = ""
    sample_id: str = ""
    step: int = 0
    """The training step of the weights that answered."""
    group: str = ""
    """Items that share a group are resampled together; empty: the item stands alone."""
    tokens: int | None = None
    """Of the whole completion; None where the record does not tell."""
    cut_off: bool = False
    """Whether it ran into the longest length."""

    @cached_property
    def parts(self) -> tuple[Form, str | None, str]:
        return split(self.text)

    @property
    def form(self) -> Form:
        return self.parts[0]

    @property
    def thought(self) -> str | None:
        return self.parts[1]

    @property
    def answer(self) -> str:
        return self.parts[2]

    @property
    def thinks(self) -> bool:
        """Whether there is a thought that is not empty."""
        return bool(self.thought and self.thought.strip())

    @cached_property
    def english(self) -> bool:
        return english(self.text)


def split(text: str) -> tuple[Form, str | None, str]:
    """Form, thought and answer of a completion (the table at the head of this file); linear in its length."""
    opened, closed = text.find(OPEN), text.find(CLOSE)
    if opened < 0 and closed < 0:
        return "none", None, text
    if closed < 0:
        inside = text[opened + len(OPEN) :]
        stated = inside.rfind("<answer>")
        return ("unclosed", inside, "") if stated < 0 else ("unclosed", inside[:stated], inside[stated:])
    answer = text[text.rfind(CLOSE) + len(CLOSE) :]
    if opened < 0 or opened > closed:
        return "unopened", text[:closed], answer
    blocks, at = [], opened
    while at >= 0:
        end = text.find(CLOSE, at)
        if end < 0:  # opened again behind the last block: that belongs to the answer
            break
        blocks.append(text[at + len(OPEN) : end])
        at = text.find(OPEN, end)
    thought = "\n".join(blocks)
    if not thought.strip():
        return "empty", "", answer
    return ("closed" if len(blocks) == 1 else "several"), thought, answer


def english(text: str) -> bool:
    """Whether keywords of English can be looked for in a text, told from its first 20,000 characters.

    No, if fewer than half of its letters are Latin; no, if it has three frequent words or more of one of six other
    languages, and more of them than of English. A text too short to tell, such as a row of numbers, counts as English.
    """
    words = [word.lower() for word in _WORD.findall(text[:_SAMPLED])]
    letters = sum(map(len, words))
    if not letters:
        return True
    if sum(len(_LATIN.findall(word)) for word in words) < letters / 2:
        return False
    counts = Counter(words)
    ours, *others = (sum(counts[word] for word in known) for known in (_ENGLISH, *_OTHERS))
    return not any(other >= 3 and other > ours for other in others)


def items_of_answers(
    rows: Iterable[AnswerRow], rule: str = "strict", choices: Mapping[str, Sequence[str]] | None = None
) -> list[Item]:
    """Evaluated answers as items; those without an answer to judge (filtered, refused, failed) are left out.

    `choices` are by sample id, from the task; without them they are read from a question that offers them in SAT's
    words, if the gold answer is among what is read. InputError: a row was not judged under `rule`.
    """
    known = choices or {}
    return [
        Item(
            text=row.completion,
            gold=row.answer,
            correct=verdict_of(row, rule),
            choices=tuple(known.get(row.sample_id, ())) or offered(row.question, row.answer),
            question=row.question,
            sample_id=row.sample_id,
            step=row.step,
            group=row.group,
            tokens=row.tokens,
            cut_off=row.finish == "length" or row.state == "cut-off",
        )
        for row in rows
        if judged(row)
    ]


def items_of_rollouts(rows: Iterable[RolloutRow], choices: Mapping[str, Sequence[str]] | None = None) -> list[Item]:
    """Completions of training as items, as they were judged then; those of one prompt share a group.

    `choices` as in `items_of_answers`.
    """
    known = choices or {}
    return [
        Item(
            text=row.completion,
            gold=row.answer,
            correct=row.correct,
            choices=tuple(known.get(row.sample_id, ())) or offered(row.question, row.answer),
            question=row.question,
            sample_id=row.sample_id,
            step=row.step,
            group=row.sample_id,
            tokens=row.tokens,
            cut_off=row.finish == "length",
        )
        for row in rows
    ]


def forms(items: Sequence[Item]) -> dict[str, int]:
    """How many items have which form; `other language` counts besides those that no keyword is looked for in."""
    counts: dict[str, int] = dict(Counter(item.form for item in items))
    foreign = sum(not item.english for item in items)
    return {**counts, **({"other language": foreign} if foreign else {})}


@dataclass(frozen=True)
class Measured:
    """A mean or share, its 95 % interval, and over how many items."""

    value: float
    interval: Interval
    n: int


def share(flags: Sequence[bool], groups: Sequence[str]) -> Measured | None:
    """Of `flags` (N,): Wilson's interval, or a bootstrap where items share groups. None if there are none."""
    if not flags:
        return None
    return Measured(sum(flags) / len(flags), share_interval(flags, groups), len(flags))


def mean(values: Sequence[float], groups: Sequence[str]) -> Measured | None:
    """Of `values` (N,), with a bootstrap over groups. None if there are none."""
    if not values:
        return None
    return Measured(sum(values) / len(values), cluster_bootstrap(values, groups), len(values))


def groups_of(items: Sequence[Item]) -> list[str]:
    return [item.group for item in items]
