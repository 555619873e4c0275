"""Why two runs of a task differ: where on the way of the data they part.

Answers pass from prompt and pixels through the model and its parameters to a text, from the text to the extracted
answer, and from there to a verdict. For every verdict that changed, `explain` finds the first station at which the
two runs differ. What the records do not hold is called not recorded.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cleareyed.evaluation.compare import align, judged, verdict_of
from cleareyed.records.rows import AnswerRow

Cause = Literal["prompt", "pixels", "model", "parameters", "environment", "unknown", "extraction", "score"]

SETTINGS: Mapping[Cause, tuple[str, ...]] = {
    "prompt": ("style", "system"),
    "pixels": ("min_pixels", "max_pixels"),
    "model": ("model", "revision", "step", "dtype"),
    "parameters": ("max_tokens", "temperature", "top_p", "seed", "batch"),
    "environment": (
        "commit",
        *("torch", "transformers", "tokenizers", "numpy", "pillow"),
        *("python", "machine", "accelerator", "torch_threads"),
    ),
}
"""By the cause of another text that they count as."""

EXAMPLES = 5


@dataclass(frozen=True)
class Asked:
    """How the answers of one run to one task came about, as far as its records say."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """By the names in `SETTINGS`; a name that is absent is not recorded."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """By sample id: a hash of the prompt as sent; empty if not recorded."""
    pixels: Mapping[str, str] = field(default_factory=dict)
    """By sample id: a hash of the images as sent, with what was done to them; empty if not recorded."""


@dataclass(frozen=True)
class Source:
    """One station of the way, and whether the runs differ there."""

    cause: Cause
    items: int | None
    """In how many items it differs; None if the records cannot tell. For `extraction`: the same text, another
    extracted answer; for `score`: the same extracted answer, another verdict."""
    settings: Mapping[str, tuple[Any, Any]]
    """Those that differ: in the first, in the second."""
    not_recorded: tuple[str, ...]
    """What is not recorded in one run or in both."""
    examples: tuple[str, ...]
    """Ids of such items, those whose verdict changed first."""


@dataclass(frozen=True)
class Share:
    """The changed verdicts that go back to the same causes; every changed verdict is in exactly one share."""

    causes: tuple[Cause, ...]
    """More than one if they cannot be told apart without asking again. `unknown`: nothing that is recorded differs."""
    gained: tuple[str, ...]
    """Ids."""
    lost: tuple[str, ...]
    effect: float
    """What they add to second - first; the shares' effects add up to the difference."""


@dataclass(frozen=True)
class Explanation:
    n: int
    other_text: int
    """Items answered with another text, whatever the verdict."""
    other_gold: int
    """Items whose gold answer differs between the runs: the data changed."""
    sources: tuple[Source, ...]
    shares: tuple[Share, ...]
    """The largest first."""


def explain(
    first: Sequence[AnswerRow],
    second: Sequence[AnswerRow],
    asked_first: Asked,
    asked_second: Asked,
    rule: str = "strict",
    second_rule: str | None = None,
) -> Explanation:
    """Split the difference between two runs of one task into its sources.

    A verdict that changed with the text goes back to whatever differs before the text: prompt, pixels, model,
    parameters; to the environment (versions, machine) where nothing else differs, and to `unknown` where nothing
    recorded differs at all. One that changed on the same text goes back to extraction if another answer was read
    from it, else to the score. Causes that come together are named together, since only asking again could part
    them; a rule or a gold answer that differs is a cause beside those of another text.

    Raises:
        InputError: a run answers an item twice, or was not judged under its rule.
    """
    rules = (rule, second_rule or rule)
    kept = [(one, two) for one, two in align(first, second) if judged(one) and judged(two)]
    differing = {cause: _differing(names, asked_first, asked_second) for cause, names in SETTINGS.items()}
    items: dict[Cause, list[tuple[bool, str]]] = {cause: [] for cause in (*SETTINGS, "extraction", "score")}
    shares: dict[tuple[Cause, ...], tuple[list[str], list[str]]] = {}
    for one, two in kept:
        right, then = verdict_of(one, rules[0]), verdict_of(two, rules[1])
        upstream = _upstream(one, two, asked_first, asked_second, differing)
        same_text = one.completion == two.completion
        same_answer = one.extracted.get(rules[0]) == two.extracted.get(rules[1])
        after = _after_text(same_text, same_answer, one.answer == two.answer, rules[0] == rules[1])
        for cause in upstream:
            items[cause].append((right == then, one.sample_id))
        if same_text and (not same_answer or right != then):
            items["score" if same_answer else "extraction"].append((right == then, one.sample_id))
        if right != then:
            causes = (*(() if same_text else _text_causes(upstream)), *after)
            shares.setdefault(causes, ([], []))[right].append(one.sample_id)
    return Explanation(
        n=len(kept),
        other_text=sum(one.completion != two.completion for one, two in kept),
        other_gold=sum(one.answer != two.answer for one, two in kept),
        sources=tuple(
            _source(cause, found, differing.get(cause, {}), asked_first, asked_second, rules)
            for cause, found in items.items()
        ),
        shares=tuple(
            Share(causes, tuple(gained), tuple(lost), (len(gained) - len(lost)) / len(kept))
            for causes, (gained, lost) in sorted(
                shares.items(), key=lambda share: -len(share[1][0]) - len(share[1][1])
            )
        ),
    )


def _upstream(
    one: AnswerRow,
    two: AnswerRow,
    first: Asked,
    second: Asked,
    differing: Mapping[Cause, Mapping[str, tuple[Any, Any]]],
) -> list[Cause]:
    """What differs before the text of this item, in the order of the way."""
    found: set[Cause] = {cause for cause, settings in differing.items() if settings}
    sample = one.sample_id
    if one.question != two.question or _both_and_other(first.prompts, second.prompts, sample):
        found.add("prompt")
    if _both_and_other(first.pixels, second.pixels, sample):
        found.add("pixels")
    return [cause for cause in SETTINGS if cause in found]


def _text_causes(upstream: Sequence[Cause]) -> tuple[Cause, ...]:
    return tuple(cause for cause in upstream if cause != "environment") or tuple(upstream) or ("unknown",)


def _after_text(same_text: bool, same_answer: bool, same_gold: bool, same_rule: bool) -> tuple[Cause, ...]:
    """Causes of a changed verdict that lie behind the text."""
    extraction = not same_answer if same_text else not same_rule
    score = not same_gold or (same_text and same_answer)
    return (*(("extraction",) if extraction else ()), *(("score",) if score else ()))


def _differing(names: Iterable[str], first: Asked, second: Asked) -> dict[str, tuple[Any, Any]]:
    one, two = first.settings, second.settings
    return {name: (one[name], two[name]) for name in names if name in one and name in two and one[name] != two[name]}


def _both_and_other(one: Mapping[str, str], two: Mapping[str, str], sample: str) -> bool:
    return sample in one and sample in two and one[sample] != two[sample]


def _source(
    cause: Cause,
    found: list[tuple[bool, str]],
    differing: Mapping[str, tuple[Any, Any]],
    first: Asked,
    second: Asked,
    rules: tuple[str, str],
) -> Source:
    """`found`: whether the verdict stayed, and the id, of every item in which this differs."""
    names = SETTINGS.get(cause, ())
    missing = [name for name in names if name not in first.settings or name not in second.settings]
    told = not names or len(missing) < len(names)
    if cause == "prompt" and not (first.prompts and second.prompts):
        told = "style" not in missing
        missing.append("text as sent")
    if cause == "pixels":
        told = bool(first.pixels and second.pixels)
        missing += [] if told else ["images as sent"]
    if cause == "extraction" and rules[0] != rules[1]:
        differing = {"rule": rules}
    return Source(
        cause=cause,
        items=len(found) if told or found else None,
        settings=differing,
        not_recorded=tuple(missing),
        examples=tuple(sample for _, sample in sorted(found, key=lambda item: item[0])[:EXAMPLES]),
    )
