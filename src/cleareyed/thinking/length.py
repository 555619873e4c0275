"""How long thoughts and answers are."""

from collections.abc import Sequence
from dataclasses import dataclass

from cleareyed.thinking.items import CountTokens, Item, Measured, groups_of, mean, share


@dataclass(frozen=True)
class Lengths:
    """Of some items; None where nothing could be measured."""

    unit: str
    """`tokens` of the model's tokenizer, or `words` where there is none at hand."""
    thought: Measured | None
    """Over the items that have a thought, empty ones among them."""
    answer: Measured | None
    """Over all items."""
    whole: Measured | None
    """Tokens of the whole completion as recorded, the ending one included, over the items that have the figure."""
    cut_off: Measured | None
    """Share that ran into the longest length."""


@dataclass(frozen=True)
class LengthsByVerdict:
    all: Lengths
    right: Lengths
    wrong: Lengths


def lengths(items: Sequence[Item], count: CountTokens | None = None) -> LengthsByVerdict:
    """Length of thought and of answer, of all items, the right ones and the wrong ones.

    VisualThinker-R1-Zero (arXiv 2503.05132, Figure 1) plots the mean length of whole responses, `whole` here. The
    tags count as neither thought nor answer. Without `count`, parts are counted in words parted by white space.
    """
    return LengthsByVerdict(
        _lengths(items, count),
        _lengths([item for item in items if item.correct], count),
        _lengths([item for item in items if not item.correct], count),
    )


def _lengths(items: Sequence[Item], count: CountTokens | None) -> Lengths:
    size = count or (lambda text: len(text.split()))
    thinking = [item for item in items if item.thought is not None]
    counted = [item for item in items if item.tokens is not None]
    return Lengths(
        unit="tokens" if count else "words",
        thought=mean([float(size(item.thought or "")) for item in thinking], groups_of(thinking)),
        answer=mean([float(size(item.answer)) for item in items], groups_of(items)),
        whole=mean([float(item.tokens or 0) for item in counted], groups_of(counted)),
        cut_off=share([item.cut_off for item in items], groups_of(items)),
    )
