"""Self-reflection, by three named definitions, and when it rises.

| name | a completion reflects if |
|---|---|
| `visualthinker` | it holds one of VisualThinker-R1-Zero's words |
| `understand-r1-zero` | it holds one of understand-r1-zero's phrases (and, if asked for, a grader says so too) |
| `revision` | what it states before a reflecting phrase differs from what it states behind it |

All three look at the whole completion, thought and answer, whatever tags it has. The first two are not comparable:
one word of the first is in nearly every careful answer ("check"), the second never counts "wait".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Literal

from scipy.stats import hypergeom

from cleareyed.evaluation.ranks import holm
from cleareyed.scoring.extract import extract_choice
from cleareyed.thinking.items import Item, Measured, groups_of, share

VISUALTHINKER = ("aha", "check", "possibl*", "verify", "wait", "yet")
"""The authors' words (issue 12 of turningpoint-ai/VisualThinker-R1-Zero); `*` stands for any ending."""
UNDERSTAND_R1_ZERO = (
    "recheck",
    "rethink",
    "reassess",
    "reevaluate",
    "re-evaluate",
    "reevaluation",
    "re-examine",
    "reexamine",
    "reconsider",
    "reanalyze",
    "double-check",
    "check again",
    "think again",
    "verify again",
    "go over the steps",
)
"""The phrases of sail-sg/understand-r1-zero (arXiv 2503.20783; `analysis/sr_detection.py`)."""
DEFINITIONS = ("visualthinker", "understand-r1-zero", "revision")

_WORDS = re.compile(r"\b(?:aha|check|possibl\w*|verify|wait|yet)\b", re.IGNORECASE)
_PHRASES = re.compile("|".join(re.escape(phrase) for phrase in UNDERSTAND_R1_ZERO), re.IGNORECASE)
_EITHER = re.compile(f"(?:{_PHRASES.pattern})|{_WORDS.pattern}", re.IGNORECASE)
SURE = 0.5
"""Least confidence of `extract_choice` at which a choice counts as stated: a text that names several states none."""

READ = 20_000
"""Characters at the end of a text in which a choice is looked for: a conclusion stands there."""
LOOKS = 2_000
"""Reflecting phrases of one text that `revision` goes by: the first ones, for a text without end."""

Outcome = Literal["helped", "hurt", "nothing"]


def visualthinker(text: str) -> list[str]:
    """The words of `VISUALTHINKER` in a text, in order, lower case; linear in its length.

    They count as whole words, in any case: "check" but not "checking", "unchecked" or "checkbox"; "possibl*" counts
    with any ending ("possible", "possibly"). A word ends where letters, digits and underscores do, so that "wait" is
    in "wait, no" and in "wait-and-see". The authors published the words and no rule; whole words are our reading.
    """
    return [found[0].lower() for found in _WORDS.finditer(text)]


def understand_r1_zero(text: str) -> list[str]:
    """The phrases of `UNDERSTAND_R1_ZERO` in a text, in order, lower case; linear in its length.

    They count anywhere, within words too ("rechecked"), in any case, as in the authors' script. There a response
    reflects if a grader model says so as well: `cleareyed.thinking.grade`.
    """
    return [found[0].lower() for found in _PHRASES.finditer(text)]


def stated(text: str, choices: tuple[str, ...]) -> int | None:
    """The choice that the last `READ` characters of a text state: by `extract_choice`, with confidence `SURE`."""
    if not text or text.isspace():
        return None
    found = extract_choice(text[-READ:], choices)
    return found.choice if found.confidence >= SURE else None


@dataclass(frozen=True)
class Revision:
    """A second look."""

    phrase: str
    """The reflecting phrase between the two."""
    before: str
    after: str
    """What was stated before it and behind it: choices."""
    outcome: Outcome
    """From the first statement to the last of the whole completion: wrong to right, right to wrong, or neither."""
    span: tuple[int, int]
    """Where in the text the phrase stands."""


def revision(text: str, choices: tuple[str, ...], gold: str) -> Revision | None:
    """The first reflecting phrase behind which another choice is stated than before it; None if there is none.

    Ours. Reflecting phrases are the words and phrases of both other definitions. They part the text; in each part
    the choice stated is read by `stated`, and what a phrase is compared with is the last statement before it and the
    next one behind it. A part that states no choice is passed over. `outcome` compares the first choice that the
    text states with its last, which is the answer given where the text gives one.
    """
    cuts = [match.span() for match in islice(_EITHER.finditer(text), LOOKS)]
    if not cuts or not choices:
        return None
    read = cache(lambda part: stated(part, choices))
    first = held = read(text[: cuts[0][0]])
    found: tuple[int, int, int] | None = None  # which phrase, the choice before, the choice behind
    waiting = 0  # the first phrase since the last statement
    for index, (_, start) in enumerate(cuts):
        end = cuts[index + 1][0] if index + 1 < len(cuts) else len(text)
        now = read(text[start:end])
        if now is None:
            continue
        if found is None and held is not None and now != held:
            found = (waiting, held, now)
        first, held, waiting = now if first is None else first, now, index + 1
    if found is None or first is None or held is None:
        return None
    index, before, after = found
    was, ended = choices[first] == gold, choices[held] == gold
    outcome: Outcome = "helped" if ended and not was else "hurt" if was and not ended else "nothing"
    return Revision(text[slice(*cuts[index])].lower(), choices[before], choices[after], outcome, cuts[index])


@dataclass(frozen=True)
class Reflection:
    """Of some items."""

    rates: Mapping[str, Measured | None]
    """By definition: the share that reflects."""
    flags: Mapping[str, Sequence[bool | None]]
    """By definition, one an item; None where the item is excluded from it."""
    helped: int
    hurt: int
    nothing: int
    """Revisions by outcome."""
    other_language: int
    """Items left out of all three: their language is not the keywords'."""
    without_choices: int
    """Items left out of `revision` alone."""


def reflection(items: Sequence[Item], graded: Sequence[bool | None] | None = None) -> Reflection:
    """The three definitions over N items.

    `graded` (N,), if given, is the grader's word on each (`cleareyed.thinking.grade`): `understand-r1-zero` then asks
    for both, and leaves out items on which there is none.
    """
    if graded is not None and len(graded) != len(items):
        raise ValueError(f"{len(graded)} gradings of {len(items)} items")
    revisions = [revision(item.text, item.choices, item.gold) if item.english else None for item in items]
    words = [bool(_WORDS.search(item.text)) if item.english else None for item in items]
    phrases: list[bool | None] = [bool(_PHRASES.search(item.text)) if item.english else None for item in items]
    if graded is not None:
        phrases = [
            phrase if not phrase else says for phrase, says in zip(phrases, graded, strict=True)
        ]  # the grader is asked only where a phrase stands
    flags: dict[str, list[bool | None]] = {
        "visualthinker": words,
        "understand-r1-zero": phrases,
        "revision": [
            found is not None if item.english and item.choices else None
            for item, found in zip(items, revisions, strict=True)
        ],
    }
    groups = groups_of(items)
    outcomes = [found.outcome for found in revisions if found is not None]
    return Reflection(
        rates={
            name: share(
                [flag for flag in of if flag is not None],
                [group for group, flag in zip(groups, of, strict=True) if flag is not None],
            )
            for name, of in flags.items()
        },
        flags=flags,
        helped=outcomes.count("helped"),
        hurt=outcomes.count("hurt"),
        nothing=outcomes.count("nothing"),
        other_language=sum(not item.english for item in items),
        without_choices=sum(item.english and not item.choices for item in items),
    )


@dataclass(frozen=True)
class Rise:
    """Whether and when a rate rises above where it began."""

    start: int
    """The step compared with: the first."""
    step: int | None
    """The first later step at which it is above; None if it never is."""
    lasts: bool
    """Whether it is still above at the last step."""
    rates: Sequence[tuple[int, int, int]]
    """(step, how many reflect, of how many)."""
    p: Sequence[float]
    """One-sided exact p of each later step, adjusted by Holm over them."""


def rise(counts: Sequence[tuple[int, int, int]], alpha: float = 0.05) -> Rise:
    """The first step at which a rate is above its rate at the first step, and whether it is still so at the last.

    `counts` are (step, hits, n) in the order of steps. Each later step is compared with the first by Fisher's exact
    test, one-sided (Fisher 1935, section 21.02): the chance of so many hits there or more if both had one rate. Holm
    over the later steps. The test takes items as independent: for a probe set asked at every step, whose items go
    together, it is too careful, and for rollouts of the same prompts not careful enough. ValueError if no step is
    given, or hits are not in 0..n.
    """
    if not counts or any(not 0 <= hits <= n for _, hits, n in counts):
        raise ValueError(f"needs steps with 0 <= hits <= n: {list(counts)}")
    (start, hits, n), *later = counts
    p = holm([fisher_greater(more, of, hits, n) for _, more, of in later])
    above = [step for (step, _, _), value in zip(later, p, strict=True) if value <= alpha]
    return Rise(start, above[0] if above else None, bool(p) and p[-1] <= alpha, tuple(counts), tuple(p))


def fisher_greater(hits: int, n: int, base_hits: int, base_n: int) -> float:
    """One-sided p that `hits` of `n` is no higher a rate than `base_hits` of `base_n`: P(X >= hits), hypergeometric.

    1.0 if either has no items.
    """
    if not n or not base_n:
        return 1.0
    return float(min(1.0, hypergeom.sf(hits - 1, n + base_n, hits + base_hits, n)))


def rises(by_step: Mapping[int, Reflection], alpha: float = 0.05) -> dict[str, Rise]:
    """`rise` by definition, from the reflection at each step."""
    found = {}
    for name in DEFINITIONS:
        counts = []
        for step in sorted(by_step):
            flags = [flag for flag in by_step[step].flags[name] if flag is not None]
            counts.append((step, sum(flags), len(flags)))
        found[name] = rise(counts, alpha)
    return found


def examples(items: Sequence[Item], flags: Sequence[bool | None], count: int = 3) -> list[Item]:
    """The first `count` items that reflect, in their order: chosen by place, never by the outcome."""
    return [item for item, flag in zip(items, flags, strict=True) if flag][:count]
