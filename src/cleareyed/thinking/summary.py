"""All measures of some answers at once, and as the curves of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from cleareyed.records.rows import AnswerRow
from cleareyed.thinking.gains import AS_IS, RULE, Arms, Necessity, Sight, necessity, sight
from cleareyed.thinking.items import CountTokens, Item, Measured, forms, items_of_answers
from cleareyed.thinking.length import LengthsByVerdict, lengths
from cleareyed.thinking.quality import Consistency, Degeneration, consistency, degeneration
from cleareyed.thinking.reflection import Reflection, reflection

Choices = Mapping[str, Sequence[str]]
"""By sample id: what could be answered."""


@dataclass(frozen=True)
class Measures:
    """Of N answers."""

    n: int
    forms: Mapping[str, int]
    """How many have which form (`cleareyed.thinking.items`)."""
    lengths: LengthsByVerdict
    reflection: Reflection
    consistency: Consistency
    degeneration: Degeneration


def measure(
    items: Sequence[Item], count: CountTokens | None = None, graded: Sequence[bool | None] | None = None
) -> Measures:
    """Length, reflection, consistency and degeneration of some answers; `count` and `graded` as in `lengths` and
    `reflection`."""
    return Measures(
        len(items),
        forms(items),
        lengths(items, count),
        reflection(items, graded),
        consistency(items),
        degeneration(items),
    )


def arms_of(rows: Sequence[AnswerRow], step: int | None = None) -> dict[str, list[AnswerRow]]:
    """Answers to probes by arm; with `step`, those of that step."""
    arms: dict[str, list[AnswerRow]] = {}
    for row in rows:
        if step is None or row.step == step:
            arms.setdefault(row.label, []).append(row)
    return arms


def curves(
    arms: Arms, count: CountTokens | None = None, choices: Choices | None = None, rule: str = RULE
) -> dict[str, float]:
    """What one probe comes to, as numbers by name (`thinking/NAME` in the metrics); what cannot be said is left out.

    Tokens of thought and answer of all, right and wrong answers; shares cut off, with a thought, that reflect by each
    definition, that revise to the better or worse; accuracy by arm, agreement by picture, both gains with the ends of
    their intervals; consistency; repeated 4-grams, compression ratio, share degenerate.
    """
    items = items_of_answers(arms[AS_IS], rule, choices)
    found = measure(items, count)
    needed, seen = necessity(arms, rule), sight(arms, rule)
    second = found.reflection
    values: dict[str, float | Measured | None] = {
        "tokens_thought": found.lengths.all.thought,
        "tokens_answer": found.lengths.all.answer,
        "tokens_thought_right": found.lengths.right.thought,
        "tokens_thought_wrong": found.lengths.wrong.thought,
        "tokens_answer_right": found.lengths.right.answer,
        "tokens_answer_wrong": found.lengths.wrong.answer,
        "share_cut_off": found.lengths.all.cut_off,
        "share_thinking": sum(item.thinks for item in items) / len(items) if items else None,
        **{f"reflection/{name}": rate for name, rate in second.rates.items()},
        "revision_helped": second.helped / len(items) if items else None,
        "revision_hurt": second.hurt / len(items) if items else None,
        "consistency": found.consistency.agree,
        "repeated_ngrams": found.degeneration.repeated,
        "compression": found.degeneration.compression,
        "share_degenerate": found.degeneration.degenerate,
        **{f"accuracy/{arm}": share for arm, share in {**needed.accuracy, **seen.accuracy}.items()},
        **{f"agreement/{arm}": share for arm, share in seen.agreement.items()},
        **_gain("thinking_gain", needed),
        **_gain("sight_gain", seen),
    }
    plain = {name: value.value if isinstance(value, Measured) else value for name, value in values.items()}
    return {name: value for name, value in plain.items() if value is not None}


def _gain(name: str, found: Necessity | Sight) -> dict[str, float]:
    gain = found.thinking if isinstance(found, Necessity) else found.sight
    if gain is None:
        return {}
    interval = gain.paired.interval
    return {name: gain.paired.difference, f"{name}_low": interval.low, f"{name}_high": interval.high}


def plain(value: Any) -> Any:
    """Measures as data for JSON: dataclasses as objects, without the flag of each item."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.name != "flags"}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
