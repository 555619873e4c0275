"""What the thought and the picture are worth: the answers of a probe's arms, item by item against the answer as it is.

An arm is the same questions answered under one change (`cleareyed.thinking.probes`). Arms are compared on the items
that both answered, and what is judged in every arm is what follows the thought, so that a gain is no gain in format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from cleareyed.evaluation.compare import verdict_of
from cleareyed.evaluation.stats import Paired, paired
from cleareyed.records.rows import AnswerRow
from cleareyed.thinking.items import Measured, share, split

AS_IS = "as-is"
CUTS = {"cut-25": 0.25, "cut-50": 0.5, "cut-75": 0.75}
"""Arms in which this share of the thought is kept."""
OTHER_THOUGHT, EMPTY_THOUGHT, NO_REASONING = "other-thought", "empty-thought", "no-reasoning"
BLANK_IMAGE, OTHER_IMAGE = "blank-image", "other-image"
THOUGHT_ARMS = (*CUTS, OTHER_THOUGHT, EMPTY_THOUGHT, NO_REASONING)
REMOVED = (EMPTY_THOUGHT, NO_REASONING)
"""The two ways of removing the thought."""
SIGHT_ARMS = (BLANK_IMAGE, OTHER_IMAGE)
ARMS = (AS_IS, *THOUGHT_ARMS, *SIGHT_ARMS)

RULE = "any-form"
"""What arms are judged by unless told otherwise: the answer wherever it is stated behind the thought."""
THINKING = 0.5
"""Thoughts count as not empty if at least this share of them is not."""

Arms = Mapping[str, Sequence[AnswerRow]]
"""The answers of a probe by arm; `as-is` among them."""
Verdict = Literal["trivial", "needed", "harmful", "no thoughts"]


@dataclass(frozen=True)
class Gain:
    """Accuracy as it is, less that of an arm, on the items both answered."""

    arm: str
    paired: Paired
    """First the arm, second as it is; `difference` and its `interval`, clustered by group, are the gain's."""


@dataclass(frozen=True)
class Necessity:
    accuracy: Mapping[str, Measured]
    """By arm, over all the items that it has."""
    gains: Mapping[str, Gain]
    """By arm."""
    thinking: Gain | None
    """The thinking gain: against the better of the two arms without a thought. None if neither was asked."""
    with_thought: float
    """Share of the answers as they are whose thought is not empty."""
    verdict: Verdict | None
    """None without a thinking gain."""
    tokens: Mapping[str, float]
    """By arm, pictures' too: mean tokens of its completions, what was put there included. They show whether a prompt
    that asks for no thought was answered by thinking in the open."""

    @property
    def sentence(self) -> str:
        """What the verdict says, in words."""
        if self.thinking is None or self.verdict is None:
            return "Whether the thoughts are needed was not measured."
        found = self.thinking.paired
        gain = (
            f"the thinking gain of {100 * found.difference:+.1f} points "
            f"({100 * found.interval.low:+.1f} to {100 * found.interval.high:+.1f}, n = {found.n}, against "
            f"{self.thinking.arm})"
        )
        match self.verdict:
            case "trivial":
                return f"The thoughts are trivial: {gain} includes 0 while thoughts are not empty."
            case "needed":
                return f"The thoughts are needed: {gain} is above 0."
            case "harmful":
                return f"The thoughts do harm: {gain} is below 0."
            case "no thoughts":
                share_of = f"{100 * self.with_thought:.1f} %"
                return f"There are no thoughts to speak of ({share_of} of them are not empty); {gain}."


def necessity(arms: Arms, rule: str = RULE) -> Necessity:
    """Is the thought needed, or trivial?

    The thinking gain is taken against the better of the two arms without a thought, an empty one and the prompt that
    asks for none; the better is chosen on the same items, which makes the gain too small rather than too large.
    Thoughts are trivial if the gain's 95 % interval includes 0 while at least half of the thoughts are not empty
    (VisualThinker-R1-Zero, arXiv 2503.05132, section 5, calls such trajectories trivial by example, Figure 3). With
    few items an interval includes 0 easily: read it with its width. InputError: answers not judged under `rule`.
    """
    gains = {arm: found for arm in THOUGHT_ARMS if (found := gain(arms, arm, rule)) is not None}
    thinking = min(
        (gains[arm] for arm in REMOVED if arm in gains), key=lambda one: one.paired.difference, default=None
    )
    thoughts = [split(row.completion)[1] for row in arms.get(AS_IS, ())]
    filled = sum(bool(thought and thought.strip()) for thought in thoughts) / len(thoughts) if thoughts else 0.0
    verdict: Verdict | None = None
    if thinking is not None:
        interval = thinking.paired.interval
        verdict = "needed" if interval.low > 0 else "harmful" if interval.high < 0 else "trivial"
        verdict = verdict if filled >= THINKING else "no thoughts"
    tokens = {
        arm: mean(known)
        for arm in ARMS
        if (known := [n for row in arms.get(arm, ()) if (n := row.tokens) is not None])
    }
    return Necessity(_accuracy(arms, (AS_IS, *THOUGHT_ARMS), rule), gains, thinking, filled, verdict, tokens)


@dataclass(frozen=True)
class Sight:
    accuracy: Mapping[str, Measured]
    """By arm."""
    agreement: Mapping[str, Measured]
    """By arm: the share that gives the same answer as with its own picture, of those that gave one then."""
    gains: Mapping[str, Gain]
    """By arm."""
    sight: Gain | None
    """The sight gain: against the better of the two. None if neither was asked."""


def sight(arms: Arms, rule: str = RULE) -> Sight:
    """Does the model look? Accuracy and agreement with a blank picture, and with that of another sample.

    The sight gain is taken as the thinking gain is, against the better of the two arms.
    """
    gains = {arm: found for arm in SIGHT_ARMS if (found := gain(arms, arm, rule)) is not None}
    agreement = {arm: same for arm in SIGHT_ARMS if (same := _agreement(arms, arm, rule)) is not None}
    least = min(gains.values(), key=lambda one: one.paired.difference, default=None)
    return Sight(_accuracy(arms, (AS_IS, *SIGHT_ARMS), rule), agreement, gains, least)


def gain(arms: Arms, arm: str, rule: str = RULE) -> Gain | None:
    """Accuracy as it is less that of `arm`, paired; None if no item is in both."""
    pairs = _pairs(arms, arm)
    if not pairs:
        return None
    changed = [verdict_of(other, rule) for _, other in pairs]
    as_is = [verdict_of(own, rule) for own, _ in pairs]
    return Gain(arm, paired(changed, as_is, [own.group for own, _ in pairs]))


def _pairs(arms: Arms, arm: str) -> list[tuple[AnswerRow, AnswerRow]]:
    others = {row.sample_id: row for row in arms.get(arm, ())}
    return [(row, others[row.sample_id]) for row in arms.get(AS_IS, ()) if row.sample_id in others]


def _agreement(arms: Arms, arm: str, rule: str) -> Measured | None:
    pairs = [(own, other) for own, other in _pairs(arms, arm) if own.extracted.get(rule) is not None]
    return share(
        [own.extracted[rule] == other.extracted.get(rule) for own, other in pairs], [own.group for own, _ in pairs]
    )


def _accuracy(arms: Arms, names: Sequence[str], rule: str) -> dict[str, Measured]:
    found = {
        arm: share([verdict_of(row, rule) for row in arms.get(arm, ())], [row.group for row in arms.get(arm, ())])
        for arm in names
    }
    return {arm: measured for arm, measured in found.items() if measured is not None}
